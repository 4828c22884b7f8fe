/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page walks and the soft TLB: tables are built in the harness's RAM, accesses are made through mmu/, and faults,
 * error codes, accessed and dirty bits, and what flushes drop are compared with SDM volume 3, chapter 4.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "harness.h"
#include "softkvm/mmu/tlb.h"

enum { T1 = 0x100000, T2 = 0x101000, T3 = 0x102000, T4 = 0x103000, FRAME = 0x180000, FRAME2 = 0x181000, NO_FAULT = -1 };

static struct harness h;

static void put64(gpa_t at, uint64_t value)
{
	memcpy(h.ram + at, &value, 8);
}

static uint64_t get64(gpa_t at)
{
	uint64_t value;

	memcpy(&value, h.ram + at, 8);
	return value;
}

static void put32(gpa_t at, uint32_t value)
{
	memcpy(h.ram + at, &value, 4);
}

static uint32_t get32(gpa_t at)
{
	uint32_t value;

	memcpy(&value, h.ram + at, 4);
	return value;
}

static void set_user(bool user)
{
	h.v->cpl = user ? 3 : 0;
	mmu_cpl_changed(h.v);
}

enum how { READ, WRITE, FETCH };

/* NO_FAULT or the page fault's error code. */
static int touch(gva_t gva, enum how how)
{
	gpa_t gpa;

	if (__builtin_setjmp(h.v->leave_buf)) {
		assert_true(h.v->exception_pending);
		assert_int_equal(h.v->exception_vector, VEC_PF);
		assert_int_equal(h.v->exception_payload, gva);
		h.v->exception_pending = false;
		return (int)h.v->exception_error;
	}
	if (how == READ)
		mmu_read(h.v, gva, 4);
	else if (how == WRITE)
		mmu_write(h.v, gva, 4, 0x12345678);
	else
		mmu_fetch_page(h.v, gva, &gpa);
	return NO_FAULT;
}

static void use(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	h.v->cr0 = CR0_PE | CR0_PG | cr0;
	h.v->cr4 = cr4;
	h.v->efer = efer;
	h.v->cr3 = T1;
	mmu_mode_changed(h.v);
	mmu_cr3_loaded(h.v, 0, false);
	mmu_flush_all(h.v);
	set_user(false);
}

static void long_mode(uint64_t cr4)
{
	use(CR0_WP, CR4_PAE | CR4_PGE | cr4, EFER_LME | EFER_LMA | EFER_NXE);
	memset(h.ram + T1, 0, 4 * 4096);
	put64(T1, T2 | 7);
	put64(T2, T3 | 7);
	put64(T3, T4 | 7);
}

static int setup(void **state)
{
	return harness_new(&h, HARNESS_LONG64);
}

static int teardown(void **state)
{
	harness_free(&h);
	return 0;
}

/* --- rights --- */

static void test_rights(void **state)
{
	long_mode(0);
	put64(T4 + 8, FRAME | PTE_P);			/* supervisor, read-only */
	put64(T4 + 16, FRAME | PTE_P | PTE_W | PTE_U | PTE_NX);
	put64(T4 + 24, FRAME | PTE_P | PTE_U);		/* user, read-only */
	assert_int_equal(touch(0x0, READ), 0);
	assert_int_equal(touch(0x0, WRITE), PF_W);
	assert_int_equal(touch(0x1000, READ), NO_FAULT);
	assert_int_equal(touch(0x1000, WRITE), PF_P | PF_W);
	assert_int_equal(touch(0x1000, FETCH), NO_FAULT);
	assert_int_equal(touch(0x2000, WRITE), NO_FAULT);
	assert_int_equal(touch(0x2000, FETCH), PF_P | PF_I);
	set_user(true);
	assert_int_equal(touch(0x0, FETCH), PF_U | PF_I);
	assert_int_equal(touch(0x1000, READ), PF_P | PF_U);
	assert_int_equal(touch(0x2000, WRITE), NO_FAULT);
	assert_int_equal(touch(0x3000, WRITE), PF_P | PF_U | PF_W);
	assert_int_equal(touch(0x3000, READ), NO_FAULT);
}

