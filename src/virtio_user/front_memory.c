/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A front port's memory: one memfd, so that a back end maps one region, with huge pages if the host has some to spare. In it
 * the rings of all queues, each part on pages of its own, and the buffers. Descriptors name it by this process's own addresses.
 *
 * A buffer begins on a cache line, and the next one an odd number of lines further on, so that the first lines of buffers, which are
 * all that small packets touch, spread over the whole cache.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio_user/internal.h"

enum { PAGE = 4096, LINE = 64, HUGE_PAGE = 2 << 20, LEAST_ROOM = 2048, VLAN_HEADERS = 8, ETHERNET = 14 };

static uint64_t pages(uint64_t bytes)
{
	return (bytes + PAGE - 1) / PAGE * PAGE;
}

static uint64_t side_bytes(const struct front *f)
{
	struct virtq_layout bytes = virtq_layout(f->config.queue_size, f->config.packed ? VIRTQ_PACKED : 0);

	return pages(bytes.desc) + pages(bytes.driver) + pages(bytes.device) + pages((uint64_t)f->config.queue_size * f->stride);
}

/* Hand out the parts from *at on. */
static int make_side(struct front *f, struct front_side *s, uint8_t **at)
{
	struct virtq_layout bytes = virtq_layout(f->config.queue_size, f->config.packed ? VIRTQ_PACKED : 0);
	uint32_t size = f->config.queue_size;

	s->config.size = size;
	s->config.desc = (uintptr_t)*at;
	s->config.driver = s->config.desc + pages(bytes.desc);
	s->config.device = s->config.driver + pages(bytes.driver);
	s->buffers = *at + pages(bytes.desc) + pages(bytes.driver) + pages(bytes.device);
	*at += side_bytes(f);
	s->free_one = calloc(size, sizeof(*s->free_one));
	s->next_piece = calloc(size, sizeof(*s->next_piece));
	if (!s->free_one || !s->next_piece)
		return -ENOMEM;
	for (uint32_t k = 0; k < size; k++)
		put_free(s, s->buffers + (size_t)k * f->stride);
	s->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return s->kick_fd < 0 || s->call_fd < 0 ? -errno : 0;
}

static void free_side(struct front_side *s)
{
	virtq_driver_stop(&s->ring);
	free(s->free_one);
	free(s->next_piece);
	if (s->kick_fd >= 0)
		close(s->kick_fd);
	if (s->call_fd >= 0)
		close(s->call_fd);
}

int front_make_memory(struct front *f)
{
	unsigned n = f->config.n_queues;
	struct mem_slot slot = { .fd = -1 };
	uint8_t *at;
	int err;

	f->room = PORT_HEADER + ETHERNET + VLAN_HEADERS + f->config.mtu;
	if (f->room < LEAST_ROOM)
		f->room = LEAST_ROOM;
	f->room = (f->room + LINE - 1) / LINE * LINE;
	f->stride = f->room / LINE % 2 ? f->room : f->room + LINE;
	f->queue = aligned_alloc(128, n * sizeof(*f->queue));
	if (!f->queue)
		return -ENOMEM;
	for (unsigned k = 0; k < n; k++) {
		f->queue[k] = (struct front_queue){ .rx = { .kick_fd = -1, .call_fd = -1 }, .tx = { .kick_fd = -1, .call_fd = -1 } };
		pthread_mutex_init(&f->queue[k].lock, NULL);
	}
	f->n_made = n;
	f->size = 2 * n * side_bytes(f);
	if (f->size > HUGE_PAGE / 2) /* whole huge pages, or none is used */
		f->size = (f->size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
	err = ram_alloc("guise-port", f->size, NULL, true, &f->hva, &f->fd);
	if (err)
		return err;
	slot.gpa = (uintptr_t)f->hva;
	slot.hva = f->hva;
	slot.size = f->size;
	err = memory_set_slot(&f->mem, &slot);
	at = f->hva;
	for (unsigned k = 0; k < n && !err; k++) {
		err = make_side(f, &f->queue[k].rx, &at);
		if (!err)
			err = make_side(f, &f->queue[k].tx, &at);
	}
	return err;
}

void front_free_memory(struct front *f)
{
	for (unsigned k = 0; k < f->n_made; k++) {
		free_side(&f->queue[k].rx);
		free_side(&f->queue[k].tx);
		pthread_mutex_destroy(&f->queue[k].lock);
	}
	free(f->queue);
	memory_deinit(&f->mem);
	ram_free(f->hva, f->size, f->fd);
}

/* Every buffer that is in the ring becomes free. */
static void empty_ring(struct front *f, struct front_side *s)
{
	for (uint32_t k = 0; s->ring.state && k < s->ring.size; k++) {
		uintptr_t token = (uintptr_t)s->ring.state[k].token;
		uint8_t *buffer = (uint8_t *)(token & ~(uintptr_t)1);

		if (!token)
			continue;
		if (!(token & 1)) {
			put_free(s, buffer);
			continue;
		}
		for (unsigned at = (unsigned)((size_t)(buffer - s->buffers) / f->stride); at != NO_BUFFER; at = s->next_piece[at])
			put_free(s, s->buffers + (size_t)at * f->stride);
	}
	virtq_driver_stop(&s->ring);
}

void front_refill(struct front *f, struct front_queue *q)
{
	struct virtq_segment segment[FRONT_BURST];
	void *token[FRONT_BURST];

	while (q->rx.count) {
		unsigned n = q->rx.count < FRONT_BURST ? q->rx.count : FRONT_BURST, added;

		for (unsigned k = 0; k < n; k++) {
			token[k] = get_free(&q->rx);
			segment[k] = (struct virtq_segment){ (uintptr_t)token[k], f->room };
		}
		added = virtq_driver_add_burst(&q->rx.ring, segment, token, n, true);
		for (unsigned k = added; k < n; k++)
			put_free(&q->rx, token[k]);
		if (added < n)
			break;
	}
}

int front_reset_queue(struct front *f, struct front_queue *q)
{
	struct front_side *side[2] = { &q->rx, &q->tx };
	unsigned options = virtq_options(f->features);
	int err = 0;

	/* A packet that came in part is lost. */
	for (unsigned k = 0; k < q->n_pending; k++)
		put_free(&q->rx, q->pending[k].data);
	q->n_pending = q->pieces_wanted = 0;
	for (unsigned k = 0; k < 2; k++) {
		empty_ring(f, side[k]);
		side[k]->config.options = options;
		side[k]->reported = false;
		side[k]->owed = 0;
		if (!err)
			err = virtq_driver_start(&side[k]->ring, &f->mem, &side[k]->config);
		if (!err)
			virtq_driver_disable_calls(&side[k]->ring);
	}
	q->calls_wanted = false;
	if (!err)
		front_refill(f, q);
	return err;
}
