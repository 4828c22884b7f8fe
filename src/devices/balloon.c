/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-balloon. Page numbers that the driver puts into the inflateq are sorted, joined to ranges and given back to the
 * host; those of the deflateq need nothing, because touching a page backs it again. Reported free pages come as
 * device-writable buffers, which are the pages themselves.
 *
 * Which queue is the reporting queue: without FREE_PAGE_HINT, Linux counts the queues that exist, and the specification
 * (5.5.2) numbers all of them. Both are understood: it is the enabled queue behind the statistics queue.
 *
 * Threads: all on the loop's but configuration space, which has atomics only. A wake-up serves a bounded number of chains,
 * so that a guest cannot keep the thread for itself.
 */
#include "devices/balloon.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "base/log.h"

enum { INFLATE, DEFLATE, STATS, N_QUEUES = 5, QUEUE_SIZE = 128, SEGMENTS = 128, BURST = 32, BATCH = 1024, MAX_PFNS = 1 << 16 };
enum { PFN_SHIFT = VIRTIO_BALLOON_PFN_SHIFT, STAT_BYTES = 10, MAX_STATS = 64 };

struct balloon {
	struct virtio_device device;
	struct loop *loop;
	uint64_t limit;
	_Atomic uint32_t target_pages, actual_pages;
	_Atomic bool running;
	struct loop_source *source[N_QUEUES];
	struct virtio_queue *stats, *reporting; /* set by start(); NULL: not there */
	/* the loop thread's */
	struct balloon_info info;
	struct iovec stats_iov[SEGMENTS];
	struct virtq_chain stats_chain;
	bool stats_held, stats_wanted;
	void (*on_stats)(void *opaque);
	void *on_stats_opaque;
};

/* --- giving back --- */

