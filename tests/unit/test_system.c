/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control registers, MSRs and CPUID: which writes fault, what follows from those that do not, and that what is offered
 * to guests hangs together.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "softkvm/interpret/control.h"
#include "softkvm/interpret/cpuid.h"
#include "softkvm/interpret/msr.h"
#include "x86/insn.h"

enum { MAX_ENTRIES = 100 };

static struct harness h;

static int setup(void **state)
{
	int err = harness_new(&h, HARNESS_LONG64);

	if (err)
		return err;
	h.v->cpuid = calloc(1, sizeof(struct kvm_cpuid2) + MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2));
	h.v->cpuid->nent = MAX_ENTRIES;
	err = cpuid_supported(h.v->cpuid);
	return err ? err : cpuid_changed(h.v);
}

static int teardown(void **state)
{
	free(h.v->cpuid);
	harness_free(&h);
	return 0;
}

/* --- control registers --- */

static void test_cr0(void **state)
{
	uint64_t cr0 = h.v->cr0;

	assert_false(cr0_write(h.v, cr0 | 1ull << 32));
	assert_false(cr0_write(h.v, (cr0 | CR0_NW) & ~(uint64_t)CR0_CD));
	assert_false(cr0_write(h.v, cr0 & ~(uint64_t)CR0_PE)); /* paging needs protection */
	assert_false(cr0_write(h.v, cr0 & ~(uint64_t)CR0_PG)); /* not from 64-bit code */
	assert_int_equal(h.v->cr0, cr0);
	assert_true(cr0_write(h.v, cr0 | CR0_TS | 1 << 6));
	assert_int_equal(h.v->cr0, cr0 | CR0_TS); /* reserved low bits do not stick */
}

static void test_cr4(void **state)
{
	uint64_t cr4 = h.v->cr4;

	assert_false(cr4_write(h.v, cr4 | CR4_VMXE));
	assert_false(cr4_write(h.v, cr4 | CR4_LA57));
	assert_false(cr4_write(h.v, cr4 | CR4_SMAP)); /* not offered */
	assert_false(cr4_write(h.v, cr4 | 1ull << 40));
	assert_false(cr4_write(h.v, cr4 & ~(uint64_t)CR4_PAE)); /* long mode */
	h.v->cr3 |= 8;
	assert_false(cr4_write(h.v, cr4 | CR4_PCIDE));
	h.v->cr3 &= ~8ull;
	assert_true(cr4_write(h.v, cr4 | CR4_PCIDE | CR4_PGE | CR4_SMEP | CR4_UMIP | CR4_FSGSBASE));
	assert_false(cr0_write(h.v, h.v->cr0 & ~(uint64_t)CR0_PG));
}

static void test_cr3_and_efer(void **state)
{
	assert_false(cr3_write(h.v, 1ull << 51));
	assert_false(cr3_write(h.v, h.v->cr3 | CR3_NOFLUSH)); /* without PCIDE a reserved bit */
	assert_true(cr4_write(h.v, h.v->cr4 | CR4_PCIDE));
	assert_true(cr3_write(h.v, h.v->cr3 | CR3_NOFLUSH | 5));
	assert_int_equal(h.v->cr3, HARNESS_TABLES | 5);
	assert_false(efer_write(h.v, h.v->efer & ~(uint64_t)EFER_LME)); /* paging is on */
	assert_false(efer_write(h.v, h.v->efer | 1 << 12));		/* SVM */
	assert_true(efer_write(h.v, h.v->efer & ~(uint64_t)EFER_NXE));
	assert_true(h.v->efer & EFER_LMA);
}

static void test_xcr0(void **state)
{
	assert_false(xcr0_write(h.v, 0));
	assert_false(xcr0_write(h.v, 6));
	assert_false(xcr0_write(h.v, 5)); /* AVX without SSE */
	assert_false(xcr0_write(h.v, 1ull << 62 | 1));
	assert_true(xcr0_write(h.v, 3));
	assert_true(xcr0_write(h.v, cpuid_xcr0_mask(h.v)));
}

/* From protected mode to long mode and back, by its own instructions. */
static void test_mode_switch(void **state)
{
	harness_reset(&h, HARNESS_PROTECTED32);
	h.v->cr4 |= CR4_PAE;
	h.v->cr3 = HARNESS_TABLES;
	mmu_mode_changed(h.v);
	h.v->gpr[RCX] = MSR_EFER;
	h.v->gpr[RAX] = EFER_LME;
	h.v->gpr[RBX] = (uint32_t)(h.v->cr0 | CR0_PG);
	assert_int_equal(harness_do(&h, CODE(0x0f, 0x30, 0x0f, 0x22, 0xc3), 2), HARNESS_OK); /* wrmsr; mov cr0, ebx */
	assert_int_equal(h.v->efer, EFER_LME | EFER_LMA);
	assert_int_equal(h.v->mode, MODE_32); /* compatibility mode until CS changes */
	h.v->gpr[RBX] &= ~(uint64_t)CR0_PG;
	h.v->rip = HARNESS_CODE + 2;
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(h.v->efer, EFER_LME);
}

