/* SPDX-License-Identifier: BSD-2-Clause */
/* Doorbells that the CPU engine serves without an exit to the machine (KVM's ioeventfd). */
#ifndef GUISE_VIRTIO_DOORBELL_H
#define GUISE_VIRTIO_DOORBELL_H

#include <stdbool.h>

#include "x86/arch.h" /* gpa_t */

struct virtio_doorbell {
	gpa_t gpa;
	unsigned size;	 /* bytes: writes of another size do not count */
	int fd;		 /* the eventfd that a write signals */
	bool matches;	 /* only writes of `value` count */
	uint32_t value;
};

/* May be absent (set == NULL): writes then reach the transport's handler, which signals the eventfd itself. */
struct virtio_doorbells {
	int (*set)(void *opaque, const struct virtio_doorbell *doorbell, bool on); /* 0/-errno; vCPU threads */
	void *opaque;
};

#endif
