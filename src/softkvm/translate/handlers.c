// SPDX-License-Identifier: BSD-2-Clause
/*
 * What translated code calls C for. A handler finds the guest's registers in the vCPU, brings RSP, RIP and RFLAGS up to date
 * from its site, does its work and returns the host address to go on at. It may raise or leave instead: everything
 * the architecture knows is in the vCPU then.
 *
 * The vector state is live here. Instructions whose interpretation needs it at rest say so (needs_rest); the interpreter's
 * own calls to the outside put it to rest themselves, so it is brought back wherever the guest is entered again.
 */
#include "softkvm/fpu.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/translate.h"
#include "softkvm/translate/verify.h"

enum { MANY_GROUP_FAILURES = 2000 };
enum { SAHF_FLAGS = FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF };

void flags_to_vcpu(struct vcpu *v)
{
	uint64_t saved = v->engine_hot[HOT_SAVED_FLAGS], flags = saved >> 8 & SAHF_FLAGS;

	if (saved & 1)
		flags |= FLAG_OF;
	v->rflags = (v->rflags & ~(uint64_t)FLAGS_STATUS) | flags;
}

void flags_from_vcpu(struct vcpu *v)
{
	v->engine_hot[HOT_SAVED_FLAGS] = ((v->rflags & SAHF_FLAGS) | FLAG_FIXED) << 8 | !!(v->rflags & FLAG_OF);
}

static struct handler_counts *counts_of(struct vcpu *v)
{
	return &((struct vcpu_translator *)v->translator)->counts;
}

static uint64_t host_address(const struct translator *t, uint32_t cache_offset)
{
	return (uintptr_t)t->cache.rx + cache_offset;
}

static uint64_t leave(struct vcpu *v)
{
	return (uintptr_t)translator_of(v)->leave;
}

static struct jump_cache_entry *jump_cache_slot(struct vcpu *v, gva_t pc)
{
	return &jump_cache(v)[jump_cache_index(pc)];
}

static gva_t block_va(const struct block *b)
{
	return b->view->va + b->offset;
}

static uint64_t block_rip(const struct block *b)
{
	return view_rip(b->view, block_va(b));
}

static void remember(struct vcpu *v, const struct block *b)
{
	*jump_cache_slot(v, block_va(b)) = (struct jump_cache_entry){ block_va(b), translator_of(v)->cache.rx + block_checked(b) };
}

/* Go on in translated code at v->rip, or leave if that is for others to do. */
static uint64_t go_on(struct vcpu *v)
{
	struct vcpu_translator *vt = (void *)v->translator;
	const gva_t va = linear_rip(v, v->rip);
	const struct jump_cache_entry *e = jump_cache_slot(v, va);
	struct block *b;

	if (!atomic_load_explicit(&v->cont, memory_order_relaxed) || v->shadow || !engine_can_translate(v) || vt->t->want_flush ||
	    vt->t->lockstep)
		return leave(v);
	if (!v->fpu_live)
		fpu_enter(v);
	v->rflags &= ~(uint64_t)FLAG_RF; /* no code breakpoints here that it could hold off */
	if (e->pc == va && flavour_is_noted(v)) {
		flags_from_vcpu(v);
		return (uintptr_t)e->code;
	}
	b = block_get(v, v->rip);
	if (!b || vt->t->want_flush) {
		vt->single = !b;
		return leave(v);
	}
	remember(v, b);
	flags_from_vcpu(v);
	return host_address(translator_of(v), block_straight(b));
}

/* Guest RSP is what r11 holds + a constant that its block knows. */
static void move_rsp(struct vcpu *v, const struct site *s, int64_t by)
{
	const struct block *b = site_block(s);

	uint32_t flavour = b->view->flavour;
	uint64_t rsp = v->gpr[RSP] + (uint64_t)by;

	if (!by || (flavour & FLAVOUR_MODE) == MODE_64)
		v->gpr[RSP] = rsp;
	else if (flavour & FLAVOUR_SEGMENTED && !(flavour & FLAVOUR_SS32))
		v->gpr[RSP] = (v->gpr[RSP] & ~0xffffull) | (uint16_t)rsp;
	else
		v->gpr[RSP] = (uint32_t)rsp;
}

/* Address of the instruction behind the one at v->rip. */
static gva_t next_rip(const struct vcpu *v, const struct interpreted *in)
{
	gva_t next = v->rip + in->insn.len;

	return in->insn.mode == MODE_64 ? next : (uint32_t)next;
}

