/* SPDX-License-Identifier: BSD-2-Clause */
/* What a vCPU is before its first instruction: CPUID, MSRs, local APIC pins. */
#ifndef GUISE_MACHINE_CPU_H
#define GUISE_MACHINE_CPU_H

#include "kvm/kvm.h"

/* The engine's supported CPUID with this vCPU's identity and the machine's topology (one package of cpu_count cores). */
int cpu_set_up(struct kvm *kvm, struct kvm_vcpu *vcpu, unsigned index, unsigned cpu_count);

#endif
