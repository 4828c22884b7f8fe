// SPDX-License-Identifier: BSD-2-Clause
/*
 * What requests refuse: flags and reserved fields, sizes, one before or after another, limits; descriptors after close and in a
 * child process.
 */
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int set_slot(int vm, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, const void *hva)
{
	struct kvm_userspace_memory_region r = {slot, flags, gpa, size, (uintptr_t)hva};

	return call(vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static void slots(void)
{
	int vm = new_vm(NO_IRQCHIP);
	uint8_t *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t bits[4] = {0};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};

	say_result("slot: none to delete", set_slot(vm, 1, 0, 0, 0, p));
	say_result("slot: made", set_slot(vm, 1, 0, 0x100000, 0x10000, p));
	say_result("slot: the same again", set_slot(vm, 1, 0, 0x100000, 0x10000, p));
	say_result("slot: of other size", set_slot(vm, 1, 0, 0x100000, 0x20000, p));
	say_result("slot: of other backing", set_slot(vm, 1, 0, 0x100000, 0x10000, p + 0x1000));
	say_result("slot: now read-only", set_slot(vm, 1, KVM_MEM_READONLY, 0x100000, 0x10000, p));
	say_result("slot: overlaps", set_slot(vm, 2, 0, 0x10f000, 0x10000, p));
	say_result("slot: contains", set_slot(vm, 2, 0, 0xf0000, 0x100000, p));
	say_result("slot: beside", set_slot(vm, 2, 0, 0x110000, 0x10000, p));
	say_result("slot: moved onto another", set_slot(vm, 2, 0, 0x100000, 0x10000, p));
	say_result("slot: moved", set_slot(vm, 2, 0, 0x200000, 0x10000, p));
	say_result("slot: unknown flag", set_slot(vm, 3, 8, 0x300000, 0x1000, p));
	say_result("slot: flag 4", set_slot(vm, 3, 4, 0x300000, 0x1000, p));
	say_result("slot: odd size", set_slot(vm, 3, 0, 0x300000, 0x1001, p));
	say_result("slot: odd GPA", set_slot(vm, 3, 0, 0x300800, 0x1000, p));
	say_result("slot: odd HVA", set_slot(vm, 3, 0, 0x300000, 0x1000, p + 1));
	say_result("slot: wraps", set_slot(vm, 3, 0, ~0xfffull, 0x2000, p));
	say_result("slot: too big", set_slot(vm, 3, 0, 0x300000, 1ull << 43, p));
	say_result("slot: second address space", set_slot(vm, 3 | 2 << 16, 0, 0x300000, 0x1000, p));
	say_result("slot: number 65535", set_slot(vm, 65535, 0, 0x300000, 0x1000, p));
	say_result("slot: log on", set_slot(vm, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x10000, p));
	say_result("slot: log off", set_slot(vm, 1, 0, 0x100000, 0x10000, p));
	say_result("log: of a slot without", call(vm, KVM_GET_DIRTY_LOG, &log));
	set_slot(vm, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x10000, p);
	say_result("log: of one with", call(vm, KVM_GET_DIRTY_LOG, &log));
	say("log: empty", "%llx", (unsigned long long)bits[0]);
	log.dirty_bitmap = (void *)0x1000;
	say_result("log: to nowhere", call(vm, KVM_GET_DIRTY_LOG, &log));
	log.slot = 77;
	say_result("log: of no slot", call(vm, KVM_GET_DIRTY_LOG, &log));
	log.slot = 1 << 16 | 1;
	log.dirty_bitmap = bits;
	say_result("log: of another address space", call(vm, KVM_GET_DIRTY_LOG, &log));
	say_result("slot: deleted", set_slot(vm, 1, 0, 0, 0, NULL));
	say_result("slot: deleted again", set_slot(vm, 1, 0, 0, 0, NULL));
	close(vm);
	munmap(p, 1 << 20);
}

static int enable(int fd, uint32_t cap, uint32_t flags, uint64_t arg)
{
	struct kvm_enable_cap c = {.cap = cap, .flags = flags, .args = {arg}};

	return call(fd, KVM_ENABLE_CAP, &c);
}

static void enabling(void)
{
	int vm = new_vm(NO_IRQCHIP);

	say_result("enable: unknown", enable(vm, 9999, 0, 0));
	say_result("enable: with flags", enable(vm, KVM_CAP_X2APIC_API, 1, 0));
	say_result("enable: x2APIC", enable(vm, KVM_CAP_X2APIC_API, 0, 3));
	say_result("enable: x2APIC, unknown bit", enable(vm, KVM_CAP_X2APIC_API, 0, 4));
	say_result("enable: manual log", enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0, 1));
	say_result("enable: manual log, initially set alone", enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0, 2));
	say_result("enable: manual log, both", enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0, 3));
	say_result("enable: manual log, unknown", enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0, 4));
	say_result("enable: no exits, unknown", enable(vm, KVM_CAP_X86_DISABLE_EXITS, 0, 1 << 20));
	say_result("enable: no exits on HLT", enable(vm, KVM_CAP_X86_DISABLE_EXITS, 0, KVM_X86_DISABLE_EXITS_HLT));
	say_result("enable: payload", enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 0, 1));
	say_result("enable: triple fault", enable(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 0, 1));
	say_result("enable: split irqchip of 5000", enable(vm, KVM_CAP_SPLIT_IRQCHIP, 0, 5000));
	say_result("enable: split irqchip", enable(vm, KVM_CAP_SPLIT_IRQCHIP, 0, 24));
	say_result("enable: split irqchip again", enable(vm, KVM_CAP_SPLIT_IRQCHIP, 0, 24));
	say_result("enable: irqchip after split", call_number(vm, KVM_CREATE_IRQCHIP, 0));
	say_result("enable: PIT after split", call_number(vm, KVM_CREATE_PIT, 0));
	close(vm);
}