static void test_write_protect_off(void **state)
{
	long_mode(0);
	h.v->cr0 &= ~(uint64_t)CR0_WP;
	mmu_mode_changed(h.v);
	put64(T4 + 8, FRAME | PTE_P | PTE_U);
	assert_int_equal(touch(0x1000, WRITE), NO_FAULT);
	set_user(true);
	assert_int_equal(touch(0x1000, WRITE), PF_P | PF_U | PF_W);
	set_user(false);
	h.v->cr0 |= CR0_WP;
	mmu_mode_changed(h.v);
	assert_int_equal(touch(0x1000, WRITE), PF_P | PF_W);
}

static void test_upper_levels_restrict(void **state)
{
	long_mode(0);
	put64(T4, FRAME | 7);
	put64(T2, T3 | PTE_P | PTE_U); /* not writable */
	assert_int_equal(touch(0, WRITE), PF_P | PF_W);
	put64(T2, T3 | PTE_P | PTE_W);
	mmu_flush_all(h.v);
	set_user(true);
	assert_int_equal(touch(0, READ), PF_P | PF_U);
}

static void test_smep_smap(void **state)
{
	long_mode(CR4_SMEP | CR4_SMAP);
	put64(T4, FRAME | 7);
	assert_int_equal(touch(0, FETCH), PF_P | PF_I);
	assert_int_equal(touch(0, READ), PF_P);
	h.v->rflags |= FLAG_AC;
	mmu_mode_changed(h.v);
	assert_int_equal(touch(0, READ), NO_FAULT);
	assert_int_equal(touch(0, WRITE), NO_FAULT);
	h.v->rflags &= ~(uint64_t)FLAG_AC;
	mmu_mode_changed(h.v);
	assert_int_equal(touch(0, READ), PF_P);
	set_user(true);
	assert_int_equal(touch(0, READ), NO_FAULT);
	assert_int_equal(touch(0, FETCH), NO_FAULT);
}

static void test_reserved_bits(void **state)
{
	long_mode(0);
	put64(T4, FRAME | 7 | 1ull << 45); /* above MAXPHYADDR of 40 */
	assert_int_equal(touch(0, READ), PF_P | PF_RSVD);
	put64(T4, FRAME | 7);
	put64(T1, T2 | 7 | PTE_PS);
	assert_int_equal(touch(0, READ), PF_P | PF_RSVD);
	put64(T1, T2 | 7);
	put64(T3, 0x200000 | 7 | PTE_PS | 1 << 13);
	assert_int_equal(touch(0, READ), PF_P | PF_RSVD);
	put64(T3, T4 | 7);
	h.v->efer &= ~(uint64_t)EFER_NXE;
	mmu_mode_changed(h.v);
	put64(T4, FRAME | 7 | PTE_NX);
	assert_int_equal(touch(0, WRITE), PF_P | PF_W | PF_RSVD);
}

/* --- accessed and dirty --- */

static void test_accessed_dirty(void **state)
{
	long_mode(0);
	put64(T4, FRAME | 7);
	put64(T4 + 8, FRAME | PTE_P);
	assert_int_equal(touch(0, READ), NO_FAULT);
	assert_int_equal(get64(T1), T2 | 7 | PTE_A);
	assert_int_equal(get64(T3), T4 | 7 | PTE_A);
	assert_int_equal(get64(T4), FRAME | 7 | PTE_A);
	assert_int_equal(touch(0, WRITE), NO_FAULT);
	assert_int_equal(get64(T4), FRAME | 7 | PTE_A | PTE_D);
	assert_int_equal(touch(0x1000, WRITE), PF_P | PF_W); /* a refused access leaves the leaf alone */
	assert_int_equal(get64(T4 + 8), FRAME | PTE_P);
	assert_int_equal(get32(FRAME), 0x12345678);
}

/* --- sizes and modes --- */

