/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device half in bursts, for packets. What a packet costs between two processors is cache lines that move, each a wait of
 * hundreds of cycles, so the point of a burst is to have many of them under way at once and to touch few: all
 * heads first, then all descriptors, whose buffers are prefetched as soon as they are known; one store publishes all that was used.
 *
 * A chain of one descriptor in the memory slot of the last one is turned into memory right here. Everything else (NEXT,
 * INDIRECT, other slots, dirty logging, nonsense) goes to the walkers of virtq.c, which read the descriptor anew and decide
 * by themselves: nothing is carried over, so a descriptor that changes in between deceives nobody.
 */
#include "base/prefetch.h"
#include "virtio/virtq_walk.h"

#include <errno.h>

/* Remember the slot that holds gpa, unless writes to it must be logged one by one. */
static bool learn_region(struct virtq *q, gpa_t gpa)
{
	unsigned generation = atomic_load_explicit(&q->mem->generation, memory_order_acquire); /* pairs with slots.c replace() */
	const struct mem_slot *slot = memory_find(q->mem, gpa);

	q->region.size = 0;
	if (!slot || slot->dirty)
		return false;
	q->region = (struct virtq_region){ generation, !(slot->flags & SLOT_READONLY), slot->gpa, slot->size, slot->hva };
	return true;
}

/* Once per burst: is the remembered slot still what it was? */
static void check_region(struct virtq *q)
{
	if (q->region.generation != atomic_load_explicit(&q->mem->generation, memory_order_acquire))
		q->region.size = 0;
}

static void *prefetch_buffer(uint8_t *hva, uint32_t len, bool writable)
{
	if (writable) {
		prefetch_to_write(hva);
		if (len > CACHE_LINE)
			prefetch_to_write(hva + CACHE_LINE);
	} else {
		__builtin_prefetch(hva, 0);
		if (len > CACHE_LINE)
			__builtin_prefetch(hva + CACHE_LINE, 0);
	}
	return hva;
}

/* The chain that is this one descriptor, if it is of the easy kind. */
static inline bool simple_chain(struct virtq *q, struct virtq_chain *chain, gpa_t addr, uint32_t len, uint16_t flags)
{
	bool writable = flags & VRING_DESC_F_WRITE;
	uint64_t offset;

	if (flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT))
		return false;
	if (addr - q->region.gpa >= q->region.size && !learn_region(q, addr))
		return false;
	offset = addr - q->region.gpa;
	if (!len || len > q->region.size - offset || (writable && !q->region.writable))
		return false;
	chain->iov[0] = (struct iovec){ prefetch_buffer(q->region.hva + offset, len, writable), len };
	chain->readable = !writable;
	chain->writable = writable;
	chain->readable_bytes = writable ? 0 : len;
	chain->writable_bytes = writable ? len : 0;
	return true;
}

/* Iovec entries for the bursts' chains. */
struct iovec_pool {
	struct iovec *next;
	unsigned left, longest;
};

static void give_iovec(struct iovec_pool *pool, struct virtq_chain *chain)
{
	chain->iov = pool->next;
	chain->capacity = pool->left < pool->longest ? pool->left : pool->longest;
}

static void take_iovec(struct iovec_pool *pool, const struct virtq_chain *chain)
{
	unsigned count = chain->readable + chain->writable;

	pool->next += count;
	pool->left -= count;
}

/* How many chains wait, at most n; their heads go to chains[].id and their descriptors into the cache. */
static unsigned split_heads(struct virtq *q, struct virtq_chain *chains, unsigned n)
{
	uint16_t ready = (uint16_t)(q->avail_seen - q->avail_next), mask = (uint16_t)(q->size - 1);

	if (ready < n) {
		if (!virtq_split_look(q))
			return 0;
		ready = (uint16_t)(q->avail_seen - q->avail_next);
	}
	n = n < ready ? n : ready;
	if (n > q->size - q->popped) { /* the driver reuses what it does not own */
		n = q->size - q->popped;
		if (!n)
			virtq_fail(q, VIRTQ_AVAIL_INDEX);
	}
	for (unsigned k = 0; k < n; k++) {
		chains[k].id = load_relaxed(&q->avail->ring[(q->avail_next + k) & mask]);
		__builtin_prefetch(&q->desc[chains[k].id & mask], 0);
	}
	return n;
}

static unsigned split_pop_burst(struct virtq *q, struct virtq_chain *chains, unsigned n, struct iovec_pool *pool)
{
	unsigned k;

	n = split_heads(q, chains, n);
	for (k = 0; k < n && pool->left; k++) {
		struct virtq_chain *chain = &chains[k];
		const struct vring_desc *d = &q->desc[chain->id];

		give_iovec(pool, chain);
		chain->entries = 1;
		if (chain->id >= q->size) {
			virtq_fail(q, VIRTQ_HEAD_INDEX);
			break;
		}
		if (!simple_chain(q, chain, load_relaxed(&d->addr), load_relaxed(&d->len), load_relaxed(&d->flags))) {
			if (k && pool->left < pool->longest)
				break;
			virtq_chain_reset(chain);
			if (!virtq_split_walk(q, chain, chain->id))
				break;
		}
		take_iovec(pool, chain);
	}
	q->avail_next = (uint16_t)(q->avail_next + k);
	return k;
}

