/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front end's half of one vhost-user connection: requests as the functions of ops.h, and the back end's
 * own requests. Connecting, and connecting again, is link.h's.
 *
 * Every request waits for its answer (with REPLY_ACK, for every one there is one). A request that is refused,
 * answered wrongly or not in time is logged with message, values and reason and returns -errno; -EPROTO,
 * -ETIMEDOUT, -ECONNRESET and -EPIPE mean that the connection is of no use any more. One thread at a time.
 */
#ifndef GUISE_VHOST_FRONTEND_H
#define GUISE_VHOST_FRONTEND_H

#include "vhost/message.h"
#include "vhost/ops.h"

struct vhost_frontend_config {
	const char *owner;	    /* begins messages */
	uint64_t protocol_features; /* that may be negotiated, of those that the front end knows; 0: all of
				       them */
	bool queues_are_pairs;	    /* network: what GET_QUEUE_NUM counts are pairs of rings, as QEMU and DPDK have it */
	unsigned timeout_ms;	    /* for one answer */
	/* The back end's configuration space changed. Called from within a request, or
	 * vhost_frontend_serve(). May be NULL. */
	void (*config_changed)(void *opaque);
	void *opaque;
};

/*
 * Begin a session on a connected socket, which belongs to the front end from here on, also on failure:
 * features, protocol features, owner, the back end's channel, number of rings and memory slots. 0/-errno.
 */
int vhost_frontend_open(int socket, const struct vhost_frontend_config *config, struct vhost **v);

struct vhost_frontend_info {
	uint64_t protocol_features; /* negotiated */
	unsigned max_rings;	    /* that the back end serves; VHOST_MAX_RINGS if it did not say */
	unsigned max_regions;
};
void vhost_frontend_info(const struct vhost *v, struct vhost_frontend_info *info);

int vhost_frontend_socket(const struct vhost *v); /* readable outside a request: see vhost_frontend_check() */
int vhost_frontend_channel(
	const struct vhost *v); /* readable: vhost_frontend_serve(); -1: the back end asks nothing */
/* The socket became readable: 0, it was an answer that is taken already; -ECONNRESET: the back end is gone;
 * -EPROTO: it talks unasked. */
int vhost_frontend_check(struct vhost *v);
/* Serve the back end's requests that have come. 0; -errno: the channel is broken, do not watch it any more;
 * the session goes on. */
int vhost_frontend_serve(struct vhost *v);

/* The names and values of a message on one line, for people: "SET_VRING_NUM ring 3, 256". Returns text. */
char *vhost_user_format(enum vhost_user_channel channel, const struct vhost_user_message *m, bool reply,
			char *text, size_t size);

#endif