static bool discard(struct balloon *b, gpa_t gpa, uint64_t len)
{
	const struct dma *dma = &b->device.dma;

	if (memory_discard(dma->mem, gpa, len))
		return false; /* not RAM, or a hole that the file system refuses: the guest loses nothing that it has not given */
	if (dma->written)
		dma->written(dma->opaque, gpa, len);
	return true;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void inflate_batch(struct balloon *b, uint32_t *pfn, unsigned count)
{
	qsort(pfn, count, sizeof(*pfn), compare);
	for (unsigned k = 0, n; k < count; k += n) {
		for (n = 1; k + n < count && pfn[k + n] - pfn[k + n - 1] <= 1; n++)
			; /* the next one, or the same again */
		uint64_t len = (uint64_t)(pfn[k + n - 1] - pfn[k] + 1) << PFN_SHIFT;

		if (discard(b, (gpa_t)pfn[k] << PFN_SHIFT, len))
			b->info.inflated += len;
	}
}

/* The readable part is an array of 32-bit page numbers, framed as the driver likes. */
static void inflate(struct balloon *b, const struct virtq_chain *chain)
{
	uint32_t pfn[BATCH];
	unsigned count = 0, have = 0, total = 0;
	uint8_t word[4];

	for (unsigned k = 0; k < chain->readable; k++) {
		const uint8_t *from = chain->iov[k].iov_base;

		for (size_t i = 0; i < chain->iov[k].iov_len && total < MAX_PFNS; i++) {
			word[have++] = from[i];
			if (have < sizeof(word))
				continue;
			have = 0;
			total++;
			pfn[count++] = get_le32(word);
			if (count == BATCH) {
				inflate_batch(b, pfn, count);
				count = 0;
			}
		}
	}
	inflate_batch(b, pfn, count);
}

/* A reported range may be discarded only while its chain is not returned: the driver keeps it free until then. */
static void report(struct balloon *b, const struct virtq_chain *chain)
{
	const struct mem_table *table = atomic_load_explicit(&b->device.dma.mem->table, memory_order_acquire);

	for (unsigned k = 0; k < chain->writable; k++) {
		const struct iovec *iov = &chain->iov[chain->readable + k];

		for (unsigned s = 0; s < table->count; s++) {
			uint64_t offset = (uint64_t)((uint8_t *)iov->iov_base - table->slot[s]->hva);
			uint64_t first = align_up(offset, PAGE_SIZE), end = (offset + iov->iov_len) & ~(uint64_t)(PAGE_SIZE - 1);

			if (offset < table->slot[s]->size && first < end && discard(b, table->slot[s]->gpa + first, end - first))
				b->info.reported += end - first;
		}
	}
}

/* --- statistics: the driver's buffer stays here until somebody asks --- */

static void read_stats(struct balloon *b)
{
	uint8_t bytes[STAT_BYTES * MAX_STATS];
	size_t got = 0;

	for (unsigned k = 0; k < b->stats_chain.readable && got < sizeof(bytes); k++) {
		const struct iovec *iov = &b->stats_iov[k];
		size_t part = iov->iov_len < sizeof(bytes) - got ? iov->iov_len : sizeof(bytes) - got;

		memcpy(bytes + got, iov->iov_base, part);
		got += part;
	}
	memset(b->info.stat, 0xff, sizeof(b->info.stat));
	for (size_t at = 0; at + STAT_BYTES <= got; at += STAT_BYTES) {
		uint16_t tag = get_le16(bytes + at);

		if (tag < BALLOON_STATS)
			b->info.stat[tag] = get_le64(bytes + at + 2);
	}
}

static void return_stats_buffer(struct balloon *b)
{
	b->stats_held = b->stats_wanted = false;
	virtio_push(b->stats, &b->stats_chain, 0);
	virtio_call(b->stats);
}

/* The first buffer comes unasked, each further one when the last was returned. */
static void take_stats_buffer(struct balloon *b, const struct virtq_chain *chain)
{
	b->stats_chain = *chain;
	memcpy(b->stats_iov, chain->iov, sizeof(chain->iov[0]) * (chain->readable + chain->writable));
	b->stats_chain.iov = b->stats_iov;
	b->stats_held = true;
	read_stats(b);
	if (b->stats_wanted)
		return_stats_buffer(b); /* asked before the driver was ready: these are old, the next are not */
	else if (b->on_stats)
		b->on_stats(b->on_stats_opaque);
}

int balloon_ask_stats(struct balloon *b)
{
	if (!atomic_load_explicit(&b->running, memory_order_acquire) || !b->stats) /* pairs with start()'s store */
		return -EOPNOTSUPP;
	if (b->stats_held)
		return_stats_buffer(b);
	else
		b->stats_wanted = true;
	return 0;
}

void balloon_on_stats(struct balloon *b, void (*fn)(void *opaque), void *opaque)
{
	b->on_stats = fn;
	b->on_stats_opaque = opaque;
}

const char *balloon_stat_name(unsigned tag)
{
	static const char *const names[BALLOON_STATS] = {
		"swap_in", "swap_out", "major_faults", "minor_faults", "free", "total", "available", "disk_caches",
		"hugetlb_allocations", "hugetlb_failures", "oom_kills", "alloc_stalls", "async_scans", "direct_scans",
		"async_reclaims", "direct_reclaims",
	};

	return tag < BALLOON_STATS ? names[tag] : NULL;
}

/* --- queues --- */

static void serve_chain(struct balloon *b, struct virtio_queue *queue, const struct virtq_chain *chain)
{
	if (queue == b->stats) {
		if (b->stats_held) /* a second buffer: against the rules, and of no use */
			virtio_push(queue, chain, 0);
		else
			take_stats_buffer(b, chain);
		return;
	}
	if (queue->index == INFLATE)
		inflate(b, chain);
	else if (queue == b->reporting)
		report(b, chain);
	virtio_push(queue, chain, 0);
}

static void serve(struct balloon *b, struct virtio_queue *queue)
{
	struct iovec iov[SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = SEGMENTS };
	unsigned left = BURST;
	int popped = 1;

	do {
		virtq_disable_kicks(&queue->ring);
		while (left && (popped = virtq_pop(&queue->ring, &chain)) > 0) {
			serve_chain(b, queue, &chain);
			left--;
		}
	} while (left && !popped && virtq_enable_kicks(&queue->ring));
	if (popped < 0)
		virtio_queue_failed(queue);
	if (!left)
		eventfd_write(queue->kick_fd, 1); /* go on after the loop's other work */
	virtio_call(queue);
}

static void kicked(void *opaque, uint32_t events)
{
	struct virtio_queue *queue = opaque;
	eventfd_t count;

	eventfd_read(queue->kick_fd, &count);
	serve(queue->device->opaque, queue);
}

static void stop(void *opaque)
{
	struct balloon *b = opaque;

	atomic_store(&b->running, false);
	for (unsigned k = 0; k < N_QUEUES; k++) {
		loop_del(b->source[k]);
		b->source[k] = NULL;
	}
	loop_sync(b->loop);
}

static void find_queues(struct balloon *b)
{
	bool has_stats = virtio_has(&b->device, VIRTIO_BALLOON_F_STATS_VQ);

	b->stats = has_stats && b->device.queue[STATS].enabled ? &b->device.queue[STATS] : NULL;
	b->reporting = NULL;
	for (unsigned k = has_stats ? STATS + 1 : STATS; virtio_has(&b->device, VIRTIO_BALLOON_F_REPORTING) && k < N_QUEUES; k++)
		if (b->device.queue[k].enabled)
			b->reporting = &b->device.queue[k];
}

static int start(void *opaque)
{
	struct balloon *b = opaque;

	find_queues(b);
	b->stats_held = b->stats_wanted = false;
	memset(b->info.stat, 0xff, sizeof(b->info.stat));
	for (unsigned k = 0; k < N_QUEUES; k++) {
		struct virtio_queue *queue = &b->device.queue[k];
		int err = queue->enabled ? loop_add(b->loop, queue->kick_fd, EPOLLIN, kicked, queue, &b->source[k]) : 0;

		if (err) {
			stop(b);
			return err;
		}
	}
	atomic_store_explicit(&b->running, true, memory_order_release); /* pairs with balloon_ask_stats() */
	return 0;
}

/* --- configuration --- */

static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	struct balloon *b = opaque;
	struct virtio_balloon_config config = { .num_pages = atomic_load(&b->target_pages), .actual = atomic_load(&b->actual_pages) };

	memcpy(data, (uint8_t *)&config + offset, size);
}

