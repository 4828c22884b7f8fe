// SPDX-License-Identifier: BSD-2-Clause
/*
 * Every request, with a pointer to nothing, to zeroes and to ones, on every kind of descriptor: which are known where, and what
 * the argument checks say. A new VM for each, so that none sees what another has done.
 */
#include "record.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define R(name) {#name, KVM_##name}
static const struct {
	const char *name;
	unsigned long number;
} requests[] = {
	R(GET_API_VERSION), R(CREATE_VM), R(CHECK_EXTENSION), R(GET_VCPU_MMAP_SIZE), R(GET_SUPPORTED_CPUID),
	R(GET_EMULATED_CPUID), R(GET_MSR_INDEX_LIST), R(GET_MSR_FEATURE_INDEX_LIST), R(X86_GET_MCE_CAP_SUPPORTED),
	R(CREATE_VCPU), R(SET_USER_MEMORY_REGION), R(GET_DIRTY_LOG), R(CLEAR_DIRTY_LOG), R(SET_TSS_ADDR),
	R(SET_IDENTITY_MAP_ADDR), R(SET_BOOT_CPU_ID), R(ENABLE_CAP), R(CREATE_IRQCHIP), R(CREATE_PIT), R(CREATE_PIT2),
	R(REINJECT_CONTROL), R(IRQ_LINE), R(IRQ_LINE_STATUS), R(SIGNAL_MSI), R(SET_GSI_ROUTING), R(GET_IRQCHIP),
	R(SET_IRQCHIP), R(GET_PIT), R(SET_PIT), R(GET_PIT2), R(SET_PIT2), R(IOEVENTFD), R(IRQFD),
	R(REGISTER_COALESCED_MMIO), R(UNREGISTER_COALESCED_MMIO), R(GET_CLOCK), R(SET_CLOCK), R(GET_TSC_KHZ), R(SET_TSC_KHZ),
	R(RUN), R(SET_SIGNAL_MASK), R(GET_REGS), R(SET_REGS), R(GET_SREGS), R(SET_SREGS), R(GET_SREGS2), R(SET_SREGS2),
	R(GET_FPU), R(SET_FPU), R(GET_XSAVE), R(GET_XSAVE2), R(SET_XSAVE), R(GET_XCRS), R(SET_XCRS), R(GET_MSRS), R(SET_MSRS),
	R(SET_CPUID), R(SET_CPUID2), R(GET_CPUID2), R(GET_LAPIC), R(SET_LAPIC), R(SET_VAPIC_ADDR), R(TPR_ACCESS_REPORTING),
	R(GET_VCPU_EVENTS), R(SET_VCPU_EVENTS), R(GET_MP_STATE), R(SET_MP_STATE), R(GET_DEBUGREGS), R(SET_DEBUGREGS),
	R(SET_GUEST_DEBUG), R(INTERRUPT), R(NMI), R(X86_SETUP_MCE), R(X86_SET_MCE), R(TRANSLATE), R(KVMCLOCK_CTRL),
	R(HAS_DEVICE_ATTR), R(GET_DEVICE_ATTR), R(SET_DEVICE_ATTR),
	/* not offered by softkvm */
	R(SMI), R(GET_NESTED_STATE), R(SET_NESTED_STATE), R(CREATE_DEVICE), R(GET_STATS_FD), R(SET_PMU_EVENT_FILTER),
	R(X86_SET_MSR_FILTER), R(SET_NR_MMU_PAGES), R(GET_NR_MMU_PAGES), R(RESET_DIRTY_RINGS), R(XEN_HVM_CONFIG),
	R(HYPERV_EVENTFD), R(GET_SUPPORTED_HV_CPUID), R(GET_ONE_REG), R(SET_ONE_REG), R(GET_REG_LIST),
	R(S390_INTERRUPT), R(ASSIGN_PCI_DEVICE),
};

enum { BUFFER = 1 << 16 };
static const char *const arguments[] = {"nowhere", "zeroes", "ones"};

/* Numbers for arguments; and what would run for good, or change this process. */
static bool is_left_out(unsigned long number, const char *on)
{
	return number == KVM_RUN || (number == KVM_CHECK_EXTENSION && strcmp(on, "vCPU")) ||
	       (number == KVM_SET_TSC_KHZ && !strcmp(on, "vCPU")) || (number == KVM_CREATE_VCPU && !strcmp(on, "VM")) ||
	       (number == KVM_SET_BOOT_CPU_ID && !strcmp(on, "VM")) || (number == KVM_SET_TSS_ADDR && !strcmp(on, "VM")) ||
	       (number == KVM_CREATE_VM && !strcmp(on, "system"));
}

static const void *argument(unsigned which, uint8_t *buffer)
{
	memset(buffer, which == 2 ? 0xff : 0, BUFFER);
	return which ? buffer : (void *)0x1000;
}

static void try(unsigned request, const char *on, int fd, enum irqchip irqchip, unsigned which, uint8_t *buffer)
{
	char key[128];
	int ret = call(fd, requests[request].number, argument(which, buffer));

	snprintf(key, sizeof(key), "%s of %s, irqchip %s, with %s", requests[request].name, on, irqchip_names[irqchip],
		 arguments[which]);
	if (requests[request].number == KVM_GET_TSC_KHZ && ret > 0)
		ret = 1;
	say_result(key, ret);
}

/* On the VM or the vCPU of a VM made for it. */
static void try_new(unsigned request, bool on_vcpu, enum irqchip irqchip, unsigned which, uint8_t *buffer)
{
	int vm = new_vm(irqchip), vcpu = on_vcpu ? call_number(vm, KVM_CREATE_VCPU, 0) : -1;

	try(request, on_vcpu ? "vCPU" : "VM", on_vcpu ? vcpu : vm, irqchip, which, buffer);
	close(vcpu);
	close(vm);
}

/* A pointer to nothing changes nothing: one VM serves all. */
static void with_nowhere(unsigned request, uint8_t *buffer)
{
	static int vm = -1, vcpu;

	if (vm < 0) {
		vm = new_vm(FULL_IRQCHIP);
		vcpu = call_number(vm, KVM_CREATE_VCPU, 0);
	}
	if (!is_left_out(requests[request].number, "VM"))
		try(request, "VM", vm, FULL_IRQCHIP, 0, buffer);
	if (!is_left_out(requests[request].number, "vCPU"))
		try(request, "vCPU", vcpu, FULL_IRQCHIP, 0, buffer);
}

void record_requests(void)
{
	uint8_t *buffer = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buffer == MAP_FAILED)
		give_up("mmap");
	for (unsigned r = 0; r < sizeof(requests) / sizeof(requests[0]); r++) {
		for (unsigned which = 0; which < 3; which++)
			if (!is_left_out(requests[r].number, "system"))
				try(r, "system", kvm_fd, NO_IRQCHIP, which, buffer);
		with_nowhere(r, buffer);
		for (unsigned on_vcpu = 0; on_vcpu < 2; on_vcpu++) {
			if (is_left_out(requests[r].number, on_vcpu ? "vCPU" : "VM"))
				continue;
			try_new(r, on_vcpu, NO_IRQCHIP, 1, buffer);
			try_new(r, on_vcpu, FULL_IRQCHIP, 1, buffer);
			try_new(r, on_vcpu, FULL_IRQCHIP, 2, buffer);
		}
		if (!is_left_out(requests[r].number, "VM"))
			try_new(r, false, SPLIT_IRQCHIP, 1, buffer);
	}
	munmap(buffer, BUFFER);
}