/*
 * What a trampoline was called with. Another vCPU may have made it; that its code was reached orders what it wrote, and this
 * says so. Pairs with the end of block_make().
 */
static void *named(const struct vcpu *v, uint32_t offset)
{
	struct translator *t = translator_of(v);

	(void)atomic_load_explicit(&t->published, memory_order_acquire);
	return arena_at(t, offset);
}

/* Registers as they are before the site's instruction. */
static const struct site *site_enter(struct vcpu *v, uint32_t offset)
{
	const struct site *s = named(v, offset);
	const struct block *b = site_block(s);

	flags_to_vcpu(v);
	move_rsp(v, s, s->rsp_adj);
	v->rip = v->insn_rip = view_rip(b->view, b->view->va + s->at);
	((struct vcpu_translator *)v->translator)->flushes_before =
		atomic_load_explicit(&v->tlb_flush_seen, memory_order_relaxed);
	return s;
}

/* Have TLB entries been flushed since this handler was entered? Then HVAs that the block keeps may be stale. */
static bool has_flushed(const struct vcpu *v)
{
	return ((struct vcpu_translator *)v->translator)->flushes_before !=
	       atomic_load_explicit(&v->tlb_flush_seen, memory_order_relaxed);
}

/* Behind the instruction if nothing has changed that its block was made for; else look anew. */
static uint64_t resume(struct vcpu *v, const struct site *s, gva_t next)
{
	struct translator *t = translator_of(v);
	const struct block *b = site_block(s);

	if (s->ends || !s->resume || v->rip != next || __atomic_load_n(&b->dead, __ATOMIC_RELAXED) || v->shadow ||
	    !v->fpu_live || has_flushed(v) || !atomic_load_explicit(&v->cont, memory_order_relaxed))
		return go_on(v);
	flags_from_vcpu(v);
	move_rsp(v, s, -s->rsp_after);
	if (s->addr_group != NO_GROUP)
		v->engine_cold[COLD_RESULT] = v->engine_group[s->addr_group];
	if (s->held)
		v->engine_cold[COLD_SCRATCH] = v->gpr[s->held];
	return host_address(t, b->code_start + s->resume);
}

/* Does its semantics look at vector state, or call code that may use vector registers? */
static bool needs_rest(const struct insn *i)
{
	if (i->row->attrs & (INSN_HOST | INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX))
		return true;
	switch (i->row->sem) {
	case SEM_FXSAVE:
	case SEM_FXRSTOR:
	case SEM_XSAVE:
	case SEM_XSAVEOPT:
	case SEM_XSAVEC:
	case SEM_XSAVES:
	case SEM_XRSTOR:
	case SEM_XRSTORS:
	case SEM_IN:
	case SEM_OUT:
	case SEM_INS:
	case SEM_OUTS:
	case SEM_RDMSR:
	case SEM_WRMSR:
	case SEM_CPUID:
	case SEM_HLT:
	case SEM_VMCALL:
	case SEM_VMMCALL:
	case SEM_XSETBV:
	case SEM_MOV_TO_CR:
	case SEM_MOV_FROM_CR:
		return true;
	default:
		return false;
	}
}

static void interpret_one(struct vcpu *v, const struct interpreted *in)
{
	counts_of(v)->interpreted[in->insn.row->sem]++;
	if (needs_rest(&in->insn) && v->fpu_live)
		fpu_leave(v);
	v->insn = &in->insn;
	v->insn_rip = v->rip;
	v->rip += in->insn.len;
	if ((in->insn.mode) != MODE_64)
		v->rip = (uint32_t)v->rip;
	in->run(v, &in->insn);
	v->steps++;
	if (!v->fpu_live)
		fpu_enter(v);
}

static uint64_t on_interpret(struct vcpu *v, uint32_t offset, uint64_t addr)
{
	const struct site *s = site_enter(v, offset);
	const struct interpreted *in = block_thing(site_block(s), s->insn);
	gva_t next = next_rip(v, in);

	if (translator_of(v)->lockstep && verify_is_apart(&in->insn))
		return leave(v);
	interpret_one(v, in);
	return resume(v, s, next);
}

