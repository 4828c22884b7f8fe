/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the halves and formats of the virtqueue share inside virtio/: ordering, the one reader of descriptors and the
 * walker that turns them into memory. Not for other folders.
 */
#ifndef GUISE_VIRTIO_VIRTQ_WALK_H
#define GUISE_VIRTIO_VIRTQ_WALK_H

#include "virtio/virtq.h"

#define load_relaxed(p)	    __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p)	    __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, x) __atomic_store_n((p), (x), __ATOMIC_RELAXED)
#define store_release(p, x) __atomic_store_n((p), (x), __ATOMIC_RELEASE)

/* Store before load. Not __atomic_thread_fence(): TSan does not know that, and a locked add is what compilers emit for it. */
static inline void full_fence(void)
{
	__asm__ volatile("lock; addl $0, -4(%%rsp)" ::: "memory", "cc");
}

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

int virtq_split_pop(struct virtq *q, struct virtq_chain *chain);
void virtq_split_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);
bool virtq_split_should_call(struct virtq *q);
bool virtq_split_enable_kicks(struct virtq *q);

int virtq_packed_pop(struct virtq *q, struct virtq_chain *chain);
void virtq_packed_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);
bool virtq_packed_should_call(struct virtq *q);
bool virtq_packed_enable_kicks(struct virtq *q);

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
