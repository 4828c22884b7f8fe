/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The run loop: what KVM_RUN does.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_RUN_H
#define GUISE_SOFTKVM_INTERPRET_RUN_H

#include "softkvm/vcpu.h"

/* Run until something needs the user: 0 with v->run filled, -EINTR, or another -errno. The vCPU's own thread. */
int vcpu_run(struct vcpu *v);

#endif
