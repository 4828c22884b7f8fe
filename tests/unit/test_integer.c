/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Integer instructions: results, flags, faults and restart state that random comparison with the host cannot
 * reach.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "harness.h"

static struct harness h;

static int new_long(void **state)
{
	return harness_new(&h, HARNESS_LONG64);
}

static int end(void **state)
{
	harness_free(&h);
	return 0;
}

static void fresh(enum harness_mode mode)
{
	harness_reset(&h, mode);
}

static void put64(unsigned at, uint64_t value)
{
	memcpy(h.ram + at, &value, 8);
}

static uint64_t get64(unsigned at)
{
	uint64_t value;

	memcpy(&value, h.ram + at, 8);
	return value;
}

#define status() (h.v->rflags & FLAGS_STATUS)

static void test_add_flags(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RAX] = 0x7fffffffffffffff;
	assert_int_equal(harness_do(&h, CODE(0x48, 0x83, 0xc0, 0x01), 1), HARNESS_OK); /* add rax, 1 */
	assert_true(h.v->gpr[RAX] == 1ull << 63);
	assert_int_equal(status(), FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF);
	assert_int_equal(h.v->rip, HARNESS_CODE + 4);
	fresh(HARNESS_LONG64);
	h.v->gpr[RAX] = 0xffffffff00000080;
	assert_int_equal(harness_do(&h, CODE(0x04, 0x80), 1), HARNESS_OK); /* add al, 80h */
	assert_true(h.v->gpr[RAX] == 0xffffffff00000000);
	assert_int_equal(status(), FLAG_OF | FLAG_ZF | FLAG_CF | FLAG_PF);
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_do(&h, CODE(0x01, 0xc0), 1), HARNESS_OK); /* add eax, eax: zero-extends */
	assert_true(h.v->gpr[RAX] == 0);
}

static void test_high_bytes(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RAX] = 0x1122;
	h.v->gpr[RBX] = 0x3344;
	assert_int_equal(harness_do(&h, CODE(0x88, 0xe7, 0x40, 0x88, 0xe7), 2),
			 HARNESS_OK); /* mov bh, ah; mov dil, spl */
	assert_int_equal(h.v->gpr[RBX], 0x1144);
	assert_int_equal(h.v->gpr[RDI], (uint8_t)HARNESS_STACK);
}

static void test_memory_forms(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RBX] = HARNESS_DATA;
	h.v->gpr[RCX] = 4;
	put64(HARNESS_DATA + 32 + 8, 100);
	/* add qword [rbx+rcx*8+8], 5; lock xadd [rbx+40], rcx */
	assert_int_equal(
	    harness_do(&h, CODE(0x48, 0x83, 0x44, 0xcb, 0x08, 0x05, 0xf0, 0x48, 0x0f, 0xc1, 0x4b, 0x28), 2),
	    HARNESS_OK);
	assert_int_equal(get64(HARNESS_DATA + 40), 109);
	assert_int_equal(h.v->gpr[RCX], 105);
}

static void test_divide_error_changes_nothing(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RAX] = 5;
	h.v->gpr[RDX] = 7;
	h.v->gpr[RCX] = 7;
	assert_int_equal(harness_do(&h, CODE(0x48, 0xf7, 0xf1), 1), VEC_DE); /* div rcx: quotient 2^64 */
	assert_int_equal(h.v->rip, HARNESS_CODE);
	assert_int_equal(h.v->gpr[RDX], 7);
	h.v->gpr[RDX] = 6;
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	/* idiv: the most negative quotient fits, its positive twin does not */
	fresh(HARNESS_LONG64);
	h.v->gpr[RAX] = 1ull << 63;
	h.v->gpr[RDX] = ~0ull;
	h.v->gpr[RCX] = 1;
	assert_int_equal(harness_do(&h, CODE(0x48, 0xf7, 0xf9), 1), HARNESS_OK);
	assert_true(h.v->gpr[RAX] == 1ull << 63);
	fresh(HARNESS_LONG64);
	h.v->gpr[RAX] = 1ull << 63;
	h.v->gpr[RDX] = ~0ull;
	h.v->gpr[RCX] = ~0ull;
	assert_int_equal(harness_run(&h, 1), VEC_DE);
	fresh(HARNESS_LONG64);
	h.v->gpr[RAX] = 0xff80;
	h.v->gpr[RCX] = 1;
	assert_int_equal(harness_do(&h, CODE(0xf6, 0xf9), 1), HARNESS_OK); /* idiv cl: -128 fits */
	assert_int_equal(h.v->gpr[RAX], 0x0080);
}

