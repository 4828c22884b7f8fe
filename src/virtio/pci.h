/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio over PCI (virtio 1.3, 4.1): the modern interface only, MSI-X per queue, a doorbell per queue. */
#ifndef GUISE_VIRTIO_PCI_H
#define GUISE_VIRTIO_PCI_H

#include "bus/pci.h"
#include "virtio/calls.h"
#include "virtio/device.h"
#include "virtio/doorbell.h"

struct virtio_pci;

/* Put the device on the bus, before the machine runs; doorbells may be NULL. 0/-errno. Free it before the bus and after the vCPUs have stopped. */
int virtio_pci_new(struct pci_bus *pci, struct virtio_device *device, const struct virtio_doorbells *doorbells,
		   struct virtio_pci **transport);
/*
 * Have the calls of queues with a call_fd delivered by the CPU engine (KVM's irqfd) while their vector is unmasked. Before the
 * machine runs. Without it, and with INTx, the device serves them.
 */
void virtio_pci_direct_calls(struct virtio_pci *transport, const struct virtio_calls *calls);
void virtio_pci_free(struct virtio_pci *transport); /* of a device with a call_fd: before the device, when that has stopped */

#endif
