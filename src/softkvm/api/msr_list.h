/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lists of MSRs to and from the caller: struct kvm_msr_list and struct kvm_msrs.
 */
#ifndef GUISE_SOFTKVM_API_MSR_LIST_H
#define GUISE_SOFTKVM_API_MSR_LIST_H

#include <stdbool.h>
#include <stdint.h>

/* KVM_GET_MSR_INDEX_LIST: 0, -E2BIG (the caller's nmsrs is set to what is needed), -EFAULT. */
long msr_index_list_out(uintptr_t arg, const uint32_t *list, uint32_t count);

/*
 * KVM_GET_MSRS and KVM_SET_MSRS: call `access` for each entry until it fails (non-zero); copy the entries back if
 * `out`. Returns the number of entries done, -E2BIG or -EFAULT.
 */
long msr_list_io(uintptr_t arg, int (*access)(void *opaque, uint32_t index, uint64_t *value), void *opaque, bool out);

#endif
