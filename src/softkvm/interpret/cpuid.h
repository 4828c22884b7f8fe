/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What CPUID offers, and what follows for the vCPU.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_CPUID_H
#define GUISE_SOFTKVM_INTERPRET_CPUID_H

#include <linux/kvm.h>

#include "softkvm/vcpu.h"

/* All that this host's engine can offer, into a list with room for list->nent entries: 0 or -E2BIG. Any thread. */
int cpuid_supported(struct kvm_cpuid2 *list);
/* v->cpuid was replaced: derive v->feature and all else that depends on it. 0/-errno. */
int cpuid_changed(struct vcpu *v);

/* The guest's entry for a leaf, or NULL. */
const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *v, uint32_t function, uint32_t index);
/* Is a bit of EAX EBX ECX EDX (0..3) of a leaf set? */
enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };
bool cpuid_has(const struct vcpu *v, uint32_t function, uint32_t index, enum cpuid_reg reg, unsigned bit);
/* May the guest use one of KVM's features (KVM_FEATURE_*)? All, unless the user has them held to CPUID. */
bool cpuid_has_pv(const struct vcpu *v, unsigned feature);
/* State components the guest may enable in XCR0 (leaf 0Dh). */
uint64_t cpuid_xcr0_mask(const struct vcpu *v);

/* IA32_ARCH_CAPABILITIES: what the guest need not defend itself against (cpuid_offer.c). */
uint64_t cpuid_arch_capabilities(void);

#endif
