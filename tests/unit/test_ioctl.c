/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The KVM contract as a client sees it: what is offered, errors for bad arguments, and state that comes back as it went in.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "vm_fixture.h"

/* An address that is not mapped, whatever happens. */
static void *bad_pointer(void)
{
	void *p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static long sys(struct vm_fixture *f, unsigned long request, uintptr_t arg)
{
	return softkvm_ioctl(f->system, request, arg, NULL);
}

/* --- the system handle --- */

static void system_calls(void **state)
{
	struct vm_fixture f;
	struct softkvm *vm;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 0);
	assert_int_equal(sys(&f, KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(sys(&f, KVM_GET_API_VERSION, 1), -EINVAL);
	assert_int_equal(sys(&f, KVM_GET_VCPU_MMAP_SIZE, 0), 3 * 4096);
	assert_int_equal(sys(&f, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
	assert_int_equal(fixture_vm(&f, KVM_CHECK_EXTENSION, (void *)KVM_CAP_IRQFD), 1);
	assert_int_equal(sys(&f, KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM), 0);
	assert_int_equal(sys(&f, KVM_CHECK_EXTENSION, 123456), 0);
	assert_int_equal(softkvm_ioctl(f.system, KVM_CREATE_VM, 1, &vm), -EINVAL);
	assert_int_equal(sys(&f, KVM_RUN, 0), -EINVAL);
	assert_int_equal(sys(&f, 0xdeadbeef, 0), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_GET_API_VERSION, NULL), -ENOTTY);
	assert_int_equal(softkvm_open("no such engine", &vm), -ENOENT);
	assert_int_equal(softkvm_run_fd(f.vm), -EINVAL);
	assert_null(softkvm_run_area(f.vm));
	fixture_close(&f);
}

static void supported_cpuid_sizes(void **state)
{
	struct vm_fixture f;
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + 256 * sizeof(list->entries[0]));

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 0);
	list->nent = 1;
	assert_int_equal(sys(&f, KVM_GET_SUPPORTED_CPUID, (uintptr_t)list), -E2BIG);
	assert_int_equal(sys(&f, KVM_GET_SUPPORTED_CPUID, (uintptr_t)bad_pointer()), -EFAULT);
	list->nent = 256;
	assert_int_equal(sys(&f, KVM_GET_SUPPORTED_CPUID, (uintptr_t)list), 0);
	assert_in_range(list->nent, 5, 255);
	assert_int_equal(sys(&f, KVM_GET_EMULATED_CPUID, (uintptr_t)list), 0);
	assert_int_equal(list->nent, 0);
	free(list);
	fixture_close(&f);
}

static void msr_lists(void **state)
{
	struct vm_fixture f;
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + 1024 * sizeof(uint32_t));
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + 1024 * sizeof(struct kvm_msr_entry));
	uint32_t n;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	assert_int_equal(sys(&f, KVM_GET_MSR_INDEX_LIST, (uintptr_t)list), -E2BIG);
	n = list->nmsrs;
	assert_in_range(n, 10, 1000);
	assert_int_equal(sys(&f, KVM_GET_MSR_INDEX_LIST, (uintptr_t)list), 0);
	assert_int_equal(list->nmsrs, n);
	for (uint32_t i = 0; i < n; i++) { /* each can be read and written back, one by one */
		msrs->nmsrs = 1;
		msrs->entries[0].index = list->indices[i];
		assert_int_equal(fixture_vcpu(&f, KVM_GET_MSRS, msrs), 1);
		assert_int_equal(fixture_vcpu(&f, KVM_SET_MSRS, msrs), 1);
	}
	msrs->nmsrs = 3;
	msrs->entries[0].index = MSR_LSTAR;
	msrs->entries[0].data = 0xffffffff81000000;
	msrs->entries[1].index = 0x12345678; /* unknown: stops there */
	msrs->entries[2].index = MSR_STAR;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_MSRS, msrs), 1);
	msrs->entries[0].data = 0;
	assert_int_equal(fixture_vcpu(&f, KVM_GET_MSRS, msrs), 1);
	assert_int_equal(msrs->entries[0].data, 0xffffffff81000000);
	msrs->nmsrs = 256;
	assert_int_equal(fixture_vcpu(&f, KVM_GET_MSRS, msrs), -E2BIG);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_MSRS, bad_pointer()), -EFAULT);
	list->nmsrs = 1024;
	assert_int_equal(sys(&f, KVM_GET_MSR_FEATURE_INDEX_LIST, (uintptr_t)list), 0);
	for (uint32_t i = 0; i < list->nmsrs; i++) {
		msrs->nmsrs = 1;
		msrs->entries[0].index = list->indices[i];
		assert_int_equal(sys(&f, KVM_GET_MSRS, (uintptr_t)msrs), 1);
	}
	free(list);
	free(msrs);
	fixture_close(&f);
}

