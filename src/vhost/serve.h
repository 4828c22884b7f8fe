/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio device served over vhost-user: the device is the one that stands behind PCI in a machine, and this is its
 * transport here. Rings take the place of the driver's register writes: what starts a ring starts the device's queue.
 */
#ifndef GUISE_VHOST_SERVE_H
#define GUISE_VHOST_SERVE_H

#include "vhost/backend.h"
#include "virtio/device.h"

struct vhost_serve;

struct vhost_serve_config {
	const char *name;	/* begins messages; outlives the device */
	unsigned n_rings;	/* of the device's queues, from the first on */
	unsigned queue_num;	/* as in vhost_backend_config */
	uint32_t max_ring_size;
	uint64_t withheld;	/* feature bits that the front end does itself, or that make no sense without it */
	uint64_t protocol;	/* as in vhost_backend_config */
	struct vhost_socket_config socket;
	int (*set_mtu)(void *opaque, uint64_t mtu);		/* may be NULL, all of them */
	int (*announce)(void *opaque, const uint8_t mac[6]);
	void *opaque;
	void (*finished)(void *opaque); /* an inherited connection's only session is over */
	void *finished_opaque;
};

/*
 * Put `device`, which is not on another transport and whose type can start and stop single queues, behind a socket. Its
 * dma.mem is filled from what front ends send. 0, or -errno with a sentence in why.
 */
int vhost_serve_new(struct loop *loop, struct virtio_device *device, const struct vhost_serve_config *config,
		     struct vhost_serve **v, char *why, size_t why_size);
/* Ends the session. Before the device is freed; on the loop's thread, or when it does not run. */
void vhost_serve_free(struct vhost_serve *v);

#endif
