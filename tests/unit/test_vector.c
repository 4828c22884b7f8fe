/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Vector and x87 instructions where the processor is no oracle (tests/insn has it for 64-bit user code):
 * enabling bits, layouts of the x87 environment in the narrow modes, XSAVE headers, stores across pages,
 * device memory, and the state's moves in and out of the host's registers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "harness.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/hostsignal.h"
#include "softkvm/interpret/run.h"

static struct harness h;

static int setup(void **state)
{
	return harness_new(&h, HARNESS_LONG64);
}

static int teardown(void **state)
{
	harness_free(&h);
	return 0;
}

static struct xsave_area *area(void)
{
	return &h.v->fpu->x;
}

/* n instructions of this code, from its start. */
static int run_code(unsigned n, const uint8_t *code, unsigned size)
{
	h.v->rip = HARNESS_CODE - h.v->seg[SEG_CS].base;
	return harness_do(&h, code, size, n);
}

#define RUN(n, ...) run_code(n, CODE(__VA_ARGS__))

/* --- enabling --- */

static void disabled_units_fault(void **state)
{
	struct vcpu *v = h.v;

	v->cr0 |= CR0_TS;
	assert_int_equal(RUN(1, 0xd9, 0xe8), VEC_NM);				/* fld1 */
	assert_int_equal(RUN(1, 0x0f, 0x28, 0xc1), VEC_NM);			/* movaps */
	assert_int_equal(RUN(1, 0xc5, 0xf8, 0x28, 0xc1), VEC_NM);		/* vmovaps */
	assert_int_equal(RUN(1, 0x9b), VEC_NM);				/* fwait: MP is set */
	v->cr0 &= ~(uint64_t)CR0_MP;
	assert_int_equal(RUN(1, 0x9b), HARNESS_OK);
	harness_reset(&h, HARNESS_LONG64);
	v->cr0 |= CR0_EM;
	assert_int_equal(RUN(1, 0xd9, 0xe8), VEC_NM);
	assert_int_equal(RUN(1, 0x0f, 0x28, 0xc1), VEC_UD);
	assert_int_equal(RUN(1, 0x0f, 0x6f, 0xc1), VEC_UD);			/* movq mm */
	assert_int_equal(RUN(1, 0xc5, 0xf8, 0x28, 0xc1), HARNESS_OK);	/* VEX looks at XCR0 alone */
	harness_reset(&h, HARNESS_LONG64);
	v->cr4 &= ~(uint64_t)CR4_OSFXSR;
	assert_int_equal(RUN(1, 0x0f, 0x28, 0xc1), VEC_UD);
	assert_int_equal(RUN(1, 0x0f, 0x6f, 0xc1), HARNESS_OK);
	v->xcr0 = 3;
	assert_int_equal(RUN(1, 0xc5, 0xf8, 0x28, 0xc1), VEC_UD);
	v->xcr0 = 7;
	v->cr4 &= ~(uint64_t)CR4_OSXSAVE;
	assert_int_equal(RUN(1, 0xc5, 0xf8, 0x28, 0xc1), VEC_UD);
	assert_int_equal(RUN(1, 0x0f, 0xae, 0x20), VEC_UD);			/* xsave [rax] */
}

static void vex_needs_protected_mode(void **state)
{
	harness_reset(&h, HARNESS_REAL);
	assert_int_equal(RUN(1, 0xc5, 0xf8, 0x28, 0xc1), VEC_UD);
	assert_int_equal(RUN(1, 0x0f, 0x28, 0xc1), HARNESS_OK);
}

/* --- exceptions --- */

static void simd_exceptions(void **state)
{
	static const float operands[4] = {1, 1, 1, 1};

	hostsignal_install(); /* cmocka has put its own handler there */
	memcpy(area()->xmm[1], operands, 16);
	area()->xstate_bv |= XSTATE_SSE;
	area()->mxcsr = MXCSR_INIT & ~0x200; /* zero-divide unmasked */
	assert_int_equal(RUN(1, 0x0f, 0x5e, 0xca), VEC_XM); /* divps xmm1, xmm2 */
	assert_int_equal(area()->mxcsr, (MXCSR_INIT & ~0x200) | 4);
	assert_memory_equal(area()->xmm[1], operands, 16);
	h.v->cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
	assert_int_equal(RUN(1, 0x0f, 0x5e, 0xca), VEC_UD);
}

