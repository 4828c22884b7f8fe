/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The KVM contract as a client sees it: what is offered, errors for bad arguments, and small guests in real mode.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "vm_fixture.h"

static void runs_to_hlt_without_irqchip(void **state)
{
	struct vm_fixture f;
	struct kvm_regs regs;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	LOAD(&f, 0xb8, 0x34, 0x12, /* mov ax, 1234h */
	     0xe6, 0x10,	   /* out 10h, al */
	     0xf4);		   /* hlt */
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	assert_int_equal(f.run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(f.run->io.port, 0x10);
	assert_int_equal(f.run->io.size, 1);
	assert_int_equal(f.run->io.count, 1);
	assert_int_equal(((uint8_t *)f.run)[f.run->io.data_offset], 0x34);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rax, 0x1234);
	assert_int_equal(regs.rip, FIXTURE_CODE + 6);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_to_hlt_without_irqchip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
