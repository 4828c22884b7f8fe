/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Interrupt controllers and clocks behind the KVM contract: local APICs, I/O APIC, two PICs, PIT, MSI routing,
 * kvmclock. Any thread may raise interrupts; a vCPU's own register accesses come from its thread.
 */
#ifndef GUISE_SOFTKVM_IRQCHIP_H
#define GUISE_SOFTKVM_IRQCHIP_H

#include "softkvm/vm.h"

int irqchip_new(struct vm *vm);		/* KVM_CREATE_IRQCHIP: PICs, I/O APIC, default routing. 0/-errno */
void irqchip_free(struct vm *vm);
int lapic_new(struct vcpu *v);		/* 0/-errno */
void lapic_free(struct vcpu *v);
void lapic_reset(struct vcpu *v, bool init);

/* --- vCPU thread, at an instruction boundary --- */
/* Is an external interrupt (local APIC or PIC through LINT0) deliverable, IF aside? Cheap when nothing pends. */
bool irqchip_has_interrupt(struct vcpu *v);
/* Does a PIC of the user's (no irqchip here, or the split one) find this vCPU ready to take its next interrupt? */
bool lapic_accepts_user_interrupt(struct vcpu *v);
/* Acknowledge it: its vector; -1 if none is left. */
int irqchip_ack(struct vcpu *v);
/* INIT/SIPI pending: updates mp_state and registers. */
void lapic_accept_init_sipi(struct vcpu *v);
/* Absolute CLOCK_MONOTONIC ns of this vCPU's next APIC timer event, UINT64_MAX if none: how long HLT may sleep. */
uint64_t lapic_timer_deadline_ns(struct vcpu *v);
void lapic_timer_poll(struct vcpu *v);

/* --- register accesses by the guest (vCPU thread) --- */
/* MMIO to the local APIC page of this vCPU or to the I/O APIC; false: not ours. */
bool irqchip_mmio(struct vcpu *v, gpa_t gpa, void *data, unsigned size, bool is_write);
/* Port access to PICs, PIT, ELCR, port 61h; false: not ours. */
bool irqchip_pio(struct vcpu *v, uint16_t port, void *data, unsigned size, bool is_write);
/* x2APIC and TSC_DEADLINE, APIC_BASE MSRs: 0, or -1 for #GP. */
int lapic_msr_read(struct vcpu *v, uint32_t msr, uint64_t *value);
int lapic_msr_write(struct vcpu *v, uint32_t msr, uint64_t value);
uint64_t lapic_get_cr8(struct vcpu *v);
void lapic_set_cr8(struct vcpu *v, uint64_t cr8);

/* --- KVM's paravirtual calls --- */
/*
 * KVM_HC_SEND_IPI: to the vCPUs whose APIC ids are min_id + n, n the bits set in both bitmap words (64 or, for 32-bit
 * guests, 32 bits each). How many got it, or -KVM_EINVAL.
 */
long lapic_pv_send_ipi(struct vcpu *v, uint64_t bitmap_low, uint64_t bitmap_high, uint32_t min_id, uint32_t icr,
		       unsigned bits_per_word);
/* KVM_HC_KICK_CPU: the vCPU leaves HLT without an interrupt. */
void lapic_pv_kick(struct vm *vm, uint32_t apic_id);
/* After VREQ_IOAPIC_EOI: the vector for KVM_EXIT_IOAPIC_EOI. */
uint8_t lapic_ioapic_eoi_vector(struct vcpu *v);

/* --- any thread --- */
int irqchip_line(struct vm *vm, uint32_t gsi, int level);	/* KVM_IRQ_LINE: 1 delivered, 0 coalesced, <0 -errno */
int irqchip_msi(struct vm *vm, uint64_t address, uint32_t data); /* KVM_SIGNAL_MSI: likewise */

#endif