static void x87_exceptions_wait(void **state)
{
	area()->fcw = FCW_INIT & ~4;
	area()->xstate_bv |= XSTATE_X87;
	/* fld1; fldz; fdivp: the division's exception shows at the next waiting instruction */
	assert_int_equal(RUN(3, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9), HARNESS_OK);
	assert_int_equal(RUN(1, 0xdf, 0xe0), HARNESS_OK); /* fnstsw ax does not wait */
	assert_int_equal(h.v->gpr[RAX] & 0x84, 0x84);
	assert_int_equal(RUN(1, 0x9b), VEC_MF);
	assert_int_equal(RUN(1, 0x0f, 0x6f, 0xc1), VEC_MF);
	assert_int_equal(RUN(1, 0xdb, 0xe2), HARNESS_OK); /* fnclex */
	assert_int_equal(RUN(1, 0x9b), HARNESS_OK);
}

/* --- x87 environment --- */

static uint32_t data32(unsigned at)
{
	uint32_t value;

	memcpy(&value, h.ram + HARNESS_DATA + at, 4);
	return value;
}

static uint16_t data16(unsigned at)
{
	return (uint16_t)data32(at);
}

static void set_x87_pointers(void)
{
	struct vcpu_fpu *f = h.v->fpu;

	f->last_ip = 0x12345;
	f->last_dp = 0x6789a;
	f->last_op = 0x5d5;
	f->last_cs = 0x1111;
	f->last_ds = 0x2222;
}

static void environment_protected_32(void **state)
{
	harness_reset(&h, HARNESS_PROTECTED32);
	set_x87_pointers();
	h.v->gpr[RAX] = HARNESS_DATA;
	assert_int_equal(RUN(1, 0xd9, 0x30), HARNESS_OK); /* fnstenv [eax] */
	assert_int_equal(data32(0), 0xffff037f);
	assert_int_equal(data32(8), 0xffffffff);
	assert_int_equal(data32(12), 0x12345);
	assert_int_equal(data32(16), 0x05d51111);
	assert_int_equal(data32(20), 0x6789a);
	assert_int_equal(data32(24), 0xffff2222);
}

static void environment_protected_16(void **state)
{
	harness_reset(&h, HARNESS_PROTECTED32);
	set_x87_pointers();
	h.v->gpr[RAX] = HARNESS_DATA;
	assert_int_equal(RUN(1, 0x66, 0xd9, 0x30), HARNESS_OK);
	assert_int_equal(data16(6), 0x2345);
	assert_int_equal(data16(8), 0x1111);
	assert_int_equal(data16(10), 0x789a);
	assert_int_equal(data16(12), 0x2222);
}

static void environment_real(void **state)
{
	harness_reset(&h, HARNESS_REAL);
	set_x87_pointers();
	h.v->seg[SEG_DS].base = HARNESS_DATA;
	assert_int_equal(RUN(1, 0xd9, 0x36, 0x00, 0x00), HARNESS_OK);
	assert_int_equal(data16(6), 0x2345);
	assert_int_equal(data16(8), 0x15d5);
	assert_int_equal(data16(10), 0x789a);
	assert_int_equal(data16(12), 0x6000);
	set_x87_pointers();
	assert_int_equal(RUN(1, 0x66, 0xd9, 0x36, 0x00, 0x00), HARNESS_OK);
	assert_int_equal(data32(12), 0xffff2345);
	assert_int_equal(data32(16), 0x000015d5);
	assert_int_equal(data32(24), 0x00006000);
}

static void environment_comes_back(void **state)
{
	static const uint8_t sizes[] = {14, 28, 94, 108};

	for (unsigned k = 0; k < 4; k++) {
		uint8_t prefix = k & 1 ? 0x90 : 0x66, opcode = k < 2 ? 0xd9 : 0xdd;
		uint8_t store[] = {prefix, opcode, 0x30}, load[] = {prefix, opcode, 0x20};

		harness_reset(&h, HARNESS_PROTECTED32);
		memset(h.ram + HARNESS_DATA, 0xaa, 128);
		assert_int_equal(RUN(3, 0xd9, 0xe8, 0xd9, 0xeb, 0xd9, 0xee),
				 HARNESS_OK); /* fld1, fldpi, fldz */
		h.v->gpr[RAX] = HARNESS_DATA;
		assert_int_equal(run_code(prefix == 0x90 ? 2 : 1, store, 3), HARNESS_OK);
		assert_int_equal(h.ram[HARNESS_DATA + sizes[k]], 0xaa);
		assert_int_not_equal(h.ram[HARNESS_DATA + sizes[k] - 2], 0xaa);
		assert_int_equal(RUN(1, 0xdb, 0xe3), HARNESS_OK); /* fninit */
		assert_int_equal(run_code(prefix == 0x90 ? 2 : 1, load, 3), HARNESS_OK);
		assert_int_equal(area()->fsw >> 11 & 7, 5);
		assert_int_equal(area()->ftw, 0xe0);
		assert_int_equal(area()->st[2][9], 0x3f); /* 1.0 */
	}
}

