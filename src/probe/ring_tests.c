/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Conformance of a back end: the rules of virtqueues. The driver half checks every used entry (index, id,
 * length); around it all of guest memory is watched, so a byte written to a read-only buffer, between two
 * buffers, or to the driver's part of a ring is found.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "probe/front.h"
#include "probe/work.h"

static int need_ring_feature(struct probe *p, unsigned bit, const char *name)
{
	p->want |= 1ull << bit;
	return need_feature(p, bit, name);
}

static enum request_kind usual(const struct probe *p)
{
	return p->options->device == PROBE_NET ? REQUEST_TX : REQUEST_READ;
}

/* How large a ring may be is the device's affair, and the protocol has no message that asks. */
static bool is_too_large(struct probe *p)
{
	struct vhost_user_message m;
	int64_t ack;

	if (session_prepare(p))
		return true;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_NUM);
	m.state.num = p->ring_size;
	if (tell_for_answer(p, &m, &ack))
		return true;
	if (ack == 0 || ack == -2)
		return false;
	not_applicable(p, "the target refuses a ring of %u entries", p->ring_size);
	return true;
}

/* Many times around a ring of `size`, everything watched. */
static void around(struct probe *p, unsigned size)
{
	unsigned batch = size / 4 < 1 ? 1 : size / 4 > 8 ? 8 : size / 4;

	p->ring_size = size;
	if (size > 1024 && is_too_large(p))
		return;
	if (session_open(p))
		return;
	work_watch(p);
	if (work_round(p, 0, size > 64 ? 500 : 40 * batch, batch, 0) || work_check_memory(p))
		return;
	p->watching = false;
	if (size >= 8)
		work_pair(p, 0);
}

/* Requests cut into pieces of `cut` bytes: headers, data and status wherever the borders fall. */
static void layout(struct probe *p, unsigned cut)
{
	p->ring_size = 256;
	if (!(p->offered >> VIRTIO_F_VERSION_1 & 1)) {
		not_applicable(p, "only VERSION_1 allows every layout");
		return;
	}
	if (session_open(p))
		return;
	for (unsigned k = 0; k < 3; k++) {
		work_watch(p);
		if (work_round(p, 0, 4, 2, cut) || work_check_memory(p))
			return;
	}
	p->watching = false;
	work_pair(p, 0);
}

/* Receive buffers cut into pieces. */
static void layout_receive(struct probe *p, unsigned cut)
{
	p->ring_size = 256;
	if (!p->answers) {
		not_applicable(p, "no frames come from the target");
		return;
	}
	if (session_open(p))
		return;
	work_watch(p);
	for (unsigned k = 0; k < 5; k++) {
		if (work_submit(p, 0, REQUEST_RX, cut))
			return;
		work_kick(p, 0);
		if (work_submit(p, 1, REQUEST_ARP, 0))
			return;
		work_kick(p, 1);
		if (work_wait(p, 1, 1) || work_wait(p, 0, 1) || work_check_memory(p))
			return;
	}
}

