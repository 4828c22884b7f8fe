// SPDX-License-Identifier: BSD-2-Clause
/*
 * The handler of SIGSEGV, SIGFPE and SIGBUS. Faults that are not the translated code's are bugs of this program and get the
 * action that was installed before.
 */
#include <errno.h>
#include <signal.h>
#include <ucontext.h>

#include "softkvm/interpret/hostsignal.h"
#include "softkvm/translate/fault.h"

static struct sigaction previous[3];
static const int signals[3] = { SIGSEGV, SIGFPE, SIGBUS };

static __thread bool chained; /* in a handler that we called: if it calls us back, nobody wants the fault */

static void chain(int sig, siginfo_t *info, void *context, const struct sigaction *old)
{
	if (!chained && old->sa_flags & SA_SIGINFO && old->sa_sigaction) {
		chained = true;
		old->sa_sigaction(sig, info, context);
		chained = false;
		return;
	}
	if (!chained && old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
		old->sa_handler(sig);
		return;
	}
	signal(sig, SIG_DFL); /* the instruction faults again and ends the process */
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;

	if (__builtin_frame_address(0) == (char *)context - 2 * sizeof(void *))
		chained = false; /* the kernel calls: a handler that we called has left by siglongjmp() */
	uint64_t next = sig == SIGFPE ? stub_resume((uint64_t)r[REG_RIP]) : 0;

	if (next) {
		r[REG_RIP] = (greg_t)next;
		return;
	}
	if (fault_redirect((uint64_t *)&r[REG_RIP], (uint64_t *)&r[REG_RCX], (uint64_t)r[REG_EFL]))
		return;
	for (unsigned k = 0; k < 3; k++)
		if (signals[k] == sig)
			chain(sig, info, context, &previous[k]);
}

/* At each VM's creation: who embeds us may have taken the signals back since. */
int signals_init(void)
{
	struct sigaction act, now;

	act.sa_sigaction = on_signal;
	act.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
	sigemptyset(&act.sa_mask);
	for (unsigned k = 0; k < 3; k++) {
		if (sigaction(signals[k], NULL, &now))
			return -errno;
		if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_signal)
			continue;
		previous[k] = now;
		if (sigaction(signals[k], &act, NULL))
			return -errno;
	}
	return 0;
}
