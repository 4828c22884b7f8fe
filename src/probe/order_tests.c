/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Conformance of a back end: the messages that set a ring up may come in any order in which what a message
 * needs was there before it. All such orders are counted through; a sample spread evenly over them is tried,
 * or, thoroughly, each one.
 */
#include <string.h>

#include "probe/front.h"
#include "probe/work.h"

enum event { MEMORY, NUM, BASE, ADDR, CALL, ENABLE, KICK, EVENTS };
enum { SAMPLE = 24, ORDERS = 5040 /* of seven events */ };

static const char *const event_names[EVENTS] = {
    "SET_MEM_TABLE",  "SET_VRING_NUM",	  "SET_VRING_BASE", "SET_VRING_ADDR",
    "SET_VRING_CALL", "SET_VRING_ENABLE", "SET_VRING_KICK",
};

/* Order number n of all permutations, as digits of the factorial number system. */
static void permutation(unsigned n, enum event order[EVENTS])
{
	enum event left[EVENTS] = {MEMORY, NUM, BASE, ADDR, CALL, ENABLE, KICK};

	for (unsigned k = 0; k < EVENTS; k++) {
		unsigned choices = EVENTS - k, pick = n % choices;

		n /= choices;
		order[k] = left[pick];
		memmove(&left[pick], &left[pick + 1], (choices - pick - 1) * sizeof(left[0]));
	}
}

static unsigned place(const enum event order[EVENTS], enum event e)
{
	unsigned k = 0;

	while (order[k] != e)
		k++;
	return k;
}

/* Addresses mean something once memory is known; a kick descriptor starts the ring, so its size, place and
 * addresses come first. */
static bool is_legal(const enum event order[EVENTS])
{
	unsigned kick = place(order, KICK);

	return place(order, MEMORY) < place(order, ADDR) && place(order, ADDR) < kick &&
	       place(order, NUM) < kick && place(order, BASE) < kick;
}

static int happen(struct probe *p, enum event e, unsigned index)
{
	switch (e) {
	case NUM:
		return session_num(p, index);
	case BASE:
		return session_base(p, index);
	case ADDR:
		return session_addr(p, index);
	case CALL:
		return session_call(p, index);
	case ENABLE:
		return session_enable(p, index, true);
	case KICK:
		return session_kick(p, index);
	default:
		return index ? 0 : session_memory(p);
	}
}

/* Each step for all rings before the next one, or ring by ring. */
static int play(struct probe *p, const enum event order[EVENTS], bool ring_by_ring)
{
	unsigned n = session_queues(p), total = n * EVENTS;

	if (session_connect(p) || session_negotiate(p) || session_features(p))
		return -1;
	for (unsigned k = 0; k < n; k++)
		if (session_lay_out(p, k))
			return -1;
	if (ring_by_ring && session_memory(p))
		return -1;
	for (unsigned k = 0; k < total; k++) {
		unsigned ring = ring_by_ring ? k / EVENTS : k % n;
		enum event e = order[ring_by_ring ? k % EVENTS : k / n];

		if (!(ring_by_ring && e == MEMORY) && happen(p, e, ring))
			return -1;
	}
	return work_pair(p, 0);
}

static void say_which(struct probe *p, const enum event order[EVENTS])
{
	char before[200];

	snprintf(before, sizeof(before), "%.199s", p->verdict.text);
	snprintf(p->verdict.text, sizeof(p->verdict.text), "order");
	for (unsigned k = 0; k < EVENTS; k++)
		snprintf(p->verdict.text + strlen(p->verdict.text),
			 sizeof(p->verdict.text) - strlen(p->verdict.text), " %s", event_names[order[k]]);
	snprintf(p->verdict.text + strlen(p->verdict.text), sizeof(p->verdict.text) - strlen(p->verdict.text),
		 ": %s", before);
}

static void orders(struct probe *p, unsigned ring_by_ring)
{
	unsigned legal = 0, tried = 0, step, seen = 0;
	enum event order[EVENTS];

	for (unsigned n = 0; n < ORDERS; n++) {
		permutation(n, order);
		legal += is_legal(order);
	}
	step = p->options->thorough ? 1 : legal / SAMPLE;
	for (unsigned n = 0; n < ORDERS; n++) {
		permutation(n, order);
		if (!is_legal(order) || seen++ % step)
			continue;
		if (play(p, order, ring_by_ring)) {
			say_which(p, order);
			return;
		}
		tried++;
	}
	remark(p, "%u of %u legal orders", tried, legal);
}

/* As QEMU does it: rings are enabled, and have call descriptors, before the features are set. */
static void enable_before_features(struct probe *p, unsigned argument)
{
	if (need_feature(p, VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES") || session_connect(p) ||
	    session_negotiate(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_lay_out(p, k) || session_call(p, k) || session_enable(p, k, true))
			return;
	if (session_features(p) || session_memory(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_num(p, k) || session_base(p, k) || session_addr(p, k) || session_kick(p, k) ||
		    session_call(p, k))
			return;
	work_pair(p, 0);
}

static void memory_before_features(struct probe *p, unsigned argument)
{
	if (session_connect(p) || session_negotiate(p) || session_memory(p) || session_features(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_queue(p, k))
			return;
	work_pair(p, 0);
}

static void last_ring_first(struct probe *p, unsigned argument)
{
	if (session_prepare(p))
		return;
	for (unsigned k = session_queues(p); k--;)
		if (session_queue(p, k))
			return;
	work_pair(p, 0);
}

#define C    PROBE_CONFORMANCE
#define RULE "vhost-user, Ring states; no order is prescribed"
/* clang-format off */
const struct front_test front_order_tests[] = {
	{ "orders", "the messages of setting up, each for all rings, in every legal order", RULE, C, EACH, 0, orders, 0 },
	{ "orders-ring-by-ring", "the same, one ring after the other", RULE, C, ONCE, PROBE_NET, orders, 1 },
	{ "enable-before-features", "SET_VRING_ENABLE and _CALL before SET_FEATURES, as QEMU sends them", RULE, C, ONCE, 0, enable_before_features, 0 },
	{ "memory-before-features", "SET_MEM_TABLE before SET_FEATURES", RULE, C, ONCE, 0, memory_before_features, 0 },
	{ "last-ring-first", "the transmitq is set up before the receiveq", RULE, C, ONCE, PROBE_NET, last_ring_first, 0 },
	{ 0 },
};
/* clang-format on */
