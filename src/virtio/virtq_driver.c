/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The driver half of a virtqueue, both formats: for virtio_user, for the probe and for tests of devices.
 *
 * What is outstanding is kept in private memory (state[], indexed by descriptor or buffer id) and never read back from
 * the ring, so a hostile device can return nonsense but not make us follow it: an unknown id, too many used entries or
 * a length over the chain's writable bytes quarantine the queue.
 */
#include "virtio/virtq_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_packed(const struct virtq_driver *d)
{
	return d->options & VIRTQ_PACKED;
}

int virtq_driver_start(struct virtq_driver *d, struct memory *mem, const struct virtq_config *config)
{
	struct virtq_layout bytes = virtq_layout(config->size, config->options);
	uint32_t size = config->size;

	if (!size || size > VIRTQ_MAX_SIZE || (!(config->options & VIRTQ_PACKED) && (size & (size - 1))))
		return -EINVAL;
	if (config->desc % 16 || config->driver % 4 || config->device % 4)
		return -EINVAL;
	*d = (struct virtq_driver){ .options = config->options, .size = size };
	d->desc = mem_at(mem, config->desc, bytes.desc, MEM_WRITE);
	d->avail = mem_at(mem, config->driver, bytes.driver, MEM_WRITE);
	d->used = mem_at(mem, config->device, bytes.device, MEM_WRITE);
	if (!d->desc || !d->avail || !d->used)
		return -EFAULT;
	d->state = calloc(size, sizeof(*d->state));
	d->order = calloc(size, sizeof(*d->order));
	if (!d->state || !d->order) {
		virtq_driver_stop(d);
		return -ENOMEM;
	}
	memset(d->desc, 0, bytes.desc);
	memset(d->avail, 0, bytes.driver);
	memset(d->used, 0, bytes.device);
	for (uint32_t i = 0; i < size; i++)
		d->state[i].next = (uint16_t)(i + 1);
	d->free_tail = (uint16_t)(size - 1);
	d->free_ids = size;
	d->free_count = (uint16_t)size;
	d->avail_wrap = d->used_wrap = true;
	return 0;
}

void virtq_driver_stop(struct virtq_driver *d)
{
	free(d->state);
	free(d->order);
	d->state = NULL;
	d->order = NULL;
}

int virtq_driver_use_indirect(struct virtq_driver *d, struct memory *mem, gpa_t gpa, unsigned entries)
{
	if (!(d->options & VIRTQ_INDIRECT) || entries < 2 || entries > d->size || gpa % 16)
		return -EINVAL;
	d->indirect = mem_at(mem, gpa, 16ull * entries * d->size, MEM_WRITE);
	if (!d->indirect)
		return -EFAULT;
	d->indirect_gpa = gpa;
	d->indirect_entries = entries;
	return 0;
}

/* --- making chains available --- */

/* Fill the indirect table that belongs to descriptor or buffer `id`; what describes it goes to *segment. */
static void fill_indirect(struct virtq_driver *d, uint16_t id, const struct virtq_segment *segments, unsigned readable,
			  unsigned count, struct virtq_segment *segment)
{
	uint32_t first = (uint32_t)id * d->indirect_entries;
	struct vring_desc *table = &d->indirect[first];

	for (unsigned k = 0; k < count; k++) {
		uint16_t flags = k < readable ? 0 : VRING_DESC_F_WRITE;

		store_relaxed(&table[k].addr, segments[k].gpa);
		store_relaxed(&table[k].len, segments[k].len);
		if (is_packed(d)) { /* {id, flags}, read in order */
			store_relaxed(&table[k].flags, (uint16_t)0);
			store_relaxed(&table[k].next, flags);
		} else {
			store_relaxed(&table[k].flags, (uint16_t)(flags | (k + 1 < count ? VRING_DESC_F_NEXT : 0)));
			store_relaxed(&table[k].next, (uint16_t)(k + 1));
		}
	}
	*segment = (struct virtq_segment){ d->indirect_gpa + 16ull * first, 16 * count };
}