static void pointers_are_the_guests(void **state)
{
	h.v->gpr[RAX] = HARNESS_DATA;
	assert_int_equal(RUN(1, 0xd9, 0x40, 0x10), HARNESS_OK); /* fld dword [rax+16] */
	assert_int_equal(h.v->fpu->last_ip, HARNESS_CODE);
	assert_int_equal(h.v->fpu->last_dp, HARNESS_DATA + 16);
	assert_int_equal(h.v->fpu->last_op, 0x140);
	assert_int_equal(RUN(1, 0xd9, 0x28), HARNESS_OK); /* fldcw [rax]: leaves them */
	assert_int_equal(h.v->fpu->last_op, 0x140);
}

/* --- saving --- */

static int xrstor(uint64_t bv, uint64_t xcomp, uint64_t reserved, uint32_t mxcsr)
{
	uint64_t header[3] = {bv, xcomp, reserved};

	memset(h.ram + HARNESS_DATA, 0, 4096);
	memcpy(h.ram + HARNESS_DATA + 512, header, sizeof(header));
	memcpy(h.ram + HARNESS_DATA + 24, &mxcsr, 4);
	h.v->gpr[RDI] = HARNESS_DATA;
	h.v->gpr[RAX] = 7;
	h.v->gpr[RDX] = 0;
	return RUN(1, 0x48, 0x0f, 0xae, 0x2f);
}

static void xrstor_checks_its_image(void **state)
{
	const uint64_t compacted = 1ull << 63;

	assert_int_equal(xrstor(7, 0, 0, MXCSR_INIT), HARNESS_OK);
	assert_int_equal(xrstor(8, 0, 0, MXCSR_INIT), VEC_GP);
	assert_int_equal(xrstor(7, 1, 0, MXCSR_INIT), VEC_GP);
	assert_int_equal(xrstor(7, 0, 1, MXCSR_INIT), VEC_GP);
	assert_int_equal(xrstor(7, 0, 0, 0x10000), VEC_GP);
	assert_int_equal(xrstor(0, 0, 0, 0x10000), VEC_GP); /* MXCSR is loaded all the same */
	assert_int_equal(xrstor(7, compacted | 7, 0, MXCSR_INIT), HARNESS_OK);
	assert_int_equal(xrstor(7, compacted | 3, 0, MXCSR_INIT), VEC_GP);
	assert_int_equal(xrstor(3, compacted | 15, 0, MXCSR_INIT), VEC_GP);
	h.v->xcr0 = 3;
	assert_int_equal(xrstor(7, 0, 0, MXCSR_INIT), VEC_GP);
	h.v->gpr[RDI]++;
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_run(&h, 1), VEC_GP);
}

static void init_optimization(void **state)
{
	uint64_t header[2];

	assert_int_equal(xrstor(0, 0, 0, MXCSR_INIT), HARNESS_OK); /* everything initial */
	memset(h.ram + HARNESS_DATA, 0x55, 1024);
	assert_int_equal(RUN(1, 0x0f, 0xc7, 0x27), HARNESS_OK); /* xsavec */
	memcpy(header, h.ram + HARNESS_DATA + 512, 16);
	assert_int_equal(header[0], 0);
	assert_true(header[1] == (1ull << 63 | 7));
	assert_int_equal(h.ram[HARNESS_DATA + 160], 0x55);
	assert_int_equal(RUN(1, 0xd9, 0xe8), HARNESS_OK);
	assert_int_equal(RUN(1, 0x0f, 0xae, 0x37), HARNESS_OK); /* xsaveopt */
	memcpy(header, h.ram + HARNESS_DATA + 512, 8);
	assert_int_equal(header[0], 1);
	assert_int_equal(h.ram[HARNESS_DATA + 41], 0x3f);
	assert_int_equal(h.ram[HARNESS_DATA + 160], 0x55);
}