static void test_large_pages(void **state)
{
	long_mode(0);
	put64(T3 + 8, 0x200000 | 7 | PTE_PS);		/* 2 MiB page at 2 MiB */
	put64(T2 + 8, 0 | 7 | PTE_PS);			/* 1 GiB page at 1 GiB -> GPA 0 */
	put32(0x2abc00, 0x5a5a0001);
	put32(0x312c00, 0x5a5a0002);
	assert_int_equal(mmu_read(h.v, 0x2abc00, 4), 0x5a5a0001);
	assert_int_equal(mmu_read(h.v, 0x40312c00, 4), 0x5a5a0002);
	assert_int_equal(touch(0x2abc00, WRITE), NO_FAULT);
	assert_int_equal(get64(T3 + 8), 0x200000 | 7 | PTE_PS | PTE_A | PTE_D);
	/* INVLPG of any address inside drops every piece. */
	put64(T3 + 8, 0);
	assert_int_equal(touch(0x2abc00, READ), NO_FAULT);
	mmu_invlpg(h.v, 0x200000);
	assert_int_equal(touch(0x2abc00, READ), 0);
	assert_int_equal(touch(0x40312c00, READ), NO_FAULT);
	put64(T2 + 8, 0);
	assert_int_equal(touch(0x40312c00, READ), NO_FAULT);
	mmu_invlpg(h.v, 0x7ffff000);
	assert_int_equal(touch(0x40312c00, READ), 0);
}

static void test_32bit(void **state)
{
	use(CR0_WP, CR4_PSE, 0);
	memset(h.ram + T1, 0, 2 * 4096);
	put32(T1, T2 | 7);
	put32(T1 + 4, 0 | 7 | PTE_PS);			/* 4 MiB page at 4 MiB -> 0 */
	put32(T2 + 4, FRAME | 5);
	assert_int_equal(touch(0x1000, READ), NO_FAULT);
	assert_int_equal(touch(0x1000, FETCH), NO_FAULT);
	assert_int_equal(touch(0x1000, WRITE), PF_P | PF_W);
	assert_int_equal(touch(0x2000, FETCH), 0);	/* no I bit without NX and SMEP */
	assert_int_equal(get32(T1), T2 | 7 | PTE_A);
	put32(0x345678, 77);
	assert_int_equal(mmu_read(h.v, 0x400000 + 0x345678, 4), 77);
	put32(T1 + 4, 0 | 7 | PTE_PS | 1 << 21);
	mmu_invlpg(h.v, 0x5ff000);
	assert_int_equal(touch(0x400000, READ), PF_P | PF_RSVD);
}

static void test_pae(void **state)
{
	use(CR0_WP, CR4_PAE, EFER_NXE);
	memset(h.ram + T1, 0, 4 * 4096);
	put64(T1, T3 | 1);
	put64(T1 + 8, T3 | 1);
	put64(T3, T4 | 7);
	put64(T3 + 8, 0x200000 | 7 | PTE_PS | PTE_NX);
	put64(T4, FRAME | 3);
	assert_int_equal(touch(0, READ), 0); /* the PDPTE registers were loaded before */
	assert_true(mmu_load_pdptes(h.v, T1));
	assert_int_equal(touch(0, WRITE), NO_FAULT);
	assert_int_equal(touch(0x40000000, READ), NO_FAULT);
	assert_int_equal(touch(0x80000000, READ), 0);
	assert_int_equal(touch(0x200000, FETCH), PF_P | PF_I);
	put64(T1 + 24, T3 | 1 | 2); /* reserved bit */
	assert_false(mmu_load_pdptes(h.v, T1));
}

static void test_5level(void **state)
{
	const gva_t gva = 3ull << 48;

	long_mode(CR4_LA57);
	put64(T1 + 3 * 8, T2 | 7);
	put64(T2, T3 | 7);
	put64(T3, T4 | 7);
	put64(T4, 0x200000 | 7 | PTE_PS);
	put32(0x212340, 99);
	assert_int_equal(mmu_read(h.v, gva + 0x12340, 4), 99);
}

/* --- what flushes drop --- */

