/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside mmu/: the soft TLB's sets and the page walker. See tlb.c for the model.
 */
#ifndef GUISE_MMU_TLB_H
#define GUISE_MMU_TLB_H

#include "softkvm/mmu/mmu.h"

enum {
	TLB_SPACES = 8,	       /* user address spaces kept per vCPU; Linux juggles six PCIDs */
	TLB_MIN_ENTRIES = 1024, /* per table */
	TLB_LOG = 1024,	       /* fills remembered for a cheap flush */
	TLB_LARGE_WORDS = 64
};

enum paging_mode { PAGING_NONE, PAGING_32, PAGING_PAE, PAGING_4LEVEL, PAGING_5LEVEL };

/* Places of entries, kind and index packed, as a log; over its size it only says "too many". */
struct fill_log {
	uint32_t count;
	uint32_t place[TLB_LOG];
};

struct tlb_set {
	struct tlb_entry *table[TLB_KINDS];
	gpa_t *fetch_gpa;			/* GPA page of each fetch entry */
	uint64_t mask;				/* byte mask of index: (entries - 1) * 16 */
	uint32_t conflicts;			/* live entries replaced since the last resize */
	uint64_t key;				/* user sets: CR3 with PCID; what it is for */
	uint64_t used_at;			/* for replacement of user sets */
	uint64_t large[TLB_LARGE_WORDS];	/* hash set of regions with entries of large pages */
	uint32_t itlb[ITLB_WORDS];		/* the translator's, by itlb_slot() */
	struct fill_log fills;			/* everything since the last flush */
	struct fill_log scoped;			/* supervisor set: what a CR3 load or SMAP change drops */
};

struct mmu {
	enum paging_mode mode;
	uint64_t control;			/* the bits of CR0/CR4/EFER that entries depend on, folded */
	bool smap_blocks;			/* supervisor accesses to user pages fault now */
	bool user_globals;			/* a global user page was entered: INVLPG must look into every set */
	struct tlb_set super;
	struct tlb_set user[TLB_SPACES];
	struct tlb_set *space;			/* user set of the current CR3 */
	uint64_t clock;
	uint64_t pdpte[4];
	struct mem_slot *last_slot;		/* of the last walk; checked before use */
	struct mem_table *last_table;
	uint64_t watched_page[8];		/* pages with a data breakpoint: never entered. See mmu_watch() */
	unsigned watched_count;
	void *arena;				/* memory of all tables */
};

/* What an access is. */
enum {
	ACCESS_WRITE = PF_W,
	ACCESS_USER = PF_U,
	ACCESS_FETCH = PF_I,
	ACCESS_IMPLICIT = 1 << 16, /* a supervisor access that SMAP judges without AC */
	ACCESS_DEBUG = 1 << 17	   /* no side effects, no permissions */
};

struct walk {
	gpa_t gpa;	     /* of the byte asked for */
	unsigned page_shift; /* of the mapping: 12, 21, 22 or 30; 0 without paging */
	bool user, writable, executable, global;
	bool dirty;	     /* the leaf's D is set: a write entry may be made */
};

/* Walk the guest's tables for an access. 0, or the page-fault error code | 1 << 31. Sets A and D. */
uint32_t page_walk(struct vcpu *v, gva_t gva, uint32_t access, struct walk *walk);

/* Slot that holds gpa, or NULL (vCPU thread: goes through a one-entry cache). */
struct mem_slot *mmu_slot(struct vcpu *v, gpa_t gpa);

/* Enter a page into one table of a set: the caller has made sure that nothing stands against it. */
void tlb_fill(struct vcpu *v, struct tlb_set *set, enum tlb_kind kind, gva_t gva, const struct walk *walk,
	      uint8_t *page_hva);
/* Drop this thread's write entries of one host page: all, or the one that was made for gva (in whichever set). */
void tlb_drop_host(struct vcpu *v, const uint8_t *page_hva);
void tlb_drop_host_at(struct vcpu *v, const uint8_t *page_hva, gva_t gva);
void tlb_select(struct vcpu *v);
bool tlb_is_watched(const struct mmu *m, gva_t gva);

/* Record of the page at gpa in its slot. peek: NULL if there is no table yet; else made, NULL without memory. */
struct code_page *code_page_peek(struct mem_slot *slot, gpa_t gpa);
struct code_page *code_page_of(struct mem_slot *slot, gpa_t gpa);
/*
 * Before a write entry for the page at gva is made, or the like of one. Returns the page's flags as they were in that step: if
 * it is PRESENT there must be no entry.
 */
uint32_t code_page_note_writer(const struct vcpu *v, struct code_page *page, gva_t gva);
/* At a store to a watched page: if nothing is made of it any more, watch it no longer. Returns whether that was so. */
bool code_page_unwatch_unused(struct code_page *page);
/* At a fetch entry's making: did somebody change watched code unseen (a device in another process)? */
void code_check_hash(struct vcpu *v, struct code_page *page, gpa_t gpa, const uint8_t *page_hva);

enum { GRAIN_SHIFT = 6 };

/* Bits of the 64-byte grains of a page that [address, address + len) touches; within one page. */
static inline uint64_t grain_mask(uint64_t address, uint64_t len)
{
	unsigned first = (address & ~PAGE_MASK) >> GRAIN_SHIFT;
	unsigned last = ((address & ~PAGE_MASK) + len - 1) >> GRAIN_SHIFT;

	return (~0ull << first) & (~0ull >> (63 - last));
}

static inline struct tlb_entry *tlb_slot(struct tlb_entry *table, uint64_t mask, gva_t gva)
{
	return (struct tlb_entry *)((uint8_t *)table + ((gva >> 8) & mask));
}

/* HVA of an access of `size` bytes if the entry for it is there, else NULL. */
static inline void *tlb_lookup(struct tlb_entry *table, uint64_t mask, gva_t gva, unsigned size)
{
	const struct tlb_entry *e = tlb_slot(table, mask, gva);
	uint64_t offset = gva ^ e->tag;

	return offset <= PAGE_SIZE - size ? (void *)(e->host + offset) : NULL;
}

#endif
