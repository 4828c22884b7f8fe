/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Single steps and code breakpoints, the guest's (TF, DR0-3) and the user's (KVM_SET_GUEST_DEBUG). Data
 * breakpoints are found by mmu/watch.c and reported here. Used by the run loop.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_DEBUG_H
#define GUISE_SOFTKVM_INTERPRET_DEBUG_H

#include "softkvm/vcpu.h"

/* Must instructions be executed one at a time so that debug_before() and debug_after() see each? */
bool debug_steps(const struct vcpu *v);
/* Before the instruction at RIP: leaves or raises #DB if a code breakpoint is there. */
void debug_before(struct vcpu *v);
/* After an instruction that began with TF as given: pends #DB, or leaves for the user. */
void debug_after(struct vcpu *v, bool had_tf);
/* Leave KVM_RUN with KVM_EXIT_DEBUG. INT3 with KVM_GUESTDBG_USE_SW_BP comes here with VEC_BP. */
_Noreturn void debug_exit(struct vcpu *v, enum x86_vector vector, uint64_t dr6);

#endif
