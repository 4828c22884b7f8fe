/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The packed virtqueue's device half (virtio 1.3, 2.8): one ring that both sides write, AVAIL and USED bits against
 * wrap counters. A driver may reuse a descriptor only after it was used, so entries that we popped and have not
 * pushed bound what can be available.
 */
#include "virtio/virtq_walk.h"

#include <errno.h>

int virtq_packed_pop(struct virtq *q, struct virtq_chain *chain)
{
	uint16_t at = q->avail_next, entries = 0;
	bool wrap = q->avail_wrap;
	struct virtq_descriptor d;

	/* acquire: the rest of the list, which the driver wrote before the first descriptor's flags (2.8.21) */
	d.flags = load_acquire(&q->ring[at].flags);
	if (q->popped >= q->size || !virtq_is_available(d.flags, wrap))
		return 0;
	virtq_chain_reset(chain);
	for (;;) {
		d.addr = load_relaxed(&q->ring[at].addr);
		d.len = load_relaxed(&q->ring[at].len);
		d.next_or_id = load_relaxed(&q->ring[at].id);
		entries++;
		virtq_advance(&at, &wrap, q->size, 1);
		if (d.flags & VRING_DESC_F_INDIRECT ? !virtq_chain_add_indirect(q, chain, &d) : !virtq_chain_add(q, chain, &d))
			return -EPROTO;
		if (!(d.flags & VRING_DESC_F_NEXT))
			break;
		if (entries + q->popped >= q->size) {
			virtq_fail(q, VIRTQ_CHAIN_TOO_LONG);
			return -EPROTO;
		}
		d.flags = load_relaxed(&q->ring[at].flags);
	}
	if (d.next_or_id >= q->size) {
		virtq_fail(q, VIRTQ_HEAD_INDEX);
		return -EPROTO;
	}
	chain->id = d.next_or_id; /* of the last descriptor (2.8.6) */
	chain->entries = entries;
	q->avail_next = at;
	q->avail_wrap = wrap;
	return 1;
}

void virtq_packed_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
	struct vring_packed_desc *d = &q->ring[q->used_next];
	uint16_t flags = (q->used_wrap ? AVAIL_BIT | USED_BIT : 0) | (written ? VRING_DESC_F_WRITE : 0);

	store_relaxed(&d->id, chain->id);
	store_relaxed(&d->len, written);
	store_release(&d->flags, flags); /* id, len and data before flags: the driver acquires flags */
	virtq_advance(&q->used_next, &q->used_wrap, q->size, chain->entries);
}

bool virtq_packed_should_call(struct virtq *q)
{
	uint16_t flags = load_acquire(&q->driver_event->flags) & 3;
	uint16_t off_wrap = load_relaxed(&q->driver_event->off_wrap), event;

	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !(q->options & VIRTQ_EVENT_IDX))
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if (q->unsignalled >= q->size)
		return true;
	event = off_wrap & 0x7fff;
	if ((off_wrap >> 15) != q->used_wrap)
		event = (uint16_t)(event - q->size);
	return vring_need_event(event, q->used_next, (uint16_t)(q->used_next - q->unsignalled));
}

bool virtq_packed_enable_kicks(struct virtq *q)
{
	if (q->options & VIRTQ_EVENT_IDX) {
		store_relaxed(&q->device_event->off_wrap, (uint16_t)(q->avail_next | q->avail_wrap << 15));
		store_release(&q->device_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_DESC); /* off_wrap before it is used */
	} else {
		store_relaxed(&q->device_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_ENABLE);
	}
	full_fence(); /* our wish before we look again: pairs with the driver's fence between flags and reading the wish */
	return virtq_is_available(load_relaxed(&q->ring[q->avail_next].flags), q->avail_wrap);
}
