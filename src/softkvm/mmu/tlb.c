/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The soft TLB: what a processor's TLB does, as tables that translated code probes inline.
 *
 * A set has three tables (read, write, fetch) of equal size. There is one supervisor set, and one user set for each
 * of the last eight address spaces, so that CR3 loads with PCID and CPL changes are pointer changes. The supervisor
 * set is shared by all address spaces: entries of global pages stay, the others (kernel accesses to user memory
 * mostly) are logged as "scoped" and dropped when CR3 is loaded. Dropping an entry early is always legal.
 *
 * Flushing. Each set logs where it entered something; a flush clears those places, or the whole table when the log
 * overflowed. Tables grow when entries push each other out; they never shrink, as an empty large table costs nothing.
 *
 * Large pages are entered 4 KiB at a time. INVLPG must drop all pieces, so a set remembers by hash which regions
 * have such pieces and visits their places only then.
 *
 * Only the vCPU's own thread touches its TLB. Memory of all sets is mapped and populated at start, because the
 * first touch of a page can cost 10 microseconds.
 */
#include "softkvm/mmu/tlb.h"

#include <errno.h>
#include <stdlib.h>

#include "memory/backing.h"

enum { SET_COUNT = TLB_SPACES + 1, GPAS_SIZE = TLB_MAX_ENTRIES * sizeof(gpa_t), SET_SIZE = TLB_KINDS * TLB_TABLE_BYTES + GPAS_SIZE };

const uint32_t no_code_ids[ITLB_ENTRIES];

static void clear_words(void *p, uint64_t bytes)
{
	uint64_t count = bytes / 8;

	asm volatile("rep stosq" : "+D"(p), "+c"(count) : "a"(0ull) : "memory");
}

/* An empty entry's tag is a page that never indexes it. */
static inline void entry_clear(struct tlb_entry *e, bool first)
{
	e->tag = first ? PAGE_SIZE : 0;
	e->host = 0;
}

static void table_clear(struct tlb_set *set, enum tlb_kind kind)
{
	clear_words(set->table[kind], set->mask + sizeof(struct tlb_entry));
	set->table[kind][0].tag = PAGE_SIZE;
	if (kind == TLB_FETCH)
		clear_words(set->itlb, ITLB_ENTRIES * sizeof(set->itlb[0]));
}

/* The itlb slots of all pages that a fetch entry's place may have stood for: of the one there, and of those it pushed out. */
static void itlb_clear_index(struct tlb_set *set, uint32_t index)
{
	uint64_t entries = set->mask / sizeof(struct tlb_entry) + 1;

	for (uint64_t slot = index % ITLB_ENTRIES; slot < ITLB_ENTRIES; slot += entries)
		set->itlb[slot] = 0;
}

static void place_clear(struct tlb_set *set, uint32_t place)
{
	uint32_t kind = place >> 24, index = place & 0xffffff;

	entry_clear(&set->table[kind][index], index == 0);
	if (kind == TLB_FETCH)
		itlb_clear_index(set, index);
}

static void log_clear_places(struct tlb_set *set, struct fill_log *log)
{
	for (uint32_t i = 0; i < log->count; i++)
		place_clear(set, log->place[i]);
	log->count = 0;
}

static void log_add(struct fill_log *log, uint32_t place)
{
	if (log->count < TLB_LOG)
		log->place[log->count] = place;
	if (log->count <= TLB_LOG)
		log->count++;
}

static void set_flush(struct tlb_set *set)
{
	if (set->fills.count <= TLB_LOG) {
		log_clear_places(set, &set->fills);
	} else {
		for (int kind = 0; kind < TLB_KINDS; kind++)
			table_clear(set, kind);
		set->fills.count = 0;
	}
	set->scoped.count = 0;
	clear_words(set->large, sizeof(set->large));
}

static void set_flush_scoped(struct tlb_set *set)
{
	if (set->scoped.count > TLB_LOG)
		set_flush(set);
	else
		log_clear_places(set, &set->scoped);
}

static void set_flush_writes(struct tlb_set *set)
{
	if (set->fills.count > TLB_LOG) {
		table_clear(set, TLB_WRITE);
		return;
	}
	for (uint32_t i = 0; i < set->fills.count; i++) {
		if (set->fills.place[i] >> 24 == TLB_WRITE)
			place_clear(set, set->fills.place[i]);
	}
}

static void set_resize(struct mmu *m, struct tlb_set *set, uint64_t entries)
{
	set_flush(set);
	set->mask = (entries - 1) * sizeof(struct tlb_entry);
	set->conflicts = 0;
	for (int kind = 0; kind < TLB_KINDS; kind++)
		table_clear(set, kind);
}

