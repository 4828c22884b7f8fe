/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The run loop: exits for devices and how they complete, shadows, single steps, breakpoints, windows and
 * halts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "harness.h"
#include "softkvm/interpret/run.h"

enum { MMIO = 0x800000 }; /* mapped, beyond RAM */

static struct harness h;

static int begin(void **state)
{
	return harness_new(&h, HARNESS_LONG64);
}

static int end(void **state)
{
	harness_free(&h);
	return 0;
}

static void fresh(const void *code, unsigned size)
{
	harness_reset(&h, HARNESS_LONG64);
	memset(h.v->run, 0, 4096);
	h.v->guest_debug = 0;
	h.v->io_pending = false;
	harness_code(&h, code, size);
}

static struct kvm_run *run(void)
{
	assert_int_equal(vcpu_run(h.v), 0);
	return h.v->run;
}

static void expect_halt(void)
{
	assert_int_equal(run()->exit_reason, KVM_EXIT_HLT);
}

static void test_mmio_read_and_write(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0x8b, 0x03, 0x89, 0x43, 0x04, 0xf4)); /* mov eax, [rbx]; mov [rbx+4], eax; hlt */
	h.v->gpr[RBX] = MMIO;
	r = run();
	assert_int_equal(r->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(r->mmio.phys_addr, MMIO);
	assert_int_equal(r->mmio.len, 4);
	assert_false(r->mmio.is_write);
	memcpy(r->mmio.data, "\x78\x56\x34\x12", 4);
	r = run();
	assert_int_equal(h.v->gpr[RAX], 0x12345678);
	assert_int_equal(r->exit_reason, KVM_EXIT_MMIO);
	assert_true(r->mmio.is_write);
	assert_int_equal(r->mmio.phys_addr, MMIO + 4);
	assert_memory_equal(r->mmio.data, "\x78\x56\x34\x12", 4);
	expect_halt();
	assert_int_equal(h.v->rip, HARNESS_CODE + 6);
}

static void test_mmio_read_modify_write(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0xf0, 0x83, 0x03, 0x05, 0xf4)); /* lock add dword [rbx], 5; hlt */
	h.v->gpr[RBX] = MMIO;
	r = run();
	assert_false(r->mmio.is_write);
	memcpy(r->mmio.data, "\x0a\0\0\0", 4);
	r = run();
	assert_int_equal(r->exit_reason, KVM_EXIT_MMIO);
	assert_true(r->mmio.is_write);
	assert_int_equal(r->mmio.data[0], 15);
	expect_halt();
}

/* Registers are unchanged until every piece is done; a copy from device to device has two. */
static void test_mmio_to_mmio(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0xf3, 0xa5, 0xf4)); /* rep movsd; hlt */
	h.v->gpr[RSI] = MMIO;
	h.v->gpr[RDI] = MMIO + 0x100;
	h.v->gpr[RCX] = 3;
	for (unsigned k = 0; k < 3; k++) {
		r = run();
		assert_int_equal(r->exit_reason, KVM_EXIT_MMIO);
		assert_false(r->mmio.is_write);
		assert_int_equal(r->mmio.phys_addr, MMIO + 4 * k);
		assert_int_equal(h.v->gpr[RCX], 3 - k);
		r->mmio.data[0] = (uint8_t)(k + 1);
		r = run();
		assert_true(r->mmio.is_write);
		assert_int_equal(r->mmio.phys_addr, MMIO + 0x100 + 4 * k);
		assert_int_equal(r->mmio.data[0], k + 1);
	}
	expect_halt();
	assert_int_equal(h.v->gpr[RCX], 0);
}

