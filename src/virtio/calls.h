/* SPDX-License-Identifier: BSD-2-Clause */
/* Calls of a driver that the CPU engine makes by itself when an eventfd is signalled (KVM's irqfd with an MSI route). */
#ifndef GUISE_VIRTIO_CALLS_H
#define GUISE_VIRTIO_CALLS_H

#include <stdbool.h>
#include <stdint.h>

struct virtio_calls {
	/*
	 * Signals of fd become this MSI, those included that are there already; called again for an fd: another MSI. 0/-errno: nothing
	 * changed. Any thread.
	 */
	int (*set)(void *opaque, int fd, uint64_t address, uint32_t data);
	/* No more. On return the engine does not read fd any more. */
	void (*clear)(void *opaque, int fd);
	void *opaque;
};

#endif