static void set_init(struct mmu *m, struct tlb_set *set, uint8_t *memory)
{
	for (int kind = 0; kind < TLB_KINDS; kind++)
		set->table[kind] = (struct tlb_entry *)(memory + kind * TLB_TABLE_BYTES);
	set->fetch_gpa = (gpa_t *)(memory + TLB_KINDS * TLB_TABLE_BYTES);
	set->key = ~0ull;
	set_resize(m, set, TLB_MIN_ENTRIES);
}

int mmu_init(struct vcpu *v)
{
	struct mmu *m = calloc(1, sizeof(*m));
	uint8_t *memory;

	if (!m)
		return -ENOMEM;
	memory = backing_new(SET_COUNT * SET_SIZE);
	if (!memory) {
		free(m);
		return -ENOMEM;
	}
	backing_populate(memory, SET_COUNT * SET_SIZE);
	m->arena = memory;
	set_init(m, &m->super, memory);
	for (int i = 0; i < TLB_SPACES; i++)
		set_init(m, &m->user[i], memory + (i + 1) * SET_SIZE);
	m->space = &m->user[0];
	v->mmu = m;
	mmu_mode_changed(v);
	mmu_cr3_loaded(v, 0, false);
	return 0;
}

void mmu_deinit(struct vcpu *v)
{
	if (!v->mmu)
		return;
	backing_free(v->mmu->arena, SET_COUNT * SET_SIZE);
	free(v->mmu);
	v->mmu = NULL;
}

/* Point the probes at the set for the privilege and address space now. */
void tlb_select(struct vcpu *v)
{
	struct mmu *m = v->mmu;
	struct tlb_set *set = v->cpl == 3 ? m->space : &m->super;

	for (int kind = 0; kind < TLB_KINDS; kind++)
		v->tlb[kind] = set->table[kind];
	v->tlb_mask = set->mask;
	v->itlb = set->itlb;
	vcpu_use_code_ids(v);
	tlb_drop_stack(v);
}

/* Large pages by hash of their region: of 4 MiB (which holds 2 MiB and 4 MiB pages whole) or of 1 GiB. */
static uint64_t region_hash(gva_t gva, unsigned region_shift)
{
	return (((gva >> region_shift) + region_shift) * 0x9e3779b97f4a7c15ull) >> 52; /* 12 bits */
}

static void note_large(struct tlb_set *set, gva_t gva, unsigned page_shift)
{
	uint64_t hash = region_hash(gva, page_shift > 22 ? 30 : 22);

	set->large[hash / 64] |= 1ull << (hash % 64);
}

static bool has_large(const struct tlb_set *set, gva_t gva, unsigned region_shift)
{
	uint64_t hash = region_hash(gva, region_shift);

	return set->large[hash / 64] >> (hash % 64) & 1;
}

/* Does replacing this entry push out something live? Grow the set if that happens much. */
static void note_conflict(struct vcpu *v, struct tlb_set *set, const struct tlb_entry *e)
{
	uint64_t entries = set->mask / sizeof(*e) + 1;

	if (!e->host || ++set->conflicts < entries || entries >= TLB_MAX_ENTRIES)
		return;
	set_resize(v->mmu, set, entries * 4);
	tlb_select(v);
}

bool tlb_is_watched(const struct mmu *m, gva_t gva)
{
	for (unsigned i = 0; i < m->watched_count; i++)
		if (m->watched_page[i] == (gva & PAGE_MASK))
			return true;
	return false;
}

void tlb_fill(struct vcpu *v, struct tlb_set *set, enum tlb_kind kind, gva_t gva, const struct walk *walk,
	      uint8_t *page_hva)
{
	struct mmu *m = v->mmu;
	struct tlb_entry *e = tlb_slot(set->table[kind], set->mask, gva);
	uint32_t index, place;

	if (e->tag != (gva & PAGE_MASK)) {
		note_conflict(v, set, e);
		e = tlb_slot(set->table[kind], set->mask, gva);
	}
	index = e - set->table[kind];
	place = index | (uint32_t)kind << 24;
	e->host = (uint64_t)page_hva;
	e->tag = gva & PAGE_MASK;
	if (kind == TLB_FETCH)
		set->fetch_gpa[index] = walk->gpa & PAGE_MASK;
	log_add(&set->fills, place);
	if (walk->page_shift > PAGE_SHIFT)
		note_large(set, gva, walk->page_shift);
	if (set == &m->super && (!walk->global || walk->user))
		log_add(&set->scoped, place);
	if (set != &m->super && walk->global)
		m->user_globals = true;
}

