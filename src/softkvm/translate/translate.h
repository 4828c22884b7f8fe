/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The translator's inside: what its parts know of each other.
 *
 * Guest code becomes host code block by block; a block (superblock) follows one straight path of guest instructions inside
 * one guest page. Guest registers live in host registers (below), status flags in the host's flags or, where a memory
 * check is about to destroy them, in `saved_flags`; x87, SSE and AVX state is always in the host's units.
 *
 * Host registers while translated code runs:
 *
 *	rax rdx rbx rbp rsi rdi r12-r15   the same guest register
 *	r10, r11                          guest RCX, guest RSP
 *	rsp                               ENV = the vCPU + 128: hot fields have one-byte displacements
 *	r8                                TLB_BASE = vcpu.tlb[TLB_READ]
 *	rcx, r9                           scratch; r9 is the address, then the HVA, of a memory access
 *	memory                            guest R8-R11, in vcpu.gpr
 *
 * The stack pointer points into the vCPU, because all other registers have more to do. Below the vCPU is room for the
 * frames of signals (SIGNAL_ROOM; the 128 bytes below the pointer they leave alone); C runs on the thread's own stack.
 *
 * A block has three entries, in this order in memory:
 *	checked   from anywhere: asks, by one comparison, whether the vCPU may go on and the block's page is still mapped where it was
 *	saved     flags are in saved_flags; loads them if the block needs them
 *	straight  flags are in the host's flags
 *
 * Threads. Translated code takes no lock. Everything about blocks and links is protected by translator.lock;
 * the code cache is written only under it. Nothing is freed while vCPUs run: dead blocks are unreachable for new
 * entries, and their memory comes back when their region is emptied with all vCPUs stopped (region.c).
 */
#ifndef GUISE_TRANSLATE_TRANSLATE_H
#define GUISE_TRANSLATE_TRANSLATE_H

#include <stddef.h>

#include "softkvm/engine.h"
#include "softkvm/interpret/decode_cache.h"
#include "softkvm/mmu/mmu.h"
#include "softkvm/translate/codecache.h"
#include "softkvm/translate/emit.h"
#include "x86/insn_row.h"

enum { ENV = H_RSP, TLB_BASE = H_R8, SCRATCH = H_RCX, ADDR = H_R9, GUEST_RCX = H_R10, GUEST_RSP = H_R11, ENV_BIAS = 128 };
#define ENV_OFF(field) ((int32_t)offsetof(struct vcpu, field) - ENV_BIAS)

/* vcpu.engine_hot[]; the last of them is where a CALL in translated code puts its return address */
enum { HOT_TEMP, HOT_SAVED_FLAGS /* LAHF's AH, SETO's AL */ };
#define ENV_HOT(n) (ENV_OFF(engine_hot) + 8 * (int32_t)(n))
_Static_assert(offsetof(struct vcpu, engine_hot[2]) == ENV_BIAS - 8, "under the stack pointer");
/* vcpu.engine_cold[] */
enum { COLD_STREAM = 0 /* 8 TLB entries of a loop */, COLD_RESULT = 16, COLD_SPARE, COLD_SCRATCH, COLD_TARGET,
       COLD_STACK /* the thread's */, COLD_WORDS };
_Static_assert(sizeof(((struct vcpu *)0)->engine_cold) == 8 * COLD_WORDS, "vcpu.h");
#define ENV_COLD(n) (ENV_OFF(engine_cold) + 8 * (int32_t)(n))
#define ENV_GROUP(n) (ENV_OFF(engine_group) + 8 * (int32_t)(n))
#define ENV_GPR(r) (ENV_OFF(gpr) + 8 * (int32_t)(r))

