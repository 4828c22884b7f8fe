/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * IRET in every mode (SDM volume 2, IRET): real, virtual-8086, to the same or an outer privilege, to virtual-8086 mode,
 * through a nested task's link, and long mode, which always pops SS:RSP.
 *
 * The frame is read whole before anything changes. NMIs are unmasked when the instruction completes.
 */
#include "softkvm/interpret/descriptor.h"
#include "softkvm/interpret/ops.h"

enum { FLAGS_USER = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID };

struct frame {
	uint64_t rip, flags, rsp;
	uint16_t cs, ss;
};

static void unmask_nmi(struct vcpu *v)
{
	if (v->nmi_masked) {
		v->nmi_masked = false;
		want_attention(v);
	}
}

/* Flags that IRET at this privilege and operand size may change. */
static uint64_t changeable_flags(const struct vcpu *v, unsigned cpl, unsigned size)
{
	uint64_t mask = FLAGS_USER;

	if (cpl <= iopl(v))
		mask |= FLAG_IF;
	if (cpl == 0)
		mask |= FLAG_IOPL | FLAG_VIF | FLAG_VIP;
	return size == 2 ? mask & 0xffff : mask;
}

static void set_flags(struct vcpu *v, uint64_t image, uint64_t mask)
{
	uint64_t old = v->rflags;

	flags_changed(v, (old & ~mask) | (image & mask) | FLAG_FIXED);
	if (((old ^ v->rflags) & FLAG_AC) && (v->cr4 & CR4_SMAP))
		mmu_mode_changed(v);
}

static void iret_real(struct vcpu *v, unsigned size)
{
	uint64_t rip = stack_read(v, 0, size), flags = stack_read(v, 2 * size, size);
	uint16_t sel = stack_read(v, size, size);
	struct x86_seg cs = seg_real(v, SEG_CS, sel);
	uint64_t mask = FLAGS_USER | FLAG_IF | FLAG_IOPL;

	target_check(v, &cs, rip);
	stack_add(v, 3 * size);
	cs_commit(v, cs, v->cpl);
	v->rip = rip;
	set_flags(v, flags, size == 2 ? mask & 0xffff : mask);
}

/* Virtual-8086 mode stays there; IOPL keeps its value. With VME and IOPL < 3 a 16-bit IRET works on VIF. */
static void iret_v8086(struct vcpu *v, unsigned size)
{
	uint64_t rip = stack_read(v, 0, size), flags = stack_read(v, 2 * size, size);
	uint16_t sel = stack_read(v, size, size);
	struct x86_seg cs = seg_real(v, SEG_CS, sel);
	uint64_t mask = FLAGS_USER | FLAG_IF;

	if (iopl(v) < 3) {
		if (!(v->cr4 & CR4_VME) || size != 2 || (flags & FLAG_TF) ||
		    ((flags & FLAG_IF) && (v->rflags & FLAG_VIP)))
			raise_error(v, VEC_GP, 0);
		mask = (mask & ~(uint64_t)FLAG_IF & 0xffff) | FLAG_VIF;
		flags = (flags & 0xffff) | (flags & FLAG_IF ? FLAG_VIF : 0);
	} else if (size == 2) {
		mask &= 0xffff;
	}
	target_check(v, &cs, rip);
	stack_add(v, 3 * size);
	cs_commit(v, cs, 3);
	v->rip = rip;
	set_flags(v, flags, mask);
}

static void iret_to_v8086(struct vcpu *v, const struct frame *f)
{
	static const uint8_t order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	uint16_t sel[4], ss = stack_read(v, 16, 4);
	uint64_t rsp = stack_read(v, 12, 4);
	struct x86_seg cs;

	for (int k = 0; k < 4; k++)
		sel[k] = stack_read(v, 20 + 4 * k, 4);
	if (f->rip > 0xffff)
		raise_error(v, VEC_GP, 0);
	set_flags(v, f->flags, FLAGS_USER | FLAG_IF | FLAG_IOPL | FLAG_VM | FLAG_VIF | FLAG_VIP);
	cs = seg_real(v, SEG_CS, f->cs);
	v->seg[SEG_SS] = seg_real(v, SEG_SS, ss);
	for (int k = 0; k < 4; k++)
		v->seg[order[k]] = seg_real(v, order[k], sel[k]);
	cs_commit(v, cs, 3);
	v->gpr[RSP] = rsp;
	v->rip = f->rip;
}

static struct x86_seg outer_stack(struct vcpu *v, const struct frame *f, const struct x86_seg *cs, unsigned cpl)
{
	struct x86_seg ss;

	if (!(is_null(f->ss) && is_long_mode(v) && (cs->attr & SEG_L) && cpl != 3 && (f->ss & 3) == cpl))
		return stack_prepare(v, f->ss, cpl, VEC_GP, 0);
	ss = seg_null(f->ss);
	ss.attr |= cpl << SEG_DPL_SHIFT;
	return ss;
}

static void set_rsp(struct vcpu *v, uint64_t rsp)
{
	if (v->mode == MODE_64)
		v->gpr[RSP] = rsp;
	else if (v->seg[SEG_SS].attr & SEG_DB)
		v->gpr[RSP] = (uint32_t)rsp;
	else
		v->gpr[RSP] = (v->gpr[RSP] & ~0xffffull) | (rsp & 0xffff);
}

static void iret_protected(struct vcpu *v, unsigned size)
{
	bool wide = v->mode == MODE_64;
	struct frame f = {.rip = stack_read(v, 0, size), .cs = stack_read(v, size, size),
			  .flags = stack_read(v, 2 * size, size)};
	uint64_t mask = changeable_flags(v, v->cpl, size);
	unsigned old_cpl = v->cpl, cpl = f.cs & 3;
	struct x86_seg cs, ss = v->seg[SEG_SS];

	if ((f.flags & FLAG_VM) && v->cpl == 0 && size == 4 && !is_long_mode(v)) {
		iret_to_v8086(v, &f);
		return;
	}
	cs = return_code_segment(v, f.cs);
	if (wide || cpl > v->cpl) {
		f.rsp = stack_read(v, 3 * size, size);
		f.ss = stack_read(v, 4 * size, size);
		ss = outer_stack(v, &f, &cs, cpl);
	}
	target_check(v, &cs, f.rip);
	if (!wide && cpl == v->cpl)
		stack_add(v, 3 * size);
	cs_commit(v, cs, cpl);
	v->seg[SEG_SS] = ss;
	if (wide || cpl > old_cpl)
		set_rsp(v, f.rsp);
	if (cpl > old_cpl)
		drop_privileged_segments(v);
	v->rip = f.rip;
	set_flags(v, f.flags, mask);
}

static void iret_task(struct vcpu *v)
{
	uint16_t link;

	if (is_long_mode(v))
		raise_error(v, VEC_GP, 0);
	link = mmu_read_sys(v, v->seg[SEG_TR].base, 2);
	task_switch(v, link, TASK_IRET, v->rip, false, 0, 0);
}

void op_iret(struct vcpu *v, const struct insn *i)
{
	if (!(v->cr0 & CR0_PE))
		iret_real(v, i->op_size);
	else if (v->rflags & FLAG_VM)
		iret_v8086(v, i->op_size);
	else if (v->rflags & FLAG_NT)
		iret_task(v);
	else
		iret_protected(v, i->op_size);
	unmask_nmi(v);
}
