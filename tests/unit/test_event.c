/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Delivery of exceptions and interrupts, returns, and transfers between segments and privileges: tables are built in the
 * harness's RAM; frames, registers and error codes are compared with SDM volume 3, chapters 5 to 7.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "harness.h"
#include "softkvm/interpret/event.h"
#include "x86/insn.h"

enum {
	KCODE = 8, KDATA = 16, UCODE = 24, UDATA = 32, TSS = 40, CODE32 = 56, GATE = 64, TSS2 = 80, LDT = 88, TGATE = 96,
	UCODE64 = 104, CONF = 112, NOTPRES = 120,
	TSS_AT = 0x28000, TSS2_AT = 0x29000, HANDLER = 0x30000, STACK0 = 0x40000, IST1 = 0x48000, USTACK = 0x50000
};

static struct harness h;

static void put(unsigned at, uint64_t value, unsigned size)
{
	memcpy(h.ram + at, &value, size);
}

static uint64_t get(unsigned at, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, h.ram + at, size);
	return value;
}

/* Flat descriptor with the type and attributes given as in bits 40-47 and 52-55. */
static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static void gdt(unsigned sel, uint64_t value)
{
	put(HARNESS_GDT + sel, value, 8);
}

static void gate(unsigned vector, uint16_t sel, uint64_t offset, unsigned type_dpl, unsigned ist)
{
	bool wide = h.v->efer & EFER_LMA;
	unsigned at = HARNESS_IDT + vector * (wide ? 16 : 8);

	put(at, (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 | (uint64_t)(0x80 | type_dpl) << 40 |
			(offset >> 16 & 0xffff) << 48, 8);
	if (wide)
		put(at + 8, offset >> 32, 8);
}

static void start(enum harness_mode mode)
{
	bool wide = mode == HARNESS_LONG64;

	harness_reset(&h, mode);
	memset(h.ram + HARNESS_GDT, 0, 256);
	memset(h.ram + HARNESS_IDT, 0, 4096 - 16);
	memset(h.ram + TSS_AT, 0, 256);
	gdt(KCODE, descriptor(0, 0xfffff, 0x9b, wide ? 0xa : 0xc));
	gdt(KDATA, descriptor(0, 0xfffff, 0x93, 0xc));
	gdt(UCODE, descriptor(0, 0xfffff, 0xfb, 0xc));
	gdt(UDATA, descriptor(0, 0xfffff, 0xf3, 0xc));
	gdt(UCODE64, descriptor(0, 0xfffff, 0xfb, wide ? 0xa : 0xc));
	gdt(CODE32, descriptor(0, 0xfffff, 0x9b, 0xc));
	gdt(CONF, descriptor(0, 0xfffff, 0x9e, 0xc));
	gdt(NOTPRES, descriptor(0, 0xfffff, 0x1b, 0xc));
	h.v->seg[SEG_TR].base = TSS_AT;
	h.v->seg[SEG_TR].limit = 0x67;
	h.v->seg[SEG_TR].attr = SEG_P | 11;
	if (wide) {
		put(TSS_AT + 4, STACK0, 8);
		put(TSS_AT + 0x24, IST1, 8);
	} else {
		put(TSS_AT + 4, STACK0, 4);
		put(TSS_AT + 8, KDATA, 2);
	}
	mmu_flush_all(h.v);
}

/* Be at CPL 3 with the table's user segments. */
static void become_user(void)
{
	harness_user(&h);
	h.v->seg[SEG_CS].sel = (h.v->mode == MODE_64 ? UCODE64 : UCODE) | 3;
	h.v->seg[SEG_SS].sel = UDATA | 3;
	h.v->gpr[RSP] = USTACK;
}

/* Deliver what pends, through all faults of deliveries. True: shutdown. */
static bool deliver(void)
{
	if (__builtin_setjmp(h.v->leave_buf)) {
		if (h.v->leave_to_user) {
			h.v->leave_to_user = false;
			return h.v->run->exit_reason == KVM_EXIT_SHUTDOWN;
		}
	}
	while (h.v->exception_pending || h.v->exception_injected || h.v->irq_injected)
		event_inject(h.v);
	return false;
}

static void raise(uint8_t vector, bool has_error, uint32_t error, uint64_t payload)
{
	h.v->exception_pending = true;
	h.v->exception_vector = vector;
	h.v->exception_has_error = has_error;
	h.v->exception_error = error;
	h.v->exception_has_payload = vector == VEC_PF;
	h.v->exception_payload = payload;
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

/* --- long mode --- */

static void test_long_same_privilege(void **state)
{
	start(HARNESS_LONG64);
	gate(VEC_PF, KCODE, 0xffffffff80001234, 0xe, 0);
	gate(VEC_GP, KCODE, HANDLER, 0xe, 0);
	h.v->gpr[RSP] = HARNESS_STACK - 3; /* aligned by delivery */
	h.v->rflags |= FLAG_IF | FLAG_TF | FLAG_CF;
	raise(VEC_PF, true, PF_W, 0x123456789a);
	assert_false(deliver());
	assert_int_equal(h.v->cr2, 0x123456789a);
	assert_int_equal(h.v->rip, 0xffffffff80001234);
	assert_int_equal(h.v->gpr[RSP], ((HARNESS_STACK - 3) & ~15u) - 48);
	assert_int_equal(get(h.v->gpr[RSP], 8), PF_W);
	assert_int_equal(get(h.v->gpr[RSP] + 8, 8), HARNESS_CODE);
	assert_int_equal(get(h.v->gpr[RSP] + 16, 8), 8);
	assert_int_equal(get(h.v->gpr[RSP] + 24, 8), FLAG_FIXED | FLAG_IF | FLAG_TF | FLAG_CF | FLAG_RF);
	assert_int_equal(get(h.v->gpr[RSP] + 32, 8), HARNESS_STACK - 3);
	assert_int_equal(h.v->rflags, FLAG_FIXED | FLAG_CF);
}

static void test_long_from_user_and_back(void **state)
{
	static const uint8_t iretq[] = {0x48, 0xcf};

	start(HARNESS_LONG64);
	gate(0x80, KCODE, HANDLER, 0xf | 3 << 5, 0);
	become_user();
	h.v->rflags |= FLAG_IF;
	assert_int_equal(harness_do(&h, CODE(0xcd, 0x80), 1), HARNESS_OK);
	assert_int_equal(h.v->cpl, 0);
	assert_int_equal(h.v->gpr[RSP], STACK0 - 40);
	assert_int_equal(h.v->seg[SEG_SS].sel, 0);
	assert_true(h.v->rflags & FLAG_IF); /* trap gate */
	assert_int_equal(get(STACK0 - 40, 8), HARNESS_CODE + 2);
	assert_int_equal(get(STACK0 - 16, 8), USTACK);
	memcpy(h.ram + HANDLER, iretq, sizeof(iretq));
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(h.v->cpl, 3);
	assert_int_equal(h.v->rip, HARNESS_CODE + 2);
	assert_int_equal(h.v->gpr[RSP], USTACK);
	assert_int_equal(h.v->seg[SEG_SS].sel, UDATA | 3);
}

static void test_long_ist_and_dpl(void **state)
{
	start(HARNESS_LONG64);
	gate(VEC_NMI, KCODE, HANDLER, 0xe, 1);
	gate(0x21, KCODE, HANDLER, 0xe, 0);
	h.v->nmi_pending = 1;
	event_inject(h.v);
	assert_true(h.v->nmi_masked);
	assert_int_equal(h.v->gpr[RSP], IST1 - 40);
	become_user();
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_do(&h, CODE(0xcd, 0x21), 1), VEC_GP); /* gate's DPL is 0 */
	assert_int_equal(h.v->exception_error, 0x21 * 8 + 2);
	assert_int_equal(h.v->rip, HARNESS_CODE);
}

/* --- double and triple faults --- */

static void test_double_fault(void **state)
{
	start(HARNESS_LONG64);
	gate(VEC_DF, KCODE, HANDLER, 0xe, 1);
	raise(VEC_GP, true, 0x18, 0); /* its gate is not present: #NP while #GP is delivered */
	assert_false(deliver());
	assert_int_equal(h.v->rip, HANDLER);
	assert_int_equal(get(h.v->gpr[RSP], 8), 0);
	assert_int_equal(get(h.v->gpr[RSP] + 8, 8), HARNESS_CODE);
}

static void test_benign_then_fault(void **state)
{
	start(HARNESS_LONG64);
	gate(VEC_NP, KCODE, HANDLER, 0xe, 0);
	put(HARNESS_IDT + VEC_UD * 16 + 5, 0x0e, 1); /* an interrupt gate that is not present */
	raise(VEC_UD, false, 0, 0);
	assert_false(deliver());
	assert_int_equal(h.v->rip, HANDLER);
	assert_int_equal(get(h.v->gpr[RSP], 8), VEC_UD * 8 + 3);
}

static void test_triple_fault(void **state)
{
	start(HARNESS_LONG64);
	raise(VEC_GP, true, 0, 0);
	assert_true(deliver());
	start(HARNESS_REAL);
	h.v->idt.limit = 0;
	raise(VEC_UD, false, 0, 0);
	assert_true(deliver());
}

/* --- legacy modes --- */

static void test_real_mode(void **state)
{
	start(HARNESS_REAL);
	h.v->idt = (struct x86_dtable){0, 0x3ff};
	put(0x21 * 4, 0x30001234, 4);
	h.v->rflags |= FLAG_IF;
	assert_int_equal(harness_do(&h, CODE(0xcd, 0x21), 1), HARNESS_OK);
	assert_int_equal(h.v->seg[SEG_CS].base, 0x30000);
	assert_int_equal(h.v->rip, 0x1234);
	assert_int_equal(get(HARNESS_STACK - 6, 2), 2);
	assert_int_equal(get(HARNESS_STACK - 4, 2), HARNESS_CODE >> 4);
	assert_int_equal(get(HARNESS_STACK - 2, 2), FLAG_FIXED | FLAG_IF);
	put(0x31234, 0xcf, 1);
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(h.v->rip, 2);
	assert_true(h.v->rflags & FLAG_IF);
	assert_int_equal(h.v->gpr[RSP], HARNESS_STACK);
}

static void test_protected_from_user(void **state)
{
	start(HARNESS_PROTECTED32);
	gate(VEC_GP, KCODE, HANDLER, 0xe, 0);
	become_user();
	assert_int_equal(harness_do(&h, CODE(0xf4), 1), VEC_GP); /* HLT */
	raise(VEC_GP, true, 0, 0);
	assert_false(deliver());
	assert_int_equal(h.v->cpl, 0);
	assert_int_equal(h.v->gpr[RSP], STACK0 - 24);
	assert_int_equal(get(STACK0 - 20, 4), HARNESS_CODE);
	assert_int_equal(get(STACK0 - 16, 4), UCODE | 3);
	assert_int_equal(get(STACK0 - 8, 4), USTACK);
	assert_int_equal(get(STACK0 - 4, 4), UDATA | 3);
	put(HANDLER, 0xcf04c483, 4); /* add esp,4; iret */
	assert_int_equal(harness_run(&h, 2), HARNESS_OK);
	assert_int_equal(h.v->cpl, 3);
	assert_int_equal(h.v->gpr[RSP], USTACK);
}

static void test_v8086(void **state)
{
	const uint32_t frame[] = {0x10, 0x3000, FLAG_VM | FLAG_FIXED | FLAG_IF, 0x2000, 0x1800, 1, 2, 3, 4};

	start(HARNESS_PROTECTED32);
	gate(VEC_GP, KCODE, HANDLER, 0xe, 0);
	memcpy(h.ram + HARNESS_STACK, frame, sizeof(frame));
	assert_int_equal(harness_do(&h, CODE(0xcf), 1), HARNESS_OK);
	assert_true(h.v->rflags & FLAG_VM);
	assert_int_equal(h.v->cpl, 3);
	assert_int_equal(h.v->mode, MODE_16);
	assert_int_equal(h.v->seg[SEG_CS].base, 0x30000);
	assert_int_equal(h.v->seg[SEG_SS].base, 0x18000);
	assert_int_equal(h.v->seg[SEG_GS].sel, 4);
	put(0x30010, 0x10cd, 2); /* INT 10h with IOPL 0: to the monitor */
	assert_int_equal(harness_run(&h, 1), VEC_GP);
	raise(VEC_GP, true, 0, 0);
	assert_false(deliver());
	assert_int_equal(h.v->cpl, 0);
	assert_false(h.v->rflags & FLAG_VM);
	assert_int_equal(h.v->gpr[RSP], STACK0 - 40);
	assert_int_equal(get(STACK0 - 4, 4), 4);
	assert_int_equal(get(STACK0 - 16, 4), 1);
	assert_int_equal(get(STACK0 - 36, 4), 0x10);
	assert_true(h.v->seg[SEG_DS].attr & SEG_UNUSABLE);
}

/* --- far transfers --- */

static void test_far_jump_modes(void **state)
{
	start(HARNESS_PROTECTED32);
	assert_int_equal(harness_do(&h, CODE(0xea, 0x00, 0x00, 0x03, 0x00, CODE32, 0), 1), HARNESS_OK);
	assert_int_equal(h.v->rip, HANDLER);
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_do(&h, CODE(0xea, 0x00, 0x00, 0x03, 0x00, NOTPRES, 0), 1), VEC_NP);
	assert_int_equal(h.v->exception_error, NOTPRES);
	assert_int_equal(harness_do(&h, CODE(0xea, 0x00, 0x00, 0x03, 0x00, KDATA, 0), 1), VEC_GP);
	assert_int_equal(h.v->exception_error, KDATA);
	assert_int_equal(harness_do(&h, CODE(0xea, 0x00, 0x00, 0x03, 0x00, 0, 0), 1), VEC_GP);
	assert_int_equal(h.v->exception_error, 0);
	assert_int_equal(h.v->rip, HARNESS_CODE);
}