static void test_cmpxchg(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RBX] = HARNESS_DATA;
	h.v->gpr[RAX] = 1;
	h.v->gpr[RCX] = 9;
	put64(HARNESS_DATA, 2);
	assert_int_equal(harness_do(&h, CODE(0xf0, 0x48, 0x0f, 0xb1, 0x0b, 0xf0, 0x48, 0x0f, 0xb1, 0x0b), 1),
			 HARNESS_OK);
	assert_int_equal(h.v->gpr[RAX], 2);
	assert_false(h.v->rflags & FLAG_ZF);
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(get64(HARNESS_DATA), 9);
	assert_true(h.v->rflags & FLAG_ZF);
}

static void test_cmpxchg16b(void **state)
{
	static const uint8_t code[] = {0xf0, 0x48, 0x0f, 0xc7, 0x0e}; /* lock cmpxchg16b [rsi] */

	fresh(HARNESS_LONG64);
	h.v->gpr[RSI] = HARNESS_DATA + 8;
	assert_int_equal(harness_do(&h, code, sizeof(code), 1), VEC_GP);
	h.v->gpr[RSI] = HARNESS_DATA;
	put64(HARNESS_DATA, 1);
	put64(HARNESS_DATA + 8, 2);
	h.v->gpr[RAX] = 1;
	h.v->gpr[RDX] = 2;
	h.v->gpr[RBX] = 3;
	h.v->gpr[RCX] = 4;
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(get64(HARNESS_DATA), 3);
	assert_int_equal(get64(HARNESS_DATA + 8), 4);
	assert_true(h.v->rflags & FLAG_ZF);
}

static void test_bit_string(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RBX] = HARNESS_DATA + 64;
	h.v->gpr[RCX] = (uint64_t)-65; /* bit 63 of the quadword two before */
	put64(HARNESS_DATA + 48, 0);
	assert_int_equal(harness_do(&h, CODE(0x48, 0x0f, 0xab, 0x0b), 1), HARNESS_OK); /* bts [rbx], rcx */
	assert_true(get64(HARNESS_DATA + 48) == 1ull << 63);
	assert_false(h.v->rflags & FLAG_CF);
}

static void test_pop_memory_uses_new_rsp(void **state)
{
	fresh(HARNESS_LONG64);
	put64(HARNESS_STACK - 8, 77);
	h.v->gpr[RSP] = HARNESS_STACK - 8;
	assert_int_equal(harness_do(&h, CODE(0x8f, 0x04, 0x24), 1), HARNESS_OK); /* pop [rsp] */
	assert_int_equal(get64(HARNESS_STACK), 77);
	assert_int_equal(h.v->gpr[RSP], HARNESS_STACK);
}

static void test_push_fault_keeps_rsp(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RSP] = 0x800000000000 + 8; /* the push itself is canonical no more */
	assert_int_equal(harness_do(&h, CODE(0x50), 1), VEC_SS);
	assert_true(h.v->gpr[RSP] == 0x800000000000 + 8);
	assert_int_equal(h.v->exception_error, 0);
}

static void test_rep_movs_overlap_and_cross(void **state)
{
	fresh(HARNESS_LONG64);
	for (unsigned k = 0; k < 16384; k++)
		h.ram[HARNESS_DATA + k] = (uint8_t)(k * 7);
	h.v->gpr[RSI] = HARNESS_DATA + 3;
	h.v->gpr[RDI] = HARNESS_DATA + 4; /* fills with one byte */
	h.v->gpr[RCX] = 9000;
	assert_int_equal(harness_do(&h, CODE(0xf3, 0xa4), 1), HARNESS_OK);
	assert_int_equal(h.v->gpr[RCX], 0);
	assert_int_equal(h.v->gpr[RDI], HARNESS_DATA + 9004);
	for (unsigned k = 3; k <= 9003; k++)
		assert_int_equal(h.ram[HARNESS_DATA + k], 21);
	assert_int_equal(h.ram[HARNESS_DATA + 9004], (uint8_t)(9004 * 7));
}

