/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU's life, KVM_RUN, and the ioctls that are not about its state (those are in state.c, events.c).
 *
 * The run area is three pages: struct kvm_run, data of port I/O, and the coalesced ring, which belongs to the VM and
 * appears in every run area. The first two are a memfd, so another process's mmap of "the vCPU" can show them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "softkvm/api/cpuid_list.h"
#include "softkvm/api/handle.h"
#include "softkvm/api/kick.h"
#include "softkvm/api/mapping.h"
#include "softkvm/api/msr_list.h"
#include "softkvm/api/reset.h"
#include "softkvm/api/run_mask.h"
#include "softkvm/api/usercopy.h"
#include "softkvm/engine.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/cpuid.h"
#include "softkvm/interpret/msr.h"
#include "softkvm/interpret/run.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/pvclock.h"
#include "softkvm/irqchip/state.h"
#include "softkvm/mmu/mmu.h"

/* The vCPU whose KVM_RUN the calling thread is in: for signal handlers. */
static _Thread_local struct vcpu *volatile running_here;
static _Thread_local volatile bool signal_came; /* since softkvm_run_follows() */
static _Thread_local volatile bool run_is_over; /* in KVM_RUN, but a signal is late for it */

bool softkvm_signal_arrived(int number)
{
	struct vcpu *v = running_here;

	signal_came = true;
	if (!v)
		return false;
	if (!run_is_over)
		vcpu_kick(v, VREQ_EXIT);
	return v->api->run_mask && run_mask_blocks_outside(v->api->run_mask, number);
}

void softkvm_run_follows(void)
{
	signal_came = false;
}

bool is_inside_run(void)
{
	return running_here != NULL;
}

/* --- life --- */

static void run_area_free(struct vcpu *v)
{
	if (v->run)
		munmap(v->run, RUN_AREA_PAGES * PAGE_SIZE);
	if (v->api->run_fd >= 0)
		close(v->api->run_fd);
}