/* Block flavour bits: what of the vCPU's state the code of a block depends on. */
enum {
	FLAVOUR_MODE = 3,      /* enum insn_mode */
	FLAVOUR_X87 = 1 << 2,  /* x87/MMX usable: CR0.EM and TS clear */
	FLAVOUR_SSE = 1 << 3,  /* and CR4.OSFXSR */
	FLAVOUR_AVX = 1 << 4,  /* and CR4.OSXSAVE, XCR0.AVX */
	FLAVOUR_FLAT = 1 << 5, /* MODE_32: ES, CS, SS, DS are all of 4 GiB from 0 on */
	/* Other 16 and 32-bit code (segmented.c): */
	FLAVOUR_SEGMENTED = 1 << 6,
	FLAVOUR_REAL = 1 << 7,	 /* real-address or virtual-8086 mode: no rights to check */
	FLAVOUR_SS32 = 1 << 8,	 /* the stack's width is 32 bits */
	FLAVOUR_SEG = 1 << 9	 /* << SEG_*: expand-up, and readable; but for CS writable, too */
};

/* A guest page of code at one linear address: what the instruction TLB's ids stand for. */
struct code_view {
	struct code_view *hash_next;  /* of the page's bucket */
	struct code_view *exact_next; /* of the page's and linear address's bucket */
	gva_t va;		/* page */
	gpa_t gpa;		/* page */
	const uint8_t *hva;
	uint32_t id, flavour;
	uint32_t cs_base, cs_limit; /* of segmented code; else 0 and the most */
	uint32_t refs;		    /* blocks, dead ones too, that name it; without any it goes */
	struct code_page *page;
	uint32_t blocks[64]; /* living ones, by their offset */
	uint32_t crossing;   /* those that begin on the page before with an instruction that ends here; dead ones, too */
};

/*
 * A block lies in the arena, what describes it behind it, and its code in two pieces of the cache, hot and cold. There are
 * very many, so all of that is as small as can be. Blocks name each other by their arena offsets, 0 for none; inside a
 * block things are named by their distance from it (its "things", in units of THING) or from the start of a piece.
 */
enum { THING = 4, MOST_DESCRIPTION = 60 << 10 /* 14 bits of things, and room for relocations */ };
struct block {
	struct code_view *view;
	struct code_view *view2; /* of an instruction that crosses the page: it is the block's only one; else NULL */
	uint64_t grains;	 /* 64-byte pieces of the page that the block depends on */
	uint32_t next;		 /* of the same bucket */
	uint32_t crossing_next;
	uint32_t in;			     /* links that jump here: the first's arena offset */
	uint32_t code_start, cold_start;     /* its pieces, */
	uint16_t code_size, cold_size;	     /* and their bytes */
	uint16_t out, faults, relocs;	     /* things: its first link, arrays */
	uint16_t description;		     /* all of it in the arena, from this struct on, in units of THING */
	uint16_t straight;		     /* entry: from cold_start if straight_is_cold, else from code_start */
	uint8_t checked, saved, id_at;	     /* from code_start: entries, the view id that `checked` compares */
	uint8_t insns;			     /* guest instructions, the longest way through */
	uint16_t reloc_count;		     /* 0: it cannot be copied */
	uint16_t offset : 12;		     /* of its first instruction in the page */
	bool straight_is_cold : 1;
	bool plain : 1;			     /* no shared address checks */
	uint16_t flags_in;		     /* status flags it may read before writing them */
	uint16_t group_failures;	     /* times that C could not give a group its HVA */
	uint8_t fault_count;
	bool dead; /* written under the lock, atomically */
};

/* Where in a block a host fault can come from. */
struct fault_entry {
	uint16_t start; /* of the host instruction(s), from code_start */
	uint16_t site;	/* thing: what to interpret */
	uint8_t size;
	bool flags_in_host;
};

/* A place in translated code that calls a trampoline; named by its arena offset. */
struct site {
	uint16_t thing;		/* itself */
	uint16_t retry, resume; /* from code_start; 0: none */
	uint16_t insn;		/* thing, a struct interpreted; 0: decode it again */
	int16_t rsp_adj;	/* guest RSP is r11 + this before the instruction, */
	int16_t rsp_after;	/* and after it */
	uint32_t at : 12;	/* page offset of the guest instruction */
	uint32_t size : 10;	/* of the access or the group's extent */
	uint32_t own_offset : 10, own_size : 7; /* of the group's first access */
	uint32_t held : 4;	 /* guest register that SCRATCH holds afterwards; 0: none */
	uint32_t addr_group : 4; /* group whose HVA r9 holds afterwards */
	bool own_write : 1, is_write : 1, is_stack : 1;
	bool uses_unit : 1;	/* x87, MMX, SSE, CMPXCHG16B: may fault before its access does */
	bool aligned : 1;	/* it does if its operand is not aligned to its size */
	bool is_masked : 1;	/* parts of the access do not happen, and cannot fault */
	bool ends : 1;		/* it is the block's last */
};

