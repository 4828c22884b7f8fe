// SPDX-License-Identifier: BSD-2-Clause
/*
 * Accesses that can share one address check.
 *
 * A pass over the decoded block follows registers symbolically: each holds "root + constant", where a root is a value
 * that some instruction (or the block's entry) produced. Additions of constants, LEA, moves, pushes and pops keep the
 * root; everything else makes a new one. Accesses whose base, index and segment have the same roots lie at fixed
 * distances: they form a group, as long as it stays small.
 *
 * The group's first access checks the whole extent, from the lowest to the highest byte that a member touches and
 * for writing if one writes, and keeps the HVA; the others use that. A check that fails proves nothing about the
 * access itself, so it must not fault: it leads to a plain copy of the rest of the block, where every access checks
 * for itself (memory.c). A block whose groups keep failing is translated anew without any.
 *
 * In a block that is a loop of itself, addresses that move by a small constant each time round (or not at all) are
 * streams: each remembers the TLB entry it used last, which serves it for many rounds. That is dear to begin with: rounds
 * that an unrolled loop begins with (superblock.c) have none.
 *
 * An HVA that is kept lives until the block's end at most, and not across instructions that the interpreter executes.
 */
#include "softkvm/translate/translate.h"

enum { MAX_EXTENT = 512, MAX_STRIDE = 128, ROOT_ABSOLUTE = 0xfffe, NO_ROOT = 0xffff };

struct symbol {
	uint16_t root;
	int64_t offset;
};

struct walk_state {
	unsigned word; /* size of an address */
	struct symbol reg[16];
	uint16_t next_root;
};

static void new_root(struct walk_state *w, unsigned reg)
{
	if (reg >= REG_AH)
		reg -= REG_AH;
	if (reg < 16)
		w->reg[reg] = (struct symbol){ w->next_root++, 0 };
}

/* --- what an instruction does to registers --- */

static bool is_register(const struct operand *o, unsigned size)
{
	return o->kind == OPK_GPR && o->size == size && o->reg < 16;
}

static int64_t signed_imm(const struct insn *i)
{
	return i->operand[0].size == 4 ? (int32_t)i->imm : (int64_t)i->imm;
}

static bool keeps_root(struct walk_state *w, const struct insn *i)
{
	const struct operand *a = &i->operand[0], *b = &i->operand[1];

	if (!is_register(a, w->word))
		return false;
	switch (i->row->sem) {
	case SEM_MOV:
		if (!is_register(b, w->word))
			return false;
		w->reg[a->reg] = w->reg[b->reg];
		return true;
	case SEM_ADD:
	case SEM_SUB:
		if (b->kind != OPK_IMM)
			return false;
		w->reg[a->reg].offset += i->row->sem == SEM_ADD ? signed_imm(i) : -signed_imm(i);
		return true;
	case SEM_INC:
	case SEM_DEC:
		w->reg[a->reg].offset += i->row->sem == SEM_INC ? 1 : -1;
		return true;
	case SEM_LEA:
		if (i->mem.addr_size != w->word || i->mem.base >= 16 || i->mem.index != REG_NONE)
			return false;
		w->reg[a->reg] = w->reg[i->mem.base];
		w->reg[a->reg].offset += i->mem.disp;
		return true;
	default:
		return false;
	}
}

static void step(struct walk_state *w, const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_PUSH:
	case SEM_PUSHF:
	case SEM_PUSH_SEG:
		w->reg[RSP].offset -= i->op_size;
		return;
	case SEM_POP:
		w->reg[RSP].offset += i->op_size;
		break;
	case SEM_POPA:
		for (unsigned r = 0; r < 8; r++)
			new_root(w, r);
		return;
	case SEM_PUSHA:
	case SEM_POPF:
	case SEM_POP_SEG:
		new_root(w, RSP);
		return;
	case SEM_LEAVE:
	case SEM_ENTER:
		new_root(w, RSP);
		new_root(w, RBP);
		return;
	}
	if (keeps_root(w, i))
		return;
	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->operand[k].kind == OPK_GPR && i->operand[k].access & ACC_W)
			new_root(w, i->operand[k].reg);
	if (i->row->attrs & INSN_STRING) {
		new_root(w, RSI);
		new_root(w, RDI);
		new_root(w, RCX);
	}
}

/* --- its accesses --- */

static bool same_place(const struct access *a, const struct access *b)
{
	return a->base == b->base && a->index == b->index && a->scale == b->scale && a->seg == b->seg;
}

/* Widen a group by one access; false if it would become too large. */
static bool join(struct access_group *g, const struct access *a)
{
	int64_t low = a->disp < g->low ? a->disp : g->low, end = a->disp + a->size, high = end > g->high ? end : g->high;

	if (high - low > MAX_EXTENT)
		return false;
	g->low = low;
	g->high = high;
	g->write |= a->write;
	g->members++;
	return true;
}

static void place(struct xlat *x, struct access *a)
{
	for (unsigned k = x->access_count; k-- > 0;) {
		struct access *other = &x->access[k];

		if (same_place(a, other) && other->group != NO_GROUP) {
			a->group = join(&x->group[other->group], a) ? other->group : NO_GROUP;
			if (a->group != NO_GROUP)
				goto placed;
			break;
		}
	}
	a->group = NO_GROUP;
	if (x->group_count < MAX_GROUPS) {
		a->group = (uint8_t)x->group_count;
		x->group[x->group_count++] = (struct access_group){ .low = a->disp, .high = a->disp + a->size,
								    .write = a->write, .members = 1 };
	}
placed:
	x->access[x->access_count++] = *a;
}

