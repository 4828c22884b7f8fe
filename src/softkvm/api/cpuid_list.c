/* SPDX-License-Identifier: BSD-2-Clause */
#include "softkvm/api/cpuid_list.h"

#include <errno.h>
#include <stdlib.h>

#include "softkvm/api/usercopy.h"

struct kvm_cpuid2 *cpuid_list_new(void)
{
	struct kvm_cpuid2 *list =
		calloc(1, sizeof(*list) + CPUID_MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2));

	if (list)
		list->nent = CPUID_MAX_ENTRIES;
	return list;
}

long cpuid_list_out(uintptr_t arg, const struct kvm_cpuid2 *list)
{
	struct kvm_cpuid2 header;

	if (copy_in(&header, arg, sizeof(header)))
		return -EFAULT;
	if (header.nent < list->nent)
		return -E2BIG;
	header.nent = list->nent;
	if (copy_out(arg + sizeof(header), list->entries, list->nent * sizeof(*list->entries)) ||
	    copy_out(arg, &header, sizeof(header)))
		return -EFAULT;
	return 0;
}

static long header_in(uintptr_t arg, struct kvm_cpuid2 **list)
{
	struct kvm_cpuid2 header; /* struct kvm_cpuid begins alike */

	if (copy_in(&header, arg, sizeof(header)))
		return -EFAULT;
	if (header.nent > CPUID_MAX_ENTRIES)
		return -E2BIG;
	*list = cpuid_list_new();
	if (!*list)
		return -ENOMEM;
	(*list)->nent = header.nent;
	return 0;
}

long cpuid_list_in(uintptr_t arg, struct kvm_cpuid2 **list)
{
	long ret = header_in(arg, list);

	if (ret)
		return ret;
	if (copy_in((*list)->entries, arg + sizeof(struct kvm_cpuid2), (*list)->nent * sizeof(*(*list)->entries))) {
		free(*list);
		return -EFAULT;
	}
	return 0;
}

long cpuid_list_in_old(uintptr_t arg, struct kvm_cpuid2 **list)
{
	struct kvm_cpuid_entry old;
	long ret = header_in(arg, list);

	if (ret)
		return ret;
	for (uint32_t i = 0; i < (*list)->nent; i++) {
		if (copy_in(&old, arg + sizeof(struct kvm_cpuid) + i * sizeof(old), sizeof(old))) {
			free(*list);
			return -EFAULT;
		}
		(*list)->entries[i] = (struct kvm_cpuid_entry2){.function = old.function, .eax = old.eax,
								.ebx = old.ebx, .ecx = old.ecx, .edx = old.edx};
	}
	return 0;
}