static void test_privilege(void **state)
{
	static const uint8_t code[][4] = {
		{0x0f, 0x20, 0xc0}, {0x0f, 0x22, 0xc0}, {0x0f, 0x21, 0xc0}, {0x0f, 0x32}, {0x0f, 0x30}, {0xf4}, {0x0f, 0x06},
		{0x0f, 0x01, 0x38}, {0x0f, 0x01, 0x10}, {0x0f, 0x08}, {0x0f, 0x09}, {0x0f, 0x01, 0xf8}, {0x0f, 0x00, 0xd0},
	};

	for (unsigned k = 0; k < sizeof(code) / sizeof(code[0]); k++) {
		harness_reset(&h, HARNESS_LONG64);
		harness_user(&h);
		h.v->gpr[RAX] = HARNESS_DATA;
		assert_int_equal(harness_do(&h, code[k], 4, 1), VEC_GP);
		assert_int_equal(h.v->rip, HARNESS_CODE);
	}
	harness_reset(&h, HARNESS_LONG64);
	harness_user(&h);
	h.v->gpr[RAX] = HARNESS_DATA;
	assert_int_equal(harness_do(&h, CODE(0x0f, 0x01, 0x00), 1), HARNESS_OK); /* sgdt */
	h.v->cr4 |= CR4_UMIP;
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_run(&h, 1), VEC_GP);
}

/* --- MSRs --- */

static void set(uint32_t index, uint64_t value)
{
	assert_int_equal(msr_set(h.v, index, value, false), 0);
}

static void refuse(uint32_t index, uint64_t value)
{
	uint64_t before = 0, after = 0;
	int r = msr_get(h.v, index, &before, true);

	assert_int_equal(msr_set(h.v, index, value, false), r == MSR_UNKNOWN ? MSR_UNKNOWN : MSR_REFUSED);
	assert_int_equal(msr_get(h.v, index, &after, true), r);
	assert_int_equal(before, after);
}

static void test_msr_rules(void **state)
{
	uint64_t value;

	set(MSR_LSTAR, 0xffffffff81000000);
	refuse(MSR_LSTAR, 1ull << 47);
	refuse(MSR_GS_BASE, 1ull << 60);
	set(MSR_PAT, 0x0007010600070106);
	refuse(MSR_PAT, 0x0007040600070402);
	refuse(MSR_PAT, 0x0807040600070406);
	refuse(MSR_TSC_AUX, 1ull << 32);
	set(MSR_MTRR_DEF_TYPE, 0xc06);
	refuse(MSR_MTRR_DEF_TYPE, 0xc02);
	set(MSR_MTRR_PHYSBASE0, 0xc0000000 | 6);
	refuse(MSR_MTRR_PHYSBASE0, 7);
	refuse(MSR_MTRR_PHYSBASE0, 1ull << 60);
	set(MSR_MTRR_FIX64K, 0x0606060606060606);
	refuse(MSR_MTRR_FIX64K, 0x0606060606060602);
	refuse(MSR_MTRRCAP, 0);
	refuse(MSR_EFER, 1ull << 40);
	refuse(0x12345678, 0);
	assert_int_equal(msr_get(h.v, 0x12345678, &value, false), MSR_UNKNOWN);
	assert_int_equal(msr_get(h.v, MSR_MTRRCAP, &value, false), 0);
	assert_int_equal(value & 0xff, 8);
	set(MSR_SPEC_CTRL, 1);
	refuse(MSR_SPEC_CTRL, 1 << 20);
	set(MSR_PRED_CMD, 1);
	assert_int_equal(msr_get(h.v, MSR_PRED_CMD, &value, false), MSR_UNKNOWN);
}

static void test_tsc(void **state)
{
	uint64_t a, b;

	set(MSR_TSC, 1000);
	msr_get(h.v, MSR_TSC, &a, false);
	msr_get(h.v, MSR_TSC, &b, false);
	assert_true(a >= 1000 && a < 1ull << 40 && b > a);
	msr_get(h.v, MSR_TSC_ADJUST, &b, false);
	assert_int_equal((int64_t)b, h.v->tsc_offset);
	set(MSR_TSC_ADJUST, b + (1ull << 50));
	msr_get(h.v, MSR_TSC, &a, false);
	assert_true(a >> 50 == 1);
	assert_int_equal(harness_do(&h, CODE(0x0f, 0x31), 1), HARNESS_OK);
	assert_true(h.v->gpr[RDX] >> 18);
	h.v->cr4 |= CR4_TSD;
	harness_user(&h);
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_run(&h, 1), VEC_GP);
}

