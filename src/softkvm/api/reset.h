/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU's registers after power-on and INIT, and the derived fields that follow from registers.
 */
#ifndef GUISE_SOFTKVM_API_RESET_H
#define GUISE_SOFTKVM_API_RESET_H

#include "softkvm/vcpu.h"

/* Power-on or RESET: everything, local APIC and clocks included. vCPU stopped. */
void vcpu_power_on(struct vcpu *v);
/* INIT (SDM volume 3, table 10-1): what INIT leaves alone stays. vCPU stopped, or its own thread. */
void vcpu_init_reset(struct vcpu *v);
/* CR0, EFER, RFLAGS.VM, CS or SS were set from outside: v->mode, v->cpl and the MMU follow. */
void vcpu_registers_replaced(struct vcpu *v);

#endif
