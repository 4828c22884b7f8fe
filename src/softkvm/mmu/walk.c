/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The page walk (SDM volume 3, chapter 4): 32-bit paging with PSE, PAE with its PDPTE registers, 4-level and 5-level
 * paging. One loop serves all modes; a mode is a row of `layouts` (levels, entry size, what may be a large page).
 *
 * An upper entry's accessed bit is set when it is used, the leaf's accessed and dirty bits when the access is
 * allowed, all by compare-and-exchange on the guest's memory: when an entry changed under the walk, it starts again.
 * A table in a slot's page that is not mapped on the host ends KVM_RUN. Tables that lie in no RAM read as all ones, as on a bus without a device, which faults with a reserved bit.
 */
#include "softkvm/mmu/tlb.h"

#define WALK_FAULT (1u << 31)
#define WALK_AGAIN (1u << 30)

struct layout {
	uint8_t levels, top_shift, index_bits, entry_size;
};

static const struct layout layouts[] = {
	[PAGING_32] = {2, 22, 10, 4},
	[PAGING_PAE] = {3, 30, 9, 8},
	[PAGING_4LEVEL] = {4, 39, 9, 8},
	[PAGING_5LEVEL] = {5, 48, 9, 8},
};

struct mem_slot *mmu_slot(struct vcpu *v, gpa_t gpa)
{
	struct mmu *m = v->mmu;
	struct mem_table *table = atomic_load_explicit(&v->vm->mem.table, memory_order_acquire);
	unsigned low = 0, high = table ? table->count : 0;

	if (table == m->last_table && m->last_slot && gpa - m->last_slot->gpa < m->last_slot->size)
		return m->last_slot;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		struct mem_slot *slot = table->slot[middle];

		if (gpa < slot->gpa) {
			high = middle;
		} else if (gpa - slot->gpa >= slot->size) {
			low = middle + 1;
		} else {
			m->last_slot = slot;
			m->last_table = table;
			return slot;
		}
	}
	return NULL;
}

static uint64_t phys_mask(const struct vcpu *v)
{
	return (1ull << (v->phys_bits ? v->phys_bits : 40)) - 1;
}

/* --- entries in guest memory --- */

struct entry_ref {
	gpa_t gpa;
	uint8_t *hva; /* NULL: not RAM */
	struct mem_slot *slot;
	unsigned size;
};

static struct entry_ref entry_at(struct vcpu *v, gpa_t gpa, unsigned size)
{
	struct entry_ref ref = {.gpa = gpa, .slot = mmu_slot(v, gpa), .size = size};

	if (ref.slot && (!ref.slot->suspect || mem_is_backed(ref.slot, gpa - ref.slot->gpa, size, MEM_READ)))
		ref.hva = ref.slot->hva + (gpa - ref.slot->gpa);
	return ref;
}

/* During the guest's own walk a table that is not mapped ends KVM_RUN; for others it reads as no RAM. */
static void entry_must_be_backed(struct vcpu *v, const struct entry_ref *ref, uint32_t access)
{
	if (ref->slot && !ref->hva && !(access & ACCESS_DEBUG))
		vcpu_leave_unbacked(v);
}

static uint64_t entry_load(const struct entry_ref *ref)
{
	if (!ref->hva)
		return ~0ull;
	if (ref->size == 4)
		return __atomic_load_n((uint32_t *)ref->hva, __ATOMIC_RELAXED);
	return __atomic_load_n((uint64_t *)ref->hva, __ATOMIC_RELAXED);
}

