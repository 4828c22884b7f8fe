/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Instructions on segment registers and descriptors: MOV and POP of segment registers, LDS and family, LLDT, LTR,
 * LAR, LSL, VERR, VERW, ARPL, and the FS/GS base instructions.
 */
#include "softkvm/interpret/descriptor.h"
#include "softkvm/interpret/ops.h"

/* A load of SS holds interrupts and debug traps off until after the next instruction (SDM volume 3, 6.8.3). */
static void seg_commit(struct vcpu *v, unsigned seg, struct x86_seg s)
{
	v->seg[seg] = s;
	if (seg == SEG_SS && !(v->shadow & KVM_X86_SHADOW_INT_MOV_SS)) {
		v->shadow |= KVM_X86_SHADOW_INT_MOV_SS;
		want_attention(v);
	}
}

void op_mov_to_seg(struct vcpu *v, const struct insn *i)
{
	unsigned seg = i->operand[0].reg;

	if (seg == SEG_CS || seg > SEG_GS)
		raise_exception(v, VEC_UD);
	seg_commit(v, seg, seg_prepare(v, seg, op_read(v, i, 1)));
}

void op_mov_from_seg(struct vcpu *v, const struct insn *i)
{
	if (i->operand[1].reg > SEG_GS)
		raise_exception(v, VEC_UD);
	op_write(v, i, 0, v->seg[i->operand[1].reg].sel);
}

/* A selector pushed in 32-bit size: the upper half of the stack word is left alone (as processors do). */
void op_push_seg(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = v->seg[i->operand[0].reg].sel;

	if (i->op_size == 4)
		stack_write(v, -4, 2, sel);
	else
		stack_write(v, -(int64_t)i->op_size, i->op_size, sel);
	stack_add(v, -(int64_t)i->op_size);
}

void op_pop_seg(struct vcpu *v, const struct insn *i)
{
	unsigned seg = i->operand[0].reg;
	uint16_t sel = stack_read(v, 0, i->op_size == 2 ? 2 : i->op_size);
	struct x86_seg s = seg_prepare(v, seg, sel);

	stack_add(v, i->op_size);
	seg_commit(v, seg, s);
}

/* LDS, LES, LFS, LGS, LSS: offset and selector from memory. */
void op_load_far_ptr(struct vcpu *v, const struct insn *i)
{
	static const uint8_t by_opcode[] = {[0x2] = SEG_SS, [0x4] = SEG_FS, [0x5] = SEG_GS};
	unsigned seg = i->opcode == 0xc4 ? SEG_ES : i->opcode == 0xc5 ? SEG_DS : by_opcode[i->opcode & 7];
	uint64_t at = mem_offset(v, i);
	uint64_t offset = seg_read(v, i->mem.seg, at, i->op_size);
	uint16_t sel = seg_read(v, i->mem.seg, (at + i->op_size) & size_mask(i->mem.addr_size), 2);
	struct x86_seg s = seg_prepare(v, seg, sel);

	gpr_write(v, i->operand[0].reg, i->op_size, offset);
	seg_commit(v, seg, s);
}

/* --- LDTR and TR --- */

static uint64_t wide_base(struct vcpu *v, uint16_t sel, uint64_t d)
{
	uint64_t high, base = desc_base(d);

	if (!is_long_mode(v))
		return base;
	high = descriptor_read_high(v, sel, VEC_GP, 0);
	if (high >> 40 & 0x1f)
		raise_error(v, VEC_GP, sel & 0xfffc);
	base |= high << 32;
	if (!is_canonical(v, base))
		raise_error(v, VEC_GP, sel & 0xfffc);
	return base;
}

void op_lldt(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = op_read(v, i, 0);
	struct x86_seg s;
	uint64_t d;

	if (is_null(sel)) {
		v->seg[SEG_LDTR] = seg_null(sel);
		return;
	}
	if (sel & 4)
		raise_error(v, VEC_GP, sel & 0xfffc);
	d = descriptor_read(v, sel, VEC_GP, 0);
	if (!desc_is_system(d) || desc_type(d) != DESC_LDT)
		raise_error(v, VEC_GP, sel & 0xfffc);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, sel & 0xfffc);
	s = seg_from_descriptor(sel, d);
	s.base = wide_base(v, sel, d);
	v->seg[SEG_LDTR] = s;
}

void op_ltr(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = op_read(v, i, 0);
	struct x86_seg s;
	uint64_t d;

	if (is_null(sel) || (sel & 4))
		raise_error(v, VEC_GP, sel & 0xfffc);
	d = descriptor_read(v, sel, VEC_GP, 0);
	if (!desc_is_system(d) || !(desc_type(d) == DESC_TSS || (desc_type(d) == DESC_TSS16 && !is_long_mode(v))))
		raise_error(v, VEC_GP, sel & 0xfffc);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, sel & 0xfffc);
	s = seg_from_descriptor(sel, d);
	s.base = wide_base(v, sel, d);
	s.attr |= 2;
	descriptor_mark_busy(v, sel, true);
	v->seg[SEG_TR] = s;
}