static void test_call_gate(void **state)
{
	start(HARNESS_PROTECTED32);
	gdt(GATE, (HANDLER & 0xffff) | KCODE << 16 | 2ull << 32 | 0xecull << 40 | (uint64_t)(HANDLER >> 16) << 48);
	become_user();
	put(USTACK, 0x11111111, 4);
	put(USTACK + 4, 0x22222222, 4);
	assert_int_equal(harness_do(&h, CODE(0x9a, 0, 0, 0, 0, GATE | 3, 0), 1), HARNESS_OK);
	assert_int_equal(h.v->cpl, 0);
	assert_int_equal(h.v->rip, HANDLER);
	assert_int_equal(h.v->gpr[RSP], STACK0 - 24);
	assert_int_equal(get(STACK0 - 24, 4), HARNESS_CODE + 7);
	assert_int_equal(get(STACK0 - 20, 4), UCODE | 3);
	assert_int_equal(get(STACK0 - 16, 4), 0x11111111);
	assert_int_equal(get(STACK0 - 12, 4), 0x22222222);
	assert_int_equal(get(STACK0 - 8, 4), USTACK);
	put(HANDLER, 0x0008ca, 3); /* retf 8 */
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(h.v->cpl, 3);
	assert_int_equal(h.v->gpr[RSP], USTACK + 8);
	assert_int_equal(h.v->rip, HARNESS_CODE + 7);
}

