/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Model-specific registers, for RDMSR/WRMSR and for KVM_GET_MSRS/KVM_SET_MSRS.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_MSR_H
#define GUISE_SOFTKVM_INTERPRET_MSR_H

#include "softkvm/vcpu.h"

/* 0, or -1: #GP for the guest, a refusal for the user. host: the user asks, who may do more than the guest. */
int msr_get(struct vcpu *v, uint32_t index, uint64_t *value, bool host);
int msr_set(struct vcpu *v, uint32_t index, uint64_t value, bool host);

/* What makes up a vCPU's state (KVM_GET_MSR_INDEX_LIST), and what describes features (KVM_GET_MSR_FEATURE_INDEX_LIST). */
extern const uint32_t msr_save_list[], msr_feature_list[];
extern const unsigned msr_save_count, msr_feature_count;
int msr_feature_get(uint32_t index, uint64_t *value);

#endif
