// SPDX-License-Identifier: BSD-2-Clause
/*
 * Which status flags somebody may still read: backwards over the block. At an exit whose target is in the same page
 * a few instructions are decoded there, and their bytes become something that the block depends on; everywhere else
 * all flags count as alive. Instructions that write a flag only sometimes (shift counts) do not end its life. Nor do
 * "undefined" flags of multiplications, divisions and bit tests, which processors leave as they were; the
 * other instructions with undefined flags write them.
 */
#include "softkvm/translate/translate.h"

enum { LOOK_AHEAD = 6 };

static bool has_constant_count(const struct insn *i)
{
	const struct operand *count = &i->operand[i->operand_count - 1];

	return count->kind == OPK_IMM && i->imm & (i->operand[0].size == 8 ? 63 : 31);
}

uint16_t flags_killed(const struct insn *i)
{
	uint16_t written = i->row->flags_written;

	switch (i->row->sem) {
	case SEM_AND:
	case SEM_OR:
	case SEM_XOR:
	case SEM_TEST:
	case SEM_ANDN:
	case SEM_BLSR:
	case SEM_BLSI:
	case SEM_BLSMSK:
	case SEM_BEXTR:
	case SEM_BZHI:
		return written | i->row->flags_undefined;
	case SEM_SHL:
	case SEM_SHR:
	case SEM_SAR:
		return has_constant_count(i) ? FLAGS_STATUS : 0;
	default:
		return written;
	}
}

static bool is_opaque(const struct insn *i)
{
	return i->row->branch != BR_NONE || i->row->attrs & INSN_END;
}

/* Flags that the code at `offset` of the page may read. */
static uint16_t look_ahead(struct xlat *x, unsigned offset)
{
	uint16_t unknown = FLAGS_STATUS, used = 0;
	struct insn i;

	for (unsigned n = 0; n < LOOK_AHEAD && unknown && offset < 4096; n++) {
		depend_on(x, offset, INSN_MAX_LEN);
		if (!decode_at(x->view, offset, &i))
			break;
		used |= insn_flags_read(&i) & unknown;
		if (is_opaque(&i))
			break;
		unknown &= (uint16_t)~(flags_killed(&i) | used);
		offset += i.len;
	}
	return (unknown | used) & FLAGS_STATUS;
}

static uint16_t alive_at(struct xlat *x, gva_t target)
{
	return (target & PAGE_MASK) == x->view->va ? look_ahead(x, (unsigned)(target & 4095)) : FLAGS_STATUS;
}

/* Flags alive after the last instruction of the block. */
static uint16_t alive_at_end(struct xlat *x, const struct tinsn *last)
{
	gva_t next = x->view->va + last->at + last->i.len, target = branch_target(x->view, &last->i, last->at);

	switch (last->i.row->branch) {
	case BR_JMP:
		return alive_at(x, target);
	case BR_COND:
		return alive_at(x, next) | alive_at(x, target);
	case BR_NONE:
		return last->i.row->attrs & INSN_END ? FLAGS_STATUS : alive_at(x, next);
	default:
		return FLAGS_STATUS;
	}
}

/* Will the translation of this instruction put flags that are alive into saved_flags, if they are not there? */
static bool wants_flags_saved(const struct insn *i)
{
	if (i->row->branch != BR_NONE)
		return i->row->sem != SEM_JCC;
	return memory_operand_of(i) || i->row->attrs & (INSN_STRING | INSN_END) || i->row->sem == SEM_PUSH || i->row->sem == SEM_POP ||
	       i->row->sem == SEM_LEAVE;
}

bool flags_pass_through(const struct xlat *x)
{
	if (!x->block->flags_in || x->block->view2 || is_own_loop(x))
		return false;
	for (unsigned k = 0; k < x->count; k++) {
		const struct insn *i = &x->t->insns[k].i;
		uint16_t changes = i->row->flags_written | i->row->flags_undefined | i->row->flags_may;

		if (x->t->insns[k].follow)
			continue;
		if (wants_flags_saved(i))
			return true;
		if ((insn_flags_read(i) | changes) & FLAGS_STATUS)
			return false;
	}
	return true;
}

void liveness_compute(struct xlat *x)
{
	struct tinsn *insns = x->t->insns;
	uint16_t live = alive_at_end(x, &insns[x->count - 1]);

	for (unsigned k = x->count; k-- > 0;) {
		struct tinsn *ti = &insns[k];

		if (k < x->count - 1 && ti->i.row->branch == BR_COND)
			live |= alive_at(x, ti->follow ? x->view->va + ti->at + ti->i.len : branch_target(x->view, &ti->i, ti->at));
		ti->live = live;
		live = (uint16_t)((live & ~flags_killed(&ti->i)) | insn_flags_read(&ti->i)) & FLAGS_STATUS;
	}
	x->block->flags_in = live;
}