static void narrow_modes_keep_high_registers(void **state)
{
	memset(area()->xmm, 0x11, sizeof(area()->xmm));
	area()->xstate_bv |= XSTATE_SSE;
	harness_reset(&h, HARNESS_COMPAT32); /* resets the vector state */
	memset(area()->xmm, 0x11, sizeof(area()->xmm));
	area()->xstate_bv |= XSTATE_SSE;
	memset(h.ram + HARNESS_DATA, 0, 4096);
	memset(h.ram + HARNESS_DATA + 160, 0x77, 256);
	h.v->gpr[RDI] = HARNESS_DATA;
	assert_int_equal(RUN(1, 0x0f, 0xae, 0x0f), HARNESS_OK); /* fxrstor */
	assert_int_equal(area()->xmm[7][0], 0x77);
	assert_int_equal(area()->xmm[8][0], 0x11);
	memset(h.ram + HARNESS_DATA + 160, 0, 256);
	assert_int_equal(RUN(1, 0x0f, 0xae, 0x07), HARNESS_OK); /* fxsave */
	assert_int_equal(h.ram[HARNESS_DATA + 160 + 7 * 16], 0x77);
	assert_int_equal(h.ram[HARNESS_DATA + 160 + 8 * 16], 0);
}

/* --- memory --- */

static void stores_across_pages(void **state)
{
	memset(area()->ymmh, 0x22, sizeof(area()->ymmh));
	memset(area()->xmm, 0x11, sizeof(area()->xmm));
	area()->xstate_bv |= XSTATE_SSE | XSTATE_AVX;
	memset(h.ram + HARNESS_DATA, 0, 8192);
	h.v->gpr[RDI] = HARNESS_DATA + 4096 - 10;
	assert_int_equal(RUN(1, 0xc5, 0xfe, 0x7f, 0x07), HARNESS_OK); /* vmovdqu [rdi], ymm0 */
	assert_int_equal(h.ram[HARNESS_DATA + 4096 - 10], 0x11);
	assert_int_equal(h.ram[HARNESS_DATA + 4096 + 5], 0x11);
	assert_int_equal(h.ram[HARNESS_DATA + 4096 + 21], 0x22);
	assert_int_equal(h.ram[HARNESS_DATA + 4096 + 22], 0);
}

/* fistp pops once although a store through the bounce buffer runs twice; an unmasked exception stores
 * nothing. */
static void x87_stores_across_pages(void **state)
{
	memset(h.ram + HARNESS_DATA, 0x5a, 8192);
	h.v->gpr[RDI] = HARNESS_DATA + 4096 - 4;
	assert_int_equal(RUN(3, 0xd9, 0xe8, 0xd9, 0xe8, 0xdf, 0x3f),
			 HARNESS_OK); /* fld1; fld1; fistp qword [rdi] */
	assert_int_equal(h.ram[HARNESS_DATA + 4096 - 4], 1);
	assert_int_equal(h.ram[HARNESS_DATA + 4096 + 3], 0);
	assert_int_equal(h.ram[HARNESS_DATA + 4096 + 4], 0x5a);
	assert_int_equal(area()->fsw >> 11 & 7, 7);
	memset(h.ram + HARNESS_DATA, 0x5a, 8192);
	area()->fcw = FCW_INIT & ~1; /* invalid operation unmasked */
	assert_int_equal(RUN(2, 0xdd, 0xd8, 0xdf, 0x3f),
			 HARNESS_OK); /* fstp st0; fistp qword [rdi]: stack empty */
	assert_int_equal(area()->fsw & 0x80, 0x80);
	assert_int_equal(h.ram[HARNESS_DATA + 4096 - 4], 0x5a);
}