static void indirect(struct probe *p, unsigned argument)
{
	unsigned cut = p->options->device == PROBE_NET ? 8 : 64;

	if (need_ring_feature(p, VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC") || session_open(p))
		return;
	for (unsigned k = 0; k < 20; k++) {
		work_watch(p);
		if (work_round(p, 0, 8, 8, cut) ||
		    work_round(p, 0, 3, 1, p->options->device == PROBE_NET ? 0 : 100) || work_check_memory(p))
			return;
	}
}

static void in_order(struct probe *p, unsigned argument)
{
	if (need_ring_feature(p, VIRTIO_F_IN_ORDER, "IN_ORDER") || session_open(p))
		return;
	for (unsigned k = 0; k < 30; k++) {
		work_watch(p);
		if (work_round(p, 0, 24, 1 + k % 8, 0) || work_check_memory(p))
			return;
	}
	p->watching = false;
	work_pair(p, 0);
}

/* Kicked only when the device asks for it, woken only by its calls: a lost one stops everything. */
static void notifications(struct probe *p, unsigned event_idx)
{
	if ((event_idx && need_ring_feature(p, VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX")) || session_open(p))
		return;
	if (work_round(p, 0, 1000, 1, 0) || work_round(p, 0, 1000, 5, 0))
		return;
	work_pair(p, 0);
}

/* No call while the driver does not want any. */
static void calls_suppressed(struct probe *p, unsigned event_idx)
{
	unsigned queue = work_queue(0, p), unwanted = 0;
	eventfd_t value;

	if ((event_idx && need_ring_feature(p, VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX")) || session_open(p) ||
	    work_round(p, 0, 4, 2, 0))
		return;
	virtq_driver_disable_calls(&p->queue[queue].driver);
	poll(NULL, 0, 10);
	eventfd_read(p->queue[queue].call_fd, &value);
	for (unsigned k = 0; k < 20; k++) {
		if (work_submit(p, queue, usual(p), 0))
			return;
		work_kick(p, queue);
		if (work_poll(p, queue, 1))
			return;
		unwanted += !eventfd_read(p->queue[queue].call_fd, &value);
	}
	if (unwanted)
		warn(p, "%u calls came for 20 requests while the driver wanted none", unwanted);
	work_pair(p, 0);
}

/* used_event three entries ahead: a call is due when it is passed, not for what comes before. */
static void call_when_due(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p), early = 0;
	struct probe_queue *q = &p->queue[queue];
	struct pollfd ready = {.events = POLLIN};
	eventfd_t value;

	if (need_ring_feature(p, VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX") || session_open(p) ||
	    work_round(p, 0, 4, 2, 0))
		return;
	for (unsigned round = 0; round < 20; round++) {
		struct virtq_driver *d = &q->driver;
		uint16_t at = (uint16_t)(d->used_next + 3);

		if (p->packed) { /* requests of this kind take as many entries as they have segments: aim at
				    the fourth request */
			unsigned per = p->options->device == PROBE_NET ? 1 : 3;
			unsigned place = d->used_next + 3 * per;
			bool wrap = d->used_wrap ^ (place >= d->size);

			__atomic_store_n(&d->driver_event->off_wrap, (uint16_t)(place % d->size | wrap << 15),
					 __ATOMIC_RELEASE);
			__atomic_store_n(&d->driver_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_DESC,
					 __ATOMIC_RELEASE);
		} else {
			__atomic_store_n(&d->avail->ring[d->size], at, __ATOMIC_RELEASE);
		}
		eventfd_read(q->call_fd, &value);
		for (unsigned k = 0; k < 3; k++) {
			if (work_submit(p, queue, usual(p), 0))
				return;
			work_kick(p, queue);
			if (work_poll(p, queue, 1))
				return;
		}
		early += !eventfd_read(q->call_fd, &value);
		if (work_submit(p, queue, usual(p), 0))
			return;
		work_kick(p, queue);
		if (work_poll(p, queue, 1))
			return;
		ready.fd = q->call_fd;
		if (poll(&ready, 1, (int)p->options->timeout_ms) <= 0) {
			fail(p, "the entry that the driver waits for was used, and no call came");
			return;
		}
	}
	if (early)
		warn(p, "%u of 20 calls came before the entry that the driver waits for", early);
}

/* 2.7.10: a driver may kick though nobody asked, and with nothing new. */
static void spurious_kicks(struct probe *p, unsigned argument)
{
	if (session_open(p))
		return;
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned k = 0; k < session_queues(p); k++)
			for (unsigned n = 0; n < 10; n++)
				eventfd_write(p->queue[k].kick_fd, 1 + n);
		work_watch(p);
		if (work_round(p, 0, 4, 2, 0) || work_check_memory(p))
			return;
	}
}

/* Everything that fits, in one go, again and again. */
static void full_ring(struct probe *p, unsigned argument)
{
	p->ring_size = p->options->device == PROBE_NET ? 16 : 48;
	if (p->options->device == PROBE_BLK && !p->packed)
		p->ring_size = 32;
	if (session_open(p))
		return;
	for (unsigned k = 0; k < 50; k++) {
		work_watch(p);
		if (work_round(p, 0, p->ring_size / (p->options->device == PROBE_NET ? 1 : 3), SLOTS, 0) ||
		    work_check_memory(p))
			return;
	}
}

static void data_written(struct probe *p, unsigned argument)
{
	if (!p->options->may_write) {
		not_applicable(p, "the disk is not to be written to: --write allows it");
		return;
	}
	if (session_open(p))
		return;
	for (unsigned k = 0; k < 16; k++) {
		work_watch(p);
		if (work_submit(p, 0, REQUEST_WRITE, k % 3 * 50))
			return;
		work_kick(p, 0);
		if (work_wait(p, 0, 1) || work_round(p, 0, 8, 4, 0) || work_check_memory(p))
			return;
	}
}

#define C	PROBE_CONFORMANCE
#define USED	"virtio 1.3, 2.7.8.2 and 2.8.22: used entries, their lengths, nothing else written"
#define FRAMING "virtio 1.3, 2.7.4 and 2.8.9: message framing is not to be relied on"
#define NOTIFY	"virtio 1.3, 2.7.7, 2.7.10 and 2.8.10: event suppression"
/* clang-format off */
const struct front_test front_ring_tests[] = {
	{ "ring-of-4", "many times around a ring of 4 entries", USED, C, EACH, 0, around, 4 },
	{ "ring-of-64", "many times around a ring of 64 entries", USED, C, EACH, 0, around, 64 },
	{ "ring-of-1024", "a ring of 1024 entries", USED, C, EACH, 0, around, 1024 },
	{ "ring-of-32768", "a ring of 32768 entries, the most there can be", "virtio 1.3, 2.7 and 2.8: queue size", C, EACH, 0, around, 32768 },
	{ "ring-full", "every entry of the ring in use at once", USED, C, EACH, 0, full_ring, 0 },
	{ "layout-1", "requests in pieces of one byte", FRAMING, C, EACH, 0, layout, 1 },
	{ "layout-7", "requests in pieces of 7 bytes: the header is cut", FRAMING, C, EACH, 0, layout, 7 },
	{ "layout-13", "requests in pieces of 13 bytes", FRAMING, C, EACH, 0, layout, 13 },
	{ "layout-100", "requests in pieces of 100 bytes: header and data together", FRAMING, C, EACH, 0, layout, 100 },
	{ "receive-layout", "receive buffers in pieces of 64 bytes", FRAMING, C, EACH, PROBE_NET, layout_receive, 64 },
	{ "indirect", "chains in indirect tables, among chains that are not", "virtio 1.3, 2.7.5.3 and 2.8.7", C, EACH, 0, indirect, 0 },
	{ "in-order", "buffers come back in the order in which they were made available", "virtio 1.3, 2.7.9 and 2.8.13", C, EACH, 0, in_order, 0 },
	{ "notifications", "kicks only when asked for, calls waited for: none is lost", NOTIFY, C, EACH, 0, notifications, 0 },
	{ "notifications-event-idx", "the same with EVENT_IDX", NOTIFY, C, EACH, 0, notifications, 1 },
	{ "calls-suppressed", "no call while the driver wants none", NOTIFY, C, EACH, 0, calls_suppressed, 0 },
	{ "calls-suppressed-event-idx", "the same with EVENT_IDX", NOTIFY, C, EACH, 0, calls_suppressed, 1 },
	{ "call-when-due", "with EVENT_IDX, a call at the entry that the driver names", NOTIFY, C, EACH, 0, call_when_due, 0 },
	{ "spurious-kicks", "kicks with nothing new", NOTIFY, C, EACH, 0, spurious_kicks, 0 },
	{ "data-written", "what is written reads back, whatever the layout", "virtio 1.3, 5.2.6", C, EACH, PROBE_BLK, data_written, 0 },
	{ 0 },
};
/* clang-format on */
