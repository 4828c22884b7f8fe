/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-blk (virtio 1.3, 5.2) on a struct disk. */
#ifndef GUISE_DEVICES_BLK_H
#define GUISE_DEVICES_BLK_H

#include "disk/disk.h"
#include "virtio/device.h"

struct blk;

struct blk_config {
	const char *owner;  /* the VM's name, for the threads */
	const char *serial; /* at most 20 bytes; NULL: none */
	unsigned n_queues;  /* 1..16 */
};

/* disk is the caller's and outlives the device. 0/-errno. */
int blk_new(struct disk *disk, const struct dma *dma, const struct blk_config *config, struct blk **blk);
void blk_free(struct blk *blk);
struct virtio_device *blk_device(struct blk *blk);

#endif
