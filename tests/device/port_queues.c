/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which queue pairs packets come on, for a port that uses fewer than it has, and more again.
 *
 *	port_queues PORT QUEUES [SOURCE]
 *
 * PORT is one as for guise port, its other side sends packets all the time, on every pair that it may. If SOURCE is given it is a port
 * by which packets are sent here that get to PORT somehow: of many flows, for who spreads them over pairs by flow. Packets must come on
 * all pairs that are used, and after port_set_queues() has returned none may on another.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <guise/port.h>

#include "base/loop.h"
#include "cmd/port_frames.h"

enum { BURST = 32, EACH = 1000, FRAME = 60, WAIT_MS = 60000, MAX_QUEUES = 16 };

static struct port *open_port(const char *description)
{
	char why[300] = "";
	struct port *port;

	if (port_open("port_queues", description, &port, why, sizeof(why)) || port_wait(port, WAIT_MS)) {
		printf("FAILED: %s: %s\n", description, *why ? why : "nobody is at the other side");
		exit(1);
	}
	return port;
}

/* A burst of UDP, each packet of another flow. */
static void make_flows(struct port *source)
{
	static const uint8_t from[6] = { 2, 0, 0, 0, 0, 3 }, to[6] = { 2, 0, 0, 0, 0, 4 };
	static uint8_t flow;
	struct port_buffer b[BURST];
	unsigned n = port_lend(source, 0, b, BURST), sent;

	for (unsigned k = 0; k < n; k++) {
		memset(b[k].data, 0, PORT_HEADER + FRAME);
		frame_headers(b[k].data + PORT_HEADER, FRAME, from, to);
		b[k].data[PORT_HEADER + 14 + 15] = flow++; /* of the source's address; nobody looks at the checksum */
		b[k].bytes = PORT_HEADER + FRAME;
	}
	sent = port_submit(source, 0, b, n);
	port_give_back(source, 0, b + sent, n - sent);
}

static unsigned collect(struct port *port, unsigned queue)
{
	struct port_buffer b[BURST];
	unsigned got = port_collect(port, queue, b, BURST);

	port_give_back(port, queue, b, got);
	return got;
}

/* With the first n of `all` pairs in use; false, said why: not as it should be. */
static bool try(struct port *port, struct port *source, unsigned n, unsigned all)
{
	uint64_t end = now_ns() + WAIT_MS * 1000000ull, count[MAX_QUEUES] = { 0 };
	unsigned satisfied = 0;
	int err = port_set_queues(port, n);

	if (err) {
		printf("FAILED: port_set_queues(%u): %s\n", n, strerror(-err));
		return false;
	}
	for (unsigned k = n; k < all; k++)
		while (collect(port, k)) /* came before */
			;
	while (satisfied < n && now_ns() < end) {
		if (source)
			make_flows(source);
		satisfied = 0;
		for (unsigned k = 0; k < all; k++) {
			count[k] += collect(port, k);
			satisfied += k < n && count[k] >= EACH;
		}
	}
	printf("%u of %u pairs:", n, all);
	for (unsigned k = 0; k < all; k++) {
		printf(" %llu", (unsigned long long)count[k]);
		if (k >= n && count[k])
			satisfied = 0;
	}
	printf(" packets%s\n", satisfied == n ? "" : " FAILED");
	return satisfied == n;
}

int main(int argc, char **argv)
{
	unsigned all = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
	struct port *port, *source;
	bool good = true;

	if (!all || all > MAX_QUEUES) {
		fprintf(stderr, "port_queues PORT QUEUES [SOURCE]\n");
		return 2;
	}
	port = open_port(argv[1]);
	source = argc > 3 ? open_port(argv[3]) : NULL;
	if (port_queues(port) != all) {
		printf("FAILED: %u queue pairs, %u were expected\n", port_queues(port), all);
		return 1;
	}
	for (unsigned round = 0; round < 2 && good; round++) {
		for (unsigned n = all; n && good; n--)
			good = try(port, source, n, all);
		for (unsigned n = 2; n < all && good; n++)
			good = try(port, source, n, all);
	}
	good = good && try(port, source, all, all);
	port_close(source);
	port_close(port);
	return good ? 0 : 1;
}
