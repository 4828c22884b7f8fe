/* SPDX-License-Identifier: BSD-2-Clause */
/* softkvm in this process. */
#include <errno.h>

#include "kvm/binding.h"
#include "softkvm/api/softkvm.h"

int kvm_soft_open(const char *engine, union kvm_handle *handle)
{
	return softkvm_open(engine, &handle->soft);
}

static long soft_ioctl(union kvm_handle handle, unsigned long request, void *arg, union kvm_handle *child)
{
	long ret = softkvm_ioctl(handle.soft, request, (uintptr_t)arg, child ? &child->soft : NULL);

	if (request == KVM_CREATE_VM && !ret)
		softkvm_use_huge_pages(child->soft); /* guest RAM is ram_alloc()'s */
	return ret;
}

static struct kvm_run *soft_map(union kvm_handle vcpu, size_t size)
{
	return softkvm_run_area(vcpu.soft);
}

static void soft_unmap(struct kvm_run *run, size_t size)
{
}

static int soft_run(struct kvm_vcpu *vcpu)
{
	return softkvm_ioctl(vcpu->handle.soft, KVM_RUN, 0, NULL);
}

static void soft_kick(struct kvm_vcpu *vcpu)
{
	softkvm_kick(vcpu->handle.soft);
}

static void soft_memory_written(union kvm_handle vm, uint64_t gpa, uint64_t len)
{
	softkvm_memory_written(vm.soft, gpa, len);
}

static void soft_close(union kvm_handle handle)
{
	softkvm_close(handle.soft);
}

const struct kvm_binding kvm_binding_soft = {
	.ioctl = soft_ioctl,
	.map_run_area = soft_map,
	.unmap_run_area = soft_unmap,
	.run = soft_run,
	.kick = soft_kick,
	.memory_written = soft_memory_written,
	.close = soft_close,
};
