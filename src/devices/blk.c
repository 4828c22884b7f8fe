/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-blk (virtio 1.3, 5.2).
 *
 * Each queue has a thread of its own with its own disk_queue: it pops requests, submits them, and returns them as they
 * complete, in any order. A request is one chain: a readable header of 16 bytes, data one way or the other, and a status
 * byte at the end of the writable part; the driver may frame these as it likes, so they are taken by position, not by
 * descriptor. What the guest asks is checked where it is used: ranges in disk_submit(), everything else here, and a
 * bad request costs its status byte only.
 *
 * Write cache: with FLUSH negotiated (and `writeback` not cleared through CONFIG_WCE) a write is done when the host has
 * it, and durable after FLUSH; otherwise every write is followed by a flush before it is returned.
 */
#include "devices/blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/thread.h"

enum { QUEUE_SIZE = 256, SEGMENTS = 126, CHAIN_SEGMENTS = SEGMENTS + 4, MAX_QUEUES = 16, ID_BYTES = VIRTIO_BLK_ID_BYTES };
enum { MAX_RANGES = 16, MAX_RANGE_SECTORS = 1 << 22 };

struct blk_queue;

struct blk_request {
	struct disk_request disk;
	struct blk_queue *queue;
	struct virtq_chain chain;
	struct iovec iov[CHAIN_SEGMENTS];
	struct iovec *data;	 /* of iov, behind the header; the status byte is cut off */
	unsigned n_data;
	uint8_t *status;
	uint32_t type;
	uint32_t read_bytes;	 /* put in the writable part, without the status */
	bool flush_after;
	struct virtio_blk_discard_write_zeroes range[MAX_RANGES];
	unsigned n_ranges, next_range;
	struct blk_request *next_free;
};

struct blk_queue {
	struct blk *blk;
	struct virtio_queue *queue;
	struct disk_queue *disk_queue;
	struct blk_request *requests, *free;
	pthread_t thread;
	int stop_fd;
	bool running;
	bool stopping; /* the thread's own */
};

struct blk {
	struct virtio_device device;
	struct disk *disk;
	struct virtio_blk_config config;
	_Atomic bool writeback;
	uint8_t serial[ID_BYTES];
	const char *owner;
	unsigned n_queues;
	struct blk_queue queue[MAX_QUEUES];
};

/* --- one request --- */

static void return_request(struct blk_request *r, uint8_t status)
{
	struct blk_queue *bq = r->queue;

	*r->status = status;
	virtio_push(bq->queue, &r->chain, r->read_bytes + 1);
	r->next_free = bq->free;
	bq->free = r;
}