static void test_rep_movs_faults_exactly(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RSI] = HARNESS_DATA;
	h.v->gpr[RDI] = 0x40000000 - 20; /* two and a half quadwords before the end of what is mapped */
	h.v->gpr[RCX] = 5;
	put64(HARNESS_TABLES + 0x2000 + 8 * 511, (HARNESS_DATA & ~0x1fffffull) | PTE_P | PTE_W | PTE_PS);
	mmu_flush_all(h.v);
	assert_int_equal(harness_do(&h, CODE(0xf3, 0x48, 0xa5), 1), VEC_PF);
	assert_int_equal(h.v->gpr[RCX], 3);
	assert_true(h.v->gpr[RDI] == 0x40000000 - 4);
	assert_int_equal(h.v->gpr[RSI], HARNESS_DATA + 16);
	assert_int_equal(h.v->rip, HARNESS_CODE);
	assert_int_equal(h.v->exception_error, PF_W);
	assert_true(h.v->exception_payload == 0x40000000);
}

static void test_scas_cmps(void **state)
{
	fresh(HARNESS_LONG64);
	memset(h.ram + HARNESS_DATA, 'a', 5000);
	h.ram[HARNESS_DATA + 4500] = 0;
	h.v->gpr[RDI] = HARNESS_DATA;
	h.v->gpr[RCX] = ~0ull;
	assert_int_equal(harness_do(&h, CODE(0xf2, 0xae), 1), HARNESS_OK); /* repne scasb: strlen */
	assert_int_equal(h.v->gpr[RDI], HARNESS_DATA + 4501);
	assert_true(h.v->gpr[RCX] == ~0ull - 4501);
	assert_true(h.v->rflags & FLAG_ZF);
	h.v->gpr[RSI] = HARNESS_DATA;
	h.v->gpr[RDI] = HARNESS_DATA + 1;
	h.v->gpr[RCX] = 6000;
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_do(&h, CODE(0xf3, 0xa6), 1), HARNESS_OK); /* repe cmpsb */
	assert_int_equal(h.v->gpr[RSI], HARNESS_DATA + 4500);
	assert_false(h.v->rflags & FLAG_ZF);
}

static void test_segment_limit_32(void **state)
{
	fresh(HARNESS_PROTECTED32);
	h.v->seg[SEG_DS].limit = 0xfff;
	h.v->gpr[RBX] = 0xffd;
	assert_int_equal(harness_do(&h, CODE(0x8b, 0x03), 1), VEC_GP); /* mov eax, [ebx] */
	h.v->gpr[RBX] = 0xffc;
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	h.v->rip = HARNESS_CODE;
	h.v->seg[SEG_DS].attr |= SEG_TYPE_DC; /* expand-down: only above the limit */
	assert_int_equal(harness_run(&h, 1), VEC_GP);
	h.v->gpr[RBX] = 0x1000;
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	h.v->rip = HARNESS_CODE;
	h.v->seg[SEG_DS].attr &= ~SEG_TYPE_RW;
	assert_int_equal(harness_do(&h, CODE(0x89, 0x03), 1), VEC_GP); /* read-only */
}

static void test_real_mode_wrap(void **state)
{
	fresh(HARNESS_REAL);
	h.v->gpr[RBX] = 0xffff;
	assert_int_equal(harness_do(&h, CODE(0x8b, 0x07), 1), VEC_GP); /* mov ax, [bx] crosses the limit */
	h.v->gpr[RSP] = 0;
	assert_int_equal(harness_do(&h, CODE(0x50), 1), HARNESS_OK);
	assert_int_equal(h.v->gpr[RSP], 0xfffe);
}

static void test_alignment_check(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->cr0 |= CR0_AM;
	h.v->rflags |= FLAG_AC;
	harness_user(&h);
	h.v->gpr[RBX] = HARNESS_DATA + 1;
	assert_int_equal(harness_do(&h, CODE(0x8b, 0x03), 1), VEC_AC);
	h.v->gpr[RBX] = HARNESS_DATA + 4;
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
}