/* An instruction that translated code has the interpreter execute. */
struct interpreted {
	insn_handler *run;
	struct insn insn;
};

/* A direct jump out of a block. */
struct link {
	int32_t target;		   /* from its block's view->va, modulo 2^32 in code that is not 64-bit */
	uint32_t to;		   /* a block, while it is linked */
	uint32_t in_next, in_prev; /* among those to `to` */
	uint16_t rel32;		   /* the displacement to patch: from cold_start if is_cold, else from code_start */
	uint16_t stub;		   /* where it points to while unlinked, from cold_start */
	uint32_t thing : 14;	   /* itself */
	uint32_t out_next : 14;	   /* thing, the block's next link */
	uint32_t entry : 2;	   /* enum link_entry */
	bool is_cold : 1, plain : 1;
};
_Static_assert(sizeof(struct block) == 72 && sizeof(struct site) == 20 && sizeof(struct link) == 24, "there are very many");
enum link_entry { LINK_STRAIGHT, LINK_SAVED, LINK_CHECKED };

struct arena {
	uint8_t *base;
	uint64_t size;
};

/* A part of cache and arena: see region.c. Protected by translator.lock. */
enum generation { GENERATION_YOUNG, GENERATION_OLD, GENERATIONS };
enum region_state { REGION_FREE, REGION_OPEN, REGION_CLOSED };
struct region {
	struct code_space space;
	uint64_t start, end, used, ready; /* in the arena */
	uint32_t *order;		  /* its blocks by address of their hot code */
	_Atomic uint32_t order_count;
	enum region_state state;
	enum generation generation;
	uint64_t opened; /* when: a counter */
};
enum { REGIONS = 8, ARENA_FIRST = 4096 /* offset 0 means none */, TRACE_BITS = 1 << 18, BLOCK_ROOM = 24 << 10 };

struct jump_cache_entry {
	gva_t pc;
	uint8_t *code; /* checked entry */
};
/* By address without its lowest two bits: targets that are near each other share a cache line. */
enum { JUMP_CACHE_ENTRIES = 1 << 16, JUMP_CACHE_DROPPED_BITS = 2 };
_Static_assert(JUMP_CACHE_ENTRIES * sizeof(struct jump_cache_entry) == ENGINE_TABLE_SIZE, "the table behind the vCPU");
static inline struct jump_cache_entry *jump_cache(struct vcpu *v)
{
	return (void *)((uint8_t *)v + ENGINE_TABLE_AT);
}
static inline uint32_t jump_cache_index(gva_t pc)
{
	return (uint32_t)pc >> JUMP_CACHE_DROPPED_BITS & (JUMP_CACHE_ENTRIES - 1);
}

enum { TRANSLATE_MAX_INSNS = 64, VIEW_HASH = 1 << 12, EXACT_HASH = 1 << 13, VIEW_POOL = 1 << 15, UNGROUPED_BITS = 1 << 16 };

/* One guest instruction on its way. */
struct tinsn {
	struct insn i;
	uint16_t at;	/* page offset */
	uint16_t live;	/* status flags alive after it */
	bool follow;	/* a direct jump or branch whose target is the next instruction here */
};

/* A memory access of the block, its address as roots and a constant: see group.c. */
struct access {
	int64_t disp;
	uint16_t base, index;
	uint8_t scale, seg, size, insn, group, stream;
	bool write, is_stack;
};

struct access_group {
	int64_t low, high; /* extent */
	unsigned members;
	bool write;
	bool established; /* its HVA is in vcpu.engine_group */
};
enum { MAX_ACCESSES = 96, MAX_GROUPS = 8, NO_GROUP = 15, MAX_STREAMS = 8, NO_STREAM = 0xff };

