/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Conformance of a back end: the buffer in which it keeps track of requests in flight, so that the next back
 * end can take them up after a crash. The crash is played: the buffer is filled in as a back end leaves it
 * that died with one request.
 */
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "probe/front.h"
#include "probe/work.h"
#include "vhost/shared_map.h"

struct buffer {
	uint8_t *at; /* the part of the mapping that counts */
	struct shared_map map;
	uint64_t size;
	int fd;
	struct vhost_user_inflight description;
};

/* Queue region of a split ring, and one of its entries (section "Inflight I/O tracking"). */
struct split_state {
	uint8_t inflight, padding[5];
	uint16_t next;
	uint64_t counter;
};
struct split_region {
	uint64_t features;
	uint16_t version, desc_num, last_batch_head, used_idx;
	struct split_state desc[];
};

static int get_buffer(struct probe *p, struct buffer *b)
{
	struct vhost_user_message m;

	b->fd = -1;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_INFLIGHT_FD);
	m.inflight.n_queues = (uint16_t)session_queues(p);
	m.inflight.queue_size = (uint16_t)p->ring_size;
	if (ask(p, &m))
		return -1;
	b->fd = vhost_user_take_fd(&m, 0);
	b->description = m.inflight;
	if (b->fd < 0 || !m.inflight.mmap_size)
		return fail(p, "GET_INFLIGHT_FD was answered without a buffer");
	b->size = m.inflight.mmap_size;
	if (b->size > 1 << 24 || m.inflight.mmap_offset > 1 << 24)
		return fail(p, "a buffer of %llu bytes at %llu is more than it can need",
			    (unsigned long long)b->size, (unsigned long long)m.inflight.mmap_offset);
	if (shared_map_open(&b->map, b->fd, m.inflight.mmap_offset, b->size, -1))
		return fail(p, "the buffer's descriptor cannot be mapped, or is shorter than it says");
	b->at = b->map.data;
	if (b->size < session_queues(p) * (16 + 16ull * p->ring_size))
		return fail(p, "%llu bytes are too few for %u queues of %u", (unsigned long long)b->size,
			    session_queues(p), p->ring_size);
	return 0;
}

static int set_buffer(struct probe *p, const struct buffer *b)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_INFLIGHT_FD);
	m.inflight = b->description;
	m.inflight.n_queues = (uint16_t)session_queues(p);
	m.inflight.queue_size = (uint16_t)p->ring_size;
	m.n_fds = 1;
	m.fd[0] = b->fd;
	return tell(p, &m);
}

static void put_buffer(struct buffer *b)
{
	shared_map_close(&b->map);
	if (b->fd >= 0)
		close(b->fd);
}

static int start(struct probe *p)
{
	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
	return need_protocol(p, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) || session_prepare(p) ? -1 : 0;
}

static int start_rings(struct probe *p)
{
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_queue(p, k))
			return -1;
	return 0;
}

/* What the buffer says of ring 0 once everything is back. The back end may write it a moment after the used
 * ring. */
static void check_region(struct probe *p, const struct split_region *region)
{
	uint16_t used = p->queue[0].driver.used_next;

	for (unsigned ms = 0; ms < p->options->timeout_ms; ms += 10) {
		if (__atomic_load_n(&region->used_idx, __ATOMIC_ACQUIRE) == used)
			break;
		poll(NULL, 0, 10);
	}
	if (region->version != 1 || region->desc_num != p->ring_size)
		fail(p, "the region of ring 0 has version %u and %u entries; 1 and %u are right",
		     region->version, region->desc_num, p->ring_size);
	else if (region->used_idx != used)
		fail(p, "used_idx in the buffer is %u, in the ring %u", region->used_idx, used);
	for (unsigned k = 0; k < p->ring_size; k++)
		if (region->desc[k].inflight)
			fail(p, "entry %u is marked as in flight; nothing is", k);
}

/* A session with the buffer, and another one with the same. */
static void tracked(struct probe *p, unsigned argument)
{
	struct buffer b = {.fd = -1};

	if (!start(p) && !get_buffer(p, &b) && !set_buffer(p, &b) && !start_rings(p) &&
	    !work_round(p, 0, 20, 4, 0) && !barrier(p)) {
		if (!p->packed && session_queues(p) == 1)
			check_region(p, (const void *)b.at);
		if (p->verdict.outcome == OUTCOME_PASS && !session_prepare(p)) {
			memset(b.at, 0, b.size); /* new rings: nothing of the last session holds for them */
			if (!set_buffer(p, &b) && !start_rings(p))
				work_pair(p, 0);
		}
	}
	put_buffer(&b);
}

/* The back end that died had taken one request and not returned it: the next one has to serve it, unasked. */
static void resubmitted(struct probe *p, unsigned argument)
{
	struct buffer b = {.fd = -1};
	unsigned queue = work_queue(0, p);

	if (start(p) || get_buffer(p, &b) || session_lay_out(p, queue) ||
	    work_submit(p, queue, REQUEST_READ, 0)) {
		put_buffer(&b);
		return;
	}
	struct split_region *region = (void *)b.at;
	unsigned head = p->queue[queue].driver.avail->ring[0];

	region->version = 1;
	region->desc_num = (uint16_t)p->ring_size;
	region->desc[head].inflight = 1;
	region->desc[head].counter = 1;
	if (!set_buffer(p, &b) && !session_num(p, queue) &&
	    !tell_state(p, VHOST_USER_SET_VRING_BASE, queue, 1) && !session_addr(p, queue) &&
	    !session_call(p, queue) && !session_kick(p, queue) && !session_enable(p, queue, true)) {
		eventfd_write(p->queue[queue].kick_fd, 1);
		if (!work_wait(p, queue, 1) && !work_round(p, 0, 8, 2, 0) && region->desc[head].inflight)
			fail(p, "the request came back and is still marked as in flight");
	}
	put_buffer(&b);
}

#define C    PROBE_CONFORMANCE
#define RULE "vhost-user, Inflight I/O tracking"
/* clang-format off */
const struct front_test front_inflight_tests[] = {
	{ "inflight", "GET_ and SET_INFLIGHT_FD; the buffer says what happened", RULE, C, EACH, 0, tracked, 0 },
	{ "inflight-resubmit", "a request that a dead back end had taken is served by the next one", RULE, C, ONCE, PROBE_BLK, resubmitted, 0 },
	{ 0 },
};
/* clang-format on */