static void write_config(void *opaque, uint32_t offset, const void *data, unsigned size)
{
	struct balloon *b = opaque;

	if (offset == offsetof(struct virtio_balloon_config, actual) && size == 4)
		atomic_store(&b->actual_pages, get_le32(data));
}

int balloon_set_target(struct balloon *b, uint64_t bytes)
{
	if (bytes > b->limit)
		return -EINVAL;
	atomic_store(&b->target_pages, (uint32_t)(bytes >> PFN_SHIFT));
	virtio_config_changed(&b->device);
	return 0;
}

void balloon_get_info(struct balloon *b, struct balloon_info *info)
{
	*info = b->info;
	info->target = (uint64_t)atomic_load(&b->target_pages) << PFN_SHIFT;
	info->actual = (uint64_t)atomic_load(&b->actual_pages) << PFN_SHIFT;
	info->has_stats = atomic_load_explicit(&b->running, memory_order_acquire) && b->stats; /* pairs with start()'s store */
}

static const struct virtio_type balloon_type = {
	.name = "balloon",
	.id = 5,
	.config_size = sizeof(struct virtio_balloon_config),
	.start = start,
	.stop = stop,
	.read_config = read_config,
	.write_config = write_config,
};

int balloon_new(struct loop *loop, const struct dma *dma, uint64_t limit, struct balloon **out)
{
	uint64_t features = 1ull << VIRTIO_BALLOON_F_STATS_VQ | 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | 1ull << VIRTIO_BALLOON_F_REPORTING;
	uint16_t sizes[N_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE };
	struct balloon *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	b->loop = loop;
	b->limit = limit;
	memset(b->info.stat, 0xff, sizeof(b->info.stat));
	err = virtio_device_init(&b->device, &balloon_type, b, dma, features, sizes, N_QUEUES);
	if (err) {
		free(b);
		return err;
	}
	*out = b;
	return 0;
}

void balloon_free(struct balloon *b)
{
	if (!b)
		return;
	virtio_device_deinit(&b->device);
	free(b);
}

struct virtio_device *balloon_device(struct balloon *b)
{
	return &b->device;
}
