/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * epoll. A source is deleted by marking it dead; the loop frees the dead after a round, because epoll may already have
 * handed out an event that names one of them.
 */
#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct loop_source {
	struct loop *loop;
	struct loop_source *next; /* protected by loop->lock */
	int fd;
	bool is_timer; /* fd is ours, a timerfd */
	_Atomic bool dead;
	loop_fn *fn;
	void *opaque;
};

struct loop {
	int epoll_fd, wake_fd;
	_Atomic bool stopping;
	pthread_mutex_t running;     /* held around every callback; recursive */
	pthread_mutex_t lock;	     /* leaf lock */
	struct loop_source *sources; /* protected by lock; the dead among them are freed by the loop's thread */
};

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void wake_seen(void *opaque, uint32_t events)
{
	struct loop *loop = opaque;
	uint64_t n;

	if (read(loop->wake_fd, &n, sizeof(n)) < 0)
		return; /* somebody else's wake-up was read already */
}

static void init_running(pthread_mutex_t *mutex)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(mutex, &attr);
	pthread_mutexattr_destroy(&attr);
}

int loop_new(struct loop **out)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	struct loop_source *wake;
	int err;

	if (!loop)
		return -ENOMEM;
	init_running(&loop->running);
	pthread_mutex_init(&loop->lock, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = loop->epoll_fd < 0 || loop->wake_fd < 0 ? -errno : 0;
	if (!err)
		err = loop_add(loop, loop->wake_fd, EPOLLIN, wake_seen, loop, &wake);
	if (err) {
		loop_free(loop);
		return err;
	}
	*out = loop;
	return 0;
}

static void source_free(struct loop_source *source)
{
	if (source->is_timer)
		close(source->fd);
	free(source);
}

void loop_free(struct loop *loop)
{
	struct loop_source *next;

	if (!loop)
		return;
	for (struct loop_source *s = loop->sources; s; s = next) {
		next = s->next;
		source_free(s);
	}
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	pthread_mutex_destroy(&loop->running);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

static int add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *opaque, bool is_timer,
	       struct loop_source **out)
{
	struct loop_source *s = calloc(1, sizeof(*s));
	struct epoll_event event = {.events = events, .data.ptr = s};

	if (!s)
		return -ENOMEM;
	*s = (struct loop_source){.loop = loop, .fd = fd, .is_timer = is_timer, .fn = fn, .opaque = opaque};
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		free(s);
		return -errno;
	}
	pthread_mutex_lock(&loop->lock);
	s->next = loop->sources;
	loop->sources = s;
	pthread_mutex_unlock(&loop->lock);
	*out = s;
	return 0;
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *opaque, struct loop_source **source)
{
	return add(loop, fd, events, fn, opaque, false, source);
}

void loop_set_events(struct loop_source *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
}

static void wake(struct loop *loop)
{
	uint64_t one = 1;

	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: awake anyway */
}

void loop_del(struct loop_source *source)
{
	struct loop *loop;

	if (!source)
		return;
	loop = source->loop;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	atomic_store(&source->dead, true); /* the loop's thread may free it from here on */
	wake(loop);
}

void loop_sync(struct loop *loop)
{
	pthread_mutex_lock(&loop->running);
	pthread_mutex_unlock(&loop->running);
}

int loop_add_timer(struct loop *loop, loop_fn *fn, void *opaque, struct loop_source **source)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), err;

	if (fd < 0)
		return -errno;
	err = add(loop, fd, EPOLLIN, fn, opaque, true, source);
	if (err)
		close(fd);
	return err;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ns / 1000000000, ns % 1000000000};
}

void loop_set_timer(struct loop_source *timer, uint64_t when_ns, uint64_t period_ns)
{
	struct itimerspec spec = {timespec_of(period_ns), timespec_of(when_ns ? when_ns : 1)};

	if (when_ns == UINT64_MAX)
		spec = (struct itimerspec){0};
	timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void dispatch(struct loop_source *source, uint32_t events)
{
	uint64_t expirations;

	if (atomic_load(&source->dead))
		return;
	if (source->is_timer && read(source->fd, &expirations, sizeof(expirations)) < 0)
		return; /* re-armed meanwhile */
	source->fn(source->opaque, events);
}

static void free_dead(struct loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	for (struct loop_source **link = &loop->sources; *link;) {
		struct loop_source *s = *link;

		if (atomic_load(&s->dead)) {
			*link = s->next;
			source_free(s);
		} else {
			link = &s->next;
		}
	}
	pthread_mutex_unlock(&loop->lock);
}

int loop_run(struct loop *loop)
{
	struct epoll_event events[32];

	while (!atomic_exchange(&loop->stopping, false)) {
		int n = epoll_wait(loop->epoll_fd, events, 32, -1);

		if (n < 0 && errno != EINTR)
			return -errno;
		for (int k = 0; k < n; k++) {
			pthread_mutex_lock(&loop->running);
			dispatch(events[k].data.ptr, events[k].events);
			pthread_mutex_unlock(&loop->running);
		}
		free_dead(loop);
	}
	return 0;
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stopping, true);
	wake(loop);
}
