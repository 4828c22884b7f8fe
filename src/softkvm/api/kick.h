/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Getting a vCPU's attention, putting it to sleep, and stopping all of them. How the pieces fit: kick.c.
 */
#ifndef GUISE_SOFTKVM_API_KICK_H
#define GUISE_SOFTKVM_API_KICK_H

#include "softkvm/vm.h"

/* --- the vCPU's own thread, called by the run loop --- */

/*
 * Entering KVM_RUN's loop (to VCPU_RUNNING, unless vm_stop() is at work: then after it) and leaving it (to
 * VCPU_OUTSIDE). Look at requests after entering.
 */
void vcpu_enter(struct vcpu *v);
void vcpu_exit(struct vcpu *v);
/*
 * Sleep until a request is posted or CLOCK_MONOTONIC reaches deadline_ns (UINT64_MAX: no deadline). 0: look at
 * requests and timers again; -EINTR: a signal came.
 */
int vcpu_halt(struct vcpu *v, uint64_t deadline_ns);
/* On VREQ_PAUSE: hold still until vm_resume(). The bit is cleared by vm_resume(), not by the vCPU. */
void vcpu_pause_point(struct vcpu *v);
/* Take all posted requests but VREQ_PAUSE, atomically. */
uint32_t vcpu_take_requests(struct vcpu *v);

/* --- any thread that is not inside KVM_RUN; vm->lock held --- */

/*
 * Returns when no vCPU of the VM is VCPU_RUNNING; none becomes so until vm_resume(). The caller may then change
 * memory slots and free what vCPUs look up without locks. `requests` are posted to every vCPU, to be served
 * before it executes anything more.
 */
void vm_stop(struct vm *vm, uint32_t requests);
void vm_resume(struct vm *vm);

#endif
