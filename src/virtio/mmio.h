/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio over MMIO (virtio 1.3, 4.2), version 2: one page of registers and one interrupt wire, for machines without PCI. */
#ifndef GUISE_VIRTIO_MMIO_H
#define GUISE_VIRTIO_MMIO_H

#include "bus/bus.h"
#include "virtio/device.h"
#include "virtio/doorbell.h"

enum { VIRTIO_MMIO_SIZE = 0x1000 };

struct virtio_mmio;

/*
 * Put the device at [base, base + VIRTIO_MMIO_SIZE) with a level-triggered wire, before the machine runs. doorbells may
 * be NULL. 0/-errno. Free it before the bus and after the vCPUs have stopped.
 */
int virtio_mmio_new(struct bus *bus, uint64_t base, const struct irq_wire *irq, struct virtio_device *device,
		    const struct virtio_doorbells *doorbells, struct virtio_mmio **transport);
void virtio_mmio_free(struct virtio_mmio *transport); /* NULL is allowed */

#endif
