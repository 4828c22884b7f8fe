/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest address translation: page walks, soft TLBs, and typed access to guest virtual memory.
 *
 * A TLB has a read, a write and a fetch table of struct tlb_entry, one set per (address space, user/supervisor);
 * v->tlb[] and v->tlb_mask name the active set. An entry exists only if the access it stands for needs nothing
 * more: permissions checked, A (and D for write) set in the guest's page table, page is RAM in a writable slot,
 * not a code page, not dirty-logged clean page. All else goes the slow way below.
 */
#ifndef GUISE_SOFTKVM_MMU_H
#define GUISE_SOFTKVM_MMU_H

#include "softkvm/vm.h"

int mmu_init(struct vcpu *v);
void mmu_deinit(struct vcpu *v);

/*
 * Linear (segment base applied) accesses at the current privilege. Size 1, 2, 4, 8, 16, 32 by name or len <= 64;
 * page crossing handled; single-copy atomic when naturally aligned. They raise #PF/#GP (non-canonical is checked
 * by the caller's segment logic, see interpret/operand.c), or leave for MMIO. Never return on failure.
 */
uint64_t mmu_read(struct vcpu *v, gva_t gva, unsigned size);
void mmu_write(struct vcpu *v, gva_t gva, unsigned size, uint64_t value);
void mmu_read_bytes(struct vcpu *v, gva_t gva, void *buf, unsigned len);
void mmu_write_bytes(struct vcpu *v, gva_t gva, const void *buf, unsigned len);

/* As supervisor whatever CPL is (descriptor tables, TSS, IDT): implicit system accesses; SMAP does not allow user pages. */
uint64_t mmu_read_sys(struct vcpu *v, gva_t gva, unsigned size);
void mmu_write_sys(struct vcpu *v, gva_t gva, unsigned size, uint64_t value);

/*
 * HVA for a locked or host-executed access that stays within one page: RAM only, else NULL (MMIO or split: the
 * caller takes its slow path). Raises #PF as a read (write == false) or as a write. The pointer is good until the
 * next instruction boundary. `mmu_host_write` tells the code-page and dirty logic; call it after storing when
 * mmu_host_ptr said *needs_notify.
 */
void *mmu_host_ptr(struct vcpu *v, gva_t gva, unsigned size, bool write, bool *needs_notify);
void mmu_host_written(struct vcpu *v, gva_t gva, unsigned size);

/*
 * For a store to a watched page (mmu_host_ptr() said *needs_notify): its HVA if it touches no grain of which code was
 * made, else NULL. The store needs no notice then; it must be over at the next instruction boundary. Raises #PF. gva
 * is canonical.
 */
void *mmu_store_beside_code(struct vcpu *v, gva_t gva, unsigned size);

/* Check that [gva, gva+len) is accessible (A/D bits set as a side effect) without touching it: "probe then commit". */
void mmu_probe(struct vcpu *v, gva_t gva, unsigned len, bool write);

/*
 * Instruction fetch: the HVA of the page holding gva and its GPA, for CPL and mode now; raises #PF (I bit). NULL if
 * the page is not RAM (code in MMIO: the interpreter then reads bytes singly).
 */
const uint8_t *mmu_fetch_page(struct vcpu *v, gva_t gva, gpa_t *gpa);

/* Address-space events (SDM volume 3, 4.10.4). */
void mmu_cr3_loaded(struct vcpu *v, uint64_t old_cr3, bool noflush);
void mmu_mode_changed(struct vcpu *v); /* CR0, CR4, EFER bits that paging looks at, or CPL/AC with SMAP: choose tables, flush if due */
void mmu_cpl_changed(struct vcpu *v);
void mmu_invlpg(struct vcpu *v, gva_t gva);
void mmu_invpcid(struct vcpu *v, uint64_t type, uint64_t pcid, gva_t gva);
void mmu_flush_all(struct vcpu *v);
void mmu_flush_writes(struct vcpu *v);

/*
 * The translator's two shortcuts past the tables. Each TLB set carries an array itlb[ITLB_ENTRIES] of code-page ids
 * (translate/ fills slot itlb_slot(gva) after mmu_fetch_page() succeeded); it is zeroed wherever fetch entries are
 * invalidated, and v->itlb follows v->tlb[]. Translated code looks at v->code_ids, which is v->itlb or, when the vCPU is to
 * come out, a table that has no ids: so one comparison asks both. The words behind them say what kind of code the ids stand for: its flavour
 * and, where segmentation matters, base and limit of the code segment. v->stack copies one write entry; it is dropped whenever a read or write
 * entry of the active set is, and when v->tlb[] changes. Its empty form gives a non-canonical HVA: no access can pass.
 */