static void vcpus(void)
{
	int vm = new_vm(NO_IRQCHIP), vcpu, i;
	uint64_t identity = 0xfffbc000;

	say_result("vCPU: boot one is 1", call_number(vm, KVM_SET_BOOT_CPU_ID, 1));
	say_result("vCPU: boot one is 0", call_number(vm, KVM_SET_BOOT_CPU_ID, 0));
	say_result("vCPU: TSS at 4 GiB", call_number(vm, KVM_SET_TSS_ADDR, 0xffffe000));
	say_result("vCPU: identity map", call(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity));
	vcpu = call_number(vm, KVM_CREATE_VCPU, 0);
	say_result("vCPU: the same again", call_number(vm, KVM_CREATE_VCPU, 0));
	say_result("vCPU: 2^32", call_number(vm, KVM_CREATE_VCPU, 1ul << 32));
	say_result("vCPU: 5000", call_number(vm, KVM_CREATE_VCPU, 5000));
	say_result("vCPU: -1", call_number(vm, KVM_CREATE_VCPU, -1ul));
	say_result("after a vCPU: boot one is 1", call_number(vm, KVM_SET_BOOT_CPU_ID, 1));
	say_result("after a vCPU: identity map", call(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity));
	say_result("after a vCPU: irqchip", call_number(vm, KVM_CREATE_IRQCHIP, 0));
	say_result("after a vCPU: split irqchip", enable(vm, KVM_CAP_SPLIT_IRQCHIP, 0, 24));
	say_result("after a vCPU: no exits on HLT", enable(vm, KVM_CAP_X86_DISABLE_EXITS, 0, KVM_X86_DISABLE_EXITS_HLT));
	say_result("after a vCPU: KVM_RUN with an argument", call_number(vcpu, KVM_RUN, 1));
	say_result("vCPU: KVM_GET_TSC_KHZ with an argument is positive", call_number(vcpu, KVM_GET_TSC_KHZ, 1) > 0);
	say_result("vCPU: KVM_NMI with an argument", call_number(vcpu, KVM_NMI, 1));
	for (i = 1; i < 64 && call_number(vm, KVM_CREATE_VCPU, i) >= 0; i++)
		;
	say("vCPU: so many at least", "%d", i);
	close(vm);
}

