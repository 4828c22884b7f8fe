/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio over MMIO (virtio 1.3, 4.2.2). Registers are 32 bits wide and aligned; anything else reads 0 and writes nothing.
 * Configuration space from 100h on takes any size.
 *
 * The interrupt is a level: high while InterruptStatus is not 0. A line that some guest treats as edge-triggered still
 * works, because an acknowledgement that leaves bits set drops the line for a moment.
 *
 * Locks: `lock` around registers, taken before the device's; irq_lock around InterruptStatus and the wire, a leaf but
 * for what the wire does.
 */
#include "virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>

enum { MAGIC = 0x74726976, VERSION = 2, VENDOR = 0x1af4, QUEUE_RESET = 0xc0 };

struct virtio_mmio {
	struct virtio_device *device;
	struct bus *bus;
	uint64_t base;
	struct irq_wire irq;
	pthread_mutex_t irq_lock;
	uint32_t interrupt_status; /* protected by irq_lock */
	pthread_mutex_t lock;
	/* protected by lock */
	uint32_t device_feature_select, driver_feature_select, queue_select;
};

/* --- interrupts, any thread --- */

static void raise_cause(struct virtio_mmio *t, uint32_t cause)
{
	pthread_mutex_lock(&t->irq_lock);
	t->interrupt_status |= cause;
	irq_set(&t->irq, 1);
	pthread_mutex_unlock(&t->irq_lock);
}

static void acknowledge(struct virtio_mmio *t, uint32_t causes)
{
	pthread_mutex_lock(&t->irq_lock);
	t->interrupt_status &= ~causes;
	irq_set(&t->irq, 0);
	if (t->interrupt_status)
		irq_set(&t->irq, 1);
	pthread_mutex_unlock(&t->irq_lock);
}

static uint32_t interrupt_status(struct virtio_mmio *t)
{
	uint32_t status;

	pthread_mutex_lock(&t->irq_lock);
	status = t->interrupt_status;
	pthread_mutex_unlock(&t->irq_lock);
	return status;
}

static void call_queue(void *opaque, const struct virtio_queue *queue)
{
	raise_cause(opaque, VIRTIO_MMIO_INT_VRING);
}

static void config_changed(void *opaque)
{
	raise_cause(opaque, VIRTIO_MMIO_INT_CONFIG);
}

static const struct virtio_transport_ops transport_ops = { .call = call_queue, .config_changed = config_changed };

/* --- registers --- */

static struct virtio_queue *selected(struct virtio_mmio *t)
{
	return t->queue_select < t->device->n_queues ? &t->device->queue[t->queue_select] : NULL;
}

static uint32_t read_register(struct virtio_mmio *t, uint64_t offset)
{
	const struct virtio_queue *q = selected(t);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return t->device->type->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return virtio_get_features(t->device, t->device_feature_select);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return q ? q->max_size : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return q && q->enabled;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return interrupt_status(t);
	case VIRTIO_MMIO_STATUS:
		return virtio_get_status(t->device);
	case VIRTIO_MMIO_SHM_LEN_LOW: /* no shared memory region has any id: length and base are -1 (4.2.2.1) */
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return atomic_load(&t->device->config_generation);
	}
	return 0; /* QueueReset too: the reset is done when its write returns */
}

static void set_half(gpa_t *address, bool high, uint32_t value)
{
	*address = high ? (*address & 0xffffffff) | (uint64_t)value << 32 : (*address & ~0xffffffffull) | value;
}

/* Fields of a queue that is in use do not change (4.2.2.2). */
static void write_queue_geometry(struct virtio_queue *q, uint64_t offset, uint32_t value)
{
	if (q->enabled)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		if (value && value <= q->max_size)
			q->config.size = value;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&q->config.desc, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&q->config.driver, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&q->config.device, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	}
}

static void write_status(struct virtio_mmio *t, uint8_t status)
{
	virtio_set_status(t->device, status);
	if (!status) {
		t->queue_select = 0;
		acknowledge(t, UINT32_MAX);
	}
}

static void write_register(struct virtio_mmio *t, uint64_t offset, uint32_t value)
{
	struct virtio_queue *q = selected(t);

	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		t->device_feature_select = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		t->driver_feature_select = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		virtio_accept_features(t->device, t->driver_feature_select, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		t->queue_select = value;
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		if (q && value == 1)
			virtio_enable_queue(t->device, q->index);
		else if (q && !value)
			virtio_disable_queue(t->device, q->index);
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY: /* the low half: the high one is NOTIFICATION_DATA's, which is not offered */
		virtio_kick(t->device, value & 0xffff);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		acknowledge(t, value);
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(t, (uint8_t)value);
		break;
	case QUEUE_RESET:
		if (q && value == 1)
			virtio_reset_queue(t->device, q->index);
		break;
	default:
		if (q)
			write_queue_geometry(q, offset, value);
	}
}

static bool is_register(uint64_t offset, unsigned size)
{
	return size == 4 && !(offset & 3);
}

static uint64_t read_mmio(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_mmio *t = opaque;
	uint64_t value = 0;

	if (offset >= VIRTIO_MMIO_CONFIG) {
		virtio_read_config(t->device, (uint32_t)(offset - VIRTIO_MMIO_CONFIG), &value, size);
	} else if (is_register(offset, size)) {
		pthread_mutex_lock(&t->lock);
		value = read_register(t, offset);
		pthread_mutex_unlock(&t->lock);
	}
	return value;
}

static void write_mmio(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_mmio *t = opaque;

	if (offset >= VIRTIO_MMIO_CONFIG) {
		virtio_write_config(t->device, (uint32_t)(offset - VIRTIO_MMIO_CONFIG), &value, size);
	} else if (is_register(offset, size)) {
		pthread_mutex_lock(&t->lock);
		write_register(t, offset, (uint32_t)value);
		pthread_mutex_unlock(&t->lock);
	}
}

static const struct bus_ops mmio_ops = { .read = read_mmio, .write = write_mmio };

/* --- set-up --- */

/* A failure only means that kicks come through write_mmio(). */
static void set_doorbells(struct virtio_mmio *t, const struct virtio_doorbells *doorbells)
{
	for (unsigned k = 0; doorbells && doorbells->set && k < t->device->n_queues; k++) {
		struct virtio_doorbell bell = { .gpa = t->base + VIRTIO_MMIO_QUEUE_NOTIFY, .size = 4, .fd = t->device->queue[k].kick_fd,
						.matches = true, .value = k };

		doorbells->set(doorbells->opaque, &bell, true);
	}
}

int virtio_mmio_new(struct bus *bus, uint64_t base, const struct irq_wire *irq, struct virtio_device *device,
		    const struct virtio_doorbells *doorbells, struct virtio_mmio **transport)
{
	struct virtio_mmio *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->device = device;
	t->bus = bus;
	t->base = base;
	t->irq = *irq;
	err = bus_add(bus, BUS_MMIO, base, VIRTIO_MMIO_SIZE, &mmio_ops, t, device->type->name);
	if (err) {
		free(t);
		return err;
	}
	pthread_mutex_init(&t->irq_lock, NULL);
	pthread_mutex_init(&t->lock, NULL);
	device->transport = &transport_ops;
	device->transport_opaque = t;
	set_doorbells(t, doorbells);
	*transport = t;
	return 0;
}

void virtio_mmio_free(struct virtio_mmio *t)
{
	if (!t)
		return;
	bus_del(t->bus, BUS_MMIO, t->base);
	pthread_mutex_destroy(&t->irq_lock);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
