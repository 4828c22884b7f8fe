/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Handlers that stand in state.c's table and are written in events.c and vector.c, or used by sync_regs.c.
 */
#ifndef GUISE_SOFTKVM_API_STATE_ROWS_H
#define GUISE_SOFTKVM_API_STATE_ROWS_H

#include "softkvm/api/handle.h"

ioctl_handler get_vcpu_events, set_vcpu_events, get_mp_state, set_mp_state, interrupt, nmi, setup_mce, set_mce;
ioctl_handler get_regs, set_regs, get_sregs, set_sregs;
ioctl_handler get_fpu, set_fpu, get_xsave, set_xsave;

/*
 * Before state that an exception's payload goes to (CR2, DR6, DR7) is told: a user that does not know of payloads will
 * see a pending exception as injected, so it has to find the payload applied, in whatever order it reads.
 */
void settle_exception(struct vcpu *v);

/* Is this a value XSETBV would take, with the components that the vCPU's CPUID offers? */
bool is_xcr0_valid(const struct vcpu *v, uint64_t xcr0);

#endif