static void expect_fault(const struct ioctl_row *row, struct softkvm *h, uintptr_t bad)
{
	if (softkvm_ioctl(h, row->request, bad, NULL) != -EFAULT)
		fail_msg("%s of %#lx", row->name, (unsigned long)bad);
}

/* Every request that takes a pointer answers -EFAULT to a bad one, and does not crash. */
static void bad_pointers(void **state)
{
	struct vm_fixture f;
	const struct ioctl_row *tables[] = {system_ioctls, vm_ioctls, vcpu_ioctls, state_ioctls};
	struct kvm_pit_config pit = {0};
	uint8_t *bad = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect(bad += 4096, 4096, PROT_NONE);
	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	assert_int_equal(fixture_vm(&f, KVM_CREATE_PIT2, &pit), 0);
	for (unsigned t = 0; t < 4; t++)
		for (const struct ioctl_row *row = tables[t]; row->handler; row++) {
			struct softkvm *h = row->kinds & HANDLE_VCPU ? f.vcpu[0] : row->kinds & HANDLE_VM ? f.vm : f.system;

			if (row->flags & (ARG_IN | ARG_OUT)) {
				expect_fault(row, h, (uintptr_t)bad);
				expect_fault(row, h, 6);
				expect_fault(row, h, (uintptr_t)bad - 1); /* begins in memory, or before it */
				expect_fault(row, h, 1ull << 47);
				expect_fault(row, h, ~0ull - 3);
			}
			if (row->flags & ARG_ZERO)
				if (softkvm_ioctl(h, row->request, 1, NULL) != -EINVAL)
					fail_msg("%s", row->name);
		}
	fixture_close(&f);
}

/* --- the VM handle --- */

static void vcpu_ids(void **state)
{
	struct vm_fixture f;
	struct softkvm *vcpu, *last;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(softkvm_ioctl(f.vm, KVM_CREATE_VCPU, 0, &vcpu), -EEXIST);
	assert_int_equal(softkvm_ioctl(f.vm, KVM_CREATE_VCPU, VM_MAX_VCPU_ID + 1, &vcpu), -EINVAL);
	assert_int_equal(softkvm_ioctl(f.vm, KVM_CREATE_VCPU, VM_MAX_VCPU_ID, &last), 0);
	for (unsigned i = 1; i < VM_MAX_VCPUS - 1; i++) {
		assert_int_equal(softkvm_ioctl(f.vm, KVM_CREATE_VCPU, i, &vcpu), 0);
		softkvm_close(vcpu);
	}
	assert_int_equal(softkvm_ioctl(f.vm, KVM_CREATE_VCPU, 200, &vcpu), -EINVAL);
	softkvm_close(last);
	fixture_close(&f);
}

