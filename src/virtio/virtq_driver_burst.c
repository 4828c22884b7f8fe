/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The driver half in bursts, for packets: chains of one segment, made available by one store and taken back together.
 * See virtq_burst.c for why. Ids are used in the order in which they come back, so in steady state a descriptor of a split
 * ring, and its place in the avail ring, say the same as a lap ago: then neither is written.
 */
#include "virtio/virtq_walk.h"

static void note_outstanding(struct virtq_driver *d, uint16_t id, void *token, uint32_t writable_bytes)
{
	uint32_t at = d->order_head + d->outstanding++;

	d->outstanding_writable += writable_bytes != 0;
	d->state[id].token = token;
	d->state[id].writable_bytes = writable_bytes;
	d->state[id].entries = 1;
	d->order[at < d->size ? at : at - d->size] = id;
}

static void split_add_burst(struct virtq_driver *d, const struct virtq_segment *segments, void *const *tokens, unsigned n,
			    uint16_t flags)
{
	uint16_t mask = (uint16_t)(d->size - 1);

	for (unsigned k = 0; k < n; k++) {
		uint16_t id = virtq_take_id(d);
		struct vring_desc *desc = &d->desc[id];

		store_if_new(&desc->addr, segments[k].gpa);
		store_if_new(&desc->len, segments[k].len);
		store_if_new(&desc->flags, flags);
		store_if_new(&d->avail->ring[(d->avail_next + k) & mask], id);
		note_outstanding(d, id, tokens[k], flags ? segments[k].len : 0);
	}
	d->avail_next = (uint16_t)(d->avail_next + n);
	store_release(&d->avail->idx, d->avail_next); /* descriptors and entries before idx: the device acquires idx */
}

enum { PART = 64 };

/* At most PART. Last to first: the device, which reads in order, sees the burst whole, and the line that it watches changes once. */
static void packed_add_part(struct virtq_driver *d, const struct virtq_segment *segments, void *const *tokens, unsigned n,
			    uint16_t flags)
{
	uint16_t id[PART], at;
	bool wrap;

	for (unsigned k = 0; k < n; k++) {
		id[k] = virtq_take_id(d);
		note_outstanding(d, id[k], tokens[k], flags ? segments[k].len : 0);
	}
	virtq_advance(&d->avail_next, &d->avail_wrap, d->size, n);
	at = d->avail_next;
	wrap = d->avail_wrap;
	while (n--) {
		struct vring_packed_desc *desc;

		if (!at) {
			at = (uint16_t)d->size;
			wrap = !wrap;
		}
		desc = &d->ring[--at];
		store_relaxed(&desc->addr, segments[n].gpa);
		store_relaxed(&desc->len, segments[n].len);
		store_relaxed(&desc->id, id[n]);
		/* the rest before flags: the device acquires flags */
		store_release(&desc->flags, (uint16_t)(flags | (wrap ? AVAIL_BIT : USED_BIT)));
	}
}

static void packed_add_burst(struct virtq_driver *d, const struct virtq_segment *segments, void *const *tokens, unsigned n,
			     uint16_t flags)
{
	for (unsigned part; n; n -= part, segments += part, tokens += part) {
		part = n < PART ? n : PART;
		packed_add_part(d, segments, tokens, part, flags);
	}
}

unsigned virtq_driver_add_burst(struct virtq_driver *d, const struct virtq_segment *segments, void *const *tokens, unsigned n,
				bool writable)
{
	uint16_t flags = writable ? VRING_DESC_F_WRITE : 0;

	n = n < d->free_count ? n : d->free_count;
	if (d->error || !n)
		return 0;
	if (d->options & VIRTQ_PACKED)
		packed_add_burst(d, segments, tokens, n, flags);
	else
		split_add_burst(d, segments, tokens, n, flags);
	d->unkicked += n;
	d->counters.chains += n;
	return n;
}

/* Forget chain `id`, which has one entry. */
static void *retire_one(struct virtq_driver *d, uint16_t id)
{
	void *token = d->state[id].token;

	d->outstanding_writable -= d->state[id].writable_bytes != 0;
	virtq_put_id(d, id);
	if (++d->order_head == d->size)
		d->order_head = 0;
	d->outstanding--;
	return token;
}

