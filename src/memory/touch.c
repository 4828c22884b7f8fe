/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first use of a slot's memory. Left to the kernel, guest RAM comes page by page, each by a fault in the middle of the
 * guest's work; on a host that is itself virtualized that costs 10 to 20 microseconds. So the engine says when it enters a page into
 * its TLB, and the 2 MiB around it come at once as a huge page. Where the host gives none that is the end of it: pages then come as
 * they are touched.
 *
 * CPU engines come here, so no vector registers.
 */
#include "memory/touch.h"

#include <errno.h>
#include <stdlib.h>

#include "memory/backing.h"

/* Of the whole huge pages inside the slot: the address of the first, and how many. */
static uint8_t *first_huge(const struct mem_slot *slot, uint64_t *count)
{
	uint8_t *first = slot->hva + (-(uintptr_t)slot->hva & (HUGE_PAGE - 1)), *end = slot->hva + slot->size;

	*count = first < end ? (uint64_t)(end - first) / HUGE_PAGE : 0;
	return first;
}

int mem_watch_touches(struct mem_slot *slot)
{
	uint64_t count, words;

	first_huge(slot, &count);
	words = (count + 63) / 64;
	if (!count || slot->untouched)
		return 0;
	slot->untouched = malloc(words * sizeof(uint64_t));
	if (!slot->untouched)
		return -ENOMEM;
	for (uint64_t k = 0; k < words; k++)
		slot->untouched[k] = ~0ull;
	return 0;
}

void mem_first_touch(struct mem_slot *slot, uint64_t offset)
{
	uint64_t count, index, bit, *word;
	uint8_t *first = first_huge(slot, &count), *at = slot->hva + offset;

	if (at < first)
		return;
	index = (uint64_t)(at - first) / HUGE_PAGE;
	word = &slot->untouched[index / 64];
	bit = 1ull << index % 64;
	if (index >= count || !(__atomic_load_n(word, __ATOMIC_RELAXED) & bit))
		return;
	if (__atomic_fetch_and(word, ~bit, __ATOMIC_RELAXED) & bit && !backing_make_huge(first + index * HUGE_PAGE))
		for (uint64_t k = 0; k < (count + 63) / 64; k++)
			__atomic_store_n(&slot->untouched[k], 0, __ATOMIC_RELAXED);
}

void memory_fill_ahead(struct memory *mem, gpa_t gpa, uint64_t len)
{
	uint8_t *at = len ? mem_at(mem, gpa, len, MEM_READ) : NULL;
	uint64_t first, last, count;
	uint8_t *start;

	if (!at)
		return;
	start = first_huge(memory_find(mem, gpa), &count);
	if (at + len <= start)
		return;
	first = at < start ? 0 : (uint64_t)(at - start) / HUGE_PAGE;
	last = (uint64_t)(at + len - 1 - start) / HUGE_PAGE;
	for (uint64_t k = first; k <= last && k < count; k++)
		if (!backing_make_huge(start + k * HUGE_PAGE))
			return;
}
