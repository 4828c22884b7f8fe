// SPDX-License-Identifier: BSD-2-Clause
/* A vCPU that has not run yet: its registers, MSRs, local APIC; the interrupt controllers of its VM. */
#include "record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static char prefix[32];

static const char *key_of(const char *name)
{
	static char key[128];

	snprintf(key, sizeof(key), "new vCPU (%s): %s", prefix, name);
	return key;
}

static void number(const char *name, uint64_t value)
{
	say(key_of(name), "%llx", (unsigned long long)value);
}

/* Bytes that are not zero, with their offsets. */
static void bytes(const char *name, const void *data, unsigned size)
{
	const uint32_t *word = data;
	char text[1024] = "";

	for (unsigned i = 0; i < size / 4; i++)
		if (word[i] && strlen(text) < sizeof(text) - 32)
			sprintf(text + strlen(text), " %x:%x", i * 4, word[i]);
	say(key_of(name), "%s", text);
}

static void general(int vcpu)
{
	struct kvm_regs r;

	memset(&r, 0x5a, sizeof(r));
	say_result(key_of("KVM_GET_REGS"), call(vcpu, KVM_GET_REGS, &r));
	number("rip", r.rip);
	number("rflags", r.rflags);
	number("rax", r.rax);
	number("rdx", r.rdx);
	number("the rest", r.rbx | r.rcx | r.rsi | r.rdi | r.rsp | r.rbp | r.r8 | r.r9 | r.r10 | r.r11 | r.r12 | r.r13 | r.r14 | r.r15);
}

static void segment(const char *name, const struct kvm_segment *s)
{
	say(key_of(name), "base %llx limit %x selector %x type %x present %u dpl %u db %u s %u l %u g %u avl %u unusable %u",
	    s->base, s->limit, s->selector, s->type, s->present, s->dpl, s->db, s->s, s->l, s->g, s->avl, s->unusable);
}

static void special(int vcpu)
{
	struct kvm_sregs s;

	memset(&s, 0x5a, sizeof(s));
	say_result(key_of("KVM_GET_SREGS"), call(vcpu, KVM_GET_SREGS, &s));
	segment("cs", &s.cs);
	segment("ds", &s.ds);
	segment("ss", &s.ss);
	segment("tr", &s.tr);
	segment("ldt", &s.ldt);
	say(key_of("gdt"), "%llx %x", s.gdt.base, s.gdt.limit);
	say(key_of("idt"), "%llx %x", s.idt.base, s.idt.limit);
	number("cr0", s.cr0);
	number("cr2", s.cr2);
	number("cr3", s.cr3);
	number("cr4", s.cr4);
	number("cr8", s.cr8);
	number("efer", s.efer);
	number("apic_base", s.apic_base);
	bytes("interrupt_bitmap", s.interrupt_bitmap, sizeof(s.interrupt_bitmap));
}

static void others(int vcpu)
{
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic = {0};
	struct kvm_xcrs xcrs;
	struct kvm_fpu fpu;
	struct kvm_sregs2 sregs2;

	memset(&events, 0x5a, sizeof(events));
	say_result(key_of("KVM_GET_VCPU_EVENTS"), call(vcpu, KVM_GET_VCPU_EVENTS, &events));
	bytes("events", &events, sizeof(events));
	memset(&debug, 0x5a, sizeof(debug));
	say_result(key_of("KVM_GET_DEBUGREGS"), call(vcpu, KVM_GET_DEBUGREGS, &debug));
	bytes("debug registers", &debug, sizeof(debug));
	mp.mp_state = 0x5a;
	say_result(key_of("KVM_GET_MP_STATE"), call(vcpu, KVM_GET_MP_STATE, &mp));
	number("mp_state", mp.mp_state);
	say_result(key_of("KVM_GET_LAPIC"), call(vcpu, KVM_GET_LAPIC, &lapic));
	bytes("local APIC", &lapic, sizeof(lapic));
	memset(&xcrs, 0, sizeof(xcrs));
	say_result(key_of("KVM_GET_XCRS"), call(vcpu, KVM_GET_XCRS, &xcrs));
	bytes("xcrs", &xcrs, sizeof(xcrs));
	memset(&fpu, 0x5a, sizeof(fpu));
	say_result(key_of("KVM_GET_FPU"), call(vcpu, KVM_GET_FPU, &fpu));
	bytes("fpu", &fpu, sizeof(fpu));
	memset(&sregs2, 0x5a, sizeof(sregs2));
	say_result(key_of("KVM_GET_SREGS2"), call(vcpu, KVM_GET_SREGS2, &sregs2));
	number("sregs2 flags", sregs2.flags);
}

/* Clocks and counters run, and are not compared. */
static bool is_running(uint32_t index)
{
	return index == 0x10 || index == 0x3b;
}

static void msrs(int vcpu)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + 256 * sizeof(list->indices[0]));
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr;
	char name[32];

	list->nmsrs = 256;
	if (call(kvm_fd, KVM_GET_MSR_INDEX_LIST, list))
		give_up("KVM_GET_MSR_INDEX_LIST");
	for (unsigned i = 0; i < list->nmsrs; i++) {
		msr.head.nmsrs = 1;
		msr.entry = (struct kvm_msr_entry){.index = list->indices[i]};
		snprintf(name, sizeof(name), "MSR %08x", list->indices[i]);
		if (is_running(list->indices[i]))
			continue;
		if (call(vcpu, KVM_GET_MSRS, &msr) == 1)
			number(name, msr.entry.data);
		else
			say(key_of(name), "not readable");
	}
	free(list);
}

static void controllers(int vm)
{
	static const char *const names[] = {"PIC 0", "PIC 1", "I/O APIC"};
	struct kvm_irqchip chip;

	for (unsigned i = 0; i < 4; i++) {
		memset(&chip, 0, sizeof(chip));
		chip.chip_id = i;
		say_result(key_of(i < 3 ? names[i] : "chip 3"), call(vm, KVM_GET_IRQCHIP, &chip));
		if (i < 3)
			bytes(names[i], &chip.chip, sizeof(chip.chip));
	}
}

static void timer(int vm)
{
	struct kvm_pit_config config = {0};
	struct kvm_pit_state2 pit;

	say_result(key_of("KVM_CREATE_PIT2"), call(vm, KVM_CREATE_PIT2, &config));
	memset(&pit, 0, sizeof(pit));
	say_result(key_of("KVM_GET_PIT2"), call(vm, KVM_GET_PIT2, &pit));
	for (unsigned i = 0; i < 3; i++)
		pit.channels[i].count_load_time = 0;
	bytes("PIT", &pit, sizeof(pit));
}

void record_state(void)
{
	for (enum irqchip irqchip = NO_IRQCHIP; irqchip <= FULL_IRQCHIP; irqchip++) {
		int second, vm = new_vm(irqchip), vcpu = call_number(vm, KVM_CREATE_VCPU, 0);

		snprintf(prefix, sizeof(prefix), "%s", irqchip_names[irqchip]);
		say(key_of("made"), "%d", vcpu >= 0);
		general(vcpu);
		special(vcpu);
		others(vcpu);
		msrs(vcpu);
		controllers(vm);
		timer(vm);
		second = call_number(vm, KVM_CREATE_VCPU, 1);
		snprintf(prefix, sizeof(prefix), "%s, second", irqchip_names[irqchip]);
		special(second);
		others(second);
		close(second);
		close(vcpu);
		close(vm);
	}
}