static void umip_check(struct vcpu *v)
{
	if ((v->cr4 & CR4_UMIP) && v->cpl > 0)
		raise_error(v, VEC_GP, 0);
}

void op_sldt(struct vcpu *v, const struct insn *i)
{
	umip_check(v);
	op_write(v, i, 0, v->seg[SEG_LDTR].sel);
}

void op_str(struct vcpu *v, const struct insn *i)
{
	umip_check(v);
	op_write(v, i, 0, v->seg[SEG_TR].sel);
}

/* --- looking at descriptors --- */

static void set_zf(struct vcpu *v, bool value)
{
	v->rflags = (v->rflags & ~(uint64_t)FLAG_ZF) | (value ? FLAG_ZF : 0);
}

/* The descriptor of sel if it exists and CPL and RPL may see it; conforming code may be seen by all. */
static bool visible_descriptor(struct vcpu *v, uint16_t sel, uint64_t *d)
{
	gva_t gva;

	if (is_null(sel) || !descriptor_address(v, sel, 8, &gva))
		return false;
	*d = mmu_read_sys(v, gva, 8);
	if (!desc_is_system(*d) && desc_is_code(*d) && desc_is_conforming(*d))
		return true;
	return desc_dpl(*d) >= v->cpl && desc_dpl(*d) >= (sel & 3u);
}

static bool lar_knows(const struct vcpu *v, uint64_t d)
{
	unsigned legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
	unsigned wide = 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12;

	return !desc_is_system(d) || ((is_long_mode(v) ? wide : legacy) >> desc_type(d) & 1);
}

void op_lar(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = op_read(v, i, 1);
	uint64_t d;
	bool good = visible_descriptor(v, sel, &d) && lar_knows(v, d);

	if (good)
		gpr_write(v, i->operand[0].reg, i->op_size, d >> 32 & 0xffff00);
	set_zf(v, good);
}

static bool lsl_knows(const struct vcpu *v, uint64_t d)
{
	unsigned legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
	unsigned wide = 1 << 2 | 1 << 9 | 1 << 11;

	return !desc_is_system(d) || ((is_long_mode(v) ? wide : legacy) >> desc_type(d) & 1);
}

void op_lsl(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = op_read(v, i, 1);
	uint64_t d;
	bool good = visible_descriptor(v, sel, &d) && lsl_knows(v, d);

	if (good)
		gpr_write(v, i->operand[0].reg, i->op_size, desc_limit(d));
	set_zf(v, good);
}

void op_verr(struct vcpu *v, const struct insn *i)
{
	uint64_t d;
	bool good = visible_descriptor(v, op_read(v, i, 0), &d);

	set_zf(v, good && !desc_is_system(d) && (!desc_is_code(d) || (d >> 41 & 1)));
}

void op_verw(struct vcpu *v, const struct insn *i)
{
	uint64_t d;
	bool good = visible_descriptor(v, op_read(v, i, 0), &d);

	set_zf(v, good && !desc_is_system(d) && !desc_is_code(d) && (d >> 41 & 1));
}

void op_arpl(struct vcpu *v, const struct insn *i)
{
	uint16_t rpl = op_read(v, i, 1) & 3, sel = op_read(v, i, 0);
	bool raised = (sel & 3) < rpl;

	if (raised)
		op_write(v, i, 0, (sel & ~3) | rpl);
	set_zf(v, raised);
}

/* --- FSGSBASE --- */

static void base_check(struct vcpu *v)
{
	if (!(v->cr4 & CR4_FSGSBASE))
		raise_exception(v, VEC_UD);
}

void op_rdfsbase(struct vcpu *v, const struct insn *i)
{
	base_check(v);
	op_write(v, i, 0, v->seg[SEG_FS].base);
}

void op_rdgsbase(struct vcpu *v, const struct insn *i)
{
	base_check(v);
	op_write(v, i, 0, v->seg[SEG_GS].base);
}

static uint64_t new_base(struct vcpu *v, const struct insn *i)
{
	uint64_t base = op_read(v, i, 0);

	base_check(v);
	if (!is_canonical(v, base))
		raise_error(v, VEC_GP, 0);
	return base;
}

void op_wrfsbase(struct vcpu *v, const struct insn *i)
{
	v->seg[SEG_FS].base = new_base(v, i);
}

void op_wrgsbase(struct vcpu *v, const struct insn *i)
{
	v->seg[SEG_GS].base = new_base(v, i);
}
