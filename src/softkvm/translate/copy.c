// SPDX-License-Identifier: BSD-2-Clause
/*
 * Copies of blocks for another linear address of the same page.
 *
 * A shared library, or a program that may lie anywhere, is mapped elsewhere in every process, and blocks belong to one
 * linear address: their code has addresses relative to RIP as constants. So a system that starts programs all the time would
 * translate the same bytes over and over. Instead the block of the other address is copied, hot and cold code and all that
 * describes it in the arena, and what depends on the place is mended: a list of that is kept with each block
 * (struct reloc). This costs about a tenth of a translation.
 *
 * Only 64-bit code in the middle of the user's half is copied: there addresses near the code are never so small, or negative,
 * that they would have been encoded otherwise, and no branch from it leaves what is canonical. The bytes are the same because the block
 * lives: it would have been killed with them.
 */
#include "base/bytes.h"
#include "softkvm/translate/translate.h"

enum { REACH_SHIFT = 33 };
#define USER_END (1ull << 47)

bool copy_is_possible(const struct translator *t, const struct code_view *w)
{
	return (w->flavour & FLAVOUR_MODE) == MODE_64 && !t->lockstep && w->va >= 1ull << REACH_SHIFT &&
	       w->va < USER_END - (1ull << REACH_SHIFT);
}

void copy_prepare(struct translator *t, struct xlat *x)
{
	t->relocs.piece[0] = emit_here(&x->hot);
	t->relocs.piece[1] = emit_here(&x->cold);
	t->relocs.room = BLOCK_ROOM;
	t->relocs.count = 0;
	t->relocs.incomplete = x->block->view2 || !copy_is_possible(t, x->view);
	if (!t->relocs.incomplete)
		x->hot.log = x->cold.log = &t->relocs;
}

void copy_note(struct translator *t, struct xlat *x)
{
	struct block *b = x->block;
	unsigned size = t->relocs.count * (unsigned)sizeof(struct reloc);
	struct reloc *relocs;

	relocs = t->relocs.incomplete ? NULL : arena_alloc(t, size, 4);
	if (!relocs)
		return;
	copy_bytes(relocs, t->relocs.reloc, size);
	b->relocs = (uint16_t)thing_of(b, relocs);
	b->reloc_count = (uint16_t)t->relocs.count;
	b->description = (uint16_t)thing_of(b, t->arena.base + t->filling->used);
}

/* How far everything moves; offsets wrap. */
struct shift {
	uint32_t hot, cold, arena;
	uint64_t va;
};

static void mend(const struct translator *t, const struct shift *s, struct block *b, const struct reloc *r)
{
	uint32_t here = r->cold ? s->cold : s->hot;
	uint8_t *at = t->cache.rw + (r->cold ? b->cold_start : b->code_start & ~15u) + r->at;

	switch (r->kind) {
	case RELOC_TO_HOT:
		put_le32(at, get_le32(at) + s->hot - here);
		break;
	case RELOC_TO_COLD:
		put_le32(at, get_le32(at) + s->cold - here);
		break;
	case RELOC_TO_FIXED:
		put_le32(at, get_le32(at) - here);
		break;
	case RELOC_NAME:
		put_le32(at, get_le32(at) + s->arena);
		break;
	case RELOC_VA:
		put_le64(at, get_le64(at) + s->va);
		break;
	case RELOC_SLOT:
		put_le32(at, itlb_slot(b->view->va) * 4);
		break;
	}
}

/* A link of the original may be made: the copy's jump goes to its stub again. */
static void mend_link(const struct translator *t, struct link *l)
{
	uint32_t rel32 = link_rel32(l);

	l->to = l->in_next = l->in_prev = 0;
	put_le32(t->cache.rw + rel32, link_stub(l) - (rel32 + 4));
}

static void mend_description(const struct shift *s, struct block *b, struct code_view *w)
{
	b->view = w;
	b->next = b->crossing_next = b->in = 0;
	b->code_start += s->hot;
	b->cold_start += s->cold;
	b->group_failures = 0;
}

/* The original's grains are watched; that they still are is for the page's record to say. */
static void watch_grains(struct vcpu *v, const struct block *b)
{
	uint32_t generation;

	for (unsigned g = 0; g < 64; g++)
		if (b->grains >> g & 1)
			code_page_watch(v, b->view->gpa + g * 64, 64, &generation);
}

struct block *block_copy(struct vcpu *v, struct translator *t, const struct block *from, struct code_view *w)
{
	unsigned description = from->description * THING;
	struct block *b = arena_alloc(t, description, 8);
	struct shift s;
	const struct reloc *relocs;
	struct emit hot, cold;

	if (!b)
		return NULL;
	codecache_begin(&t->cache, &t->filling->space, &hot, &cold, BLOCK_ROOM);
	hot.p += from->code_start & 15;
	s.hot = (uint32_t)(hot.p - t->cache.rw) - from->code_start;
	s.cold = (uint32_t)(cold.p - t->cache.rw) - from->cold_start;
	s.arena = arena_offset(t, b) - arena_offset(t, from);
	s.va = w->va - from->view->va;
	copy_bytes(b, from, description);
	copy_bytes(hot.p, t->cache.rw + from->code_start, from->code_size);
	copy_bytes(cold.p, t->cache.rw + from->cold_start, from->cold_size);
	hot.p += from->code_size;
	cold.p += from->cold_size;
	mend_description(&s, b, w);
	relocs = block_thing(b, b->relocs);
	for (unsigned k = 0; k < b->reloc_count; k++)
		mend(t, &s, b, &relocs[k]);
	for (struct link *l = block_thing(b, b->out); l; l = link_next(l))
		mend_link(t, l);
	put_le32(t->cache.rw + b->code_start + b->id_at, w->id);
	watch_grains(v, b);
	codecache_commit(&t->cache, &t->filling->space, &hot, &cold);
	return b;
}
