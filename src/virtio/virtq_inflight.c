/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The notes' order of stores is the specification's: at whatever instant the process dies, its successor can tell which
 * chains were returned and which were not. x86 keeps stores in order; the release stores keep the compiler from
 * changing it.
 */
#include "virtio/virtq_inflight.h"

#include <errno.h>
#include <stdlib.h>

#include "virtio/virtq_walk.h"

enum { REGION_VERSION = 1 };

struct desc_state_split {
	uint8_t inflight, padding[5];
	uint16_t next;
	uint64_t counter;
};

struct region_split {
	uint64_t features;
	uint16_t version, desc_num, last_batch_head, used_idx;
	struct desc_state_split desc[];
};

struct desc_state_packed {
	uint8_t inflight, padding;
	uint16_t next, last, num;
	uint64_t counter;
	uint16_t id, flags;
	uint32_t len;
	uint64_t addr;
};

struct region_packed {
	uint64_t features;
	uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
	uint8_t used_wrap_counter, old_used_wrap_counter, padding[7];
	struct desc_state_packed desc[];
};

_Static_assert(sizeof(struct desc_state_split) == 16 && sizeof(struct region_split) == 16, "the specification's layout");
_Static_assert(sizeof(struct desc_state_packed) == 32 && sizeof(struct region_packed) == 32, "the specification's layout");

#define store(p, x) store_release((p), (__typeof__(*(p)))(x))

uint64_t virtq_inflight_bytes(uint32_t size, unsigned options)
{
	return options & VIRTQ_PACKED ? sizeof(struct region_packed) + (uint64_t)size * sizeof(struct desc_state_packed) :
					sizeof(struct region_split) + (uint64_t)size * sizeof(struct desc_state_split);
}

/* --- taking up what an earlier process left --- */

struct held {
	uint64_t counter;
	uint16_t entry;
};

static int by_counter(const void *a, const void *b)
{
	uint64_t x = ((const struct held *)a)->counter, y = ((const struct held *)b)->counter;

	return x < y ? -1 : x > y;
}

/* Put held entries in order into f->resubmit, and go on counting behind them. */
static int order_held(struct virtq_inflight *f, struct held *held, unsigned n)
{
	qsort(held, n, sizeof(*held), by_counter);
	f->resubmit = calloc(n ? n : 1, sizeof(*f->resubmit));
	if (!f->resubmit)
		return -ENOMEM;
	for (unsigned k = 0; k < n; k++)
		f->resubmit[k] = held[k].entry;
	f->n_resubmit = n;
	f->counter = n ? held[n - 1].counter + 1 : 0;
	return 0;
}

/* A batch that died between used.idx and its notes was returned all the same. */
static void finish_last_batch(struct region_split *r, const struct virtq *q)
{
	uint16_t at = load_relaxed(&r->last_batch_head), count = (uint16_t)(q->used_next - load_relaxed(&r->used_idx));

	for (uint32_t k = 0; k < count && k < q->size && at < q->size; k++) {
		store(&r->desc[at].inflight, 0);
		at = load_relaxed(&r->desc[at].next);
	}
	store(&r->used_idx, q->used_next);
}

static int start_split(struct virtq_inflight *f, struct virtq *q, struct held *held)
{
	struct region_split *r = f->region;
	unsigned n = 0;

	if (!load_relaxed(&r->version)) {
		store(&r->desc_num, q->size);
		store(&r->used_idx, q->used_next);
		store(&r->version, REGION_VERSION);
		return order_held(f, held, 0);
	}
	if (load_relaxed(&r->version) != REGION_VERSION || load_relaxed(&r->desc_num) != (uint16_t)q->size)
		return -EPROTO;
	finish_last_batch(r, q);
	for (uint32_t k = 0; k < q->size; k++)
		if (load_relaxed(&r->desc[k].inflight))
			held[n++] = (struct held){ load_relaxed(&r->desc[k].counter), (uint16_t)k };
	q->avail_next = q->avail_seen = (uint16_t)(q->used_next + n);
	return order_held(f, held, n);
}

static void new_packed(struct region_packed *r, const struct virtq *q)
{
	for (uint32_t k = 0; k < q->size; k++)
		store(&r->desc[k].next, k + 1);
	store(&r->desc_num, q->size);
	store(&r->used_idx, q->used_next);
	store(&r->old_used_idx, q->used_next);
	store(&r->used_wrap_counter, q->used_wrap);
	store(&r->old_used_wrap_counter, q->used_wrap);
	store(&r->version, REGION_VERSION);
}

