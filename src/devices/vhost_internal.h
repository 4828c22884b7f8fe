/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to vhost*.c: what the kinds of vhost-served devices share. */
#ifndef GUISE_DEVICES_VHOST_INTERNAL_H
#define GUISE_DEVICES_VHOST_INTERNAL_H

#include "base/loop.h"
#include "devices/vhost.h"

enum { SERVED_QUEUE_SIZE = 256 };

struct served {
	struct virtio_device device; /* its opaque is the struct served */
	struct vhost_link *link;
	const char *owner;
	struct loop *loop; /* calls that the transport does not deliver itself, and queues that are ours */
	pthread_t thread;
	bool is_running;
	_Atomic bool is_made; /* device is there: the link's events may come before */
	struct loop_source *call[VIRTIO_MAX_QUEUES];
	bool is_ours[VIRTIO_MAX_QUEUES];     /* not handed over; set before served_start() */
	void (*free)(struct served *served); /* the kind's */
};

/* Feature bits of rings that a back end may offer its driver through us. */
uint64_t served_ring_features(const struct served_config *config);

/* Before a link could be made: what the device would have taken over ends. */
void served_refuse(const struct served_config *config);
/* Begin the link of a kind; waits for the first connection. config->events and the rest of `link` are the
 * kind's. */
int served_connect(struct served *s, const struct served_config *config, struct vhost_link_config *link,
		   char *why, unsigned why_size);
/* Then make the virtio device: `own` bits are offered beside what the back end offers. */
int served_init(struct served *s, const struct virtio_type *type, const struct dma *dma, uint64_t own,
		const uint16_t *sizes, unsigned n_queues);

/* Is there a driver, and so a transport? For the link's events. */
bool served_has_driver(struct served *s);

/* For struct virtio_type. */
int served_start(struct served *s);
void served_halt(struct served *s);
void served_halt_queue(void *opaque, unsigned index);
int served_start_queue(void *opaque, unsigned index);
void served_watch_calls(void *opaque, unsigned index, bool on);

#endif
