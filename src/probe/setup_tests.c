/* SPDX-License-Identifier: BSD-2-Clause */
/* Conformance of a back end: negotiation, the states of a ring, replies and acknowledgements, connections
 * that come and go. */
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "probe/front.h"
#include "probe/work.h"

#define PROTOCOL(bit) (1ull << VHOST_USER_PROTOCOL_F_##bit)

static void features(struct probe *p, unsigned argument)
{
	uint64_t again;

	if (session_connect(p) || ask_u64(p, VHOST_USER_GET_FEATURES, &again))
		return;
	if (again != p->offered)
		fail(p, "features 0x%llx now, 0x%llx at first contact", (unsigned long long)again,
		     (unsigned long long)p->offered);
	else if (!(again >> VIRTIO_F_VERSION_1 & 1))
		warn(p, "VERSION_1 is not offered: a legacy device");
}

static void protocol_features(struct probe *p, unsigned argument)
{
	uint64_t value;

	if (need_feature(p, VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES"))
		return;
	/* before GET_FEATURES, SET_FEATURES and SET_OWNER */
	if (session_connect(p) || ask_u64(p, VHOST_USER_GET_PROTOCOL_FEATURES, &value) ||
	    tell_u64(p, VHOST_USER_SET_PROTOCOL_FEATURES, value & PROTOCOL(MQ)) || barrier(p))
		return;
	if (value >> VHOST_USER_PROTOCOL_FEATURES)
		warn(p, "bits 0x%llx are not in the specification",
		     (unsigned long long)(value >> VHOST_USER_PROTOCOL_FEATURES));
}

static void without_protocol_features(struct probe *p, unsigned argument)
{
	p->want &= ~VHOST_USER_F_PROTOCOL_FEATURES_BIT;
	if (session_open(p) || work_pair(p, 0))
		return;
}

static void empty_protocol_features(struct probe *p, unsigned argument)
{
	if (need_feature(p, VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES"))
		return;
	p->want_protocol = 0;
	if (session_open(p) || work_pair(p, 0))
		return;
}

static void every_feature(struct probe *p, unsigned argument)
{
	/* Not those that need more of the driver: an IOMMU, notification data, migration's log, a control
	 * queue. */
	p->want |= p->offered & (1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX |
				 1ull << VIRTIO_F_IN_ORDER | 1ull << VIRTIO_F_ORDER_PLATFORM |
				 1ull << VIRTIO_F_ANY_LAYOUT);
	p->want_protocol = p->protocol_offered & ~PROTOCOL(INBAND_NOTIFICATIONS) & ~PROTOCOL(PAGEFAULT) &
			   ~PROTOCOL(XEN_MMAP) & ~PROTOCOL(GPA_ADDRESSES);
	if (session_open(p) || work_pair(p, 0))
		return;
}

/* A ring that is started and not enabled: no side effects. */
static void disabled_ring(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);
	int n;

	if (need_feature(p, VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES") || session_prepare(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_lay_out(p, k) || session_num(p, k) || session_base(p, k) || session_addr(p, k) ||
		    session_call(p, k) || session_kick(p, k))
			return;
	if (p->options->device == PROBE_NET) { /* sent frames are taken and discarded */
		if (work_submit(p, queue, REQUEST_TX, 0))
			return;
		work_kick(p, queue);
		n = 0;
		for (unsigned ms = 0; ms < 500 && !n; ms += 10)
			n = work_quiet(p, queue, 10);
		if (!n)
			fail(p, "a frame on a ring that is started and disabled was not taken");
	} else {
		if (work_submit(p, queue, REQUEST_READ, 0))
			return;
		work_kick(p, queue);
		n = work_quiet(p, queue, 100);
		if (n > 0)
			warn(p, "a request on a ring that is disabled was served");
	}
	if (n < 0)
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_enable(p, k, true))
			return;
	if (p->verdict.outcome == OUTCOME_FAIL)
		return;
	if (p->options->device == PROBE_BLK &&
	    !n) { /* what waited is served now, perhaps after another kick */
		eventfd_write(p->queue[queue].kick_fd, 1);
		if (work_wait(p, queue, 1))
			return;
	}
	work_pair(p, 0);
}

static void disable_again(struct probe *p, unsigned argument)
{
	if (need_feature(p, VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES") || session_open(p))
		return;
	for (unsigned round = 0; round < 3; round++) {
		if (work_pair(p, 0))
			return;
		for (unsigned on = 0; on < 2; on++)
			for (unsigned k = 0; k < session_queues(p); k++)
				if (session_enable(p, k, on))
					return;
	}
	work_pair(p, 0);
}

/* GET_VRING_BASE stops a ring and says where; the ring goes on from there. */
static void stop_and_go(struct probe *p, unsigned argument)
{
	uint32_t base, expected;

	if (session_open(p))
		return;
	for (unsigned round = 0; round < 5; round++) {
		if (work_round(p, 0, 7, 3, 0))
			return;
		for (unsigned k = 0; k < session_queues(p); k++) {
			if (session_get_base(p, k, &base))
				return;
			expected = session_driver_base(p, k);
			if (p->packed ? base != expected && base != (expected & 0xffff) : base != expected) {
				fail(p, "GET_VRING_BASE of ring %u says 0x%x; the ring stands at 0x%x", k,
				     base, expected);
				return;
			}
		}
		for (unsigned k = 0; k < session_queues(p); k++)
			if (session_num(p, k) || session_base(p, k) || session_addr(p, k) ||
			    session_kick(p, k) || session_call(p, k) || session_enable(p, k, true))
				return;
	}
	work_pair(p, 0);
}

static void stopped_ring(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);
	uint32_t base;
	int n;

	if (session_open(p) || work_pair(p, 0) || session_get_base(p, queue, &base) ||
	    work_submit(p, queue, p->options->device == PROBE_NET ? REQUEST_TX : REQUEST_READ, 0))
		return;
	eventfd_write(p->queue[queue].kick_fd, 1);
	n = work_quiet(p, queue, 100);
	if (n > 0)
		fail(p, "a request was served after GET_VRING_BASE had stopped the ring");
	if (n)
		return;
	if ((argument && session_num(p, queue)) || session_base(p, queue) || session_addr(p, queue) ||
	    session_call(p, queue) || session_kick(p, queue) || session_enable(p, queue, true))
		return;
	eventfd_write(p->queue[queue].kick_fd, 1);
	work_wait(p, queue, 1);
}

/* What became available while the ring was stopped is served when it starts, without another kick. */
static void start_with_work(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);

	if (session_prepare(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++) {
		if (session_lay_out(p, k))
			return;
		for (unsigned n = 0; k == queue && n < 3; n++)
			if (work_submit(p, k, p->options->device == PROBE_NET ? REQUEST_TX : REQUEST_READ, 0))
				return;
		eventfd_write(p->queue[k].kick_fd, argument); /* front ends should inject one kick */
		if (session_num(p, k) || session_addr(p, k))
			return;
		if (tell_state(p, VHOST_USER_SET_VRING_BASE, k, p->packed ? 0x80008000u : 0) ||
		    session_call(p, k) || session_kick(p, k) || session_enable(p, k, true))
			return;
	}
	work_wait(p, queue, 3);
}

static void base_of_unused_ring(struct probe *p, unsigned argument)
{
	uint32_t base;

	if (session_prepare(p) || session_lay_out(p, 0) || session_num(p, 0) || session_base(p, 0) ||
	    session_get_base(p, 0, &base))
		return;
	if ((base & 0xffff) != (session_driver_base(p, 0) & 0xffff))
		warn(p, "the base of a ring that never started was set to 0x%x and came back as 0x%x",
		     session_driver_base(p, 0), base);
	session_close(p);
	if (session_open(p) || work_pair(p, 0))
		return;
}

static void base_not_zero(struct probe *p, unsigned argument)
{
	p->base = p->packed ? (20u | 0u << 15) : 65520; /* the index wraps, at 65536 or at the ring's end */
	if (session_open(p) || work_round(p, 0, 150, 5, 0) || work_pair(p, 0))
		return;
}

static void call_replaced(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);
	int fresh = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), old;

	if (session_open(p) || work_pair(p, 0)) {
		close(fresh);
		return;
	}
	old = p->queue[queue].call_fd;
	p->queue[queue].call_fd = fresh;
	if (!session_call(p, queue) && !barrier(p))
		work_round(p, 0, 10, 2, 0);
	close(old);
}

static void call_without_fd(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);
	bool net = p->options->device == PROBE_NET;

	if (session_open(p) || tell_fd(p, VHOST_USER_SET_VRING_CALL, queue, -1) || barrier(p) ||
	    work_submit(p, queue, net ? REQUEST_TX : REQUEST_READ, 0))
		return;
	work_kick(p, queue);
	if (work_poll(p, queue, 1) || session_call(p, queue) || work_pair(p, 0))
		return;
}

static void kick_without_fd(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);
	bool net = p->options->device == PROBE_NET;

	if (session_prepare(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_lay_out(p, k) || session_num(p, k) || session_base(p, k) || session_addr(p, k) ||
		    session_call(p, k) || tell_fd(p, VHOST_USER_SET_VRING_KICK, k, -1) ||
		    session_enable(p, k, true))
			return;
	for (unsigned n = 0; n < 5; n++)
		if (work_submit(p, queue, net ? REQUEST_TX : REQUEST_READ, 0) || work_wait(p, queue, 1))
			return;
}

static void error_fd(struct probe *p, unsigned argument)
{
	if (session_prepare(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_queue(p, k) || tell_fd(p, VHOST_USER_SET_VRING_ERR, k, p->queue[k].err_fd) ||
		    tell_fd(p, VHOST_USER_SET_VRING_ERR, k, -1))
			return;
	work_pair(p, 0);
}

static void features_on_the_fly(struct probe *p, unsigned argument)
{
	if (session_open(p))
		return;
	for (unsigned n = 0; n < 3;
	     n++) /* as migration does it, to set and clear LOG_ALL: rings go on as they are */
		if (work_pair(p, 0) || session_features(p))
			return;
	work_pair(p, 0);
}

static bool takes_ring(struct probe *p, unsigned ring)
{
	struct vhost_user_message m;
	int64_t ack;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_NUM);
	m.state = (struct vhost_vring_state){ring, p->ring_size};
	return !tell_for_answer(p, &m, &ack) && (!ack || ack == -2);
}

static void many_pairs(struct probe *p, unsigned argument)
{
	unsigned per = session_queues(p), pairs;

	if (need_protocol(p, VHOST_USER_PROTOCOL_F_MQ))
		return;
	pairs = (unsigned)(p->n_queues < p->options->queues ? p->n_queues : p->options->queues);
	if (pairs < 2) {
		not_applicable(p, "the target serves %llu queues; %u were to be tried",
			       (unsigned long long)p->n_queues, p->options->queues);
		return;
	}
	p->want |= p->offered & (p->options->device == PROBE_NET ? 1ull << 22 : 1ull << 12); /* MQ */
	if (session_prepare(p))
		return;
	if (p->options->device == PROBE_NET && !takes_ring(p, 2 * pairs - 1)) {
		warn(p,
		     "GET_QUEUE_NUM says %llu, and there is no ring %u: network front ends take it for queue "
		     "pairs",
		     (unsigned long long)p->n_queues, 2 * pairs - 1);
		return;
	}
	for (unsigned k = 0; k < pairs * per; k++)
		if (session_queue(p, k))
			return;
	for (unsigned pair = 0; pair < pairs; pair++)
		if (work_round(p, pair, 6, 3, 0))
			return;
	remark(p, "%u", pairs);
}

/* --- replies and acknowledgements --- */

/* The answer to the barrier is the next thing to come: nothing was acknowledged that was not asked for. */
static void no_ack_unasked(struct probe *p, unsigned argument)
{
	p->ask_acks = false;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_REPLY_ACK) || session_connect(p) || session_negotiate(p) ||
	    barrier(p) || session_features(p) || barrier(p) || session_memory(p) || barrier(p) ||
	    session_lay_out(p, 0) || session_num(p, 0) || barrier(p) || session_base(p, 0) || barrier(p) ||
	    session_addr(p, 0) || barrier(p) || session_call(p, 0) || barrier(p) || session_kick(p, 0) ||
	    barrier(p) || session_enable(p, 0, true) || barrier(p))
		return;
}

