/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device half of a virtqueue: start and stop, and the walker that both formats share. Descriptors become memory
 * here and nowhere else: virtq_split.c and virtq_packed.c only know where the next one lies.
 */
#include "virtio/virtq_inflight.h"
#include "virtio/virtq_walk.h"

#include <errno.h>

#include <linux/virtio_config.h>
#include <string.h>

unsigned virtq_options(uint64_t features)
{
	static const struct {
		unsigned bit, option;
	} map[] = {
		{ VIRTIO_F_RING_PACKED, VIRTQ_PACKED },
		{ VIRTIO_RING_F_EVENT_IDX, VIRTQ_EVENT_IDX },
		{ VIRTIO_RING_F_INDIRECT_DESC, VIRTQ_INDIRECT },
		{ VIRTIO_F_IN_ORDER, VIRTQ_IN_ORDER },
	};
	unsigned options = 0;

	for (unsigned i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (features >> map[i].bit & 1)
			options |= map[i].option;
	return options;
}

const char *virtq_error_name(enum virtq_error error)
{
	static const char *const name[] = {
		[VIRTQ_OK] = "no error",
		[VIRTQ_AVAIL_INDEX] = "avail index moved by more than the queue size",
		[VIRTQ_HEAD_INDEX] = "descriptor index or buffer id outside the queue",
		[VIRTQ_CHAIN_TOO_LONG] = "descriptor chain longer than the queue",
		[VIRTQ_INDIRECT_NOT_OFFERED] = "indirect descriptor without the feature",
		[VIRTQ_INDIRECT_NESTED] = "indirect descriptor inside an indirect table or with NEXT",
		[VIRTQ_INDIRECT_SIZE] = "indirect table of a bad size",
		[VIRTQ_ADDRESS] = "buffer outside guest memory",
		[VIRTQ_ZERO_LENGTH] = "buffer of length 0",
		[VIRTQ_CHAIN_BYTES] = "descriptor chain of more than 4 GiB",
		[VIRTQ_READABLE_AFTER_WRITABLE] = "device-readable buffer after a device-writable one",
		[VIRTQ_TOO_MANY_SEGMENTS] = "descriptor chain of more segments than the device takes",
		[VIRTQ_USED_INDEX] = "used index moved past the outstanding chains",
		[VIRTQ_USED_ID] = "used id that is not outstanding",
		[VIRTQ_USED_LENGTH] = "used length over the chain's writable bytes",
	};
	_Static_assert(sizeof(name) / sizeof(name[0]) == VIRTQ_ERRORS, "every error has a name");

	return name[error];
}

struct virtq_layout virtq_layout(uint32_t size, unsigned options)
{
	if (options & VIRTQ_PACKED)
		return (struct virtq_layout){ 16ull * size, 4, 4 };
	return (struct virtq_layout){ 16ull * size, 6 + 2ull * size, 6 + 8ull * size };
}

uint32_t virtq_fresh_base(unsigned options)
{
	return options & VIRTQ_PACKED ? 0x80008000 : 0; /* packed: both wrap counters start at 1 (2.8.1) */
}

int virtq_start(struct virtq *q, struct memory *mem, const struct virtq_config *config, uint32_t base)
{
	bool packed = config->options & VIRTQ_PACKED;
	uint32_t size = config->size;
	struct virtq_layout bytes = virtq_layout(size, config->options);

	if (!size || size > VIRTQ_MAX_SIZE || (!packed && (size & (size - 1))))
		return -EINVAL;
	if (config->desc % 16 || config->driver % (packed ? 4 : 2) || config->device % 4)
		return -EINVAL;
	if (packed && ((base & 0x7fff) >= size || (base >> 16 & 0x7fff) >= size))
		return -EINVAL;
	*q = (struct virtq){ .mem = mem, .options = config->options, .size = size };
	q->desc = mem_at(mem, config->desc, bytes.desc, packed ? MEM_WRITE : MEM_READ);
	q->avail = mem_at(mem, config->driver, bytes.driver, MEM_READ);
	q->used = mem_at(mem, config->device, bytes.device, MEM_WRITE);
	if (!q->desc || !q->avail || !q->used)
		return -EFAULT;
	if (packed) {
		q->avail_next = base & 0x7fff;
		q->avail_wrap = base >> 15 & 1;
		q->used_next = base >> 16 & 0x7fff;
		q->used_wrap = base >> 31;
	} else {
		q->avail_next = q->avail_seen = (uint16_t)base;
		q->used_next = load_relaxed(&q->used->idx);
	}
	return 0;
}

uint32_t virtq_stop(struct virtq *q)
{
	if (q->options & VIRTQ_PACKED)
		return q->avail_next | (uint32_t)q->avail_wrap << 15 | (uint32_t)q->used_next << 16 |
		       (uint32_t)q->used_wrap << 31;
	return q->avail_next;
}

bool virtq_mend_base(struct virtq *q)
{
	uint16_t avail;

	if (q->options & VIRTQ_PACKED)
		return false;
	avail = load_relaxed(&q->avail->idx);
	if ((uint16_t)(avail - q->avail_next) <= q->size || (uint16_t)(avail - q->used_next) > q->size)
		return false;
	q->avail_next = q->avail_seen = q->used_next;
	return true;
}

bool virtq_fail(struct virtq *q, enum virtq_error error)
{
	q->error = error;
	q->counters.errors++;
	return false;
}

void virtq_chain_reset(struct virtq_chain *chain)
{
	chain->readable = chain->writable = 0;
	chain->readable_bytes = chain->writable_bytes = 0;
}

/* One buffer: usually one segment, more where it crosses memory slots. */
bool virtq_chain_add(struct virtq *q, struct virtq_chain *chain, const struct virtq_descriptor *d)
{
	bool writable = d->flags & VRING_DESC_F_WRITE;
	uint64_t gpa = d->addr, left = d->len;

	if (!left)
		return virtq_fail(q, VIRTQ_ZERO_LENGTH);
	if (!writable && chain->writable)
		return virtq_fail(q, VIRTQ_READABLE_AFTER_WRITABLE);
	if (chain->readable_bytes + chain->writable_bytes + left > 1ull << 32)
		return virtq_fail(q, VIRTQ_CHAIN_BYTES);
	*(writable ? &chain->writable_bytes : &chain->readable_bytes) += left;
	while (left) {
		struct mem_slot *slot = memory_find(q->mem, gpa);
		uint64_t part = slot ? slot->gpa + slot->size - gpa : 0;
		void *hva;

		if (part > left)
			part = left;
		hva = part ? mem_at(q->mem, gpa, part, writable ? MEM_WRITE : MEM_READ) : NULL;
		if (!hva)
			return virtq_fail(q, VIRTQ_ADDRESS);
		if (chain->readable + chain->writable == chain->capacity)
			return virtq_fail(q, VIRTQ_TOO_MANY_SEGMENTS);
		chain->iov[chain->readable + chain->writable] = (struct iovec){ hva, part };
		*(writable ? &chain->writable : &chain->readable) += 1;
		gpa += part;
		left -= part;
	}
	return true;
}

/* Read an entry of an indirect table, which no rule aligns. Both formats: the last two fields are {flags, next} or {id, flags}. */
static struct virtq_descriptor read_entry(const uint8_t *at, bool packed)
{
	struct vring_desc entry;

	if ((uintptr_t)at % _Alignof(struct vring_desc)) {
		memcpy(&entry, at, sizeof(entry));
	} else {
		const struct vring_desc *in_place = (const struct vring_desc *)at;

		entry.addr = load_relaxed(&in_place->addr);
		entry.len = load_relaxed(&in_place->len);
		entry.flags = load_relaxed(&in_place->flags);
		entry.next = load_relaxed(&in_place->next);
	}
	return (struct virtq_descriptor){ entry.addr, entry.len, packed ? entry.next : entry.flags, packed ? entry.flags : entry.next };
}

/*
 * An indirect table (2.7.5.3, 2.8.8). Split tables are linked by next, packed ones are read in order. The WRITE flag of the
 * descriptor that names the table means nothing.
 */
bool virtq_chain_add_indirect(struct virtq *q, struct virtq_chain *chain, const struct virtq_descriptor *table)
{
	bool packed = q->options & VIRTQ_PACKED;
	uint32_t count = table->len / 16, at = 0;
	const uint8_t *entries;

	if (!(q->options & VIRTQ_INDIRECT))
		return virtq_fail(q, VIRTQ_INDIRECT_NOT_OFFERED);
	if (table->flags & VRING_DESC_F_NEXT)
		return virtq_fail(q, VIRTQ_INDIRECT_NESTED);
	if (!count || table->len % 16 || count > q->size)
		return virtq_fail(q, VIRTQ_INDIRECT_SIZE);
	entries = mem_at(q->mem, table->addr, table->len, MEM_READ);
	if (!entries)
		return virtq_fail(q, VIRTQ_ADDRESS);
	for (uint32_t walked = 0; walked < count; walked++) {
		struct virtq_descriptor d = read_entry(entries + 16ull * at, packed);

		if (d.flags & VRING_DESC_F_INDIRECT)
			return virtq_fail(q, VIRTQ_INDIRECT_NESTED);
		if (!virtq_chain_add(q, chain, &d))
			return false;
		if (packed) {
			at++;
			continue;
		}
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		if (d.next_or_id >= count)
			return virtq_fail(q, VIRTQ_HEAD_INDEX);
		at = d.next_or_id;
	}
	return packed || virtq_fail(q, VIRTQ_CHAIN_TOO_LONG);
}

int virtq_pop(struct virtq *q, struct virtq_chain *chain)
{
	int popped;

	if (q->error)
		return -EPROTO;
	if (q->inflight)
		popped = virtq_inflight_pop(q, chain);
	else
		popped = q->options & VIRTQ_PACKED ? virtq_packed_pop(q, chain) : virtq_split_pop(q, chain);
	if (popped > 0) {
		q->popped += chain->entries;
		q->counters.chains++;
	}
	return popped;
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *chain)
{
	q->popped -= chain->entries;
	q->counters.chains--;
	if (!(q->options & VIRTQ_PACKED)) {
		q->avail_next--;
		return;
	}
	if (q->avail_next < chain->entries)
		q->avail_wrap = !q->avail_wrap;
	q->avail_next = (uint16_t)((q->avail_next + q->size - chain->entries) % q->size);
}

void virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
	if (q->inflight)
		virtq_inflight_push(q, chain, written);
	else if (q->options & VIRTQ_PACKED)
		virtq_packed_push(q, chain, written);
	else
		virtq_split_push(q, chain, written);
	q->popped -= chain->entries;
	q->unsignalled += q->options & VIRTQ_PACKED ? chain->entries : 1;
}

bool virtq_should_call(struct virtq *q)
{
	bool call;

	if (!q->unsignalled)
		return false;
	full_fence(); /* our used entries before we read the driver's suppression: pairs with its fence in enable_calls */
	call = q->options & VIRTQ_PACKED ? virtq_packed_should_call(q) : virtq_split_should_call(q);
	q->unsignalled = 0;
	q->counters.calls_wanted += call;
	return call;
}

bool virtq_enable_kicks(struct virtq *q)
{
	if (q->error)
		return false;
	return q->options & VIRTQ_PACKED ? virtq_packed_enable_kicks(q) : virtq_split_enable_kicks(q);
}

void virtq_disable_kicks(struct virtq *q)
{
	if (q->options & VIRTQ_PACKED)
		store_relaxed(&q->device_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_DISABLE);
	else if (!(q->options & VIRTQ_EVENT_IDX))
		store_relaxed(&q->used->flags, (uint16_t)VRING_USED_F_NO_NOTIFY);
	/* split with EVENT_IDX: avail_event stays behind, which asks for no kick */
}