static void test_page_crossing_instruction(void **state)
{
	static const uint8_t code[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}; /* mov rax, imm64 */

	fresh(HARNESS_LONG64);
	memcpy(h.ram + HARNESS_CODE + 4096 - 5, code, sizeof(code));
	h.v->rip = HARNESS_CODE + 4096 - 5;
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_true(h.v->gpr[RAX] == 0x0807060504030201);
	assert_int_equal(h.v->rip, HARNESS_CODE + 4096 + 5);
}

static void test_self_modifying(void **state)
{
	fresh(HARNESS_LONG64);
	h.v->gpr[RBX] = HARNESS_CODE + 4;
	/* mov byte [rbx], 7; mov al, 1 -> mov al, 7 */
	harness_code(&h, CODE(0xc6, 0x03, 0x07, 0xb0, 0x01, 0xf4));
	if (!__builtin_setjmp(h.v->leave_buf))
		for (unsigned k = 0; k < 2 && h.v->rip < HARNESS_CODE + 5; k++) {
			vcpu_go_on(h.v);
			h.v->vm->engine->run(h.v, false); /* a whole block, as in real running */
		}
	assert_int_equal(h.v->gpr[RAX], 7);
}

static void test_decimal(void **state)
{
	fresh(HARNESS_PROTECTED32);
	h.v->gpr[RAX] = 0x79;
	assert_int_equal(harness_do(&h, CODE(0x04, 0x35, 0x27), 2),
			 HARNESS_OK); /* add al, 35h; daa: 79 + 35 = 114 */
	assert_int_equal(h.v->gpr[RAX], 0x14);
	assert_true(h.v->rflags & FLAG_CF);
	fresh(HARNESS_PROTECTED32);
	h.v->gpr[RAX] = 63;
	assert_int_equal(harness_do(&h, CODE(0xd4, 0x0a, 0xd5, 0x0a), 1), HARNESS_OK); /* aam */
	assert_int_equal(h.v->gpr[RAX], 0x0603);
	assert_int_equal(harness_run(&h, 1), HARNESS_OK); /* aad */
	assert_int_equal(h.v->gpr[RAX], 63);
	fresh(HARNESS_PROTECTED32);
	assert_int_equal(harness_do(&h, CODE(0xd4, 0x00), 1), VEC_DE);
}

static void test_popf_privileges(void **state)
{
	fresh(HARNESS_LONG64);
	harness_user(&h);
	h.v->rflags |= FLAG_IF;
	put64(HARNESS_STACK - 8, FLAG_IOPL | FLAG_CF | FLAG_FIXED);
	h.v->gpr[RSP] = HARNESS_STACK - 8;
	assert_int_equal(harness_do(&h, CODE(0x9d, 0xfa), 1), HARNESS_OK);
	assert_int_equal(h.v->rflags, FLAG_FIXED | FLAG_IF | FLAG_CF); /* IF, IOPL kept */
	assert_int_equal(harness_run(&h, 1), VEC_GP);		       /* cli */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add_flags),
		cmocka_unit_test(test_high_bytes),
		cmocka_unit_test(test_memory_forms),
		cmocka_unit_test(test_divide_error_changes_nothing),
		cmocka_unit_test(test_cmpxchg),
		cmocka_unit_test(test_cmpxchg16b),
		cmocka_unit_test(test_bit_string),
		cmocka_unit_test(test_pop_memory_uses_new_rsp),
		cmocka_unit_test(test_push_fault_keeps_rsp),
		cmocka_unit_test(test_rep_movs_overlap_and_cross),
		cmocka_unit_test(test_rep_movs_faults_exactly),
		cmocka_unit_test(test_scas_cmps),
		cmocka_unit_test(test_segment_limit_32),
		cmocka_unit_test(test_real_mode_wrap),
		cmocka_unit_test(test_alignment_check),
		cmocka_unit_test(test_page_crossing_instruction),
		cmocka_unit_test(test_self_modifying),
		cmocka_unit_test(test_decimal),
		cmocka_unit_test(test_popf_privileges),
	};

	return cmocka_run_group_tests(tests, new_long, end);
}
