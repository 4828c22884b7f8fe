/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-rng (virtio 1.3, 5.4): random bytes from the host. The smallest device: read this one first. */
#ifndef GUISE_DEVICES_RNG_H
#define GUISE_DEVICES_RNG_H

#include "base/loop.h"
#include "virtio/device.h"

struct rng;

struct rng_config {
	int fd;		/* a character device to read from; the rng's from now on, also on failure. -1: getrandom(2) */
	uint64_t rate;	/* bytes per second at most; 0: no limit */
};

/* Served on the loop's thread; the loop outlives the device. 0/-errno. */
int rng_new(struct loop *loop, const struct dma *dma, const struct rng_config *config, struct rng **rng);
void rng_free(struct rng *rng);
struct virtio_device *rng_device(struct rng *rng);

#endif
