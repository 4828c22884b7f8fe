/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What CPUID the engine offers (KVM_GET_SUPPORTED_CPUID): the host's features that guest code can run natively, as far
 * as the instruction table knows them, plus what software provides anyway, whatever the host has (PCID, INVPCID,
 * x2APIC, the TSC-deadline timer, SMEP, UMIP, FSGSBASE, 1 GiB pages).
 *
 * Not offered: AVX-512 and other EVEX or newer VEX extensions, SVM, VMX, PKU, CET, MPX, LA57, and SMAP, which
 * costs a software TLB more than it brings. MONITOR/MWAIT, too, so that idle guests use HLT.
 *
 * Each row of `leaves` is one leaf with its masks: host bits that may pass, bits that are always set.
 */
#include "softkvm/interpret/cpuid.h"

#include <asm/kvm_para.h>
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "softkvm/irqchip/pvclock.h"
#include "softkvm/irqchip/tsc.h"

#define BIT(n) (1u << (n))

enum { MAX_ENTRIES = 64, XCR0_OFFERED = 7 /* x87, SSE, AVX */ };

static struct kvm_cpuid_entry2 offer[MAX_ENTRIES];
static unsigned offer_count;
static pthread_once_t offer_once = PTHREAD_ONCE_INIT;

static bool host_is_intel(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	return b == signature_INTEL_ebx;
}

static struct kvm_cpuid_entry2 *add(uint32_t function, uint32_t index, bool indexed)
{
	struct kvm_cpuid_entry2 *e = &offer[offer_count++];

	*e = (struct kvm_cpuid_entry2){.function = function, .index = index,
				       .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0};
	__cpuid_count(function, index, e->eax, e->ebx, e->ecx, e->edx);
	return e;
}

static struct kvm_cpuid_entry2 *add_zeroed(uint32_t function, uint32_t index, bool indexed)
{
	struct kvm_cpuid_entry2 *e = add(function, index, indexed);

	e->eax = e->ebx = e->ecx = e->edx = 0;
	return e;
}

/* --- basic leaves --- */

static void add_leaf_1(void)
{
	const uint32_t ecx_host = BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |
				  BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30);
	/* Not the TSC-deadline timer: that is a capability of its own, as only a local APIC of ours has it. */
	const uint32_t ecx_always = BIT(17) /* PCID */ | BIT(21) /* x2APIC */ | BIT(31) /* hypervisor */;
	const uint32_t edx_host = BIT(0) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | BIT(26);
	const uint32_t edx_always = 0x3be | BIT(6) | BIT(8) | BIT(11) /* SEP */ | BIT(12) | BIT(13) | BIT(14) | BIT(16) |
				    BIT(17);
	struct kvm_cpuid_entry2 *e = add(1, 0, false);

	e->ebx &= 0x0000ff00; /* CLFLUSH size; APIC id and count are the user's to set */
	e->ecx = (e->ecx & ecx_host) | ecx_always;
	e->edx = (e->edx & edx_host) | edx_always;
}

static void add_leaf_7(void)
{
	const uint32_t ebx_host = BIT(3) | BIT(5) | BIT(8) | BIT(18) | BIT(19) | BIT(23) | BIT(24) | BIT(29);
	const uint32_t ebx_always = BIT(0) /* FSGSBASE */ | BIT(1) /* TSC_ADJUST */ | BIT(7) /* SMEP */ |
				    BIT(9) /* ERMS */ | BIT(10) /* INVPCID */;
	struct kvm_cpuid_entry2 *e = add(7, 0, true);

	e->eax = 0;
	e->ebx = (e->ebx & ebx_host) | ebx_always;
	e->ecx = BIT(2) /* UMIP */ | BIT(22) /* RDPID */;
	e->edx = BIT(4) /* FSRM */ | BIT(26) /* SPEC_CTRL */ | BIT(29) /* ARCH_CAPABILITIES */;
}

/* Topology as one package per vCPU: the user rewrites it to its machine. */
static void add_topology(void)
{
	struct kvm_cpuid_entry2 *e = add_zeroed(0xb, 0, true);

	e->ebx = 1;
	e->ecx = 0 | 1 << 8;
	e = add_zeroed(0xb, 1, true);
	e->ebx = 1;
	e->ecx = 1 | 2 << 8;
}

static void add_xsave(void)
{
	struct kvm_cpuid_entry2 *e = add(0xd, 0, true);
	uint32_t components = e->eax & XCR0_OFFERED;

	e->eax = components;
	e->edx = 0;
	e->ebx = e->ecx = 512 + 64 + (components & 4 ? 256 : 0);
	e = add(0xd, 1, true);
	e->eax &= BIT(0) | BIT(1) | BIT(2) | BIT(3);
	e->ecx = e->edx = 0;
	e->ebx = 512 + 64 + (components & 4 ? 256 : 0);
	if (components & 4) {
		e = add(0xd, 2, true);
		e->eax = 256;
		e->ebx = 512 + 64;
		e->ecx = e->edx = 0;
	}
}

