/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Typed access to guest virtual memory. The quick way is a TLB hit; `resolve` is the slow way for one page: walk,
 * enter the TLB if nothing stands against it, say where the bytes are and what must be told after a store.
 *
 * A write that crosses a page proves both pages before it stores anything. Accesses to no RAM go to interpret/io.c,
 * which may leave for the user and have the instruction executed again.
 */
#include "softkvm/mmu/tlb.h"

#include "base/bytes.h"
#include "memory/touch.h"
#include "softkvm/io.h"
#include "softkvm/lockstep.h"
#include "softkvm/mmu/watch.h"

#define WALK_FAULT (1u << 31)

/* Where one access within one page goes. */
struct target {
	uint8_t *hva; /* NULL: not RAM (or read-only, for a write) */
	gpa_t gpa;
	struct mem_slot *slot;
	bool notify; /* after a store: watched code page */
};

static struct tlb_set *access_set(struct vcpu *v, uint32_t access)
{
	return access & ACCESS_USER ? v->mmu->space : &v->mmu->super;
}

static uint32_t data_access(const struct vcpu *v)
{
	return v->cpl == 3 ? ACCESS_USER : 0;
}

/* Writes of a page may be entered when it is not watched as code and, if logged, already marked dirty. */
static bool may_enter_write(struct vcpu *v, gva_t gva, struct target *t)
{
	struct code_page *page = code_page_of(t->slot, t->gpa);

	if (t->slot->flags & SLOT_LOG_DIRTY)
		mem_mark_dirty(t->slot, t->gpa - t->slot->gpa, 1);
	if (!page)
		return false;
	/* Pairs with code_page_watch(): either it sees WRITABLE and has us drop the entry, or we see PRESENT. */
	t->notify = atomic_load(&page->flags) & CODE_PAGE_PRESENT || code_page_note_writer(v, page, gva) & CODE_PAGE_PRESENT;
	return !t->notify;
}

static void enter(struct vcpu *v, gva_t gva, uint32_t access, const struct walk *walk, struct target *t)
{
	uint8_t *page_hva = t->hva - (t->gpa & ~PAGE_MASK);
	struct tlb_set *set = access_set(v, access);

	if (access & ACCESS_FETCH) {
		struct code_page *page = code_page_peek(t->slot, t->gpa);

		if (page)
			code_check_hash(v, page, t->gpa & PAGE_MASK, page_hva);
		tlb_fill(v, set, TLB_FETCH, gva, walk, page_hva);
		return;
	}
	if ((access & ACCESS_IMPLICIT) && walk->user)
		return;
	if (access & ACCESS_WRITE) {
		bool allowed = may_enter_write(v, gva, t);

		if (!allowed || tlb_is_watched(v->mmu, gva))
			return;
		tlb_fill(v, set, TLB_WRITE, gva, walk, page_hva);
		return;
	}
	if (!tlb_is_watched(v->mmu, gva))
		tlb_fill(v, set, TLB_READ, gva, walk, page_hva);
}

/* Find the bytes of an access within one page; raises #PF. */
static struct target resolve(struct vcpu *v, gva_t gva, uint32_t access)
{
	struct target t = {0};
	struct walk walk;
	uint32_t error = page_walk(v, gva, access, &walk);

	if (error)
		raise_page_fault(v, gva, error & ~WALK_FAULT);
	t.gpa = walk.gpa;
	t.slot = mmu_slot(v, walk.gpa);
	if (!t.slot || ((access & ACCESS_WRITE) && (t.slot->flags & SLOT_READONLY)))
		return t;
	if (__builtin_expect(t.slot->suspect != NULL, 0) &&
	    !mem_is_backed(t.slot, walk.gpa - t.slot->gpa, 1, access & ACCESS_WRITE ? MEM_WRITE : MEM_READ))
		vcpu_leave_unbacked(v);
	mem_touch(t.slot, walk.gpa - t.slot->gpa);
	t.hva = t.slot->hva + (walk.gpa - t.slot->gpa);
	enter(v, gva, access, &walk, &t);
	return t;
}

/* Linear addresses wrap at 4 GiB outside long mode. */
static gva_t next_page(const struct vcpu *v, gva_t gva)
{
	gva = (gva & PAGE_MASK) + PAGE_SIZE;
	return v->efer & EFER_LMA ? gva : gva & 0xffffffff;
}

/* --- bytes at a known place --- */