/* The whole instruction by the interpreter: device, page crossing, watched page, fault. */
static uint64_t slow_access(struct vcpu *v, const struct site *s)
{
	struct vcpu_translator *vt = (void *)v->translator;
	const struct block *b = site_block(s);
	gva_t next;

	vt->counts.slow_accesses++;
	if (s->insn) {
		const struct interpreted *in = block_thing(b, s->insn);

		next = next_rip(v, in);
		interpret_one(v, in);
		return resume(v, s, next);
	}
	if (!decode_at(b->view, s->at, &vt->slow.insn))
		return go_on(v); /* changed under our feet */
	vt->slow.run = choose_handler(v, &vt->slow.insn);
	next = next_rip(v, &vt->slow);
	interpret_one(v, &vt->slow);
	return resume(v, s, next);
}

static bool refill_stack(struct vcpu *v, gva_t gva)
{
	const struct tlb_entry *e = (const void *)((const char *)v->tlb[TLB_WRITE] + ((gva >> 8) & v->tlb_mask));

	if ((gva ^ e->tag) >= PAGE_SIZE)
		return false;
	v->stack = *e;
	return true;
}

/*
 * Faults that come before the #PF of a missing page: #GP for a misaligned vector, #MF for a pending x87 exception. And
 * masked accesses, which need not fault at all.
 */
static bool may_fault_otherwise(const struct site *s, gva_t gva, unsigned size)
{
	uint16_t fsw;

	if (!s->uses_unit)
		return s->is_masked;
	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	return fsw & 0x80 || s->is_masked || (s->aligned && gva & (size - 1));
}

/* HVA of one access of the site's instruction, or NULL: the slow way. */
static void *resolve_access(struct vcpu *v, const struct site *s, gva_t gva)
{
	bool notify = false;
	void *p;

	if (s->is_write && (gva & PAGE_MASK) == v->beside.tag)
		return mmu_store_beside_code(v, gva, s->size);
	p = mmu_host_ptr(v, gva, s->size, s->is_write, &notify);
	return p && notify ? mmu_store_beside_code(v, gva, s->size) : p;
}

static uint64_t on_miss(struct vcpu *v, uint32_t offset, uint64_t gva)
{
	struct translator *t = translator_of(v);
	const struct site *s = site_enter(v, offset);
	void *p;

	counts_of(v)->misses++;
	p = is_canonical(v, gva) && !may_fault_otherwise(s, gva, s->size) ? resolve_access(v, s, gva) : NULL;
	if (!p)
		return slow_access(v, s);
	if (has_flushed(v))
		return go_on(v);
	if (s->is_stack)
		refill_stack(v, gva);
	move_rsp(v, s, -s->rsp_adj);
	v->engine_cold[COLD_RESULT] = (uintptr_t)p;
	return host_address(t, site_block(s)->code_start + s->retry);
}

/* The HVA for a group's whole extent if that can be had; tries the leading access alone, which may raise its fault. */
static void *resolve_group(struct vcpu *v, const struct site *s, gva_t gva)
{
	enum tlb_kind kind = tlb_data_kind(s->is_write);
	bool notify = false;
	void *p;

	if ((gva & 4095) + s->size > PAGE_SIZE || !is_canonical(v, gva) || may_fault_otherwise(s, gva + s->own_offset, s->own_size))
		return tlb_probe(v, kind, gva, s->size);
	if (s->is_write && (gva & PAGE_MASK) == v->beside.tag)
		return mmu_store_beside_code(v, gva, s->size);
	mmu_host_ptr(v, gva + s->own_offset, s->own_size, s->own_write, &notify);
	p = tlb_probe(v, kind, gva, s->size);
	return !p && s->own_write && notify ? mmu_store_beside_code(v, gva, s->size) : p;
}

/*
 * A group's check failed, other than by crossing its page. If the HVA can be had after all the check is passed,
 * else the rest of the block runs plainly.
 */
static uint64_t on_group(struct vcpu *v, uint32_t offset, uint64_t gva)
{
	struct vcpu_translator *vt = (void *)v->translator;
	const struct site *s = site_enter(v, offset);
	void *p = resolve_group(v, s, gva);
	struct block *b;

	vt->counts.misses++;
	if (p && !has_flushed(v)) {
		if (s->is_stack)
			refill_stack(v, gva);
		move_rsp(v, s, -s->rsp_adj);
		v->engine_cold[COLD_RESULT] = (uintptr_t)p;
		return host_address(vt->t, site_block(s)->code_start + s->retry);
	}
	if (vt->t->lockstep)
		return leave(v);
	b = (struct block *)site_block(s);
	if (__atomic_add_fetch(&b->group_failures, 1, __ATOMIC_RELAXED) == MANY_GROUP_FAILURES)
		block_ungroup(v, b);
	b = block_get_plain(v, v->rip);
	if (!b || vt->t->want_flush) {
		vt->single = !b;
		return leave(v);
	}
	return host_address(translator_of(v), block_straight(b));
}

