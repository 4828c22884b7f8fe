/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The transport: SET_FEATURES is the driver's feature negotiation and DRIVER_OK in one, for a vhost-user front end sends it
 * only when its driver is done; from then on each ring comes and goes by itself, as with RING_RESET.
 *
 * A ring without a kick descriptor is polled: a timer kicks in the driver's place.
 */
#include "vhost/serve.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

enum { POLL_NS = 200000, RING_RESET = 40 };

struct vhost_serve {
	struct vhost_serve_config config;
	struct virtio_device *device;
	struct vhost_backend *backend;
	struct loop *loop;
	struct loop_source *poll_timer;
	unsigned n_polled;
	struct vhost_backend_ring *ring[VIRTIO_MAX_QUEUES]; /* those that are started */
	int own_kick_fd[VIRTIO_MAX_QUEUES];
};

/* --- from the device, on its threads --- */

static void call(void *opaque, const struct virtio_queue *queue)
{
	vhost_backend_call(((struct vhost_serve *)opaque)->ring[queue->index]);
}

static void config_changed(void *opaque)
{
	vhost_backend_config_changed(((struct vhost_serve *)opaque)->backend);
}

static void queue_failed(void *opaque, const struct virtio_queue *queue)
{
	vhost_backend_ring_failed(((struct vhost_serve *)opaque)->ring[queue->index], &queue->ring);
}

static void pushed(void *opaque, const struct virtio_queue *queue, const struct virtq_chain *chain, uint32_t written)
{
	vhost_backend_written(((struct vhost_serve *)opaque)->ring[queue->index], chain, written);
}

static const struct virtio_transport_ops transport = {
	.call = call,
	.config_changed = config_changed,
	.queue_failed = queue_failed,
	.pushed = pushed,
};

/* --- from the front end --- */

static void stop_device(struct virtio_device *d)
{
	if (d->started)
		d->type->stop(d->opaque);
	d->started = false;
	d->accepted = 0;
	d->status = 0;
}

static int set_features(void *opaque, uint64_t features)
{
	struct virtio_device *d = ((struct vhost_serve *)opaque)->device;
	int err;

	stop_device(d); /* which has no started queue: they are paused */
	d->accepted = features;
	err = d->type->start(d->opaque);
	d->started = !err;
	if (d->started)
		d->status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
			    VIRTIO_CONFIG_S_DRIVER_OK;
	return err;
}

static void poll_rings(void *opaque, uint32_t events)
{
	struct vhost_serve *v = opaque;

	for (unsigned k = 0; k < v->config.n_rings; k++)
		if (v->ring[k] && v->ring[k]->kick_fd < 0)
			eventfd_write(v->own_kick_fd[k], 1);
}

static void count_polled(struct vhost_serve *v, const struct vhost_backend_ring *ring, int n)
{
	if (ring->kick_fd >= 0)
		return;
	v->n_polled += (unsigned)n;
	loop_set_timer(v->poll_timer, v->n_polled ? now_ns() + POLL_NS : UINT64_MAX, POLL_NS);
}

static int start_ring(void *opaque, struct vhost_backend_ring *ring)
{
	struct vhost_serve *v = opaque;
	struct virtio_queue *q = &v->device->queue[ring->index];
	int err = vhost_backend_open(ring, &q->ring);

	if (err)
		return err;
	q->config.size = q->ring.size;
	q->reported = false;
	q->logged = vhost_backend_logs(ring);
	atomic_store(&q->idle, !atomic_load(&ring->enabled));
	q->kick_fd = ring->kick_fd >= 0 ? ring->kick_fd : v->own_kick_fd[ring->index];
	q->enabled = true;
	v->ring[ring->index] = ring;
	err = v->device->type->start_queue(v->device->opaque, ring->index);
	if (err) {
		q->enabled = false;
		q->kick_fd = v->own_kick_fd[ring->index];
		v->ring[ring->index] = NULL;
		vhost_backend_close(ring, &q->ring);
		return err;
	}
	count_polled(v, ring, 1);
	return 0;
}

static void stop_ring(void *opaque, struct vhost_backend_ring *ring)
{
	struct vhost_serve *v = opaque;
	struct virtio_queue *q = &v->device->queue[ring->index];

	v->device->type->stop_queue(v->device->opaque, ring->index);
	q->enabled = false;
	q->kick_fd = v->own_kick_fd[ring->index];
	v->ring[ring->index] = NULL;
	count_polled(v, ring, -1);
	vhost_backend_close(ring, &q->ring);
}

