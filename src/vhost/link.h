/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A lasting link to whoever serves the queues (ops.h): it connects or listens, negotiates, hands over memory
 * and rings when the owner has started them, and does all of that again, for ever, whenever the other side
 * went away. The owner sees a device that is connected or not; its rings are taken up where they stood.
 *
 * The owner is anybody with rings: a virtio device of a machine, or a virtio_user port. It says what it wants
 * by vhost_link_start() and _stop(), connected or not.
 *
 * Threads: one of the link's own, which makes connections and hears of their end; calls may come from any
 * thread and are made one at a time. A call waits for the other side, config.timeout_ms at most: one that
 * does not answer is disconnected. Events are told on the link's thread, without a lock held; they may call
 * the link.
 */
#ifndef GUISE_VHOST_LINK_H
#define GUISE_VHOST_LINK_H

#include "vhost/ops.h"

struct vhost_link;

struct vhost_link_events {
	/* Connected: features, configuration and counts are known; what was started is being served. */
	void (*connected)(void *opaque);
	/* Disconnected: the other side is gone and touches nothing any more. Started rings stand still. With
	 * a kernel vhost: what it serves is gone, for good; its rings are still to be stopped. */
	void (*disconnected)(void *opaque);
	void (*config_changed)(void *opaque); /* the other side's configuration space */
	/*
	 * Where ring `index` stands, for one that the other side left without an answer: a base as for
	 * virtq_start(). NULL: read off the ring itself (restore.h), which an owner of the driver half can do
	 * better.
	 */
	uint32_t (*ring_base)(void *opaque, unsigned index);
};

struct vhost_link_config {
	const char *owner; /* names the thread and begins messages */
	/* Either a vhost-user socket: connect to path, or listen there if `server`... */
	const char *path;
	bool server;
	/* ... or an open kernel vhost: the link's from vhost_link_new() on, also when that fails. It does not
	 * come back. */
	struct vhost *device;
	unsigned device_id;   /* virtio 1.3, chapter 5: for names in messages */
	uint64_t features;    /* feature bits that the owner understands; no other is ever set */
	uint64_t required;    /* of them: a back end without these is refused */
	unsigned n_rings;     /* that the owner will start at most */
	uint16_t ring_size;   /* of the largest; for the inflight area */
	uint32_t config_size; /* bytes of configuration space to fetch from the other side; 0: it is the
				 owner's */
	bool inflight;	      /* have a crashed back end's requests taken up by its successor, where it can */
	bool has_mac;	      /* network: announce this address after reconnecting, unless GUEST_ANNOUNCE is
				 negotiated */
	uint8_t mac[6];
	uint16_t mtu;				/* network: told to the other side; 0: not */
	unsigned timeout_ms;			/* for one answer; 0: 60000 */
	const struct vhost_link_events *events; /* may be NULL, as may its members */
	void *opaque;
};

/* 0/-errno, with a sentence in why. Returns at once: connected or not. */
int vhost_link_new(const struct vhost_link_config *config, struct vhost_link **link, char *why,
		   unsigned why_size);
void vhost_link_free(struct vhost_link *link); /* stops it first; no event comes any more */

/* Wait until connected: 0, or -ETIMEDOUT. timeout_ms -1: for ever. */
int vhost_link_wait(struct vhost_link *link, int timeout_ms);

struct vhost_link_info {
	bool connected;
	uint64_t features; /* offered by the other side, of those in config.features; from the last connection
			    */
	unsigned max_rings;	    /* that it can serve */
	uint64_t protocol_features; /* vhost-user: negotiated */
	uint64_t connections;	    /* so far */
};
void vhost_link_info(struct vhost_link *link, struct vhost_link_info *info);

/*
 * Serve these rings from here on. features: what the driver accepted. region and ring are copied; the
 * descriptors in them stay open until vhost_link_stop(). ring[k].base is where ring k begins; a ring with
 * config.size 0 is left out. All rings are enabled, but those that vhost_link_enable() has disabled since the
 * last stop. 0, connected or not; -EINVAL: features that nobody offered, a ring outside the memory; -EBUSY:
 * started already.
 */
int vhost_link_start(struct vhost_link *link, uint64_t features, const struct vhost_region *region,
		     unsigned n_regions, const struct vhost_ring *ring, unsigned n_rings);
/*
 * No more. On return the other side touches neither rings nor memory, or is disconnected. base (may be NULL):
 * where each of the rings stands.
 */
void vhost_link_stop(struct vhost_link *link, uint32_t *base);
/* Start and stop one ring of a started link (RING_RESET). */
int vhost_link_start_ring(struct vhost_link *link, unsigned index, const struct vhost_ring *ring);
uint32_t vhost_link_stop_ring(struct vhost_link *link, unsigned index);
/* Enable or disable one ring; remembered across connections, until stop. 0/-errno. */
int vhost_link_enable(struct vhost_link *link, unsigned index, bool on);
/* The memory changed while started. 0/-errno. */
int vhost_link_set_memory(struct vhost_link *link, const struct vhost_region *region, unsigned n_regions);
/* Note what the other side writes, as struct vhost_ops has it; fd -1: no more. 0; -EOPNOTSUPP; -errno. */
int vhost_link_set_log(struct vhost_link *link, int fd, uint64_t size);

/*
 * The other side's configuration space. Reads come from a copy; what was written is written again to every
 * back end that follows, until stop. 0; -EOPNOTSUPP; -errno.
 */
int vhost_link_read_config(struct vhost_link *link, uint32_t offset, void *data, uint32_t size);
int vhost_link_write_config(struct vhost_link *link, uint32_t offset, const void *data, uint32_t size);

/* Tell the network where this address is (RARP), by the back end. 0; -EOPNOTSUPP; -ENOTCONN; -errno. */
int vhost_link_announce(struct vhost_link *link, const uint8_t mac[6]);

/* All slots of a machine's memory that are backed by a descriptor, as regions. Their number, or -ENOSPC. */
int vhost_regions(struct memory *mem, struct vhost_region *region, unsigned capacity);

#endif
