/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moving a machine: everything that the contract can read out of a VM and its vCPUs, set again in new ones,
 * in the order that the kernel's documentation asks for (CPUID first, local APIC after the APIC base, timer
 * MSRs last).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

/* The time-stamp counter first, the deadline of the APIC timer last (it comes after the local APIC). */
static const uint32_t msrs[] = {
	0x10,	    0x3b,	0x174,	    0x175,	0x176,	    0x1a0,	0x277, 0x2ff,
	0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103, 0x6e0,
};
enum { MSR_COUNT = sizeof(msrs) / sizeof(msrs[0]) };

struct msr_set {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSR_COUNT];
};

struct saved_vcpu {
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_mp_state mp;
	struct msr_set msr;
};

struct saved {
	struct saved_vcpu vcpu[MAX_CPUS];
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
};

/* One piece of state: the two requests, and where it is kept. */
struct piece {
	const char *name;
	unsigned long get, set;
	size_t offset;
};

static const struct piece vcpu_pieces[] = {
    {"sregs2", KVM_GET_SREGS2, KVM_SET_SREGS2, offsetof(struct saved_vcpu, sregs)},
    {"regs", KVM_GET_REGS, KVM_SET_REGS, offsetof(struct saved_vcpu, regs)},
    {"xcrs", KVM_GET_XCRS, KVM_SET_XCRS, offsetof(struct saved_vcpu, xcrs)},
    {"xsave", KVM_GET_XSAVE, KVM_SET_XSAVE, offsetof(struct saved_vcpu, xsave)},
    {"lapic", KVM_GET_LAPIC, KVM_SET_LAPIC, offsetof(struct saved_vcpu, lapic)},
    {"msrs", KVM_GET_MSRS, KVM_SET_MSRS, offsetof(struct saved_vcpu, msr)},
    {"mp_state", KVM_GET_MP_STATE, KVM_SET_MP_STATE, offsetof(struct saved_vcpu, mp)},
    {"events", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, offsetof(struct saved_vcpu, events)},
    {"debugregs", KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, offsetof(struct saved_vcpu, debug)},
};

static const struct piece vm_pieces[] = {
    {"PIC master", KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, offsetof(struct saved, chip[0])},
    {"PIC slave", KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, offsetof(struct saved, chip[1])},
    {"I/O APIC", KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, offsetof(struct saved, chip[2])},
    {"PIT", KVM_GET_PIT2, KVM_SET_PIT2, offsetof(struct saved, pit)},
    {"clock", KVM_GET_CLOCK, KVM_SET_CLOCK, offsetof(struct saved, clock)},
};

static int vcpu_all(struct kvm_vcpu *vcpu, struct saved_vcpu *s, bool set, const char **what)
{
	for (size_t k = 0; k < sizeof(vcpu_pieces) / sizeof(vcpu_pieces[0]); k++) {
		const struct piece *p = &vcpu_pieces[k];
		long ret = kvm_vcpu_ioctl(vcpu, set ? p->set : p->get, (uint8_t *)s + p->offset);

		*what = p->name;
		if (ret < 0)
			return (int)ret;
		if (p->get == KVM_GET_MSRS && ret != MSR_COUNT)
			return -ENOMSG;
	}
	return 0;
}

static int vm_all(struct kvm_vm *vm, struct saved *s, bool set, const char **what)
{
	for (size_t k = 0; k < sizeof(vm_pieces) / sizeof(vm_pieces[0]); k++) {
		const struct piece *p = &vm_pieces[k];
		long ret;

		if (k < 3)
			s->chip[k].chip_id = (uint32_t)k;
		if (set && p->set == KVM_SET_CLOCK)
			s->clock.flags = 0;
		ret = kvm_vm_ioctl(vm, set ? p->set : p->get, (uint8_t *)s + p->offset);
		*what = p->name;
		if (ret < 0)
			return (int)ret;
	}
	return 0;
}

int metal_move(struct metal *m, struct kvm *to, const char **what)
{
	struct saved *s = calloc(1, sizeof(*s));
	int err = 0;

	for (unsigned i = 0; i < m->cpus && err >= 0; i++) {
		s->vcpu[i].msr.head.nmsrs = MSR_COUNT;
		for (unsigned k = 0; k < MSR_COUNT; k++)
			s->vcpu[i].msr.entry[k].index = msrs[k];
		err = vcpu_all(m->vcpu[i], &s->vcpu[i], false, what);
	}
	if (err >= 0)
		err = vm_all(m->vm, s, false, what);
	if (err >= 0) {
		metal_free(m);
		m->kvm = to;
		*what = "new VM";
		err = metal_build(m);
	}
	if (err >= 0)
		err = vm_all(m->vm, s, true, what);
	for (unsigned i = 0; i < m->cpus && err >= 0; i++)
		err = vcpu_all(m->vcpu[i], &s->vcpu[i], true, what);
	free(s);
	return err;
}
