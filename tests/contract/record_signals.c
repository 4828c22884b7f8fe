// SPDX-License-Identifier: BSD-2-Clause
/*
 * Signals that come while a vCPU runs, and what their handlers may do then: KVM_RUN is over when they run, so they may use the
 * vCPU, change memory, leave by siglongjmp() or pthread_exit(). Threads that are cancelled. The program's own host faults.
 */
#include "record.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

GUEST(count, "1: incl %eax; movl %eax, 0x5000; jmp 1b");
GUEST(divide, "xorl %ecx, %ecx; divl %ecx; hlt");

enum { COUNTER = 0x5000 };

static const char *what; /* the case, which begins every key */

static const char *key_of(const char *fact)
{
	static char key[128];

	snprintf(key, sizeof(key), "signals, %s: %s", what, fact);
	return key;
}

/* --- one thread runs the vCPU, this one waits until it does, and acts --- */

enum deed { RETURN, JUMP, EXIT, READ_REGISTERS, DROP_MEMORY, SET_ACTION };

static struct machine m;
static enum deed deed;
static volatile int handled, reads;
static sigjmp_buf way_out;

static void handler(int number)
{
	struct sigaction again = {.sa_handler = handler};
	struct kvm_regs regs = {0};

	handled++;
	switch (deed) {
	case JUMP:
		siglongjmp(way_out, 1);
	case EXIT:
		pthread_exit((void *)5);
	case READ_REGISTERS:
		reads = call(m.vcpu, KVM_GET_REGS, &regs);
		break;
	case DROP_MEMORY:
		reads = madvise(m.ram + 0x6000, 4096, MADV_DONTNEED) | munmap(m.ram + 0x7000, 4096);
		break;
	case SET_ACTION:
		reads = sigaction(SIGUSR1, &again, NULL);
		break;
	case RETURN:
		break;
	}
}

static void *runner(void *arg)
{
	int type = arg ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, result;

	pthread_setcanceltype(type, NULL);
	if (sigsetjmp(way_out, 1))
		return (void *)7;
	result = machine_run(&m);
	pthread_testcancel();
	return (void *)(intptr_t)result;
}

static uint32_t counter(void)
{
	return *(volatile uint32_t *)(m.ram + COUNTER);
}

static void wait_for_guest(void)
{
	for (uint32_t before = counter(), i = 0; counter() == before && i < 20000; i++)
		usleep(1000);
}

/* The guest was between two instructions: EAX and what it stored last are at most one apart. */
static void say_consistent(void)
{
	struct kvm_regs regs = {0};

	say_result(key_of("KVM_GET_REGS"), call(m.vcpu, KVM_GET_REGS, &regs));
	say(key_of("registers and memory agree"), "%d", (uint32_t)regs.rax - counter() <= 1);
}

static void say_end(const char *fact, pthread_t thread)
{
	void *end;

	pthread_join(thread, &end);
	if (end == PTHREAD_CANCELED)
		say(key_of(fact), "cancelled");
	else
		say_result(key_of(fact), (int)(intptr_t)end);
}

static void begin(pthread_t *thread, void *arg)
{
	m = machine_new(NO_IRQCHIP);
	LOAD(&m, count);
	handled = reads = 0;
	pthread_create(thread, NULL, runner, arg);
	wait_for_guest();
}

/* Another thread goes on with the vCPU. */
static void say_goes_on(void)
{
	pthread_t thread;
	uint32_t before = counter();

	deed = RETURN;
	pthread_create(&thread, NULL, runner, NULL);
	wait_for_guest();
	pthread_kill(thread, SIGUSR1);
	say_end("another thread goes on", thread);
	say(key_of("and the guest did"), "%d", counter() != before);
}

static void by_signal(enum deed action_of_handler, const char *name, int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
	pthread_t thread;

	what = name;
	sigaction(SIGUSR1, &action, NULL);
	deed = action_of_handler;
	begin(&thread, NULL);
	pthread_kill(thread, SIGUSR1);
	say_end("the thread's end", thread);
	say(key_of("handlers that ran, and what they got"), "%d %d", handled, reads);
	sigaction(SIGUSR1, NULL, &action);
	say(key_of("the handler afterwards"), "%s", action.sa_handler == handler ? "the same" : "another");
	action = (struct sigaction){.sa_handler = handler};
	sigaction(SIGUSR1, &action, NULL);
	say_consistent();
	say_goes_on();
	machine_free(&m);
}

/* --- cancellation --- */

static void by_cancel(bool at_once)
{
	pthread_t thread;

	what = at_once ? "cancelled at once" : "cancelled when it is out";
	begin(&thread, at_once ? &m : NULL);
	pthread_cancel(thread);
	if (!at_once) {
		usleep(20000);
		deed = RETURN;
		pthread_kill(thread, SIGUSR1);
	}
	say_end("the thread's end", thread);
	say_consistent();
	say_goes_on();
	machine_free(&m);
}

