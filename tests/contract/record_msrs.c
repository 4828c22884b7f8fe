// SPDX-License-Identifier: BSD-2-Clause
/*
 * MSRs that the user stands for: filters, exits in the place of #GP, what happens to the answers. Registers that travel in the run
 * area. Features of KVM's that are held to CPUID, the platform's MSR and what CPUID does with it.
 */
#include "record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MSR_POWER_CTL = 0x1fc, MSR_UNHEARD_OF = 0x12345678, MSR_PAT = 0x277 };

/* ECX is set by the user. #GP ends in HLT by the first vector table: RIP tells. */
GUEST(read_msr, "rdmsr; nop; hlt");
GUEST(write_msr, "wrmsr; nop; hlt");

static const char *title;

static const char *key_of(const char *fact)
{
	static char key[160];

	snprintf(key, sizeof(key), "%s: %s", title, fact);
	return key;
}

static int enable(int fd, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap c = {.cap = cap, .args = {arg}};

	return call(fd, KVM_ENABLE_CAP, &c);
}

static void set_registers(struct machine *m, uint32_t index, uint64_t value)
{
	struct kvm_regs regs;

	call(m->vcpu, KVM_GET_REGS, &regs);
	regs.rcx = index;
	regs.rax = 0xffffffff00000000 | (uint32_t)value;
	regs.rdx = value >> 32;
	call(m->vcpu, KVM_SET_REGS, &regs);
}

static void say_run(struct machine *m, const char *fact)
{
	struct kvm_regs regs;
	int result = machine_run(m);

	call(m->vcpu, KVM_GET_REGS, &regs);
	say_result(key_of(fact), result);
	say(key_of("after it"), "exit %u rip %llx rax %llx rdx %llx rcx %llx", m->run->exit_reason, regs.rip, regs.rax, regs.rdx, regs.rcx);
}

static bool is_msr_exit(const struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_X86_RDMSR || run->exit_reason == KVM_EXIT_X86_WRMSR;
}

/* One access; if the user is asked, the answer is `data`, or `error`. */
static void access_once(struct machine *m, const char *name, bool write, uint32_t index, uint64_t data, uint8_t error)
{
	title = name;
	if (write)
		LOAD(m, write_msr);
	else
		LOAD(m, read_msr);
	set_registers(m, index, 0x1122334455667788);
	memset(&m->run->msr, 0x5a, sizeof(m->run->msr));
	say_run(m, "KVM_RUN");
	if (!is_msr_exit(m->run))
		return;
	say(key_of("asks"), "index %x reason %u error %u pad %u data %llx", m->run->msr.index, m->run->msr.reason, m->run->msr.error,
	    m->run->msr.pad[0] | m->run->msr.pad[6], m->run->msr.data);
	m->run->msr.data = data;
	m->run->msr.error = error;
	say_run(m, "answered");
}

static void exits(void)
{
	struct machine m = machine_new(NO_IRQCHIP);

	access_once(&m, "msr unknown, nobody asked", false, MSR_UNHEARD_OF, 0, 0);
	title = "msr exits";
	say_result(key_of("unknown reason"), enable(m.vm, KVM_CAP_X86_USER_SPACE_MSR, 8));
	say_result(key_of("on"), enable(m.vm, KVM_CAP_X86_USER_SPACE_MSR, 7));
	access_once(&m, "msr unknown, read", false, MSR_UNHEARD_OF, 0xaabbccdd00112233, 0);
	access_once(&m, "msr unknown, read, refused", false, MSR_UNHEARD_OF, 0xaabbccdd00112233, 1);
	access_once(&m, "msr unknown, write", true, MSR_UNHEARD_OF, 0, 0);
	access_once(&m, "msr unknown, write, refused", true, MSR_UNHEARD_OF, 0, 255);
	access_once(&m, "msr invalid, write", true, 0xc0000080, 0, 0);
	access_once(&m, "msr known, read", false, 0x277, 0, 0);
	say_result(key_of("of unknown only"), enable(m.vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN));
	access_once(&m, "msr invalid, not asked", true, 0xc0000080, 0, 0);
	say_result(key_of("off"), enable(m.vm, KVM_CAP_X86_USER_SPACE_MSR, 0));
	access_once(&m, "msr unknown, not asked any more", false, MSR_UNHEARD_OF, 0, 0);
	machine_free(&m);
}

/* PAT may be read, POWER_CTL written; of the rest what `flags` says. */
static int filter(struct machine *m, uint32_t flags)
{
	static uint8_t reads[0x800], writes[0x800];
	struct kvm_msr_filter f = {.flags = flags,
				   .ranges = {{KVM_MSR_FILTER_READ, 0x1000, 0x100, reads}, {KVM_MSR_FILTER_WRITE, 0x1000, 0x100, writes}}};

	memset(reads, 0, sizeof(reads));
	memset(writes, 0, sizeof(writes));
	reads[(MSR_PAT - 0x100) / 8] |= 1 << MSR_PAT % 8;
	writes[(MSR_POWER_CTL - 0x100) / 8] |= 1 << MSR_POWER_CTL % 8;
	return call(m->vm, KVM_X86_SET_MSR_FILTER, &f);
}

