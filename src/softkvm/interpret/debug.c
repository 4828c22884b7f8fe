/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Debug events around one instruction (SDM volume 3, chapter 17). Code breakpoints are faults before the
 * instruction, unless RF is set; TF and data breakpoints are traps after it. A trap at MOV SS or POP SS waits
 * for the next instruction's. Software interrupts and SYSCALL may clear TF and then are not followed by a
 * single-step trap.
 */
#include "softkvm/interpret/debug.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

enum { DR6_BS = 1 << 14, DR6_FIXED = 0xffff0ff0 & ~(1u << 14) };

static gva_t code_address(const struct vcpu *v)
{
	return v->mode == MODE_64 ? v->rip : (uint32_t)(v->seg[SEG_CS].base + v->rip);
}

/* DR6 bits of the code breakpoints of dr[] at gva. */
static uint64_t code_breakpoints(const uint64_t dr[8], gva_t gva)
{
	uint64_t bits = 0;

	for (unsigned n = 0; n < 4; n++)
		if ((dr[7] >> (2 * n) & 3) && !(dr[7] >> (16 + 4 * n) & 15) && dr[n] == gva)
			bits |= 1u << n;
	return bits;
}

static bool any_code_breakpoint(const uint64_t dr[8])
{
	for (unsigned n = 0; n < 4; n++)
		if ((dr[7] >> (2 * n) & 3) && !(dr[7] >> (16 + 4 * n) & 3))
			return true;
	return false;
}

bool debug_steps(const struct vcpu *v)
{
	if (v->guest_debug & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP))
		return true;
	return (v->rflags & (FLAG_TF | FLAG_RF)) || ((v->dr[7] & 0xff) && any_code_breakpoint(v->dr));
}

_Noreturn void debug_exit(struct vcpu *v, enum x86_vector vector, uint64_t dr6)
{
	struct kvm_debug_exit_arch *arch = &v->run->debug.arch;

	v->run->exit_reason = KVM_EXIT_DEBUG;
	arch->exception = vector;
	arch->pc = code_address(v);
	arch->dr6 = dr6 | DR6_FIXED;
	arch->dr7 = v->guest_debug & KVM_GUESTDBG_USE_HW_BP ? v->debug_dr[7] : v->dr[7];
	vcpu_leave(v);
}

/* #DB at the next boundary; bits for DR6. */
static void pend_debug_exception(struct vcpu *v, uint64_t bits)
{
	v->exception_has_payload = true;
	v->exception_payload = bits;
	v->exception_has_error = false;
	v->exception_vector = VEC_DB;
	v->exception_pending = true;
}

void debug_before(struct vcpu *v)
{
	uint64_t bits;

	v->insn_rip = v->rip;
	if (v->guest_debug & KVM_GUESTDBG_USE_HW_BP) {
		bits = code_breakpoints(v->debug_dr, code_address(v));
		if (bits)
			debug_exit(v, VEC_DB, bits);
	}
	if ((v->rflags & FLAG_RF) || !(v->dr[7] & 0xff))
		return;
	bits = code_breakpoints(v->dr, code_address(v));
	if (!bits)
		return;
	pend_debug_exception(v, bits);
	vcpu_restart(v);
}

static bool clears_tf_first(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_INT_N:
	case SEM_INT3:
	case SEM_INT1:
	case SEM_INTO:
	case SEM_SYSCALL:
		return true;
	default:
		return false;
	}
}

void debug_after(struct vcpu *v, bool had_tf)
{
	uint64_t bits = v->debug_pending;

	if (v->shadow & KVM_X86_SHADOW_INT_MOV_SS)
		return;
	v->debug_pending = 0;
	if (had_tf && !(clears_tf_first(v->insn) && !(v->rflags & FLAG_TF)))
		bits |= DR6_BS;
	v->insn_rip = v->rip;
	if (v->guest_debug & KVM_GUESTDBG_SINGLESTEP)
		debug_exit(v, VEC_DB, bits | DR6_BS);
	if (!bits)
		return;
	if (v->guest_debug & KVM_GUESTDBG_USE_HW_BP)
		debug_exit(v, VEC_DB, bits);
	pend_debug_exception(v, bits);
}
