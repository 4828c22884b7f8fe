/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How other threads and a vCPU's thread meet.
 *
 * A vCPU thread publishes what it is doing in run_state; others post bits in requests. Both sides follow one rule,
 * with sequentially consistent operations: write your own word, then read the other's. So either the vCPU
 * sees the request before it executes guest code, or the requester sees VCPU_RUNNING and waits (or wakes).
 *
 *	vCPU:	   run_state = RUNNING (or HALTED); look at requests; go on (or sleep)
 *	requester: requests |= bits; cont = 0; look at run_state; wait for it (or wake it)
 *
 * cont is only a hint that makes the inner loop come back; the run loop sets it to 1 before it reads requests.
 *
 * Sleeping uses two futex words: run_state for a halted vCPU and for a stopper that waits for a running one;
 * requests for a paused vCPU that waits for VREQ_PAUSE to go.
 *
 * Only one thread stops the VM at a time, because vm->lock is held throughout. A vCPU thread never takes vm->lock
 * inside KVM_RUN, so a stopper cannot wait for somebody who waits for it.
 */
#include "softkvm/api/kick.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A sleep without deadline still has a time-out: a futex wait without one is restarted after SA_RESTART handlers. */
enum { LONGEST_SLEEP_S = 3600 };

/* As futex(2), with an absolute CLOCK_MONOTONIC time-out; errno is left alone (signal handlers come here). */
static int futex_wait_until(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
	struct timespec ts;
	int saved = errno, err = 0;

	if (deadline_ns == UINT64_MAX) {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_sec += LONGEST_SLEEP_S;
	} else {
		ts.tv_sec = (time_t)(deadline_ns / 1000000000);
		ts.tv_nsec = (long)(deadline_ns % 1000000000);
	}
	if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, &ts, NULL, FUTEX_BITSET_MATCH_ANY))
		err = -errno;
	errno = saved;
	return err;
}

static void futex_wake_all(_Atomic uint32_t *word)
{
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
	errno = saved;
}

/* Change run_state; a stopper may be waiting for us to leave VCPU_RUNNING. */
static void set_run_state(struct vcpu *v, enum vcpu_run_state state)
{
	atomic_store(&v->run_state, state);
	if (state != VCPU_RUNNING && atomic_load(&v->requests) & VREQ_PAUSE)
		futex_wake_all(&v->run_state);
}

void vcpu_kick(struct vcpu *v, uint32_t request_bits)
{
	uint32_t halted = VCPU_HALTED;

	atomic_fetch_or(&v->requests, request_bits);
	vcpu_call_out(v);
	if (atomic_load(&v->run_state) == VCPU_HALTED &&
	    atomic_compare_exchange_strong(&v->run_state, &halted, VCPU_RUNNING))
		futex_wake_all(&v->run_state);
}

uint32_t vcpu_take_requests(struct vcpu *v)
{
	return atomic_fetch_and(&v->requests, VREQ_PAUSE) & ~(uint32_t)VREQ_PAUSE;
}

void vcpu_enter(struct vcpu *v)
{
	set_run_state(v, VCPU_RUNNING);
	vcpu_pause_point(v); /* nothing of the VM is touched before it may be */
}

void vcpu_exit(struct vcpu *v)
{
	set_run_state(v, VCPU_OUTSIDE);
}

int vcpu_halt(struct vcpu *v, uint64_t deadline_ns)
{
	int err = 0;

	set_run_state(v, VCPU_HALTED);
	if (!atomic_load(&v->requests))
		err = futex_wait_until(&v->run_state, VCPU_HALTED, deadline_ns);
	vcpu_enter(v);
	return err == -EINTR ? -EINTR : 0;
}

void vcpu_pause_point(struct vcpu *v)
{
	uint32_t requests = atomic_load(&v->requests);

	if (!(requests & VREQ_PAUSE))
		return;
	set_run_state(v, VCPU_PAUSED);
	while ((requests = atomic_load(&v->requests)) & VREQ_PAUSE)
		futex_wait_until(&v->requests, requests, UINT64_MAX);
	set_run_state(v, VCPU_RUNNING);
}

void vm_stop(struct vm *vm, uint32_t requests)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	if (requests & (VREQ_MEMORY | VREQ_TLB_WRITE))
		vm->counts->remote_tlb_flush++;
	for (unsigned i = 0; i < count; i++) {
		atomic_fetch_or(&vm->vcpu[i]->requests, requests | VREQ_PAUSE);
		vcpu_call_out(vm->vcpu[i]);
	}
	for (unsigned i = 0; i < count; i++)
		while (atomic_load(&vm->vcpu[i]->run_state) == VCPU_RUNNING)
			futex_wait_until(&vm->vcpu[i]->run_state, VCPU_RUNNING, UINT64_MAX);
}

void vm_resume(struct vm *vm)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	for (unsigned i = 0; i < count; i++) {
		atomic_fetch_and(&vm->vcpu[i]->requests, ~(uint32_t)VREQ_PAUSE);
		futex_wake_all(&vm->vcpu[i]->requests);
	}
}
