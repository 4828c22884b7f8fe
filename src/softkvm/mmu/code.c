/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Code pages: who holds decoded code learns of every change of its bytes.
 *
 * A page of RAM of which code is made becomes watched (PRESENT): no vCPU keeps a write entry for it, so stores take
 * the slow way and end in code_written(). That compares the store with the page's marked 64-byte grains: data beside
 * code costs only the slow store; a hit tells the engine, which forgets what it made of the grain, then unmarks that
 * and changes `generation`, which makes decoded code stale. After UNWATCH_GRAINS such grains without new code the page is
 * being written anew, by a JIT compiler or as data: it is watched no longer. Nor is one that is written when no grain is
 * marked.
 *
 * Becoming watched against writers on other vCPUs: a writer's fill sets WRITABLE, then looks at PRESENT; the watcher
 * sets PRESENT and takes WRITABLE in one step. If that was set and the flags name one writer, which is the watcher, it
 * drops that entry; else it has every vCPU flush its write entries, waiting for those inside guest code. A vCPU that
 * waits here serves such requests itself, so two watchers do not wait for each other. `generation` is read before PRESENT
 * and grains are, and unwatching clears those before it counts generation up: code made of a page that is unwatched
 * meanwhile is stale.
 *
 * Devices in this process call code_written(). Those in other processes cannot: the marked grains' hash is compared
 * whenever a fetch entry is made, which happens before a remapped page can run.
 */
#include "softkvm/mmu/tlb.h"

#include "base/fence.h"
#include "memory/backing.h"
#include "softkvm/engine.h"

#include <sched.h>

enum { UNWATCH_GRAINS = 4, SPINS = 2000 };
#define WRITER_BITS (~0u << CODE_PAGE_WRITER_SHIFT)

/* --- records --- */

static uint64_t table_size(uint64_t slot_size)
{
	return (slot_size >> PAGE_SHIFT) * sizeof(struct code_page);
}

void *code_table_new(uint64_t slot_size)
{
	return backing_new(table_size(slot_size));
}

void code_table_free(void *table, uint64_t slot_size)
{
	backing_free(table, table_size(slot_size));
}

struct code_page *code_page_peek(struct mem_slot *slot, gpa_t gpa)
{
	struct code_page *table = __atomic_load_n((struct code_page **)&slot->user, __ATOMIC_ACQUIRE);

	return table ? &table[(gpa - slot->gpa) >> PAGE_SHIFT] : NULL;
}

struct code_page *code_page_of(struct mem_slot *slot, gpa_t gpa)
{
	void *none = NULL, *table;

	if (!slot->user) {
		table = code_table_new(slot->size);
		if (table && !__atomic_compare_exchange_n(&slot->user, &none, table, false, __ATOMIC_ACQ_REL,
							  __ATOMIC_ACQUIRE))
			code_table_free(table, slot->size);
	}
	return code_page_peek(slot, gpa);
}

struct code_page *code_page_find(struct vm *vm, gpa_t gpa)
{
	struct mem_slot *slot = memory_find(&vm->mem, gpa);

	return slot ? code_page_peek(slot, gpa) : NULL;
}

static void page_lock(struct code_page *page)
{
	while (atomic_fetch_or_explicit(&page->flags, CODE_PAGE_LOCKED, memory_order_acquire) & CODE_PAGE_LOCKED)
		__builtin_ia32_pause();
}

static void page_unlock(struct code_page *page)
{
	atomic_fetch_and_explicit(&page->flags, ~(uint32_t)CODE_PAGE_LOCKED, memory_order_release);
}

/* --- hash of marked grains: an exclusive-or, so that one can be added --- */

static uint64_t grain_hash(const uint8_t *page_hva, unsigned grain)
{
	const uint64_t *word = (const uint64_t *)(page_hva + (grain << GRAIN_SHIFT));
	uint64_t hash = (grain + 1) * 0x9e3779b97f4a7c15ull;

	for (int i = 0; i < 8; i++)
		hash = (hash ^ __atomic_load_n(&word[i], __ATOMIC_RELAXED)) * 0xff51afd7ed558ccdull + (hash >> 29);
	return hash;
}

static uint64_t grains_hash(const uint8_t *page_hva, uint64_t grains)
{
	uint64_t hash = 0;

	for (; grains; grains &= grains - 1)
		hash ^= grain_hash(page_hva, __builtin_ctzll(grains));
	return hash;
}