static void ack_every_message(struct probe *p, unsigned argument)
{
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_REPLY_ACK) || session_open(p)) /* tell() waits for each */
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (tell_fd(p, VHOST_USER_SET_VRING_ERR, k, p->queue[k].err_fd))
			return;
	if (barrier(p))
		return;
	work_pair(p, 0);
}

/* need_reply on a message that has a reply of its own: one reply, not two. */
static void one_reply_only(struct probe *p, unsigned argument)
{
	struct vhost_user_message m;

	if (need_protocol(p, VHOST_USER_PROTOCOL_F_REPLY_ACK) || session_open(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_FEATURES);
	m.flags |= VHOST_USER_NEED_REPLY;
	if (ask(p, &m))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_VRING_BASE);
	m.flags |= VHOST_USER_NEED_REPLY;
	if (ask(p, &m))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_PROTOCOL_FEATURES);
	ask(p, &m);
}

/* need_reply means nothing while REPLY_ACK is not negotiated. */
static void ack_not_negotiated(struct probe *p, unsigned argument)
{
	struct vhost_user_message m;

	p->want_protocol = PROTOCOL(MQ);
	if (session_connect(p) || session_negotiate(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_FEATURES);
	m.u64 = p->features;
	m.flags |= VHOST_USER_NEED_REPLY;
	if (tell(p, &m))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_FEATURES);
	if (link_send(&p->link, &m) || link_receive(&p->link, &m, p->options->timeout_ms)) {
		fail(p, "need_reply without REPLY_ACK ends the session");
		return;
	}
	if (m.request == VHOST_USER_SET_FEATURES)
		warn(p, "it acknowledges what need_reply asks for though REPLY_ACK is not negotiated");
}

