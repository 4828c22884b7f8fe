/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One thread sleeps until the earliest alarm of a VM. Who sets an alarm wakes it only if the alarm is earlier than the
 * time up to which it sleeps. The handshake, sequentially consistent on both sides:
 *
 *	setter: alarm = t; if (t < wake_at) { sequence++; wake }
 *	thread: wake_at = "always"; read sequence; read all alarms; wake_at = earliest; sleep unless sequence moved
 *
 * Whatever alarm the thread did not see was set after it said "always" or is later than wake_at. A halted vCPU sleeps
 * until its own alarm itself and is left alone here.
 */
#include "softkvm/irqchip/timer.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/thread.h"
#include "softkvm/irqchip/chip.h"
#include "softkvm/irqchip/lapic.h"
#include "softkvm/irqchip/tsc.h"

enum { SLACK_NS = 1000, FAR_FUTURE_S = 3600 };

struct timers {
	struct vm *vm;
	pthread_t thread;
	_Atomic uint64_t wake_at;
	_Atomic uint32_t sequence;
	_Atomic bool stop;
};

static void wake(struct timers *t)
{
	atomic_fetch_add(&t->sequence, 1);
	syscall(SYS_futex, &t->sequence, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

static void sleep_until(struct timers *t, uint32_t sequence, uint64_t deadline_ns)
{
	struct timespec ts;

	if (deadline_ns == UINT64_MAX)
		deadline_ns = monotonic_ns() + FAR_FUTURE_S * 1000000000ull;
	ts.tv_sec = (time_t)(deadline_ns / 1000000000);
	ts.tv_nsec = (long)(deadline_ns % 1000000000);
	syscall(SYS_futex, &t->sequence, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, sequence, &ts, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

/* Kick if due; otherwise say when. The vCPU sets the next alarm when it has looked at its timer. */
static uint64_t check_vcpu(struct vcpu *v, uint64_t now)
{
	uint64_t alarm;

	if (!v->lapic || atomic_load(&v->run_state) == VCPU_HALTED)
		return UINT64_MAX;
	alarm = atomic_load(&v->lapic->alarm_ns);
	if (alarm > now)
		return alarm;
	if (atomic_compare_exchange_strong(&v->lapic->alarm_ns, &alarm, UINT64_MAX))
		vcpu_kick(v, VREQ_TIMER);
	return UINT64_MAX;
}

static uint64_t earliest_alarm(struct vm *vm)
{
	uint64_t now = monotonic_ns(), earliest = pit_alarm_ns(vm);
	unsigned count = atomic_load(&vm->vcpu_count);

	for (unsigned i = 0; i < count; i++) {
		uint64_t alarm = check_vcpu(vm->vcpu[i], now);

		if (alarm < earliest)
			earliest = alarm;
	}
	return earliest;
}

static void *timer_thread(void *arg)
{
	struct timers *t = arg;
	uint32_t sequence;
	uint64_t earliest;

	pthread_setname_np(pthread_self(), "guise-timer");
	prctl(PR_SET_TIMERSLACK, SLACK_NS);
	while (!atomic_load(&t->stop)) {
		atomic_store(&t->wake_at, UINT64_MAX);
		sequence = atomic_load(&t->sequence);
		pit_poll(t->vm);
		earliest = earliest_alarm(t->vm);
		atomic_store(&t->wake_at, earliest);
		if (!atomic_load(&t->stop))
			sleep_until(t, sequence, earliest);
	}
	return NULL;
}

void timers_alarm(struct vm *vm, uint64_t deadline_ns)
{
	struct timers *t = vm->timers;

	if (t && deadline_ns < atomic_load(&t->wake_at))
		wake(t);
}

int timers_new(struct vm *vm)
{
	struct timers *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->vm = vm;
	t->wake_at = UINT64_MAX;
	vm->timers = t;
	err = thread_start(&t->thread, "guise", "timer", timer_thread, t);
	if (err) {
		vm->timers = NULL;
		free(t);
	}
	return err;
}

void timers_free(struct vm *vm)
{
	struct timers *t = vm->timers;

	if (!t)
		return;
	atomic_store(&t->stop, true);
	wake(t);
	pthread_join(t->thread, NULL);
	vm->timers = NULL;
	free(t);
}
