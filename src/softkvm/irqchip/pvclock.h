/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM's paravirtual clock, steal time and PV EOI: MSRs 0x11, 0x12 and 0x4b564d00..08, and pages in guest memory.
 */
#ifndef GUISE_SOFTKVM_IRQCHIP_PVCLOCK_H
#define GUISE_SOFTKVM_IRQCHIP_PVCLOCK_H

#include "softkvm/vm.h"

/* Frequency of the local APIC timer's input clock, told in CPUID leaf 0x40000010 (kHz): 1 GHz, as KVM's. */
enum { APIC_BUS_KHZ = 1000000 };

int pvclock_new(struct vm *vm); /* 0/-errno */
void pvclock_free(struct vm *vm);

/* --- vCPU thread, or the vCPU stopped --- */
/*
 * Guest or user access to one of the paravirtual MSRs: 0; 1: not one of these; -1: #GP. Whether CPUID offers
 * the feature is the caller's to check.
 */
int pvclock_msr_write(struct vcpu *v, uint32_t msr, uint64_t value);
int pvclock_msr_read(struct vcpu *v, uint32_t msr, uint64_t *value);
/* On VREQ_CLOCK and after a change of the TSC: bring the guest's clock page up to date. */
void pvclock_update(struct vcpu *v);
/*
 * Steal time. start/stop: KVM_RUN begins, ends. sleep/wake: around a halt, during which other vCPUs may leave a TLB
 * flush for us. tick: now and then. While VCPU_RUNNING only.
 */
void pvclock_steal_start(struct vcpu *v);
void pvclock_steal_stop(struct vcpu *v);
void pvclock_steal_tick(struct vcpu *v);
void pvclock_sleep(struct vcpu *v);
void pvclock_wake(struct vcpu *v);
/* KVM_KVMCLOCK_CTRL: tell the guest that it was stopped, so that its watchdogs do not bark. -EINVAL: no clock page. */
int pvclock_guest_stopped(struct vcpu *v);

/* --- ioctls; vm->lock held --- */
uint64_t pvclock_ns_at(struct vm *vm, uint64_t host_tsc_value); /* the guest's kvmclock when the host TSC is this */
void pvclock_set_ns(struct vm *vm, uint64_t ns);

#endif
