/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to virtio over PCI: which queues' calls the CPU engine delivers. */
#ifndef GUISE_VIRTIO_PCI_CALLS_H
#define GUISE_VIRTIO_PCI_CALLS_H

#include <pthread.h>

#include "virtio/calls.h"
#include "virtio/device.h"

struct vector_state { /* as the MSI-X table last said */
	bool is_open; /* enabled and not masked */
	uint64_t address;
	uint32_t data;
};

struct pci_calls {
	struct virtio_device *device;
	pthread_mutex_t lock; /* leaf lock but for the engine's own */
	/* protected by lock */
	struct virtio_calls calls;
	struct vector_state *vector;
	unsigned n_vectors;
	unsigned n_queues;
	int *direct_fd; /* by queue: the eventfd that the engine watches, or -1 */
};

int pci_calls_init(struct pci_calls *c, struct virtio_device *device, unsigned n_vectors);
void pci_calls_deinit(struct pci_calls *c);
void pci_calls_offer(struct pci_calls *c, const struct virtio_calls *calls);
/* What msix_listener.changed hears. */
void pci_calls_vector(struct pci_calls *c, unsigned vector, bool masked, uint64_t address, uint32_t data);
/* Queues' vectors may have changed. */
void pci_calls_update(struct pci_calls *c);

#endif
