/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS. Where AMD and Intel differ the vendor that the guest was given
 * decides: SYSCALL/SYSRET work outside 64-bit mode on AMD only, SYSENTER/SYSEXIT in long mode on Intel only; a
 * SYSRET to a non-canonical address faults before the change of privilege on Intel.
 */
#include "softkvm/interpret/descriptor.h"
#include "softkvm/interpret/ops.h"

/* Flat segments as these instructions load them, without looking at a descriptor table. */
static struct x86_seg flat_code(uint16_t sel, unsigned dpl, bool is_64bit)
{
	return (struct x86_seg){.limit = 0xffffffff, .sel = sel,
				.attr = SEG_P | SEG_S | SEG_G | SEG_TYPE_CODE | SEG_TYPE_RW | SEG_TYPE_ACCESSED |
					dpl << SEG_DPL_SHIFT | (is_64bit ? SEG_L : SEG_DB)};
}

static struct x86_seg flat_stack(uint16_t sel, unsigned dpl)
{
	return (struct x86_seg){.limit = 0xffffffff, .sel = sel,
				.attr = SEG_P | SEG_S | SEG_G | SEG_DB | SEG_TYPE_RW | SEG_TYPE_ACCESSED |
					dpl << SEG_DPL_SHIFT};
}

static void set_flags(struct vcpu *v, uint64_t flags)
{
	uint64_t old = v->rflags;

	flags_changed(v, flags);
	if (((old ^ flags) & FLAG_AC) && (v->cr4 & CR4_SMAP))
		mmu_mode_changed(v);
}

void op_syscall(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = v->star >> 32 & 0xfffc;
	bool wide = is_long_mode(v);
	uint64_t target;

	if (!(v->efer & EFER_SCE) || !(v->cr0 & CR0_PE) || (v->rflags & FLAG_VM) || (v->is_intel && v->mode != MODE_64))
		raise_exception(v, VEC_UD);
	if (!wide)
		target = (uint32_t)v->star;
	else
		target = v->mode == MODE_64 ? v->lstar : v->cstar;
	v->gpr[RCX] = wide ? v->rip : (uint32_t)v->rip;
	if (wide)
		v->gpr[R11] = v->rflags & ~(uint64_t)FLAG_RF;
	v->rip = target;
	cs_commit(v, flat_code(sel, 0, wide), 0);
	v->seg[SEG_SS] = flat_stack(sel + 8, 0);
	if (wide)
		set_flags(v, (v->rflags & ~v->fmask & ~(uint64_t)FLAG_RF) | FLAG_FIXED);
	else
		set_flags(v, v->rflags & ~(uint64_t)(FLAG_IF | FLAG_RF | FLAG_VM));
}

void op_sysret(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = v->star >> 48 & 0xfffc;
	bool to_64bit = i->op_size == 8;
	uint64_t changeable = FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_VIF |
			      FLAG_VIP | FLAG_ID;

	if (!(v->efer & EFER_SCE) || !is_protected(v) || (v->is_intel && v->mode != MODE_64))
		raise_exception(v, VEC_UD);
	if (v->cpl != 0 || (to_64bit && !is_canonical(v, v->gpr[RCX])))
		raise_error(v, VEC_GP, 0);
	cs_commit(v, flat_code((to_64bit ? sel + 16 : sel) | 3, 3, to_64bit), 3);
	v->seg[SEG_SS] = flat_stack((sel + 8) | 3, 3);
	v->rip = to_64bit ? v->gpr[RCX] : (uint32_t)v->gpr[RCX];
	if (is_long_mode(v))
		set_flags(v, (v->gpr[R11] & changeable) | FLAG_FIXED);
	else
		set_flags(v, v->rflags | FLAG_IF);
	if (v->rflags & FLAG_TF) { /* traps at once, unlike after IRET or POPF */
		v->debug_pending |= 1 << 14;
		want_attention(v);
	}
}

void op_sysenter(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = v->sysenter_cs & 0xfffc;
	bool wide = is_long_mode(v);

	if (wide && !v->is_intel)
		raise_exception(v, VEC_UD);
	if (!(v->cr0 & CR0_PE) || !sel)
		raise_error(v, VEC_GP, 0);
	v->rflags &= ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF);
	cs_commit(v, flat_code(sel, 0, wide), 0);
	v->seg[SEG_SS] = flat_stack(sel + 8, 0);
	v->gpr[RSP] = wide ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
	v->rip = wide ? v->sysenter_eip : (uint32_t)v->sysenter_eip;
}

void op_sysexit(struct vcpu *v, const struct insn *i)
{
	uint16_t sel = v->sysenter_cs & 0xfffc;
	bool to_64bit = i->op_size == 8;
	uint64_t rip = v->gpr[RDX], rsp = v->gpr[RCX];

	if (is_long_mode(v) && !v->is_intel)
		raise_exception(v, VEC_UD);
	if (!sel || !is_protected(v) || v->cpl != 0)
		raise_error(v, VEC_GP, 0);
	if (to_64bit && (!is_canonical(v, rip) || !is_canonical(v, rsp)))
		raise_error(v, VEC_GP, 0);
	cs_commit(v, flat_code((sel + (to_64bit ? 32 : 16)) | 3, 3, to_64bit), 3);
	v->seg[SEG_SS] = flat_stack((sel + (to_64bit ? 40 : 24)) | 3, 3);
	v->gpr[RSP] = to_64bit ? rsp : (uint32_t)rsp;
	v->rip = to_64bit ? rip : (uint32_t)rip;
}

void op_swapgs(struct vcpu *v, const struct insn *i)
{
	uint64_t base = v->seg[SEG_GS].base;

	if (v->cpl != 0)
		raise_error(v, VEC_GP, 0);
	v->seg[SEG_GS].base = v->kernel_gs_base;
	v->kernel_gs_base = base;
}