/* Trampolines' C functions, by what called. They return the host address to continue at. */
enum trampoline { TRAMP_MISS, TRAMP_GROUP, TRAMP_INTERPRET, TRAMP_LINK, TRAMP_LINK_HOST_FLAGS, TRAMP_INDIRECT, TRAMP_ENTRY, TRAMP_POLL,
		  TRAMP_FAULT, TRAMP_COUNT };

enum { PROBE_REFILL = 2 }; /* only make the stack's remembered entry that of the address */

/* How often C had to help, by reason. */
struct handler_counts {
	uint64_t interpreted[SEM_COUNT]; /* by enum insn_sem */
	uint64_t misses, slow_accesses, indirect_misses, entry_misses, host_faults;
};

struct translator { /* one per VM */
	_Atomic uint32_t lock;
	_Atomic bool stopping;	     /* a vCPU wants to flush: stay out */
	bool lockstep;		     /* the engine "verify": every block leaves at its end */
	struct codecache cache;
	struct arena arena;
	struct code_view *views[VIEW_HASH]; /* by GPA */
	struct code_view *exact[EXACT_HASH]; /* by GPA and linear address: a library is mapped elsewhere in each program */
	uint8_t ungrouped[UNGROUPED_BITS / 8]; /* by hash: blocks that are better off without groups; see block_ungroup() */
	struct code_view *view_pool, *free_views;
	uint32_t view_pool_used;
	struct region region[REGIONS], *open[GENERATIONS], *filling; /* filling: of the translation under way */
	uint64_t regions_opened;
	uint64_t trace[2][TRACE_BITS / 64];
	unsigned fresh_trace;
	enum generation wanted;		     /* what a region is to be emptied for */
	uint32_t *order;		     /* memory of the regions' */
	uint32_t next_id;
	_Atomic uint32_t published;	     /* counts blocks: release behind each, acquire where they are looked at */
	_Atomic bool want_flush;	     /* full: empty a region when nobody is inside */
	uint8_t *enter, *leave;	     /* trampolines, executable addresses */
	uint8_t *tramp[TRAMP_COUNT];
	uint8_t *probe_stack[3];     /* read, write, PROBE_REFILL: see trampoline.c */
	struct tinsn insns[TRANSLATE_MAX_INSNS]; /* scratch of the translation under way */
	struct reloc_log relocs;		 /* its */
	struct site nowhere;	     /* stand for what there is no room for; the block is then thrown away */
	struct link no_link;
	uint64_t blocks, copies, flushes, invalidated, host_bytes, guest_insns, links;
	struct handler_counts counts;	     /* of the vCPUs that are gone */
};

struct vcpu_translator { /* vcpu.translator */
	struct handler_counts counts;
	struct translator *t;
	_Atomic bool inside; /* in translated code or its handlers: addresses in the cache are held */
	uint64_t flushes_before; /* tlb_flush_seen when the handler was entered */
	void *outer[5]; /* the run loop's leave_buf */
	bool raises_out; /* exceptions go to the run loop, not straight to the guest: for tests that look at them */
	bool single; /* leave: the next instruction is the interpreter's */
	struct interpreted slow; /* of a slow access under way */
	struct lockstep *lockstep; /* verify.c */
};

