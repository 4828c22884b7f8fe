/* SPDX-License-Identifier: BSD-2-Clause */
/* Control registers with their rules: control.c; shared with the MSR code for EFER. */
#ifndef GUISE_SOFTKVM_INTERPRET_CONTROL_H
#define GUISE_SOFTKVM_INTERPRET_CONTROL_H

#include "softkvm/vcpu.h"

/* Guest writes; false: #GP(0), nothing changed. */
bool cr0_write(struct vcpu *v, uint64_t value);
bool cr3_write(struct vcpu *v, uint64_t value);
bool cr4_write(struct vcpu *v, uint64_t value);
bool efer_write(struct vcpu *v, uint64_t value);
bool xcr0_write(struct vcpu *v, uint64_t value);

/* Bits of CR4 and EFER that the guest's CPUID allows. */
uint64_t cr4_allowed(const struct vcpu *v);
uint64_t efer_allowed(const struct vcpu *v);

#endif
