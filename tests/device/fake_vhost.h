/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vhost back end within the process, for tests of front ports: it takes note of rings and memory and does nothing. The test plays the
 * device on the rings, which front ports name by this process's own addresses.
 */
#ifndef GUISE_TESTS_FAKE_VHOST_H
#define GUISE_TESTS_FAKE_VHOST_H

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include "vhost/ops.h"

enum { FAKE_RINGS = 8 };

struct fake_vhost {
	struct vhost v;
	uint64_t features;
	struct vhost_ring ring[FAKE_RINGS]; /* receiveq, transmitq of each pair */
	bool is_enabled[FAKE_RINGS];
	struct vhost_region region;
	unsigned n_started; /* of all that were ever started */
};

static int fake_get_features(struct vhost *v, uint64_t *features)
{
	*features = ((struct fake_vhost *)v)->features;
	return 0;
}

static int fake_set_features(struct vhost *v, uint64_t features)
{
	return 0;
}

static int fake_set_memory(struct vhost *v, const struct vhost_region *region, unsigned n)
{
	((struct fake_vhost *)v)->region = *region;
	return 0;
}

static int fake_start_ring(struct vhost *v, unsigned index, const struct vhost_ring *ring)
{
	struct fake_vhost *fake = (struct fake_vhost *)v;

	if (index >= FAKE_RINGS)
		return -EINVAL;
	fake->ring[index] = *ring;
	fake->is_enabled[index] = false;
	fake->n_started++;
	return 0;
}

static int fake_stop_ring(struct vhost *v, unsigned index, uint32_t *base)
{
	*base = 0;
	return 0;
}

static int fake_enable_ring(struct vhost *v, unsigned index, bool on)
{
	((struct fake_vhost *)v)->is_enabled[index] = on;
	return 0;
}

static void fake_close(struct vhost *v)
{
}

static const struct vhost_ops fake_vhost_ops = {
	.kind = "fake",
	.get_features = fake_get_features,
	.set_features = fake_set_features,
	.set_memory = fake_set_memory,
	.start_ring = fake_start_ring,
	.stop_ring = fake_stop_ring,
	.enable_ring = fake_enable_ring,
	.close = fake_close,
};

#endif