static void test_pcid_and_global(void **state)
{
	long_mode(CR4_PCIDE);
	put64(T4, FRAME | 7);
	put64(T4 + 8, FRAME | 3 | PTE_G);
	set_user(true);
	assert_int_equal(touch(0, READ), NO_FAULT);
	set_user(false);
	assert_int_equal(touch(0x1000, READ), NO_FAULT);
	put64(T4, 0);
	put64(T4 + 8, 0);
	h.v->cr3 = T1 | 5; /* another PCID: its own translations, global ones stay */
	mmu_cr3_loaded(h.v, T1, false);
	set_user(true);
	assert_int_equal(touch(0, READ), PF_U);
	set_user(false);
	assert_int_equal(touch(0x1000, READ), NO_FAULT);
	h.v->cr3 = T1; /* back without a flush: PCID 0's are still there */
	mmu_cr3_loaded(h.v, T1 | 5, true);
	set_user(true);
	assert_int_equal(touch(0, READ), NO_FAULT);
	mmu_invpcid(h.v, 1, 5, 0);
	assert_int_equal(touch(0, READ), NO_FAULT);
	mmu_invpcid(h.v, 0, 0, 0);
	assert_int_equal(touch(0, READ), PF_U);
	set_user(false);
	mmu_invpcid(h.v, 3, 0, 0);
	assert_int_equal(touch(0x1000, READ), NO_FAULT);
	mmu_invpcid(h.v, 2, 0, 0);
	assert_int_equal(touch(0x1000, READ), 0);
}

static void test_cr3_load_flushes(void **state)
{
	long_mode(0);
	put64(T4, FRAME | 7);
	assert_int_equal(touch(0, READ), NO_FAULT);
	put64(T4, 0);
	assert_int_equal(touch(0, READ), NO_FAULT);
	mmu_cr3_loaded(h.v, T1, false);
	assert_int_equal(touch(0, READ), 0);
}

/* More pages than any table has entries: each translation stays right while the tables grow. */
static void test_many_pages(void **state)
{
	long_mode(0);
	for (unsigned n = 0; n < 512; n++)
		put64(T3 + 8 * n, 0x200000 | 7 | PTE_PS);
	for (unsigned k = 0; k < 2; k++)
		for (gva_t gva = 0; gva < 1 << 30; gva += 0x7000) {
			unsigned at = gva & 0x1fffff;

			mmu_write(h.v, gva, 8, gva);
			assert_int_equal(get64(0x200000 + at), gva);
			assert_int_equal(mmu_read(h.v, gva, 8), gva);
		}
}

/* --- accesses --- */

static void test_page_crossing(void **state)
{
	long_mode(0);
	put64(T4, FRAME2 | 7);
	put64(T4 + 8, FRAME | 7);
	for (unsigned size = 1; size <= 8; size *= 2)
		for (unsigned at = 0x1000 - 9; at < 0x1009; at++) {
			const uint64_t value = 0x1122334455667788ull;
			uint8_t bytes[8];

			mmu_write(h.v, at, size, value);
			for (unsigned k = 0; k < size; k++)
				bytes[k] = at + k < 0x1000 ? h.ram[FRAME2 + at + k] : h.ram[FRAME + at + k - 0x1000];
			assert_memory_equal(bytes, &value, size);
			assert_int_equal(mmu_read(h.v, at, size), value & (~0ull >> (64 - 8 * size)));
		}
	/* Nothing is written when the second page faults. */
	put64(T4 + 8, FRAME | 5);
	mmu_invlpg(h.v, 0x1000);
	put32(FRAME2 + 0xffc, 0xdeadbeef);
	if (!__builtin_setjmp(h.v->leave_buf))
		mmu_write(h.v, 0xffe, 4, 0);
	assert_int_equal(h.v->exception_payload, 0x1000);
	assert_int_equal(get32(FRAME2 + 0xffc), 0xdeadbeef);
	h.v->exception_pending = false;
}