static void order_of_creation(void **state)
{
	struct vm_fixture f;
	struct kvm_pit_config pit = {0};
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct kvm_irq_level level = {.irq = 4, .level = 1};
	struct kvm_irqchip chip = {.chip_id = 0};
	struct kvm_pit_state2 pit_state;
	struct kvm_msi msi = {.address_lo = 0xfee00000};
	uint64_t addr = 0xfffbc000;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 0);
	assert_int_equal(fixture_vm(&f, KVM_CREATE_PIT2, &pit), -ENOENT);
	assert_int_equal(fixture_vm(&f, KVM_IRQ_LINE, &level), -ENXIO);
	assert_int_equal(fixture_vm(&f, KVM_GET_IRQCHIP, &chip), -ENXIO);
	assert_int_equal(fixture_vm(&f, KVM_GET_PIT2, &pit_state), -ENXIO);
	assert_int_equal(fixture_vm(&f, KVM_SIGNAL_MSI, &msi), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_CREATE_IRQCHIP, NULL), 0);
	assert_int_equal(fixture_vm(&f, KVM_CREATE_IRQCHIP, NULL), -EEXIST);
	assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &split), -EEXIST);
	assert_int_equal(fixture_vm(&f, KVM_IRQ_LINE, &level), 0);
	assert_int_equal(fixture_vm(&f, KVM_SET_TSS_ADDR, (void *)0xfffbd000), 0);
	assert_int_equal(fixture_vm(&f, KVM_SET_TSS_ADDR, (void *)0xfffff000), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_SET_IDENTITY_MAP_ADDR, &addr), 0);
	fixture_close(&f);
	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(fixture_vm(&f, KVM_CREATE_IRQCHIP, NULL), -EINVAL); /* after a vCPU */
	assert_int_equal(fixture_vm(&f, KVM_SET_IDENTITY_MAP_ADDR, &addr), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_SET_BOOT_CPU_ID, NULL), -EBUSY);
	split.cap = 9999;
	assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &split), -EINVAL);
	fixture_close(&f);
}

static void a_vm_outlives_its_handle(void **state)
{
	struct vm_fixture f;
	struct kvm_regs regs;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	softkvm_close(f.vm);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_REGS, &regs), 0);
	softkvm_close(f.vcpu[0]);
	softkvm_close(f.system);
	munmap(f.ram, FIXTURE_RAM);
}

/* --- vCPU state --- */

static void port_io_and_halt(void **state)
{
	struct vm_fixture f;
	struct kvm_regs regs;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	LOAD(&f, 0xb8, 0x34, 0x12, /* mov ax, 1234h */
	     0xe6, 0x10,	   /* out 10h, al */
	     0xe5, 0x20,	   /* in ax, 20h */
	     0xf4);		   /* hlt */
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	assert_int_equal(f.run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(f.run->io.port, 0x10);
	assert_int_equal(f.run->io.size, 1);
	assert_int_equal(f.run->io.count, 1);
	assert_int_equal(((uint8_t *)f.run)[f.run->io.data_offset], 0x34);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	assert_int_equal(f.run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(f.run->io.size, 2);
	memcpy((uint8_t *)f.run + f.run->io.data_offset, "\xcd\xab", 2);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rax, 0xabcd);
	assert_int_equal(regs.rip, FIXTURE_CODE + 8);
	fixture_close(&f);
}

static void registers_round_trip(void **state)
{
	struct vm_fixture f;
	struct kvm_regs regs, regs2;
	struct kvm_sregs sregs, sregs2;
	struct kvm_sregs2 s2, s22;
	struct kvm_debugregs dr = {.db = {1, 2, 3, 4}, .dr6 = 0xffff0ff0, .dr7 = 0x400}, dr2;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	for (unsigned i = 0; i < sizeof(regs) / 8; i++)
		((uint64_t *)&regs)[i] = 0x1111111111111111ull * i;
	regs.rflags = 0x246;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_REGS, &regs), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_REGS, &regs2), 0);
	assert_memory_equal(&regs, &regs2, sizeof(regs));
	assert_int_equal(fixture_vcpu(&f, KVM_GET_SREGS, &sregs), 0);
	assert_int_equal(sregs.cs.selector, 0xf000);
	assert_int_equal(sregs.cs.base, 0xffff0000);
	sregs.cr2 = 0x1234;
	sregs.cr8 = 5;
	sregs.gdt.base = 0x5678;
	sregs.interrupt_bitmap[1] = 1ull << 3;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_SREGS, &sregs2), 0);
	assert_memory_equal(&sregs, &sregs2, sizeof(sregs));
	assert_int_equal(fixture_vcpu(&f, KVM_GET_SREGS2, &s2), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_SREGS2, &s2), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_SREGS2, &s22), 0);
	assert_memory_equal(&s2, &s22, sizeof(s2));
	s2.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID; /* without PAE paging */
	assert_int_equal(fixture_vcpu(&f, KVM_SET_SREGS2, &s2), -EINVAL);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_DEBUGREGS, &dr), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_DEBUGREGS, &dr2), 0);
	assert_int_equal(dr2.db[3], 4);
	dr.dr7 = 1ull << 32;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_DEBUGREGS, &dr), -EINVAL);
	fixture_close(&f);
}