/* One access that is neither torn nor repeated; other threads may be at the same bytes. */
static inline uint64_t load(const void *p, unsigned size)
{
	switch (size) {
	case 1:
		return __atomic_load_n((const uint8_t *)p, __ATOMIC_RELAXED);
	case 2:
		return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
	case 4:
		return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
	default:
		return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
	}
}

static inline void store(void *p, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		__atomic_store_n((uint8_t *)p, (uint8_t)value, __ATOMIC_RELAXED);
		break;
	case 2:
		__atomic_store_n((uint16_t *)p, (uint16_t)value, __ATOMIC_RELAXED);
		break;
	case 4:
		__atomic_store_n((uint32_t *)p, (uint32_t)value, __ATOMIC_RELAXED);
		break;
	default:
		__atomic_store_n((uint64_t *)p, value, __ATOMIC_RELAXED);
	}
}

static void target_read(struct vcpu *v, const struct target *t, uint8_t *buf, unsigned len)
{
	if (t->hva) {
		if (len == 1 || len == 2 || len == 4 || len == 8)
			store(buf, len, load(t->hva, len));
		else
			copy_bytes(buf, t->hva, len);
		return;
	}
	mmio_access(v, t->gpa, buf, len, false);
}

static void target_write(struct vcpu *v, const struct target *t, const uint8_t *buf, unsigned len)
{
	if (t->hva) {
		lockstep_store(v, t->hva, t->gpa, len);
		if (len == 1 || len == 2 || len == 4 || len == 8)
			store(t->hva, len, load(buf, len));
		else
			copy_bytes(t->hva, buf, len);
		if (t->notify)
			code_written(v->vm, t->gpa, len);
		return;
	}
	mmio_access(v, t->gpa, (void *)buf, len, true);
}

/* --- slow ways --- */

static void slow_read(struct vcpu *v, gva_t gva, uint8_t *buf, unsigned len, uint32_t access)
{
	unsigned first = PAGE_SIZE - (gva & ~PAGE_MASK);
	struct target t = resolve(v, gva, access);

	if (len <= first) {
		target_read(v, &t, buf, len);
	} else {
		struct target second = resolve(v, next_page(v, gva), access);

		target_read(v, &t, buf, first);
		target_read(v, &second, buf + first, len - first);
	}
	mmu_watch_hit(v, gva, len, false);
}

static void slow_write(struct vcpu *v, gva_t gva, const uint8_t *buf, unsigned len, uint32_t access)
{
	unsigned first = PAGE_SIZE - (gva & ~PAGE_MASK);
	struct target t = resolve(v, gva, access | ACCESS_WRITE);

	if (len <= first) {
		target_write(v, &t, buf, len);
	} else {
		struct target second = resolve(v, next_page(v, gva), access | ACCESS_WRITE);

		target_write(v, &t, buf, first);
		target_write(v, &second, buf + first, len - first);
	}
	mmu_watch_hit(v, gva, len, true);
}

/* --- public --- */

uint64_t mmu_read(struct vcpu *v, gva_t gva, unsigned size)
{
	const void *p = tlb_lookup(v->tlb[TLB_READ], v->tlb_mask, gva, size);
	uint64_t value = 0;

	if (__builtin_expect(p != NULL, 1))
		return load(p, size);
	slow_read(v, gva, (uint8_t *)&value, size, data_access(v));
	return value;
}

void mmu_write(struct vcpu *v, gva_t gva, unsigned size, uint64_t value)
{
	void *p = tlb_lookup(v->tlb[TLB_WRITE], v->tlb_mask, gva, size);

	if (__builtin_expect(p != NULL, 1))
		store(p, size, value);
	else
		slow_write(v, gva, (uint8_t *)&value, size, data_access(v));
}

void mmu_read_bytes(struct vcpu *v, gva_t gva, void *buf, unsigned len)
{
	const void *p = tlb_lookup(v->tlb[TLB_READ], v->tlb_mask, gva, len);

	if (p)
		copy_bytes(buf, p, len);
	else
		slow_read(v, gva, buf, len, data_access(v));
}

void mmu_write_bytes(struct vcpu *v, gva_t gva, const void *buf, unsigned len)
{
	void *p = tlb_lookup(v->tlb[TLB_WRITE], v->tlb_mask, gva, len);

	if (p)
		copy_bytes(p, buf, len);
	else
		slow_write(v, gva, buf, len, data_access(v));
}

/* With SMAP and AC set the supervisor set may hold user pages, which implicit accesses must not reach. */
static bool may_probe_sys(const struct vcpu *v)
{
	return !(v->cr4 & CR4_SMAP) || !(v->rflags & FLAG_AC);
}

