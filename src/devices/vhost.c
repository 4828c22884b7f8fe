/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all vhost-served devices have: a link, the hand-over of a queue at DRIVER_OK, and a thread for what
 * the transport cannot deliver itself.
 *
 * A queue's kick eventfd is the one that the doorbell signals, its call eventfd the one that the transport
 * turns into interrupts, so neither passes through this process while all goes well. While a vector is
 * masked, or interrupts are INTx or those of virtio-mmio, the transport has us watch the call eventfd and
 * tell it.
 *
 * The core has checked each queue's addresses when start() runs (virtq_start()); the ring itself is the back
 * end's to distrust.
 */
#include "devices/vhost_internal.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"

enum { PATIENCE_MS = 1000 }; /* until it is said that a back end is waited for */

uint64_t served_ring_features(const struct served_config *config)
{
	return 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX |
	       1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_IN_ORDER | 1ull << VIRTIO_F_ORDER_PLATFORM |
	       (config->packed ? 1ull << VIRTIO_F_RING_PACKED : 0) |
	       (config->access_platform ? 1ull << VIRTIO_F_ACCESS_PLATFORM : 0);
}

/* --- calls that come through us --- */

static void call_ready(void *opaque, uint32_t events)
{
	struct virtio_queue *q = opaque;
	eventfd_t count;

	if (eventfd_read(q->call_fd, &count))
		return; /* the engine was faster */
	if (virtio_get_status(q->device) & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_call_driver(q);
}

void served_watch_calls(void *opaque, unsigned index, bool on)
{
	struct served *s = opaque;

	if (s->call[index])
		loop_set_events(s->call[index], on ? EPOLLIN : 0);
}

static void *run(void *opaque)
{
	loop_run(((struct served *)opaque)->loop);
	return NULL;
}

/* --- the hand-over --- */

static struct vhost_ring ring_of(const struct virtio_queue *q)
{
	return (struct vhost_ring){.config = q->config,
				   .base = virtq_fresh_base(q->config.options),
				   .kick_fd = q->kick_fd,
				   .call_fd = q->call_fd,
				   .err_fd = -1};
}

int served_start(struct served *s)
{
	struct virtio_device *d = &s->device;
	struct vhost_region region[VHOST_MAX_REGIONS];
	struct vhost_ring ring[VIRTIO_MAX_QUEUES];
	struct vhost_link_info info;
	int n = vhost_regions(d->dma.mem, region, VHOST_MAX_REGIONS), err;

	if (n <= 0)
		return n ? n : -ENOTSUP;
	memset(ring, 0, sizeof(ring));
	for (unsigned k = 0; k < d->n_queues; k++)
		if (d->queue[k].enabled && !s->is_ours[k])
			ring[k] = ring_of(&d->queue[k]);
	vhost_link_info(s->link, &info);
	err = vhost_link_start(s->link, d->accepted & info.features, region, (unsigned)n, ring, d->n_queues);
	if (err)
		log_warn("%s: %s: cannot hand its queues over: %s", s->owner, d->type->name, strerror(-err));
	return err;
}

void served_halt(struct served *s)
{
	vhost_link_stop(s->link, NULL);
	loop_sync(s->loop); /* nobody is inside a call of the driver that was */
}

void served_halt_queue(void *opaque, unsigned index)
{
	struct served *s = opaque;

	if (!s->is_ours[index])
		vhost_link_stop_ring(s->link, index);
}

int served_start_queue(void *opaque, unsigned index)
{
	struct served *s = opaque;
	struct vhost_ring ring = ring_of(&s->device.queue[index]);

	return s->is_ours[index] ? 0 : vhost_link_start_ring(s->link, index, &ring);
}

/* --- life --- */

void served_refuse(const struct served_config *config)
{
	if (config->kernel)
		config->kernel->ops->close(config->kernel);
}

static int check_access_platform(struct served *s, const struct served_config *config, char *why,
				 unsigned why_size)
{
	struct vhost_link_info info;

	vhost_link_info(s->link, &info);
	if (!config->access_platform || info.features >> VIRTIO_F_ACCESS_PLATFORM & 1)
		return 0;
	snprintf(why, why_size, "access-platform: the back end does not offer VIRTIO_F_ACCESS_PLATFORM");
	return -EINVAL;
}

int served_connect(struct served *s, const struct served_config *config, struct vhost_link_config *link,
		   char *why, unsigned why_size)
{
	int err;

	s->owner = config->owner;
	link->owner = config->owner;
	link->path = config->path;
	link->server = config->server;
	link->device = config->kernel;
	link->required = 1ull << VIRTIO_F_VERSION_1;
	link->ring_size = SERVED_QUEUE_SIZE;
	link->opaque = s;
	err = vhost_link_new(link, &s->link, why, why_size);
	if (err)
		return err;
	if (vhost_link_wait(s->link, PATIENCE_MS)) {
		log_info("%s: waiting for a vhost-user back end %s %s", config->owner,
			 config->server ? "to connect to" : "at", config->path);
		vhost_link_wait(s->link, -1);
	}
	return check_access_platform(s, config, why, why_size);
}

static int open_calls(struct served *s)
{
	int err = loop_new(&s->loop);

	for (unsigned k = 0; k < s->device.n_queues && !err; k++) {
		struct virtio_queue *q = &s->device.queue[k];

		q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		err = q->call_fd < 0 ? -errno
				     : loop_add(s->loop, q->call_fd, EPOLLIN, call_ready, q, &s->call[k]);
	}
	return err;
}

int served_init(struct served *s, const struct virtio_type *type, const struct dma *dma, uint64_t own,
		const uint16_t *sizes, unsigned n_queues)
{
	struct vhost_link_info info;
	int err = virtio_device_init(&s->device, type, s, dma, 0, sizes, n_queues);

	if (err)
		return err;
	vhost_link_info(s->link, &info);
	s->device.offered = info.features | own | 1ull << VIRTIO_F_RING_RESET;
	err = open_calls(s);
	if (!err)
		err = thread_start(&s->thread, s->owner, "calls", run, s);
	s->is_running = !err;
	atomic_store(&s->is_made, !err);
	return err;
}

bool served_has_driver(struct served *s)
{
	return atomic_load(&s->is_made) && virtio_get_status(&s->device);
}

struct virtio_device *served_device(struct served *served)
{
	return &served->device;
}

void served_stop(struct served *s)
{
	if (!s)
		return;
	if (s->device.queue)
		virtio_set_status(&s->device, 0);
	vhost_link_free(s->link);
	s->link = NULL;
	if (s->is_running) {
		loop_stop(s->loop);
		pthread_join(s->thread, NULL);
	}
	s->is_running = false;
}

void served_free(struct served *s)
{
	if (!s)
		return;
	served_stop(s);
	loop_free(s->loop);
	for (unsigned k = 0; s->device.queue && k < s->device.n_queues; k++)
		if (s->device.queue[k].call_fd >= 0)
			close(s->device.queue[k].call_fd);
	if (s->device.queue)
		virtio_device_deinit(&s->device);
	s->free(s);
}