/* The state of one translation. */
struct xlat {
	struct translator *t;
	struct vcpu *v; /* on whose behalf: watches pages, knows the CPUID */
	struct block *block;
	struct code_view *view;
	struct emit hot, cold;
	unsigned word; /* bytes of an address, a near branch's target and a stack slot: 8 or, in MODE_32, 4 */
	bool segmented; /* FLAVOUR_SEGMENTED: `word` is of linear addresses alone */
	const uint8_t *interpreter; /* in the cold part: has the current instruction interpreted; NULL: not there yet */
	struct tinsn *insn; /* the one being translated */
	unsigned count;
	unsigned loop_at; /* in a block that is a loop of itself: the instruction that it goes back to */
	bool flags_in_host, flags_saved; /* where the guest's status flags are, if alive */
	int16_t rsp_adj;		 /* pending change of guest RSP */
	int16_t rsp_before;		 /* the same at the start of the instruction */
	struct host_mem mem;		 /* the access just checked: [r9 + displacement] */
	struct access access[MAX_ACCESSES];
	struct access_group group[MAX_GROUPS];
	unsigned access_count, group_count, stream_count;
	const uint8_t *loop_head;	 /* the block is a loop of itself and goes back here; else NULL */
	uint8_t addr_group;		 /* group whose HVA is in r9 now */
	const uint8_t *held_at;		 /* at this place of the hot code guest register `held` is in SCRATCH, too */
	uint8_t held;
	uint32_t probe_rel32;		 /* cache offset of the jump back from the stack probe just emitted; 0: none */
	struct fault_entry fault[TRANSLATE_MAX_INSNS];
	unsigned faults;
	struct site *site[4];		 /* of this instruction: they resume at its end */
	uint8_t site_groups[4];		 /* groups established when each was made */
	unsigned sites;
	bool overflow;			 /* arena full */
	bool ended;			 /* the block's last exit has been emitted */
};
/* This place of the hot code, from code_start. */
static inline uint16_t hot_offset(const struct xlat *x)
{
	return (uint16_t)(x->hot.p - x->t->cache.rw - x->block->code_start);
}

/* --- translator.c --- */
void jump_cache_clear_entry(struct jump_cache_entry *cache, unsigned index);
static inline uint32_t arena_offset(const struct translator *t, const void *p)
{
	return (uint32_t)((const uint8_t *)p - t->arena.base);
}
static inline void *arena_at(const struct translator *t, uint32_t offset)
{
	return t->arena.base + offset;
}
static inline struct link *link_at(const struct translator *t, uint32_t offset)
{
	return offset ? arena_at(t, offset) : NULL;
}
static inline struct block *block_at(const struct translator *t, uint32_t offset)
{
	return offset ? arena_at(t, offset) : NULL;
}
/* Something of the block's own. */
static inline void *block_thing(const struct block *b, unsigned thing)
{
	return thing ? (uint8_t *)b + thing * THING : NULL;
}
static inline unsigned thing_of(const struct block *b, const void *p)
{
	return (unsigned)((const uint8_t *)p - (const uint8_t *)b) / THING;
}
static inline const struct block *site_block(const struct site *s)
{
	return (const void *)((const uint8_t *)s - s->thing * THING);
}
static inline struct block *link_block(const struct link *l)
{
	return (void *)((uint8_t *)l - l->thing * THING);
}
static inline struct link *link_next(const struct link *l)
{
	return block_thing(link_block(l), l->out_next);
}
/* Cache offsets. */
static inline uint32_t link_rel32(const struct link *l)
{
	const struct block *b = link_block(l);

	return (l->is_cold ? b->cold_start : b->code_start) + l->rel32;
}
static inline uint32_t link_stub(const struct link *l)
{
	return link_block(l)->cold_start + l->stub;
}
static inline uint32_t block_code_end(const struct block *b)
{
	return b->code_start + b->code_size;
}
static inline uint32_t block_checked(const struct block *b)
{
	return b->code_start + b->checked;
}
static inline uint32_t block_straight(const struct block *b)
{
	return (b->straight_is_cold ? b->cold_start : b->code_start) + b->straight;
}
/* A vCPU that waits for the lock does meanwhile what others may wait for it to do. v NULL: no vCPU thread. */
void translator_lock(struct translator *t, struct vcpu *v);
void translator_unlock(struct translator *t);
uint32_t flavour_of(const struct vcpu *v);
/* Do the ids in v->itlb stand for code of v's present flavour? */
bool flavour_is_noted(const struct vcpu *v);
void flavour_note(struct vcpu *v); /* from now on they do: those of another are forgotten */
/* What is added to RIP to make a linear address. */
static inline uint32_t code_base(const struct vcpu *v)
{
	return v->mode == MODE_64 ? 0 : (uint32_t)v->seg[SEG_CS].base;
}
static inline gva_t linear_rip(const struct vcpu *v, uint64_t rip)
{
	return v->mode == MODE_64 ? rip : (uint32_t)(rip + v->seg[SEG_CS].base);
}
static inline uint64_t rip_of(const struct vcpu *v, gva_t va)
{
	return v->mode == MODE_64 ? va : (uint32_t)(va - v->seg[SEG_CS].base);
}
/* RIP of linear address va in code of this view. */
static inline uint64_t view_rip(const struct code_view *w, gva_t va)
{
	return (w->flavour & FLAVOUR_MODE) == MODE_64 ? va : (uint32_t)(va - w->cs_base);
}
void translator_go_inside(struct vcpu *v); /* from here until go_outside nobody flushes the cache */
void translator_go_outside(struct vcpu *v);
void translator_enter(struct vcpu *v, const struct block *b);
bool engine_can_translate(const struct vcpu *v);
void translator_flush(struct vcpu *v); /* makes room; vCPU thread, outside translated code */
static inline struct translator *translator_of(const struct vcpu *v)
{
	return ((struct vcpu_translator *)v->translator)->t;
}

