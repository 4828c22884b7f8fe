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

#include "softkvm/api/softkvm.h"

enum { RAM_SIZE = 1 << 20, CODE_AT = 0x1000 };

struct vm_fixture {
	struct softkvm *system, *vm, *vcpu;
	struct kvm_run *run;
	uint8_t *ram;
};

static long vm_call(struct vm_fixture *f, unsigned long request, const void *arg)
{
	return softkvm_ioctl(f->vm, request, (uintptr_t)arg, NULL);
}

static long vcpu_call(struct vm_fixture *f, unsigned long request, const void *arg)
{
	return softkvm_ioctl(f->vcpu, request, (uintptr_t)arg, NULL);
}

static long set_ram(struct vm_fixture *f, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *hva)
{
	struct kvm_userspace_memory_region region = {slot, flags, gpa, size, (uintptr_t)hva};

	return vm_call(f, KVM_SET_USER_MEMORY_REGION, &region);
}

static void vm_open(struct vm_fixture *f, bool with_irqchip)
{
	memset(f, 0, sizeof(*f));
	assert_int_equal(softkvm_open(NULL, &f->system), 0);
	assert_int_equal(softkvm_ioctl(f->system, KVM_CREATE_VM, 0, &f->vm), 0);
	f->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->ram, MAP_FAILED);
	assert_int_equal(set_ram(f, 0, 0, 0, RAM_SIZE, f->ram), 0);
	if (with_irqchip)
		assert_int_equal(vm_call(f, KVM_CREATE_IRQCHIP, NULL), 0);
	assert_int_equal(softkvm_ioctl(f->vm, KVM_CREATE_VCPU, 0, &f->vcpu), 0);
	f->run = softkvm_run_area(f->vcpu);
	assert_non_null(f->run);
}

static void vm_close(struct vm_fixture *f)
{
	softkvm_close(f->vcpu);
	softkvm_close(f->vm);
	softkvm_close(f->system);
	munmap(f->ram, RAM_SIZE);
}

/* Real mode at 0:CODE_AT. */
static void load(struct vm_fixture *f, const void *code, size_t size)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = CODE_AT, .rsp = 0x8000, .rflags = 2};

	memcpy(f->ram + CODE_AT, code, size);
	assert_int_equal(vcpu_call(f, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	assert_int_equal(vcpu_call(f, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(vcpu_call(f, KVM_SET_REGS, &regs), 0);
}

#define LOAD(f, ...) load(f, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void runs_to_hlt_without_irqchip(void **state)
{
	struct vm_fixture f;
	struct kvm_regs regs;

	vm_open(&f, false);
	LOAD(&f, 0xb8, 0x34, 0x12, /* mov ax, 1234h */
	     0xe6, 0x10,	   /* out 10h, al */
	     0xf4);		   /* hlt */
	assert_int_equal(vcpu_call(&f, KVM_RUN, NULL), 0);
	assert_int_equal(f.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(f.run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(f.run->io.port, 0x10);
	assert_int_equal(f.run->io.size, 1);
	assert_int_equal(f.run->io.count, 1);
	assert_int_equal(((uint8_t *)f.run)[f.run->io.data_offset], 0x34);
	assert_int_equal(vcpu_call(&f, KVM_RUN, NULL), 0);
	assert_int_equal(f.run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(vcpu_call(&f, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rax, 0x1234);
	assert_int_equal(regs.rip, CODE_AT + 6);
	vm_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_to_hlt_without_irqchip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