static void irqs(void)
{
	int vm = new_vm(FULL_IRQCHIP), fd = eventfd(0, EFD_CLOEXEC);
	struct kvm_irq_level level = {.irq = 5, .level = 1};
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[2];
	} routing = {.head.nr = 1, .entry[0] = {.gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {2, 5}}};
	struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = 5};
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x31};
	struct kvm_pit_config pit = {0};
	struct kvm_irqchip chip = {.chip_id = 3};

	say_result("irq: irqchip again", call_number(vm, KVM_CREATE_IRQCHIP, 0));
	say_result("irq: PIT with unknown flag", (pit.flags = 2, call(vm, KVM_CREATE_PIT2, &pit)));
	say_result("irq: PIT", (pit.flags = 1, call(vm, KVM_CREATE_PIT2, &pit)));
	say_result("irq: PIT again", call(vm, KVM_CREATE_PIT2, &pit));
	say_result("irq: chip 3", call(vm, KVM_GET_IRQCHIP, &chip));
	say_result("irq: chip 3 set", call(vm, KVM_SET_IRQCHIP, &chip));
	say_result("irq: line", call(vm, KVM_IRQ_LINE, &level));
	say_result("irq: line with status", call(vm, KVM_IRQ_LINE_STATUS, &level));
	say("irq: status", "%d", level.status);
	level.irq = 3000;
	say_result("irq: line 3000", call(vm, KVM_IRQ_LINE, &level));
	say_result("irq: MSI without vCPUs", call(vm, KVM_SIGNAL_MSI, &msi));
	msi.flags = 4;
	say_result("irq: MSI with unknown flag", call(vm, KVM_SIGNAL_MSI, &msi));
	say_result("irq: routing", call(vm, KVM_SET_GSI_ROUTING, &routing));
	routing.head.flags = 1;
	say_result("irq: routing with flags", call(vm, KVM_SET_GSI_ROUTING, &routing));
	routing.head.flags = 0;
	routing.head.nr = 5000;
	say_result("irq: routing of 5000", call(vm, KVM_SET_GSI_ROUTING, &routing));
	routing.head.nr = 1;
	routing.entry[0].gsi = 5000;
	say_result("irq: routing of GSI 5000", call(vm, KVM_SET_GSI_ROUTING, &routing));
	routing.entry[0].gsi = 5;
	routing.entry[0].type = 99;
	say_result("irq: routing of unknown type", call(vm, KVM_SET_GSI_ROUTING, &routing));
	routing.entry[0].type = KVM_IRQ_ROUTING_IRQCHIP;
	routing.entry[0].u.irqchip.irqchip = 7;
	say_result("irq: routing to chip 7", call(vm, KVM_SET_GSI_ROUTING, &routing));
	routing.entry[0].u.irqchip.irqchip = 2;
	routing.entry[0].u.irqchip.pin = 99;
	say_result("irq: routing to pin 99", call(vm, KVM_SET_GSI_ROUTING, &routing));
	routing.entry[0].flags = 1;
	routing.entry[0].u.irqchip.pin = 5;
	say_result("irq: routing entry with flags", call(vm, KVM_SET_GSI_ROUTING, &routing));
	say_result("irqfd: made", call(vm, KVM_IRQFD, &irqfd));
	say_result("irqfd: again", call(vm, KVM_IRQFD, &irqfd));
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	say_result("irqfd: removed", call(vm, KVM_IRQFD, &irqfd));
	say_result("irqfd: removed again", call(vm, KVM_IRQFD, &irqfd));
	irqfd.flags = 8;
	say_result("irqfd: unknown flag", call(vm, KVM_IRQFD, &irqfd));
	irqfd = (struct kvm_irqfd){.fd = 0xffffffff, .gsi = 5};
	say_result("irqfd: no descriptor", call(vm, KVM_IRQFD, &irqfd));
	irqfd.fd = (uint32_t)kvm_fd;
	say_result("irqfd: no eventfd", call(vm, KVM_IRQFD, &irqfd));
	irqfd = (struct kvm_irqfd){.fd = (uint32_t)fd, .gsi = 5000};
	say_result("irqfd: GSI 5000", call(vm, KVM_IRQFD, &irqfd));
	close(fd);
	close(vm);
}

static int doorbell(int vm, uint64_t addr, uint32_t len, uint32_t flags, int fd, uint64_t match)
{
	struct kvm_ioeventfd e = {.datamatch = match, .addr = addr, .len = len, .fd = fd, .flags = flags};

	return call(vm, KVM_IOEVENTFD, &e);
}

