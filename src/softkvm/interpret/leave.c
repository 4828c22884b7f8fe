/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Leaving an instruction before it commits: by a fault, or by a VM exit after which it restarts.
 *
 * All ways end in the run loop's __builtin_setjmp with RIP back at the instruction. An exception becomes
 * v->exception_pending, which the run loop has event.c deliver; a VM exit has v->run filled by its cause.
 * Whatever an instruction holds across a point where it may leave is released here.
 */
#include "softkvm/interpret/operand.h"

#include <errno.h>

_Noreturn void vcpu_restart(struct vcpu *v)
{
	if (v->holds_split_lock) {
		v->holds_split_lock = false;
		pthread_mutex_unlock(&v->vm->split_lock);
	}
	v->rip = v->insn_rip;
	__builtin_longjmp(v->leave_buf, 1);
}

static _Noreturn void leave_by_exception(struct vcpu *v, uint8_t vector, bool has_error, uint32_t error)
{
	v->exception_pending = true;
	v->exception_vector = vector;
	v->exception_has_error = has_error;
	v->exception_error = error;
	vcpu_restart(v);
}

_Noreturn void raise_exception(struct vcpu *v, enum x86_vector vector)
{
	v->exception_has_payload = false;
	v->exception_payload = 0;
	leave_by_exception(v, (uint8_t)vector, false, 0);
}

_Noreturn void raise_error(struct vcpu *v, enum x86_vector vector, uint32_t error)
{
	v->exception_has_payload = false;
	v->exception_payload = 0;
	leave_by_exception(v, (uint8_t)vector, true, error);
}

_Noreturn void raise_page_fault(struct vcpu *v, gva_t gva, uint32_t error)
{
	v->exception_has_payload = true;
	v->exception_payload = gva;
	leave_by_exception(v, VEC_PF, true, error);
}

_Noreturn void vcpu_leave(struct vcpu *v)
{
	v->leave_to_user = true;
	vcpu_restart(v);
}

_Noreturn void vcpu_leave_unbacked(struct vcpu *v)
{
	v->leave_error = -EFAULT;
	vcpu_leave(v);
}