static uint16_t segment_flags(unsigned k, unsigned readable, unsigned count, bool indirect)
{
	if (indirect)
		return VRING_DESC_F_INDIRECT;
	return (k < readable ? 0 : VRING_DESC_F_WRITE) | (k + 1 < count ? VRING_DESC_F_NEXT : 0);
}

static uint16_t split_add(struct virtq_driver *d, const struct virtq_segment *segments, unsigned readable, unsigned count,
			  bool indirect)
{
	uint16_t head = d->free_head, id = head;

	for (unsigned k = 0; k < count; k++) {
		id = virtq_take_id(d);
		store_relaxed(&d->desc[id].addr, segments[k].gpa);
		store_relaxed(&d->desc[id].len, segments[k].len);
		store_relaxed(&d->desc[id].flags, segment_flags(k, readable, count, indirect));
		store_relaxed(&d->desc[id].next, d->state[id].next);
	}
	store_relaxed(&d->avail->ring[d->avail_next & (d->size - 1)], head);
	d->avail_next++;
	store_release(&d->avail->idx, d->avail_next); /* descriptors and entry before idx: the device acquires idx */
	return head;
}

static uint16_t packed_add(struct virtq_driver *d, const struct virtq_segment *segments, unsigned readable, unsigned count,
			   bool indirect)
{
	uint16_t first = d->avail_next, first_flags = 0, id = virtq_take_id(d);

	for (unsigned k = 0; k < count; k++) {
		struct vring_packed_desc *desc = &d->ring[d->avail_next];
		uint16_t flags = segment_flags(k, readable, count, indirect) | (d->avail_wrap ? AVAIL_BIT : USED_BIT);

		store_relaxed(&desc->addr, segments[k].gpa);
		store_relaxed(&desc->len, segments[k].len);
		store_relaxed(&desc->id, id);
		if (k)
			store_relaxed(&desc->flags, flags);
		else
			first_flags = flags;
		virtq_advance(&d->avail_next, &d->avail_wrap, d->size, 1);
	}
	d->free_count -= (uint16_t)(count - 1); /* ring entries are what runs out, ids never before them */
	store_release(&d->ring[first].flags, first_flags); /* the whole list before its first flags: the device acquires */
	return id;
}

int virtq_driver_add(struct virtq_driver *d, const struct virtq_segment *segments, unsigned readable, unsigned writable,
		     void *token)
{
	unsigned count = readable + writable;
	bool indirect = d->indirect && count > 1 && count <= d->indirect_entries;
	struct virtq_segment table;
	uint64_t bytes = 0;
	uint16_t id;

	if (!count || (!indirect && count > d->size) || !token)
		return -EINVAL;
	if (d->error || d->free_count < (indirect ? 1 : count))
		return -ENOSPC;
	for (unsigned k = readable; k < count; k++)
		bytes += segments[k].len;
	if (indirect) {
		fill_indirect(d, d->free_head, segments, readable, count, &table);
		segments = &table;
		count = 1;
	}
	id = is_packed(d) ? packed_add(d, segments, readable, count, indirect) : split_add(d, segments, readable, count, indirect);
	d->outstanding_writable += bytes != 0;
	d->state[id].token = token;
	d->state[id].writable_bytes = bytes;
	d->state[id].entries = (uint16_t)count;
	d->order[(d->order_head + d->outstanding++) % d->size] = id;
	d->unkicked += is_packed(d) ? count : 1;
	d->counters.chains++;
	return 0;
}

static bool split_should_kick(struct virtq_driver *d)
{
	uint16_t *avail_event = (uint16_t *)&d->used->ring[d->size];

	if (!(d->options & VIRTQ_EVENT_IDX))
		return !(load_relaxed(&d->used->flags) & VRING_USED_F_NO_NOTIFY);
	return d->unkicked > 0xffff ||
	       vring_need_event(load_relaxed(avail_event), d->avail_next, (uint16_t)(d->avail_next - d->unkicked));
}