static void unknown_message(struct probe *p, unsigned argument)
{
	struct vhost_user_message m = {.request = 9999, .flags = VHOST_USER_VERSION, .size = 8};
	int64_t ack;

	if (session_open(p) || work_pair(p, 0) || tell_for_answer(p, &m, &ack))
		return;
	if (!ack) {
		fail(p, "message 9999 was acknowledged with 0, which means success");
		return;
	}
	remark(p, ack == -1   ? "it closes the connection"
		  : ack == -2 ? "it is ignored"
			      : "it is refused by an acknowledgement");
	if (ack == -1 || link_is_closed(&p->link, 50))
		session_open(p);
	work_pair(p, 0);
}

/* --- connections --- */

static void reconnect(struct probe *p, unsigned argument)
{
	for (unsigned n = 0; n < 5; n++) {
		if (session_open(p) || work_pair(p, 0))
			return;
		session_close(p); /* in the middle, with rings running */
	}
}

static int step(struct probe *p, unsigned n)
{
	switch (n) {
	case 0:
		return session_connect(p);
	case 1:
		return session_negotiate(p);
	case 2:
		return session_features(p);
	case 3:
		return session_memory(p);
	case 4:
		return session_lay_out(p, 0) || session_num(p, 0);
	case 5:
		return session_base(p, 0);
	case 6:
		return session_addr(p, 0);
	case 7:
		return session_call(p, 0);
	case 8:
		return session_kick(p, 0);
	default:
		return session_enable(p, 0, true);
	}
}

