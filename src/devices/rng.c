/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-rng. One queue; every chain is filled with bytes of getrandom(2) and returned at once. A chain takes at
 * most MAX_FILL bytes, so that a guest cannot keep the loop's thread busy for long with one request.
 */
#include "devices/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>

enum { QUEUE_SIZE = 64, SEGMENTS = 64, MAX_FILL = 64 << 10 };

struct rng {
	struct virtio_device device;
	struct loop *loop;
	struct loop_source *kick;
};

static uint32_t fill(const struct virtq_chain *chain)
{
	uint32_t filled = 0;

	for (unsigned k = 0; k < chain->writable && filled < MAX_FILL; k++) {
		const struct iovec *iov = &chain->iov[chain->readable + k];
		size_t want = iov->iov_len < MAX_FILL - filled ? iov->iov_len : MAX_FILL - filled;
		ssize_t got = getrandom(iov->iov_base, want, 0);

		if (got < 0)
			break;
		filled += (uint32_t)got;
		if ((size_t)got < want)
			break;
	}
	return filled;
}

static void serve(void *opaque, uint32_t events)
{
	struct rng *rng = opaque;
	struct virtio_queue *queue = &rng->device.queue[0];
	struct iovec iov[SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = SEGMENTS };
	eventfd_t count;
	int popped;

	eventfd_read(queue->kick_fd, &count);
	do {
		virtq_disable_kicks(&queue->ring);
		while ((popped = virtq_pop(&queue->ring, &chain)) > 0)
			virtio_push(queue, &chain, fill(&chain));
	} while (!popped && virtq_enable_kicks(&queue->ring));
	if (popped < 0)
		virtio_queue_failed(queue);
	virtio_call(queue);
}

static int start(void *opaque)
{
	struct rng *rng = opaque;

	return rng->device.queue[0].enabled ?
		       loop_add(rng->loop, rng->device.queue[0].kick_fd, EPOLLIN, serve, rng, &rng->kick) :
		       0;
}

static void stop(void *opaque)
{
	struct rng *rng = opaque;

	loop_del(rng->kick);
	loop_sync(rng->loop);
	rng->kick = NULL;
}

static const struct virtio_type rng_type = { .name = "rng", .id = 4, .start = start, .stop = stop };

int rng_new(struct loop *loop, const struct dma *dma, struct rng **out)
{
	struct rng *rng = calloc(1, sizeof(*rng));
	uint16_t size = QUEUE_SIZE;
	int err;

	if (!rng)
		return -ENOMEM;
	rng->loop = loop;
	err = virtio_device_init(&rng->device, &rng_type, rng, dma, 0, &size, 1);
	if (err) {
		free(rng);
		return err;
	}
	*out = rng;
	return 0;
}

void rng_free(struct rng *rng)
{
	if (!rng)
		return;
	virtio_device_deinit(&rng->device);
	free(rng);
}

struct virtio_device *rng_device(struct rng *rng)
{
	return &rng->device;
}
