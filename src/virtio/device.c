/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device core: who may do what in which status (virtio 1.3, 2.1 and 3.1).
 *
 *	reset -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK (refused: the bit stays clear) -> DRIVER_OK: start()
 *	any -> 0: stop(), everything forgotten
 *	a broken ring or a failed start: DEVICE_NEEDS_RESET until the driver resets
 *
 * A queue's addresses are the driver's claims; they are checked when the queue is started, in virtq_start().
 */
#include "virtio/device.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"

uint64_t virtio_ring_features(void)
{
	return 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED | 1ull << VIRTIO_RING_F_EVENT_IDX |
	       1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_F_ACCESS_PLATFORM;
}

static void forget_queue(struct virtio_queue *q)
{
	q->enabled = false;
	q->vector = VIRTIO_NO_VECTOR;
	q->config = (struct virtq_config){ .size = q->max_size };
}

int virtio_device_init(struct virtio_device *d, const struct virtio_type *type, void *opaque, const struct dma *dma,
		       uint64_t features, const uint16_t *queue_sizes, unsigned n_queues)
{
	*d = (struct virtio_device){ .type = type, .opaque = opaque, .dma = *dma, .n_queues = n_queues };
	d->offered = features | virtio_ring_features();
	if (type->start_queue)
		d->offered |= 1ull << VIRTIO_F_RING_RESET;
	d->queue = calloc(n_queues, sizeof(*d->queue));
	if (!d->queue)
		return -ENOMEM;
	pthread_mutex_init(&d->lock, NULL);
	for (unsigned k = 0; k < n_queues; k++)
		d->queue[k] = (struct virtio_queue){ .device = d, .index = (uint16_t)k, .max_size = queue_sizes[k], .kick_fd = -1,
						     .call_fd = -1 };
	for (unsigned k = 0; k < n_queues; k++) {
		forget_queue(&d->queue[k]);
		d->queue[k].kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (d->queue[k].kick_fd < 0) {
			int err = -errno;

			virtio_device_deinit(d);
			return err;
		}
	}
	return 0;
}

static void stop(struct virtio_device *d)
{
	if (d->started)
		d->type->stop(d->opaque);
	d->started = false;
}

void virtio_device_deinit(struct virtio_device *d)
{
	stop(d);
	for (unsigned k = 0; k < d->n_queues; k++)
		if (d->queue[k].kick_fd >= 0)
			close(d->queue[k].kick_fd);
	free(d->queue);
	d->queue = NULL;
	pthread_mutex_destroy(&d->lock);
}

/* --- status --- */

static void reset(struct virtio_device *d)
{
	stop(d);
	for (unsigned k = 0; k < d->n_queues; k++)
		forget_queue(&d->queue[k]);
	d->accepted = 0;
	d->status = 0;
}

static int start_ring(struct virtio_device *d, struct virtio_queue *q)
{
	int err;

	q->reported = false;
	q->config.options = virtq_options(d->accepted);
	err = virtq_start(&q->ring, d->dma.mem, &q->config, virtq_fresh_base(q->config.options));
	if (err)
		log_warn("%s: queue %u of %u entries at %#llx, %#llx, %#llx refused: %s", d->type->name, q->index,
			 q->config.size, (unsigned long long)q->config.desc, (unsigned long long)q->config.driver,
			 (unsigned long long)q->config.device, strerror(-err));
	return err;
}

static int start(struct virtio_device *d)
{
	for (unsigned k = 0; k < d->n_queues; k++) {
		int err = d->queue[k].enabled ? start_ring(d, &d->queue[k]) : 0;

		if (err)
			return err;
	}
	return d->type->start(d->opaque);
}

uint8_t virtio_get_status(struct virtio_device *d)
{
	return atomic_load(&d->status);
}

/* FEATURES_OK stands only for a subset of the offer that has VERSION_1: we have no legacy interface (2.2.3). */
static bool features_acceptable(const struct virtio_device *d)
{
	return !(d->accepted & ~d->offered) && virtio_has(d, VIRTIO_F_VERSION_1);
}

void virtio_set_status(struct virtio_device *d, uint8_t status)
{
	pthread_mutex_lock(&d->lock);
	if (!status) {
		reset(d);
	} else {
		if (status & VIRTIO_CONFIG_S_FEATURES_OK && !(d->status & VIRTIO_CONFIG_S_FEATURES_OK) && !features_acceptable(d))
			status &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
		d->status |= status;
		if (status & VIRTIO_CONFIG_S_DRIVER_OK && !d->started && d->status & VIRTIO_CONFIG_S_FEATURES_OK) {
			d->started = !start(d);
			if (!d->started)
				d->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
		}
	}
	pthread_mutex_unlock(&d->lock);
}

/* --- features --- */

uint32_t virtio_get_features(struct virtio_device *d, unsigned select)
{
	return select < 2 ? (uint32_t)(d->offered >> (32 * select)) : 0;
}

uint32_t virtio_get_accepted(struct virtio_device *d, unsigned select)
{
	return select < 2 ? (uint32_t)(d->accepted >> (32 * select)) : 0;
}

