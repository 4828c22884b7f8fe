/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtqueue handed to somebody else: the seam between who owns a driver's memory and who serves the queues.
 * kernel.h puts the host kernel behind it (/dev/vhost-net, /dev/vhost-vsock), frontend.h another process
 * (vhost-user). Who wants its queues served for good, across the other side's deaths, uses link.h on top.
 *
 * The order of a session: get_features, set_features, set_memory, start_ring for each ring, enable_ring, and
 * back: stop_ring. All calls come from one thread at a time; they may block until the other side has
 * answered. What a kind does not have is NULL.
 */
#ifndef GUISE_VHOST_OPS_H
#define GUISE_VHOST_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/virtq.h"

enum { VHOST_MAX_RINGS = 256, VHOST_MAX_REGIONS = 512 };

/* Memory that the driver's buffers and rings lie in, shared by descriptor. */
struct vhost_region {
	gpa_t gpa; /* as descriptors name it */
	uint64_t size;
	void *hva; /* in this process */
	int fd;	   /* not owned */
	uint64_t fd_offset;
};

/* One ring as it is handed over. The descriptors are the caller's and stay open while the ring is started. */
struct vhost_ring {
	struct virtq_config config; /* where it lies: GPAs within the regions */
	uint32_t base;		    /* where to go on: virtq_fresh_base(), or what stop_ring() gave */
	int kick_fd;		    /* eventfds; -1: the other side polls */
	int call_fd;		    /* -1: this side polls */
	int err_fd;		    /* -1: nobody wants to know */
};

/*
 * Where a back end notes the descriptors that it holds, so that its successor can take them up
 * (INFLIGHT_SHMFD). fd -1: none yet.
 */
struct vhost_inflight {
	int fd; /* owned by whoever holds this struct */
	uint64_t size, offset;
	uint16_t n_rings, ring_size;
};

struct vhost;

struct vhost_ops {
	const char *kind; /* "vhost-net", "vhost-user", ... for messages */
	/* Feature bits on offer; those of the ring and of the device type. */
	int (*get_features)(struct vhost *v, uint64_t *features);
	int (*set_features)(struct vhost *v, uint64_t features);
	/* All memory, in place of what was there. The regions' descriptors may be closed afterwards. */
	int (*set_memory)(struct vhost *v, const struct vhost_region *region, unsigned n);
	int (*start_ring)(struct vhost *v, unsigned index, const struct vhost_ring *ring);
	/* When it returns 0 the other side no longer touches ring or buffers; *base is for start_ring(). */
	int (*stop_ring)(struct vhost *v, unsigned index, uint32_t *base);
	/* A started ring does nothing until it is enabled; a disabled network ring drops what the driver
	 * sends. */
	int (*enable_ring)(struct vhost *v, unsigned index, bool on);
	/* Configuration space; -EOPNOTSUPP: the other side keeps none. */
	int (*get_config)(struct vhost *v, uint32_t offset, void *data, uint32_t size);
	int (*set_config)(struct vhost *v, uint32_t offset, const void *data, uint32_t size);
	/*
	 * Give *inflight to the other side; if it has no fd yet, get one from there first. After
	 * set_features, before start_ring. -EOPNOTSUPP: not kept.
	 */
	int (*set_inflight)(struct vhost *v, struct vhost_inflight *inflight);
	int (*set_status)(struct vhost *v, uint8_t status); /* the device status byte, for information */
	int (*reset)(struct vhost *v); /* all rings stopped; everything but ownership forgotten */
	/* Network only: tell the network where this MAC address is (RARP); the MTU in force. */
	int (*announce)(struct vhost *v, const uint8_t mac[6]);
	int (*set_mtu)(struct vhost *v, uint16_t mtu);
	/* Note writes to guest memory, a bit per 4 KiB of GPA from 0, in `size` bytes of fd; -1: no more. */
	int (*set_log)(struct vhost *v, int fd, uint64_t size);
	/* Descriptors that are readable when serve() has something to do; their number. Constant. */
	unsigned (*watched)(struct vhost *v, const int **fd);
	/*
	 * Hear what the other side says of addresses that the driver gave it (ACCESS_PLATFORM). 0; -EFAULT or
	 * another error, once: *address is in no region, and all rings have been disabled until they are started
	 * again.
	 */
	int (*serve)(struct vhost *v, uint64_t *address);
	/* A descriptor that is in error (POLLERR) once what is served is gone for good; the other side's. */
	int (*lost_fd)(struct vhost *v);
	void (*close)(struct vhost *v);
};

struct vhost {
	const struct vhost_ops *ops;
};

#endif
