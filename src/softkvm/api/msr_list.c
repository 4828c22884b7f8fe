/* SPDX-License-Identifier: BSD-2-Clause */
#include "softkvm/api/msr_list.h"

#include <errno.h>
#include <linux/kvm.h>

#include "softkvm/api/usercopy.h"

enum { MAX_MSRS = 255 }; /* in one call, as the kernel */

long msr_index_list_out(uintptr_t arg, const uint32_t *list, uint32_t count)
{
	struct kvm_msr_list header;
	uint32_t room;

	if (copy_in(&header, arg, sizeof(header)))
		return -EFAULT;
	room = header.nmsrs;
	header.nmsrs = count;
	if (copy_out(arg, &header, sizeof(header)))
		return -EFAULT;
	if (room < count)
		return -E2BIG;
	return copy_out(arg + sizeof(header), list, count * sizeof(*list));
}

long msr_list_io(uintptr_t arg, int (*access)(void *opaque, uint32_t index, uint64_t *value), void *opaque, bool out)
{
	struct kvm_msr_entry entries[MAX_MSRS];
	struct kvm_msrs header;
	uint32_t done;

	if (copy_in(&header, arg, sizeof(header)))
		return -EFAULT;
	if (header.nmsrs > MAX_MSRS)
		return -E2BIG;
	if (copy_in(entries, arg + sizeof(header), header.nmsrs * sizeof(*entries)))
		return -EFAULT;
	for (done = 0; done < header.nmsrs; done++) {
		uint64_t value = entries[done].data;

		if (access(opaque, entries[done].index, &value))
			break;
		entries[done].data = value;
	}
	if (out && copy_out(arg + sizeof(header), entries, header.nmsrs * sizeof(*entries)))
		return -EFAULT;
	return done;
}
