/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Signals. The kernel's KVM_RUN returns -EINTR when a signal is pending, and the program's handler runs on the way out.
 * Here the handler interrupts softkvm's own code and must end KVM_RUN afterwards: so every handler that the program sets is
 * called through a wrapper, which first tells softkvm. A signal that only KVM_SET_SIGNAL_MASK lets through is not handled
 * at all: it ends KVM_RUN and stays pending.
 *
 * softkvm itself wants host faults in translated code (SIGSEGV and its like). Its sigaction() calls come to us too, and are
 * told apart by their caller's address. Its handler stays installed; what it does not know it passes to the
 * action it found before, which is the program's current one by way of pass_on().
 */
#include "softkvm/preload/preload.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static struct sigaction wanted[NSIG]; /* the program's */
static bool engine_has[NSIG];	      /* softkvm's handler is installed: the program's is reached through pass_on() */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool is_function(const struct sigaction *a)
{
	return a->sa_flags & SA_SIGINFO || (a->sa_handler != SIG_DFL && a->sa_handler != SIG_IGN);
}

static void call(int number, siginfo_t *info, void *context)
{
	struct sigaction a = wanted[number];

	if (a.sa_flags & SA_SIGINFO)
		a.sa_sigaction(number, info, context);
	else
		a.sa_handler(number);
}

/* It is blocked again when KVM_RUN returns, and the program will ask for it then. */
static void leave_pending(int number, siginfo_t *info, void *context)
{
	sigaddset(&((ucontext_t *)context)->uc_sigmask, number);
	syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), number, info);
}

static void wrapper(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	if (softkvm_signal_arrived(number))
		leave_pending(number, info, context);
	else
		call(number, info, context);
	errno = saved;
}

/* A host fault that is not softkvm's: as if its handler were not there. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	struct sigaction def = {.sa_handler = SIG_DFL};

	if (is_function(&wanted[number]))
		wrapper(number, info, context);
	else
		NEXT(sigaction)(number, &def, NULL); /* the fault repeats, and kills as it should */
}

/* softkvm installs more than one handler for a signal, each calling the one before: the first of them finds pass_on(). */
static int set_engine_action(int number, const struct sigaction *action, struct sigaction *old)
{
	if (old && !engine_has[number])
		*old = (struct sigaction){.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO};
	else if (old)
		NEXT(sigaction)(number, NULL, old);
	if (!action)
		return 0;
	engine_has[number] = true;
	return NEXT(sigaction)(number, action, NULL);
}

int program_sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	struct sigaction installed;
	int ret = 0;

	pthread_mutex_lock(&lock);
	if (old)
		*old = wanted[number];
	if (action) {
		struct sigaction before = wanted[number];

		installed = *action;
		wanted[number] = *action; /* before the handler can run */
		if (is_function(action)) {
			installed.sa_sigaction = wrapper;
			installed.sa_flags |= SA_SIGINFO;
		}
		if (!engine_has[number])
			ret = NEXT(sigaction)(number, &installed, NULL);
		if (ret)
			wanted[number] = before;
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

EXPORT int sigaction(int number, const struct sigaction *restrict action, struct sigaction *restrict old)
{
	if (number <= 0 || number >= NSIG)
		return NEXT(sigaction)(number, action, old); /* EINVAL */
	if (is_ours(__builtin_return_address(0)))
		return set_engine_action(number, action, old);
	return program_sigaction(number, action, old);
}

static sighandler_t set_handler(int number, sighandler_t handler, int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags}, old;

	if (number <= 0 || number >= NSIG) {
		errno = EINVAL;
		return SIG_ERR;
	}
	return program_sigaction(number, &action, &old) ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t signal(int number, sighandler_t handler)
{
	return set_handler(number, handler, SA_RESTART);
}

sighandler_t bsd_signal(int number, sighandler_t handler);
EXPORT sighandler_t bsd_signal(int number, sighandler_t handler)
{
	return set_handler(number, handler, SA_RESTART);
}

/* signal() of programs that ask for System V's or X/Open's. */
sighandler_t __sysv_signal(int number, sighandler_t handler);
EXPORT sighandler_t __sysv_signal(int number, sighandler_t handler)
{
	return set_handler(number, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

EXPORT sighandler_t sysv_signal(int number, sighandler_t handler)
{
	return set_handler(number, handler, (int)(SA_RESETHAND | SA_NODEFER));
}