static void enable_ring(void *opaque, struct vhost_backend_ring *ring)
{
	struct vhost_serve *v = opaque;
	struct virtio_queue *q = &v->device->queue[ring->index];

	atomic_store(&q->idle, !atomic_load(&ring->enabled));
	if (v->device->type->idle_changed)
		v->device->type->idle_changed(v->device->opaque, ring->index);
	else
		eventfd_write(q->kick_fd, 1);
}

/* What lies behind the end reads as 0: front ends ask for the whole structure as they know it. */
static int get_config(void *opaque, uint32_t offset, void *data, uint32_t size)
{
	struct virtio_device *d = ((struct vhost_serve *)opaque)->device;
	uint32_t there = offset < d->type->config_size ? d->type->config_size - offset : 0;

	if (offset > VHOST_USER_MAX_CONFIG || size > VHOST_USER_MAX_CONFIG)
		return -EINVAL;
	memset(data, 0, size);
	if (there)
		virtio_read_config(d, offset, data, size < there ? size : there);
	return 0;
}

static int set_config(void *opaque, uint32_t offset, const void *data, uint32_t size, bool migration)
{
	struct virtio_device *d = ((struct vhost_serve *)opaque)->device;
	uint8_t now[VHOST_USER_MAX_CONFIG];

	if (size > sizeof(now) || offset > d->type->config_size || size > d->type->config_size - offset)
		return -EINVAL;
	if (migration || !size)
		return 0; /* nothing here is carried over that is not in the image or on the command line */
	virtio_write_config(d, offset, data, size);
	virtio_read_config(d, offset, now, size);
	return memcmp(now, data, size) ? -EPERM : 0; /* a field that it did not take is read-only */
}

static int set_mtu(void *opaque, uint64_t mtu)
{
	struct vhost_serve *v = opaque;

	return v->config.set_mtu ? v->config.set_mtu(v->config.opaque, mtu) : -EOPNOTSUPP;
}

static int announce(void *opaque, const uint8_t mac[6])
{
	struct vhost_serve *v = opaque;

	return v->config.announce ? v->config.announce(v->config.opaque, mac) : -EOPNOTSUPP;
}

static void reset(void *opaque)
{
	struct vhost_serve *v = opaque;
	uint64_t features = v->device->accepted;

	if (v->device->started)
		set_features(v, features); /* the front end may keep them */
}

static void session(void *opaque, bool begins)
{
	if (!begins)
		stop_device(((struct vhost_serve *)opaque)->device);
}

static void finished(void *opaque)
{
	struct vhost_serve *v = opaque;

	if (v->config.finished)
		v->config.finished(v->config.finished_opaque);
}

int vhost_serve_new(struct loop *loop, struct virtio_device *device, const struct vhost_serve_config *config,
		     struct vhost_serve **out, char *why, size_t why_size)
{
	static const struct vhost_backend_ops ops = {
		.set_features = set_features,
		.start_ring = start_ring,
		.stop_ring = stop_ring,
		.enable_ring = enable_ring,
		.get_config = get_config,
		.set_config = set_config,
		.set_mtu = set_mtu,
		.announce = announce,
		.session = session,
		.reset = reset,
		.finished = finished,
	};
	struct vhost_backend_config backend = {
		.name = config->name,
		.device_id = device->type->id,
		.features = device->offered & ~(config->withheld | 1ull << RING_RESET), /* SET_VRING_* do that */
		.protocol = config->protocol,
		.n_rings = config->n_rings,
		.queue_num = config->queue_num,
		.max_ring_size = config->max_ring_size,
		.memory = device->dma.mem,
		.socket = config->socket,
		.ops = &ops,
	};
	struct vhost_serve *v;
	int err;

	snprintf(why, why_size, "out of memory");
	if (!device->type->start_queue || config->n_rings > device->n_queues || config->n_rings > VIRTIO_MAX_QUEUES)
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	*v = (struct vhost_serve){ .config = *config, .device = device, .loop = loop };
	for (unsigned k = 0; k < config->n_rings; k++)
		v->own_kick_fd[k] = device->queue[k].kick_fd;
	device->transport = &transport;
	device->transport_opaque = v;
	backend.opaque = v;
	err = loop_add_timer(loop, poll_rings, v, &v->poll_timer);
	if (!err)
		err = vhost_backend_new(loop, &backend, &v->backend, why, why_size);
	if (err) {
		vhost_serve_free(v);
		return err;
	}
	*out = v;
	return 0;
}

void vhost_serve_free(struct vhost_serve *v)
{
	if (!v)
		return;
	vhost_backend_free(v->backend);
	stop_device(v->device);
	loop_del(v->poll_timer);
	free(v);
}
