// SPDX-License-Identifier: BSD-2-Clause
/*
 * Flat 32-bit code: where segmentation is as good as off (the rest is segmented.c's). ES, CS, SS and DS are of 4 GiB from 0 on,
 * readable, and all but CS writable. Then an offset is a linear address, no limit can be hit other than by wrapping at
 * 4 GiB (which crosses a page, and so goes to the interpreter), and RIP is the address of the code. That is part of a
 * block's flavour.
 *
 * FS and GS have bases, and at times are null or small: an access through them looks at the segment first, at run time.
 * With 4 GiB to it only an access that wraps in the segment can hit the limit; where the offset is not a constant it is
 * looked at, too.
 *
 * All addresses are computed in 32 bits. The upper halves of guest registers are never looked at: in compatibility mode
 * they may hold anything.
 */
#include "softkvm/translate/translate.h"

enum { DATA_LOOK = SEG_UNUSABLE | SEG_TYPE_CODE | SEG_TYPE_DC | SEG_TYPE_RW, DATA_WRITABLE = SEG_TYPE_RW };

static bool is_whole(const struct x86_seg *s)
{
	return !s->base && s->limit == 0xffffffff;
}

static bool is_flat_data(const struct x86_seg *s)
{
	return is_whole(s) && (s->attr & DATA_LOOK) == DATA_WRITABLE;
}

bool is_flat(const struct vcpu *v)
{
	return is_whole(&v->seg[SEG_CS]) && is_flat_data(&v->seg[SEG_DS]) && is_flat_data(&v->seg[SEG_ES]) &&
	       is_flat_data(&v->seg[SEG_SS]) && v->seg[SEG_SS].attr & SEG_DB && v->cr0 & CR0_PE && !(v->rflags & FLAG_VM);
}

/* The segment register's cache: does it hold 4 GiB of writable data? Else on to `cold`. */
static void check_segment(struct xlat *x, unsigned seg, const uint8_t *cold)
{
	int32_t at = ENV_OFF(seg[0]) + (int32_t)(seg * sizeof(struct x86_seg));
	struct emit *e = &x->hot;

	emit_alu_mem_imm(e, 4, ALU_CMP, mem_base(ENV, at + (int32_t)offsetof(struct x86_seg, limit)), -1);
	emit_jcc(e, 5, cold);
	emit_load(e, 2, SCRATCH, mem_base(ENV, at + (int32_t)offsetof(struct x86_seg, attr)));
	emit_alu_imm(e, 4, ALU_AND, SCRATCH, DATA_LOOK);
	emit_alu_imm(e, 4, ALU_CMP, SCRATCH, DATA_WRITABLE);
	emit_jcc(e, 5, cold);
}

/* Does an access at a computed offset wrap in its segment? Then on to `cold`. */
static void check_offset(struct xlat *x, unsigned size, const uint8_t *cold)
{
	struct insn_mem *m = &x->insn->i.mem;
	uint8_t seg = m->seg;

	m->seg = SEG_DS;
	memory_address(x, 0);
	m->seg = seg;
	emit_alu_imm(&x->hot, 4, ALU_CMP, ADDR, -(int32_t)size);
	emit_jcc(&x->hot, 7, cold);
}

bool segment_check(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct operand *mem = memory_operand_of(i);
	const uint8_t *cold;
	bool is_constant;

	if (x->segmented)
		return segmented_is_plain(x);
	if (x->word == 8 || !mem || (i->mem.seg < SEG_FS && i->mem.seg != SEG_CS))
		return true;
	is_constant = i->mem.base == REG_NONE && i->mem.index == REG_NONE;
	if (i->mem.seg == SEG_CS || !mem->size || i->mem.addr_size != 4 ||
	    (is_constant && (uint64_t)(uint32_t)i->mem.disp + mem->size > 1ull << 32))
		return false;
	interpreter_ready(x);
	cold = cold_interpreter(x);
	check_segment(x, i->mem.seg, cold);
	if (!is_constant)
		check_offset(x, mem->size, cold);
	return true;
}
