// SPDX-License-Identifier: BSD-2-Clause
/*
 * Finding, making, linking and killing blocks.
 *
 * A block belongs to a code view: one guest-physical page, seen at one linear address in one flavour (mode and usable
 * units; base and limit of CS where they matter). Views have ids; the MMU's instruction TLB says which view is current at a linear page, and drops that word
 * with the translation. So an address-space switch keeps all blocks, and a block can be entered from anywhere through
 * `checked`, which compares one word.
 *
 * A block whose first instruction crosses the page has that instruction alone and belongs to two views; all its
 * entries check both.
 *
 * Links inside a page jump to `straight` or `saved`, which check nothing: same page, same view. Links to other
 * pages and the jump cache use `checked`.
 *
 * Death. A block whose bytes changed loses its links and its id (the constant in `checked` becomes one that no view has),
 * so nobody enters it any more; who is inside goes on to its end, which the architecture allows for other
 * processors, and the vCPU that stored leaves the block right after the storing instruction (see handlers.c).
 */
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/translate.h"

enum { NO_VIEW = 0xffffffff };

static struct code_view **view_bucket(struct translator *t, gpa_t gpa)
{
	return &t->views[(gpa >> PAGE_SHIFT) * 0x9e3779b1u >> 7 & (VIEW_HASH - 1)];
}

/* A page of code as the fetch found it, and as what kind of code. */
struct fetched {
	gva_t va;
	gpa_t gpa;
	const uint8_t *hva;
	uint32_t flavour, cs_base, cs_limit;
};

static struct code_view **exact_bucket(struct translator *t, gpa_t gpa, gva_t va)
{
	return &t->exact[((gpa >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull + (va >> PAGE_SHIFT) * 0xd6e8feb86659fd93ull) >> 40 &
			 (EXACT_HASH - 1)];
}

static struct code_view *view_find(struct translator *t, const struct fetched *f)
{
	for (struct code_view *w = *exact_bucket(t, f->gpa, f->va); w; w = w->exact_next)
		if (w->gpa == f->gpa && w->va == f->va && w->flavour == f->flavour && w->hva == f->hva &&
		    w->cs_base == f->cs_base && w->cs_limit == f->cs_limit)
			return w;
	return NULL;
}

static void view_free(struct translator *t, struct code_view *w)
{
	struct code_view **p = view_bucket(t, w->gpa), **exact = exact_bucket(t, w->gpa, w->va);

	while (*p != w)
		p = &(*p)->hash_next;
	*p = w->hash_next;
	while (*exact != w)
		exact = &(*exact)->exact_next;
	*exact = w->exact_next;
	w->hash_next = t->free_views;
	t->free_views = w;
}

void view_put(struct translator *t, struct code_view *w)
{
	if (!--w->refs)
		view_free(t, w);
}

void view_forget_crossing(struct translator *t, struct code_view *w, struct block *b)
{
	uint32_t *p = &w->crossing;

	while (*p && block_at(t, *p) != b)
		p = &block_at(t, *p)->crossing_next;
	if (*p)
		*p = b->crossing_next;
}

static struct code_view *view_new(struct translator *t, const struct fetched *f)
{
	struct code_view **bucket = view_bucket(t, f->gpa), **exact = exact_bucket(t, f->gpa, f->va), *w = t->free_views;

