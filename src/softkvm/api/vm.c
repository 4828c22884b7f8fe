/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A VM's life, and its ioctls. A VM lives until the last handle to it or to one of its vCPUs is closed; its vCPUs
 * live as long as it does, as with the kernel's KVM.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "softkvm/api/handle.h"
#include "softkvm/api/iobus.h"
#include "softkvm/api/irqfd.h"
#include "softkvm/api/mapping.h"
#include "softkvm/api/usercopy.h"
#include "softkvm/engine.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/pvclock.h"
#include "softkvm/irqchip/state.h"
#include "softkvm/irqchip/timer.h"
#include "softkvm/irqchip/tsc.h"

static void mutex_init_normal(pthread_mutex_t *mutex)
{
	pthread_mutex_init(mutex, NULL);
}

/* Undo vm_create() from any point of it. */
static void vm_free(struct vm *vm)
{
	mapping_del_vm(vm);
	timers_free(vm);
	irqfd_free(vm);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vcpu_destroy(vm->vcpu[i]);
	if (vm->engine->vm_deinit)
		vm->engine->vm_deinit(vm);
	irqchip_free(vm);
	pvclock_free(vm);
	iobus_free(vm);
	msr_filter_free(vm->msr_filter);
	stats_file_free(vm->stats);
	memory_regions_free(vm);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->split_lock);
	free(vm);
}

int vm_create(const struct engine *engine, struct vm **out)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int err;

	if (!vm)
		return -ENOMEM;
	vm->engine = engine;
	vm->refs = 1;
	vm->counts = &vm->own_counts;
	vm->tsc_khz = host_tsc_khz();
	mutex_init_normal(&vm->lock);
	mutex_init_normal(&vm->split_lock);
	memory_init(&vm->mem);
	err = iobus_new(vm);
	if (!err)
		err = pvclock_new(vm);
	if (!err && engine->vm_init)
		err = engine->vm_init(vm);
	if (err) {
		vm_free(vm);
		return err;
	}
	mapping_add_vm(vm);
	*out = vm;
	return 0;
}

void vm_get(struct vm *vm)
{
	atomic_fetch_add(&vm->refs, 1);
}

void vm_put(struct vm *vm)
{
	if (atomic_fetch_sub(&vm->refs, 1) == 1)
		vm_free(vm);
}

/* --- vCPUs, memory --- */

static long create_vcpu(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct softkvm *vcpu_handle;
	int err;

	if (!child || (uint32_t)arg > VM_MAX_VCPU_ID || (h->vm->vcpu_id_limit && (uint32_t)arg >= h->vm->vcpu_id_limit))
		return -EINVAL;
	vcpu_handle = calloc(1, sizeof(*vcpu_handle));
	if (!vcpu_handle)
		return -ENOMEM;
	err = vcpu_create(h->vm, (uint32_t)arg, &vcpu_handle->vcpu);
	if (err) {
		free(vcpu_handle);
		return err;
	}
	vcpu_handle->kind = HANDLE_VCPU;
	vcpu_handle->vm = h->vm;
	vm_get(h->vm);
	*child = vcpu_handle;
	return 0;
}

static long set_user_memory_region(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return memory_region_set(h->vm, data);
}

static long get_dirty_log(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return dirty_log_get(h->vm, data);
}

static long clear_dirty_log(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return dirty_log_clear(h->vm, data);
}

/* How many pages shadow page tables may take: kept for the caller, as there are none. */
enum { MIN_MMU_PAGES = 64 };
static long set_nr_mmu_pages(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if ((uint32_t)arg < MIN_MMU_PAGES)
		return -EINVAL;
	h->vm->mmu_pages = (uint32_t)arg;
	return 0;
}

static long get_nr_mmu_pages(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return h->vm->mmu_pages;
}

/* Three pages that Intel's real-mode emulation needs; kept for the caller, not needed here. */
static long set_tss_addr(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if (arg > 0xffffffff - 3 * PAGE_SIZE)
		return -EINVAL;
	h->vm->tss_addr = arg;
	return 0;
}

static long set_identity_map_addr(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if (h->vm->vcpu_count)
		return -EINVAL;
	h->vm->identity_map_addr = *(uint64_t *)data;
	return 0;
}

static long set_boot_cpu_id(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if (h->vm->vcpu_count)
		return -EBUSY;
	h->vm->boot_cpu_id = (uint32_t)arg;
	return 0;
}

