/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk that a vhost-user back end keeps (virtio 1.3, 5.2). Its configuration space is the back end's, but
 * for the number of queues, which is how many of them the machine has. A crashed back end's requests are
 * taken up by its successor.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/vhost_internal.h"

/* Up to and without what SECURE_ERASE and ZONED add, which not every back end's space has. */
enum { CONFIG_SIZE = offsetof(struct virtio_blk_config, max_secure_erase_sectors), MAX_QUEUES = 16 };

struct vhost_blk {
	struct served served;
	uint16_t n_queues;
};

static const uint64_t blk_features =
	1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_GEOMETRY |
	1ull << VIRTIO_BLK_F_RO | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
	1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_CONFIG_WCE | 1ull << VIRTIO_BLK_F_MQ |
	1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;

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
	struct vhost_blk *blk = opaque;
	struct virtio_blk_config config = {0};

	vhost_link_read_config(blk->served.link, 0, &config, CONFIG_SIZE);
	config.num_queues = blk->n_queues;
	memcpy(data, (uint8_t *)&config + offset, size);
}

static void write_config(void *opaque, uint32_t offset, const void *data, unsigned size)
{
	struct vhost_blk *blk = opaque;

	if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 &&
	    virtio_has(&blk->served.device, VIRTIO_BLK_F_CONFIG_WCE))
		vhost_link_write_config(blk->served.link, offset, data, size);
}

static const struct virtio_type blk_type = {
	.name = "vhost-blk",
	.id = 2,
	.config_size = CONFIG_SIZE,
	.start = start,
	.stop = stop,
	.read_config = read_config,
	.write_config = write_config,
	.stop_queue = served_halt_queue,
	.start_queue = served_start_queue,
	.watch_calls = served_watch_calls,
};

/* The back end's disk may have grown. */
static void config_changed(void *opaque)
{
	struct vhost_blk *blk = opaque;

	if (served_has_driver(&blk->served))
		virtio_config_changed(&blk->served.device);
}

static const struct vhost_link_events events = {.config_changed = config_changed};

static void blk_free(struct served *s)
{
	free(s);
}

static unsigned most_queues(struct vhost_blk *blk)
{
	struct vhost_link_info info;
	uint16_t most = 1;

	vhost_link_info(blk->served.link, &info);
	if (info.features >> VIRTIO_BLK_F_MQ & 1)
		vhost_link_read_config(blk->served.link, offsetof(struct virtio_blk_config, num_queues),
				       &most, sizeof(most));
	if (most > info.max_rings)
		most = (uint16_t)info.max_rings;
	return most > MAX_QUEUES ? MAX_QUEUES : most ? most : 1;
}

static int count_queues(struct vhost_blk *blk, const struct served_config *config, char *why,
			unsigned why_size)
{
	unsigned most = most_queues(blk), n = config->n_queues;

	if (!n)
		n = most < config->default_queues ? most : config->default_queues;
	if (n > most) {
		snprintf(why, why_size, "%u queues: the back end at %s serves %u", n, config->path, most);
		return -EINVAL;
	}
	blk->n_queues = (uint16_t)n;
	return 0;
}

int vhost_blk_new(const struct served_config *config, const struct dma *dma, struct served **served,
		  char *why, unsigned why_size)
{
	struct vhost_link_config link = {
		.device_id = 2,
		.features = blk_features | served_ring_features(config),
		.n_rings = MAX_QUEUES,
		.config_size = CONFIG_SIZE,
		.inflight = true,
		.events = &events,
	};
	struct vhost_blk *blk = calloc(1, sizeof(*blk));
	uint16_t sizes[MAX_QUEUES];
	int err = blk ? 0 : -ENOMEM;

	snprintf(why, why_size, "%s", strerror(ENOMEM));
	if (err)
		return err;
	blk->served.free = blk_free;
	for (unsigned k = 0; k < MAX_QUEUES; k++)
		sizes[k] = SERVED_QUEUE_SIZE;
	err = served_connect(&blk->served, config, &link, why, why_size);
	if (!err)
		err = count_queues(blk, config, why, why_size);
	if (!err && (err = served_init(&blk->served, &blk_type, dma, 0, sizes, blk->n_queues)))
		snprintf(why, why_size, "%s", strerror(-err));
	if (err) {
		served_free(&blk->served);
		return err;
	}
	*served = &blk->served;
	return 0;
}
