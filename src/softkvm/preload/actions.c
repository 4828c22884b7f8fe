/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Signals. The kernel's KVM_RUN returns -EINTR when a signal is pending, and the program's handler runs on the way out, with
 * nothing of KVM's left half done: it may as well end the thread, or siglongjmp() away. Here the signal interrupts softkvm's own
 * code. So every handler that the program sets is called through a wrapper, which ends KVM_RUN, blocks the signal, sends
 * it again, and returns; the handler runs at the end of our call, when it is unblocked (handlers_release()). That holds
 * for all that is done under handlers_hold(). A signal that only KVM_SET_SIGNAL_MASK lets through is blocked again when KVM_RUN
 * returns: it stays pending, and the program will ask for it.
 *
 * softkvm itself wants host faults in translated code (SIGSEGV and its like), and SIGILL (cpuid.c). Its sigaction() calls come to
 * us too, and are told apart by their caller's address. Its handler stays installed; what it does not know it passes to
 * the action it found before, which is the program's current one by way of pass_on(). As such a fault kills where it is
 * blocked, the program's masks leave these signals open, and it is told what it asked for.
 */
#include "softkvm/preload/preload.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static struct sigaction wanted[NSIG]; /* the program's */
static bool asked[NSIG];	      /* wanted[] is what it was before the program's first sigaction(), or later */
static bool engine_has[NSIG];	      /* softkvm's handler is installed: the program's is reached through pass_on() */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static _Thread_local volatile unsigned held;	   /* handlers_hold()s that are not released */
static _Thread_local int held_cancel_type;
static _Thread_local volatile uint64_t waiting;	   /* handlers that wait for handlers_release(): bit n - 1 for signal n */
static _Thread_local uint64_t blocked_for_program; /* of softkvm's signals: the program believes that they are blocked */

static uint64_t signal_bit(int number)
{
	return 1ull << (number - 1);
}

static bool is_function(const struct sigaction *a)
{
	return a->sa_handler != SIG_DFL && a->sa_handler != SIG_IGN;
}

/* Raised by an instruction: it cannot wait. */
static bool is_fault(int number, const siginfo_t *info)
{
	return info->si_code > 0 && (number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL || number == SIGTRAP);
}

/* --- handlers --- */

/* As the kernel: only the handler goes, flags and mask stay. */
static void reset_once_called(int number)
{
	struct sigaction def = {.sa_handler = SIG_DFL};

	wanted[number].sa_handler = SIG_DFL;
	if (!engine_has[number])
		NEXT(sigaction)(number, &def, NULL);
}

static void call(int number, siginfo_t *info, void *context)
{
	struct sigaction a = wanted[number];

	if (!is_function(&a)) /* changed meanwhile */
		return;
	if (a.sa_flags & (int)SA_RESETHAND)
		reset_once_called(number);
	if (a.sa_flags & SA_SIGINFO)
		a.sa_sigaction(number, info, context);
	else
		a.sa_handler(number);
}

/* Until handlers_release(), or until the program unblocks it, as it is blocked outside of KVM_RUN. */
static void leave_pending(int number, siginfo_t *info, void *context, bool blocked_outside)
{
	sigaddset(&((ucontext_t *)context)->uc_sigmask, number);
	if (!blocked_outside)
		waiting |= signal_bit(number);
	if (syscall(SYS_rt_tgsigqueueinfo, own_process(), gettid(), number, info))
		tgkill(own_process(), gettid(), number); /* its queue is full, or somebody forbids the call */
}

static void wrapper(int number, siginfo_t *info, void *context)
{
	int saved = errno;
	bool blocked_outside = softkvm_signal_arrived(number);

	if (!is_fault(number, info) && (blocked_outside || held))
		leave_pending(number, info, context, blocked_outside);
	else
		call(number, info, context);
	errno = saved;
}

void handlers_hold(void)
{
	if (!held++)
		pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &held_cancel_type);
}

bool handlers_cancel_at_once(void)
{
	return held_cancel_type == PTHREAD_CANCEL_ASYNCHRONOUS;
}

/* Cancellation and handlers may both leave from here for good: nothing comes after the latter. */
void handlers_release(void)
{
	uint64_t now;
	sigset_t set;

	if (--held)
		return;
	if (held_cancel_type != PTHREAD_CANCEL_DEFERRED)
		pthread_setcanceltype(held_cancel_type, NULL);
	if (!waiting)
		return;
	sigemptyset(&set);
	now = waiting;
	waiting = 0;
	for (int number = 1; number < NSIG; number++)
		if (now & signal_bit(number))
			sigaddset(&set, number);
	NEXT(pthread_sigmask)(SIG_UNBLOCK, &set, NULL);
}