static void impossible_sregs(void **state)
{
	struct vm_fixture f;
	struct kvm_sregs good, s;
	const struct {
		size_t offset;
		uint64_t value;
	} bad[] = {
		{offsetof(struct kvm_sregs, efer), 1 << 10},	   /* LMA without paging */
		{offsetof(struct kvm_sregs, efer), 1ull << 40},
		{offsetof(struct kvm_sregs, cr0), 0x80000010},	   /* PG without PE */
		{offsetof(struct kvm_sregs, cr0), 1 << 29 | 0x10}, /* NW without CD */
		{offsetof(struct kvm_sregs, cr0), 1ull << 32},
		{offsetof(struct kvm_sregs, cr4), 1ull << 40},
		{offsetof(struct kvm_sregs, cr4), 1 << 13},	   /* VMXE: not offered */
		{offsetof(struct kvm_sregs, apic_base), 1},
		{offsetof(struct kvm_sregs, apic_base), 0xfee00400}, /* x2APIC without enable */
	};

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_SREGS, &good), 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		s = good;
		memcpy((uint8_t *)&s + bad[i].offset, &bad[i].value, 8);
		if (fixture_vcpu(&f, KVM_SET_SREGS, &s) != -EINVAL)
			fail_msg("row %u", i);
	}
	assert_int_equal(fixture_vcpu(&f, KVM_GET_SREGS, &s), 0);
	assert_memory_equal(&s, &good, sizeof(s));
	fixture_close(&f);
}

static void vector_state_round_trip(void **state)
{
	struct vm_fixture f;
	struct kvm_fpu fpu = {.fcw = 0x27f, .fsw = 0x3800, .ftwx = 0x81, .mxcsr = 0x1fa0, .last_ip = 0x1234}, fpu2;
	struct kvm_xsave xsave, xsave2;
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{0, 0, 7}}}, xcrs2;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	memset(fpu.xmm, 0x5a, sizeof(fpu.xmm));
	memset(fpu.fpr[3], 0x77, 10);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_FPU, &fpu), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_FPU, &fpu2), 0);
	assert_memory_equal(&fpu, &fpu2, sizeof(fpu));
	assert_int_equal(fixture_vcpu(&f, KVM_GET_XSAVE, &xsave), 0);
	assert_int_equal(xsave.region[0] & 0xffff, 0x27f);
	assert_int_equal(xsave.region[40], 0x5a5a5a5a); /* xmm0 at 160 */
	assert_int_equal(fixture_vcpu(&f, KVM_SET_XSAVE, &xsave), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_XSAVE2, &xsave2), 0);
	assert_memory_equal(&xsave, &xsave2, sizeof(xsave));
	xsave.region[128] |= 1u << 31; /* XSTATE_BV: a component nobody has */
	assert_int_equal(fixture_vcpu(&f, KVM_SET_XSAVE, &xsave), -EINVAL);
	xsave2.region[130] = 1; /* XCOMP_BV: the compacted form is not taken */
	assert_int_equal(fixture_vcpu(&f, KVM_SET_XSAVE, &xsave2), -EINVAL);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_XCRS, &xcrs), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_XCRS, &xcrs2), 0);
	assert_int_equal(xcrs2.xcrs[0].value, 7);
	xcrs.xcrs[0].value = 6; /* x87 is not optional */
	assert_int_equal(fixture_vcpu(&f, KVM_SET_XCRS, &xcrs), -EINVAL);
	xcrs.nr_xcrs = 17;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_XCRS, &xcrs), -EINVAL);
	fixture_close(&f);
}

