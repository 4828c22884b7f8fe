/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUISE_SOFTKVM_INTERPRET_RUN_H
#define GUISE_SOFTKVM_INTERPRET_RUN_H

#include "softkvm/vcpu.h"

/*
 * KVM_RUN: run the vCPU until an exit. 0: v->run->exit_reason says why; -EINTR: kicked or signalled. Called
 * by the vCPU's thread with the vCPU's ioctls locked out.
 */
int vcpu_run(struct vcpu *v);

#endif