_Noreturn static void *late_runner(void *arg)
{
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		call(kvm_fd, KVM_CHECK_EXTENSION, NULL);
}

/* Threads that are cancelled in the midst of other requests: nothing stays locked. */
static void cancelled_anywhere(void)
{
	pthread_t thread;
	unsigned done = 0;

	for (unsigned k = 0; k < 50; k++) {
		void *end;

		pthread_create(&thread, NULL, late_runner, NULL);
		usleep(k * 20);
		pthread_cancel(thread);
		pthread_join(thread, &end);
		done += end == PTHREAD_CANCELED;
	}
	what = "cancelled in requests";
	say(key_of("threads"), "%u", done);
	say_result(key_of("the next request"), call(kvm_fd, KVM_CHECK_EXTENSION, NULL));
}

/* --- the program's own faults, once there is a VM --- */

static volatile int faults;
static int fault_code;

static void on_fault(int number, siginfo_t *info, void *context)
{
	faults++;
	fault_code = info->si_code;
	siglongjmp(way_out, 1);
}

static void on_sent(int number, siginfo_t *info, void *context)
{
	sigset_t now;

	pthread_sigmask(SIG_SETMASK, NULL, &now);
	faults++;
	fault_code = info->si_code * 100 + sigismember(&now, SIGSEGV) * 10 + sigismember(&now, SIGUSR2);
}

static void say_faults(int number, const char *name)
{
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, old, now;
	void *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	what = name;
	sigaction(number, &action, &old);
	for (volatile int k = 0; k < 3; k++)
		if (!sigsetjmp(way_out, 1)) {
			if (number == SIGILL)
				__asm__ volatile("ud2");
			else
				*(volatile char *)nowhere = 1;
		}
	say(key_of("faults"), "%d code %d", faults, fault_code);
	action.sa_sigaction = on_sent;
	sigaddset(&action.sa_mask, SIGUSR2);
	sigaction(number, &action, NULL);
	raise(number);
	say(key_of("one that is sent"), "%d code %d", faults, fault_code);
	action.sa_flags |= (int)SA_RESETHAND;
	sigaction(number, &action, NULL);
	raise(number);
	sigaction(number, NULL, &now);
	say(key_of("the handler after it ran once"), "%s", now.sa_handler == SIG_DFL ? "none" : "one");
	now.sa_handler = SIG_IGN;
	sigaction(number, &now, NULL);
	raise(number);
	sigaction(number, &old, NULL);
	say(key_of("after one that is ignored"), "%d", faults);
	munmap(nowhere, 4096);
}

/* Every signal is blocked, as in many VMMs' vCPU threads, after the vCPU ran once; a guest's fault may be a host's. */
static void blocked_faults(void)
{
	sigset_t all, old, now;

	what = "everything is blocked";
	m = machine_new(NO_IRQCHIP);
	LOAD(&m, divide);
	say_result(key_of("guest's division"), machine_run(&m));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	LOAD(&m, divide);
	say_result(key_of("and then"), machine_run(&m));
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &now, 8);
	say(key_of("the mask by number"), "%d%d%d", sigismember(&now, SIGSEGV), sigismember(&now, SIGFPE), sigismember(&now, SIGUSR1));
	sigemptyset(&all);
	sigaddset(&all, SIGFPE);
	sigprocmask(SIG_UNBLOCK, &all, &now);
	say(key_of("the mask"), "%d%d%d", sigismember(&now, SIGSEGV), sigismember(&now, SIGFPE), sigismember(&now, SIGUSR1));
	sigprocmask(SIG_SETMASK, &old, &now);
	say(key_of("the mask without one"), "%d%d%d", sigismember(&now, SIGSEGV), sigismember(&now, SIGFPE), sigismember(&now, SIGUSR1));
	machine_free(&m);
}

void record_signals(void)
{
	by_signal(RETURN, "handler returns", 0);
	by_signal(JUMP, "handler jumps", 0);
	by_signal(EXIT, "handler ends the thread", SA_RESTART);
	by_signal(READ_REGISTERS, "handler reads registers", 0);
	by_signal(DROP_MEMORY, "handler changes memory", 0);
	by_signal(SET_ACTION, "handler sets the action", 0);
	by_signal(RETURN, "handler is for once", (int)SA_RESETHAND);
	by_cancel(true);
	by_cancel(false);
	cancelled_anywhere();
	blocked_faults();
	m = machine_new(NO_IRQCHIP);
	say_faults(SIGSEGV, "SIGSEGV");
	say_faults(SIGILL, "SIGILL");
	machine_free(&m);
}