/* --- signals that softkvm has --- */

/* A host fault, or such a signal sent by somebody, that is not softkvm's: as if its handler were not there. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	struct sigaction a = wanted[number], def = {.sa_handler = SIG_DFL};

	if (is_function(&a)) {
		if (!(a.sa_flags & SA_NODEFER))
			sigaddset(&a.sa_mask, number);
		sigdelset(&a.sa_mask, SIGILL); /* cpuid.c: the handler may execute CPUID */
		NEXT(pthread_sigmask)(SIG_BLOCK, &a.sa_mask, NULL); /* until the return from the signal */
		wrapper(number, info, context);
	} else if (is_fault(number, info)) {
		NEXT(sigaction)(number, &def, NULL); /* it repeats, and kills as it should */
	} else if (a.sa_handler == SIG_DFL) {
		NEXT(sigaction)(number, &def, NULL);
		tgkill(own_process(), gettid(), number);
	}
}

/* softkvm installs more than one handler for a signal, each calling the one before: the first of them finds pass_on(). */
static int set_engine_action(int number, const struct sigaction *action, struct sigaction *old)
{
	struct sigaction installed;

	if (old && !engine_has[number])
		*old = (struct sigaction){.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO};
	else if (old)
		NEXT(sigaction)(number, NULL, old);
	if (!action)
		return 0;
	if (!engine_has[number])
		program_sigaction(number, NULL, NULL); /* what it inherited */
	engine_has[number] = true;
	installed = *action;
	installed.sa_flags |= SA_ONSTACK; /* the program's may need it: for a stack that is full */
	return NEXT(sigaction)(number, &installed, NULL);
}

int program_sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	struct sigaction installed;
	int ret = 0;

	handlers_hold(); /* they may call us, too */
	pthread_mutex_lock(&lock);
	if (!asked[number]) {
		NEXT(sigaction)(number, NULL, &wanted[number]);
		asked[number] = true;
	}
	if (old)
		*old = wanted[number];
	if (action) {
		struct sigaction before = wanted[number];

		installed = *action;
		wanted[number] = *action; /* before the handler can run */
		if (is_function(action)) {
			installed.sa_sigaction = wrapper;
			installed.sa_flags = (installed.sa_flags | SA_SIGINFO) & ~(int)SA_RESETHAND; /* it may come twice */
		}
		if (!engine_has[number])
			ret = NEXT(sigaction)(number, &installed, NULL);
		if (ret)
			wanted[number] = before;
	}
	pthread_mutex_unlock(&lock);
	handlers_release();
	return ret;
}

/* --- masks --- */

static uint64_t softkvms_signals(const sigset_t *set)
{
	uint64_t found = 0;

	for (int number = 1; number < NSIG; number++)
		if (engine_has[number] && sigismember(set, number) == 1)
			found |= signal_bit(number);
	return found;
}

static void remember_blocked(int how, uint64_t numbers)
{
	if (how == SIG_SETMASK)
		blocked_for_program = numbers;
	else if (how == SIG_BLOCK)
		blocked_for_program |= numbers;
	else
		blocked_for_program &= ~numbers;
}

int program_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	uint64_t before = blocked_for_program, numbers = set ? softkvms_signals(set) : 0;
	sigset_t open;
	int err;

	if (numbers && how != SIG_UNBLOCK) {
		open = *set;
		for (int number = 1; number < NSIG; number++)
			if (numbers & signal_bit(number))
				sigdelset(&open, number);
		err = NEXT(pthread_sigmask)(how, &open, old);
	} else {
		err = NEXT(pthread_sigmask)(how, set, old);
	}
	if (err)
		return err;
	if (set)
		remember_blocked(how, numbers);
	for (int number = 1; old && before && number < NSIG; number++)
		if (before & signal_bit(number))
			sigaddset(old, number);
	return 0;
}

EXPORT int pthread_sigmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
	if (is_ours(__builtin_return_address(0)))
		return NEXT(pthread_sigmask)(how, set, old);
	return program_sigmask(how, set, old);
}

EXPORT int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
	int err = program_sigmask(how, set, old);

	return err ? failed(-err) : 0;
}

/* --- actions --- */

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
	if (is_ours(__builtin_return_address(0)))
		return NEXT(signal)(number, handler); /* a fault that nobody wants: it repeats, and kills */
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
