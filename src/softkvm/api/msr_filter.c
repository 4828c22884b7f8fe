/* SPDX-License-Identifier: BSD-2-Clause */
/* KVM_X86_SET_MSR_FILTER: which MSRs the guest may read and write. Used by interpret/rdmsr.c. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>

#include "softkvm/api/handle.h"
#include "softkvm/api/kick.h"
#include "softkvm/api/usercopy.h"
#include "softkvm/interpret/msr.h"

void msr_filter_free(struct msr_filter *filter)
{
	for (unsigned k = 0; filter && k < filter->count; k++)
		free(filter->range[k].bitmap);
	free(filter);
}

/* One of the user's ranges; an empty one is none. */
static int range_in(struct msr_filter *filter, const struct kvm_msr_filter_range *in)
{
	const uint32_t accesses = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
	size_t size = ((size_t)in->nmsrs + 63) / 64 * 8; /* the user's bitmap is of 64-bit words */
	struct msr_range *range = &filter->range[filter->count];

	if (!in->nmsrs)
		return 0;
	if (in->flags & ~accesses || !in->flags || size > KVM_MSR_FILTER_MAX_BITMAP_SIZE)
		return -EINVAL;
	*range = (struct msr_range){.flags = in->flags, .base = in->base, .count = in->nmsrs, .bitmap = malloc(size)};
	if (!range->bitmap)
		return -ENOMEM;
	filter->count++;
	return copy_in(range->bitmap, (uintptr_t)in->bitmap, size);
}

static bool has_ranges(const struct kvm_msr_filter *in)
{
	for (unsigned k = 0; k < KVM_MSR_FILTER_MAX_RANGES; k++)
		if (in->ranges[k].nmsrs)
			return true;
	return false;
}

static void replace(struct vm *vm, struct msr_filter *filter)
{
	struct msr_filter *old = vm->msr_filter;

	vm_stop(vm, 0);
	vm->msr_filter = filter;
	vm_resume(vm);
	msr_filter_free(old);
}

long set_msr_filter(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_msr_filter *in = data;
	struct msr_filter *filter;
	int err = 0;

	if (in->flags & ~(uint32_t)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	if (in->flags & KVM_MSR_FILTER_DEFAULT_DENY && !has_ranges(in))
		return -EINVAL;
	filter = calloc(1, sizeof(*filter));
	if (!filter)
		return -ENOMEM;
	filter->default_allow = !(in->flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (unsigned k = 0; k < KVM_MSR_FILTER_MAX_RANGES && !err; k++)
		err = range_in(filter, &in->ranges[k]);
	if (err) {
		msr_filter_free(filter);
		return err;
	}
	replace(h->vm, filter);
	return 0;
}
