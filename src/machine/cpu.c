/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "x86/arch.h"

enum { MAX_LEAVES = 256, SPARE_LEAVES = 8 };
enum { LEVEL_SMT = 1, LEVEL_CORE = 2 };
#define LEAF1_HTT	   (1u << 28)
#define LEAF1_TSC_DEADLINE (1u << 24)
#define LEAF1_HYPERVISOR   (1u << 31)

static unsigned bits_for(unsigned count)
{
	unsigned bits = 0;

	while (1u << bits < count)
		bits++;
	return bits;
}

static void drop_leaf(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	unsigned kept = 0;

	for (unsigned k = 0; k < cpuid->nent; k++)
		if (cpuid->entries[k].function != function)
			cpuid->entries[kept++] = cpuid->entries[k];
	cpuid->nent = kept;
}

static void add_subleaf(struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx,
			uint32_t ecx, uint32_t edx)
{
	cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
		.function = function, .index = index, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx,
	};
}

/* Extended topology (SDM volume 2, CPUID leaf 0Bh): one thread per core, cpu_count cores. */
static void set_topology(struct kvm_cpuid2 *cpuid, unsigned index, unsigned cpu_count)
{
	drop_leaf(cpuid, 0xb);
	drop_leaf(cpuid, 0x1f);
	add_subleaf(cpuid, 0xb, 0, 0, 1, 0 | LEVEL_SMT << 8, index);
	add_subleaf(cpuid, 0xb, 1, bits_for(cpu_count), cpu_count, 1 | LEVEL_CORE << 8, index);
	add_subleaf(cpuid, 0xb, 2, 0, 0, 2, index);
}

static void patch(struct kvm_cpuid_entry2 *e, struct kvm *kvm, unsigned index, unsigned cpu_count)
{
	switch (e->function) {
	case 1:
		e->ebx = (e->ebx & 0xffff) | cpu_count << 16 | index << 24;
		e->edx = cpu_count > 1 ? e->edx | LEAF1_HTT : e->edx & ~LEAF1_HTT;
		e->ecx |= LEAF1_HYPERVISOR;
		if (kvm_check_extension(kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
			e->ecx |= LEAF1_TSC_DEADLINE;
		break;
	case 4: /* caches: levels 1 and 2 per core, level 3 for all; cores in the package */
		if (e->eax & 0x1f) {
			unsigned level = (e->eax >> 5) & 7, sharers = level >= 3 ? cpu_count : 1;

			e->eax = (e->eax & 0x3fff) | (sharers - 1) << 14 | ((1u << bits_for(cpu_count)) - 1) << 26;
		}
		break;
	case 0x80000008:
		e->ecx = cpu_count > 1 ? (cpu_count - 1) | bits_for(cpu_count) << 12 : 0;
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index;
		e->ecx = 0;
		break;
	default:
		break;
	}
}

static int set_cpuid(struct kvm *kvm, struct kvm_vcpu *vcpu, unsigned index, unsigned cpu_count)
{
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + (MAX_LEAVES + SPARE_LEAVES) * sizeof(cpuid->entries[0]));
	int err;

	if (!cpuid)
		return -ENOMEM;
	cpuid->nent = MAX_LEAVES;
	err = kvm_get_supported_cpuid(kvm, cpuid);
	if (err >= 0) {
		for (unsigned k = 0; k < cpuid->nent; k++)
			patch(&cpuid->entries[k], kvm, index, cpu_count);
		set_topology(cpuid, index, cpu_count);
		err = kvm_vcpu_set_cpuid(vcpu, cpuid);
	}
	free(cpuid);
	return err;
}

/* Memory types by MTRR default: write-back everywhere; and fast strings. */
static int set_msrs(struct kvm_vcpu *vcpu)
{
	enum { MTRR_ENABLE = 1 << 11, WRITE_BACK = 6, FAST_STRINGS = 1 };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} msrs = {
		.head.nmsrs = 2,
		.entry = {{.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | WRITE_BACK},
			  {.index = MSR_MISC_ENABLE, .data = FAST_STRINGS}},
	};
	int n = kvm_vcpu_set_msrs(vcpu, &msrs.head);

	return n < 0 ? n : 0; /* a processor without one of them is served too */
}

/* As firmware leaves the local APIC: LINT0 takes the 8259's interrupts, LINT1 NMIs. */
static int set_lapic_pins(struct kvm_vcpu *vcpu)
{
	enum { LVT_LINT0 = 0x350, LVT_LINT1 = 0x360, MODE_NMI = 4 << 8, MODE_EXTINT = 7 << 8 };
	struct kvm_lapic_state lapic;
	int err = kvm_vcpu_ioctl(vcpu, KVM_GET_LAPIC, &lapic);

	if (err)
		return err;
	put_le32(lapic.regs + LVT_LINT0, MODE_EXTINT);
	put_le32(lapic.regs + LVT_LINT1, MODE_NMI);
	return kvm_vcpu_ioctl(vcpu, KVM_SET_LAPIC, &lapic);
}

int cpu_set_up(struct kvm *kvm, struct kvm_vcpu *vcpu, unsigned index, unsigned cpu_count)
{
	int err = set_cpuid(kvm, vcpu, index, cpu_count);

	if (err >= 0)
		err = set_msrs(vcpu);
	if (!err)
		err = set_lapic_pins(vcpu);
	return err;
}