static void bad_filters(struct machine *m)
{
	uint8_t bits[8] = {0};
	struct kvm_msr_filter f = {.flags = 2};

	title = "filter";
	say_result(key_of("unknown flag"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY;
	say_result(key_of("that denies all"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f.ranges[3] = (struct kvm_msr_filter_range){KVM_MSR_FILTER_READ, 64, 0, bits};
	say_result(key_of("in the fourth range"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f.ranges[3].flags = 0;
	say_result(key_of("of nothing"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f.ranges[3].flags = 4;
	say_result(key_of("of unknown accesses"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f.ranges[3] = (struct kvm_msr_filter_range){KVM_MSR_FILTER_READ, 0x600 * 8 + 1, 0, bits};
	say_result(key_of("too big"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f.ranges[3] = (struct kvm_msr_filter_range){KVM_MSR_FILTER_READ, ~0u, 0, bits};
	say_result(key_of("much too big"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f.ranges[3] = (struct kvm_msr_filter_range){KVM_MSR_FILTER_READ, 64, 0, (void *)0x1000};
	say_result(key_of("from nowhere"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
	f = (struct kvm_msr_filter){0};
	say_result(key_of("none"), call(m->vm, KVM_X86_SET_MSR_FILTER, &f));
}

static void filters(void)
{
	struct kvm_msr_filter none = {0};
	struct machine m = machine_new(NO_IRQCHIP);

	title = "filter";
	say_result(key_of("set"), filter(&m, 0));
	access_once(&m, "filter, allowed read", false, MSR_PAT, 0, 0);
	access_once(&m, "filter, denied read", false, MSR_POWER_CTL, 0, 0);
	access_once(&m, "filter, allowed write", true, MSR_POWER_CTL, 0, 0);
	access_once(&m, "filter, denied write", true, MSR_PAT, 0, 0);
	access_once(&m, "filter, outside", false, 0xc0000081, 0, 0);
	say_result(key_of("exits"), enable(m.vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
	access_once(&m, "filter with exits, denied read", false, MSR_POWER_CTL, 0x1234, 0);
	access_once(&m, "filter with exits, denied write", true, MSR_PAT, 0, 0);
	access_once(&m, "filter with exits, unknown", false, MSR_UNHEARD_OF, 0, 0);
	say_result(key_of("denies the rest"), filter(&m, KVM_MSR_FILTER_DEFAULT_DENY));
	access_once(&m, "filter that denies, outside", false, 0xc0000081, 7, 0);
	access_once(&m, "filter that denies, x2APIC", false, 0x802, 7, 0);
	access_once(&m, "filter that denies, unknown", false, MSR_UNHEARD_OF, 7, 0);
	bad_filters(&m);
	access_once(&m, "filter after bad ones, denied read", false, MSR_POWER_CTL, 0, 0);
	say_result("filter taken away", call(m.vm, KVM_X86_SET_MSR_FILTER, &none));
	access_once(&m, "filter taken away", false, MSR_POWER_CTL, 0, 0);
	machine_free(&m);
}

/* --- registers in the run area --- */

GUEST(add, "addl $1, %eax; outb %al, $0x40; addl $2, %eax; hlt");

static void say_synced(struct machine *m, const char *fact, int result)
{
	struct kvm_sync_regs *s = &m->run->s.regs;

	say_result(key_of(fact), result);
	say(key_of("registers"), "rax %llx rip %llx dirty %llx", s->regs.rax, s->regs.rip, m->run->kvm_dirty_regs);
	say(key_of("system registers"), "cr0 %llx cs %llx efer %llx", s->sregs.cr0, s->sregs.cs.base, s->sregs.efer);
	say(key_of("events"), "flags %x masked %u", s->events.flags & ~(unsigned)KVM_VCPUEVENT_VALID_SMM, s->events.nmi.masked);
}

static void synced_registers(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct kvm_sync_regs *s = &m.run->s.regs;

	LOAD(&m, add);
	memset(s, 0xee, sizeof(*s));
	title = "sync, nothing";
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, out";
	m.run->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, in";
	LOAD(&m, add);
	s->regs.rip = CODE_GPA;
	s->regs.rax = 0x1000;
	m.run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, in, not told";
	s->regs.rax = 0x2000;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, all in";
	s->regs.rip = CODE_GPA;
	s->events.nmi.masked = 1;
	s->events.flags = 0;
	m.run->kvm_dirty_regs = KVM_SYNC_X86_VALID_FIELDS;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, bad system registers";
	s->sregs.cr0 = 1ull << 40;
	s->regs.rax = 0x77;
	m.run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, bad events";
	s->events.flags = 0x80000000;
	m.run->kvm_dirty_regs = KVM_SYNC_X86_EVENTS;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, unknown dirty";
	m.run->kvm_dirty_regs = 1 << 20;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	title = "sync, unknown valid";
	m.run->kvm_dirty_regs = 0;
	m.run->kvm_valid_regs = 1ull << 40;
	say_synced(&m, "KVM_RUN", machine_run(&m));
	m.run->kvm_valid_regs = 0;
	machine_free(&m);
}

/* --- held to CPUID; the platform --- */

/* CPUID of the vCPU without KVM's features. */
static void take_features(int vcpu)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} list;

	list.head.nent = 256;
	call(vcpu, KVM_GET_CPUID2, &list);
	for (unsigned k = 0; k < list.head.nent; k++)
		if (list.head.entries[k].function == 0x40000001)
			list.head.entries[k].eax = 0;
	call(vcpu, KVM_SET_CPUID2, &list);
}

GUEST(yield, "movl $11, %eax; vmmcall; hlt");

static void enforced_features(void)
{
	struct machine m = machine_new(NO_IRQCHIP);

	take_features(m.vcpu);
	access_once(&m, "kvmclock not offered", true, 0x4b564d01, 0, 0);
	title = "features held to CPUID";
	say_result(key_of("on a VM"), enable(m.vm, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1));
	say_result(key_of("on"), enable(m.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1));
	for (uint32_t index = 0x4b564d00; index < 0x4b564d06; index++) {
		char name[64];

		snprintf(name, sizeof(name), "features held to CPUID, read of %x", index);
		access_once(&m, name, false, index, 0, 0);
	}
	access_once(&m, "features held to CPUID, old clock", true, 0x12, 0, 0);
	title = "features held to CPUID, hypercall";
	LOAD(&m, yield);
	say_run(&m, "KVM_RUN");
	title = "features held to CPUID";
	say_result(key_of("off"), enable(m.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0));
	access_once(&m, "features not held to CPUID", false, 0x4b564d01, 0, 0);
	machine_free(&m);
}

static int set_msr(int vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index, .data = value}};

	return call(vcpu, KVM_SET_MSRS, &one);
}

static void platform_info(void)
{
	struct machine m = machine_new(NO_IRQCHIP);

	access_once(&m, "platform info", false, 0xce, 0, 0);
	access_once(&m, "platform info written", true, 0xce, 0, 0);
	title = "platform info";
	say_result(key_of("by the user"), set_msr(m.vcpu, 0xce, 0x80001900));
	access_once(&m, "platform info by the user", false, 0xce, 0, 0);
	title = "CPUID faulting";
	say_result(key_of("on"), set_msr(m.vcpu, 0x140, 1));
	say_result(key_of("unknown bit"), set_msr(m.vcpu, 0x140, 3));
	say_result(key_of("taken from the platform while on"), set_msr(m.vcpu, 0xce, 0));
	say_result(key_of("off"), set_msr(m.vcpu, 0x140, 0));
	say_result(key_of("taken from the platform"), set_msr(m.vcpu, 0xce, 0));
	say_result(key_of("on without"), set_msr(m.vcpu, 0x140, 1));
	title = "platform info hidden";
	say_result(key_of("KVM_ENABLE_CAP"), enable(m.vm, KVM_CAP_MSR_PLATFORM_INFO, 0));
	access_once(&m, "platform info hidden", false, 0xce, 0, 0);
	machine_free(&m);
}

static void vcpu_ids(void)
{
	int vm = new_vm(NO_IRQCHIP);

	title = "vCPU ids";
	say_result(key_of("limit too high"), enable(vm, KVM_CAP_MAX_VCPU_ID, 1 << 20));
	say_result(key_of("limit"), enable(vm, KVM_CAP_MAX_VCPU_ID, 4));
	say_result(key_of("the same"), enable(vm, KVM_CAP_MAX_VCPU_ID, 4));
	say_result(key_of("another"), enable(vm, KVM_CAP_MAX_VCPU_ID, 5));
	say_result(key_of("none"), enable(vm, KVM_CAP_MAX_VCPU_ID, 0));
	say_result(key_of("above it"), call_number(vm, KVM_CREATE_VCPU, 4));
	say_result(key_of("below it"), call_number(vm, KVM_CREATE_VCPU, 3) < 0 ? -errno : 0);
	close(vm);
}

void record_msrs(void)
{
	exits();
	filters();
	synced_registers();
	enforced_features();
	platform_info();
	vcpu_ids();
}
