/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * struct kvm_cpuid2 with its variable number of entries, to and from the caller.
 */
#ifndef GUISE_SOFTKVM_API_CPUID_LIST_H
#define GUISE_SOFTKVM_API_CPUID_LIST_H

#include <linux/kvm.h>
#include <stdint.h>

enum { CPUID_MAX_ENTRIES = 256 };

/* An empty list with room for CPUID_MAX_ENTRIES, nent saying so; free() it. NULL: no memory. */
struct kvm_cpuid2 *cpuid_list_new(void);
/* Give `list` to the caller, whose nent says how many fit: 0, -E2BIG, -EFAULT. */
long cpuid_list_out(uintptr_t arg, const struct kvm_cpuid2 *list);
/* The caller's list, in the new or (KVM_SET_CPUID) the old form: 0 and *list, -E2BIG, -EFAULT, -ENOMEM. */
long cpuid_list_in(uintptr_t arg, struct kvm_cpuid2 **list);
long cpuid_list_in_old(uintptr_t arg, struct kvm_cpuid2 **list);

#endif