static uint8_t status_of(int result)
{
	if (!result)
		return VIRTIO_BLK_S_OK;
	return result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void submit_next_range(struct blk_request *r);

static void request_done(struct disk_request *disk_request, int result)
{
	struct blk_request *r = (struct blk_request *)disk_request;

	if (!result && r->next_range < r->n_ranges) {
		submit_next_range(r);
	} else if (!result && r->flush_after) {
		r->flush_after = false;
		r->disk.op = DISK_FLUSH;
		disk_submit(r->queue->disk_queue, r->queue->blk->disk, &r->disk);
	} else {
		return_request(r, status_of(result));
	}
}

static void submit(struct blk_request *r, enum disk_op op, uint64_t offset, uint64_t bytes)
{
	r->disk.op = op;
	r->disk.offset = offset;
	r->disk.bytes = bytes;
	r->disk.iov = r->data;
	r->disk.n_iov = r->n_data;
	r->disk.done = request_done;
	disk_submit(r->queue->disk_queue, r->queue->blk->disk, &r->disk);
}

static void submit_next_range(struct blk_request *r)
{
	const struct virtio_blk_discard_write_zeroes *range = &r->range[r->next_range++];

	submit(r, r->type == VIRTIO_BLK_T_DISCARD ? DISK_DISCARD : DISK_WRITE_ZEROES, range->sector << 9,
	       (uint64_t)range->num_sectors << 9);
}

/* Take `bytes` off the front of a vector; false: it has fewer. */
static bool take_front(struct iovec **iov, unsigned *count, void *out, size_t bytes)
{
	while (bytes) {
		size_t part;

		if (!*count)
			return false;
		part = (*iov)->iov_len < bytes ? (*iov)->iov_len : bytes;
		memcpy(out, (*iov)->iov_base, part);
		out = (uint8_t *)out + part;
		bytes -= part;
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + part;
		(*iov)->iov_len -= part;
		if (!(*iov)->iov_len) {
			(*iov)++;
			(*count)--;
		}
	}
	return true;
}

static void ranges(struct blk_request *r)
{
	uint64_t bytes = 0;

	for (unsigned k = 0; k < r->n_data; k++)
		bytes += r->data[k].iov_len;
	r->n_ranges = (unsigned)(bytes / sizeof(r->range[0]));
	if (!r->n_ranges || bytes % sizeof(r->range[0]) || bytes > sizeof(r->range)) {
		r->n_ranges = 0;
		return_request(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	take_front(&r->data, &r->n_data, r->range, bytes);
	for (unsigned k = 0; k < r->n_ranges; k++) {
		bool unmap = r->range[k].flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

		/* 5.2.6.2: unknown flags, and UNMAP in a discard, are unsupported; over-long ranges are errors */
		if (r->range[k].flags & ~1u || (unmap && r->type == VIRTIO_BLK_T_DISCARD)) {
			r->n_ranges = 0;
			return_request(r, VIRTIO_BLK_S_UNSUPP);
			return;
		}
		if (r->range[k].num_sectors > MAX_RANGE_SECTORS || r->range[k].sector >> 55) {
			r->n_ranges = 0;
			return_request(r, VIRTIO_BLK_S_IOERR);
			return;
		}
	}
	submit_next_range(r);
}

static void get_id(struct blk_request *r)
{
	const uint8_t *id = r->queue->blk->serial;
	unsigned left = ID_BYTES;

	for (unsigned k = 0; k < r->n_data && left; k++) {
		unsigned part = r->data[k].iov_len < left ? (unsigned)r->data[k].iov_len : left;

		memcpy(r->data[k].iov_base, id, part);
		id += part;
		left -= part;
		r->read_bytes += part;
	}
	return_request(r, VIRTIO_BLK_S_OK);
}

static void transfer(struct blk_request *r, bool write, uint64_t sector)
{
	uint64_t bytes = write ? r->chain.readable_bytes - sizeof(struct virtio_blk_outhdr) : r->chain.writable_bytes - 1;

	if (bytes % 512 || sector >> 55) {
		return_request(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!write)
		r->read_bytes = (uint32_t)bytes;
	r->flush_after = write && !atomic_load(&r->queue->blk->writeback);
	submit(r, write ? DISK_WRITE : DISK_READ, sector << 9, bytes);
}

/* Cut the chain into header, data and status. false: there is no room for a status: nothing can be answered. */
static bool dissect(struct blk_request *r, struct virtio_blk_outhdr *header)
{
	struct virtq_chain *c = &r->chain;
	struct iovec *readable = r->iov, *writable = r->iov + c->readable;
	unsigned n_readable = c->readable, n_writable = c->writable;
	struct iovec *last = writable + n_writable - 1;

	if (!n_writable || !take_front(&readable, &n_readable, header, sizeof(*header)))
		return false;
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	if (!--last->iov_len)
		n_writable--;
	r->data = n_readable ? readable : writable;
	r->n_data = n_readable ? n_readable : n_writable;
	return true;
}

static void serve(struct blk_request *r)
{
	struct virtio_blk_outhdr header;
	bool read_only = disk_info(r->queue->blk->disk)->read_only;

	r->read_bytes = 0;
	r->n_ranges = r->next_range = 0;
	r->flush_after = false;
	if (!dissect(r, &header)) {
		log_warn("blk: request without a whole header and a status byte ignored");
		virtio_push(r->queue->queue, &r->chain, 0);
		r->next_free = r->queue->free;
		r->queue->free = r;
		return;
	}
	r->type = header.type & ~(uint32_t)VIRTIO_BLK_T_BARRIER;
	if (read_only && (r->type == VIRTIO_BLK_T_OUT || r->type == VIRTIO_BLK_T_DISCARD || r->type == VIRTIO_BLK_T_WRITE_ZEROES)) {
		return_request(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
		transfer(r, false, header.sector);
		break;
	case VIRTIO_BLK_T_OUT:
		transfer(r, true, header.sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		submit(r, DISK_FLUSH, 0, 0);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(r);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		ranges(r);
		break;
	default:
		return_request(r, VIRTIO_BLK_S_UNSUPP);
	}
}

/* --- a queue's thread --- */

static void pop_all(struct blk_queue *bq)
{
	struct virtq *ring = &bq->queue->ring;
	int popped = 0;

	if (atomic_load(&bq->queue->idle))
		return; /* a kick comes when that changes */
	do {
		virtq_disable_kicks(ring);
		while (bq->free && !bq->stopping) {
			struct blk_request *r = bq->free;

			r->chain.iov = r->iov;
			r->chain.capacity = CHAIN_SEGMENTS;
			popped = virtq_pop(ring, &r->chain);
			if (popped <= 0)
				break;
			bq->free = r->next_free;
			serve(r);
		}
		if (popped < 0)
			virtio_queue_failed(bq->queue);
	} while (!bq->stopping && bq->free && popped >= 0 && virtq_enable_kicks(ring));
}

static void kicked(void *opaque)
{
	/* the loop below looks at the ring after every wake-up */
}

static void stop_asked(void *opaque)
{
	((struct blk_queue *)opaque)->stopping = true;
}

static void *serve_queue(void *opaque)
{
	struct blk_queue *bq = opaque;

	while (!bq->stopping || disk_queue_in_flight(bq->disk_queue)) {
		if (!bq->stopping)
			pop_all(bq);
		virtio_call(bq->queue);
		if (disk_queue_wait(bq->disk_queue))
			break;
	}
	virtio_call(bq->queue);
	return NULL;
}

static void stop_one(void *opaque, unsigned index)
{
	struct blk_queue *bq = &((struct blk *)opaque)->queue[index];

	if (!bq->running)
		return;
	eventfd_write(bq->stop_fd, 1);
	pthread_join(bq->thread, NULL);
	close(bq->stop_fd);
	disk_queue_free(bq->disk_queue);
	free(bq->requests);
	bq->running = false;
}

static int start_one(void *opaque, unsigned index)
{
	struct blk *blk = opaque;
	struct blk_queue *bq = &blk->queue[index];
	unsigned count = blk->device.queue[index].config.size;
	int err = -ENOMEM;

	*bq = (struct blk_queue){ .blk = blk, .queue = &blk->device.queue[index] };
	bq->requests = calloc(count, sizeof(*bq->requests));
	if (!bq->requests)
		return -ENOMEM;
	for (unsigned k = 0; k < count; k++) {
		bq->requests[k].queue = bq;
		bq->requests[k].next_free = k + 1 < count ? &bq->requests[k + 1] : NULL;
	}
	bq->free = bq->requests;
	bq->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (bq->stop_fd < 0 || (err = disk_queue_new(count, &bq->disk_queue)))
		goto fail;
	disk_queue_add_event(bq->disk_queue, bq->queue->kick_fd, kicked, bq);
	disk_queue_add_event(bq->disk_queue, bq->stop_fd, stop_asked, bq);
	err = thread_start(&bq->thread, blk->owner, "blk", serve_queue, bq);
	if (err)
		goto fail;
	bq->running = true;
	return 0;
fail:
	disk_queue_free(bq->disk_queue);
	if (bq->stop_fd >= 0)
		close(bq->stop_fd);
	free(bq->requests);
	return err;
}

static void stop(void *opaque)
{
	struct blk *blk = opaque;

	for (unsigned k = 0; k < blk->n_queues; k++)
		stop_one(blk, k);
}

static int start(void *opaque)
{
	struct blk *blk = opaque;

	/* Without FLUSH the driver cannot ask for durability, so every write must have it (5.2.5). */
	if (!virtio_has(&blk->device, VIRTIO_BLK_F_CONFIG_WCE))
		atomic_store(&blk->writeback, virtio_has(&blk->device, VIRTIO_BLK_F_FLUSH));
	for (unsigned k = 0; k < blk->n_queues; k++) {
		int err = blk->device.queue[k].enabled ? start_one(blk, k) : 0;

		if (err) {
			stop(blk);
			return err;
		}
	}
	return 0;
}

/* --- configuration --- */

static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	struct blk *blk = opaque;

	blk->config.wce = atomic_load(&blk->writeback);
	memcpy(data, (uint8_t *)&blk->config + offset, size);
}

static void write_config(void *opaque, uint32_t offset, const void *data, unsigned size)
{
	struct blk *blk = opaque;

	if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 && virtio_has(&blk->device, VIRTIO_BLK_F_CONFIG_WCE))
		atomic_store(&blk->writeback, *(const uint8_t *)data & 1);
}

static const struct virtio_type blk_type = {
	.name = "blk",
	.id = 2,
	.config_size = sizeof(struct virtio_blk_config),
	.start = start,
	.stop = stop,
	.read_config = read_config,
	.write_config = write_config,
	.stop_queue = stop_one,
	.start_queue = start_one,
};

static void fill_config(struct blk *blk)
{
	const struct disk_info *info = disk_info(blk->disk);

	blk->config = (struct virtio_blk_config){
		.capacity = info->size >> 9,
		.seg_max = SEGMENTS,
		.blk_size = info->block_size,
		.min_io_size = 1,
		.num_queues = (uint16_t)blk->n_queues,
		.max_discard_sectors = MAX_RANGE_SECTORS,
		.max_discard_seg = MAX_RANGES,
		.discard_sector_alignment = info->block_size >> 9,
		.max_write_zeroes_sectors = MAX_RANGE_SECTORS,
		.max_write_zeroes_seg = MAX_RANGES,
		.write_zeroes_may_unmap = 1,
	};
}

int blk_new(struct disk *disk, const struct dma *dma, const struct blk_config *config, struct blk **out)
{
	uint64_t features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
			    1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_CONFIG_WCE | 1ull << VIRTIO_BLK_F_MQ;
	uint16_t sizes[MAX_QUEUES];
	struct blk *blk;
	int err;

	if (!config->n_queues || config->n_queues > MAX_QUEUES || (config->serial && strlen(config->serial) > ID_BYTES))
		return -EINVAL;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return -ENOMEM;
	blk->disk = disk;
	blk->owner = config->owner;
	blk->n_queues = config->n_queues;
	atomic_store(&blk->writeback, true);
	if (config->serial)
		memcpy(blk->serial, config->serial, strlen(config->serial));
	fill_config(blk);
	features |= disk_info(disk)->read_only ? 1ull << VIRTIO_BLK_F_RO : 0;
	features |= disk_info(disk)->can_discard ? 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES : 0;
	for (unsigned k = 0; k < MAX_QUEUES; k++)
		sizes[k] = QUEUE_SIZE;
	err = virtio_device_init(&blk->device, &blk_type, blk, dma, features, sizes, config->n_queues);
	if (err) {
		free(blk);
		return err;
	}
	*out = blk;
	return 0;
}

void blk_free(struct blk *blk)
{
	if (!blk)
		return;
	virtio_device_deinit(&blk->device);
	free(blk);
}

struct virtio_device *blk_device(struct blk *blk)
{
	return &blk->device;
}