void virtio_accept_features(struct virtio_device *d, unsigned select, uint32_t bits)
{
	pthread_mutex_lock(&d->lock);
	if (select < 2 && !(d->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		d->accepted &= ~(0xffffffffull << (32 * select));
		d->accepted |= (uint64_t)bits << (32 * select);
	}
	pthread_mutex_unlock(&d->lock);
}

/* --- queues --- */

void virtio_enable_queue(struct virtio_device *d, unsigned index)
{
	struct virtio_queue *q = &d->queue[index];

	pthread_mutex_lock(&d->lock);
	if (!q->enabled && q->max_size) {
		q->enabled = true;
		/* after RING_RESET, on a running device; before DRIVER_OK start() does it */
		if (d->started && d->type->start_queue && (start_ring(d, q) || d->type->start_queue(d->opaque, index)))
			d->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	}
	pthread_mutex_unlock(&d->lock);
}

void virtio_disable_queue(struct virtio_device *d, unsigned index)
{
	struct virtio_queue *q = &d->queue[index];

	pthread_mutex_lock(&d->lock);
	if (q->enabled && !d->started) {
		q->enabled = false;
	} else if (q->enabled && d->type->stop_queue) {
		d->type->stop_queue(d->opaque, index);
		q->enabled = false;
	} else if (q->enabled) {
		d->type->stop(d->opaque);
		q->enabled = false;
		d->started = !d->type->start(d->opaque);
		if (!d->started)
			d->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	}
	pthread_mutex_unlock(&d->lock);
}

void virtio_reset_queue(struct virtio_device *d, unsigned index)
{
	struct virtio_queue *q = &d->queue[index];

	pthread_mutex_lock(&d->lock);
	if (d->type->stop_queue && virtio_has(d, VIRTIO_F_RING_RESET)) {
		if (d->started && q->enabled)
			d->type->stop_queue(d->opaque, index);
		forget_queue(q);
	}
	pthread_mutex_unlock(&d->lock);
}

void virtio_kick(struct virtio_device *d, unsigned index)
{
	if (index < d->n_queues)
		eventfd_write(d->queue[index].kick_fd, 1);
}

/* Tell that chain memory was written, up to `written` bytes: code may have been loaded there. */
static void tell_written(const struct dma *dma, const struct virtq_chain *chain, uint32_t written)
{
	const struct mem_table *table = atomic_load_explicit(&dma->mem->table, memory_order_acquire);

	for (unsigned k = 0; k < chain->writable && written; k++) {
		const struct iovec *iov = &chain->iov[chain->readable + k];
		uint32_t part = iov->iov_len < written ? (uint32_t)iov->iov_len : written;

		for (unsigned s = 0; s < table->count; s++) {
			uint64_t offset = (uint64_t)((uint8_t *)iov->iov_base - table->slot[s]->hva);

			if (offset < table->slot[s]->size)
				dma->written(dma->opaque, table->slot[s]->gpa + offset, part);
		}
		written -= part;
	}
}

void virtio_push(struct virtio_queue *queue, const struct virtq_chain *chain, uint32_t written)
{
	const struct dma *dma = &queue->device->dma;

	if (dma->written)
		tell_written(dma, chain, written);
	virtq_push(&queue->ring, chain, written);
	if (queue->logged)
		queue->device->transport->pushed(queue->device->transport_opaque, queue, chain, written);
}

void virtio_call(struct virtio_queue *queue)
{
	struct virtio_device *d = queue->device;

	if (virtq_should_call(&queue->ring))
		d->transport->call(d->transport_opaque, queue);
}

void virtio_call_driver(struct virtio_queue *queue)
{
	queue->device->transport->call(queue->device->transport_opaque, queue);
}

void virtio_queue_failed(struct virtio_queue *queue)
{
	struct virtio_device *d = queue->device;

	if (queue->reported)
		return;
	queue->reported = true;
	if (d->transport->queue_failed) {
		d->transport->queue_failed(d->transport_opaque, queue);
		return;
	}
	log_warn("%s: queue %u quarantined: %s", d->type->name, queue->index, virtq_error_name(queue->ring.error));
	/* Not under the lock: stop() may be waiting for this very thread while it holds it. */
	atomic_fetch_or(&d->status, (uint8_t)VIRTIO_CONFIG_S_NEEDS_RESET);
	d->transport->config_changed(d->transport_opaque);
}

/* --- configuration space --- */

void virtio_read_config(struct virtio_device *d, uint32_t offset, void *data, unsigned size)
{
	memset(data, 0, size);
	if (offset >= d->type->config_size || size > d->type->config_size - offset)
		return;
	pthread_mutex_lock(&d->lock);
	d->type->read_config(d->opaque, offset, data, size);
	pthread_mutex_unlock(&d->lock);
}

void virtio_write_config(struct virtio_device *d, uint32_t offset, const void *data, unsigned size)
{
	if (!d->type->write_config || offset >= d->type->config_size || size > d->type->config_size - offset)
		return;
	pthread_mutex_lock(&d->lock);
	d->type->write_config(d->opaque, offset, data, size);
	pthread_mutex_unlock(&d->lock);
}

void virtio_config_changed(struct virtio_device *d)
{
	atomic_fetch_add(&d->config_generation, 1);
	d->transport->config_changed(d->transport_opaque);
}
