/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vhost-user back end: the side that serves the queues. It meets front ends over a socket, one at a time, takes their
 * memory and their rings, and hands each ring to its owner when it may be served.
 *
 * Who uses it: serve.h puts a virtio device behind it, as another would put one behind PCI; a port or a switch serves the
 * rings itself with bursts. The library does all of the protocol: features, memory table, ring states in any legal order,
 * acknowledgements, dirty log, inflight notes, IOTLB.
 *
 * A ring is started when everything it needs is known (features, memory, size, addresses, and a kick descriptor or the
 * wish to be polled), stopped by GET_VRING_BASE, by a reset and by the end of the session; and stopped and started
 * again whenever memory or addresses change under it. Started, it may be disabled: then it has no side effects; a network
 * ring drains what the driver sends.
 *
 * What the front end does wrong is refused: logged with message, field, value and reason, acknowledged with an error if it asked
 * for an acknowledgement, else its connection is closed. It never costs more than its own session.
 *
 * Threads: everything happens on the event loop's thread, but for the functions that say otherwise.
 */
#ifndef GUISE_VHOST_BACKEND_H
#define GUISE_VHOST_BACKEND_H

#include <stdatomic.h>

#include "base/loop.h"
#include "vhost/message.h"
#include "vhost/socket.h"
#include "virtio/virtq.h"

enum { VHOST_BACKEND_MAX_RINGS = 256, VHOST_BACKEND_MAX_SLOTS = 512 };

struct vhost_backend;

/* A ring as its owner sees it. Fields are constant while it is started, but for `enabled`. */
struct vhost_backend_ring {
	struct vhost_backend *backend;
	unsigned index;
	int kick_fd;	      /* eventfd, non-blocking; -1: the driver does not kick, poll */
	_Atomic bool enabled; /* any thread may read it */
	void *owner;	      /* the owner's, to do with as it likes */
};

/*
 * What the owner of a device does. All are called on the loop's thread; what is NULL is not done. The 0/-errno of those that
 * answer a message becomes its acknowledgement.
 */
struct vhost_backend_ops {
	/* The driver's features (those of the device and its rings). No ring is started meanwhile. */
	int (*set_features)(void *opaque, uint64_t features);
	/*
	 * Serve a ring from now on: open it by vhost_backend_open() and have a thread look at it at once, for there may be
	 * chains already. 0, or -errno: the ring stays stopped, and nothing is left of the attempt.
	 */
	int (*start_ring)(void *opaque, struct vhost_backend_ring *ring);
	/*
	 * On return nothing touches the ring or memory of its chains; chains that were popped have been pushed. The owner closes
	 * it by vhost_backend_close().
	 */
	void (*stop_ring)(void *opaque, struct vhost_backend_ring *ring);
	/* ring->enabled of a started ring has changed. */
	void (*enable_ring)(void *opaque, struct vhost_backend_ring *ring);
	/* Configuration space. A driver's writes have migration false. */
	int (*get_config)(void *opaque, uint32_t offset, void *data, uint32_t size);
	int (*set_config)(void *opaque, uint32_t offset, const void *data, uint32_t size, bool migration);
	int (*set_mtu)(void *opaque, uint64_t mtu);
	int (*announce)(void *opaque, const uint8_t mac[6]); /* send a RARP for it */
	/* A front end has come, or gone; all rings are stopped then. */
	void (*session)(void *opaque, bool begins);
	/* Back to the initial state (RESET_DEVICE, status 0); all rings are stopped. */
	void (*reset)(void *opaque);
	/* The inherited socket's only session is over. */
	void (*finished)(void *opaque);
};

struct vhost_backend_config {
	const char *name;	/* begins messages: "vhost-blk PATH" */
	unsigned device_id;	/* virtio's, for the names of features; 0: unknown */
	uint64_t features;	/* of device and rings; LOG_ALL and PROTOCOL_FEATURES are added here */
	uint64_t protocol;	/* protocol features that the ops serve beyond those that are always there: CONFIG, MTU, RARP,
				   INFLIGHT_SHMFD */
	unsigned n_rings;	/* 1..VHOST_BACKEND_MAX_RINGS */
	unsigned queue_num;	/* the answer to GET_QUEUE_NUM: a network card's front ends count pairs; 0: n_rings */
	uint32_t max_ring_size; /* 1..VIRTQ_MAX_SIZE */
	struct memory *memory;	/* initialised, empty; filled here. Outlives the back end. */
	struct vhost_socket_config socket;
	const struct vhost_backend_ops *ops;
	void *opaque;
};

/* 0, or -errno with a sentence in why. `config` is copied, but for name, ops and opaque, which outlive the back end. */
int vhost_backend_new(struct loop *loop, const struct vhost_backend_config *config, struct vhost_backend **backend, char *why,
		      size_t why_size);
/* Ends the session; stops all rings. On the loop's thread, or when the loop does not run. */
void vhost_backend_free(struct vhost_backend *backend);

/* The protocol features that a back end with these extras offers. */
uint64_t vhost_backend_protocol(uint64_t extra);

/* Configuration space has changed: tell the front end, if it can be told. Any thread. */
void vhost_backend_config_changed(struct vhost_backend *backend);

struct vhost_backend_counters {
	uint64_t sessions, messages, refused;
};
struct vhost_backend_counters vhost_backend_counters(const struct vhost_backend *backend);

/* --- for the ring's owner --- */

/* In start_ring: start *q, where the front end says. 0, or -errno as virtq_start(), -EPROTO: unusable inflight notes. */
int vhost_backend_open(struct vhost_backend_ring *ring, struct virtq *q);
/* In stop_ring (or a start_ring that fails later): the ring's position is kept for whoever asks. */
void vhost_backend_close(struct vhost_backend_ring *ring, struct virtq *q);
/* Call the driver, after virtq_should_call() said so. The ring's thread. */
void vhost_backend_call(struct vhost_backend_ring *ring);
/* The ring's thread, once: the driver broke the rules (q->error) and the ring is dead. Tells the front end. */
void vhost_backend_ring_failed(struct vhost_backend_ring *ring, const struct virtq *q);
/*
 * Is a dirty log kept? Constant while the ring is started. If so, tell of every write to guest memory and of every push,
 * after it was made. The ring's thread.
 */
bool vhost_backend_logs(const struct vhost_backend_ring *ring);
void vhost_backend_written(struct vhost_backend_ring *ring, const struct virtq_chain *chain, uint32_t written);

#endif