static bool packed_should_kick(struct virtq_driver *d)
{
	uint16_t flags = load_acquire(&d->device_event->flags) & 3;
	uint16_t off_wrap = load_relaxed(&d->device_event->off_wrap), event = off_wrap & 0x7fff;

	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !(d->options & VIRTQ_EVENT_IDX))
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if ((off_wrap >> 15) != d->avail_wrap)
		event = (uint16_t)(event - d->size);
	return d->unkicked >= d->size || vring_need_event(event, d->avail_next, (uint16_t)(d->avail_next - d->unkicked));
}

bool virtq_driver_should_kick(struct virtq_driver *d)
{
	bool kick;

	if (!d->unkicked)
		return false;
	full_fence(); /* our avail entries before we read the device's suppression: pairs with its fence in enable_kicks */
	kick = is_packed(d) ? packed_should_kick(d) : split_should_kick(d);
	d->unkicked = 0;
	d->counters.kicks_wanted += kick;
	return kick;
}

/* --- taking used chains --- */

void *virtq_driver_fail(struct virtq_driver *d, enum virtq_error error)
{
	d->error = error;
	d->counters.errors++;
	return NULL;
}

/* The next used entry of the ring: its id and length. */
static bool split_next_used(struct virtq_driver *d, uint16_t *id, uint32_t *len)
{
	uint16_t seen = load_acquire(&d->used->idx); /* the device's entry and data, stored before idx */
	uint16_t ready = (uint16_t)(seen - d->used_next);
	struct vring_used_elem *elem = &d->used->ring[d->used_next & (d->size - 1)];
	uint32_t wide;

	if (!ready)
		return false;
	if (ready > d->outstanding)
		return virtq_driver_fail(d, VIRTQ_USED_INDEX);
	wide = load_relaxed(&elem->id);
	if (wide >= d->size)
		return virtq_driver_fail(d, VIRTQ_USED_ID);
	*id = (uint16_t)wide;
	*len = load_relaxed(&elem->len);
	d->used_next++;
	return true;
}

static bool packed_next_used(struct virtq_driver *d, uint16_t *id, uint32_t *len)
{
	struct vring_packed_desc *desc = &d->ring[d->used_next];
	uint16_t flags = load_acquire(&desc->flags); /* the device's id, len and data, stored before flags */

	if (!!(flags & AVAIL_BIT) != d->used_wrap || !!(flags & USED_BIT) != d->used_wrap)
		return false;
	*id = load_relaxed(&desc->id);
	*len = flags & VRING_DESC_F_WRITE ? load_relaxed(&desc->len) : 0; /* without it, len is reserved (2.8.6) */
	if (*id >= d->size || !d->state[*id].token)
		return virtq_driver_fail(d, VIRTQ_USED_ID);
	return true;
}

/* Free what chain `id` held and give its token. */
static void *retire(struct virtq_driver *d, uint16_t id)
{
	struct virtq_token *state = &d->state[id];
	void *token = state->token;

	d->outstanding_writable -= state->writable_bytes != 0;
	if (is_packed(d)) {
		virtq_advance(&d->used_next, &d->used_wrap, d->size, state->entries);
		d->free_count += state->entries - 1;
		virtq_put_id(d, id);
	} else {
		uint16_t at = id;

		for (unsigned left = state->entries; left; left--) {
			uint16_t next = d->state[at].next; /* private: the free list's order when it was added */

			virtq_put_id(d, at);
			at = next;
		}
	}
	d->order_head = (d->order_head + 1) % d->size;
	d->outstanding--;
	return token;
}

/*
 * A device that uses a batch in order may write one entry, at the batch's start, so a driver must know where batches
 * begin; unless nothing outstanding has a length to learn.
 */