/* --- watching --- */

/* Do what others wait for this vCPU to do, while it waits itself. */
static void serve_self(struct vcpu *self)
{
	if (!(atomic_load(&self->requests) & VREQ_TLB_WRITE))
		return;
	atomic_fetch_and(&self->requests, ~(uint32_t)VREQ_TLB_WRITE);
	mmu_flush_writes(self);
}

static void wait_for(struct vcpu *other, uint64_t seen, struct vcpu *self)
{
	for (unsigned spins = 0; atomic_load(&other->tlb_flush_seen) == seen; spins++) {
		if (atomic_load(&other->run_state) != VCPU_RUNNING)
			return; /* it looks at its requests before it runs again */
		if (self)
			serve_self(self);
		if (spins < SPINS)
			__builtin_ia32_pause();
		else
			sched_yield();
	}
}

void mmu_shootdown_writes(struct vm *vm, struct vcpu *self)
{
	unsigned count = atomic_load(&vm->vcpu_count);
	uint64_t seen[VM_MAX_VCPUS];

	for (unsigned i = 0; i < count; i++) {
		struct vcpu *other = vm->vcpu[i];

		if (!other || other == self)
			continue;
		seen[i] = atomic_load(&other->tlb_flush_seen);
		/* Not vcpu_kick(): one that sleeps need not wake up for this. */
		atomic_fetch_or(&other->requests, VREQ_TLB_WRITE);
		vcpu_call_out(other);
	}
	for (unsigned i = 0; i < count; i++)
		if (vm->vcpu[i] && vm->vcpu[i] != self)
			wait_for(vm->vcpu[i], seen[i], self);
}

static uint32_t writer_bits(const struct vcpu *v, gva_t gva)
{
	return (v->index << 16 | (gva >> PAGE_SHIFT & 0xffff)) << CODE_PAGE_WRITER_SHIFT;
}

uint32_t code_page_note_writer(const struct vcpu *v, struct code_page *page, gva_t gva)
{
	uint32_t self = writer_bits(v, gva), flags = atomic_load(&page->flags), noted;

	do {
		if (!(flags & CODE_PAGE_WRITABLE))
			noted = (flags & ~WRITER_BITS) | CODE_PAGE_WRITABLE | self;
		else if ((flags & WRITER_BITS) == self || flags & CODE_PAGE_MANY_WRITERS)
			break;
		else
			noted = flags | CODE_PAGE_MANY_WRITERS;
	} while (!atomic_compare_exchange_weak(&page->flags, &flags, noted));
	return flags;
}

/* The write entries that the flags tell of must go before the page's bytes are read. */
static void drop_writers(struct vcpu *v, uint32_t flags, const uint8_t *page_hva)
{
	uint64_t page_number = flags >> CODE_PAGE_WRITER_SHIFT & 0xffff;

	if (flags & CODE_PAGE_MANY_WRITERS) {
		tlb_drop_host(v, page_hva);
	} else if (flags >> CODE_PAGE_WRITER_SHIFT >> 16 == v->index) {
		tlb_drop_host_at(v, page_hva, page_number << PAGE_SHIFT);
		return;
	}
	mmu_shootdown_writes(v->vm, v);
}

struct code_page *code_page_watch(struct vcpu *v, gpa_t gpa, unsigned len, uint32_t *generation)
{
	struct mem_slot *slot = mmu_slot(v, gpa);
	struct code_page *page = slot ? code_page_of(slot, gpa) : NULL;
	uint64_t grains = grain_mask(gpa, len), marked;
	uint8_t *page_hva;

	if (!page)
		return NULL;
	if (atomic_load(&page->hits))
		atomic_store(&page->hits, 0);
	*generation = atomic_load(&page->generation);
	marked = atomic_load(&page->grains);
	if ((atomic_load(&page->flags) & CODE_PAGE_PRESENT) && (marked & grains) == grains)
		return page;

