/* SPDX-License-Identifier: BSD-2-Clause */
#include "vm_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

long fixture_vm(struct vm_fixture *f, unsigned long request, const void *arg)
{
	return softkvm_ioctl(f->vm, request, (uintptr_t)arg, NULL);
}

long fixture_vcpu(struct vm_fixture *f, unsigned long request, const void *arg)
{
	return softkvm_ioctl(f->vcpu[0], request, (uintptr_t)arg, NULL);
}

long fixture_slot(struct vm_fixture *f, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *hva)
{
	struct kvm_userspace_memory_region region = {slot, flags, gpa, size, (uintptr_t)hva};

	return fixture_vm(f, KVM_SET_USER_MEMORY_REGION, &region);
}

static const char *engine = "interpret";

bool fixture_use_engine(const char *name)
{
	struct softkvm *system;

	if (softkvm_open(name, &system))
		return false;
	softkvm_close(system);
	engine = name;
	return true;
}

#ifdef __SANITIZE_THREAD__
enum { SANITIZES_THREADS = 1 };
#else
enum { SANITIZES_THREADS = 0 };
#endif

bool fixture_tsan_disturbs(const char *what)
{
	if (!SANITIZES_THREADS || strcmp(engine, "translate") != 0)
		return false;
	print_message("needs %s, which TSan and translated code cannot share\n", what);
	return true;
}

static void set_cpuid(struct vm_fixture *f, unsigned i)
{
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + 256 * sizeof(list->entries[0]));

	list->nent = 256;
	assert_int_equal(softkvm_ioctl(f->system, KVM_GET_SUPPORTED_CPUID, (uintptr_t)list, NULL), 0);
	assert_int_equal(softkvm_ioctl(f->vcpu[i], KVM_SET_CPUID2, (uintptr_t)list, NULL), 0);
	free(list);
}

static void add_irqchip(struct vm_fixture *f, enum fixture_irqchip irqchip)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

	if (irqchip == FIXTURE_IRQCHIP)
		assert_int_equal(fixture_vm(f, KVM_CREATE_IRQCHIP, NULL), 0);
	if (irqchip == FIXTURE_SPLIT)
		assert_int_equal(fixture_vm(f, KVM_ENABLE_CAP, &split), 0);
}

void fixture_open(struct vm_fixture *f, enum fixture_irqchip irqchip, unsigned vcpu_count)
{
	memset(f, 0, sizeof(*f));
	assert_int_equal(softkvm_open(engine, &f->system), 0);
	assert_int_equal(softkvm_ioctl(f->system, KVM_CREATE_VM, 0, &f->vm), 0);
	f->ram = mmap(NULL, FIXTURE_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->ram, MAP_FAILED);
	assert_int_equal(fixture_slot(f, 0, 0, 0, FIXTURE_RAM, f->ram), 0);
	add_irqchip(f, irqchip);
	for (unsigned i = 0; i < vcpu_count; i++) {
		assert_int_equal(softkvm_ioctl(f->vm, KVM_CREATE_VCPU, i, &f->vcpu[i]), 0);
		set_cpuid(f, i);
	}
	f->vcpu_count = vcpu_count;
	if (vcpu_count)
		f->run = softkvm_run_area(f->vcpu[0]);
}

void fixture_close(struct vm_fixture *f)
{
	for (unsigned i = 0; i < f->vcpu_count; i++)
		softkvm_close(f->vcpu[i]);
	softkvm_close(f->vm);
	softkvm_close(f->system);
	munmap(f->ram, FIXTURE_RAM);
}

void fixture_load(struct vm_fixture *f, const void *code, size_t size, uint64_t rflags)
{
	struct kvm_regs regs = {.rip = FIXTURE_CODE, .rsp = 0x8000, .rflags = rflags | 2};
	struct kvm_sregs sregs;

	memcpy(f->ram + FIXTURE_CODE, code, size);
	softkvm_memory_written(f->vm, FIXTURE_CODE, size);
	assert_int_equal(fixture_vcpu(f, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	assert_int_equal(fixture_vcpu(f, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(fixture_vcpu(f, KVM_SET_REGS, &regs), 0);
}

uint32_t fixture_run(struct vm_fixture *f)
{
	assert_int_equal(fixture_vcpu(f, KVM_RUN, NULL), 0);
	return f->run->exit_reason;
}

uint64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void sleep_ms(unsigned ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000l};

	nanosleep(&ts, NULL);
}
