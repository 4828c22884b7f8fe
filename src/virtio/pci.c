/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio over PCI (virtio 1.3, 4.1).
 *
 * One 64-bit memory BAR holds the four structures, a page each, so that nothing of one is reached through another:
 *
 *	0x0000 common configuration   0x1000 ISR   0x2000 device configuration   0x3000 doorbells, 4 bytes per queue
 *
 * A fifth capability gives access to the BAR through configuration space (4.1.4.9). Interrupts are MSI-X vectors chosen
 * by the driver; without MSI-X, the INTx wire with the ISR byte behind it.
 */
#include "virtio/pci.h"

#include <errno.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "virtio/pci_calls.h"

enum { COMMON = 0, ISR = 0x1000, DEVICE = 0x2000, NOTIFY = 0x3000, NOTIFY_SPACING = 4, BAR_SIZE = 0x4000 };
enum { MSIX_BAR = 1, STRUCTURES_BAR = 4 };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

struct virtio_pci {
	struct virtio_device *device;
	struct pci_device *pci;
	struct virtio_doorbells doorbells;
	struct pci_calls calls;
	_Atomic uint8_t isr;
	uint64_t doorbells_at; /* where they are registered, 0: nowhere */
	unsigned n_vectors;
	pthread_mutex_t lock; /* taken before the device's */
	/* protected by lock */
	uint32_t device_feature_select, driver_feature_select;
	uint16_t config_vector, queue_select;
	unsigned cfg_capability; /* offset of VIRTIO_PCI_CAP_PCI_CFG */
};

/* --- interrupts, any thread --- */

static void interrupt(struct virtio_pci *t, uint16_t vector, uint8_t cause)
{
	if (pci_msix_is_enabled(t->pci)) {
		if (vector < t->n_vectors)
			pci_msix_notify(t->pci, vector);
		return;
	}
	atomic_fetch_or(&t->isr, cause);
	pci_set_intx(t->pci, 1);
}

static void call_queue(void *opaque, const struct virtio_queue *queue)
{
	interrupt(opaque, __atomic_load_n(&queue->vector, __ATOMIC_RELAXED), ISR_QUEUE);
}

static void config_changed(void *opaque)
{
	struct virtio_pci *t = opaque;

	interrupt(t, __atomic_load_n(&t->config_vector, __ATOMIC_RELAXED), ISR_CONFIG);
}

static const struct virtio_transport_ops transport_ops = { .call = call_queue, .config_changed = config_changed };

/* --- common configuration (4.1.4.3) --- */

static struct virtio_queue *selected(struct virtio_pci *t)
{
	return t->queue_select < t->device->n_queues ? &t->device->queue[t->queue_select] : NULL;
}

static uint64_t read_queue_field(struct virtio_pci *t, uint64_t offset)
{
	const struct virtio_queue *q = selected(t);

	if (!q)
		return 0;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return q->config.size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return q->vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return q->enabled;
	case VIRTIO_PCI_COMMON_Q_NOFF:
	case VIRTIO_PCI_COMMON_Q_NDATA:
		return q->index;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		return q->config.desc;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		return q->config.desc >> 32;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		return q->config.driver;
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		return q->config.driver >> 32;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		return q->config.device;
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return q->config.device >> 32;
	}
	return 0; /* queue_reset: reads 0, the reset is done when its write returns */
}

static uint64_t read_common(struct virtio_pci *t, uint64_t offset)
{
	struct virtio_device *d = t->device;

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return t->device_feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return virtio_get_features(d, t->device_feature_select);
	case VIRTIO_PCI_COMMON_GFSELECT:
		return t->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return virtio_get_accepted(d, t->driver_feature_select);
	case VIRTIO_PCI_COMMON_MSIX:
		return t->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return d->n_queues;
	case VIRTIO_PCI_COMMON_STATUS:
		return virtio_get_status(d);
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return atomic_load(&d->config_generation);
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return t->queue_select;
	}
	return read_queue_field(t, offset);
}

static void set_half(gpa_t *address, bool high, uint32_t value)
{
	*address = high ? (*address & 0xffffffff) | (uint64_t)value << 32 : (*address & ~0xffffffffull) | value;
}

/* Fields of an enabled queue do not change (4.1.4.3.2). */
static void write_queue_geometry(struct virtio_queue *q, uint64_t offset, uint32_t value)
{
	bool high = offset == VIRTIO_PCI_COMMON_Q_DESCHI || offset == VIRTIO_PCI_COMMON_Q_AVAILHI ||
		    offset == VIRTIO_PCI_COMMON_Q_USEDHI;

	if (q->enabled)
		return;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (value && value <= q->max_size)
			q->config.size = value;
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		set_half(&q->config.desc, high, value);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		set_half(&q->config.driver, high, value);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		set_half(&q->config.device, high, value);
		break;
	}
}