	page_hva = slot->hva + ((gpa & PAGE_MASK) - slot->gpa);
	for (;;) {
		uint32_t flags;

		page_lock(page);
		*generation = atomic_load(&page->generation);
		marked = atomic_load(&page->grains);
		atomic_store(&page->grains, marked | grains);
		flags = atomic_fetch_or(&page->flags, CODE_PAGE_PRESENT);
		if (!(flags & CODE_PAGE_WRITABLE)) {
			page->hash ^= grains_hash(page_hva, grains & ~marked);
			page_unlock(page);
			return page;
		}
		/* Writers by old entries may still be at it: let them go, then hash what they left. */
		atomic_store(&page->grains, marked);
		atomic_fetch_and(&page->flags, ~(uint32_t)(CODE_PAGE_WRITABLE | CODE_PAGE_MANY_WRITERS));
		page_unlock(page);
		drop_writers(v, flags, page_hva);
	}
}

struct code_page *code_page_get(struct vcpu *v, gpa_t gpa)
{
	uint32_t generation;

	return code_page_watch(v, gpa & PAGE_MASK, PAGE_SIZE, &generation);
}

/* --- changes --- */

/* Under the page's lock. The caller counts generation up afterwards. */
static void unwatch_locked(struct code_page *page)
{
	atomic_store(&page->hits, 0);
	atomic_store(&page->grains, 0);
	atomic_fetch_and(&page->flags, ~(uint32_t)CODE_PAGE_PRESENT);
}

void code_change_done(struct code_change *c)
{
	page_lock(c->page);
	if (c->unwatch)
		unwatch_locked(c->page);
	else
		atomic_fetch_and(&c->page->grains, ~c->grains);
	c->page->hash = grains_hash(c->page_hva, atomic_load(&c->page->grains));
	atomic_fetch_add(&c->page->generation, 1);
	page_unlock(c->page);
}

/*
 * Bytes of these marked grains changed. Enough of it: the page is data now. The engine forgets first: were the marks gone before, a
 * vCPU that stores there would go on in what was made of the bytes before its store.
 */
static void page_changed(struct vm *vm, struct code_page *page, const uint8_t *page_hva, gpa_t gpa, uint64_t len, uint64_t grains)
{
	uint32_t count = (uint32_t)__builtin_popcountll(grains);
	struct code_change c = {page, page_hva, grains, atomic_fetch_add(&page->hits, count) + count >= UNWATCH_GRAINS};

	if (c.unwatch) {
		gpa &= PAGE_MASK;
		len = PAGE_SIZE;
	}
	if (vm->engine && vm->engine->code_changed)
		vm->engine->code_changed(vm, gpa, len, &c);
	else
		code_change_done(&c);
}

bool code_page_unwatch_unused(struct code_page *page)
{
	bool unused;

	if (atomic_load(&page->grains))
		return false;
	page_lock(page);
	unused = !atomic_load(&page->grains);
	if (unused) {
		unwatch_locked(page);
		atomic_fetch_add(&page->generation, 1);
	}
	page_unlock(page);
	return unused;
}

static void written_in_page(struct vm *vm, struct mem_slot *slot, gpa_t gpa, uint64_t len)
{
	struct code_page *page = code_page_peek(slot, gpa);
	gpa_t base = gpa & PAGE_MASK;
	uint64_t hit;

	if (!page || !(atomic_load(&page->flags) & CODE_PAGE_PRESENT) || code_page_unwatch_unused(page))
		return;
	hit = atomic_load(&page->grains) & grain_mask(gpa, len);
	if (!hit)
		return;
	page_changed(vm, page, slot->hva + (base - slot->gpa), gpa, len, hit);
}

void code_written(struct vm *vm, gpa_t gpa, uint64_t len)
{
	full_fence(); /* the store before we look at what is marked: pairs with the watcher's marking before it reads */
	while (len) {
		struct mem_slot *slot = memory_find(&vm->mem, gpa);
		uint64_t in_page = PAGE_SIZE - (gpa & ~PAGE_MASK), part = len < in_page ? len : in_page;

		if (!slot)
			return;
		written_in_page(vm, slot, gpa, part);
		gpa += part;
		len -= part;
	}
}

void code_check_hash(struct vcpu *v, struct code_page *page, gpa_t gpa, const uint8_t *page_hva)
{
	bool changed;

	if (!(atomic_load(&page->flags) & CODE_PAGE_PRESENT))
		return;
	page_lock(page);
	changed = (atomic_load(&page->flags) & CODE_PAGE_PRESENT) &&
		  grains_hash(page_hva, atomic_load(&page->grains)) != page->hash;
	page_unlock(page);
	if (!changed)
		return;
	page_changed(v->vm, page, page_hva, gpa, PAGE_SIZE, ~0ull);
}