/* Whatever is listed can be read, and written back. */
static void test_msr_list(void **state)
{
	for (unsigned k = 0; k < msr_save_count; k++) {
		uint64_t value;

		if (msr_save_list[k] == MSR_APIC_BASE || msr_save_list[k] == MSR_TSC_DEADLINE || msr_save_list[k] < 0x20 ||
		    msr_save_list[k] >> 8 == 0x4b564d)
			continue; /* irqchip's: they need a whole VM */
		if (msr_get(h.v, msr_save_list[k], &value, true))
			fail_msg("MSR %#x cannot be read", msr_save_list[k]);
		if (msr_set(h.v, msr_save_list[k], value, true))
			fail_msg("MSR %#x cannot be written", msr_save_list[k]);
	}
	for (unsigned k = 0; k < msr_feature_count; k++) {
		uint64_t value;

		assert_int_equal(msr_feature_get(msr_feature_list[k], &value), 0);
	}
}

/* --- CPUID --- */

static uint32_t cpuid(uint32_t leaf, uint32_t index, enum cpuid_reg reg)
{
	static const uint8_t where[] = {RAX, RBX, RCX, RDX};

	h.v->gpr[RAX] = leaf;
	h.v->gpr[RCX] = index;
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_do(&h, CODE(0x0f, 0xa2), 1), HARNESS_OK);
	return (uint32_t)h.v->gpr[where[reg]];
}

static void test_cpuid(void **state)
{
	char signature[12];
	uint32_t word;

	assert_true(cpuid(0, 0, CPUID_EAX) >= 0xd);
	h.v->cr4 &= ~(uint64_t)CR4_OSXSAVE;
	assert_false(cpuid(1, 0, CPUID_ECX) >> 27 & 1);
	h.v->cr4 |= CR4_OSXSAVE;
	assert_int_equal(cpuid(1, 0, CPUID_ECX) >> 27 & 1, cpuid(1, 0, CPUID_ECX) >> 26 & 1);
	assert_true(cpuid(1, 0, CPUID_ECX) >> 31);
	assert_false(cpuid(7, 0, CPUID_EBX) >> 20 & 1);	  /* SMAP */
	assert_false(cpuid(7, 0, CPUID_EBX) >> 16 & 1);	  /* AVX-512 */
	assert_false(cpuid(0x80000001, 0, CPUID_ECX) >> 2 & 1); /* SVM */
	for (int k = 0; k < 3; k++) {
		word = cpuid(0x40000000, 0, CPUID_EBX + k);
		memcpy(signature + 4 * k, &word, 4);
	}
	assert_memory_equal(signature, "KVMKVMKVM\0\0\0", 12);
	h.v->xcr0 = 1;
	assert_int_equal(cpuid(0xd, 0, CPUID_EBX), 576);
	h.v->xcr0 = cpuid_xcr0_mask(h.v);
	assert_int_equal(cpuid(0xd, 0, CPUID_EBX), cpuid(0xd, 0, CPUID_ECX));
	assert_int_equal(cpuid(0x12345, 0, CPUID_EBX) && !h.v->is_intel, 0);
}

static void test_cpuid_room(void **state)
{
	struct kvm_cpuid2 small = {.nent = 0};

	assert_int_equal(cpuid_supported(&small), -E2BIG);
}

/* An instruction whose feature is taken away is #UD. */
static void test_feature_off(void **state)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(h.v, 7, 0);

	((struct kvm_cpuid_entry2 *)e)->ebx &= ~1u; /* FSGSBASE */
	assert_int_equal(cpuid_changed(h.v), 0);
	assert_false(cr4_write(h.v, h.v->cr4 | CR4_FSGSBASE));
	assert_int_equal(harness_do(&h, CODE(0xf3, 0x48, 0x0f, 0xae, 0xc0), 1), VEC_UD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(test_cr0), TEST(test_cr4), TEST(test_cr3_and_efer), TEST(test_xcr0), TEST(test_mode_switch),
		TEST(test_privilege), TEST(test_msr_rules), TEST(test_tsc), TEST(test_msr_list), TEST(test_cpuid),
		TEST(test_cpuid_room), TEST(test_feature_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