static void test_code_page(void **state)
{
	struct code_page *page;
	uint32_t generation;

	long_mode(0);
	put64(T4, FRAME | 7);
	assert_int_equal(touch(0x100, WRITE), NO_FAULT);
	page = code_page_watch(h.v, FRAME + 0x40, 0x40, &generation);
	assert_non_null(page);
	assert_true(page->flags & CODE_PAGE_PRESENT);
	assert_int_equal(touch(0x100, WRITE), NO_FAULT); /* beside the code */
	assert_int_equal(page->generation, generation);
	assert_int_equal(touch(0x7e, WRITE), NO_FAULT); /* its last bytes */
	assert_int_not_equal(page->generation, generation);
	/* Nothing is made of those bytes now, so writing them again ends the watch. */
	assert_true(page->flags & CODE_PAGE_PRESENT);
	touch(0x40, WRITE);
	assert_false(page->flags & CODE_PAGE_PRESENT);
	/* Beside other code it changes nothing. */
	code_page_watch(h.v, FRAME + 0x40, 0x80, &generation);
	touch(0x40, WRITE);
	assert_int_not_equal(page->generation, generation);
	generation = page->generation;
	touch(0x40, WRITE);
	assert_int_equal(page->generation, generation);
	assert_true(page->flags & CODE_PAGE_PRESENT);
	/* Patches with new code made in between: still a code page. */
	for (int k = 0; k < 40; k++) {
		code_page_watch(h.v, FRAME + 0x40, 0x40, &generation);
		touch(0x40, WRITE);
		assert_int_not_equal(page->generation, generation);
		assert_true(page->flags & CODE_PAGE_PRESENT);
	}
	/* Code over a wider part that is written from one end to the other: data again, and stores are quick. */
	code_page_watch(h.v, FRAME, 0x400, &generation);
	for (int k = 0; k < 0x400; k += 0x10)
		touch(k, WRITE);
	assert_false(page->flags & CODE_PAGE_PRESENT);
	assert_true(page->flags & CODE_PAGE_WRITABLE);
	/* A device in another process: seen when a fetch entry is made. */
	code_page_watch(h.v, FRAME + 0x40, 0x40, &generation);
	h.ram[FRAME + 0x44] ^= 1;
	mmu_flush_all(h.v);
	assert_int_equal(touch(0, FETCH), NO_FAULT);
	assert_int_not_equal(page->generation, generation);
}

/* Write entries go when their page becomes code: by one address, which the flags remember, or by several. */
static void test_code_page_writers(void **state)
{
	struct code_page *page = code_page_of(memory_find(&h.vm.mem, FRAME), FRAME);
	uint32_t generation;

	long_mode(0);
	for (unsigned k = 0; k < 3; k++)
		put64(T4 + 8 * k, FRAME | 7);
	for (unsigned writers = 1; writers <= 3; writers++) {
		for (unsigned k = 0; k < writers; k++) {
			assert_int_equal(touch(0x1000 * k, WRITE), NO_FAULT);
			assert_non_null(tlb_lookup(h.v->tlb[TLB_WRITE], h.v->tlb_mask, 0x1000 * k, 8));
		}
		assert_int_equal(!!(page->flags & CODE_PAGE_MANY_WRITERS), writers > 1);
		assert_ptr_equal(code_page_watch(h.v, FRAME + 0x800, 0x40, &generation), page);
		for (unsigned k = 0; k < 3; k++)
			assert_null(tlb_lookup(h.v->tlb[TLB_WRITE], h.v->tlb_mask, 0x1000 * k, 8));
		assert_false(page->flags & (CODE_PAGE_WRITABLE | CODE_PAGE_MANY_WRITERS));
		code_written(&h.vm, FRAME, 0x1000);
		code_page_watch(h.v, FRAME, 0x1000, &generation);
		code_written(&h.vm, FRAME, 0x1000);
		assert_false(page->flags & CODE_PAGE_PRESENT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(test_rights), TEST(test_write_protect_off), TEST(test_upper_levels_restrict), TEST(test_smep_smap),
		TEST(test_reserved_bits), TEST(test_accessed_dirty), TEST(test_large_pages), TEST(test_32bit),
		TEST(test_pae), TEST(test_5level), TEST(test_pcid_and_global), TEST(test_cr3_load_flushes),
		TEST(test_many_pages), TEST(test_page_crossing), TEST(test_code_page), TEST(test_code_page_writers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
