/* SPDX-License-Identifier: BSD-2-Clause */
#include "softkvm/api/run_mask.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct run_mask {
	sigset_t inside, outside;
};

/* Faults of guest instructions that run on the host: blocked, they would end the process. */
static const int engine_signals[] = {SIGSEGV, SIGFPE, SIGBUS};

struct run_mask *run_mask_new(uint64_t blocked)
{
	struct run_mask *mask = calloc(1, sizeof(*mask));

	if (!mask)
		return NULL;
	for (int sig = 1; sig <= 64; sig++)
		if (blocked >> (sig - 1) & 1)
			sigaddset(&mask->inside, sig);
	for (unsigned k = 0; k < sizeof(engine_signals) / sizeof(engine_signals[0]); k++)
		sigdelset(&mask->inside, engine_signals[k]);
	return mask;
}

void run_mask_allow_engine_signals(void)
{
	static __thread bool done;
	sigset_t set;

	if (done)
		return;
	sigemptyset(&set);
	for (unsigned k = 0; k < sizeof(engine_signals) / sizeof(engine_signals[0]); k++)
		sigaddset(&set, engine_signals[k]);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	done = true;
}

bool run_mask_signal_waits(const struct run_mask *mask)
{
	sigset_t pending;

	sigpending(&pending);
	for (int sig = 1; sig < NSIG; sig++)
		if (sigismember(&pending, sig) == 1 && sigismember(&mask->inside, sig) == 0)
			return true;
	return false;
}

void run_mask_enter(struct run_mask *mask)
{
	pthread_sigmask(SIG_SETMASK, &mask->inside, &mask->outside);
}

void run_mask_leave(struct run_mask *mask)
{
	pthread_sigmask(SIG_SETMASK, &mask->outside, NULL);
}

bool run_mask_blocks_outside(const struct run_mask *mask, int number)
{
	return sigismember(&mask->outside, number) == 1;
}
