/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The split virtqueue's device half (virtio 1.3, 2.7): descriptor table, avail ring, used ring.
 */
#include "virtio/virtq_walk.h"

#include <errno.h>

/* The event words lie behind the rings (2.7.6, 2.7.8). */
static uint16_t *used_event(struct virtq *q)
{
	return &q->avail->ring[q->size];
}

static uint16_t *avail_event(struct virtq *q)
{
	return (uint16_t *)&q->used->ring[q->size];
}

/* Has the driver made chains available that we have not popped? Quarantines the queue on a nonsensical index. */
bool virtq_split_look(struct virtq *q)
{
	/* acquire: the driver's descriptors and ring entries, written before it stored idx */
	q->avail_seen = load_acquire(&q->avail->idx);
	if ((uint16_t)(q->avail_seen - q->avail_next) > q->size)
		return virtq_fail(q, VIRTQ_AVAIL_INDEX);
	return q->avail_seen != q->avail_next;
}

bool virtq_split_walk(struct virtq *q, struct virtq_chain *chain, uint16_t head)
{
	uint32_t at = head;

	for (uint32_t walked = 0; walked < q->size; walked++) {
		struct virtq_descriptor d;

		if (at >= q->size)
			return virtq_fail(q, VIRTQ_HEAD_INDEX);
		d.addr = load_relaxed(&q->desc[at].addr);
		d.len = load_relaxed(&q->desc[at].len);
		d.flags = load_relaxed(&q->desc[at].flags);
		d.next_or_id = load_relaxed(&q->desc[at].next);
		if (d.flags & VRING_DESC_F_INDIRECT)
			return virtq_chain_add_indirect(q, chain, &d);
		if (!virtq_chain_add(q, chain, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		at = d.next_or_id;
	}
	return virtq_fail(q, VIRTQ_CHAIN_TOO_LONG);
}

int virtq_split_pop(struct virtq *q, struct virtq_chain *chain)
{
	if (q->avail_next == q->avail_seen && !virtq_split_look(q))
		return q->error ? -EPROTO : 0;
	virtq_chain_reset(chain);
	chain->entries = 1;
	chain->id = load_relaxed(&q->avail->ring[q->avail_next & (q->size - 1)]);
	if (q->popped >= q->size) { /* the driver reuses what it does not own */
		virtq_fail(q, VIRTQ_AVAIL_INDEX);
		return -EPROTO;
	}
	if (!virtq_split_walk(q, chain, chain->id))
		return -EPROTO;
	q->avail_next++;
	return 1;
}

void virtq_split_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
	struct vring_used_elem *elem = &q->used->ring[q->used_next & (q->size - 1)];

	store_relaxed(&elem->id, (uint32_t)chain->id);
	store_relaxed(&elem->len, written);
	q->used_next++;
	store_release(&q->used->idx, q->used_next); /* the entry and the data before idx: the driver acquires idx */
}

bool virtq_split_should_call(struct virtq *q)
{
	uint32_t pushed = q->unsignalled;

	if (!(q->options & VIRTQ_EVENT_IDX))
		return !(load_relaxed(&q->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	if (pushed > 0xffff)
		return true;
	return vring_need_event(load_relaxed(used_event(q)), q->used_next, (uint16_t)(q->used_next - pushed));
}

bool virtq_split_enable_kicks(struct virtq *q)
{
	if (q->options & VIRTQ_EVENT_IDX)
		store_relaxed(avail_event(q), q->avail_next);
	else
		store_relaxed(&q->used->flags, (uint16_t)0);
	full_fence(); /* our wish before we look again: pairs with the driver's fence between idx and reading the wish */
	return q->avail_seen != q->avail_next || virtq_split_look(q) || q->error;
}
