/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event loop: file descriptors and timers with callbacks, on one thread (the one in loop_run).
 *
 * Any thread may add, change and delete sources, set timers and stop the loop. Callbacks run on the loop's thread, one
 * at a time. After loop_del() returns no new call of that source starts; a call may still be running if
 * loop_del() was called on another thread: loop_sync() waits for it.
 */
#ifndef GUISE_BASE_LOOP_H
#define GUISE_BASE_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct loop_source;

typedef void loop_fn(void *opaque, uint32_t events); /* events: EPOLL* */

int loop_new(struct loop **loop);
void loop_free(struct loop *loop); /* with all its sources */
/* Watch fd (not owned) for `events` (may be 0). 0/-errno. */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *opaque, struct loop_source **source);
void loop_set_events(struct loop_source *source, uint32_t events);
void loop_del(struct loop_source *source);
/* Wait until no callback is running (at once on the loop's own thread): after loop_del() and this, its data may go. */
void loop_sync(struct loop *loop);

/* A timer; fn runs at or after its time. Created disarmed. loop_del() ends it too. */
int loop_add_timer(struct loop *loop, loop_fn *fn, void *opaque, struct loop_source **source);
/* Absolute CLOCK_MONOTONIC ns of the next expiry, UINT64_MAX disarms; period 0: once. Any thread. */
void loop_set_timer(struct loop_source *timer, uint64_t when_ns, uint64_t period_ns);

/* Serve until loop_stop(). */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop); /* any thread, async-signal-safe; sticky until loop_run returns */

uint64_t now_ns(void); /* CLOCK_MONOTONIC */

#endif
