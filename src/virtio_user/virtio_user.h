/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ports made of virtqueues. A front port is the driver's side of a network device: it owns memory and rings and has them served by
 * a vhost back end, another process's or the kernel's. A back port is the device's side: it serves the rings of a vhost-user
 * front end, such as a VM's.
 */
#ifndef GUISE_VIRTIO_USER_H
#define GUISE_VIRTIO_USER_H

#include "net/port.h"
#include "vhost/ops.h"

struct virtio_user_config {
	const char *owner;   /* names threads and begins messages */
	const char *path;    /* of the vhost-user socket ... */
	bool server;	     /* listen there, else connect */
	struct vhost *device; /* ... or an open kernel vhost, owned by the port, also if opening it fails */
	unsigned n_queues;   /* pairs, 1..PORT_MAX_QUEUES; fewer are used if the back end has fewer */
	uint16_t queue_size; /* entries, 0: 256. A power of two, 2..32768 */
	uint16_t mtu;	     /* 0: 1500 */
	bool packed;	     /* packed rings only; else split ones */
	bool no_in_order, no_mergeable, no_event_index; /* features that are not to be used */
	bool has_mac;
	uint8_t mac[6];	     /* announced after a reconnection */
};

/* 0/-errno with a sentence in why. Returns at once, connected or not. */
int port_virtio_user_open(const struct virtio_user_config *config, struct port **port, char *why, size_t why_size);

struct back_port_config {
	const char *owner;
	const char *path;
	bool client;	     /* connect, else listen */
	unsigned n_queues;   /* pairs, 1..PORT_MAX_QUEUES */
	uint16_t queue_size; /* the largest that is taken, 0: 4096 */
	uint16_t mtu;	     /* 0: 1500 */
	bool no_packed, no_in_order, no_mergeable, no_event_index; /* features that are not to be offered */
};

int port_back_open(const struct back_port_config *config, struct port **port, char *why, size_t why_size);

#endif