static void test_segment_loads(void **state)
{
	start(HARNESS_PROTECTED32);
	h.v->gpr[RAX] = KDATA;
	assert_int_equal(harness_do(&h, CODE(0x8e, 0xd0), 1), HARNESS_OK); /* mov ss, ax */
	assert_true(h.v->shadow & KVM_X86_SHADOW_INT_MOV_SS);
	h.v->gpr[RAX] = 0;
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_run(&h, 1), VEC_GP);
	h.v->gpr[RAX] = UDATA | 3;
	assert_int_equal(harness_run(&h, 1), VEC_GP);
	assert_int_equal(h.v->exception_error, UDATA);
	gdt(LDT, descriptor(0, 0xfffff, 0x92, 0xc)); /* not accessed yet */
	h.v->gpr[RAX] = LDT;
	assert_int_equal(harness_do(&h, CODE(0x8e, 0xd8), 1), HARNESS_OK); /* mov ds, ax */
	assert_int_equal(get(HARNESS_GDT + LDT + 5, 1), 0x93);
	h.v->gpr[RAX] = CODE32 | 1;
	become_user();
	h.v->rip = HARNESS_CODE;
	assert_int_equal(harness_run(&h, 1), VEC_GP);
}

/* --- tasks --- */

static void test_task_switch(void **state)
{
	start(HARNESS_PROTECTED32);
	gdt(TSS, descriptor(TSS_AT, 0x67, 0x8b, 0));
	gdt(TSS2, descriptor(TSS2_AT, 0x67, 0x89, 0));
	h.v->seg[SEG_TR].sel = TSS;
	memset(h.ram + TSS2_AT, 0, 104);
	put(TSS2_AT + 32, HANDLER, 4);
	put(TSS2_AT + 36, FLAG_FIXED, 4);
	put(TSS2_AT + 40, 0xabcd, 4);		/* EAX */
	put(TSS2_AT + 56, STACK0, 4);		/* ESP */
	for (unsigned k = 0; k < 6; k++)
		put(TSS2_AT + 72 + 4 * k, k == 1 ? KCODE : KDATA, 2);
	gate(VEC_DF, TSS2, 0, 5, 0); /* task gate */
	h.v->gpr[RAX] = 0x5555;
	raise(VEC_DF, true, 0, 0);
	assert_false(deliver());
	assert_int_equal(h.v->rip, HANDLER);
	assert_int_equal(h.v->gpr[RAX], 0xabcd);
	assert_int_equal(h.v->gpr[RSP], STACK0 - 4); /* error code */
	assert_true(h.v->rflags & FLAG_NT);
	assert_int_equal(h.v->seg[SEG_TR].sel, TSS2);
	assert_int_equal(get(TSS2_AT, 2), TSS);
	assert_int_equal(get(TSS_AT + 32, 4), HARNESS_CODE);
	assert_int_equal(get(HARNESS_GDT + TSS2 + 5, 1), 0x8b);
	put(HANDLER, 0xcf, 1);
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(h.v->rip, HARNESS_CODE);
	assert_int_equal(h.v->gpr[RAX], 0x5555);
	assert_int_equal(h.v->seg[SEG_TR].sel, TSS);
	assert_false(h.v->rflags & FLAG_NT);
	assert_int_equal(get(HARNESS_GDT + TSS2 + 5, 1), 0x89);
}

