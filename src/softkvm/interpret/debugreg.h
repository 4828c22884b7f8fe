/* SPDX-License-Identifier: BSD-2-Clause */
/* Breakpoints of the debug registers in force: the guest's, or the user's of KVM_SET_GUEST_DEBUG. vCPU thread. */
#ifndef GUISE_SOFTKVM_INTERPRET_DEBUGREG_H
#define GUISE_SOFTKVM_INTERPRET_DEBUGREG_H

#include "softkvm/vcpu.h"

/* A port was accessed: notes I/O breakpoints in v->debug_pending. */
void debug_io_access(struct vcpu *v, uint16_t port, unsigned size);

#endif
