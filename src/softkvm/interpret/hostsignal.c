/* SPDX-License-Identifier: BSD-2-Clause */
/* See hostsignal.h. A SIGFPE that is not a stub's goes to whoever had the signal before. */
#include <signal.h>
#include <stddef.h>
#include <ucontext.h>

#include "softkvm/interpret/hostsignal.h"

static struct sigaction before;

static void pass_on(int number, siginfo_t *info, void *context)
{
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(number, info, context);
	else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)
		signal(number, SIG_DFL); /* it happens again and kills */
	else
		before.sa_handler(number);
}

static void on_sigfpe(int number, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t next = stub_resume(regs[REG_RIP]);

	if (next)
		regs[REG_RIP] = next;
	else
		pass_on(number, info, context);
}

void hostsignal_install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigfpe,
				   .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

	struct sigaction old;

	sigaction(SIGFPE, NULL, &old);
	if (old.sa_flags & SA_SIGINFO && old.sa_sigaction == on_sigfpe)
		return;
	before = old;
	sigaction(SIGFPE, &action, NULL);
}