static void note_explicit(struct xlat *x, const struct walk_state *w, unsigned insn)
{
	const struct insn *i = &x->t->insns[insn].i;
	const struct operand *o = memory_operand_of(i);
	struct access a = { .insn = (uint8_t)insn, .base = NO_ROOT, .index = NO_ROOT, .seg = i->mem.seg,
			    .stream = NO_STREAM };

	if (!o || !o->size || o->size > 64 || i->mem.addr_size != w->word || i->mem.vsib || !i->has_modrm || i->row->attrs & INSN_MASKED)
		return;
	a.disp = i->mem.disp;
	a.size = (uint8_t)o->size;
	a.write = o->access & ACC_W;
	if (a.seg < SEG_FS)
		a.seg = SEG_DS;
	else if (w->word == 4)
		return; /* each is checked against its segment's limit */
	if (i->mem.base == BASE_RIP) {
		a.base = ROOT_ABSOLUTE;
		a.disp += (int64_t)(x->view->va + x->t->insns[insn].at + i->len);
	} else if (i->mem.base < 16) {
		a.base = w->reg[i->mem.base].root;
		a.disp += w->reg[i->mem.base].offset;
	}
	if (i->mem.index < 16) {
		a.index = w->reg[i->mem.index].root;
		a.scale = i->mem.scale_log2;
		a.disp += w->reg[i->mem.index].offset * (1 << i->mem.scale_log2);
	}
	place(x, &a);
}

static void note_stack(struct xlat *x, const struct walk_state *w, unsigned insn)
{
	const struct insn *i = &x->t->insns[insn].i;
	struct access a = { .insn = (uint8_t)insn, .is_stack = true, .base = w->reg[RSP].root, .index = NO_ROOT,
			    .seg = SEG_DS, .disp = w->reg[RSP].offset, .size = (uint8_t)w->word, .stream = NO_STREAM };

	switch (i->row->sem) {
	case SEM_PUSH:
	case SEM_PUSHF:
	case SEM_CALL_REL:
	case SEM_CALL_IND:
		a.disp -= w->word;
		a.write = true;
		break;
	case SEM_POP:
	case SEM_RET:
		break;
	default:
		return;
	}
	if (i->op_size == w->word)
		place(x, &a);
}

bool is_own_loop(const struct xlat *x)
{
	const struct tinsn *last = &x->t->insns[x->count - 1];

	return last->i.row->sem == SEM_JCC && !x->block->view2 && !x->block->plain &&
	       branch_target(x->view, &last->i, last->at) == x->view->va + x->block->offset;
}

/* How far a register that held `root` at the loop's start has moved at its end; false: not by a constant. */
static bool stride_of(const struct walk_state *w, uint16_t root, int64_t *stride)
{
	*stride = 0;
	if (root == NO_ROOT || root == ROOT_ABSOLUTE)
		return true;
	if (root >= 16 || w->reg[root].root != root)
		return false;
	*stride = w->reg[root].offset;
	return true;
}

static bool is_stream(const struct walk_state *w, const struct access *a)
{
	int64_t base, index;

	if (a->is_stack || !stride_of(w, a->base, &base) || !stride_of(w, a->index, &index))
		return false;
	base += index * (1 << a->scale);
	return base >= -MAX_STRIDE && base <= MAX_STRIDE;
}

/* Streams for the accesses that check: alone, or first of their group. */
static void streams_find(struct xlat *x, const struct walk_state *w)
{
	uint32_t seen = 0;

	for (struct access *a = x->access; a < x->access + x->access_count && x->stream_count < MAX_STREAMS; a++) {
		if (a->insn < x->loop_at || (a->group != NO_GROUP && seen & 1u << a->group))
			continue;
		if (a->group != NO_GROUP)
			seen |= 1u << a->group;
		if (is_stream(w, a))
			a->stream = (uint8_t)x->stream_count++;
	}
}

void groups_find(struct xlat *x)
{
	struct walk_state w = { .next_root = 16, .word = x->word };

	x->access_count = x->group_count = x->stream_count = 0;
	if (x->block->plain || x->segmented || is_ungrouped(x->t, x->block))
		return;
	for (unsigned r = 0; r < 16; r++)
		w.reg[r].root = (uint16_t)r;
	for (unsigned k = 0; k < x->count && x->access_count + 2 <= MAX_ACCESSES; k++) {
		note_explicit(x, &w, k);
		note_stack(x, &w, k);
		step(&w, &x->t->insns[k].i);
	}
	if (is_own_loop(x))
		streams_find(x, &w);
}

void groups_forget(struct xlat *x)
{
	for (unsigned g = 0; g < x->group_count; g++)
		x->group[g].established = false;
	x->addr_group = NO_GROUP;
}

/* The current instruction's access, NULL if it was not looked at. */
const struct access *group_access(struct xlat *x, bool is_stack)
{
	unsigned insn = (unsigned)(x->insn - x->t->insns);

	for (unsigned k = 0; k < x->access_count; k++)
		if (x->access[k].insn == insn && x->access[k].is_stack == is_stack)
			return &x->access[k];
	return NULL;
}

/* The group of an access that is to lead: its extent counts only this member and later ones. False: not worth it. */
bool group_lead(struct xlat *x, const struct access *a, struct access_group *rest)
{
	*rest = (struct access_group){ .low = a->disp, .high = a->disp + a->size, .write = a->write, .members = 1 };
	if (a->group == NO_GROUP)
		return false;
	for (const struct access *b = a + 1; b < x->access + x->access_count; b++)
		if (b->group == a->group)
			join(rest, b);
	return rest->members > 1;
}