static void doorbells(void)
{
	int vm = new_vm(NO_IRQCHIP), fd = eventfd(0, EFD_CLOEXEC);
	struct kvm_coalesced_mmio_zone zone = {.addr = 0xc0000000, .size = 0x1000};

	say_result("ioeventfd: made", doorbell(vm, 0xd0000000, 4, 0, fd, 0));
	say_result("ioeventfd: again", doorbell(vm, 0xd0000000, 4, 0, fd, 0));
	say_result("ioeventfd: with datamatch beside", doorbell(vm, 0xd0000000, 4, KVM_IOEVENTFD_FLAG_DATAMATCH, fd, 1));
	say_result("ioeventfd: of 3 bytes", doorbell(vm, 0xd0000100, 3, 0, fd, 0));
	say_result("ioeventfd: of 16 bytes", doorbell(vm, 0xd0000100, 16, 0, fd, 0));
	say_result("ioeventfd: of 0 bytes", doorbell(vm, 0xd0000100, 0, 0, fd, 0));
	say_result("ioeventfd: of 0 bytes with datamatch", doorbell(vm, 0xd0000200, 0, KVM_IOEVENTFD_FLAG_DATAMATCH, fd, 0));
	say_result("ioeventfd: port", doorbell(vm, 0x80, 1, KVM_IOEVENTFD_FLAG_PIO, fd, 0));
	say_result("ioeventfd: unknown flag", doorbell(vm, 0x80, 1, 1 << 10, fd, 0));
	say_result("ioeventfd: wraps", doorbell(vm, ~0ull, 4, 0, fd, 0));
	say_result("ioeventfd: no descriptor", doorbell(vm, 0xd0000300, 4, 0, -1, 0));
	say_result("ioeventfd: no eventfd", doorbell(vm, 0xd0000300, 4, 0, kvm_fd, 0));
	say_result("ioeventfd: removed", doorbell(vm, 0xd0000000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN, fd, 0));
	say_result("ioeventfd: removed again", doorbell(vm, 0xd0000000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN, fd, 0));
	say_result("coalesced: made", call(vm, KVM_REGISTER_COALESCED_MMIO, &zone));
	say_result("coalesced: again", call(vm, KVM_REGISTER_COALESCED_MMIO, &zone));
	say_result("coalesced: removed", call(vm, KVM_UNREGISTER_COALESCED_MMIO, &zone));
	say_result("coalesced: removed again", call(vm, KVM_UNREGISTER_COALESCED_MMIO, &zone));
	zone.pio = 2;
	say_result("coalesced: space 2", call(vm, KVM_REGISTER_COALESCED_MMIO, &zone));
	close(fd);
	close(vm);
}

GUEST(halt, "hlt");

static void registers(void)
{
	struct machine m = machine_new(FULL_IRQCHIP);
	struct kvm_sregs s, good;
	struct kvm_mp_state mp;
	struct kvm_guest_debug debug = {0};
	struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET};
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 300 * sizeof(struct kvm_cpuid_entry2));
	struct kvm_clock_data clock = {.flags = 1 << 10};
	uint64_t mce = 10 | 1 << 8, offset;

	call(m.vcpu, KVM_GET_SREGS, &good);
#define WITH(text, change) (s = good, change, say_result("sregs: " text, call(m.vcpu, KVM_SET_SREGS, &s)))
	WITH("as read", (void)0);
	WITH("PG without PE", s.cr0 |= 1u << 31);
	WITH("NW without CD", s.cr0 = (s.cr0 & ~(1ull << 30)) | 1 << 29);
	WITH("CR0 upper half", s.cr0 |= 1ull << 40);
	WITH("CR4 unknown bit", s.cr4 |= 1ull << 40);
	WITH("CR4 VMXE", s.cr4 |= 1 << 13);
	WITH("EFER unknown bit", s.efer |= 1 << 20);
	WITH("LMA without PG", s.efer |= 1 << 10);
	WITH("LME and PG without PAE", (s.cr0 |= 1u << 31 | 1, s.efer |= 1 << 8 | 1 << 10));
	WITH("long mode with CS.L and CS.D", (s.cr0 |= 1u << 31 | 1, s.efer |= 1 << 8 | 1 << 10, s.cr4 |= 1 << 5, s.cs.l = s.cs.db = 1));
	WITH("APIC base with reserved bits", s.apic_base |= 1);
	WITH("APIC to x2APIC", s.apic_base |= 1 << 10);
	WITH("APIC disabled", s.apic_base &= ~(1ull << 11));
	WITH("two bits in interrupt_bitmap", s.interrupt_bitmap[0] = 3);
	WITH("CR8 too big", s.cr8 = 16);
	WITH("CR3 beyond the width", s.cr3 = 1ull << 60);
