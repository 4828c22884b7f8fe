/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to back*.c: the state of a back port. */
#ifndef GUISE_VIRTIO_USER_BACK_INTERNAL_H
#define GUISE_VIRTIO_USER_BACK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/loop.h"
#include "memory/memory.h"
#include "vhost/backend.h"
#include "virtio_user/virtio_user.h"

struct back_ring {
	struct vhost_backend_ring *ring;
	struct virtq q;
	bool running, reported, logs;
	unsigned owed; /* bursts since the driver's wish for calls was looked at */
} __attribute__((aligned(64)));

/* Protected by lock. */
struct back_queue {
	pthread_mutex_t lock;
	struct back_ring from; /* the driver's transmitq: what we receive */
	struct back_ring to;   /* its receiveq: what we send */
	bool kicks_wanted;
	int start_fd;	       /* tells a sleeping user that a ring was started */
	int wake_fd;	       /* epoll: readable when start_fd is, or the present driver's kick */
	struct port_counters counters;
} __attribute__((aligned(128)));

struct back {
	struct port port;
	struct back_port_config config;
	char *path, *name;
	struct loop *loop;
	pthread_t thread;
	bool is_running;
	struct vhost_backend *backend;
	struct memory mem;
	unsigned receive_offloads;
	_Atomic bool up, polling, mergeable;
	pthread_mutex_t state_lock;
	pthread_cond_t changed;
	unsigned n_made;
	struct back_queue *queue;
};

/* back_burst.c */
int back_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n);
int back_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n);

#endif
