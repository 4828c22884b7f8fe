/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What /dev/kvm answers, as lines of text "key = value": run on the kernel's KVM and on softkvm, and compared line by line
 * (tests/contract/compare.py). Each part records one side of the contract; every call is made by plain ioctl(2).
 */
#ifndef GUISE_TESTS_RECORD_H
#define GUISE_TESTS_RECORD_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

/* One line: key = value. */
void say(const char *key, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* ioctl, its result or -errno; as text in say_result(). */
int call(int fd, unsigned long request, const void *arg);
int call_number(int fd, unsigned long request, unsigned long arg);
void say_result(const char *key, int result);
_Noreturn void give_up(const char *what);

enum irqchip { NO_IRQCHIP, SPLIT_IRQCHIP, FULL_IRQCHIP };
enum { RAM_SIZE = 1 << 20, CODE_GPA = 0x1000, STACK_GPA = 0x8000, END_GPA = 0x7f0 };

/* A VM with RAM at 0..1 MiB in slot 0 and one vCPU with all of the offered CPUID, in real mode; every interrupt ends in HLT. */
struct machine {
	int vm, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
};

extern int kvm_fd;
extern const char *const irqchip_names[];
int new_vm(enum irqchip irqchip);
struct machine machine_new(enum irqchip irqchip);
void machine_free(struct machine *m);
/* Begin at 0:CODE_GPA with these bytes of 16-bit code. */
void machine_load(struct machine *m, const void *code, unsigned size);
/* KVM_RUN: 0 or -errno. */
int machine_run(struct machine *m);

#define GUEST(name, text)                                                                          \
	extern const uint8_t name[], name##_end[];                                                 \
	__asm__(".pushsection .rodata\n.code16\n" #name ":\n" text "\n" #name "_end:\n.code64\n.popsection")
#define LOAD(m, name) machine_load(m, name, (unsigned)(name##_end - name))

void record_system(void);   /* capabilities, CPUID, MSR lists */
void record_requests(void); /* every request with senseless arguments, on every kind of descriptor */
void record_rules(void);    /* what each request refuses, and in which order it must be used */
void record_state(void);    /* a new vCPU's registers */
void record_exits(void);    /* struct kvm_run after guest code */
void record_ways(void);     /* other calls than open() and ioctl(), signals, exec */
void record_msrs(void);     /* MSRs of the user's, registers in the run area, features held to CPUID */
void record_signals(void);  /* what handlers may do, cancellation, the program's own faults */
void record_mappings(void); /* memory under a slot that is unmapped, protected, moved, dropped */

#endif
