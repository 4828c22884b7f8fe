/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the halves and formats of the virtqueue share inside virtio/: ordering, the one reader of descriptors and the
 * walker that turns them into memory. Not for other folders.
 */
#ifndef GUISE_VIRTIO_VIRTQ_WALK_H
#define GUISE_VIRTIO_VIRTQ_WALK_H

#include "base/fence.h"
#include "virtio/virtq.h"

#define load_relaxed(p)	    __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p)	    __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, x) __atomic_store_n((p), (x), __ATOMIC_RELAXED)
#define store_release(p, x) __atomic_store_n((p), (x), __ATOMIC_RELEASE)

enum { AVAIL_BIT = 1 << VRING_PACKED_DESC_F_AVAIL, USED_BIT = 1 << VRING_PACKED_DESC_F_USED };

/* A descriptor of either format as read, once, from the ring. */
struct virtq_descriptor {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next_or_id;
};

/* Quarantine the queue. Always returns false. */
bool virtq_fail(struct virtq *q, enum virtq_error error);
void virtq_chain_reset(struct virtq_chain *chain);
/* Add one buffer, or a whole indirect table, to the chain. false: quarantined. */
bool virtq_chain_add(struct virtq *q, struct virtq_chain *chain, const struct virtq_descriptor *d);
bool virtq_chain_add_indirect(struct virtq *q, struct virtq_chain *chain, const struct virtq_descriptor *d);

/* Look at the driver's index. true: chains wait; false: none, or quarantined for a nonsensical index. */
bool virtq_split_look(struct virtq *q);
/* Turn the chain that starts at descriptor `head` into memory. false: quarantined. */
bool virtq_split_walk(struct virtq *q, struct virtq_chain *chain, uint16_t head);
int virtq_split_pop(struct virtq *q, struct virtq_chain *chain);
void virtq_split_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);
bool virtq_split_should_call(struct virtq *q);
bool virtq_split_enable_kicks(struct virtq *q);

int virtq_packed_pop(struct virtq *q, struct virtq_chain *chain);
void virtq_packed_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);
bool virtq_packed_should_call(struct virtq *q);
bool virtq_packed_enable_kicks(struct virtq *q);

/* Packed: do a descriptor's flags say that it is the device's (2.8.1)? Used: the same bits, both equal to the wrap counter. */
static inline bool virtq_is_available(uint16_t flags, bool wrap)
{
	return !!(flags & AVAIL_BIT) == wrap && !!(flags & USED_BIT) != wrap;
}

static inline bool virtq_is_used(uint16_t flags, bool wrap)
{
	return !!(flags & AVAIL_BIT) == wrap && !!(flags & USED_BIT) == wrap;
}

/*
 * Store what is not there already. A cache line that both sides only read stays in both caches, so an entry that says
 * the same as a lap ago (a ring in steady state: same order, same buffers) costs nothing to say again. The comparison is
 * worth as much as the store: the other side may change its memory before or after either.
 */
#define store_if_new(p, x)                       \
	do {                                     \
		__typeof__(*(p)) value_ = (x);   \
		if (load_relaxed(p) != value_)   \
			store_relaxed(p, value_); \
	} while (0)

/* --- the driver half, between its files --- */

/* Quarantine. Always returns NULL. */
void *virtq_driver_fail(struct virtq_driver *d, enum virtq_error error);

/* IN_ORDER, split: does the used index alone say that the oldest chain came back? Counts it as taken. */
bool virtq_driver_counted(struct virtq_driver *d);

static inline uint16_t virtq_take_id(struct virtq_driver *d)
{
	uint16_t id = d->free_head;

	d->free_head = d->state[id].next;
	d->free_ids--;
	d->free_count--;
	return id;
}

static inline void virtq_put_id(struct virtq_driver *d, uint16_t id)
{
	d->state[id].token = NULL;
	if (d->free_ids++)
		d->state[d->free_tail].next = id;
	else
		d->free_head = id;
	d->free_tail = id;
	d->free_count++;
}

/* Packed: move a ring position and its wrap counter by n entries. */
static inline void virtq_advance(uint16_t *position, bool *wrap, uint32_t size, uint32_t n)
{
	uint32_t next = *position + n;

	if (next >= size) {
		next -= size;
		*wrap = !*wrap;
	}
	*position = (uint16_t)next;
}

#endif
