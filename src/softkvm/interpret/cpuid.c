/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The vCPU's CPUID: the list set by KVM_SET_CPUID2, the instruction that reads it (with the bits that follow the
 * vCPU's state), and the features that switch instructions and register bits on. Also RDTSC and its relatives.
 */
#include "softkvm/interpret/cpuid.h"

#include <errno.h>
#include <stdlib.h>

#include "softkvm/interpret/control.h"
#include "softkvm/interpret/msr.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *v, uint32_t function, uint32_t index)
{
	for (uint32_t k = 0; v->cpuid && k < v->cpuid->nent; k++) {
		const struct kvm_cpuid_entry2 *e = &v->cpuid->entries[k];

		if (e->function == function && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

bool cpuid_has(const struct vcpu *v, uint32_t function, uint32_t index, enum cpuid_reg reg, unsigned bit)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, function, index);

	return e && ((&e->eax)[reg] >> bit & 1);
}

/* --- features of instructions --- */

static const struct {
	uint32_t function;
	uint8_t reg, bit;
} feature_bits[FEAT_COUNT] = {
	[FEAT_FPU] = {1, CPUID_EDX, 0},
	[FEAT_CX8] = {1, CPUID_EDX, 8},
	[FEAT_SEP] = {1, CPUID_EDX, 11},
	[FEAT_CMOV] = {1, CPUID_EDX, 15},
	[FEAT_CLFSH] = {1, CPUID_EDX, 19},
	[FEAT_MMX] = {1, CPUID_EDX, 23},
	[FEAT_FXSR] = {1, CPUID_EDX, 24},
	[FEAT_SSE] = {1, CPUID_EDX, 25},
	[FEAT_SSE2] = {1, CPUID_EDX, 26},
	[FEAT_SSE3] = {1, CPUID_ECX, 0},
	[FEAT_PCLMUL] = {1, CPUID_ECX, 1},
	[FEAT_MONITOR] = {1, CPUID_ECX, 3},
	[FEAT_SSSE3] = {1, CPUID_ECX, 9},
	[FEAT_FMA] = {1, CPUID_ECX, 12},
	[FEAT_CX16] = {1, CPUID_ECX, 13},
	[FEAT_SSE41] = {1, CPUID_ECX, 19},
	[FEAT_SSE42] = {1, CPUID_ECX, 20},
	[FEAT_MOVBE] = {1, CPUID_ECX, 22},
	[FEAT_POPCNT] = {1, CPUID_ECX, 23},
	[FEAT_AES] = {1, CPUID_ECX, 25},
	[FEAT_XSAVE] = {1, CPUID_ECX, 26},
	[FEAT_AVX] = {1, CPUID_ECX, 28},
	[FEAT_F16C] = {1, CPUID_ECX, 29},
	[FEAT_RDRAND] = {1, CPUID_ECX, 30},
	[FEAT_FSGSBASE] = {7, CPUID_EBX, 0},
	[FEAT_BMI1] = {7, CPUID_EBX, 3},
	[FEAT_AVX2] = {7, CPUID_EBX, 5},
	[FEAT_BMI2] = {7, CPUID_EBX, 8},
	[FEAT_INVPCID] = {7, CPUID_EBX, 10},
	[FEAT_RDSEED] = {7, CPUID_EBX, 18},
	[FEAT_ADX] = {7, CPUID_EBX, 19},
	[FEAT_SMAP] = {7, CPUID_EBX, 20},
	[FEAT_CLFLUSHOPT] = {7, CPUID_EBX, 23},
	[FEAT_CLWB] = {7, CPUID_EBX, 24},
	[FEAT_SHA] = {7, CPUID_EBX, 29},
	[FEAT_RDPID] = {7, CPUID_ECX, 22},
	[FEAT_LAHF] = {0x80000001, CPUID_ECX, 0},
	[FEAT_SYSCALL] = {0x80000001, CPUID_EDX, 11},
	[FEAT_RDTSCP] = {0x80000001, CPUID_EDX, 27},
};

static void set_feature(struct vcpu *v, enum insn_feature f, bool on)
{
	if (on)
		v->feature[f / 32] |= 1u << (f % 32);
}

/* LAHF and SYSCALL need their CPUID bit in long mode only; both exist on every processor that has it. */
static void derive_features(struct vcpu *v)
{
	for (int k = 0; k < (FEAT_COUNT + 31) / 32; k++)
		v->feature[k] = 0;
	set_feature(v, FEAT_NONE, true);
	for (int f = 0; f < FEAT_COUNT; f++)
		if (feature_bits[f].function)
			set_feature(v, f, cpuid_has(v, feature_bits[f].function, 0, feature_bits[f].reg, feature_bits[f].bit));
	set_feature(v, FEAT_XSAVEOPT, cpuid_has(v, 0xd, 1, CPUID_EAX, 0));
	set_feature(v, FEAT_XSAVEC, cpuid_has(v, 0xd, 1, CPUID_EAX, 1));
	set_feature(v, FEAT_XSAVES, cpuid_has(v, 0xd, 1, CPUID_EAX, 3));
}

int cpuid_changed(struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *e;

	if (!v->feature)
		v->feature = calloc((FEAT_COUNT + 31) / 32, sizeof(*v->feature));
	if (!v->feature)
		return -ENOMEM;
	derive_features(v);
	e = cpuid_find(v, 0, 0);
	v->is_intel = e && e->ebx == 0x756e6547; /* "Genu" */
	e = cpuid_find(v, 0x80000008, 0);
	v->phys_bits = e ? e->eax & 0xff : 36;
	if (v->phys_bits < 32 || v->phys_bits > 52)
		v->phys_bits = 36;
	return 0;
}

uint64_t cpuid_xcr0_mask(const struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 0xd, 0);

	return (e ? e->eax | (uint64_t)e->edx << 32 : 0) | 1;
}

