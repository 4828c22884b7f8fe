/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Our virtqueue under the same load as limit.c: the sender copies each packet into a buffer in shared memory, the receiver copies it
 * out into private memory. Either half may be the sender.
 */
#include <stdlib.h>
#include <string.h>

#include "rings.h"
#include "virtio/virtq.h"

/* Where the parts lie in the area. */
enum { DESC = 0, DRIVER = 8192, DEVICE = 16384, BUFFERS = 65536 };

static struct memory mem;
static struct virtq device __attribute__((aligned(256)));
static struct virtq_driver driver __attribute__((aligned(256)));

void ours_set_up(struct sample *s)
{
	struct virtq_config config = { RING, (s->packed ? VIRTQ_PACKED : 0), DESC, DRIVER, DEVICE };
	struct mem_slot slot = { .size = AREA, .hva = s->area, .fd = -1 };

	memory_deinit(&mem);
	memory_init(&mem);
	virtq_driver_stop(&driver);
	if (memory_set_slot(&mem, &slot) || virtq_driver_start(&driver, &mem, &config) ||
	    virtq_start(&device, &mem, &config, virtq_fresh_base(config.options)))
		abort();
}

static struct virtq_segment segment_of(struct sample *s, void *buffer, unsigned len)
{
	return (struct virtq_segment){ (gpa_t)((uint8_t *)buffer - s->area), len };
}

static bool running(struct sample *s)
{
	return !atomic_load_explicit(&s->stop, memory_order_relaxed);
}

/* Buffers that are not in the ring: what came back first goes out first. */
struct buffers {
	void *item[RING];
	unsigned first, count;
};

static void put_buffers(struct buffers *b, void *const *from, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		b->item[(b->first + b->count++) % RING] = from[k];
}

static void all_buffers(struct sample *s, struct buffers *b)
{
	for (unsigned k = 0; k < RING; k++)
		put_buffers(b, (void *[]){ s->area + BUFFERS + k * STRIDE }, 1);
}

static void driver_send(struct sample *s, struct buffers *free_ones)
{
	struct virtq_segment segment[BATCH_MAX];
	void *token[BATCH_MAX];
	uint32_t written[BATCH_MAX];

	put_buffers(free_ones, token, virtq_driver_take_burst(&driver, token, written, s->batch));
	if (free_ones->count < s->batch) {
		idle();
		return;
	}
	for (unsigned k = 0; k < s->batch; k++) {
		token[k] = free_ones->item[(free_ones->first + k) % RING];
		memcpy(token[k], s->template, s->bytes);
		segment[k] = segment_of(s, token[k], s->bytes);
	}
	free_ones->first = (free_ones->first + s->batch) % RING;
	free_ones->count -= s->batch;
	virtq_driver_add_burst(&driver, segment, token, s->batch, false);
}

static unsigned driver_receive(struct sample *s)
{
	struct virtq_segment segment[BATCH_MAX];
	void *token[BATCH_MAX];
	uint32_t written[BATCH_MAX];
	static unsigned to;
	unsigned n = virtq_driver_take_burst(&driver, token, written, s->batch);

	for (unsigned k = 0; k < n && k < 8; k++)
		__builtin_prefetch(token[k], 0);
	for (unsigned k = 0; k < n; k++) {
		if (k + 8 < n)
			__builtin_prefetch(token[k + 8], 0);
		memcpy(s->private + to++ % RING * STRIDE, token[k], written[k]);
		segment[k] = segment_of(s, token[k], STRIDE);
	}
	virtq_driver_add_burst(&driver, segment, token, n, true);
	return n;
}

void ours_driver(struct sample *s)
{
	struct buffers free_ones = { .first = 0 };

	all_buffers(s, &free_ones);
	for (unsigned k = 0; k < RING && s->to_driver; k++) {
		struct virtq_segment segment = segment_of(s, free_ones.item[k], STRIDE);

		virtq_driver_add_burst(&driver, &segment, &free_ones.item[k], 1, true);
	}
	while (running(s)) {
		if (!s->to_driver) {
			driver_send(s, &free_ones);
			continue;
		}
		unsigned n = driver_receive(s);

		if (n)
			count_packets(s, n);
		else
			idle();
	}
}

void ours_device(struct sample *s)
{
	struct virtq_chain chain[BATCH_MAX];
	struct iovec iov[BATCH_MAX * 2];
	uint32_t written[BATCH_MAX];
	unsigned to = 0;

	while (running(s)) {
		int n = virtq_pop_burst(&device, chain, s->batch, iov, BATCH_MAX * 2, 4);

		if (n < 0)
			abort();
		if (!n)
			idle();
		for (int k = 0; k < n; k++) {
			if (s->to_driver) {
				memcpy(chain[k].iov->iov_base, s->template, s->bytes);
				written[k] = s->bytes;
			} else {
				memcpy(s->private + to++ % RING * STRIDE, chain[k].iov->iov_base, chain[k].iov->iov_len);
			}
		}
		virtq_push_burst(&device, chain, s->to_driver ? written : NULL, (unsigned)n);
		if (!s->to_driver && n)
			count_packets(s, (unsigned)n);
	}
}