enum { TLB_MAX_ENTRIES = 16384, TLB_TABLE_BYTES = TLB_MAX_ENTRIES * sizeof(struct tlb_entry) /* from v->tlb[k] to v->tlb[k + 1] */ };
enum { ITLB_ENTRIES = 4096, ITLB_FLAVOUR = ITLB_ENTRIES, ITLB_CS_BASE, ITLB_CS_LIMIT, ITLB_WORDS };
static inline unsigned itlb_slot(gva_t gva)
{
	return (gva >> PAGE_SHIFT) & (ITLB_ENTRIES - 1);
}
static inline void tlb_drop_stack(struct vcpu *v)
{
	v->stack = (struct tlb_entry){ 1ull << 63, 1ull << 63 };
	v->beside.tag = 1ull << 63;
}

/*
 * PAE paging's four PDPTE registers (SDM volume 3, 4.4.1). Load: false if a present one has reserved bits set (then
 * nothing changed; MOV CR3 raises #GP). mmu_cr3_loaded() and mmu_mode_changed() load them by themselves where due.
 */
bool mmu_load_pdptes(struct vcpu *v, uint64_t cr3);
uint64_t *mmu_pdptes(struct vcpu *v);

/*
 * Make every vCPU drop its write entries and wait until those inside guest code have done so (others do before they
 * enter). self: the calling vCPU, served by the call, or NULL from other threads. No lock may be held that a running
 * vCPU could be waiting for. Dirty log reset, read-only changes, new code pages.
 */
void mmu_shootdown_writes(struct vm *vm, struct vcpu *self);

/* KVM_TRANSLATE and the debugger: walk without side effects. false: not mapped. Owner thread or vCPU stopped. */
bool mmu_translate_debug(struct vcpu *v, gva_t gva, gpa_t *gpa, bool *writable, bool *user);

/*
 * Code pages (mmu/code.c): the pages that hold decoded or translated code. `grains` has a bit for each 64 bytes of
 * which code was made; a write elsewhere on the page changes nothing but is still watched.
 */
struct code_page {
	_Atomic uint32_t generation; /* changes whenever bytes of marked grains may have */
	_Atomic uint32_t flags;	     /* CODE_PAGE_* */
	_Atomic uint64_t grains;     /* bit n: bytes 64n..64n+63 hold code that somebody decoded */
	uint64_t hash;		     /* of the marked grains; under CODE_PAGE_LOCKED */
	void *blocks;		     /* the translator's list of TBs on this page */
	_Atomic uint32_t hits;	     /* marked grains that were written since code was last made here */
};
enum {
	CODE_PAGE_PRESENT = 1,	    /* writes are watched */
	CODE_PAGE_WRITABLE = 2,	    /* some vCPU may have a write entry from before it was watched: the one that the bits */
				    /* from CODE_PAGE_WRITER_SHIFT on name, or CODE_PAGE_MANY_WRITERS */
	CODE_PAGE_LOCKED = 4,	    /* spin bit of mmu/code.c */
	CODE_PAGE_MANY_WRITERS = 8,
	CODE_PAGE_WRITER_SHIFT = 8  /* index of the vCPU (8 bits), low 16 bits of the linear address's page number */
};

/*
 * Before code is decoded from [gpa, gpa+len) (within one page): mark its grains and watch the page's writes by all
 * vCPUs (may wait for them, see mmu_shootdown_writes() for locks). What is decoded from the bytes read after this call
 * is good as long as page->generation equals *generation. NULL: not RAM. vCPU thread.
 */
struct code_page *code_page_watch(struct vcpu *v, gpa_t gpa, unsigned len, uint32_t *generation);
/* The same for the whole page that holds gpa; read page->generation right after. */
struct code_page *code_page_get(struct vcpu *v, gpa_t gpa);
/* The record without watching, or NULL if there is none. Any thread. */
struct code_page *code_page_find(struct vm *vm, gpa_t gpa);
/* Bytes of RAM changed: by a vCPU's store to a watched page, or by a device. Any thread; call it after the store. */
void code_written(struct vm *vm, gpa_t gpa, uint64_t len);

/* Bytes of a watched page have changed, and what was made of them is forgotten: the marks go, too. For engines (engine.h). */
struct code_change {
	struct code_page *page;
	const uint8_t *page_hva;
	uint64_t grains;
	bool unwatch;
};
void code_change_done(struct code_change *change);
/* Records of a slot's pages, zeroed, for mem_slot.user; free with the slot. NULL: no memory (then made at first use). */
void *code_table_new(uint64_t slot_size);
void code_table_free(void *table, uint64_t slot_size);

#endif