static bool entry_exchange(const struct entry_ref *ref, uint64_t old, uint64_t new)
{
	uint32_t old32 = old;

	if (ref->size == 4)
		return __atomic_compare_exchange_n((uint32_t *)ref->hva, &old32, (uint32_t)new, false, __ATOMIC_SEQ_CST,
						   __ATOMIC_RELAXED);
	return __atomic_compare_exchange_n((uint64_t *)ref->hva, &old, new, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

/* Set bits of an entry that was read as *entry. false: it changed meanwhile. */
static bool entry_set(struct vcpu *v, const struct entry_ref *ref, uint64_t *entry, uint64_t bits)
{
	if ((*entry & bits) == bits || !ref->hva || (ref->slot->flags & SLOT_READONLY))
		return true;
	if (ref->slot->suspect && !mem_is_backed(ref->slot, ref->gpa - ref->slot->gpa, ref->size, MEM_WRITE))
		vcpu_leave_unbacked(v);
	if (!entry_exchange(ref, *entry, *entry | bits))
		return false;
	*entry |= bits;
	if (ref->slot->flags & SLOT_LOG_DIRTY)
		mem_mark_dirty(ref->slot, ref->gpa - ref->slot->gpa, ref->size);
	code_written(v->vm, ref->gpa, ref->size);
	return true;
}

/* --- rules --- */

/* Bits that must be zero in a present entry at `shift`. */
static uint64_t reserved_bits(const struct vcpu *v, uint64_t entry, unsigned shift, bool leaf)
{
	enum paging_mode mode = v->mmu->mode;
	uint64_t reserved = 0xfffffffffffffull & ~phys_mask(v);

	if (mode == PAGING_32) {
		if (!leaf || shift != 22)
			return 0;
		return 1 << 21; /* PSE-36: bits 20:13 are address bits 39:32 */
	}
	if (!(v->efer & EFER_NXE))
		reserved |= PTE_NX;
	if (mode == PAGING_PAE)
		reserved |= 0x7ffull << 52;
	if (shift > 30 || (shift == 30 && mode == PAGING_PAE))
		reserved |= PTE_PS;
	if (leaf && shift > PAGE_SHIFT)
		reserved |= ((1ull << shift) - 1) & ~0x1fffull; /* bit 12 is PAT */
	if (!leaf && shift >= 30 && !v->is_intel)
		reserved |= PTE_G;
	return reserved;
}

static bool is_leaf(const struct vcpu *v, uint64_t entry, unsigned shift)
{
	if (shift == PAGE_SHIFT)
		return true;
	if (!(entry & PTE_PS))
		return false;
	if (v->mmu->mode == PAGING_32)
		return v->cr4 & CR4_PSE;
	return shift == 21 || (shift == 30 && v->mmu->mode != PAGING_PAE);
}

static gpa_t leaf_base(const struct vcpu *v, uint64_t entry, unsigned shift)
{
	if (v->mmu->mode == PAGING_32) {
		if (shift == PAGE_SHIFT)
			return entry & 0xfffff000;
		return ((entry & 0xffc00000) | (entry >> 13 & 0xff) << 32) & phys_mask(v);
	}
	return entry & phys_mask(v) & ~((1ull << shift) - 1);
}

/* Is the access allowed by the walk's accumulated rights? (SDM volume 3, 4.6.1) */
static bool is_allowed(const struct vcpu *v, uint32_t access, const struct walk *w)
{
	if (access & ACCESS_DEBUG)
		return true;
	if (access & ACCESS_USER) {
		if (!w->user)
			return false;
	} else if (w->user) {
		if (access & ACCESS_FETCH) {
			if (v->cr4 & CR4_SMEP)
				return false;
		} else if (v->cr4 & CR4_SMAP) {
			if ((access & ACCESS_IMPLICIT) || !(v->rflags & FLAG_AC))
				return false;
		}
	}
	if ((access & ACCESS_FETCH) && !w->executable)
		return false;
	if ((access & ACCESS_WRITE) && !w->writable)
		return !(access & ACCESS_USER) && !(v->cr0 & CR0_WP);
	return true;
}

static uint32_t fault(const struct vcpu *v, uint32_t access, uint32_t why)
{
	uint32_t error = (access & (PF_W | PF_U)) | why;
	bool has_nx = v->mmu->mode != PAGING_32 && (v->efer & EFER_NXE);

	if ((access & ACCESS_FETCH) && (has_nx || (v->cr4 & CR4_SMEP)))
		error |= PF_I;
	return error | WALK_FAULT;
}

/* --- the walk --- */

static uint32_t finish_leaf(struct vcpu *v, gva_t gva, uint32_t access, const struct entry_ref *ref, uint64_t entry,
			    unsigned shift, struct walk *w)
{
	uint64_t mark = PTE_A | (access & ACCESS_WRITE ? PTE_D : 0);

	if (!is_allowed(v, access, w))
		return fault(v, access, PF_P);
	if (!(access & ACCESS_DEBUG) && !entry_set(v, ref, &entry, mark))
		return WALK_AGAIN;
	w->page_shift = shift;
	w->global = (entry & PTE_G) && (v->cr4 & CR4_PGE);
	w->dirty = entry & PTE_D;
	w->gpa = leaf_base(v, entry, shift) | (gva & ((1ull << shift) - 1));
	return 0;
}

/* Use one entry on the way: its faults, its share in the rights, its accessed bit. */
static uint32_t use_entry(struct vcpu *v, uint32_t access, uint64_t entry, unsigned shift, struct walk *w)
{
	if (!(entry & PTE_P))
		return fault(v, access, 0);
	if (entry & reserved_bits(v, entry, shift, is_leaf(v, entry, shift)))
		return fault(v, access, PF_P | PF_RSVD);
	w->user &= !!(entry & PTE_U);
	w->writable &= !!(entry & PTE_W);
	if (v->mmu->mode != PAGING_32 && (entry & PTE_NX))
		w->executable = false;
	return 0;
}

static uint32_t walk_once(struct vcpu *v, gva_t gva, uint32_t access, struct walk *w)
{
	enum paging_mode mode = v->mmu->mode;
	const struct layout *layout = &layouts[mode];
	unsigned shift = layout->top_shift;
	gpa_t table = v->cr3 & (mode == PAGING_32 ? 0xfffff000 : phys_mask(v) & PAGE_MASK);

	*w = (struct walk){.user = true, .writable = true, .executable = true};
	if (mode == PAGING_PAE) {
		uint64_t pdpte = v->mmu->pdpte[gva >> 30 & 3];

		if (!(pdpte & PTE_P))
			return fault(v, access, 0);
		table = pdpte & phys_mask(v) & PAGE_MASK;
		shift = 21;
	}
	for (;; shift -= layout->index_bits) {
		uint64_t index = gva >> shift & ((1u << layout->index_bits) - 1);
		struct entry_ref ref = entry_at(v, table + index * layout->entry_size, layout->entry_size);
		uint64_t entry = entry_load(&ref);
		uint32_t result;

		entry_must_be_backed(v, &ref, access);
		result = use_entry(v, access, entry, shift, w);
		if (result)
			return result;
		if (is_leaf(v, entry, shift))
			return finish_leaf(v, gva, access, &ref, entry, shift, w);
		if (!(access & ACCESS_DEBUG) && !entry_set(v, &ref, &entry, PTE_A))
			return WALK_AGAIN;
		table = entry & (mode == PAGING_32 ? 0xfffff000 : phys_mask(v) & PAGE_MASK);
	}
}

uint32_t page_walk(struct vcpu *v, gva_t gva, uint32_t access, struct walk *walk)
{
	uint32_t result;

	if (v->mmu->mode == PAGING_NONE) {
		*walk = (struct walk){.gpa = gva & 0xffffffff, .writable = true, .executable = true,
				      .global = true, .dirty = true};
		return 0;
	}
	if (v->mmu->mode <= PAGING_PAE)
		gva &= 0xffffffff;
	do {
		result = walk_once(v, gva, access, walk);
	} while (result == WALK_AGAIN);
	return result;
}

/* --- PDPTE registers --- */

uint64_t *mmu_pdptes(struct vcpu *v)
{
	return v->mmu->pdpte;
}

bool mmu_load_pdptes(struct vcpu *v, uint64_t cr3)
{
	const uint64_t reserved = ~phys_mask(v) | 0x1e6;
	uint64_t pdpte[4];

	for (int i = 0; i < 4; i++) {
		struct entry_ref ref = entry_at(v, (cr3 & 0xffffffe0) + i * 8, 8);

		pdpte[i] = entry_load(&ref);
		if ((pdpte[i] & PTE_P) && (pdpte[i] & reserved))
			return false;
	}
	for (int i = 0; i < 4; i++)
		v->mmu->pdpte[i] = pdpte[i];
	return true;
}

bool mmu_translate_debug(struct vcpu *v, gva_t gva, gpa_t *gpa, bool *writable, bool *user)
{
	struct walk walk;

	if (page_walk(v, gva, ACCESS_DEBUG, &walk))
		return false;
	*gpa = walk.gpa;
	*writable = walk.writable;
	*user = walk.user;
	return true;
}