/* Commit the update that was in progress, if the driver can see it, or roll it back. */
static void settle_packed(struct region_packed *r, const struct virtq *q)
{
	uint16_t old = load_relaxed(&r->old_used_idx);
	bool wrap = load_relaxed(&r->old_used_wrap_counter);

	if ((load_relaxed(&r->used_idx) != old || load_relaxed(&r->used_wrap_counter) != wrap) && old < q->size &&
	    !virtq_is_available(load_relaxed(&q->ring[old].flags), wrap)) {
		store(&r->old_free_head, load_relaxed(&r->free_head));
		store(&r->old_used_idx, load_relaxed(&r->used_idx));
		store(&r->old_used_wrap_counter, load_relaxed(&r->used_wrap_counter));
	}
	store(&r->free_head, load_relaxed(&r->old_free_head));
	store(&r->used_idx, load_relaxed(&r->old_used_idx));
	store(&r->used_wrap_counter, load_relaxed(&r->old_used_wrap_counter));
}

/* Copy the free list; its entries are not in flight. false: it is no list. taken: by entry, those that are in it. */
static bool copy_free_list(struct virtq_inflight *f, struct region_packed *r, const struct virtq *q, bool *taken)
{
	uint32_t at = load_relaxed(&r->free_head);

	f->free_head = (uint16_t)at;
	for (uint32_t k = 0; at < q->size; k++) {
		if (k == q->size || taken[at])
			return false;
		taken[at] = true;
		store(&r->desc[at].inflight, 0);
		f->next[at] = load_relaxed(&r->desc[at].next);
		at = f->next[at];
	}
	return true;
}

/* Copy the list of one chain in flight. false: it is no list of its own. */
static bool copy_chain(struct virtq_inflight *f, struct region_packed *r, const struct virtq *q, uint16_t head, bool *taken)
{
	uint32_t at = head, num = load_relaxed(&r->desc[head].num);

	if (!num || num > q->size)
		return false;
	for (uint32_t k = 0; k < num; k++) {
		if (at >= q->size || taken[at])
			return false;
		taken[at] = true;
		f->last[head] = (uint16_t)at;
		f->next[at] = load_relaxed(&r->desc[at].next);
		at = f->next[at];
	}
	f->num[head] = (uint16_t)num;
	return true;
}

static int take_up_packed(struct virtq_inflight *f, struct virtq *q, struct held *held, bool *taken)
{
	struct region_packed *r = f->region;
	uint32_t entries = 0;
	unsigned n = 0;

	if (load_relaxed(&r->version) != REGION_VERSION || load_relaxed(&r->desc_num) != (uint16_t)q->size)
		return -EPROTO;
	settle_packed(r, q);
	if (!copy_free_list(f, r, q, taken))
		return -EPROTO;
	for (uint32_t k = 0; k < q->size; k++) {
		if (!load_relaxed(&r->desc[k].inflight))
			continue;
		if (!copy_chain(f, r, q, (uint16_t)k, taken))
			return -EPROTO;
		entries += f->num[k];
		held[n++] = (struct held){ load_relaxed(&r->desc[k].counter), (uint16_t)k };
	}
	q->used_next = load_relaxed(&r->used_idx);
	if (q->used_next >= q->size)
		return -EPROTO;
	q->avail_next = q->used_next;
	q->used_wrap = q->avail_wrap = load_relaxed(&r->used_wrap_counter);
	virtq_advance(&q->avail_next, &q->avail_wrap, q->size, entries);
	return order_held(f, held, n);
}

static int start_packed(struct virtq_inflight *f, struct virtq *q, struct held *held)
{
	struct region_packed *r = f->region;
	bool *taken;
	int err;

	if (!load_relaxed(&r->version))
		new_packed(r, q);
	f->next = calloc(4 * q->size, sizeof(*f->next));
	taken = calloc(q->size, sizeof(*taken));
	if (!f->next || !taken) {
		free(taken);
		return -ENOMEM;
	}
	f->last = f->next + q->size;
	f->num = f->last + q->size;
	f->entry_of = f->num + q->size;
	err = take_up_packed(f, q, held, taken);
	free(taken);
	return err;
}

int virtq_inflight_start(struct virtq_inflight *f, struct virtq *q, void *region)
{
	struct held *held = calloc(q->size, sizeof(*held));
	int err;

	*f = (struct virtq_inflight){ .region = region };
	if (!held)
		return -ENOMEM;
	err = q->options & VIRTQ_PACKED ? start_packed(f, q, held) : start_split(f, q, held);
	free(held);
	if (err) {
		virtq_inflight_stop(f, q);
		return err;
	}
	q->inflight = f;
	return 0;
}

void virtq_inflight_stop(struct virtq_inflight *f, struct virtq *q)
{
	q->inflight = NULL;
	free(f->resubmit);
	free(f->next);
	*f = (struct virtq_inflight){ 0 };
}

/* --- popping --- */

static void note_split(struct virtq_inflight *f, const struct virtq_chain *chain)
{
	struct desc_state_split *s = &((struct region_split *)f->region)->desc[chain->id];

	store(&s->counter, f->counter++);
	store(&s->inflight, 1);
}

