/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * INT n, INT3, INTO, INT1 and the UD instructions. In virtual-8086 mode INT n follows IOPL and, with CR4.VME, the
 * redirection bitmap of the TSS (SDM volume 3, 20.3.3).
 */
#include "softkvm/interpret/debug.h"
#include "softkvm/interpret/descriptor.h"
#include "softkvm/interpret/ops.h"

void op_ud(struct vcpu *v, const struct insn *i)
{
	raise_exception(v, VEC_UD);
}

/* Is this vector left to the virtual-8086 program's own table? */
static bool is_redirected(struct vcpu *v, uint8_t vector)
{
	const struct x86_seg *tr = &v->seg[SEG_TR];
	uint16_t io_base = mmu_read_sys(v, tr->base + 0x66, 2);
	uint32_t at = io_base - 32u + vector / 8;

	if (io_base < 32 || at > tr->limit)
		return false;
	return !(mmu_read_sys(v, tr->base + at, 1) >> (vector % 8) & 1);
}

/* INT n inside virtual-8086 mode, through the table at linear 0. */
static void deliver_redirected(struct vcpu *v, uint8_t vector)
{
	uint64_t flags = v->rflags;
	uint16_t ip = mmu_read(v, vector * 4, 2), sel = mmu_read(v, vector * 4 + 2, 2);

	if (iopl(v) < 3)
		flags = (flags & ~(uint64_t)FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
	stack_write(v, -2, 2, flags);
	stack_write(v, -4, 2, v->seg[SEG_CS].sel);
	stack_write(v, -6, 2, v->rip);
	stack_add(v, -6);
	v->rflags &= ~(uint64_t)(FLAG_TF | FLAG_RF | (iopl(v) < 3 ? FLAG_VIF : FLAG_IF));
	cs_commit(v, seg_real(v, SEG_CS, sel), 3);
	v->rip = ip;
}

void op_int_n(struct vcpu *v, const struct insn *i)
{
	uint8_t vector = i->imm;

	if (v->rflags & FLAG_VM) {
		if ((v->cr4 & CR4_VME) && is_redirected(v, vector)) {
			deliver_redirected(v, vector);
			return;
		}
		if (iopl(v) < 3)
			raise_error(v, VEC_GP, 0);
	}
	event_deliver(v, vector, EVENT_SOFT_INT, false, 0, v->rip);
}

void op_int3(struct vcpu *v, const struct insn *i)
{
	if (v->guest_debug & KVM_GUESTDBG_USE_SW_BP) {
		v->rip = v->insn_rip; /* the user is told where the breakpoint is */
		debug_exit(v, VEC_BP, 0);
	}
	event_deliver(v, VEC_BP, EVENT_SOFT_EXCEPTION, false, 0, v->rip);
}

void op_into(struct vcpu *v, const struct insn *i)
{
	if (v->rflags & FLAG_OF)
		event_deliver(v, VEC_OF, EVENT_SOFT_EXCEPTION, false, 0, v->rip);
}

/* A data breakpoint that MOV SS before it held back comes with this #DB, not after it. */
void op_int1(struct vcpu *v, const struct insn *i)
{
	uint64_t held = v->debug_pending;

	event_deliver(v, VEC_DB, EVENT_ICEBP, false, 0, v->rip);
	v->dr[6] |= held;
	v->debug_pending = 0;
}
