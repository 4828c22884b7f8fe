/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy limit: rings of the virtqueue's shape, packets copied in by one thread and out by the other, and nothing else. Only the
 * driver sends; the other way has the same lines to move.
 */
#include <linux/virtio_ring.h>
#include <string.h>

#include "rings.h"

struct split_ring {
	struct vring_desc desc[RING] __attribute__((aligned(4096)));
	struct {
		uint16_t flags, idx, ring[RING];
	} avail __attribute__((aligned(4096)));
	struct {
		uint16_t flags, idx;
		struct vring_used_elem ring[RING];
	} used __attribute__((aligned(4096)));
	uint8_t buffer[RING][STRIDE] __attribute__((aligned(4096)));
};

struct packed_ring {
	struct vring_packed_desc desc[RING] __attribute__((aligned(4096)));
	uint8_t buffer[RING][STRIDE] __attribute__((aligned(4096)));
};

static uint16_t acquire(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void release(uint16_t *p, unsigned value)
{
	__atomic_store_n(p, (uint16_t)value, __ATOMIC_RELEASE);
}

static void split_driver(struct sample *s)
{
	struct split_ring *r = (struct split_ring *)s->area;
	uint16_t avail = 0, used = 0;

	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		uint16_t seen = acquire(&r->used.idx);
		volatile uint32_t id;

		for (; used != seen; used++)
			id = r->used.ring[used % RING].id;
		(void)id;
		if ((uint16_t)(avail - used) > RING - s->batch) {
			idle();
			continue;
		}
		for (unsigned k = 0; k < s->batch; k++) {
			uint16_t at = (uint16_t)(avail + k) % RING;

			memcpy(r->buffer[at], s->template, s->bytes);
			r->desc[at] = (struct vring_desc){ .addr = at, .len = s->bytes };
			r->avail.ring[at] = at;
		}
		avail = (uint16_t)(avail + s->batch);
		release(&r->avail.idx, avail);
	}
}

static void split_device(struct sample *s)
{
	struct split_ring *r = (struct split_ring *)s->area;
	uint16_t next = 0;

	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		uint16_t n = (uint16_t)(acquire(&r->avail.idx) - next);

		n = n < s->batch ? n : (uint16_t)s->batch;
		if (!n) {
			idle();
			continue;
		}
		for (unsigned k = 0; k < n; k++) {
			uint16_t id = r->avail.ring[(uint16_t)(next + k) % RING];
			struct vring_desc *d = &r->desc[id];

			memcpy(s->private + (size_t)id * STRIDE, r->buffer[d->addr], d->len);
			r->used.ring[(uint16_t)(next + k) % RING] = (struct vring_used_elem){ id, 0 };
		}
		next = (uint16_t)(next + n);
		release(&r->used.idx, next);
		count_packets(s, n);
	}
}

enum { AVAIL = 1 << VRING_PACKED_DESC_F_AVAIL, USED = 1 << VRING_PACKED_DESC_F_USED };

static unsigned packed_flags(uint64_t position, bool used)
{
	bool wrap = !(position / RING & 1);

	if (used)
		return wrap ? AVAIL | USED : 0;
	return wrap ? AVAIL : USED;
}

static void packed_driver(struct sample *s)
{
	struct packed_ring *r = (struct packed_ring *)s->area;
	uint64_t avail = 0, used = 0;

	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		while (used < avail && acquire(&r->desc[used % RING].flags) == packed_flags(used, true))
			used++;
		if (avail - used > RING - s->batch) {
			idle();
			continue;
		}
		for (unsigned k = 0; k < s->batch; k++) {
			struct vring_packed_desc *d = &r->desc[(avail + k) % RING];

			memcpy(r->buffer[(avail + k) % RING], s->template, s->bytes);
			d->addr = (avail + k) % RING;
			d->len = s->bytes;
			d->id = (uint16_t)((avail + k) % RING);
		}
		for (unsigned k = s->batch; k--;)
			release(&r->desc[(avail + k) % RING].flags, packed_flags(avail + k, false));
		avail += s->batch;
	}
}

static void packed_device(struct sample *s)
{
	struct packed_ring *r = (struct packed_ring *)s->area;
	uint64_t next = 0;

	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		unsigned n = 0;

		while (n < s->batch && acquire(&r->desc[(next + n) % RING].flags) == packed_flags(next + n, false))
			n++;
		if (!n) {
			idle();
			continue;
		}
		for (unsigned k = 0; k < n; k++) {
			struct vring_packed_desc *d = &r->desc[(next + k) % RING];

			memcpy(s->private + (next + k) % RING * STRIDE, r->buffer[d->addr], d->len);
		}
		for (unsigned k = n; k--;)
			release(&r->desc[(next + k) % RING].flags, packed_flags(next + k, true));
		next += n;
		count_packets(s, n);
	}
}

void limit_driver(struct sample *s)
{
	(s->packed ? packed_driver : split_driver)(s);
}

void limit_device(struct sample *s)
{
	(s->packed ? packed_device : split_device)(s);
}
