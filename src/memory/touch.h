/* SPDX-License-Identifier: BSD-2-Clause */
/* The first use of a slot's memory, for those who run guests in this process: see touch.c. */
#ifndef GUISE_MEMORY_TOUCH_H
#define GUISE_MEMORY_TOUCH_H

#include "memory/memory.h"

/*
 * Have each HUGE_PAGE of the slot's memory, which is shared, become a huge page when mem_touch() is first told of it. 0/-ENOMEM. No
 * look-up may be under way.
 */
int mem_watch_touches(struct mem_slot *slot);

/* Somebody is about to use this byte of the slot for the first time since long. Any thread; needs no vector registers. */
void mem_first_touch(struct mem_slot *slot, uint64_t offset);
static inline void mem_touch(struct mem_slot *slot, uint64_t offset)
{
	if (slot->untouched)
		mem_first_touch(slot, offset);
}

/*
 * [gpa, gpa + len) is about to be written as a whole: let what huge pages there can be come now, not small ones that would be
 * copied together at the guest's first touch. Only advice. Any thread.
 */
void memory_fill_ahead(struct memory *mem, gpa_t gpa, uint64_t len);

#endif
