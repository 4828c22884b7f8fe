/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What ioctls do with the interrupt controllers: create, configure, save, restore. All called by api/ with vm->lock
 * held; the functions on a vCPU with the vCPU stopped. 0/-errno.
 */
#ifndef GUISE_SOFTKVM_IRQCHIP_STATE_H
#define GUISE_SOFTKVM_IRQCHIP_STATE_H

#include <linux/kvm.h>
#include "softkvm/vm.h"

int irqchip_new_split(struct vm *vm); /* local APICs and routing only */
int irqchip_get_state(struct vm *vm, struct kvm_irqchip *chip);
int irqchip_set_state(struct vm *vm, const struct kvm_irqchip *chip);

/* -EINVAL: unknown type, pin or GSI out of range, two entries of one kind for a GSI that may have one. */
int routing_set(struct vm *vm, const struct kvm_irq_routing_entry *entries, uint32_t count);

bool pit_exists(const struct vm *vm);
int pit_new(struct vm *vm, uint32_t flags); /* KVM_PIT_SPEAKER_DUMMY: port 61h is ours too */
void pit_get_state(struct vm *vm, struct kvm_pit_state2 *state);
int pit_set_state(struct vm *vm, const struct kvm_pit_state2 *state);
void pit_set_reinject(struct vm *vm, bool reinject);

void lapic_get_state(struct vcpu *v, struct kvm_lapic_state *state);
int lapic_set_state(struct vcpu *v, const struct kvm_lapic_state *state);
/* As a write of MSR_APIC_BASE, by the user: -EINVAL for what the architecture forbids. */
int lapic_set_base(struct vcpu *v, uint64_t base);
/* KVM_INTERRUPT with the split irqchip: the user's PIC has this vector. -EEXIST: one is waiting already. */
int lapic_queue_extint(struct vcpu *v, uint8_t vector);
/* Would the local APIC take an interrupt from a PIC now (LINT0 as ExtINT, or APIC off)? */
bool lapic_accepts_extint(struct vcpu *v);
/* SIPI vector not yet taken, for KVM_GET/SET_VCPU_EVENTS. */
uint32_t lapic_sipi_vector(struct vcpu *v);
void lapic_set_sipi_vector(struct vcpu *v, uint32_t vector);

#endif
