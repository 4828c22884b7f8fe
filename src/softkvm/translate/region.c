// SPDX-License-Identifier: BSD-2-Clause
/*
 * Room for blocks: regions that are filled one after the other and emptied as a whole, those of code in use last.
 *
 * A region is a slice of the code cache (hot and cold code) and of the arena (what describes it). Two are open at a
 * time: new blocks go into the young one, blocks that have proved to be needed into the old one. When an open region is full
 * and no free one is left, the oldest closed one is emptied for it.
 *
 * Which code is in use shows without asking it (the 2Q rule of page caches): blocks that go with their region leave a
 * trace in a filter, by hash. What is asked for again while the trace is there was in use, and is made in the old region.
 * So code in use is translated twice and then stays, while code of a program that ran for a while goes. Old regions are
 * emptied only when they are half of all, and their blocks prove themselves in the same way. Traces fade: there
 * are two filters, and every so many emptied regions the older one is cleared and takes over.
 *
 * Emptying needs all vCPUs outside (translator_flush()). Nothing may then point into the region: links from other regions
 * are cut, those of its own blocks leave their targets' lists, jump caches lose its entries, and views without blocks
 * go.
 */
#include "memory/backing.h"
#include "softkvm/translate/translate.h"

enum { ARENA_STEP = 1 << 20, ARENA_ROOM = 64 << 10, TRACE_LIFE = REGIONS / 2 };

/* --- traces of what was here --- */

/* By linear address, too: another program's copy of a library is not in use because one is. */
static uint32_t trace_hash(const struct code_view *w, unsigned offset)
{
	uint64_t x = ((w->va | offset) ^ w->gpa << 20) * 0x9e3779b97f4a7c15ull;

	return (uint32_t)(x >> 40) % TRACE_BITS;
}

static bool has_trace(const struct translator *t, const struct code_view *w, unsigned offset)
{
	uint32_t bit = trace_hash(w, offset);

	return (t->trace[0][bit / 64] | t->trace[1][bit / 64]) >> bit % 64 & 1;
}

static void leave_trace(struct translator *t, const struct block *b)
{
	uint32_t bit = trace_hash(b->view, b->offset);

	t->trace[t->fresh_trace][bit / 64] |= 1ull << bit % 64;
}

static void fade_traces(struct translator *t)
{
	if (t->flushes % TRACE_LIFE)
		return;
	t->fresh_trace ^= 1;
	for (unsigned k = 0; k < sizeof(t->ungrouped); k++)
		t->ungrouped[k] = 0;
	for (unsigned k = 0; k < TRACE_BITS / 64; k++)
		t->trace[t->fresh_trace][k] = 0;
}

/* --- memory --- */

void *arena_alloc(struct translator *t, unsigned size, unsigned alignment)
{
	struct region *r = t->filling;
	uint64_t at = (r->used + alignment - 1) & ~(uint64_t)(alignment - 1);
	uint32_t *p;

	size = (size + THING - 1) & ~(THING - 1u);
	if (at + size > r->end)
		return NULL;
	while (at + size > r->ready) {
		uint64_t step = r->end - r->ready < ARENA_STEP ? r->end - r->ready : ARENA_STEP;

		backing_populate(t->arena.base + r->ready, step);
		r->ready += step;
	}
	r->used = at + size;
	p = (uint32_t *)(t->arena.base + at);
	for (unsigned k = 0; k < size / sizeof(*p); k++)
		p[k] = 0;
	return p;
}

static void rewind_region(struct region *r)
{
	r->used = r->start;
	r->order_count = 0;
	codecache_rewind(&r->space);
}

void regions_init(struct translator *t)
{
	uint64_t slice = (t->arena.size - ARENA_FIRST) / REGIONS & ~4095ull;

	for (unsigned k = 0; k < REGIONS; k++) {
		struct region *r = &t->region[k];

		r->start = r->ready = ARENA_FIRST + k * slice;
		r->end = r->start + slice;
		r->order = t->order + k * (slice / sizeof(struct block));
		codecache_slice(&t->cache, k, REGIONS, &r->space);
		rewind_region(r);
	}
}