static void test_ports(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0xe4, 0x70, 0xef, 0xf4)); /* in al, 70h; out dx, eax; hlt */
	h.v->gpr[RAX] = 0x11223344;
	h.v->gpr[RDX] = 0xcf8;
	r = run();
	assert_int_equal(r->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(r->io.port, 0x70);
	assert_int_equal(r->io.size, 1);
	assert_int_equal(r->io.count, 1);
	*((uint8_t *)r + r->io.data_offset) = 0x99;
	r = run();
	assert_int_equal(h.v->gpr[RAX], 0x11223399);
	assert_int_equal(r->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(r->io.port, 0xcf8);
	assert_memory_equal((uint8_t *)r + r->io.data_offset, "\x99\x33\x22\x11", 4);
	expect_halt();
}

static void test_port_strings(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0xf3, 0x6c, 0xf3, 0x6f, 0xf4)); /* rep insb; rep outsd; hlt */
	h.v->gpr[RDX] = 0x1f0;
	h.v->gpr[RDI] = HARNESS_DATA + 4090; /* six bytes to the page's end */
	h.v->gpr[RCX] = 10;
	r = run();
	assert_int_equal(r->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r->io.count, 6);
	assert_int_equal(h.v->gpr[RCX], 10);
	memcpy((uint8_t *)r + r->io.data_offset, "abcdef", 6);
	r = run();
	assert_int_equal(r->io.count, 4);
	assert_int_equal(h.v->gpr[RCX], 4);
	memcpy((uint8_t *)r + r->io.data_offset, "ghij", 4);
	h.v->gpr[RSI] = HARNESS_DATA + 4090;
	assert_int_equal(h.v->rip, HARNESS_CODE);
	r = run(); /* outsd with RCX 0 does nothing */
	assert_int_equal(r->exit_reason, KVM_EXIT_HLT);
	assert_memory_equal(h.ram + HARNESS_DATA + 4090, "abcdefghij", 10);
	h.v->rip = HARNESS_CODE + 2;
	h.v->gpr[RCX] = 2;
	h.v->gpr[RSI] = HARNESS_DATA + 4090 - 2;
	r = run();
	assert_int_equal(r->io.size, 4);
	assert_int_equal(r->io.count, 2);
	assert_int_equal(r->io.direction, KVM_EXIT_IO_OUT);
	assert_memory_equal((uint8_t *)r + r->io.data_offset + 2, "abcdef", 6);
	expect_halt();
	assert_int_equal(h.v->gpr[RSI], HARNESS_DATA + 4096);
}

static void test_immediate_exit_completes_io(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0x8b, 0x03, 0xf4));
	h.v->gpr[RBX] = MMIO;
	r = run();
	memcpy(r->mmio.data, "\x01\0\0\0", 4);
	r->immediate_exit = 1;
	assert_int_equal(vcpu_run(h.v), -EINTR);
	assert_int_equal(r->exit_reason, KVM_EXIT_MMIO); /* as the kernel leaves it */
	assert_int_equal(h.v->gpr[RAX], 1);
	assert_int_equal(h.v->rip, HARNESS_CODE + 2);
	r->immediate_exit = 0;
	expect_halt();
}

static void test_user_single_step(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0x90, 0xff, 0xc0, 0xf4)); /* nop; inc eax; hlt */
	h.v->guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	r = run();
	assert_int_equal(r->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(r->debug.arch.pc, HARNESS_CODE + 1);
	assert_int_equal(r->debug.arch.exception, VEC_DB);
	r = run();
	assert_int_equal(r->debug.arch.pc, HARNESS_CODE + 3);
	assert_int_equal(h.v->gpr[RAX], 1);
	h.v->guest_debug = 0;
	expect_halt();
}

static void test_user_breakpoint(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0x90, 0x90, 0x90, 0xf4));
	h.v->guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	h.v->debug_dr[0] = HARNESS_CODE + 2;
	h.v->debug_dr[7] = 1;
	r = run();
	assert_int_equal(r->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(r->debug.arch.pc, HARNESS_CODE + 2);
	assert_int_equal(r->debug.arch.dr6 & 15, 1);
	h.v->guest_debug = 0;
	h.v->debug_dr[7] = 0;
	expect_halt();
}

static void test_interrupt_window(void **state)
{
	struct kvm_run *r;

	fresh(CODE(0x90, 0xfb, 0x90, 0xf4)); /* nop; sti; nop; hlt */
	h.v->run->request_interrupt_window = 1;
	r = run();
	assert_int_equal(r->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(h.v->rip, HARNESS_CODE + 3); /* one instruction after STI */
	assert_true(r->ready_for_interrupt_injection);
	assert_true(r->if_flag);
	r->request_interrupt_window = 0;
	expect_halt();
}

static void test_nowhere(void **state)
{
	fresh(CODE(0xff, 0xe3)); /* jmp rbx */
	h.v->gpr[RBX] = MMIO;
	assert_int_equal(run()->exit_reason, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(h.v->run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
}

/* No IDT to speak of: the first exception becomes a double, then a triple fault. */
static void test_triple_fault(void **state)
{
	fresh(CODE(0x0f, 0x0b));
	h.v->idt.limit = 0;
	assert_int_equal(run()->exit_reason, KVM_EXIT_SHUTDOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mmio_read_and_write),
		cmocka_unit_test(test_mmio_read_modify_write),
		cmocka_unit_test(test_mmio_to_mmio),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_port_strings),
		cmocka_unit_test(test_immediate_exit_completes_io),
		cmocka_unit_test(test_user_single_step),
		cmocka_unit_test(test_user_breakpoint),
		cmocka_unit_test(test_interrupt_window),
		cmocka_unit_test(test_nowhere),
		cmocka_unit_test(test_triple_fault),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