/* --- handlers.c --- */
void flags_to_vcpu(struct vcpu *v);   /* saved_flags -> rflags */
void flags_from_vcpu(struct vcpu *v);

/* --- block.c --- */
/* The block at v->rip, translating it if need be. Raises #PF. NULL: cannot be translated, interpret one instruction. */
struct block *block_get(struct vcpu *v, gva_t rip);
struct block *block_get_plain(struct vcpu *v, gva_t rip);
/* May b be entered now, as far as its page is concerned? Then the instruction TLB knows from here on. Raises #PF. */
bool block_is_current(struct vcpu *v, const struct block *b);
void block_link(struct translator *t, struct link *link, struct block *to);
/* Bytes changed: blocks made of them die; then the change, if there is one, is done. Takes the lock. */
void blocks_invalidate(struct vm *vm, struct vcpu *self, gpa_t gpa, uint64_t len, struct code_change *change);
/*
 * Groups of this block fail too often (pages of which it only reads most, tables that end at a page's end): from now on
 * each of its accesses checks for itself. Takes the lock.
 */
void block_ungroup(struct vcpu *v, struct block *b);
bool is_ungrouped(const struct translator *t, const struct block *b);
struct block *block_by_code(struct translator *t, uint32_t cache_offset);
/* Is there a living block at this offset of the page? Under the lock. */
bool block_is_at(struct translator *t, struct code_view *w, unsigned offset);
/* For region.c, under the lock. */
void block_remove(struct translator *t, struct block *b); /* a living one, for good */
void link_cut(struct translator *t, struct link *link);			   /* it leaves its target's list; its code is not touched */
void view_put(struct translator *t, struct code_view *w);
void view_forget_crossing(struct translator *t, struct code_view *w, struct block *b);

/* --- region.c, under the lock --- */
void regions_init(struct translator *t);
/* Choose the region for a block that begins here: t->filling. False: make room first. */
bool region_fill(struct translator *t, const struct code_view *w, unsigned offset);
struct region *region_of_code(struct translator *t, uint32_t cache_offset); /* any thread; of hot code, or NULL */
void regions_make_room(struct translator *t, struct vm *vm); /* all vCPUs are outside */
/* Memory of the region being filled, zeroed. `size` is a multiple of THING, `alignment` 4 or 8. NULL: no room. */
void *arena_alloc(struct translator *t, unsigned size, unsigned alignment);

/* --- copy.c, under the lock --- */
/* May blocks of this view be copies, or be copied? */
bool copy_is_possible(const struct translator *t, const struct code_view *w);
void copy_prepare(struct translator *t, struct xlat *x); /* before code is emitted */
void copy_note(struct translator *t, struct xlat *x);	 /* it has been */
/* A copy of a living block for the same place in another view of its page; not published yet. NULL: no room. */
struct block *block_copy(struct vcpu *v, struct translator *t, const struct block *from, struct code_view *w);

