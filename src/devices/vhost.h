/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio devices whose queues somebody else serves: another process over vhost-user, or the host kernel. The
 * machine keeps transport, features and configuration; kicks and calls go between driver and back end
 * directly.
 *
 * A back end may go away and come back at any time. Meanwhile a network card has no carrier, and a disk's
 * requests wait.
 */
#ifndef GUISE_DEVICES_VHOST_H
#define GUISE_DEVICES_VHOST_H

#include "vhost/link.h"
#include "virtio/device.h"

struct served;

struct served_config {
	const char *owner;    /* the VM's name, for threads and messages */
	const char *path;     /* vhost-user socket, or NULL: */
	bool server;	      /* listen there; else connect */
	struct vhost *kernel; /* a kernel vhost: the device's from here on, also on failure */
	unsigned n_queues;    /* net: pairs; disk: queues, 0: as many as offered, at most default_queues */
	unsigned default_queues;
	bool has_mac; /* network only, like what follows */
	uint8_t mac[6];
	uint16_t mtu; /* 0: not told to anybody */
	uint64_t cid; /* sockets only */
	bool packed;  /* offer the packed ring, if the back end does */
	bool access_platform; /* offer ACCESS_PLATFORM: a back end without it is refused */
};

/*
 * Make the device; waits for the first connection, because what the device offers its driver is what the back
 * end offers. 0/-errno with a sentence in why.
 */
int vhost_net_new(const struct served_config *config, const struct dma *dma, struct served **served,
		  char *why, unsigned why_size);
int vhost_blk_new(const struct served_config *config, const struct dma *dma, struct served **served,
		  char *why, unsigned why_size);
int vhost_vsock_new(const struct served_config *config, const struct dma *dma, struct served **served,
		    char *why, unsigned why_size);

struct virtio_device *served_device(struct served *served);
/* The link and all threads end; then the transport is freed, then the device. */
void served_stop(struct served *served);
void served_free(struct served *served);

#endif