struct region *region_of_code(struct translator *t, uint32_t at)
{
	for (unsigned k = 0; k < REGIONS; k++)
		if (at >= t->region[k].space.hot_start && at < t->region[k].space.hot_end)
			return &t->region[k];
	return NULL;
}

/* --- opening --- */

static void open_region(struct translator *t, struct region *r, enum generation g)
{
	r->state = REGION_OPEN;
	r->generation = g;
	r->opened = ++t->regions_opened;
	if (t->open[g])
		t->open[g]->state = REGION_CLOSED;
	t->open[g] = r;
}

static struct region *free_region(struct translator *t)
{
	for (unsigned k = 0; k < REGIONS; k++)
		if (t->region[k].state == REGION_FREE)
			return &t->region[k];
	return NULL;
}

static bool has_room(struct translator *t, const struct region *r)
{
	return r && r->used + ARENA_ROOM <= r->end && codecache_has_room(&r->space, BLOCK_ROOM);
}

bool region_fill(struct translator *t, const struct code_view *w, unsigned offset)
{
	enum generation g = has_trace(t, w, offset) ? GENERATION_OLD : GENERATION_YOUNG;
	struct region *r;

	if (!has_room(t, t->open[g])) {
		r = free_region(t);
		if (!r) {
			t->wanted = g;
			return false;
		}
		open_region(t, r, g);
	}
	t->filling = t->open[g];
	return true;
}

/* --- emptying --- */

static struct region *oldest_closed(struct translator *t, enum generation g)
{
	struct region *oldest = NULL;

	for (struct region *r = t->region; r < t->region + REGIONS; r++)
		if (r->state == REGION_CLOSED && r->generation == g && (!oldest || r->opened < oldest->opened))
			oldest = r;
	return oldest;
}

static struct region *choose_victim(struct translator *t)
{
	struct region *young = oldest_closed(t, GENERATION_YOUNG), *old = oldest_closed(t, GENERATION_OLD);
	unsigned n_old = 0;

	for (struct region *r = t->region; r < t->region + REGIONS; r++)
		n_old += r->state == REGION_CLOSED && r->generation == GENERATION_OLD;
	return old && (n_old >= REGIONS / 2 || !young) ? old : young;
}

static void forget_block(struct translator *t, struct block *b)
{
	if (!b->dead) {
		leave_trace(t, b);
		block_remove(t, b);
	}
	for (struct link *l = block_thing(b, b->out); l; l = link_next(l))
		link_cut(t, l);
	view_put(t, b->view);
	if (b->view2) {
		view_forget_crossing(t, b->view2, b);
		view_put(t, b->view2);
	}
}

static void empty_region(struct translator *t, struct region *r)
{
	for (uint32_t k = 0; k < r->order_count; k++)
		forget_block(t, block_at(t, r->order[k]));
	rewind_region(r);
	r->state = REGION_FREE;
	t->flushes++;
	fade_traces(t);
}

static void jump_cache_forget(struct vcpu *v, const struct translator *t, const struct region *r)
{
	struct jump_cache_entry *e = jump_cache(v);
	const uint8_t *start = t->cache.rx + r->space.hot_start, *end = t->cache.rx + r->space.hot_end;

	for (unsigned k = 0; k < JUMP_CACHE_ENTRIES; k++)
		if (e[k].code >= start && e[k].code < end)
			jump_cache_clear_entry(e, k);
}

void regions_make_room(struct translator *t, struct vm *vm)
{
	unsigned count = atomic_load(&vm->vcpu_count);
	struct region *r = free_region(t);

	if (!r) {
		r = choose_victim(t);
		for (unsigned k = 0; k < count; k++)
			if (vm->vcpu[k] && vm->vcpu[k]->translator)
				jump_cache_forget(vm->vcpu[k], t, r);
		empty_region(t, r);
	}
	open_region(t, r, t->wanted);
}