static unsigned packed_pop_burst(struct virtq *q, struct virtq_chain *chains, unsigned n, struct iovec_pool *pool)
{
	uint32_t popped = q->popped;
	unsigned k;

	for (k = 0; k < n && pool->left && popped < q->size; k++) {
		struct virtq_chain *chain = &chains[k];
		const struct vring_packed_desc *d = &q->ring[q->avail_next];
		/* acquire: the rest of the descriptor, which the driver wrote before its flags */
		uint16_t flags = load_acquire(&d->flags);

		if (!virtq_is_available(flags, q->avail_wrap))
			break;
		give_iovec(pool, chain);
		chain->id = load_relaxed(&d->id);
		if (chain->id < q->size && simple_chain(q, chain, load_relaxed(&d->addr), load_relaxed(&d->len), flags)) {
			chain->entries = 1;
			virtq_advance(&q->avail_next, &q->avail_wrap, q->size, 1);
		} else {
			uint32_t before = q->popped;
			int got;

			if (k && pool->left < pool->longest)
				break;
			q->popped = popped; /* what is popped bounds the chain's length */
			got = virtq_packed_pop(q, chain);
			q->popped = before;
			if (got <= 0)
				break;
		}
		take_iovec(pool, chain);
		popped += chain->entries;
	}
	if (k == n) /* a full burst: there may be more, fetch its descriptors while this one is looked at */
		for (unsigned ahead = 0; ahead < n; ahead += 4)
			__builtin_prefetch(&q->ring[q->avail_next + ahead < q->size ? q->avail_next + ahead : q->avail_next + ahead - q->size]);
	return k;
}

int virtq_pop_burst(struct virtq *q, struct virtq_chain *chains, unsigned n, struct iovec *iov, unsigned n_iov,
		    unsigned longest)
{
	struct iovec_pool pool = { iov, n_iov, longest };
	unsigned got;

	if (q->error)
		return -EPROTO;
	check_region(q);
	got = q->options & VIRTQ_PACKED ? packed_pop_burst(q, chains, n, &pool) : split_pop_burst(q, chains, n, &pool);
	for (unsigned k = 0; k < got; k++)
		q->popped += chains[k].entries;
	q->counters.chains += got;
	return got ? (int)got : q->error ? -EPROTO : 0;
}

void virtq_unpop_burst(struct virtq *q, const struct virtq_chain *chains, unsigned n)
{
	while (n)
		virtq_unpop(q, &chains[--n]);
}

/* With IN_ORDER one entry, that of the last chain, stands for all (2.7.8) if nothing was written to any. */
static void split_push_burst(struct virtq *q, const struct virtq_chain *chains, const uint32_t *written, unsigned n)
{
	uint16_t mask = (uint16_t)(q->size - 1);
	bool one_entry = !written && q->options & VIRTQ_IN_ORDER;

	for (unsigned k = one_entry ? n - 1 : 0; k < n; k++) {
		struct vring_used_elem *elem = &q->used->ring[(q->used_next + (one_entry ? 0 : k)) & mask];

		store_if_new(&elem->id, (uint32_t)chains[k].id);
		store_if_new(&elem->len, written ? written[k] : 0);
	}
	q->used_next = (uint16_t)(q->used_next + n);
	store_release(&q->used->idx, q->used_next); /* the entries and the data before idx: the driver acquires idx */
	q->unsignalled += n;
}

static void packed_use(struct vring_packed_desc *d, const struct virtq_chain *chain, uint32_t written, bool wrap)
{
	uint16_t flags = (wrap ? AVAIL_BIT | USED_BIT : 0) | (written ? VRING_DESC_F_WRITE : 0);

	store_relaxed(&d->id, chain->id);
	store_relaxed(&d->len, written);
	store_release(&d->flags, flags); /* id, len and data before flags: the driver acquires flags */
}

/*
 * Last to first: the driver, which reads in order, sees the burst whole, and the line that it is watching changes once.
 * With IN_ORDER one entry, naming the last chain, stands for all if nothing was written to any.
 */
static void packed_push_burst(struct virtq *q, const struct virtq_chain *chains, const uint32_t *written, unsigned n)
{
	bool one_entry = !written && q->options & VIRTQ_IN_ORDER, wrap;
	uint32_t entries = 0;
	uint16_t at;

	for (unsigned k = 0; k < n; k++)
		entries += chains[k].entries;
	virtq_advance(&q->used_next, &q->used_wrap, q->size, entries);
	q->unsignalled += entries;
	at = q->used_next;
	wrap = q->used_wrap;
	for (unsigned k = n; k--;) {
		if (at < chains[k].entries) {
			at = (uint16_t)(at + q->size);
			wrap = !wrap;
		}
		at = (uint16_t)(at - chains[k].entries);
		if (!one_entry || !k)
			packed_use(&q->ring[at], &chains[one_entry ? n - 1 : k], written ? written[k] : 0, wrap);
	}
}

void virtq_push_burst(struct virtq *q, const struct virtq_chain *chains, const uint32_t *written, unsigned n)
{
	if (!n)
		return;
	if (q->options & VIRTQ_PACKED)
		packed_push_burst(q, chains, written, n);
	else
		split_push_burst(q, chains, written, n);
	for (unsigned k = 0; k < n; k++)
		q->popped -= chains[k].entries;
}
