/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-vsock (virtio 1.3, 5.10) in user space: connections between guest and host without a network and
 * without the host kernel's vhost_vsock. On the host's side they are Unix sockets, as Firecracker and Cloud Hypervisor
 * have it:
 *
 *	host to guest: connect to PATH, write "CONNECT PORT\n", read "OK HOSTPORT\n"; a stream to the guest's port follows
 *	guest to host: a connection to CID 2, port N, becomes a connection to PATH_N
 *
 * SOCK_SEQPACKET likewise: hosts connect to PATH.seqpacket, with a Unix socket of that type, where CONNECT and OK are a
 * message each; the guest's connection to port N reaches PATH_N if its listener is of that type.
 */
#ifndef GUISE_DEVICES_VSOCK_H
#define GUISE_DEVICES_VSOCK_H

#include "virtio/device.h"

struct vsock;

struct vsock_config {
	const char *owner; /* names the device's thread */
	uint32_t cid;	   /* the guest's, 3 or above */
	const char *path;  /* copied */
};

/* Served on a thread of its own. 0, or -errno with a sentence in why. */
int vsock_new(const struct dma *dma, const struct vsock_config *config, struct vsock **vsock, char *why, size_t why_size);
void vsock_free(struct vsock *vsock);
struct virtio_device *vsock_device(struct vsock *vsock);

#endif