/* --- dropping --- */

static void set_drop_page(struct tlb_set *set, gva_t gva)
{
	for (int kind = 0; kind < TLB_KINDS; kind++) {
		struct tlb_entry *e = tlb_slot(set->table[kind], set->mask, gva);

		if (e->tag == (gva & PAGE_MASK))
			entry_clear(e, e == set->table[kind]);
	}
	set->itlb[itlb_slot(gva)] = 0;
}

/* Drop all entries in [gva, gva + size): size a power of two, gva a multiple of it. */
static void set_drop_range(struct tlb_set *set, gva_t gva, uint64_t size)
{
	uint64_t entries = set->mask / sizeof(struct tlb_entry) + 1;

	if (size >> PAGE_SHIFT <= entries) {
		for (uint64_t at = 0; at < size; at += PAGE_SIZE)
			set_drop_page(set, gva + at);
		return;
	}
	clear_words(set->itlb, sizeof(set->itlb[0]) * ITLB_ENTRIES);
	for (int kind = 0; kind < TLB_KINDS; kind++)
		for (uint64_t i = 0; i < entries; i++)
			if ((set->table[kind][i].tag & ~(size - 1)) == gva && set->table[kind][i].host)
				place_clear(set, (uint32_t)kind << 24 | i);
}

static void set_invlpg(struct tlb_set *set, gva_t gva)
{
	const uint64_t mib4 = 4 << 20, gib = 1 << 30;

	set_drop_page(set, gva);
	if (has_large(set, gva, 22))
		set_drop_range(set, gva & ~(mib4 - 1), mib4);
	if (has_large(set, gva, 30))
		set_drop_range(set, gva & ~(gib - 1), gib);
}

static struct tlb_set *set_number(struct mmu *m, int number)
{
	return number < 0 ? &m->super : &m->user[number];
}

void tlb_drop_host_at(struct vcpu *v, const uint8_t *page_hva, gva_t gva)
{
	for (int s = -1; s < TLB_SPACES; s++) {
		struct tlb_set *set = set_number(v->mmu, s);
		struct tlb_entry *e = tlb_slot(set->table[TLB_WRITE], set->mask, gva);

		if (e->host == (uint64_t)page_hva)
			entry_clear(e, e == set->table[TLB_WRITE]);
	}
	tlb_drop_stack(v);
}

void tlb_drop_host(struct vcpu *v, const uint8_t *page_hva)
{
	struct mmu *m = v->mmu;

	for (int s = -1; s < TLB_SPACES; s++) {
		struct tlb_set *set = set_number(m, s);
		uint64_t entries = set->fills.count > TLB_LOG ? set->mask / sizeof(struct tlb_entry) + 1 : 0;

		for (uint32_t k = 0; !entries && k < set->fills.count; k++) {
			uint32_t place = set->fills.place[k];

			if (place >> 24 == TLB_WRITE && set->table[TLB_WRITE][place & 0xffffff].host == (uint64_t)page_hva)
				place_clear(set, place);
		}
		for (uint64_t i = 0; i < entries; i++)
			if (set->table[TLB_WRITE][i].host == (uint64_t)page_hva)
				entry_clear(&set->table[TLB_WRITE][i], i == 0);
	}
	tlb_drop_stack(v);
}

/* --- address-space events --- */

static uint64_t space_key(const struct vcpu *v)
{
	if (v->cr4 & CR4_PCIDE)
		return v->cr3;
	return v->cr3 & (v->mmu->mode == PAGING_PAE ? ~0x1full : PAGE_MASK);
}

static bool same_pcid(const struct vcpu *v, uint64_t key, uint64_t pcid)
{
	return key != ~0ull && (!(v->cr4 & CR4_PCIDE) || (key & 0xfff) == pcid);
}

static void flush_users(struct mmu *m)
{
	for (int i = 0; i < TLB_SPACES; i++)
		set_flush(&m->user[i]);
	m->user_globals = false;
}

/* The user set for the address space now; a fresh one is empty. At most one set lives per PCID. */
static struct tlb_set *find_space(struct vcpu *v, bool flush)
{
	struct mmu *m = v->mmu;
	uint64_t key = space_key(v), pcid = v->cr4 & CR4_PCIDE ? key & 0xfff : 0;
	struct tlb_set *found = NULL, *oldest = &m->user[0];