#undef WITH
	call(m.vcpu, KVM_SET_SREGS, &good);
	for (mp.mp_state = 0; mp.mp_state < 12; mp.mp_state++) {
		char key[64];

		snprintf(key, sizeof(key), "mp_state %u", mp.mp_state);
		say_result(key, call(m.vcpu, KVM_SET_MP_STATE, &mp));
	}
	debug.control = 1u << 30;
	say_result("guest debug: unknown", call(m.vcpu, KVM_SET_GUEST_DEBUG, &debug));
	debug.control = KVM_GUESTDBG_ENABLE;
	say_result("guest debug: on", call(m.vcpu, KVM_SET_GUEST_DEBUG, &debug));
	attr.addr = (uintptr_t)&offset;
	say_result("attribute: has", call(m.vcpu, KVM_HAS_DEVICE_ATTR, &attr));
	say_result("attribute: get", call(m.vcpu, KVM_GET_DEVICE_ATTR, &attr));
	say_result("attribute: set", call(m.vcpu, KVM_SET_DEVICE_ATTR, &attr));
	attr.attr = 7;
	say_result("attribute: has 7", call(m.vcpu, KVM_HAS_DEVICE_ATTR, &attr));
	attr.group = 7;
	say_result("attribute: has group 7", call(m.vcpu, KVM_HAS_DEVICE_ATTR, &attr));
	say_result("MCE: 10 banks", call(m.vcpu, KVM_X86_SETUP_MCE, &mce));
	mce = 0;
	say_result("MCE: none", call(m.vcpu, KVM_X86_SETUP_MCE, &mce));
	mce = 200;
	say_result("MCE: 200", call(m.vcpu, KVM_X86_SETUP_MCE, &mce));
	cpuid->nent = 300;
	say_result("CPUID: too long", call(m.vcpu, KVM_SET_CPUID2, cpuid));
	cpuid->nent = 256;
	say_result("CPUID: read", call(m.vcpu, KVM_GET_CPUID2, cpuid));
	cpuid->nent = 2;
	say_result("CPUID: read, no room", call(m.vcpu, KVM_GET_CPUID2, cpuid));
	say_result("clock: unknown flag", call(m.vm, KVM_SET_CLOCK, &clock));
	say_result("clock: read", call(m.vm, KVM_GET_CLOCK, &clock));
	machine_free(&m);
	free(cpuid);
}

static void after_run(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(struct kvm_cpuid_entry2));

	LOAD(&m, halt);
	say_result("run: HLT", machine_run(&m));
	cpuid->nent = 256;
	call(m.vcpu, KVM_GET_CPUID2, cpuid);
	say_result("after a run: the same CPUID", call(m.vcpu, KVM_SET_CPUID2, cpuid));
	cpuid->entries[1].ecx ^= 1 << 30;
	say_result("after a run: another CPUID", call(m.vcpu, KVM_SET_CPUID2, cpuid));
	cpuid->nent--;
	say_result("after a run: less CPUID", call(m.vcpu, KVM_SET_CPUID2, cpuid));
	free(cpuid);
	machine_free(&m);
}

static int signal_mask(int vcpu, uint32_t len)
{
	struct {
		struct kvm_signal_mask head;
		uint64_t bits;
	} __attribute__((packed)) mask = {{len}, 0};

	return call(vcpu, KVM_SET_SIGNAL_MASK, &mask);
}

static volatile int handled;

static void count(int number)
{
	handled++;
}

/* A signal that is blocked but for KVM_RUN: it ends the run, is not handled, and stays pending. */
static void signals(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	sigset_t set, pending;

	say_result("signal mask: none", call(m.vcpu, KVM_SET_SIGNAL_MASK, NULL));
	say_result("signal mask: of 4 bytes", signal_mask(m.vcpu, 4));
	say_result("signal mask: of 8 bytes", signal_mask(m.vcpu, 8));
	signal(SIGUSR2, count);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGUSR2);
	LOAD(&m, halt);
	say_result("signal: pending before KVM_RUN", machine_run(&m));
	say("signal: exit reason", "%u", m.run->exit_reason);
	sigpending(&pending);
	say("signal: pending after it", "%d", sigismember(&pending, SIGUSR2));
	say("signal: handled", "%d", handled);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	say("signal: handled in the end", "%d", handled);
	machine_free(&m);
}