static gva_t link_target(const struct link *l)
{
	const struct code_view *w = link_block(l)->view;
	gva_t target = w->va + (gva_t)l->target;

	return (w->flavour & FLAVOUR_MODE) == MODE_64 ? target : (uint32_t)target;
}

static uint64_t on_link(struct vcpu *v, uint32_t offset, uint64_t addr)
{
	struct vcpu_translator *vt = (void *)v->translator;
	struct link *l = named(v, offset);
	struct block *b;

	flags_to_vcpu(v);
	v->rip = v->insn_rip = view_rip(link_block(l)->view, link_target(l));
	if (!atomic_load_explicit(&v->cont, memory_order_relaxed) || vt->t->lockstep)
		return leave(v);
	branch_check(v, v->rip); /* the path has run out of what is canonical, or of its segment */
	b = l->plain ? block_get_plain(v, v->rip) : block_get(v, v->rip);
	if (!b || vt->t->want_flush) {
		vt->single = !b;
		return leave(v);
	}
	translator_lock(vt->t, v);
	block_link(vt->t, l, b);
	translator_unlock(vt->t);
	return host_address(translator_of(v), block_straight(b));
}

/* Enter at v->rip from an indirect branch, and remember how. */
static uint64_t enter_remembering(struct vcpu *v)
{
	struct vcpu_translator *vt = (void *)v->translator;
	struct block *b = block_get(v, v->rip);

	if (!b || vt->t->want_flush) {
		vt->single = !b;
		return leave(v);
	}
	remember(v, b);
	return host_address(translator_of(v), block_straight(b));
}

static uint64_t on_indirect(struct vcpu *v, uint32_t offset, uint64_t target)
{
	const struct site *s = site_enter(v, offset);
	uint64_t rip = rip_of(v, target);

	counts_of(v)->indirect_misses++;
	branch_check(v, rip); /* raises with RIP and RSP as before the branch */
	move_rsp(v, s, -s->rsp_adj);
	v->rip = rip;
	if (!atomic_load_explicit(&v->cont, memory_order_relaxed) || translator_of(v)->lockstep)
		return leave(v);
	return enter_remembering(v);
}

static uint64_t on_entry(struct vcpu *v, uint32_t offset, uint64_t addr)
{
	const struct block *b = named(v, offset);

	counts_of(v)->entry_misses++;
	flags_to_vcpu(v);
	v->rip = rip_of(v, block_va(b)); /* the block may be one of another code segment's */
	if (!atomic_load_explicit(&v->cont, memory_order_relaxed))
		return leave(v); /* that was what `checked` wanted to know */
	vcpu_use_code_ids(v); /* whoever called out may have been late: then that is over */
	if (!translator_of(v)->want_flush && block_is_current(v, b))
		return host_address(translator_of(v), block_straight(b));
	return enter_remembering(v);
}

static uint64_t on_poll(struct vcpu *v, uint32_t offset, uint64_t addr)
{
	const struct block *b = named(v, offset);

	flags_to_vcpu(v);
	v->rip = block_rip(b);
	return leave(v);
}

/* A host fault in translated code: the interpreter executes the instruction and raises what is due. */
static uint64_t on_fault(struct vcpu *v, uint32_t offset, uint64_t addr)
{
	const struct site *s = site_enter(v, offset);

	counts_of(v)->host_faults++;
	return slow_access(v, s);
}

tramp_handler *const tramp_handlers[TRAMP_COUNT] = {
	[TRAMP_MISS] = on_miss,
	[TRAMP_GROUP] = on_group,
	[TRAMP_INTERPRET] = on_interpret,
	[TRAMP_LINK] = on_link,
	[TRAMP_LINK_HOST_FLAGS] = on_link,
	[TRAMP_INDIRECT] = on_indirect,
	[TRAMP_ENTRY] = on_entry,
	[TRAMP_POLL] = on_poll,
	[TRAMP_FAULT] = on_fault,
};