uint64_t mmu_read_sys(struct vcpu *v, gva_t gva, unsigned size)
{
	struct tlb_set *set = &v->mmu->super;
	const void *p = may_probe_sys(v) ? tlb_lookup(set->table[TLB_READ], set->mask, gva, size) : NULL;
	uint64_t value = 0;

	if (p)
		return load(p, size);
	slow_read(v, gva, (uint8_t *)&value, size, ACCESS_IMPLICIT);
	return value;
}

void mmu_write_sys(struct vcpu *v, gva_t gva, unsigned size, uint64_t value)
{
	struct tlb_set *set = &v->mmu->super;
	void *p = may_probe_sys(v) ? tlb_lookup(set->table[TLB_WRITE], set->mask, gva, size) : NULL;

	if (p)
		store(p, size, value);
	else
		slow_write(v, gva, (uint8_t *)&value, size, ACCESS_IMPLICIT);
}

void *mmu_host_ptr(struct vcpu *v, gva_t gva, unsigned size, bool write, bool *needs_notify)
{
	enum tlb_kind kind = tlb_data_kind(write);
	void *p = tlb_lookup(v->tlb[kind], v->tlb_mask, gva, size);
	struct target t;

	*needs_notify = false;
	if (p)
		return p;
	if ((gva & ~PAGE_MASK) + size > PAGE_SIZE)
		return NULL;
	t = resolve(v, gva, data_access(v) | (write ? ACCESS_WRITE : 0));
	*needs_notify = t.notify || tlb_is_watched(v->mmu, gva);
	if (!write && *needs_notify)
		mmu_watch_hit(v, gva, size, false);
	if (write && t.hva)
		lockstep_store(v, t.hva, t.gpa, size);
	return t.hva;
}

void mmu_host_written(struct vcpu *v, gva_t gva, unsigned size)
{
	struct target t = resolve(v, gva, data_access(v) | ACCESS_WRITE);

	if (t.notify)
		code_written(v->vm, t.gpa, size);
	mmu_watch_hit(v, gva, size, true);
}

void *mmu_store_beside_code(struct vcpu *v, gva_t gva, unsigned size)
{
	struct code_page *page;

	if ((gva & ~PAGE_MASK) + size > PAGE_SIZE)
		return NULL;
	if ((gva & PAGE_MASK) != v->beside.tag) {
		struct target t = resolve(v, gva, data_access(v) | ACCESS_WRITE);

		if (!t.hva || !t.notify || tlb_is_watched(v->mmu, gva))
			return NULL;
		v->beside.host = (uint64_t)(t.hva - (t.gpa & ~PAGE_MASK));
		v->beside.page = code_page_of(t.slot, t.gpa);
		v->beside.tag = gva & PAGE_MASK;
	}
	page = v->beside.page;
	/* As if there were a write entry: who marks a grain from here on has us reach a boundary before it reads. */
	if (!(code_page_note_writer(v, page, gva) & CODE_PAGE_PRESENT) || code_page_unwatch_unused(page)) { /* the slow way makes an entry */
		tlb_drop_stack(v);
		return NULL;
	}
	if (atomic_load(&page->grains) & grain_mask(gva, size))
		return NULL;
	return (void *)(v->beside.host + (gva & ~PAGE_MASK));
}

void mmu_probe(struct vcpu *v, gva_t gva, unsigned len, bool write)
{
	enum tlb_kind kind = tlb_data_kind(write);
	uint32_t access = data_access(v) | (write ? ACCESS_WRITE : 0);

	if (tlb_lookup(v->tlb[kind], v->tlb_mask, gva, len))
		return;
	resolve(v, gva, access);
	if ((gva & ~PAGE_MASK) + len > PAGE_SIZE)
		resolve(v, next_page(v, gva), access);
}

const uint8_t *mmu_fetch_page(struct vcpu *v, gva_t gva, gpa_t *gpa)
{
	struct tlb_set *set = v->cpl == 3 ? v->mmu->space : &v->mmu->super;
	struct tlb_entry *e = tlb_slot(set->table[TLB_FETCH], set->mask, gva);
	struct target t;

	if (e->tag == (gva & PAGE_MASK)) {
		*gpa = set->fetch_gpa[e - set->table[TLB_FETCH]];
		return (const uint8_t *)e->host;
	}
	t = resolve(v, gva, data_access(v) | ACCESS_FETCH);
	*gpa = t.gpa & PAGE_MASK;
	return t.hva ? t.hva - (t.gpa & ~PAGE_MASK) : NULL;
}
