// SPDX-License-Identifier: BSD-2-Clause
/*
 * Which instructions make a block: from its start straight on, past conditional branches (their taken side is a side
 * exit) and through direct jumps forward, until something ends it: any other branch, an instruction after which the
 * run loop must look, the page's end, a path that comes back, the length limit, or, behind its first few instructions, one
 * that another block begins with: going on would translate the same a second time. All of it lies in one guest page.
 *
 * A short loop whose accesses move by small constants is unrolled: the same accesses of several rounds are one group, with
 * one check (group.c). The first half of the rounds is gone through once, and the other again and again.
 */
#include "softkvm/translate/translate.h"

enum { OWN_INSNS = 8, UNROLLED_INSNS = 48, UNROLLED_ROUNDS = 8 };

static bool ends_block(const struct insn *i)
{
	const struct insn_row *row = i->row;

	if (row->branch == BR_COND)
		return row->sem != SEM_JCC;
	if (row->sem == SEM_CLI || row->sem == SEM_STI || row->sem == SEM_PAUSE)
		return false; /* inline: see system.c */
	return row->branch != BR_NONE || row->attrs & INSN_END;
}

void depend_on(struct xlat *x, unsigned offset, unsigned len)
{
	unsigned last = (offset + len - 1) / 64;
	uint64_t grains = 0;
	uint32_t generation;

	for (unsigned g = offset / 64; g <= last && g < 64; g++)
		grains |= 1ull << g;
	if (!(grains & ~x->block->grains))
		return;
	x->block->grains |= grains;
	if (offset + len > 4096)
		len = 4096 - offset;
	code_page_watch(x->v, x->view->gpa + offset, len, &generation);
}

gva_t branch_target(const struct code_view *view, const struct insn *i, unsigned at)
{
	uint64_t target = view_rip(view, view->va + at) + i->len + i->imm;

	if ((view->flavour & FLAVOUR_MODE) == MODE_64)
		return target;
	return (uint32_t)((i->op_size == 2 ? (uint16_t)target : target) + view->cs_base);
}

/* Page offset that a direct branch at `at` goes to, or -1 if it leaves the page. */
static int target_in_page(const struct code_view *view, const struct insn *i, unsigned at)
{
	gva_t target = branch_target(view, i, at);

	return (target & PAGE_MASK) == view->va ? (int)(target & 4095) : -1;
}

/* Where the path goes on after instruction `ti`; -1: it ends here. */
static int next_offset(const struct code_view *view, struct tinsn *ti)
{
	unsigned end = ti->at + ti->i.len;
	int target;

	if (ti->i.row->branch == BR_JMP) {
		target = target_in_page(view, &ti->i, ti->at);
		ti->follow = target >= (int)end; /* forward only: the path cannot meet itself */
		return ti->follow ? target : -1;
	}
	if (ti->i.row->sem == SEM_JCC) {
		target = target_in_page(view, &ti->i, ti->at);
		if (target >= 0 && target <= (int)ti->at)
			return -1; /* a loop: its way back should be short */
	}
	return ends_block(&ti->i) ? -1 : (int)end;
}

/* A flat 32-bit program's branch of operand size 16 goes to the lowest 64 KiB. Not worth translating. */
static bool truncates_eip(const struct code_view *view, const struct insn *i)
{
	return view->flavour & FLAVOUR_FLAT && i->row->branch != BR_NONE && i->op_size == 2;
}

/* Does the instruction at this offset lie within CS's limit? Going on at 4 GiB is nobody's. */
static bool is_within_code(const struct code_view *view, const struct insn *i, unsigned offset)
{
	return !(view->flavour & FLAVOUR_SEGMENTED) || view_rip(view, view->va + offset) + i->len - 1 <= view->cs_limit;
}

static bool is_for_us(const struct code_view *view, const struct insn *i, unsigned offset)
{
	return !truncates_eip(view, i) && is_within_code(view, i, offset);
}

bool decode_at(const struct code_view *view, unsigned offset, struct insn *i)
{
	return insn_decode(i, view->hva + offset, 4096 - offset, view->flavour & FLAVOUR_MODE) == INSN_OK &&
	       is_for_us(view, i, offset);
}

bool crosses_page(const uint8_t *page_hva, unsigned offset, enum insn_mode mode)
{
	uint8_t bytes[INSN_MAX_LEN];
	struct insn i;

	if (offset + INSN_MAX_LEN <= 4096)
		return false;
	for (unsigned k = 0; offset + k < 4096; k++)
		bytes[k] = __atomic_load_n(&page_hva[offset + k], __ATOMIC_RELAXED);
	return insn_decode(&i, bytes, 4096 - offset, mode) == INSN_TRUNCATED;
}

bool superblock_decode_crossing(struct xlat *x, uint16_t offset)
{
	const struct code_view *second = x->block->view2;
	struct tinsn *ti = &x->t->insns[0];
	uint8_t bytes[INSN_MAX_LEN];
	uint32_t generation;

	depend_on(x, offset, 4096 - offset);
	code_page_watch(x->v, second->gpa, INSN_MAX_LEN, &generation);
	for (unsigned k = 0; k < INSN_MAX_LEN; k++)
		bytes[k] = __atomic_load_n(offset + k < 4096 ? &x->view->hva[offset + k] : &second->hva[offset + k - 4096],
					   __ATOMIC_RELAXED);
	x->count = 1;
	x->loop_at = 0;
	ti->at = offset;
	ti->follow = false;
	return insn_decode(&ti->i, bytes, INSN_MAX_LEN, x->view->flavour & FLAVOUR_MODE) == INSN_OK &&
	       is_for_us(x->view, &ti->i, offset);
}

/* A loop that is the block: more rounds of it behind the first, if that saves checks. */
static void unroll(struct xlat *x)
{
	unsigned body = x->count, rounds = UNROLLED_INSNS / body;

	if (rounds < 2 || !is_own_loop(x))
		return;
	groups_find(x);
	if (!x->stream_count)
		return;
	if (rounds > UNROLLED_ROUNDS)
		rounds = UNROLLED_ROUNDS;
	x->loop_at = rounds / 2 * body;
	x->t->insns[body - 1].follow = true;
	for (; x->count < rounds * body; x->count++)
		x->t->insns[x->count] = x->t->insns[x->count - body];
	x->t->insns[x->count - 1].follow = false;
}

unsigned superblock_decode(struct xlat *x, uint16_t offset)
{
	int at = offset;

	x->loop_at = 0;
	for (x->count = 0; x->count < TRANSLATE_MAX_INSNS && at >= 0 && at < 4096; x->count++) {
		struct tinsn *ti = &x->t->insns[x->count];

		if (x->count >= OWN_INSNS && block_is_at(x->t, x->block->view, (unsigned)at))
			break;
		depend_on(x, (unsigned)at, INSN_MAX_LEN);
		if (!decode_at(x->view, (unsigned)at, &ti->i))
			break;
		ti->at = (uint16_t)at;
		ti->follow = false;
		at = next_offset(x->view, ti);
	}
	/* A followed jump must be followed by its target. */
	if (x->count) {
		x->t->insns[x->count - 1].follow = false;
		unroll(x);
	}
	return x->count;
}