/* --- KVM_ENABLE_CAP --- */

static int enable_split_irqchip(struct vm *vm, uint64_t gsi_count)
{
	if (gsi_count > ROUTING_MAX_GSI)
		return -EINVAL;
	if (vm->irqchip || vm->vcpu_count)
		return -EEXIST;
	vm->split_gsi_count = (uint32_t)gsi_count;
	return irqchip_new_split(vm);
}

static int enable_x2apic_api(struct vm *vm, uint64_t flags)
{
	if (flags & ~(uint64_t)(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK))
		return -EINVAL;
	vm->x2apic_ids_32bit |= !!(flags & KVM_X2APIC_API_USE_32BIT_IDS);
	vm->x2apic_no_broadcast_quirk |= !!(flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
	return 0;
}

static int enable_manual_dirty_log(struct vm *vm, uint64_t flags)
{
	uint64_t allowed = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	if (flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		allowed |= KVM_DIRTY_LOG_INITIALLY_SET;
	if (flags & ~allowed)
		return -EINVAL;
	vm->dirty_log_manual = (uint32_t)flags;
	return 0;
}

static int enable_disable_exits(struct vm *vm, uint64_t exits)
{
	if (exits & ~(uint64_t)(KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE) || vm->vcpu_count)
		return -EINVAL;
	vm->disabled_exits |= (uint32_t)exits;
	return 0;
}

static int enable_user_msrs(struct vm *vm, uint64_t reasons)
{
	const uint32_t known = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;

	if (reasons & ~(uint64_t)known)
		return -EINVAL;
	vm->user_msr_reasons = (uint32_t)reasons;
	return 0;
}

/* Once: the same again is no error. */
static int limit_vcpu_ids(struct vm *vm, uint64_t limit)
{
	if (limit > VM_MAX_VCPU_ID || (vm->vcpu_id_limit && limit != vm->vcpu_id_limit))
		return -EINVAL;
	vm->vcpu_id_limit = (uint32_t)limit;
	return 0;
}

static long vm_enable_cap(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_enable_cap *cap = data;

	if (cap->flags)
		return -EINVAL;
	switch (cap->cap) {
	case KVM_CAP_SPLIT_IRQCHIP:
		return enable_split_irqchip(h->vm, cap->args[0]);
	case KVM_CAP_X2APIC_API:
		return enable_x2apic_api(h->vm, cap->args[0]);
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return enable_manual_dirty_log(h->vm, cap->args[0]);
	case KVM_CAP_X86_DISABLE_EXITS:
		return enable_disable_exits(h->vm, cap->args[0]);
	case KVM_CAP_X86_USER_SPACE_MSR:
		return enable_user_msrs(h->vm, cap->args[0]);
	case KVM_CAP_MSR_PLATFORM_INFO:
		h->vm->platform_info_hidden = !cap->args[0];
		return 0;
	case KVM_CAP_MAX_VCPU_ID:
		return limit_vcpu_ids(h->vm, cap->args[0]);
	case KVM_CAP_EXCEPTION_PAYLOAD:
		h->vm->exception_payload = cap->args[0];
		return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		h->vm->triple_fault_event = cap->args[0];
		return 0;
	}
	return -EINVAL;
}

/* --- interrupt controllers --- */

static long create_irqchip(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if (h->vm->irqchip)
		return -EEXIST;
	if (h->vm->vcpu_count)
		return -EINVAL;
	return irqchip_new(h->vm);
}

static bool has_pic_and_ioapic(const struct vm *vm)
{
	return vm->irqchip && !vm->split_irqchip;
}

static long create_pit(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if (pit_exists(h->vm))
		return -EEXIST;
	return has_pic_and_ioapic(h->vm) ? pit_new(h->vm, 0) : -ENOENT;
}

static long create_pit2(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_pit_config *config = data;

	if (pit_exists(h->vm))
		return -EEXIST;
	return has_pic_and_ioapic(h->vm) ? pit_new(h->vm, config->flags) : -ENOENT;
}

/* A GSI that leads nowhere is no error; a split irqchip will do, as the route may be an MSI. */
static long irq_line(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_irq_level *level = data;

	if (!h->vm->irqchip)
		return -ENXIO;
	irqchip_line(h->vm, level->irq, !!level->level);
	return 0;
}

/* As KVM_IRQ_LINE; status says whether the interrupt was delivered or coalesced with one still pending. */
static long irq_line_status(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_irq_level *level = data;

	if (!h->vm->irqchip)
		return -ENXIO;
	level->status = (uint32_t)irqchip_line(h->vm, level->irq, !!level->level);
	return 0;
}

static long get_irqchip(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return has_pic_and_ioapic(h->vm) ? irqchip_get_state(h->vm, data) : -ENXIO;
}

static long set_irqchip(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return has_pic_and_ioapic(h->vm) ? irqchip_set_state(h->vm, data) : -ENXIO;
}

static long get_pit(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_pit_state2 state;

	if (!pit_exists(h->vm))
		return -ENXIO;
	pit_get_state(h->vm, &state);
	__builtin_memcpy(data, state.channels, sizeof(struct kvm_pit_state));
	return 0;
}

static long get_pit2(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if (!pit_exists(h->vm))
		return -ENXIO;
	pit_get_state(h->vm, data);
	return 0;
}

static long set_pit(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_pit_state2 state = {0};

	if (!pit_exists(h->vm))
		return -ENXIO;
	pit_get_state(h->vm, &state);
	__builtin_memcpy(state.channels, data, sizeof(struct kvm_pit_state));
	return pit_set_state(h->vm, &state);
}

static long set_pit2(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return pit_exists(h->vm) ? pit_set_state(h->vm, data) : -ENXIO;
}

static long reinject_control(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_reinject_control control;

	if (copy_in(&control, arg, sizeof(control)))
		return -EFAULT;
	if (!pit_exists(h->vm))
		return -ENXIO;
	pit_set_reinject(h->vm, control.pit_reinject);
	return 0;
}

static long set_gsi_routing(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_irq_routing *routing = data;
	struct kvm_irq_routing_entry *entries;
	long ret;

	if (!h->vm->irqchip || routing->nr > ROUTING_MAX_GSI || routing->flags)
		return -EINVAL;
	entries = calloc(routing->nr + 1, sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	ret = copy_in(entries, arg + sizeof(*routing), routing->nr * sizeof(*entries));
	if (!ret)
		ret = routing_set(h->vm, entries, routing->nr);
	free(entries);
	return ret;
}

static long signal_msi(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_msi *msi = data;
	uint64_t address = msi->address_lo | (uint64_t)msi->address_hi << 32;

	if (!h->vm->irqchip || msi->flags)
		return -EINVAL;
	return irqchip_msi(h->vm, address, msi->data);
}

/* --- doorbells --- */

static long ioeventfd(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return iobus_ioeventfd(h->vm, data);
}

static long irqfd(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return irqfd_change(h->vm, data);
}

static long register_coalesced(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return iobus_coalesce(h->vm, data, true);
}

static long unregister_coalesced(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return iobus_coalesce(h->vm, data, false);
}

/* --- clocks --- */

static long get_clock(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_clock_data *clock = data;
	struct timespec real;

	clock_gettime(CLOCK_REALTIME, &real);
	clock->host_tsc = host_tsc();
	clock->clock = pvclock_ns_at(h->vm, clock->host_tsc);
	clock->realtime = (uint64_t)real.tv_sec * 1000000000 + (uint64_t)real.tv_nsec;
	clock->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
	return 0;
}

static long set_clock(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_clock_data *clock = data;
	uint64_t ns = clock->clock;
	struct timespec real;

	if (clock->flags & ~(uint32_t)KVM_CLOCK_REALTIME)
		return -EINVAL;
	if (clock->flags & KVM_CLOCK_REALTIME) {
		uint64_t now;

		clock_gettime(CLOCK_REALTIME, &real);
		now = (uint64_t)real.tv_sec * 1000000000 + (uint64_t)real.tv_nsec;
		if (now > clock->realtime) /* time went on since the snapshot */
			ns += now - clock->realtime;
	}
	pvclock_set_ns(h->vm, ns);
	return 0;
}

static long vm_get_tsc_khz(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return h->vm->tsc_khz;
}

const struct ioctl_row vm_ioctls[] = {
	{KVM_CREATE_VCPU, "KVM_CREATE_VCPU", HANDLE_VM, LOCK_VM, create_vcpu},
	{KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", HANDLE_VM, ARG_IN | LOCK_VM, set_user_memory_region},
	{KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", HANDLE_VM, ARG_IN | LOCK_VM, get_dirty_log},
	{KVM_CLEAR_DIRTY_LOG, "KVM_CLEAR_DIRTY_LOG", HANDLE_VM, ARG_IN | LOCK_VM, clear_dirty_log},
	{KVM_SET_NR_MMU_PAGES, "KVM_SET_NR_MMU_PAGES", HANDLE_VM, LOCK_VM, set_nr_mmu_pages},
	{KVM_GET_NR_MMU_PAGES, "KVM_GET_NR_MMU_PAGES", HANDLE_VM, LOCK_VM, get_nr_mmu_pages},
	{KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", HANDLE_VM, LOCK_VM, set_tss_addr},
	{KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", HANDLE_VM, ARG_IN | LOCK_VM, set_identity_map_addr},
	{KVM_SET_BOOT_CPU_ID, "KVM_SET_BOOT_CPU_ID", HANDLE_VM, LOCK_VM, set_boot_cpu_id},
	{KVM_ENABLE_CAP, "KVM_ENABLE_CAP", HANDLE_VM, ARG_IN | LOCK_VM, vm_enable_cap},
	{KVM_GET_STATS_FD, "KVM_GET_STATS_FD", HANDLE_VM, LOCK_VM, get_vm_stats_fd},
	{KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", HANDLE_VM, LOCK_VM, create_irqchip},
	{KVM_CREATE_PIT, "KVM_CREATE_PIT", HANDLE_VM, LOCK_VM, create_pit},
	{KVM_CREATE_PIT2, "KVM_CREATE_PIT2", HANDLE_VM, ARG_IN | LOCK_VM, create_pit2},
	{KVM_IRQ_LINE, "KVM_IRQ_LINE", HANDLE_VM, ARG_IN, irq_line},
	{KVM_IRQ_LINE_STATUS, "KVM_IRQ_LINE_STATUS", HANDLE_VM, ARG_IN | ARG_OUT, irq_line_status},
	{KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", HANDLE_VM, ARG_IN | ARG_OUT | LOCK_VM, get_irqchip},
	{KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", HANDLE_VM, ARG_IN | LOCK_VM, set_irqchip},
	{KVM_GET_PIT, "KVM_GET_PIT", HANDLE_VM, ARG_IN | ARG_OUT | LOCK_VM, get_pit},
	{KVM_SET_PIT, "KVM_SET_PIT", HANDLE_VM, ARG_IN | LOCK_VM, set_pit},
	{KVM_GET_PIT2, "KVM_GET_PIT2", HANDLE_VM, ARG_OUT | LOCK_VM, get_pit2},
	{KVM_SET_PIT2, "KVM_SET_PIT2", HANDLE_VM, ARG_IN | LOCK_VM, set_pit2},
	{KVM_REINJECT_CONTROL, "KVM_REINJECT_CONTROL", HANDLE_VM, LOCK_VM, reinject_control},
	{KVM_SET_GSI_ROUTING, "KVM_SET_GSI_ROUTING", HANDLE_VM, ARG_IN | LOCK_VM, set_gsi_routing},
	{KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI", HANDLE_VM, ARG_IN, signal_msi},
	{KVM_IOEVENTFD, "KVM_IOEVENTFD", HANDLE_VM, ARG_IN | LOCK_VM, ioeventfd},
	{KVM_IRQFD, "KVM_IRQFD", HANDLE_VM, ARG_IN | LOCK_VM, irqfd},
	{KVM_REGISTER_COALESCED_MMIO, "KVM_REGISTER_COALESCED_MMIO", HANDLE_VM, ARG_IN | LOCK_VM, register_coalesced},
	{KVM_UNREGISTER_COALESCED_MMIO, "KVM_UNREGISTER_COALESCED_MMIO", HANDLE_VM, ARG_IN | LOCK_VM,
	 unregister_coalesced},
	{KVM_X86_SET_MSR_FILTER, "KVM_X86_SET_MSR_FILTER", HANDLE_VM, ARG_IN | LOCK_VM, set_msr_filter},
	{KVM_GET_CLOCK, "KVM_GET_CLOCK", HANDLE_VM, ARG_OUT | LOCK_VM, get_clock},
	{KVM_SET_CLOCK, "KVM_SET_CLOCK", HANDLE_VM, ARG_IN | LOCK_VM, set_clock},
	{KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ", HANDLE_VM, 0, vm_get_tsc_khz},
	{0},
};