/* The TSC's frequency as a multiple of the APIC timer's clock (leaf 15h), and in MHz (16h). */
static void add_frequencies(void)
{
	struct kvm_cpuid_entry2 *e = add_zeroed(0x15, 0, false);
	uint32_t khz = host_tsc_khz();

	e->eax = APIC_BUS_KHZ;
	e->ebx = khz;
	e->ecx = APIC_BUS_KHZ * 1000u;
	e = add_zeroed(0x16, 0, false);
	e->eax = e->ebx = khz / 1000;
	e->ecx = 100;
}

static void add_basic(bool intel)
{
	struct kvm_cpuid_entry2 *e = add(0, 0, false);

	e->eax = 0x16;
	add_leaf_1();
	if (intel) {
		add(2, 0, false);
		for (uint32_t index = 0; index < 8; index++) {
			e = add(4, index, true);
			e->eax &= 0x3ff; /* sharing is the user's topology */
			if (!(e->eax & 0x1f))
				break;
		}
	}
	add_zeroed(6, 0, false)->eax = BIT(2); /* ARAT */
	add_leaf_7();
	add_topology();
	add_xsave();
	add_frequencies();
}

/* --- KVM's leaves --- */

static void add_kvm(void)
{
	const uint32_t features = BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |
				  BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_STEAL_TIME) |
				  BIT(KVM_FEATURE_PV_EOI) | BIT(KVM_FEATURE_PV_UNHALT) |
				  BIT(KVM_FEATURE_PV_TLB_FLUSH) | BIT(KVM_FEATURE_PV_SEND_IPI) |
				  BIT(KVM_FEATURE_POLL_CONTROL) | BIT(KVM_FEATURE_PV_SCHED_YIELD) |
				  BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);
	struct kvm_cpuid_entry2 *e = add_zeroed(0x40000000, 0, false);

	e->eax = 0x40000010;
	memcpy(&e->ebx, "KVMK", 4);
	memcpy(&e->ecx, "VMKV", 4);
	memcpy(&e->edx, "M\0\0\0", 4);
	add_zeroed(0x40000001, 0, false)->eax = features;
	e = add_zeroed(0x40000010, 0, false);
	e->eax = host_tsc_khz();
	e->ebx = APIC_BUS_KHZ;
}

/* --- extended leaves --- */

static void add_leaf_80000001(bool intel)
{
	const uint32_t ecx_host = BIT(0) | BIT(4) | BIT(5) | BIT(8);
	const uint32_t edx_shared = 0x0183f3ff; /* the bits AMD repeats from leaf 1 */
	const uint32_t edx_host = BIT(11) | BIT(22) | BIT(29);
	const uint32_t edx_always = BIT(20) /* NX */ | BIT(26) /* 1 GiB pages */ | BIT(27) /* RDTSCP */;
	struct kvm_cpuid_entry2 *e = add(0x80000001, 0, false);

	e->ebx = 0;
	e->ecx &= ecx_host;
	e->edx = (e->edx & edx_host) | edx_always | BIT(11);
	if (!intel)
		e->edx |= offer[1].edx & edx_shared;
}

static void add_extended(bool intel)
{
	struct kvm_cpuid_entry2 *e = add(0x80000000, 0, false);
	uint32_t max = e->eax;

	e->eax = intel ? 0x80000008 : 0x80000021;
	add_leaf_80000001(intel);
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++)
		add(leaf, 0, false);
	e = add(0x80000007, 0, false);
	e->eax = e->ebx = e->ecx = 0;
	e->edx = BIT(8); /* invariant TSC */
	e = add(0x80000008, 0, false);
	e->eax = (e->eax & 0xff) | 48 << 8;
	e->ebx &= BIT(2);						  /* x87 error pointers always saved */
	e->ebx |= intel ? 0 : BIT(12) | BIT(14) | BIT(26); /* IBPB, IBRS, SSB_NO */
	e->ecx = e->edx = 0;
	if (intel || max < 0x80000008)
		return;
	add_zeroed(0x80000021, 0, false)->eax = BIT(2) /* LFENCE serialises */ | BIT(6) /* null clears base */ |
						BIT(29) /* SRSO_NO */;
}

static void make_offer(void)
{
	bool intel = host_is_intel();

	add_basic(intel);
	add_kvm();
	add_extended(intel);
}

int cpuid_supported(struct kvm_cpuid2 *list)
{
	pthread_once(&offer_once, make_offer);
	if (list->nent < offer_count)
		return -E2BIG;
	memcpy(list->entries, offer, offer_count * sizeof(offer[0]));
	list->nent = offer_count;
	return 0;
}

/*
 * RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO PBRSB_NO GDS_NO
 * RFDS_NO ITS_NO: guest code runs inside one host process, whose kernel does what the hardware needs; nothing that the
 * guest could do about these would have an effect.
 */
uint64_t cpuid_arch_capabilities(void)
{
	return BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) |
	       BIT(24) | BIT(26) | BIT(27) | 1ull << 62;
}
