/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Model-specific registers, for RDMSR/WRMSR and for KVM_GET_MSRS/KVM_SET_MSRS.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_MSR_H
#define GUISE_SOFTKVM_INTERPRET_MSR_H

#include "softkvm/vcpu.h"

#define PLATFORM_INFO_CPUID_FAULT (1ull << 31)
#define MISC_FEATURES_CPUID_FAULT 1ull /* CPUID above ring 0: #GP */

enum msr_refusal {
	MSR_REFUSED = -1,  /* not this value, or not with this CPUID */
	MSR_UNKNOWN = -2,  /* no such register */
	MSR_FILTERED = -3  /* the user's filter: for the guest only */
};

/* 0, or one of the above: #GP for the guest, a refusal for the user. host: the user asks, who may do more than the guest. */
int msr_get(struct vcpu *v, uint32_t index, uint64_t *value, bool host);
int msr_set(struct vcpu *v, uint32_t index, uint64_t value, bool host);

/* --- accesses of the guest that the user decides on (rdmsr.c) --- */

struct msr_filter { /* KVM_X86_SET_MSR_FILTER, checked */
	bool default_allow;
	unsigned count;
	struct msr_range {
		uint32_t flags, base, count; /* KVM_MSR_FILTER_* */
		uint8_t *bitmap;	     /* owned; bit n for base + n: allowed */
	} range[KVM_MSR_FILTER_MAX_RANGES];
};

/* What makes up a vCPU's state (KVM_GET_MSR_INDEX_LIST), and what describes features (KVM_GET_MSR_FEATURE_INDEX_LIST). */
extern const uint32_t msr_save_list[], msr_feature_list[];
extern const unsigned msr_save_count, msr_feature_count;
int msr_feature_get(uint32_t index, uint64_t *value);

#endif
