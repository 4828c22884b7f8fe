/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A queue that somebody outside serves has its driver called by an eventfd. While the queue's vector is open,
 * the CPU engine turns signals into interrupts; while it is masked, or interrupts are INTx, the device's own
 * thread reads the eventfd and notifies the vector, which becomes pending. No signal is lost between the two:
 * an eventfd keeps its count, and both look at what is there when they begin.
 */
#include "virtio/pci_calls.h"

#include <errno.h>
#include <stdlib.h>

int pci_calls_init(struct pci_calls *c, struct virtio_device *device, unsigned n_vectors)
{
	pthread_mutex_init(&c->lock, NULL);
	c->device = device;
	c->n_vectors = n_vectors;
	c->vector = calloc(n_vectors, sizeof(*c->vector));
	c->direct_fd = malloc(device->n_queues * sizeof(*c->direct_fd));
	c->n_queues = c->direct_fd ? device->n_queues : 0;
	for (unsigned k = 0; k < c->n_queues; k++)
		c->direct_fd[k] = -1;
	if (c->vector && c->direct_fd)
		return 0;
	pci_calls_deinit(c);
	return -ENOMEM;
}

void pci_calls_deinit(struct pci_calls *c)
{
	for (unsigned k = 0; k < c->n_queues; k++)
		if (c->direct_fd[k] >=
		    0) /* nobody watches any more: the device has stopped, it may be gone */
			c->calls.clear(c->calls.opaque, c->direct_fd[k]);
	free(c->vector);
	free(c->direct_fd);
	pthread_mutex_destroy(&c->lock);
}

static void end_direct(struct pci_calls *c, unsigned index)
{
	c->calls.clear(c->calls.opaque, c->direct_fd[index]);
	c->direct_fd[index] = -1;
	c->device->type->watch_calls(c->device->opaque, index, true);
}

static void begin_direct(struct pci_calls *c, unsigned index, const struct vector_state *v)
{
	struct virtio_queue *q = &c->device->queue[index];

	if (c->direct_fd[index] < 0)
		c->device->type->watch_calls(c->device->opaque, index, false);
	if (!c->calls.set(c->calls.opaque, q->call_fd, v->address, v->data)) {
		c->direct_fd[index] = q->call_fd;
		return;
	}
	if (c->direct_fd[index] >= 0)
		end_direct(c, index);
	else
		c->device->type->watch_calls(c->device->opaque, index, true);
}

static void update(struct pci_calls *c, unsigned index)
{
	struct virtio_queue *q = &c->device->queue[index];
	uint16_t vector = __atomic_load_n(&q->vector, __ATOMIC_RELAXED);

	if (q->call_fd < 0 || !c->calls.set)
		return;
	if (vector < c->n_vectors && c->vector[vector].is_open)
		begin_direct(c, index, &c->vector[vector]);
	else if (c->direct_fd[index] >= 0)
		end_direct(c, index);
}

void pci_calls_update(struct pci_calls *c)
{
	pthread_mutex_lock(&c->lock);
	for (unsigned k = 0; k < c->n_queues; k++)
		update(c, k);
	pthread_mutex_unlock(&c->lock);
}

void pci_calls_offer(struct pci_calls *c, const struct virtio_calls *calls)
{
	pthread_mutex_lock(&c->lock);
	c->calls = *calls;
	pthread_mutex_unlock(&c->lock);
	pci_calls_update(c);
}

void pci_calls_vector(struct pci_calls *c, unsigned vector, bool masked, uint64_t address, uint32_t data)
{
	pthread_mutex_lock(&c->lock);
	c->vector[vector] = (struct vector_state){!masked, address, data};
	for (unsigned k = 0; k < c->n_queues; k++)
		if (__atomic_load_n(&c->device->queue[k].vector, __ATOMIC_RELAXED) == vector)
			update(c, k);
	pthread_mutex_unlock(&c->lock);
}
