/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio driver in the same process: brings a device up through the core's transport calls, without a guest or a
 * bus, and drives its queues with our own driver half. Memory: one slot of RAM at GPA 0.
 */
#ifndef GUISE_TESTS_DEVICE_DRIVER_H
#define GUISE_TESTS_DEVICE_DRIVER_H

#include "virtio/device.h"

enum { TEST_RAM = 8 << 20, TEST_DATA = 1 << 20 };

struct test_driver {
	struct memory mem;
	uint8_t *ram;
	struct dma dma;
	struct virtio_device *device;
	struct virtq_driver queue[16];
	int call_fd; /* eventfd that interrupts write */
};

void driver_memory(struct test_driver *t); /* first: RAM and the dma handle for creating the device */
/* Negotiate `features` out of the offer (ring bits included) and bring up n_queues of the given size. */
void driver_start(struct test_driver *t, struct virtio_device *device, uint64_t features, unsigned n_queues, uint32_t size);
void driver_reset(struct test_driver *t);
void driver_end(struct test_driver *t);
/* Add one chain, kick if wanted. */
void driver_send(struct test_driver *t, unsigned queue, const struct virtq_segment *seg, unsigned readable,
		 unsigned writable, void *token);
/* Wait (10 s at most) for a used chain: its token; fails the test if none comes. */
void *driver_wait(struct test_driver *t, unsigned queue, uint32_t *written);
/* Is a used chain there already? */
bool driver_pending(struct test_driver *t, unsigned queue);

#endif