	for (int i = 0; i < TLB_SPACES; i++) {
		struct tlb_set *set = &m->user[i];

		if (set->key == key)
			found = set;
		else if (same_pcid(v, set->key, pcid)) {
			set_flush(set);
			set->key = ~0ull;
			set->used_at = 0;
		}
		if (set->used_at < oldest->used_at)
			oldest = set;
	}
	if (!found || flush)
		set_flush(found ? found : oldest);
	if (!found)
		found = oldest;
	found->key = key;
	found->used_at = ++m->clock;
	return found;
}

void mmu_cr3_loaded(struct vcpu *v, uint64_t old_cr3, bool noflush)
{
	struct mmu *m = v->mmu;

	if (m->mode == PAGING_PAE)
		mmu_load_pdptes(v, v->cr3);
	set_flush_scoped(&m->super);
	m->space = find_space(v, !noflush || !(v->cr4 & CR4_PCIDE));
	tlb_select(v);
}

static enum paging_mode paging_mode(const struct vcpu *v)
{
	if (!(v->cr0 & CR0_PG))
		return PAGING_NONE;
	if (!(v->cr4 & CR4_PAE))
		return PAGING_32;
	if (!(v->efer & EFER_LMA))
		return PAGING_PAE;
	return v->cr4 & CR4_LA57 ? PAGING_5LEVEL : PAGING_4LEVEL;
}

void mmu_mode_changed(struct vcpu *v)
{
	struct mmu *m = v->mmu;
	enum paging_mode mode = paging_mode(v);
	uint64_t control = (v->cr0 & (CR0_PG | CR0_WP)) | (v->efer & (EFER_NXE | EFER_LMA)) << 32 |
			   (v->cr4 & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_LA57 | CR4_PCIDE)) << 40;
	bool smap_blocks = (v->cr4 & CR4_SMAP) && !(v->rflags & FLAG_AC);

	if (mode == PAGING_PAE && (m->mode != mode || control != m->control))
		mmu_load_pdptes(v, v->cr3);
	m->mode = mode;
	if (control != m->control) {
		m->control = control;
		mmu_flush_all(v);
	} else if (smap_blocks != m->smap_blocks) {
		set_flush_scoped(&m->super);
	}
	m->smap_blocks = smap_blocks;
	tlb_select(v);
}

void mmu_cpl_changed(struct vcpu *v)
{
	tlb_select(v);
}

void mmu_invlpg(struct vcpu *v, gva_t gva)
{
	struct mmu *m = v->mmu;

	set_invlpg(&m->super, gva);
	if (m->user_globals)
		flush_users(m);
	else
		set_invlpg(m->space, gva);
	tlb_drop_stack(v);
}

static void invpcid_one(struct vcpu *v, uint64_t pcid, bool page, gva_t gva)
{
	struct mmu *m = v->mmu;
	bool current = same_pcid(v, space_key(v), pcid);

	for (int i = 0; i < TLB_SPACES; i++) {
		if (!same_pcid(v, m->user[i].key, pcid))
			continue;
		if (page)
			set_invlpg(&m->user[i], gva);
		else
			set_flush(&m->user[i]);
	}
	if (current && page)
		set_invlpg(&m->super, gva);
	else if (current)
		set_flush_scoped(&m->super);
}

void mmu_invpcid(struct vcpu *v, uint64_t type, uint64_t pcid, gva_t gva)
{
	switch (type) {
	case 0:
	case 1:
		invpcid_one(v, pcid, type == 0, gva);
		break;
	case 2:
		mmu_flush_all(v);
		break;
	default:
		flush_users(v->mmu);
		set_flush_scoped(&v->mmu->super);
	}
	tlb_drop_stack(v);
}

void mmu_flush_all(struct vcpu *v)
{
	set_flush(&v->mmu->super);
	flush_users(v->mmu);
	v->mmu->last_slot = NULL;
	for (int i = 0; i < TLB_SPACES; i++)
		if (&v->mmu->user[i] != v->mmu->space)
			v->mmu->user[i].key = ~0ull;
	v->mmu->space->key = space_key(v);
	tlb_drop_stack(v);
	atomic_fetch_add(&v->tlb_flush_seen, 1);
}

void mmu_flush_writes(struct vcpu *v)
{
	set_flush_writes(&v->mmu->super);
	for (int i = 0; i < TLB_SPACES; i++)
		set_flush_writes(&v->mmu->user[i]);
	tlb_drop_stack(v);
	/* Pairs with mmu_shootdown_writes(): who sees the new count knows that the entries above are gone. */
	atomic_fetch_add(&v->tlb_flush_seen, 1);
}