static void events_round_trip(void **state)
{
	struct vm_fixture f;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events e = {.exception = {.injected = 1, .nr = 14, .has_error_code = 1, .error_code = 2}}, e2;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	e.nmi.masked = 1;
	e.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	e.flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_VCPU_EVENTS, &e2), 0);
	assert_memory_equal(&e, &e2, sizeof(e));
	e.exception.nr = 32;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	e.exception.nr = 2;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	e.exception.nr = 1;
	e.flags = 1u << 31;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	e.flags = KVM_VCPUEVENT_VALID_PAYLOAD; /* not enabled */
	assert_int_equal(fixture_vcpu(&f, KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &cap), 0);
	e.exception.injected = 0;
	e.exception.pending = 1;
	e.exception_has_payload = 1;
	e.exception_payload = 0x4000;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_VCPU_EVENTS, &e2), 0);
	assert_int_equal(e2.exception.pending, 1);
	assert_int_equal(e2.exception_payload, 0x4000);
	fixture_close(&f);
}

static uint64_t cr2_of(struct vm_fixture *f)
{
	struct kvm_sregs sregs;

	assert_int_equal(fixture_vcpu(f, KVM_GET_SREGS, &sregs), 0);
	return sregs.cr2;
}

/* A pending exception with its payload; the user knows of payloads from here on. */
static void pend(struct vm_fixture *f, uint8_t vector, uint64_t payload)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events e = {.exception = {.pending = 1, .nr = vector}, .flags = KVM_VCPUEVENT_VALID_PAYLOAD,
				    .exception_has_payload = 1, .exception_payload = payload};

	assert_int_equal(fixture_vm(f, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(fixture_vcpu(f, KVM_SET_VCPU_EVENTS, &e), 0);
}

/* A payload of 0 is one; it has no effect before delivery, for a user that knows of it, and then once. */
static void payload_at_delivery(void **state)
{
	static const uint16_t vectors[][2] = {[14] = {FIXTURE_CODE + 1, 0}}; /* real mode's #PF: to the HLT */
	struct vm_fixture f;
	struct kvm_vcpu_events e;

	for (uint64_t payload = 0; payload <= 0x4000; payload += 0x4000) {
		fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
		LOAD(&f, 0x90, 0xf4);
		memcpy(f.ram, vectors, sizeof(vectors));
		cpu(&f, 0)->cr2 = 0x1111;
		cpu(&f, 0)->gpr[RSP] = 0x800;
		pend(&f, 14, payload);
		assert_int_equal(fixture_vcpu(&f, KVM_GET_VCPU_EVENTS, &e), 0);
		assert_int_equal(e.exception.pending, 1);
		assert_int_equal(e.exception.injected, 0);
		assert_int_equal(e.exception_has_payload, 1);
		assert_int_equal(e.exception_payload, payload);
		assert_int_equal(cr2_of(&f), 0x1111);
		assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
		assert_int_equal(cr2_of(&f), payload);
		assert_int_equal(fixture_vcpu(&f, KVM_GET_VCPU_EVENTS, &e), 0);
		assert_int_equal(e.exception.pending | e.exception.injected | e.exception_has_payload, 0);
		fixture_close(&f);
	}
}

/* A user that does not know of payloads finds it applied, whatever it reads first; reading twice changes nothing. */
static void payload_not_known(void **state)
{
	struct kvm_enable_cap off = {.cap = KVM_CAP_EXCEPTION_PAYLOAD};
	struct vm_fixture f;
	struct kvm_vcpu_events e;
	struct kvm_debugregs d;

	for (int events_first = 0; events_first < 2; events_first++) {
		fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
		cpu(&f, 0)->cr2 = 0x1111;
		pend(&f, 14, 0x4000);
		assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &off), 0);
		for (int twice = 0; twice < 2; twice++) {
			if (events_first)
				assert_int_equal(fixture_vcpu(&f, KVM_GET_VCPU_EVENTS, &e), 0);
			assert_int_equal(cr2_of(&f), 0x4000);
			assert_int_equal(fixture_vcpu(&f, KVM_GET_VCPU_EVENTS, &e), 0);
			assert_int_equal(e.exception.injected, 1);
			assert_int_equal(e.exception.nr, 14);
		}
		pend(&f, 1, 0x4001);
		assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &off), 0);
		if (events_first)
			assert_int_equal(fixture_vcpu(&f, KVM_GET_VCPU_EVENTS, &e), 0);
		assert_int_equal(fixture_vcpu(&f, KVM_GET_DEBUGREGS, &d), 0);
		assert_int_equal(d.dr6 & 0x400f, 0x4001);
		assert_int_equal(cr2_of(&f), 0x4000);
		fixture_close(&f);
	}
}