uint64_t cr4_allowed(const struct vcpu *v)
{
	static const struct {
		uint32_t bit, function;
		uint8_t reg, feature;
	} by_feature[] = {
		{CR4_VME | CR4_PVI, 1, CPUID_EDX, 1}, {CR4_DE, 1, CPUID_EDX, 2},	{CR4_PSE, 1, CPUID_EDX, 3},
		{CR4_TSD, 1, CPUID_EDX, 4},	      {CR4_PAE, 1, CPUID_EDX, 6},	{CR4_MCE, 1, CPUID_EDX, 7},
		{CR4_PGE, 1, CPUID_EDX, 13},	      {CR4_OSFXSR, 1, CPUID_EDX, 24},	{CR4_OSXMMEXCPT, 1, CPUID_EDX, 25},
		{CR4_UMIP, 7, CPUID_ECX, 2},	      {CR4_LA57, 7, CPUID_ECX, 16},	{CR4_FSGSBASE, 7, CPUID_EBX, 0},
		{CR4_PCIDE, 1, CPUID_ECX, 17},	      {CR4_OSXSAVE, 1, CPUID_ECX, 26},	{CR4_SMEP, 7, CPUID_EBX, 7},
		{CR4_SMAP, 7, CPUID_EBX, 20},
	};
	uint64_t allowed = CR4_PCE;

	for (unsigned k = 0; k < sizeof(by_feature) / sizeof(by_feature[0]); k++)
		if (cpuid_has(v, by_feature[k].function, 0, by_feature[k].reg, by_feature[k].feature))
			allowed |= by_feature[k].bit;
	return allowed;
}

uint64_t efer_allowed(const struct vcpu *v)
{
	uint64_t allowed = 0;

	if (cpuid_has(v, 0x80000001, 0, CPUID_EDX, 11))
		allowed |= EFER_SCE;
	if (cpuid_has(v, 0x80000001, 0, CPUID_EDX, 29))
		allowed |= EFER_LME | EFER_LMA;
	if (cpuid_has(v, 0x80000001, 0, CPUID_EDX, 20))
		allowed |= EFER_NXE;
	if (cpuid_has(v, 0x80000001, 0, CPUID_EDX, 25))
		allowed |= EFER_FFXSR;
	return allowed;
}