static int run_area_new(struct vcpu *v)
{
	size_t own = RUN_RING_PAGE * PAGE_SIZE;
	uint8_t *area;

	v->api->run_fd = memfd_create("guise-vcpu", MFD_CLOEXEC);
	if (v->api->run_fd < 0 || ftruncate(v->api->run_fd, (off_t)own))
		return -errno;
	area = mmap(NULL, RUN_AREA_PAGES * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return -errno;
	v->run = (struct kvm_run *)area;
	if (mmap(area, own, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, v->api->run_fd, 0) == MAP_FAILED ||
	    mmap(area + own, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 v->vm->coalesced_ring_fd, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

/* Undo vcpu_create() from any point of it; the vCPU is not running. */
void vcpu_destroy(struct vcpu *v)
{
	if (v->vm->engine->vcpu_deinit)
		v->vm->engine->vcpu_deinit(v);
	mmu_deinit(v);
	lapic_free(v);
	fpu_deinit(v);
	run_area_free(v);
	stats_file_free(v->api->stats);
	pthread_mutex_destroy(&v->api->lock);
	free(v->cpuid);
	free(v->feature);
	free(v->api->run_mask);
	free(v->api);
	vcpu_memory_free(v);
}

static struct vcpu *vcpu_alloc(struct vm *vm, uint32_t id)
{
	struct vcpu *v = vcpu_memory_new();

	if (!v)
		return NULL;
	v->api = calloc(1, sizeof(*v->api));
	v->cpuid = cpuid_list_new();
	if (!v->api || !v->cpuid) {
		free(v->api);
		free(v->cpuid);
		vcpu_memory_free(v);
		return NULL;
	}
	v->cpuid->nent = 0;
	v->api->run_fd = -1;
	v->api->tsc_khz = vm->tsc_khz;
	pthread_mutex_init(&v->api->lock, NULL);
	v->vm = vm;
	v->id = id;
	v->counts = &v->own_counts;
	v->platform_info = PLATFORM_INFO_CPUID_FAULT;
	v->index = vm->vcpu_count;
	v->cont = 1;
	return v;
}

static bool has_vcpu(const struct vm *vm, uint32_t id)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (vm->vcpu[i]->id == id)
			return true;
	return false;
}

int vcpu_create(struct vm *vm, uint32_t id, struct vcpu **out)
{
	struct vcpu *v;
	int err;

	if (vm->vcpu_count == VM_MAX_VCPUS)
		return -EINVAL;
	if (has_vcpu(vm, id))
		return -EEXIST;
	v = vcpu_alloc(vm, id);
	if (!v)
		return -ENOMEM;
	err = run_area_new(v);
	if (!err)
		err = fpu_init(v);
	if (!err && vm->irqchip)
		err = lapic_new(v);
	if (!err)
		err = mmu_init(v);
	if (!err && vm->engine->vcpu_init)
		err = vm->engine->vcpu_init(v);
	if (!err)
		err = cpuid_changed(v);
	if (err) {
		vcpu_destroy(v);
		return err;
	}
	vcpu_power_on(v);
	vm->vcpu[v->index] = v;
	atomic_store(&vm->vcpu_count, v->index + 1);
	*out = v;
	return 0;
}

/* --- KVM_RUN --- */

static long enter_guest(struct softkvm *h)
{
	struct vcpu *v = h->vcpu;
	struct run_mask *mask = v->api->run_mask;
	long ret;

	if (mask && run_mask_signal_waits(mask)) {
		v->run->exit_reason = KVM_EXIT_INTR;
		return -EINTR;
	}
	run_is_over = false;
	running_here = v;
	if (signal_came)
		vcpu_kick(v, VREQ_EXIT);
	if (mask)
		run_mask_enter(mask);
	ret = vcpu_run(v);
	run_is_over = true;
	if (mask)
		run_mask_leave(mask);
	running_here = NULL;
	return ret;
}

static long run(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	long ret;

	h->vcpu->api->has_run = true;
	run_mask_allow_engine_signals();
	ret = sync_regs_in(h);
	if (!ret)
		ret = enter_guest(h);
	sync_regs_out(h);
	return ret;
}

/* NULL: no mask. Otherwise a length that must be the kernel's sigset_t, and that. */
static long set_signal_mask(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct vcpu_api *api = h->vcpu->api;
	struct kvm_signal_mask header;
	struct run_mask *mask = NULL;
	uint64_t blocked;

	if (arg) {
		if (copy_in(&header, arg, sizeof(header)))
			return -EFAULT;
		if (header.len != sizeof(blocked))
			return -EINVAL;
		if (copy_in(&blocked, arg + sizeof(header), sizeof(blocked)))
			return -EFAULT;
		mask = run_mask_new(blocked);
		if (!mask)
			return -ENOMEM;
	}
	free(api->run_mask);
	api->run_mask = mask;
	return 0;
}

/* --- CPUID, MSRs --- */

/* Linear addresses of 48 or 57 bits only, if told at all. */
static bool is_cpuid_sane(const struct kvm_cpuid2 *list)
{
	for (uint32_t i = 0; i < list->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &list->entries[i];
		uint32_t bits = e->eax >> 8 & 0xff;

		if (e->function == 0x80000008 && bits != 48 && bits != 57 && bits != 0)
			return false;
	}
	return true;
}

static long replace_cpuid(struct vcpu *v, struct kvm_cpuid2 *list)
{
	struct kvm_cpuid2 *old = v->cpuid;
	size_t size = sizeof(*list) + list->nent * sizeof(*list->entries);
	long ret = 0;

	if (v->api->has_run) { /* only the same once more */
		if (list->nent != old->nent || memcmp(list, old, size))
			ret = -EINVAL;
		free(list);
		return ret;
	}
	if (!is_cpuid_sane(list)) {
		free(list);
		return -EINVAL;
	}
	v->cpuid = list;
	ret = cpuid_changed(v);
	if (ret) {
		v->cpuid = old;
		free(list);
		return ret;
	}
	free(old);
	return 0;
}

static long set_cpuid(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_cpuid2 *list;
	long ret = cpuid_list_in_old(arg, &list);

	return ret ? ret : replace_cpuid(h->vcpu, list);
}

static long set_cpuid2(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_cpuid2 *list;
	long ret = cpuid_list_in(arg, &list);

	return ret ? ret : replace_cpuid(h->vcpu, list);
}

static long get_cpuid2(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return cpuid_list_out(arg, h->vcpu->cpuid);
}

static int get_msr(void *vcpu, uint32_t index, uint64_t *value)
{
	return msr_get(vcpu, index, value, true);
}

static int set_msr(void *vcpu, uint32_t index, uint64_t *value)
{
	return msr_set(vcpu, index, *value, true);
}

static long get_msrs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return msr_list_io(arg, get_msr, h->vcpu, true);
}

static long set_msrs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return msr_list_io(arg, set_msr, h->vcpu, false);
}

/* --- clocks --- */

/* The TSC runs at the host's rate; a rate within the kernel's tolerance of 250 ppm counts as that. */
static long set_tsc_khz(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	uint64_t host = h->vm->tsc_khz, tolerance = host * 250 / 1000000;

	if (!arg)
		arg = host;
	if (arg < host - tolerance || arg > host + tolerance)
		return -EINVAL;
	h->vcpu->api->tsc_khz = (uint32_t)arg;
	return 0;
}

static long get_tsc_khz(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return h->vcpu->api->tsc_khz;
}

static long kvmclock_ctrl(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return pvclock_guest_stopped(h->vcpu);
}

static long tsc_attr_check(const struct kvm_device_attr *attr)
{
	return attr->group == KVM_VCPU_TSC_CTRL && attr->attr == KVM_VCPU_TSC_OFFSET ? 0 : -ENXIO;
}

static long has_attr(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return tsc_attr_check(data);
}

static long get_attr(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_device_attr *attr = data;
	long ret = tsc_attr_check(attr);

	return ret ? ret : copy_out(attr->addr, &h->vcpu->tsc_offset, sizeof(h->vcpu->tsc_offset));
}

static long set_attr(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_device_attr *attr = data;
	long ret = tsc_attr_check(attr);

	if (!ret)
		ret = copy_in(&h->vcpu->tsc_offset, attr->addr, sizeof(h->vcpu->tsc_offset));
	if (!ret)
		vcpu_kick(h->vcpu, VREQ_CLOCK);
	return ret;
}

/* --- the rest --- */

static long translate(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_translation *t = data;
	bool writable = false, user = false;
	gpa_t gpa = UINT64_MAX;

	t->valid = mmu_translate_debug(h->vcpu, t->linear_address, &gpa, &writable, &user);
	t->physical_address = t->valid ? gpa : UINT64_MAX;
	t->writeable = 1; /* as the kernel's KVM: only `valid` is worked out */
	t->usermode = 0;
	return 0;
}

/* TPR accesses need no report: they are handled here. */
static long tpr_access_reporting(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_tpr_access_ctl *ctl = data;

	return ctl->flags ? -EINVAL : 0;
}

static long vcpu_enable_cap(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_enable_cap *cap = data;

	if (cap->flags || cap->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
		return -EINVAL;
	h->vcpu->pv_enforced = cap->args[0];
	return 0;
}

const struct ioctl_row vcpu_ioctls[] = {
	{KVM_RUN, "KVM_RUN", HANDLE_VCPU, ARG_ZERO, run},
	{KVM_SET_SIGNAL_MASK, "KVM_SET_SIGNAL_MASK", HANDLE_VCPU, 0, set_signal_mask},
	{KVM_SET_CPUID, "KVM_SET_CPUID", HANDLE_VCPU, 0, set_cpuid},
	{KVM_SET_CPUID2, "KVM_SET_CPUID2", HANDLE_VCPU, 0, set_cpuid2},
	{KVM_GET_CPUID2, "KVM_GET_CPUID2", HANDLE_VCPU, 0, get_cpuid2},
	{KVM_GET_MSRS, "KVM_GET_MSRS", HANDLE_VCPU, 0, get_msrs},
	{KVM_SET_MSRS, "KVM_SET_MSRS", HANDLE_VCPU, LOCK_VM, set_msrs},
	{KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", HANDLE_VCPU, 0, set_tsc_khz},
	{KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ", HANDLE_VCPU, 0, get_tsc_khz},
	{KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL", HANDLE_VCPU, LOCK_VM, kvmclock_ctrl},
	{KVM_HAS_DEVICE_ATTR, "KVM_HAS_DEVICE_ATTR", HANDLE_VCPU, ARG_IN, has_attr},
	{KVM_GET_DEVICE_ATTR, "KVM_GET_DEVICE_ATTR", HANDLE_VCPU, ARG_IN, get_attr},
	{KVM_SET_DEVICE_ATTR, "KVM_SET_DEVICE_ATTR", HANDLE_VCPU, ARG_IN, set_attr},
	{KVM_TRANSLATE, "KVM_TRANSLATE", HANDLE_VCPU, ARG_IN | ARG_OUT | LOCK_VM, translate},
	{KVM_TPR_ACCESS_REPORTING, "KVM_TPR_ACCESS_REPORTING", HANDLE_VCPU, ARG_IN | ARG_OUT, tpr_access_reporting},
	{KVM_GET_STATS_FD, "KVM_GET_STATS_FD", HANDLE_VCPU, 0, get_vcpu_stats_fd},
	{KVM_ENABLE_CAP, "KVM_ENABLE_CAP", HANDLE_VCPU, ARG_IN, vcpu_enable_cap},
	{0},
};