GUEST(endless, "1: jmp 1b");

static void alarm_mask(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	sigset_t set, pending;
	int left = (int)alarm(0);

	handled = 0;
	signal_mask(m.vcpu, 8);
	signal(SIGALRM, count);
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	LOAD(&m, endless);
	alarm(1);
	say_result("signal: during KVM_RUN", machine_run(&m));
	sigpending(&pending);
	say("signal: during KVM_RUN, pending after it", "%d", sigismember(&pending, SIGALRM));
	say("signal: during KVM_RUN, handled", "%d", handled);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	call(m.vcpu, KVM_SET_SIGNAL_MASK, NULL);
	alarm(1);
	say_result("signal: with a handler", machine_run(&m));
	say("signal: with a handler, handled", "%d", handled);
	signal(SIGALRM, SIG_DFL);
	alarm((unsigned)left);
	machine_free(&m);
}

static void in_child(const struct machine *m)
{
	struct kvm_regs regs;
	int status = 0;

	fflush(stdout);
	if (!fork()) {
		alarm(20);
		say_result("child: KVM_GET_API_VERSION", call_number(kvm_fd, KVM_GET_API_VERSION, 0));
		say_result("child: KVM_CHECK_EXTENSION of the VM", call_number(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP));
		say_result("child: KVM_GET_REGS", call(m->vcpu, KVM_GET_REGS, &regs));
		say_result("child: KVM_RUN", call_number(m->vcpu, KVM_RUN, 0));
		say_result("child: a VM of its own", call_number(kvm_fd, KVM_CREATE_VM, 0) >= 0);
		fflush(stdout);
		_exit(7);
	}
	wait(&status);
	say("child: status", "%x", status);
}

static void descriptors(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct pollfd fds[] = {{kvm_fd, POLLIN | POLLOUT, 0}, {m.vm, POLLIN | POLLOUT, 0}, {m.vcpu, POLLIN | POLLOUT, 0}};
	struct kvm_regs regs;
	struct stat st = {0};
	int copy = dup(m.vcpu), copy2;
	void *map;

	say_result("descriptor: poll", poll(fds, 3, 0));
	say("descriptor: poll says", "%x %x %x", fds[0].revents, fds[1].revents, fds[2].revents);
	say("descriptor: close on exec", "%d %d", fcntl(m.vm, F_GETFD) & FD_CLOEXEC, fcntl(m.vcpu, F_GETFD) & FD_CLOEXEC);
	say_result("descriptor: stat", stat("/dev/kvm", &st));
	say("descriptor: is a device", "%d %lx", S_ISCHR(st.st_mode), (unsigned long)st.st_rdev);
	memset(&st, 0, sizeof(st));
	say_result("descriptor: fstat", fstat(kvm_fd, &st));
	say("descriptor: fstat says", "%d %lx", S_ISCHR(st.st_mode), (unsigned long)st.st_rdev);
	map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, m.vm, 0);
	say("descriptor: mmap of a VM", "%s", map == MAP_FAILED ? strerrorname_np(errno) : "done");
	map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, kvm_fd, 0);
	say("descriptor: mmap of /dev/kvm", "%s", map == MAP_FAILED ? strerrorname_np(errno) : "done");
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
	say("descriptor: run area once more", "%d", map != MAP_FAILED && ((m.run->immediate_exit = 1), ((struct kvm_run *)map)->immediate_exit));
	m.run->immediate_exit = 0;
	copy2 = fcntl(copy, F_DUPFD_CLOEXEC, 100);
	say_result("descriptor: copy", call(copy2, KVM_GET_REGS, &regs));
	close(copy);
	say_result("descriptor: closed", call(copy, KVM_GET_REGS, &regs));
	in_child(&m);
	close(m.vm);
	say_result("descriptor: vCPU after its VM's close", call(copy2, KVM_GET_REGS, &regs));
	LOAD(&m, halt);
	say_result("descriptor: run after the VM's close", machine_run(&m));
	close(copy2);
	m.vm = dup(m.vcpu);
	machine_free(&m);
}

void record_rules(void)
{
	slots();
	enabling();
	vcpus();
	irqs();
	doorbells();
	registers();
	after_run();
	signals();
	alarm_mask();
	descriptors();
}