/* --- CPUID --- */

/* Intel gives data of the highest basic leaf for leaves out of range, AMD zeros. */
static const struct kvm_cpuid_entry2 *find_or_highest(const struct vcpu *v, uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, function, index), *top;

	if (e || !v->is_intel)
		return e;
	top = cpuid_find(v, function & 0x80000000, 0);
	if (!top || (function >= 0x40000000 && function < 0x50000000) || function <= top->eax)
		return NULL;
	top = cpuid_find(v, 0, 0);
	return top ? cpuid_find(v, top->eax, index) : NULL;
}

/* Size of an XSAVE area for `components`, standard or compacted; offsets and sizes from leaf 0Dh. */
static uint32_t xsave_size(const struct vcpu *v, uint64_t components, bool compacted)
{
	uint32_t size = 512 + 64;

	for (unsigned n = 2; n < 63; n++) {
		const struct kvm_cpuid_entry2 *e = components >> n & 1 ? cpuid_find(v, 0xd, n) : NULL;

		if (!e)
			continue;
		if (compacted)
			size = (e->ecx & 2 ? (size + 63) & ~63u : size) + e->eax;
		else if (e->ebx + e->eax > size)
			size = e->ebx + e->eax;
	}
	return size;
}

void op_cpuid(struct vcpu *v, const struct insn *i)
{
	uint32_t function = v->gpr[RAX], index = v->gpr[RCX];
	const struct kvm_cpuid_entry2 *e = find_or_highest(v, function, index);
	uint32_t r[4] = {0};

	if (v->misc_features & MISC_FEATURES_CPUID_FAULT && v->cpl)
		raise_error(v, VEC_GP, 0);
	if (e)
		for (int k = 0; k < 4; k++)
			r[k] = (&e->eax)[k];
	if (function == 1) {
		r[CPUID_ECX] &= ~(1u << 27);
		if (v->cr4 & CR4_OSXSAVE)
			r[CPUID_ECX] |= 1u << 27;
		if (v->lapic && !(v->apic_base >> 11 & 1))
			r[CPUID_EDX] &= ~(1u << 9);
	} else if (function == 0xd && index == 0 && e) {
		r[CPUID_EBX] = xsave_size(v, v->xcr0, false);
	} else if (function == 0xd && index == 1 && (r[CPUID_EAX] & 0xa)) {
		r[CPUID_EBX] = xsave_size(v, v->xcr0 | v->xss, true);
	} else if ((function == 0xb || function == 0x1f) && !e) {
		const struct kvm_cpuid_entry2 *first = cpuid_find(v, function, 0);

		r[CPUID_ECX] = index & 0xff;
		r[CPUID_EDX] = first ? first->edx : 0;
	}
	v->gpr[RAX] = r[CPUID_EAX];
	v->gpr[RBX] = r[CPUID_EBX];
	v->gpr[RCX] = r[CPUID_ECX];
	v->gpr[RDX] = r[CPUID_EDX];
}

/* --- time --- */

static void read_tsc(struct vcpu *v)
{
	uint64_t tsc;

	if ((v->cr4 & CR4_TSD) && v->cpl != 0)
		raise_error(v, VEC_GP, 0);
	tsc = __builtin_ia32_rdtsc() + v->tsc_offset;
	v->gpr[RAX] = (uint32_t)tsc;
	v->gpr[RDX] = tsc >> 32;
}

void op_rdtsc(struct vcpu *v, const struct insn *i)
{
	read_tsc(v);
}

void op_rdtscp(struct vcpu *v, const struct insn *i)
{
	read_tsc(v);
	v->gpr[RCX] = (uint32_t)v->tsc_aux;
}

void op_rdpid(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, v->tsc_aux);
}

/* There are no performance counters. */
void op_rdpmc(struct vcpu *v, const struct insn *i)
{
	raise_error(v, VEC_GP, 0);
}
