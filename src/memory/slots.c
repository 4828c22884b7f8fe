/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changing the table of memory slots.
 *
 * A published table is never modified: a change builds a new array, swaps the pointer and puts the old array, and
 * the slot it replaced, on the list of retired things. Readers (lookup.c) load the pointer once per look-up, so they
 * see either the old or the new table, whole. memory_quiesce() frees what is retired; only the owner can know when
 * nobody is inside a look-up any more (softkvm: all vCPUs stopped; machine: never after start-up).
 */
#include "memory/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct retired {
	struct retired *next;
	struct mem_table *table;
	struct mem_slot *slot; /* replaced or removed by that change, or NULL */
	bool dirty_too;	       /* the slot's dirty bitmap is not used by its successor */
	bool maps_too;	       /* nor the ones of pages that may be missing, and of untouched ones */
};

static struct mem_table *table_new(unsigned count)
{
	struct mem_table *table = calloc(1, sizeof(*table) + count * sizeof(table->slot[0]));

	if (table)
		table->count = count;
	return table;
}

static struct mem_table *current(struct memory *mem)
{
	return atomic_load_explicit(&mem->table, memory_order_relaxed); /* writers are serialised */
}

void memory_init(struct memory *mem)
{
	atomic_init(&mem->table, NULL);
	atomic_init(&mem->generation, 0);
	mem->retired = NULL;
	mem->miss = NULL;
}

static void slot_free(struct mem_slot *slot)
{
	if (slot) {
		free(slot->dirty);
		free(slot->suspect);
		free(slot->untouched);
	}
	free(slot);
}

void memory_quiesce(struct memory *mem)
{
	struct retired *r = mem->retired, *next;

	for (mem->retired = NULL; r; r = next) {
		next = r->next;
		if (r->slot && r->dirty_too)
			free(r->slot->dirty);
		if (r->slot && r->maps_too) {
			free(r->slot->suspect);
			free(r->slot->untouched);
		}
		free(r->slot);
		free(r->table);
		free(r);
	}
}

void memory_deinit(struct memory *mem)
{
	struct mem_table *table = current(mem);

	memory_quiesce(mem);
	for (unsigned k = 0; table && k < table->count; k++)
		slot_free(table->slot[k]);
	free(table);
	atomic_store_explicit(&mem->table, NULL, memory_order_relaxed);
}

static struct mem_slot *find_id(const struct mem_table *table, uint32_t id)
{
	for (unsigned k = 0; table && k < table->count; k++)
		if (table->slot[k]->id == id)
			return table->slot[k];
	return NULL;
}

static bool overlaps(const struct mem_table *table, const struct mem_slot *slot)
{
	for (unsigned k = 0; table && k < table->count; k++) {
		const struct mem_slot *other = table->slot[k];

		if (other->id != slot->id && slot->gpa < other->gpa + other->size && other->gpa < slot->gpa + slot->size)
			return true;
	}
	return false;
}

static bool is_aligned(const struct mem_slot *slot)
{
	return !((slot->gpa | slot->size | (uintptr_t)slot->hva) & (PAGE_SIZE - 1)) && slot->gpa + slot->size > slot->gpa;
}

/* Is `slot` a change that a live slot allows? Its pages stay where they are; only flags and GPA may differ. */
static bool can_become(const struct mem_slot *old, const struct mem_slot *slot)
{
	return slot->size == old->size && slot->hva == old->hva && !((slot->flags ^ old->flags) & SLOT_READONLY);
}

static uint64_t *bitmap_new(uint64_t size)
{
	return calloc((size / PAGE_SIZE + 63) / 64, sizeof(uint64_t));
}

int mem_suspect(struct mem_slot *slot, uint64_t offset, uint64_t len)
{
	if (!slot->suspect)
		slot->suspect = bitmap_new(slot->size);
	if (!slot->suspect)
		return -ENOMEM;
	for (uint64_t page = offset / PAGE_SIZE; len && page <= (offset + len - 1) / PAGE_SIZE; page++)
		slot->suspect[page / 64] |= 1ull << (page % 64);
	return 0;
}

/* A copy of `slot` for the table, taking over what lives on from `old`. */
static struct mem_slot *slot_new(const struct mem_slot *slot, const struct mem_slot *old)
{
	struct mem_slot *copy = malloc(sizeof(*copy));

	if (!copy)
		return NULL;
	*copy = *slot;
	copy->dirty = NULL;
	copy->suspect = old ? old->suspect : NULL;
	copy->untouched = old ? old->untouched : NULL;
	if (old && !copy->user)
		copy->user = old->user;
	if (slot->flags & SLOT_LOG_DIRTY) {
		copy->dirty = old && old->dirty ? old->dirty : bitmap_new(slot->size);
		if (!copy->dirty) {
			free(copy);
			return NULL;
		}
	}
	return copy;
}

/* Fill `table` with the slots of `from` except `without`, and with `added` at its place in GPA order. */
static void table_fill(struct mem_table *table, const struct mem_table *from, const struct mem_slot *without,
		       struct mem_slot *added)
{
	unsigned n = 0;

	for (unsigned k = 0; from && k < from->count; k++) {
		if (from->slot[k] == without)
			continue;
		if (added && added->gpa < from->slot[k]->gpa) {
			table->slot[n++] = added;
			added = NULL;
		}
		table->slot[n++] = from->slot[k];
	}
	if (added)
		table->slot[n++] = added;
}

/* Publish a table in which `added` takes the place of `old`; either may be NULL. */
static int replace(struct memory *mem, struct mem_slot *old, struct mem_slot *added)
{
	struct mem_table *from = current(mem);
	unsigned count = (from ? from->count : 0) - (old != NULL) + (added != NULL);
	struct mem_table *table = table_new(count);
	struct retired *r = calloc(1, sizeof(*r));

	if (!table || !r) {
		free(table);
		free(r);
		return -ENOMEM;
	}
	table_fill(table, from, old, added);
	*r = (struct retired){mem->retired, from, old, !added || !old || added->dirty != old->dirty, !added || !old};
	mem->retired = r;
	/* Release: pairs with the acquire in lookup.c; the new table's contents are visible before the pointer. */
	atomic_store_explicit(&mem->table, table, memory_order_release);
	/* Release, after the table: who acquires this number finds that table or a newer one. */
	atomic_fetch_add_explicit(&mem->generation, 1, memory_order_release);
	return 0;
}

int memory_set_slot(struct memory *mem, const struct mem_slot *slot)
{
	struct mem_slot *old = find_id(current(mem), slot->id), *added;
	int err;

	if (!slot->size)
		return old ? replace(mem, old, NULL) : -EINVAL;
	if (!is_aligned(slot) || (old && !can_become(old, slot)))
		return -EINVAL;
	if (overlaps(current(mem), slot))
		return -EEXIST;
	added = slot_new(slot, old);
	if (!added)
		return -ENOMEM;
	err = replace(mem, old, added);
	if (err) {
		if (!old || added->dirty != old->dirty)
			free(added->dirty);
		free(added);
	}
	return err;
}
