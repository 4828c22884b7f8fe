/* SPDX-License-Identifier: BSD-2-Clause */
/* See hostsignal.h. */
#include <signal.h>
#include <stddef.h>
#include <ucontext.h>

#include "softkvm/interpret/hostsignal.h"

static void on_sigfpe(int number, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t next = stub_resume(regs[REG_RIP]);

	if (next)
		regs[REG_RIP] = next;
	else
		signal(number, SIG_DFL); /* not ours: it happens again and kills */
}

void hostsignal_install(void)
{
	struct sigaction old, action = {.sa_sigaction = on_sigfpe, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

	sigaction(SIGFPE, NULL, &old);
	if (old.sa_handler == SIG_DFL)
		sigaction(SIGFPE, &action, NULL);
}