/* A vector access to a device goes out in pieces of eight bytes; no piece is asked for twice. */
static void device_memory(void **state)
{
	struct kvm_run *run = h.v->run;

	h.v->gpr[RDI] = 0x10000000; /* mapped, but no RAM */
	/* movups xmm0, [rdi]; movups [rdi+16], xmm0; hlt */
	harness_code(&h, CODE(0x0f, 0x10, 0x07, 0x0f, 0x11, 0x47, 0x10, 0xf4));
	for (unsigned k = 0; k < 4; k++) {
		assert_int_equal(vcpu_run(h.v), 0);
		assert_int_equal(run->exit_reason, KVM_EXIT_MMIO);
		assert_int_equal(run->mmio.len, 8);
		assert_int_equal(run->mmio.phys_addr, 0x10000000 + 8 * k);
		assert_int_equal(run->mmio.is_write, k >= 2);
		if (k >= 2)
			assert_int_equal(run->mmio.data[0], 0x40 + k - 2);
		else
			memset(run->mmio.data, 0x40 + k, 8);
	}
	assert_int_equal(vcpu_run(h.v), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(area()->xmm[0][0], 0x40);
	assert_int_equal(area()->xmm[0][15], 0x41);
}

/* --- live state --- */

static void moves_of_the_state(void **state)
{
	static const uint8_t value[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
	uint64_t got = 0;

	assert_int_equal(RUN(1, 0xd9, 0xeb), HARNESS_OK);
	memcpy(area()->xmm[5], value, 16);
	area()->xstate_bv |= XSTATE_SSE;
	area()->mxcsr = 0x9fc0;
	fpu_enter(h.v);
	assert_true(h.v->fpu_live);
	__asm__ volatile("movq %%xmm5, %0\n\tpaddb %%xmm5, %%xmm5" : "=r"(got));
	fpu_leave(h.v);
	assert_false(h.v->fpu_live);
	assert_true(got == 0x0807060504030201);
	assert_int_equal(area()->xmm[5][15], 32);
	assert_int_equal(area()->mxcsr, 0x9fc0);
	assert_int_equal(h.v->fpu->last_ip, HARNESS_CODE);
}

static uint64_t guest_ip(struct vcpu *v, uint64_t host_ip)
{
	return host_ip ? 0x1234 : 0;
}

/* A pending exception makes every processor keep the pointers. */
static void divide_by_zero_live(void)
{
	area()->fcw = FCW_INIT & ~4;
	area()->fsw = area()->ftw = 0;
	area()->xstate_bv |= XSTATE_X87;
	fpu_enter(h.v);
	__asm__ volatile("fld1\n\tfldz\n\tfdivrp");
	fpu_leave(h.v);
}

static void live_x87_pointers(void **state)
{
	assert_int_equal(RUN(1, 0xd9, 0xeb), HARNESS_OK);
	divide_by_zero_live();
	assert_int_equal(h.v->fpu->last_ip, 0); /* nobody knows, and no host address may show */
	h.v->fpu->guest_ip = guest_ip;
	divide_by_zero_live();
	h.v->fpu->guest_ip = NULL;
	assert_int_equal(h.v->fpu->last_ip, 0x1234);
}

/* More different instructions than the stub cache has slots. */
static void many_stubs(void **state)
{
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned k = 0; k < 256 * 64; k++) {
			uint8_t code[] = {0x66, 0x0f, 0x70, 0xc0 | (k >> 8),
					  (uint8_t)k}; /* pshufd xmm, xmm, imm */
			unsigned from = k >> 8 & 7, to = k >> 11;
			uint32_t words[4] = {k, k + 1, k + 2, k + 3}, got[4];

			memcpy(area()->xmm[from], words, 16);
			area()->xstate_bv |= XSTATE_SSE;
			assert_int_equal(run_code(1, code, sizeof(code)), HARNESS_OK);
			memcpy(got, area()->xmm[to], 16);
			assert_int_equal(got[0], k + (k & 3));
			assert_int_equal(got[3], k + (k >> 6 & 3));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(disabled_units_fault, setup, teardown),
		cmocka_unit_test_setup_teardown(vex_needs_protected_mode, setup, teardown),
		cmocka_unit_test_setup_teardown(simd_exceptions, setup, teardown),
		cmocka_unit_test_setup_teardown(x87_exceptions_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(environment_protected_32, setup, teardown),
		cmocka_unit_test_setup_teardown(environment_protected_16, setup, teardown),
		cmocka_unit_test_setup_teardown(environment_real, setup, teardown),
		cmocka_unit_test_setup_teardown(environment_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(pointers_are_the_guests, setup, teardown),
		cmocka_unit_test_setup_teardown(xrstor_checks_its_image, setup, teardown),
		cmocka_unit_test_setup_teardown(init_optimization, setup, teardown),
		cmocka_unit_test_setup_teardown(narrow_modes_keep_high_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(stores_across_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(x87_stores_across_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(device_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(moves_of_the_state, setup, teardown),
		cmocka_unit_test_setup_teardown(live_x87_pointers, setup, teardown),
		cmocka_unit_test_setup_teardown(many_stubs, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