static void mp_states(void **state)
{
	struct vm_fixture f;
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_HALTED};

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_MP_STATE, &mp), -EINVAL);
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_MP_STATE, &mp), 0);
	fixture_close(&f);
	fixture_open(&f, FIXTURE_IRQCHIP, 2);
	for (uint32_t s = 0; s <= KVM_MP_STATE_INIT_RECEIVED; s++) {
		mp.mp_state = s;
		assert_int_equal(fixture_vcpu(&f, KVM_SET_MP_STATE, &mp), 0);
		assert_int_equal(fixture_vcpu(&f, KVM_GET_MP_STATE, &mp), 0);
		assert_int_equal(mp.mp_state, s);
	}
	mp.mp_state = 77;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_MP_STATE, &mp), -EINVAL);
	fixture_close(&f);
}

static void cpuid_is_fixed_once_run(void **state)
{
	struct vm_fixture f;
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + 300 * sizeof(list->entries[0]));

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	list->nent = 300;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_CPUID2, list), -E2BIG);
	list->nent = 1;
	assert_int_equal(fixture_vcpu(&f, KVM_GET_CPUID2, list), -E2BIG);
	list->nent = 256;
	assert_int_equal(fixture_vcpu(&f, KVM_GET_CPUID2, list), 0);
	LOAD(&f, 0xf4);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_CPUID2, list), 0); /* the same */
	list->entries[0].ebx ^= 1;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_CPUID2, list), -EINVAL);
	free(list);
	fixture_close(&f);
}

static void interrupts_from_user_space(void **state)
{
	struct vm_fixture f;
	struct kvm_interrupt irq = {.irq = 0x21};
	struct kvm_regs regs;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	LOAD(&f, 0xfb, 0xf4, 0xf4); /* sti; hlt; hlt */
	memcpy(f.ram + 0x21 * 4, "\x00\x30\x00\x00", 4);
	f.ram[0x3000] = 0xcf; /* iret */
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(f.run->if_flag, 1);
	assert_int_equal(f.run->ready_for_interrupt_injection, 1);
	irq.irq = 256;
	assert_int_equal(fixture_vcpu(&f, KVM_INTERRUPT, &irq), -EINVAL);
	irq.irq = 0x21;
	assert_int_equal(fixture_vcpu(&f, KVM_INTERRUPT, &irq), 0);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rip, FIXTURE_CODE + 3);
	LOAD(&f, 0xfb, 0x90, 0x90, 0xf4);
	f.run->request_interrupt_window = 1;
	assert_int_equal(fixture_run(&f), KVM_EXIT_IRQ_WINDOW_OPEN);
	f.run->request_interrupt_window = 0;
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	fixture_close(&f);
	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	assert_int_equal(fixture_vcpu(&f, KVM_INTERRUPT, &irq), -ENXIO);
	fixture_close(&f);
}

static void guest_debugging(void **state)
{
	struct vm_fixture f;
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	struct kvm_translation t = {.linear_address = 0x12345};

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	LOAD(&f, 0x90, 0x90, 0xcc, 0x90, 0xf4);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_GUEST_DEBUG, &debug), 0);
	assert_int_equal(fixture_run(&f), KVM_EXIT_DEBUG);
	assert_int_equal(f.run->debug.arch.pc, FIXTURE_CODE + 1);
	assert_int_equal(f.run->debug.arch.exception, 1);
	debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_GUEST_DEBUG, &debug), 0);
	assert_int_equal(fixture_run(&f), KVM_EXIT_DEBUG);
	assert_int_equal(f.run->debug.arch.pc, FIXTURE_CODE + 2);
	assert_int_equal(f.run->debug.arch.exception, 3);
	assert_int_equal(fixture_vcpu(&f, KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 1);
	assert_int_equal(t.physical_address, 0x12345);
	fixture_close(&f);
}

