/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Finding guest memory: GPA and length to HVA, copies, dirty marks. Any thread, no locks.
 *
 * CPU engines call this while the guest's vector state is in the host's registers, so this file is built without
 * vector registers and copies with REP MOVSB, not memcpy().
 */
#include "memory/memory.h"

#include <errno.h>

static struct mem_slot *find_in(const struct mem_table *table, gpa_t gpa)
{
	unsigned low = 0, high = table ? table->count : 0;

	while (low < high) {
		unsigned mid = (low + high) / 2;
		struct mem_slot *slot = table->slot[mid];

		if (gpa < slot->gpa)
			high = mid;
		else if (gpa - slot->gpa >= slot->size)
			low = mid + 1;
		else
			return slot;
	}
	return NULL;
}

static struct mem_slot *find_now(struct memory *mem, gpa_t gpa)
{
	/* Acquire: pairs with the release in slots.c replace(). */
	return find_in(atomic_load_explicit(&mem->table, memory_order_acquire), gpa);
}

struct mem_slot *memory_find(struct memory *mem, gpa_t gpa)
{
	struct mem_slot *slot = find_now(mem, gpa);

	while (!slot && mem->miss && mem->miss(mem->miss_opaque, gpa, MEM_READ))
		slot = find_now(mem, gpa);
	return slot;
}

void mem_mark_dirty(struct mem_slot *slot, uint64_t offset, uint64_t len)
{
	if (!slot->dirty || !len)
		return;
	for (uint64_t page = offset / PAGE_SIZE; page <= (offset + len - 1) / PAGE_SIZE; page++) {
		uint64_t bit = 1ull << (page % 64);

		if (!(__atomic_load_n(&slot->dirty[page / 64], __ATOMIC_RELAXED) & bit))
			__atomic_fetch_or(&slot->dirty[page / 64], bit, __ATOMIC_SEQ_CST);
	}
}

static void *at_in_slot(struct mem_slot *slot, gpa_t gpa, uint64_t len, enum mem_access access)
{
	uint64_t offset = gpa - slot->gpa;

	if (!len || len > slot->size - offset)
		return NULL;
	if (slot->suspect && !mem_is_backed(slot, offset, len, access))
		return NULL;
	if (access == MEM_WRITE) {
		if (slot->flags & SLOT_READONLY)
			return NULL;
		mem_mark_dirty(slot, offset, len);
	}
	return slot->hva + offset;
}

/* Ask for what is missing of the range, from its start on, until it is all there or some of it cannot be had. */
static void *at_after_misses(struct memory *mem, gpa_t gpa, uint64_t len, enum mem_access access)
{
	for (;;) {
		struct mem_slot *slot = find_now(mem, gpa);
		void *hva = slot ? at_in_slot(slot, gpa, len, access) : NULL;
		gpa_t missing = slot && !(access == MEM_WRITE && slot->flags & SLOT_READONLY) ? slot->gpa + slot->size : gpa;

		if (hva)
			return hva;
		if (missing - gpa >= len || !mem->miss(mem->miss_opaque, missing, access))
			return NULL;
	}
}

void *mem_at(struct memory *mem, gpa_t gpa, uint64_t len, enum mem_access access)
{
	struct mem_slot *slot = find_now(mem, gpa);
	void *hva = slot ? at_in_slot(slot, gpa, len, access) : NULL;

	return hva || !mem->miss ? hva : at_after_misses(mem, gpa, len, access);
}

static void copy_bytes(void *to, const void *from, uint64_t len)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
}

/* Copy slot by slot: `buf` is the other side, read from when `access` is MEM_WRITE. */
static int copy(struct memory *mem, gpa_t gpa, uint8_t *buf, uint64_t len, enum mem_access access)
{
	while (len) {
		struct mem_slot *slot = memory_find(mem, gpa);
		uint64_t room = slot ? slot->size - (gpa - slot->gpa) : 0;
		uint64_t step = len < room ? len : room;
		void *hva = slot ? at_in_slot(slot, gpa, step, access) : NULL;

		if (!hva)
			return -EFAULT;
		if (access == MEM_WRITE)
			copy_bytes(hva, buf, step);
		else
			copy_bytes(buf, hva, step);
		gpa += step;
		buf += step;
		len -= step;
	}
	return 0;
}

int mem_read(struct memory *mem, gpa_t gpa, void *buf, uint64_t len)
{
	return copy(mem, gpa, buf, len, MEM_READ);
}

int mem_write(struct memory *mem, gpa_t gpa, const void *buf, uint64_t len)
{
	return copy(mem, gpa, (uint8_t *)(uintptr_t)buf, len, MEM_WRITE);
}