/* --- superblock.c --- */
/* Decode the path from `offset` of the page; returns how many instructions, 0: the first cannot be decoded. */
unsigned superblock_decode(struct xlat *x, uint16_t offset);
/* The one instruction at the end of the page that ends on x->block->view2. False: none. */
bool superblock_decode_crossing(struct xlat *x, uint16_t offset);
/* Does the instruction at this offset end on the next page? */
bool crosses_page(const uint8_t *page_hva, unsigned offset, enum insn_mode mode);
/* Linear address that the direct branch at this offset goes to. */
gva_t branch_target(const struct code_view *view, const struct insn *i, unsigned at);
/* Decode at an offset of the page; false: no instruction, or it crosses the page. */
bool decode_at(const struct code_view *view, unsigned offset, struct insn *i);
/* The block will depend on [offset, +len) of its page: watch it. */
void depend_on(struct xlat *x, unsigned offset, unsigned len);

/* --- liveness.c --- */
void liveness_compute(struct xlat *x);
/* Status flags whose old value does not outlive the instruction. */
uint16_t flags_killed(const struct insn *i);

/*
 * Are the flags that the block lives on of no use to it in the host's flags at its start, because a memory access or its end
 * comes before the first instruction that reads or merges them?
 */
bool flags_pass_through(const struct xlat *x);

/* --- translate.c --- */
/* Something of the block's in the arena, by its name, into SCRATCH: what trampolines are told. */
void emit_name(struct xlat *x, struct emit *e, const void *thing);
void emit_va(struct xlat *x, unsigned dst, gva_t va); /* an address relative to the block's */
/* Emit code for the t->insns[0..count). False: the cache is full. */
bool translate_block(struct xlat *x);

/* --- flags.c --- */
void flags_clobber(struct xlat *x);	 /* host flags are about to be destroyed */
void flags_save_all(struct xlat *x);	 /* someone else will look at them: put them into saved_flags */
void flags_need(struct xlat *x);	 /* the next instruction reads or merges them */
void flags_written(struct xlat *x);	 /* host flags are now the guest's */
void emit_flags_load(struct emit *e);	 /* saved_flags -> host flags; destroys SCRATCH */
void emit_flags_store(struct emit *e);	 /* host flags -> saved_flags; destroys SCRATCH */

/* --- memory.c --- */
/* Of the TLB entry that SCRATCH holds the index of. */
static inline struct host_mem tlb_tag(enum tlb_kind kind)
{
	return mem_index(TLB_BASE, SCRATCH, 0, kind * (int32_t)TLB_TABLE_BYTES);
}
static inline struct host_mem tlb_host(enum tlb_kind kind)
{
	return mem_index(TLB_BASE, SCRATCH, 0, kind * (int32_t)TLB_TABLE_BYTES + 8);
}
/* Index in bytes for the address in ADDR into SCRATCH. pushed: bytes on the stack. */
void emit_table_index(struct emit *e, unsigned pushed);
/* Make x->mem the host's operand for the memory operand. */
void memory_operand(struct xlat *x, unsigned size, bool write);
/* The same for [guest RSP + disp]. */
void memory_stack(struct xlat *x, int32_t disp, unsigned size, bool write);
/* Guest linear address of the memory operand + delta into ADDR, no check. */
void memory_address(struct xlat *x, int64_t delta);
/* Forget what the loop's streams remember: at its start. Destroys SCRATCH. */
void streams_clear(struct xlat *x);
/* The check alone, of the address in ADDR: leaves the HVA there. */
void memory_check(struct xlat *x, unsigned size, bool write);
/* A new site of the current instruction; never NULL. */
struct site *site_new(struct xlat *x);
/* A copy of the current instruction for the interpreter, as a thing of the block. */
uint16_t interpreted_new(struct xlat *x);
void sites_finish(struct xlat *x); /* end of instruction: its sites learn where to resume */

/* --- group.c --- */
void groups_find(struct xlat *x);
void groups_forget(struct xlat *x); /* HVAs kept so far may be stale */
bool is_own_loop(const struct xlat *x); /* does the block end in a branch back to its start? */
const struct access *group_access(struct xlat *x, bool is_stack);
bool group_lead(struct xlat *x, const struct access *a, struct access_group *rest);

