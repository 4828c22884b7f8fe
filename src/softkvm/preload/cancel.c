/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pthread_cancel() of a thread whose cancellation is asynchronous: it would unwind softkvm's code wherever it stands, and the vCPU
 * would be left running for good. So cancellation is deferred while softkvm is at work (handlers_hold()), and here a thread
 * that runs a vCPU is told of it. In the kernel ioctl() is no cancellation point, so with deferred cancellation nothing ends KVM_RUN.
 *
 * The thread first stands in the list, then looks whether it was cancelled before; who cancels looks into the list afterwards.
 */
#include "softkvm/preload/preload.h"

#include <linux/kvm.h>
#include <pthread.h>

struct runner {
	struct runner *next;
	pthread_t thread;
	struct softkvm *vcpu;
};

static struct runner *runners; /* protected by lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void runner_add(struct runner *r)
{
	pthread_mutex_lock(&lock);
	r->next = runners;
	runners = r;
	pthread_mutex_unlock(&lock);
}

static void runner_del(void *runner)
{
	struct runner **p = &runners;

	pthread_mutex_lock(&lock);
	while (*p != runner)
		p = &(*p)->next;
	*p = (*p)->next;
	pthread_mutex_unlock(&lock);
}

static void cancelled(void *runner)
{
	runner_del(runner);
	handlers_release();
}

long run_vcpu(struct softkvm *vcpu, uintptr_t arg)
{
	struct runner self = {.thread = pthread_self(), .vcpu = vcpu};
	long ret;

	if (!handlers_cancel_at_once())
		return softkvm_ioctl(vcpu, KVM_RUN, arg, NULL);
	runner_add(&self);
	pthread_cleanup_push(cancelled, &self);
	pthread_testcancel();
	pthread_cleanup_pop(0);
	ret = softkvm_ioctl(vcpu, KVM_RUN, arg, NULL);
	runner_del(&self);
	return ret;
}

EXPORT int pthread_cancel(pthread_t thread)
{
	int err = NEXT(pthread_cancel)(thread);

	handlers_hold();
	pthread_mutex_lock(&lock);
	for (struct runner *r = runners; r && !err; r = r->next)
		if (pthread_equal(r->thread, thread))
			softkvm_kick(r->vcpu);
	pthread_mutex_unlock(&lock);
	handlers_release();
	return err;
}
