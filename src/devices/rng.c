/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-rng. One queue; every chain is filled with bytes of getrandom(2), or of a character device of the host, and returned.
 * A chain takes at most MAX_FILL bytes, so that a guest cannot keep the loop's thread busy for long with one request.
 *
 * With a rate, `allowance` grows with time up to a second's worth and shrinks with every byte. Chains that find none wait
 * in the ring for a timer; they wait for it, too, while a source has nothing to give.
 */
#include "devices/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

enum { QUEUE_SIZE = 64, SEGMENTS = 64, MAX_FILL = 64 << 10, RETRY_NS = 50000000 };

struct rng {
	struct virtio_device device;
	struct loop *loop;
	struct loop_source *kick, *retry;
	struct rng_config config;
	_Atomic bool running;
	/* the loop thread's */
	uint64_t allowance, counted_at_ns;
};

static void earn(struct rng *rng)
{
	uint64_t now = now_ns(), passed = now - rng->counted_at_ns;
	uint64_t earned = (uint64_t)((unsigned __int128)(passed < 1000000000 ? passed : 1000000000) * rng->config.rate / 1000000000);

	if (!earned)
		return;
	rng->counted_at_ns = now;
	rng->allowance = rng->allowance + earned < rng->config.rate ? rng->allowance + earned : rng->config.rate;
}

static ssize_t draw(const struct rng *rng, void *to, size_t bytes)
{
	return rng->config.fd < 0 ? getrandom(to, bytes, 0) : read(rng->config.fd, to, bytes);
}

/* How many bytes of at most `limit` were put in; 0: the source has none now, or the chain has no room. */
static uint32_t fill(const struct rng *rng, const struct virtq_chain *chain, uint64_t limit)
{
	uint32_t filled = 0;

	for (unsigned k = 0; k < chain->writable && filled < limit; k++) {
		const struct iovec *iov = &chain->iov[chain->readable + k];
		size_t want = iov->iov_len < limit - filled ? iov->iov_len : limit - filled;
		ssize_t got = draw(rng, iov->iov_base, want);

		if (got <= 0)
			break;
		filled += (uint32_t)got;
		if ((size_t)got < want)
			break;
	}
	return filled;
}

/* 1: served; 0: it must wait. */
static bool serve_chain(struct rng *rng, struct virtio_queue *queue, const struct virtq_chain *chain)
{
	uint64_t limit = rng->config.rate && rng->allowance < MAX_FILL ? rng->allowance : MAX_FILL;
	uint32_t filled = fill(rng, chain, limit);

	if (!filled && chain->writable_bytes)
		return false;
	if (rng->config.rate)
		rng->allowance -= filled;
	virtio_push(queue, chain, filled);
	return true;
}

static void serve(struct rng *rng)
{
	struct virtio_queue *queue = &rng->device.queue[0];
	struct iovec iov[SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = SEGMENTS };
	bool served = true;
	int popped;

	if (rng->config.rate)
		earn(rng);
	do {
		virtq_disable_kicks(&queue->ring);
		while (served && (popped = virtq_pop(&queue->ring, &chain)) > 0)
			served = serve_chain(rng, queue, &chain);
	} while (served && !popped && virtq_enable_kicks(&queue->ring));
	if (!served) {
		virtq_unpop(&queue->ring, &chain);
		loop_set_timer(rng->retry, now_ns() + RETRY_NS, 0);
	} else if (popped < 0) {
		virtio_queue_failed(queue);
	}
	virtio_call(queue);
}

static void kicked(void *opaque, uint32_t events)
{
	struct rng *rng = opaque;
	eventfd_t count;

	eventfd_read(rng->device.queue[0].kick_fd, &count);
	serve(rng);
}

static void try_again(void *opaque, uint32_t events)
{
	struct rng *rng = opaque;

	if (atomic_load(&rng->running))
		serve(rng);
}

static void stop(void *opaque)
{
	struct rng *rng = opaque;

	atomic_store(&rng->running, false);
	loop_del(rng->kick);
	loop_sync(rng->loop);
	rng->kick = NULL;
}

static int start(void *opaque)
{
	struct rng *rng = opaque;
	int err = 0;

	if (!rng->device.queue[0].enabled)
		return 0;
	atomic_store(&rng->running, true);
	err = loop_add(rng->loop, rng->device.queue[0].kick_fd, EPOLLIN, kicked, rng, &rng->kick);
	if (err)
		atomic_store(&rng->running, false);
	return err;
}

static const struct virtio_type rng_type = { .name = "rng", .id = 4, .start = start, .stop = stop };

int rng_new(struct loop *loop, const struct dma *dma, const struct rng_config *config, struct rng **out)
{
	struct rng *rng = calloc(1, sizeof(*rng));
	uint16_t size = QUEUE_SIZE;
	int err = rng ? 0 : -ENOMEM;

	if (!err) {
		rng->loop = loop;
		rng->config = *config;
		rng->allowance = config->rate;
		rng->counted_at_ns = now_ns();
		err = loop_add_timer(loop, try_again, rng, &rng->retry);
	}
	if (!err)
		err = virtio_device_init(&rng->device, &rng_type, rng, dma, 0, &size, 1);
	if (err) {
		if (rng)
			loop_del(rng->retry);
		if (config->fd >= 0)
			close(config->fd);
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
	loop_del(rng->retry);
	loop_sync(rng->loop);
	if (rng->config.fd >= 0)
		close(rng->config.fd);
	free(rng);
}

struct virtio_device *rng_device(struct rng *rng)
{
	return &rng->device;
}