static void abandoned(struct probe *p, unsigned argument)
{
	for (unsigned last = 0; last < 10; last++) {
		for (unsigned n = 0; n <= last; n++)
			if (step(p, n))
				return;
		session_close(p);
	}
	if (session_open(p))
		return;
	work_pair(p, 0);
}

/* A stream has no borders: a message may come byte by byte, and several at once. */
static void byte_by_byte(struct probe *p, unsigned argument)
{
	struct vhost_user_message m;

	if (session_connect(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_FEATURES);
	m.u64 = p->offered & p->want & ~VHOST_USER_F_PROTOCOL_FEATURES_BIT;
	for (size_t k = 0; k < VHOST_USER_HEADER_SIZE + m.size; k++) {
		if (link_send_bytes(&p->link, (uint8_t *)&m + k, 1)) {
			fail(p, "the connection was closed after %zu bytes of a message", k);
			return;
		}
		usleep(1000);
	}
	barrier(p);
}

static void several_at_once(struct probe *p, unsigned argument)
{
	uint8_t bytes[3 * VHOST_USER_HEADER_SIZE];
	struct vhost_user_message m;
	uint64_t value;

	if (session_connect(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_FEATURES);
	for (unsigned k = 0; k < 3; k++)
		memcpy(bytes + k * VHOST_USER_HEADER_SIZE, &m, VHOST_USER_HEADER_SIZE);
	if (link_send_bytes(&p->link, bytes, sizeof(bytes))) {
		fail(p, "three messages in one write close the connection");
		return;
	}
	for (unsigned k = 0; k < 3; k++) {
		int err = link_receive(&p->link, &m, p->options->timeout_ms);

		if (err || m.request != VHOST_USER_GET_FEATURES || m.u64 != p->offered) {
			fail(p, "three GET_FEATURES in one write: answer %u is missing or wrong", k + 1);
			return;
		}
	}
	ask_u64(p, VHOST_USER_GET_FEATURES, &value);
}

#define C      PROBE_CONFORMANCE
#define STATES "vhost-user, Ring states"
/* clang-format off */
const struct front_test front_setup_tests[] = {
	{ "features", "GET_FEATURES answers the same on every connection", "vhost-user, VHOST_USER_GET_FEATURES", C, ONCE, 0, features, 0 },
	{ "protocol-features", "GET_ and SET_PROTOCOL_FEATURES before anything else", "vhost-user, VHOST_USER_GET_PROTOCOL_FEATURES", C, ONCE, 0, protocol_features, 0 },
	{ "session", "a session with the usual features; requests are served", "vhost-user, Communication", C, EACH, 0, reconnect, 0 },
	{ "without-protocol-features", "bit 30 is not acknowledged: rings start enabled", STATES, C, EACH, 0, without_protocol_features, 0 },
	{ "empty-protocol-features", "bit 30, but no protocol feature", "vhost-user, Communication", C, ONCE, 0, empty_protocol_features, 0 },
	{ "every-feature", "all ring and protocol features that are offered, at once", "vhost-user, Protocol features", C, EACH, 0, every_feature, 0 },
	{ "disabled-ring", "a ring that is started and not enabled has no side effects; net: it drops what is sent", STATES, C, ONCE, 0, disabled_ring, 0 },
	{ "disable-and-enable", "SET_VRING_ENABLE 0 and 1 while the ring runs", STATES, C, EACH, 0, disable_again, 0 },
	{ "stop-and-go", "GET_VRING_BASE stops a ring and tells its place; it goes on from there", STATES, C, EACH, 0, stop_and_go, 0 },
	{ "stopped-ring", "after GET_VRING_BASE nothing is processed until the ring starts again", STATES, C, EACH, 0, stopped_ring, 1 },
	{ "start-with-work", "requests that wait when the ring starts are served; one kick is injected", STATES, C, EACH, 0, start_with_work, 1 },
	{ "base-of-unused-ring", "GET_VRING_BASE of a ring that never started is answered", "vhost-user, VHOST_USER_GET_VRING_BASE", C, ONCE, 0, base_of_unused_ring, 0 },
	{ "base-not-zero", "a ring that starts in the middle and wraps", "vhost-user, VHOST_USER_SET_VRING_BASE", C, EACH, 0, base_not_zero, 0 },
	{ "call-replaced", "a new call descriptor while the ring runs", "vhost-user, VHOST_USER_SET_VRING_CALL", C, ONCE, 0, call_replaced, 0 },
	{ "call-without-fd", "bit 8 of SET_VRING_CALL: the front end polls", "vhost-user, VHOST_USER_SET_VRING_CALL", C, ONCE, 0, call_without_fd, 0 },
	{ "kick-without-fd", "bit 8 of SET_VRING_KICK: the back end polls", "vhost-user, VHOST_USER_SET_VRING_KICK", C, ONCE, 0, kick_without_fd, 0 },
	{ "error-fd", "SET_VRING_ERR with and without a descriptor", "vhost-user, VHOST_USER_SET_VRING_ERR", C, ONCE, 0, error_fd, 0 },
	{ "features-again", "SET_FEATURES while rings run, as migration does it", STATES, C, ONCE, 0, features_on_the_fly, 0 },
	{ "queues", "several queue pairs or queues; each does work", "vhost-user, Multiple queue support", C, EACH, 0, many_pairs, 0 },
	{ "ack-asked", "each message with need_reply is acknowledged once", "vhost-user, VHOST_USER_PROTOCOL_F_REPLY_ACK", C, ONCE, 0, ack_every_message, 0 },
	{ "ack-not-asked", "no acknowledgement without need_reply", "vhost-user, VHOST_USER_PROTOCOL_F_REPLY_ACK", C, ONCE, 0, no_ack_unasked, 0 },
	{ "ack-not-negotiated", "need_reply means nothing without REPLY_ACK", "vhost-user, VHOST_USER_PROTOCOL_F_REPLY_ACK", C, ONCE, 0, ack_not_negotiated, 0 },
	{ "one-reply-only", "need_reply on a message that has a reply: one reply", "vhost-user, VHOST_USER_PROTOCOL_F_REPLY_ACK", C, ONCE, 0, one_reply_only, 0 },
	{ "unknown-message", "a message of another time does no harm", "vhost-user, Communication", C, ONCE, 0, unknown_message, 0 },
	{ "abandoned", "the connection ends after each step of setting up", "vhost-user, Communication", C, ONCE, 0, abandoned, 0 },
	{ "byte-by-byte", "a message that comes in many pieces", "vhost-user, Communication: a stream socket", C, ONCE, 0, byte_by_byte, 0 },
	{ "several-at-once", "several messages that come in one piece", "vhost-user, Communication: a stream socket", C, ONCE, 0, several_at_once, 0 },
	{ 0 },
};
const struct front_test front_restart_tests[] = {
	{ "restart-without-num", "a ring that was stopped starts again; its size was set before and is not sent again", STATES, C, EACH, 0, stopped_ring, 0 },
	{ 0 },
};
/* clang-format on */
