/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to tap*.c: a TAP's queues, and the calls that move their packets. */
#ifndef GUISE_NET_TAP_INTERNAL_H
#define GUISE_NET_TAP_INTERNAL_H

#include <liburing.h>
#include <linux/if.h>

#include "net/port.h"

enum { TAP_MAX_QUEUES = 16, TAP_BURST = 64 };

/* One queue. Its user's, but for the counters, which anybody may read. */
struct tap_queue {
	int fd;
	bool has_uring;	     /* bursts of packets are handed to the kernel by one call */
	bool is_immediate;   /* requests may say RWF_NOWAIT: none is ever left waiting */
	bool reads_bursts;   /* has_uring is used for receiving, too */
	unsigned least;	     /* packets of a burst for which it is used */
	unsigned expected;   /* packets that wait when one does */
	struct io_uring uring;
	struct port_counters counters;
};

struct tap {
	struct port port;
	char name[IFNAMSIZ + 4]; /* "tap NAME", for messages */
	unsigned n_attached;	 /* queues 0..n_attached-1 take part */
	struct tap_queue queue[TAP_MAX_QUEUES];
};

/* Find out what a queue with its fd may do by io_uring. Never fails: it may be nothing. */
void tap_queue_init(struct tap_queue *q, enum tap_calls calls);
void tap_queue_deinit(struct tap_queue *q); /* and close its fd */

int tap_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n);
int tap_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n);

#endif