	if (w)
		t->free_views = w->hash_next;
	else if (t->view_pool_used < VIEW_POOL)
		w = &t->view_pool[t->view_pool_used++];
	else
		return NULL;
	*w = (struct code_view){ 0 };
	w->va = f->va;
	w->gpa = f->gpa;
	w->hva = f->hva;
	w->flavour = f->flavour;
	w->cs_base = f->cs_base;
	w->cs_limit = f->cs_limit;
	w->id = ++t->next_id;
	w->hash_next = *bucket;
	*bucket = w;
	w->exact_next = *exact;
	*exact = w;
	return w;
}

static uint32_t *block_bucket(struct code_view *w, unsigned offset)
{
	return &w->blocks[(offset ^ offset >> 6) & 63];
}

static struct block *block_find(struct translator *t, struct code_view *w, struct code_view *second, unsigned offset, bool plain)
{
	for (struct block *b = block_at(t, *block_bucket(w, offset)); b; b = block_at(t, b->next))
		if (b->offset == offset && b->view2 == second && b->plain == plain)
			return b;
	return NULL;
}

bool block_is_at(struct translator *t, struct code_view *w, unsigned offset)
{
	return block_find(t, w, NULL, offset, false);
}

/* --- making --- */

/* A signal handler looks into the order: the block is there before it counts. */
static void order_add(struct region *r, uint32_t b)
{
	uint32_t n = atomic_load_explicit(&r->order_count, memory_order_relaxed);

	r->order[n] = b;
	atomic_store_explicit(&r->order_count, n + 1, memory_order_release); /* pairs with block_by_code() */
}

/* The block is whole: let it be found. */
static void publish(struct translator *t, struct block *b, struct code_view *second)
{
	struct code_view *w = b->view;

	order_add(t->filling, arena_offset(t, b));
	w->refs++;
	b->next = *block_bucket(w, b->offset);
	*block_bucket(w, b->offset) = arena_offset(t, b);
	if (second) {
		second->refs++;
		b->crossing_next = second->crossing;
		second->crossing = arena_offset(t, b);
	}
	t->blocks++;
	atomic_fetch_add_explicit(&t->published, 1, memory_order_release); /* pairs with named() in handlers.c */
}

/* NULL: no room (*full), or the first instruction needs the interpreter: it is none, or more than there ever is room for. */
static struct block *block_make(struct vcpu *v, struct translator *t, struct code_view *w, struct code_view *second,
				unsigned offset, bool plain, bool *full)
{
	struct block *b;
	struct xlat x;

	*full = !region_fill(t, w, offset);
	if (*full || !(b = arena_alloc(t, sizeof(*b), 8)))
		return NULL;
	b->view = w;
	b->offset = offset & 4095;
	x.t = t;
	x.v = v;
	x.block = b;
	x.view = w;
	x.faults = x.sites = 0;
	x.overflow = x.ended = false;
	x.word = (w->flavour & FLAVOUR_MODE) == MODE_64 ? 8 : 4;
	x.segmented = w->flavour & FLAVOUR_SEGMENTED;
	b->view2 = second;
	b->plain = plain;
	if (second ? !superblock_decode_crossing(&x, (uint16_t)offset) : !superblock_decode(&x, (uint16_t)offset))
		return NULL;
	liveness_compute(&x);
	codecache_begin(&t->cache, &t->filling->space, &x.hot, &x.cold, BLOCK_ROOM);
	b->cold_start = (uint32_t)(x.cold.p - t->cache.rw);
	copy_prepare(t, &x);
	if (!translate_block(&x) || t->filling->used - arena_offset(t, b) > MOST_DESCRIPTION)
		return NULL;
	codecache_commit(&t->cache, &t->filling->space, &x.hot, &x.cold);
	copy_note(t, &x);
	publish(t, b, second);
	return b;
}

/* The same bytes of the same page as the same kind of code may have been translated for another linear address. */
static struct block *copy_made_elsewhere(struct vcpu *v, struct translator *t, struct code_view *w, unsigned offset, bool plain, bool *full)
{
	struct block *b = NULL;

	if (!copy_is_possible(t, w))
		return NULL;
	for (const struct code_view *other = *view_bucket(t, w->gpa); other && !b; other = other->hash_next)
		if (other != w && other->gpa == w->gpa && other->hva == w->hva && other->flavour == w->flavour && copy_is_possible(t, other))
			b = block_find(t, (struct code_view *)other, NULL, offset, plain);
	if (!b || !b->reloc_count)
		return NULL;
	*full = !region_fill(t, w, offset);
	b = *full ? NULL : block_copy(v, t, b, w);
	if (b) {
		publish(t, b, NULL);
		t->copies++;
	}
	return b;
}

static struct code_view *view_get(struct translator *t, const struct fetched *f)
{
	struct code_view *w = view_find(t, f);