bool virtq_driver_counted(struct virtq_driver *d)
{
	uint16_t ready;

	if (!d->counted && !d->batch && !d->outstanding_writable) {
		ready = (uint16_t)(load_acquire(&d->used->idx) - d->used_next); /* what the device did before it stored idx */
		if (ready > d->outstanding)
			virtq_driver_fail(d, VIRTQ_USED_INDEX);
		else
			d->counted = ready;
	}
	if (!d->counted)
		return false;
	d->counted--;
	d->used_next++;
	return true;
}

/* IN_ORDER (2.7.15, 2.8.19): one used entry may stand for all chains up to its own. */
static void *take_in_order(struct virtq_driver *d, uint32_t *written)
{
	uint16_t id;

	if (!is_packed(d) && virtq_driver_counted(d)) {
		*written = 0;
		return retire(d, d->order[d->order_head]);
	}
	if (!d->batch && !d->error) {
		if (!(is_packed(d) ? packed_next_used : split_next_used)(d, &d->batch_id, &d->batch_len))
			return NULL;
		if (!d->state[d->batch_id].token)
			return virtq_driver_fail(d, VIRTQ_USED_ID);
		d->batch = true;
	}
	id = d->order[d->order_head];
	*written = (uint32_t)d->state[id].writable_bytes; /* of the skipped ones: the whole buffer */
	if (id == d->batch_id) {
		*written = d->batch_len;
		d->batch = false;
	} else if (!is_packed(d)) {
		uint16_t ahead = (uint16_t)(load_relaxed(&d->used->idx) - d->used_next);

		if (!ahead)
			return virtq_driver_fail(d, VIRTQ_USED_INDEX);
		d->used_next++; /* the device's idx counts every chain, its ring only the last of the batch */
	}
	if (*written > d->state[id].writable_bytes)
		return virtq_driver_fail(d, VIRTQ_USED_LENGTH);
	return retire(d, id);
}

void *virtq_driver_take(struct virtq_driver *d, uint32_t *written)
{
	uint16_t id;

	if (d->error || !d->outstanding)
		return NULL;
	if (d->options & VIRTQ_IN_ORDER)
		return take_in_order(d, written);
	if (!(is_packed(d) ? packed_next_used : split_next_used)(d, &id, written))
		return NULL;
	if (!d->state[id].token)
		return virtq_driver_fail(d, VIRTQ_USED_ID);
	if (*written > d->state[id].writable_bytes)
		return virtq_driver_fail(d, VIRTQ_USED_LENGTH);
	return retire(d, id);
}

bool virtq_driver_enable_calls(struct virtq_driver *d)
{
	uint16_t flags;

	if (is_packed(d)) {
		if (d->options & VIRTQ_EVENT_IDX) {
			store_relaxed(&d->driver_event->off_wrap, (uint16_t)(d->used_next | d->used_wrap << 15));
			store_release(&d->driver_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_DESC);
		} else {
			store_relaxed(&d->driver_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_ENABLE);
		}
		full_fence(); /* our wish before we look again: pairs with the device's fence in should_call */
		flags = load_relaxed(&d->ring[d->used_next].flags);
		return !!(flags & AVAIL_BIT) == d->used_wrap && !!(flags & USED_BIT) == d->used_wrap;
	}
	if (d->options & VIRTQ_EVENT_IDX)
		store_relaxed(&d->avail->ring[d->size], d->used_next);
	else
		store_relaxed(&d->avail->flags, (uint16_t)0);
	full_fence(); /* as above */
	return load_relaxed(&d->used->idx) != d->used_next;
}

void virtq_driver_disable_calls(struct virtq_driver *d)
{
	if (is_packed(d))
		store_relaxed(&d->driver_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_DISABLE);
	else if (!(d->options & VIRTQ_EVENT_IDX))
		store_relaxed(&d->avail->flags, (uint16_t)VRING_AVAIL_F_NO_INTERRUPT);
	/* split with EVENT_IDX: used_event stays behind, which asks for no call */
}