/* --- system calls --- */

static void test_syscall(void **state)
{
	start(HARNESS_LONG64);
	h.v->star = (uint64_t)KCODE << 32 | (uint64_t)(UCODE | 3) << 48;
	h.v->lstar = HANDLER;
	h.v->fmask = FLAG_IF | FLAG_DF;
	become_user();
	h.v->rflags |= FLAG_IF | FLAG_ZF;
	assert_int_equal(harness_do(&h, CODE(0x0f, 0x05), 1), HARNESS_OK);
	assert_int_equal(h.v->cpl, 0);
	assert_int_equal(h.v->rip, HANDLER);
	assert_int_equal(h.v->gpr[RCX], HARNESS_CODE + 2);
	assert_int_equal(h.v->gpr[R11], FLAG_FIXED | FLAG_IF | FLAG_ZF);
	assert_int_equal(h.v->rflags, FLAG_FIXED | FLAG_ZF);
	put(HANDLER, 0x070f48, 3);
	assert_int_equal(harness_run(&h, 1), HARNESS_OK);
	assert_int_equal(h.v->cpl, 3);
	assert_int_equal(h.v->rip, HARNESS_CODE + 2);
	assert_int_equal(h.v->seg[SEG_CS].sel, (UCODE + 16) | 3);
	assert_int_equal(h.v->mode, MODE_64);
	assert_int_equal(h.v->rflags, FLAG_FIXED | FLAG_IF | FLAG_ZF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(test_long_same_privilege), TEST(test_long_from_user_and_back), TEST(test_long_ist_and_dpl),
		TEST(test_double_fault), TEST(test_benign_then_fault), TEST(test_triple_fault), TEST(test_real_mode),
		TEST(test_protected_from_user), TEST(test_v8086), TEST(test_far_jump_modes), TEST(test_call_gate),
		TEST(test_segment_loads), TEST(test_task_switch), TEST(test_syscall),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