static uint16_t valid_vector(const struct virtio_pci *t, uint32_t value)
{
	return value < t->n_vectors ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void write_common(struct virtio_pci *t, uint64_t offset, uint32_t value)
{
	struct virtio_device *d = t->device;
	struct virtio_queue *q = selected(t);

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		t->device_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		t->driver_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		virtio_accept_features(d, t->driver_feature_select, value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		__atomic_store_n(&t->config_vector, valid_vector(t, value), __ATOMIC_RELAXED);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		virtio_set_status(d, (uint8_t)value);
		if (!(uint8_t)value) {
			pci_calls_update(&t->calls); /* the queues have no vectors any more */
			__atomic_store_n(&t->config_vector, (uint16_t)VIRTIO_NO_VECTOR, __ATOMIC_RELAXED);
			t->queue_select = 0;
			atomic_store(&t->isr, 0);
			pci_set_intx(t->pci, 0);
		}
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		t->queue_select = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		if (q)
			__atomic_store_n(&q->vector, valid_vector(t, value), __ATOMIC_RELAXED);
		pci_calls_update(&t->calls);
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (q && value == 1)
			virtio_enable_queue(d, q->index);
		break;
	case VIRTIO_PCI_COMMON_Q_RESET:
		if (q && value == 1)
			virtio_reset_queue(d, q->index);
		pci_calls_update(&t->calls);
		break;
	default:
		if (q)
			write_queue_geometry(q, offset, value);
	}
}

/* --- the BAR --- */

static uint64_t read_bar(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_pci *t = opaque;
	uint64_t value = 0;

	if (offset < ISR) {
		pthread_mutex_lock(&t->lock);
		value = read_common(t, offset);
		pthread_mutex_unlock(&t->lock);
		return value;
	}
	if (offset < DEVICE) {
		if (offset != ISR)
			return 0;
		value = atomic_exchange(&t->isr, 0); /* reading acknowledges (4.1.4.5) */
		pci_set_intx(t->pci, 0);
		return value;
	}
	if (offset < NOTIFY)
		virtio_read_config(t->device, (uint32_t)(offset - DEVICE), &value, size);
	return value;
}

static void write_bar(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *t = opaque;

	if (offset >= NOTIFY) {
		virtio_kick(t->device, (unsigned)(offset - NOTIFY) / NOTIFY_SPACING);
	} else if (offset >= DEVICE) {
		virtio_write_config(t->device, (uint32_t)(offset - DEVICE), &value, size);
	} else if (offset < ISR) {
		pthread_mutex_lock(&t->lock);
		if (size == 8) { /* the 64-bit addresses, which a driver may write whole */
			write_common(t, offset, (uint32_t)value);
			write_common(t, offset + 4, (uint32_t)(value >> 32));
		} else {
			write_common(t, offset, (uint32_t)value);
		}
		pthread_mutex_unlock(&t->lock);
	}
}

static const struct bus_ops bar_ops = { .read = read_bar, .write = write_bar };

/* Doorbells follow the BAR, so that a kick costs no exit. */
static void bar_moved(void *opaque, unsigned bar, uint64_t address)
{
	struct virtio_pci *t = opaque;

	if (bar != STRUCTURES_BAR || !t->doorbells.set)
		return;
	for (unsigned k = 0; k < t->device->n_queues; k++) {
		struct virtio_doorbell bell = { .size = 2, .fd = t->device->queue[k].kick_fd };

		bell.gpa = t->doorbells_at + NOTIFY_SPACING * k;
		if (t->doorbells_at)
			t->doorbells.set(t->doorbells.opaque, &bell, false);
		bell.gpa = address + NOTIFY + NOTIFY_SPACING * k;
		if (address) /* a failure only means that kicks come through write_bar() */
			t->doorbells.set(t->doorbells.opaque, &bell, true);
	}
	t->doorbells_at = address ? address + NOTIFY : 0;
}

static void vector_changed(void *opaque, unsigned vector, bool masked, uint64_t address, uint32_t data)
{
	pci_calls_vector(&((struct virtio_pci *)opaque)->calls, vector, masked, address, data);
}

void virtio_pci_direct_calls(struct virtio_pci *t, const struct virtio_calls *calls)
{
	pci_calls_offer(&t->calls, calls);
}

/* --- the window in configuration space (4.1.4.9) --- */

static bool window(struct virtio_pci *t, uint32_t *offset, uint32_t *size)
{
	const uint8_t *cap = pci_config_bytes(t->pci) + t->cfg_capability;

	*offset = get_le32(cap + offsetof(struct virtio_pci_cap, offset));
	*size = get_le32(cap + offsetof(struct virtio_pci_cap, length));
	return cap[offsetof(struct virtio_pci_cap, bar)] == STRUCTURES_BAR && (*size == 1 || *size == 2 || *size == 4) &&
	       *offset < BAR_SIZE && *offset % *size == 0;
}

static uint32_t read_window(void *opaque, unsigned offset, unsigned size, uint32_t value)
{
	uint32_t at, length;

	return window(opaque, &at, &length) ? (uint32_t)read_bar(opaque, at, length) : value;
}

static void window_written(void *opaque, unsigned offset, unsigned size)
{
	struct virtio_pci *t = opaque;
	uint32_t at, length;

	if (window(t, &at, &length)) {
		const uint8_t *data = pci_config_bytes(t->pci) + t->cfg_capability + sizeof(struct virtio_pci_cap);

		write_bar(t, at, length, get_le32(data) & (length == 4 ? ~0u : (1u << 8 * length) - 1));
	}
}

/* --- set-up --- */

static int add_capability(struct virtio_pci *t, uint8_t type, uint32_t offset, uint32_t length, unsigned extra)
{
	unsigned size = (unsigned)sizeof(struct virtio_pci_cap) + extra;
	int at = pci_add_capability(t->pci, PCI_CAP_VENDOR, size);
	uint8_t *cap;

	if (at < 0)
		return at;
	cap = pci_config_bytes(t->pci) + at;
	cap[offsetof(struct virtio_pci_cap, cap_len)] = (uint8_t)size;
	cap[offsetof(struct virtio_pci_cap, cfg_type)] = type;
	cap[offsetof(struct virtio_pci_cap, bar)] = STRUCTURES_BAR;
	put_le32(cap + offsetof(struct virtio_pci_cap, offset), offset);
	put_le32(cap + offsetof(struct virtio_pci_cap, length), length);
	if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
		put_le32(cap + sizeof(struct virtio_pci_cap), NOTIFY_SPACING);
	return at;
}

static int add_window(struct virtio_pci *t)
{
	int at = add_capability(t, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4);

	if (at < 0)
		return at;
	t->cfg_capability = (unsigned)at;
	pci_set_writable(t->pci, (unsigned)at + offsetof(struct virtio_pci_cap, bar), 1, 0xff);
	pci_set_writable(t->pci, (unsigned)at + offsetof(struct virtio_pci_cap, offset), 4, ~0u);
	pci_set_writable(t->pci, (unsigned)at + offsetof(struct virtio_pci_cap, length), 4, ~0u);
	pci_set_writable(t->pci, (unsigned)at + sizeof(struct virtio_pci_cap), 4, ~0u);
	pci_hook_config(t->pci, (unsigned)at + sizeof(struct virtio_pci_cap), 4,
			&(struct pci_config_hook){ .read = read_window, .written = window_written, .opaque = t });
	return 0;
}

static uint32_t class_code(uint16_t type)
{
	switch (type) {
	case 1:
		return 0x020000; /* Ethernet controller */
	case 2:
		return 0x010000; /* SCSI storage, as virtio-blk is known by */
	case 3:
		return 0x078000; /* communication controller */
	}
	return 0x00ff00;
}

int virtio_pci_new(struct pci_bus *pci, struct virtio_device *device, const struct virtio_doorbells *doorbells,
		   struct virtio_pci **transport)
{
	struct pci_id id = { .vendor = 0x1af4, .device = 0x1040 + device->type->id, .subsystem_vendor = 0x1af4, .subsystem = 0x1100,
			     .class_code = class_code(device->type->id), .revision = 1 };
	struct virtio_pci *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	t->device = device;
	if (doorbells)
		t->doorbells = *doorbells;
	t->config_vector = VIRTIO_NO_VECTOR;
	t->n_vectors = device->n_queues + 1;
	device->transport = &transport_ops;
	device->transport_opaque = t;
	err = pci_calls_init(&t->calls, device, t->n_vectors);
	if (err) {
		free(t);
		return err;
	}
	err = pci_device_new(pci, &id, device->type->name, &t->pci);
	if (err)
		goto fail;
	pci_use_intx(t->pci); /* for drivers without MSI-X */
	pci_on_bar_moved(t->pci, bar_moved, t);
	if ((err = pci_add_msix(t->pci, MSIX_BAR, t->n_vectors, &(struct msix_listener){ vector_changed, t })) ||
	    (err = pci_add_bar(t->pci, STRUCTURES_BAR, PCI_BAR_MEM64, BAR_SIZE, &bar_ops, t)))
		goto fail;
	if ((err = add_capability(t, VIRTIO_PCI_CAP_COMMON_CFG, COMMON, sizeof(struct virtio_pci_common_cfg) + 8, 0)) < 0 ||
	    (err = add_capability(t, VIRTIO_PCI_CAP_ISR_CFG, ISR, 1, 0)) < 0 ||
	    (err = add_capability(t, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY, NOTIFY_SPACING * device->n_queues, 4)) < 0 ||
	    (device->type->config_size &&
	     (err = add_capability(t, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE, device->type->config_size, 0)) < 0) ||
	    (err = add_window(t)))
		goto fail;
	*transport = t;
	return 0;
fail:
	pci_calls_deinit(&t->calls);
	free(t); /* the bus frees what it was given */
	return err;
}

void virtio_pci_free(struct virtio_pci *transport)
{
	if (transport)
		pci_calls_deinit(&transport->calls);
	free(transport);
}
