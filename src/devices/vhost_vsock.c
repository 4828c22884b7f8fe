/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sockets between guest and host by the kernel's vhost-vsock (virtio 1.3, 5.10). The kernel serves receiveq
 * and transmitq; the event queue is for migration only, and nothing ever comes on it.
 */
#include <errno.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/vhost_internal.h"

enum { QUEUES = 3, EVENT_QUEUE = 2 };

struct vhost_vsock {
	struct served served;
	struct virtio_vsock_config config;
};

static int start(void *opaque)
{
	return served_start(opaque);
}

static void stop(void *opaque)
{
	served_halt(opaque);
}

static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	memcpy(data, (uint8_t *)&((struct vhost_vsock *)opaque)->config + offset, size);
}

static const struct virtio_type vsock_type = {
	.name = "vhost-vsock",
	.id = 19,
	.config_size = sizeof(struct virtio_vsock_config),
	.start = start,
	.stop = stop,
	.read_config = read_config,
	.watch_calls = served_watch_calls,
};

static void vsock_free(struct served *s)
{
	free(s);
}

int vhost_vsock_new(const struct served_config *config, const struct dma *dma, struct served **served,
		    char *why, unsigned why_size)
{
	static const uint16_t sizes[QUEUES] = {128, 128, 128};
	struct vhost_link_config link = {
		.device_id = 19,
		.features = 1ull << VIRTIO_VSOCK_F_SEQPACKET | served_ring_features(config),
		.n_rings = QUEUES,
	};
	struct vhost_vsock *vsock = calloc(1, sizeof(*vsock));
	int err = vsock ? 0 : -ENOMEM;

	snprintf(why, why_size, "%s", strerror(ENOMEM));
	if (err) {
		served_refuse(config);
		return err;
	}
	vsock->served.free = vsock_free;
	vsock->served.is_ours[EVENT_QUEUE] = true;
	vsock->config.guest_cid = config->cid;
	err = served_connect(&vsock->served, config, &link, why, why_size);
	if (!err && (err = served_init(&vsock->served, &vsock_type, dma, 0, sizes, QUEUES)))
		snprintf(why, why_size, "%s", strerror(-err));
	if (err) {
		served_free(&vsock->served);
		return err;
	}
	*served = &vsock->served;
	return 0;
}
