/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A VM of softkvm as a client of the contract makes it: 1 MiB of RAM at 0, interrupt controllers or none, some vCPUs.
 * Its insides can be reached too (fixture.vm->vm, .vcpu[i]->vcpu): see softkvm/api/handle.h.
 */
#ifndef GUISE_TESTS_VM_FIXTURE_H
#define GUISE_TESTS_VM_FIXTURE_H

#include <linux/kvm.h>
#include <stdbool.h>

#include "softkvm/api/handle.h"

enum { FIXTURE_RAM = 1 << 20, FIXTURE_CODE = 0x1000, FIXTURE_MAX_VCPUS = 4 };

enum fixture_irqchip { FIXTURE_NO_IRQCHIP, FIXTURE_IRQCHIP, FIXTURE_SPLIT };

struct vm_fixture {
	struct softkvm *system, *vm, *vcpu[FIXTURE_MAX_VCPUS];
	struct kvm_run *run; /* vCPU 0's */
	uint8_t *ram;
	unsigned vcpu_count;
};

/* The engine of VMs opened from now on (at first the interpreter). false: it is not built in. */
bool fixture_use_engine(const char *name);
/*
 * Two things do not go together with the translator under TSan: the guest's vector state, as TSan's own code uses the
 * registers that it lives in, and asynchronous signals, which TSan holds back until the thread comes by a call or an
 * atomic operation that it knows, while translated code makes neither. True: the test needs one of them, and says so.
 */
bool fixture_tsan_disturbs(const char *what);
/* Fail the test if something does not work. CPUID is what is offered. */
void fixture_open(struct vm_fixture *f, enum fixture_irqchip irqchip, unsigned vcpu_count);
void fixture_close(struct vm_fixture *f);

/* ioctls: the result, or -errno. */
long fixture_vm(struct vm_fixture *f, unsigned long request, const void *arg);
long fixture_vcpu(struct vm_fixture *f, unsigned long request, const void *arg); /* vCPU 0 */
long fixture_slot(struct vm_fixture *f, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *hva);

/* Put code at FIXTURE_CODE; vCPU 0 will run it in real mode, flags as given. */
void fixture_load(struct vm_fixture *f, const void *code, size_t size, uint64_t rflags);
/* KVM_RUN on vCPU 0 must return 0; its exit reason. */
uint32_t fixture_run(struct vm_fixture *f);

#define LOAD(f, ...) fixture_load(f, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), 2)

/* Inside */
static inline struct vcpu *cpu(struct vm_fixture *f, unsigned i)
{
	return f->vcpu[i]->vcpu;
}

/* Run a group of tests on the interpreter and, where it is built in, on the translator: how many failed. */
#define RUN_ON_ENGINES(tests)                                                                                        \
	((fixture_use_engine("interpret") ? cmocka_run_group_tests_name("interpret", tests, NULL, NULL) : 1) +       \
	 (fixture_use_engine("translate") ? cmocka_run_group_tests_name("translate", tests, NULL, NULL) : 0))

uint64_t wall_ns(void);
void sleep_ms(unsigned ms);

#endif