/* --- registers.c --- */
extern const uint8_t host_register[16]; /* H_NONE: in memory */
unsigned reg_read(struct xlat *x, unsigned guest, unsigned scratch); /* host register holding it now */
void reg_load(struct xlat *x, unsigned size, unsigned host, unsigned guest); /* copy it (4: zero-extends) */
void reg_store(struct xlat *x, unsigned guest, unsigned host);
/* Of a guest register that lives in the vCPU. */
void slot_load(struct xlat *x, unsigned host, unsigned guest);
void slot_store(struct xlat *x, unsigned guest, unsigned host);
unsigned slot_held(const struct xlat *x); /* which of them SCRATCH holds, too, at this place of the hot code; 0: none */
void rsp_commit(struct xlat *x); /* apply the pending change of guest RSP */

/* --- segmented.c: FLAVOUR_SEGMENTED --- */
uint32_t segmented_flavour(const struct vcpu *v); /* the bits from FLAVOUR_SEGMENTED on */
/* May the instruction's segments be used without looking at their rights? False: interpret it. */
bool segmented_is_plain(const struct xlat *x);
/* The memory operand, as memory_operand(); its offset alone into ADDR. */
void segmented_operand(struct xlat *x, unsigned size, bool write);
void segmented_offset(struct xlat *x);
void segmented_push_check(struct xlat *x, unsigned slot, unsigned size); /* x->mem: `size` bytes of a new slot */
void segmented_pop_check(struct xlat *x, unsigned size);
void segmented_move_sp(struct xlat *x, int by);
bool translate_segmented(struct xlat *x); /* stack and LEA */

/* --- segment.c: MODE_32 --- */
bool is_flat(const struct vcpu *v); /* protected mode, ES, CS, SS and DS as FLAVOUR_FLAT says */
/* Checks of an access through FS or GS, before the instruction is translated. False: interpret it. */
bool segment_check(struct xlat *x);

/* --- reencode.c --- */
bool reencode(struct xlat *x); /* false: interpret it */
/* The operand in memory that is read or written; NULL: none. */
const struct operand *memory_operand_of(const struct insn *i);

/* --- flow.c, stack.c, special.c, system.c, string.c --- */
bool translate_flow(struct xlat *x);
bool translate_stack(struct xlat *x);
bool translate_special(struct xlat *x);
bool translate_system(struct xlat *x);
bool translate_string(struct xlat *x);
void exit_direct(struct xlat *x, struct emit *e, gva_t target);
/* In the cold part: if condition cc holds, execute from the current instruction on in a plain block. */
void exit_to_plain(struct xlat *x, unsigned cc);
void exit_indirect(struct xlat *x, int rsp_fix); /* target in ADDR */
void emit_interpret(struct xlat *x, bool ends);
/* RFLAGS as PUSHF shows it, from its two homes, into HOT_TEMP; VM and RF are zero. Flags are saved. */
void emit_flags_word(struct xlat *x);
/*
 * Where to jump for having the current instruction interpreted. RSP is committed and living flags are saved there: that is what
 * interpreter_ready() does before, once for all such jumps, whose conditions may then use the host's flags.
 */
const uint8_t *cold_interpreter(struct xlat *x);
void interpreter_ready(struct xlat *x);

/* --- trampoline.c --- */
int trampolines_emit(struct translator *t);
typedef uint64_t tramp_handler(struct vcpu *v, uint32_t site, uint64_t addr);
extern tramp_handler *const tramp_handlers[TRAMP_COUNT];

/* --- stats.c --- */
/* The counts of a vCPU that goes; no other may go at the same time. */
void stats_add(struct translator *t, const struct handler_counts *c);
void stats_log(const struct translator *t);

/* --- fault.c --- */
/* The host instruction just emitted since `start` may fault for the guest's reasons. */
void fault_note(struct xlat *x, const uint8_t *start);
/* RIP of the guest instruction translated at this host address; 0: none. */
uint64_t fault_guest_ip(struct vcpu *v, uint64_t host_ip);
void fault_thread(struct vcpu *v); /* this thread is about to run v's translated code */
struct vcpu *fault_thread_vcpu(void); /* the last one, or NULL */

#endif