	return w ? w : view_new(t, f);
}

static void view_free_unused(struct translator *t, struct code_view *w)
{
	if (w && !w->refs)
		view_free(t, w);
}

/* Under the lock. `second` is not NULL for an instruction that crosses from `first` to it. */
static struct block *find_or_make(struct vcpu *v, struct translator *t, unsigned offset, const struct fetched *first,
				  const struct fetched *second, bool plain)
{
	struct code_view *w = view_get(t, first), *w2 = second ? view_get(t, second) : NULL;
	struct block *b = NULL;
	bool full = true;

	if (w && (w2 || !second)) {
		b = block_find(t, w, w2, offset, plain);
		if (!b && !w2)
			b = copy_made_elsewhere(v, t, w, offset, plain, &full);
		if (!b)
			b = block_make(v, t, w, w2, offset, plain, &full);
	}
	if (!b) {
		view_free_unused(t, w);
		view_free_unused(t, w2);
		if (full)
			t->want_flush = true;
		return NULL;
	}
	v->itlb[itlb_slot(w->va)] = w->id;
	if (w2)
		v->itlb[itlb_slot(w2->va)] = w2->id;
	return b;
}

static bool fetch(struct vcpu *v, gva_t va, struct fetched *f)
{
	bool segmented;

	f->va = va & PAGE_MASK;
	f->hva = mmu_fetch_page(v, va, &f->gpa);
	f->flavour = v->itlb[ITLB_FLAVOUR];
	segmented = f->flavour & FLAVOUR_SEGMENTED;
	f->cs_base = segmented ? v->itlb[ITLB_CS_BASE] : 0;
	f->cs_limit = segmented ? v->itlb[ITLB_CS_LIMIT] : 0xffffffff;
	return f->hva;
}

/*
 * Without the lock: that a block dies meanwhile is as if it had died right after it was entered. Its id in the
 * instruction TLB does no harm, as a dead block has none.
 */
bool block_is_current(struct vcpu *v, const struct block *b)
{
	const struct code_view *w = b->view;
	struct fetched now;

	v->insn_rip = v->rip;
	flavour_note(v);
	if (b->view2 || b->plain || w->flavour != v->itlb[ITLB_FLAVOUR] || w->flavour & FLAVOUR_SEGMENTED)
		return false;
	if (!fetch(v, w->va + b->offset, &now) || now.gpa != w->gpa || now.hva != w->hva || __atomic_load_n(&b->dead, __ATOMIC_RELAXED))
		return false;
	v->itlb[itlb_slot(w->va)] = w->id;
	return true;
}

static struct block *get(struct vcpu *v, gva_t rip, bool plain)
{
	struct translator *t = translator_of(v);
	struct fetched first, second;
	struct block *b;
	gva_t va = linear_rip(v, rip);
	bool crosses;

	v->rip = v->insn_rip = rip;
	flavour_note(v);
	if (!fetch(v, va, &first))
		return NULL;
	crosses = crosses_page(first.hva, va & 4095, v->mode);
	if (crosses && v->mode != MODE_64 && first.va == 0xfffff000)
		return NULL; /* goes on at 0 */
	if (crosses && (!is_canonical(v, first.va + PAGE_SIZE) || !fetch(v, first.va + PAGE_SIZE, &second)))
		return NULL;
	translator_lock(t, v);
	b = find_or_make(v, t, va & 4095, &first, crosses ? &second : NULL, plain);
	translator_unlock(t);
	return b;
}

struct block *block_get(struct vcpu *v, gva_t rip)
{
	return get(v, rip, false);
}

struct block *block_get_plain(struct vcpu *v, gva_t rip)
{
	return get(v, rip, true);
}

/* --- linking --- */

/* The four bytes lie in one quadword (emit_align_patch): a vCPU that runs there sees the old or the new ones. */
static void patch32(struct translator *t, uint32_t at, uint32_t value)
{
	uint64_t *quad = (uint64_t *)(t->cache.rw + (at & ~7u)), mask = 0xffffffffull << at % 8 * 8;

	__atomic_store_n(quad, (*quad & ~mask) | (uint64_t)value << at % 8 * 8, __ATOMIC_RELEASE);
}

static void patch_rel32(struct translator *t, uint32_t at, const uint8_t *target)
{
	patch32(t, at, (uint32_t)(target - (t->cache.rx + at + 4)));
}

static uint32_t entry_of(const struct block *b, enum link_entry entry)
{
	return entry == LINK_STRAIGHT ? block_straight(b) : entry == LINK_SAVED ? b->code_start + b->saved : block_checked(b);
}

void block_link(struct translator *t, struct link *l, struct block *to)
{
	const struct block *from = link_block(l);

	if (l->to || from->dead || to->dead)
		return;
	if (l->entry != LINK_CHECKED && from->view != to->view)
		return;
	l->to = arena_offset(t, to);
	l->in_next = to->in;
	l->in_prev = 0;
	to->in = arena_offset(t, l);
	if (l->in_next)
		link_at(t, l->in_next)->in_prev = to->in;
	patch_rel32(t, link_rel32(l), t->cache.rx + entry_of(to, l->entry));
	t->links++;
}

void link_cut(struct translator *t, struct link *l)
{
	if (!l->to)
		return;
	if (l->in_prev)
		link_at(t, l->in_prev)->in_next = l->in_next;
	else
		((struct block *)arena_at(t, l->to))->in = l->in_next;
	if (l->in_next)
		link_at(t, l->in_next)->in_prev = l->in_prev;
	l->to = 0;
}

static void unlink_incoming(struct translator *t, struct block *b)
{
	uint32_t next;

	for (struct link *l = link_at(t, b->in); l; l = link_at(t, next)) {
		next = l->in_next;
		l->to = l->in_next = l->in_prev = 0;
		patch_rel32(t, link_rel32(l), t->cache.rx + link_stub(l));
	}
	b->in = 0;
}

/* --- killing --- */

static void block_kill(struct translator *t, struct block *b)
{
	__atomic_store_n(&b->dead, true, __ATOMIC_RELAXED);
	patch32(t, b->code_start + b->id_at, NO_VIEW);
	unlink_incoming(t, b);
	t->invalidated++;
}

static uint64_t grains_of(unsigned offset, uint64_t len)
{
	unsigned first = offset / 64, last = (unsigned)((offset + len - 1) / 64);

	return (~0ull << first) & (~0ull >> (63 - last));
}

static void bucket_remove(struct translator *t, struct block *b)
{
	uint32_t *p = block_bucket(b->view, b->offset);

	while (*p != arena_offset(t, b))
		p = &block_at(t, *p)->next;
	*p = b->next;
}

void block_remove(struct translator *t, struct block *b)
{
	__atomic_store_n(&b->dead, true, __ATOMIC_RELAXED);
	bucket_remove(t, b);
	unlink_incoming(t, b);
}

static void view_invalidate(struct translator *t, struct code_view *w, uint64_t grains)
{
	for (struct block *b = block_at(t, grains & 1 ? w->crossing : 0); b; b = block_at(t, b->crossing_next))
		if (!b->dead) {
			bucket_remove(t, b);
			block_kill(t, b);
		}
	if (grains & 1)
		w->crossing = 0;
	for (unsigned k = 0; k < sizeof(w->blocks) / sizeof(w->blocks[0]); k++)
		for (uint32_t *p = &w->blocks[k]; *p;) {
			struct block *b = block_at(t, *p);

			if (b->grains & grains) {
				*p = b->next;
				block_kill(t, b);
			} else {
				p = &b->next;
			}
		}
}

/* A vCPU may be going round in a dead block that is its own loop: have it come out and look. */
static void bring_out_others(struct vm *vm, struct vcpu *self)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	for (unsigned k = 0; k < count; k++)
		if (vm->vcpu[k] && vm->vcpu[k] != self)
			vcpu_call_out(vm->vcpu[k]);
}

