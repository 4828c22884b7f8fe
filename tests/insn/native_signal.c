/* SPDX-License-Identifier: BSD-2-Clause */
/* See native_signal.h. Signals that are not expected go to whoever had them before: the engine under test. */
#include "native_signal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { STACK_SIZE = 1 << 16, FP_SIZE = 832 };

void native_exit_fault(void);

static struct sigaction before[NSIG];
static struct native_fault *expected;
static uint64_t *to_gpr, *to_rflags, *to_rip;
static void *to_fp;

static void take_registers(const greg_t *g)
{
	static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				      REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

	for (int k = 0; k < 16; k++)
		to_gpr[k] = g[order[k]];
	*to_rflags = g[REG_EFL];
	*to_rip = g[REG_RIP];
	expected->vector = g[REG_TRAPNO];
	expected->error = g[REG_ERR];
	expected->cr2 = g[REG_CR2];
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;

	/* AC may be the guest's */
	__asm__ volatile("pushfq\n\tandl $~0x40000, (%%rsp)\n\tpopfq" : : : "cc", "memory");
	if (expected) {
		take_registers(g);
		memcpy(to_fp, uc->uc_mcontext.fpregs, FP_SIZE);
		g[REG_RIP] = (greg_t)(uintptr_t)native_exit_fault;
		g[REG_EFL] = 0x202;
		return;
	}
	if (before[number].sa_flags & SA_SIGINFO)
		before[number].sa_sigaction(number, info, context);
	else
		signal(number, SIG_DFL);
}

int native_signal_init(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	struct sigaction action = {.sa_sigaction = on_fault,
				   .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	static uint8_t memory[STACK_SIZE];
	stack_t stack = {.ss_sp = memory, .ss_size = STACK_SIZE};

	if (sigaltstack(&stack, NULL))
		return -errno;
	for (unsigned k = 0; k < sizeof(signals) / sizeof(signals[0]); k++)
		if (sigaction(signals[k], &action, &before[signals[k]]))
			return -errno;
	return 0;
}

void native_signal_expect(struct native_fault *fault, uint64_t *gpr, uint64_t *rflags, uint64_t *rip,
			  void *fp)
{
	to_gpr = gpr;
	to_rflags = rflags;
	to_rip = rip;
	to_fp = fp;
	expected = fault;
}