/* Is this a chain that a burst may take: known, of one entry, its length possible? Otherwise virtq_driver_take() decides. */
static bool is_simple(const struct virtq_driver *d, uint32_t id, uint32_t len)
{
	return id < d->size && d->state[id].token && d->state[id].entries == 1 && len <= d->state[id].writable_bytes;
}

/* IN_ORDER with nothing writable outstanding: no entry needs to be read. */
static unsigned split_take_counted(struct virtq_driver *d, void **tokens, uint32_t *written, unsigned n)
{
	unsigned k;

	for (k = 0; k < n && d->outstanding && d->state[d->order[d->order_head]].entries == 1; k++) {
		if (!virtq_driver_counted(d))
			break;
		tokens[k] = retire_one(d, d->order[d->order_head]);
		written[k] = 0;
	}
	return k;
}

static unsigned split_take_burst(struct virtq_driver *d, void **tokens, uint32_t *written, unsigned n)
{
	bool in_order = d->options & VIRTQ_IN_ORDER;
	uint16_t ready, mask = (uint16_t)(d->size - 1);
	unsigned k;

	if (in_order && !d->batch && (d->counted || !d->outstanding_writable))
		return split_take_counted(d, tokens, written, n);
	ready = (uint16_t)(load_acquire(&d->used->idx) - d->used_next); /* the device's entries and data before idx */
	if (ready > d->outstanding || d->batch)
		return 0;
	for (k = 0; k < n && k < ready; k++) {
		struct vring_used_elem *elem = &d->used->ring[(d->used_next + k) & mask];
		uint32_t id = load_relaxed(&elem->id), len = load_relaxed(&elem->len);

		if (!is_simple(d, id, len) || (in_order && id != d->order[d->order_head]))
			break;
		tokens[k] = retire_one(d, (uint16_t)id);
		written[k] = len;
	}
	d->used_next = (uint16_t)(d->used_next + k);
	return k;
}

/* Look at the next used descriptor: its id and length, if it is a simple one. */
static bool packed_next(struct virtq_driver *d, uint16_t *id, uint32_t *len)
{
	struct vring_packed_desc *desc = &d->ring[d->used_next];
	uint16_t flags = load_acquire(&desc->flags); /* the device's id, len and data, stored before flags */

	if (!virtq_is_used(flags, d->used_wrap))
		return false;
	*id = load_relaxed(&desc->id);
	*len = flags & VRING_DESC_F_WRITE ? load_relaxed(&desc->len) : 0; /* without it, len is reserved (2.8.6) */
	return is_simple(d, *id, *len);
}

static unsigned packed_take_burst(struct virtq_driver *d, void **tokens, uint32_t *written, unsigned n)
{
	bool in_order = d->options & VIRTQ_IN_ORDER;
	unsigned k;

	for (k = 0; k < n && d->outstanding; k++) {
		uint16_t id = d->batch_id;
		uint32_t len = d->batch_len;

		if (!d->batch && !packed_next(d, &id, &len))
			break;
		if (in_order) { /* all chains up to id came back, those before it with their whole buffer written */
			uint16_t oldest = d->order[d->order_head];

			d->batch_id = id;
			d->batch_len = len;
			d->batch = true;
			if (d->state[oldest].entries != 1 || (oldest == id && len > d->state[id].writable_bytes))
				break; /* the careful way goes on with this batch */
			d->batch = oldest != id;
			len = d->batch ? (uint32_t)d->state[oldest].writable_bytes : len;
			id = oldest;
		}
		tokens[k] = retire_one(d, id);
		written[k] = len;
		virtq_advance(&d->used_next, &d->used_wrap, d->size, 1);
	}
	return k;
}

unsigned virtq_driver_take_burst(struct virtq_driver *d, void **tokens, uint32_t *written, unsigned n)
{
	unsigned taken = 0, more;

	if (d->error || !d->outstanding)
		return 0;
	/* What the quick way leaves (chains of several entries, batches in order, errors) the careful way takes. */
	while (taken < n) {
		more = d->options & VIRTQ_PACKED ? packed_take_burst(d, tokens + taken, written + taken, n - taken)
						 : split_take_burst(d, tokens + taken, written + taken, n - taken);
		taken += more;
		if (more || taken == n)
			break;
		tokens[taken] = virtq_driver_take(d, &written[taken]);
		if (!tokens[taken])
			break;
		taken++;
	}
	return taken;
}