static void clocks(void **state)
{
	struct vm_fixture f;
	struct kvm_clock_data clock, later;
	uint64_t offset = 12345, got = 0;
	struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	assert_int_equal(fixture_vm(&f, KVM_GET_CLOCK, &clock), 0);
	assert_true(clock.flags & KVM_CLOCK_TSC_STABLE);
	sleep_ms(2);
	assert_int_equal(fixture_vm(&f, KVM_GET_CLOCK, &later), 0);
	assert_true(later.clock >= clock.clock + 2000000);
	clock.clock = 5000000000;
	clock.flags = 0;
	assert_int_equal(fixture_vm(&f, KVM_SET_CLOCK, &clock), 0);
	assert_int_equal(fixture_vm(&f, KVM_GET_CLOCK, &later), 0);
	assert_true(later.clock >= 5000000000 && later.clock < 60000000000);
	clock.flags = 1;
	assert_int_equal(fixture_vm(&f, KVM_SET_CLOCK, &clock), -EINVAL);
	assert_int_equal(fixture_vcpu(&f, KVM_KVMCLOCK_CTRL, NULL), -EINVAL); /* no clock page yet */
	assert_true(fixture_vcpu(&f, KVM_GET_TSC_KHZ, NULL) > 100000);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_TSC_KHZ, (void *)1), -EINVAL);
	assert_int_equal(fixture_vcpu(&f, KVM_HAS_DEVICE_ATTR, &attr), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_DEVICE_ATTR, &attr), 0);
	attr.addr = (uintptr_t)&got;
	assert_int_equal(fixture_vcpu(&f, KVM_GET_DEVICE_ATTR, &attr), 0);
	assert_int_equal(got, offset);
	attr.attr = 9;
	assert_int_equal(fixture_vcpu(&f, KVM_HAS_DEVICE_ATTR, &attr), -ENXIO);
	fixture_close(&f);
}

static void machine_checks(void **state)
{
	struct vm_fixture f;
	uint64_t cap = 10 | 1 << 8;
	struct kvm_x86_mce mce = {.status = 1ull << 63, .bank = 3};

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(fixture_vcpu(&f, KVM_X86_SETUP_MCE, &cap), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_X86_SET_MCE, &mce), 0);
	mce.bank = 10;
	assert_int_equal(fixture_vcpu(&f, KVM_X86_SET_MCE, &mce), -EINVAL);
	cap = 0;
	assert_int_equal(fixture_vcpu(&f, KVM_X86_SETUP_MCE, &cap), -EINVAL);
	cap = 33;
	assert_int_equal(fixture_vcpu(&f, KVM_X86_SETUP_MCE, &cap), -EINVAL);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(system_calls),
		cmocka_unit_test(supported_cpuid_sizes),
		cmocka_unit_test(msr_lists),
		cmocka_unit_test(bad_pointers),
		cmocka_unit_test(vcpu_ids),
		cmocka_unit_test(order_of_creation),
		cmocka_unit_test(a_vm_outlives_its_handle),
		cmocka_unit_test(port_io_and_halt),
		cmocka_unit_test(registers_round_trip),
		cmocka_unit_test(impossible_sregs),
		cmocka_unit_test(vector_state_round_trip),
		cmocka_unit_test(events_round_trip),
		cmocka_unit_test(payload_at_delivery),
		cmocka_unit_test(payload_not_known),
		cmocka_unit_test(mp_states),
		cmocka_unit_test(cpuid_is_fixed_once_run),
		cmocka_unit_test(interrupts_from_user_space),
		cmocka_unit_test(guest_debugging),
		cmocka_unit_test(clocks),
		cmocka_unit_test(machine_checks),
	};

	return RUN_ON_ENGINES(tests);
}