/* The list's entries are taken off the free list as the descriptors come. false: there are not enough, which cannot be. */
static bool note_packed(struct virtq_inflight *f, struct virtq *q, const struct virtq_chain *chain, uint16_t at)
{
	struct region_packed *r = f->region;
	uint16_t head = f->free_head, entry = head;

	if (head >= q->size)
		return false;
	store(&r->desc[head].num, chain->entries);
	store(&r->desc[head].counter, f->counter++);
	store(&r->desc[head].inflight, 1);
	for (uint32_t k = 0; k < chain->entries; k++) {
		const struct vring_packed_desc *d = &q->ring[(at + k) % q->size];

		entry = f->free_head;
		if (entry >= q->size)
			return false;
		store(&r->desc[entry].addr, load_relaxed(&d->addr));
		store(&r->desc[entry].len, load_relaxed(&d->len));
		store(&r->desc[entry].flags, load_relaxed(&d->flags));
		store(&r->desc[entry].id, load_relaxed(&d->id));
		f->free_head = f->next[entry];
	}
	f->last[head] = entry;
	f->num[head] = chain->entries;
	f->entry_of[chain->id] = head;
	store(&r->desc[head].last, entry);
	store(&r->free_head, f->free_head);
	store(&r->old_free_head, f->free_head);
	return true;
}

/* The chain that was noted in the list at `head`: from the notes, for the ring's entries may be new ones by now. */
static bool rebuild_packed(struct virtq *q, struct virtq_chain *chain, uint16_t head)
{
	struct virtq_inflight *f = q->inflight;
	struct region_packed *r = f->region;
	struct virtq_descriptor d = { 0 };
	uint16_t entry = head;

	for (uint32_t k = 0; k < f->num[head]; k++) {
		d = (struct virtq_descriptor){ load_relaxed(&r->desc[entry].addr), load_relaxed(&r->desc[entry].len),
					       load_relaxed(&r->desc[entry].flags), load_relaxed(&r->desc[entry].id) };
		if (d.flags & VRING_DESC_F_INDIRECT ? !virtq_chain_add_indirect(q, chain, &d) : !virtq_chain_add(q, chain, &d))
			return false;
		entry = f->next[entry];
	}
	if (d.next_or_id >= q->size)
		return virtq_fail(q, VIRTQ_HEAD_INDEX);
	chain->id = d.next_or_id;
	chain->entries = f->num[head];
	f->entry_of[chain->id] = head;
	return true;
}

static bool rebuild(struct virtq *q, struct virtq_chain *chain, uint16_t entry)
{
	virtq_chain_reset(chain);
	if (q->options & VIRTQ_PACKED)
		return rebuild_packed(q, chain, entry);
	chain->id = entry;
	chain->entries = 1;
	return virtq_split_walk(q, chain, entry);
}

int virtq_inflight_pop(struct virtq *q, struct virtq_chain *chain)
{
	struct virtq_inflight *f = q->inflight;
	uint16_t at = q->avail_next;
	int popped;

	if (f->next_resubmit < f->n_resubmit)
		return rebuild(q, chain, f->resubmit[f->next_resubmit++]) ? 1 : -EPROTO;
	if (!(q->options & VIRTQ_PACKED)) {
		popped = virtq_split_pop(q, chain);
		if (popped > 0)
			note_split(f, chain);
		return popped;
	}
	popped = virtq_packed_pop(q, chain);
	if (popped > 0 && !note_packed(f, q, chain, at)) {
		virtq_fail(q, VIRTQ_HEAD_INDEX);
		return -EPROTO;
	}
	return popped;
}

/* --- pushing --- */

static void push_split(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
	struct region_split *r = q->inflight->region;

	store(&r->desc[chain->id].next, load_relaxed(&r->last_batch_head));
	store(&r->last_batch_head, chain->id);
	virtq_split_push(q, chain, written);
	store(&r->desc[chain->id].inflight, 0);
	store(&r->used_idx, q->used_next);
}

static void push_packed(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
	struct virtq_inflight *f = q->inflight;
	struct region_packed *r = f->region;
	uint16_t head = f->entry_of[chain->id], used = q->used_next;
	bool wrap = q->used_wrap;

	virtq_advance(&used, &wrap, q->size, chain->entries);
	f->next[f->last[head]] = f->free_head;
	f->free_head = head;
	store(&r->desc[f->last[head]].next, f->next[f->last[head]]);
	store(&r->free_head, head);
	store(&r->used_idx, used);
	store(&r->used_wrap_counter, wrap);
	virtq_packed_push(q, chain, written);
	store(&r->desc[head].inflight, 0);
	store(&r->old_free_head, head);
	store(&r->old_used_idx, used);
	store(&r->old_used_wrap_counter, wrap);
}

void virtq_inflight_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
	if (q->options & VIRTQ_PACKED)
		push_packed(q, chain, written);
	else
		push_split(q, chain, written);
}
