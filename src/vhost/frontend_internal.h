/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to frontend*.c. */
#ifndef GUISE_VHOST_FRONTEND_INTERNAL_H
#define GUISE_VHOST_FRONTEND_INTERNAL_H

#include "vhost/frontend.h"

enum { FRONTEND_MISSES = 64 };

struct frontend_ring {
	bool is_started;
	struct virtq_config config;
};

struct frontend {
	struct vhost vhost;
	struct vhost_frontend_config config;
	int socket, channel;	/* channel: our end of the back end's requests, or -1 */
	bool is_channel_broken; /* and not looked at any more */
	uint64_t offered, features,
		protocol; /* virtio features offered and set; protocol features negotiated */
	unsigned max_rings, max_regions;
	bool is_logging;
	bool in_request; /* a request waits for its answer: IOTLB misses must wait, too */
	struct vhost_user_receiver reply, asked; /* on socket, on channel */
	struct vhost_region region[VHOST_MAX_REGIONS];
	unsigned n_regions;
	struct frontend_ring ring[VHOST_MAX_RINGS];
	/* IOTLB misses that have not been answered yet: the messages, for their replies */
	struct vhost_user_message *miss[FRONTEND_MISSES];
	unsigned n_misses;
};

static inline bool frontend_has(const struct frontend *f, unsigned protocol_feature)
{
	return f->protocol >> protocol_feature & 1;
}

/*
 * Send m and wait for its answer, if it has one; the answer's payload is then in *reply (NULL: not wanted)
 * with its descriptors. 0; -EIO: refused by the back end; others: the connection is broken.
 */
int frontend_request(struct frontend *f, struct vhost_user_message *m, struct vhost_user_message *reply);

#endif