void blocks_invalidate(struct vm *vm, struct vcpu *self, gpa_t gpa, uint64_t len, struct code_change *change)
{
	struct translator *t = vm->engine_data;
	uint64_t dead;

	translator_lock(t, self);
	dead = t->invalidated;
	while (len) {
		gpa_t page = gpa & PAGE_MASK;
		uint64_t part = PAGE_SIZE - (gpa - page);

		if (part > len)
			part = len;
		for (struct code_view *w = *view_bucket(t, page); w; w = w->hash_next)
			if (w->gpa == page)
				view_invalidate(t, w, grains_of((unsigned)(gpa - page), part));
		gpa += part;
		len -= part;
	}
	dead = t->invalidated - dead;
	if (change)
		code_change_done(change);
	translator_unlock(t);
	if (dead)
		bring_out_others(vm, self);
}

static unsigned ungrouped_bit(const struct block *b)
{
	return ((b->view->gpa + b->offset) * 0x9e3779b97f4a7c15ull) >> 40 & (UNGROUPED_BITS - 1);
}

bool is_ungrouped(const struct translator *t, const struct block *b)
{
	unsigned bit = ungrouped_bit(b);

	return t->ungrouped[bit / 8] >> (bit % 8) & 1;
}

void block_ungroup(struct vcpu *v, struct block *b)
{
	struct translator *t = translator_of(v);
	unsigned bit = ungrouped_bit(b);

	translator_lock(t, v);
	if (!b->dead && !b->view2) {
		t->ungrouped[bit / 8] |= (uint8_t)(1u << (bit % 8));
		bucket_remove(t, b);
		block_kill(t, b);
	}
	translator_unlock(t);
}

struct block *block_by_code(struct translator *t, uint32_t at)
{
	const struct region *r = region_of_code(t, at);
	struct block *b;
	uint32_t low = 0, count = r ? atomic_load_explicit(&r->order_count, memory_order_acquire) : 0, high = count;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (block_code_end(block_at(t, r->order[mid])) <= at)
			low = mid + 1;
		else
			high = mid;
	}
	b = low < count ? block_at(t, r->order[low]) : NULL;
	return b && b->code_start <= at ? b : NULL;
}
