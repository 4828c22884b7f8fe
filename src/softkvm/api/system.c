/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ioctls of /dev/kvm itself: what can be had, and making a VM. CHECK_EXTENSION also works on a VM.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>

#include "softkvm/api/cpuid_list.h"
#include "softkvm/api/handle.h"
#include "softkvm/api/msr_list.h"
#include "softkvm/api/usercopy.h"
#include "softkvm/interpret/cpuid.h"
#include "softkvm/interpret/msr.h"

static long get_api_version(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return KVM_API_VERSION;
}

static long do_check_extension(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return check_extension(h->vm, arg);
}

static long get_vcpu_mmap_size(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return RUN_AREA_PAGES * PAGE_SIZE;
}

/* The argument is the VM's type; x86 knows only 0. */
static long create_vm(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct softkvm *vm_handle;
	int err;

	if (!child)
		return -EINVAL;
	vm_handle = calloc(1, sizeof(*vm_handle));
	if (!vm_handle)
		return -ENOMEM;
	vm_handle->kind = HANDLE_VM;
	err = vm_create(h->engine, &vm_handle->vm);
	if (err) {
		free(vm_handle);
		return err;
	}
	*child = vm_handle;
	return 0;
}

static long get_supported_cpuid(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_cpuid2 *list = cpuid_list_new();
	long ret;

	if (!list)
		return -ENOMEM;
	ret = cpuid_supported(list);
	if (!ret)
		ret = cpuid_list_out(arg, list);
	free(list);
	return ret;
}

/* Features that run only because somebody emulates them: here the whole CPU is emulated, so none is apart. */
static long get_emulated_cpuid(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_cpuid2 *list = cpuid_list_new();
	long ret;

	if (!list)
		return -ENOMEM;
	list->nent = 0;
	ret = cpuid_list_out(arg, list);
	free(list);
	return ret;
}

static long get_msr_index_list(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return msr_index_list_out(arg, msr_save_list, msr_save_count);
}

static long get_msr_feature_index_list(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return msr_index_list_out(arg, msr_feature_list, msr_feature_count);
}

static int feature_msr(void *opaque, uint32_t index, uint64_t *value)
{
	return msr_feature_get(index, value);
}

static long get_feature_msrs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return msr_list_io(arg, feature_msr, NULL, true);
}

static long get_mce_cap(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	*(uint64_t *)data = MCG_CAP_SUPPORTED;
	return 0;
}

const struct ioctl_row system_ioctls[] = {
	{KVM_GET_API_VERSION, "KVM_GET_API_VERSION", HANDLE_SYSTEM, ARG_ZERO, get_api_version},
	{KVM_CREATE_VM, "KVM_CREATE_VM", HANDLE_SYSTEM, ARG_ZERO, create_vm},
	{KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", HANDLE_SYSTEM | HANDLE_VM, 0, do_check_extension},
	{KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", HANDLE_SYSTEM, ARG_ZERO, get_vcpu_mmap_size},
	{KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", HANDLE_SYSTEM, 0, get_supported_cpuid},
	{KVM_GET_EMULATED_CPUID, "KVM_GET_EMULATED_CPUID", HANDLE_SYSTEM, 0, get_emulated_cpuid},
	{KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", HANDLE_SYSTEM, 0, get_msr_index_list},
	{KVM_GET_MSR_FEATURE_INDEX_LIST, "KVM_GET_MSR_FEATURE_INDEX_LIST", HANDLE_SYSTEM, 0,
	 get_msr_feature_index_list},
	{KVM_GET_MSRS, "KVM_GET_MSRS", HANDLE_SYSTEM, 0, get_feature_msrs},
	{KVM_X86_GET_MCE_CAP_SUPPORTED, "KVM_X86_GET_MCE_CAP_SUPPORTED", HANDLE_SYSTEM, ARG_OUT, get_mce_cap},
	{0},
};
