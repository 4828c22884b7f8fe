// SPDX-License-Identifier: BSD-2-Clause
/*
 * From decoded instructions to host code: the entries, then each instruction in turn by the first translator that
 * knows it, at last the exit to what follows.
 */
#include "softkvm/translate/translate.h"
#include "softkvm/translate/verify.h"

void emit_name(struct xlat *x, struct emit *e, const void *thing)
{
	emit_mov_imm(e, SCRATCH, arena_offset(x->t, thing));
	emit_reloc(e->log, emit_here(e) - 4, RELOC_NAME);
}

void emit_va(struct xlat *x, unsigned dst, gva_t va)
{
	struct emit *e = &x->hot;

	emit_mov_imm(e, dst, va);
	if (va > UINT32_MAX && (int64_t)va != (int32_t)va)
		emit_reloc(e->log, emit_here(e) - 8, RELOC_VA);
	else if (e->log)
		e->log->incomplete = true;
}

/* This place of the hot code, not far behind its start. */
static uint8_t entry_here(const struct xlat *x)
{
	return (uint8_t)hot_offset(x);
}

enum { CHECK_SIZE = 20, FLAGS_LOAD_SIZE = 14 }; /* bytes of the checked entry's comparison, and of emit_flags_load() */

/*
 * Is view `w` the one at its linear page now? Returns where the id compared with is, from code_start, which can be patched. `pad`
 * prefixes make the jump longer.
 */
static uint8_t emit_view_check(struct xlat *x, const struct code_view *w, unsigned pad)
{
	struct emit *e = &x->hot;
	uint8_t id_at;

	emit_align_patch(e, 6);
	emit_u8(e, 0x81); /* cmp dword [rcx + disp32], imm32 */
	emit_u8(e, 0xb9);
	emit_reloc(e->log, emit_here(e), RELOC_SLOT);
	emit_u32(e, itlb_slot(w->va) * 4);
	id_at = entry_here(x);
	emit_u32(e, w->id);
	while (pad--)
		emit_u8(e, 0x2e);
	emit_jcc(e, 5, emit_here(&x->cold));
	emit_name(x, &x->cold, x->block);
	emit_jmp(&x->cold, x->t->tramp[TRAMP_ENTRY]);
	return id_at;
}

/* In a block that wants its flags in saved_flags, `straight` is a detour: it puts them there. */
static void straight_saves(struct xlat *x)
{
	x->block->saved = entry_here(x);
	x->block->straight = (uint16_t)(x->cold.p - x->t->cache.rw - x->block->cold_start);
	x->block->straight_is_cold = true;
	emit_flags_store(&x->cold);
	emit_jmp(&x->cold, emit_here(&x->hot));
}

/* An instruction that crosses the page: all entries check both views. */
static void emit_crossing_entries(struct xlat *x)
{
	struct emit *e = &x->hot;
	struct block *b = x->block;

	emit_align(e, 16, 2);
	b->code_start = (uint32_t)(e->p - x->t->cache.rw);
	b->straight = entry_here(x);
	emit_flags_store(e);
	emit_align(e, 4, 2);
	b->checked = b->saved = entry_here(x);
	emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_OFF(code_ids)));
	b->id_at = emit_view_check(x, x->view, 0);
	emit_view_check(x, b->view2, 0);
	emit_flags_load(e);
}

/*
 * The checked entry. Flags are in saved_flags here, so comparing is free. Killing the block replaces the id in one
 * store. The sizes make what follows aligned, and the id lie in one quadword, without instructions that do nothing.
 */
static void emit_entries(struct xlat *x, bool saved)
{
	struct emit *e = &x->hot;
	struct block *b = x->block;
	bool loads = b->flags_in && !saved;
	unsigned pad = loads ? 0 : 2;

	emit_align(e, 16, CHECK_SIZE + pad + (loads ? FLAGS_LOAD_SIZE : 0));
	b->code_start = (uint32_t)(e->p - x->t->cache.rw);
	b->checked = entry_here(x);
	emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_OFF(code_ids)));
	b->id_at = emit_view_check(x, x->view, pad);
	if (saved) {
		straight_saves(x);
		return;
	}
	b->saved = entry_here(x);
	if (loads)
		emit_flags_load(e);
	b->straight = entry_here(x);
}

static void emit_site_jump(struct xlat *x, const struct site *s, enum trampoline which)
{
	emit_name(x, &x->hot, s);
	emit_jmp(&x->hot, x->t->tramp[which]);
}

uint16_t interpreted_new(struct xlat *x)
{
	struct interpreted *in = arena_alloc(x->t, sizeof(*in), 8);

	if (!in) {
		x->overflow = true;
		return 0;
	}
	in->insn = x->insn->i;
	in->run = choose_handler(x->v, &in->insn);
	return (uint16_t)thing_of(x->block, in);
}

void emit_interpret(struct xlat *x, bool ends)
{
	struct site *s;

	rsp_commit(x);
	flags_save_all(x);
	s = site_new(x);
	if (!s->insn)
		s->insn = interpreted_new(x);
	s->ends = ends;
	emit_site_jump(x, s, TRAMP_INTERPRET);
	x->flags_in_host = x->flags_saved = true;
	groups_forget(x);
	if (!ends) {
		sites_finish(x);
		streams_clear(x);
	}
	x->ended = ends;
}

/* Does the instruction exist for this guest in this mode? */
static bool is_offered(const struct xlat *x, const struct insn *i)
{
	unsigned f = i->row->feature;

	if (x->view->flavour & FLAVOUR_REAL && (i->row->attrs & INSN_PROT || i->prefixes & PFX_VEX))
		return false;
	return !f || !x->v->feature || x->v->feature[f / 32] >> (f % 32) & 1;
}

static void translate_one(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	x->rsp_before = x->rsp_adj;
	x->interpreter = NULL;
	if (x->rsp_adj > 8192 || x->rsp_adj < -8192)
		rsp_commit(x);
	if ((x->t->lockstep && verify_is_apart(i)) || !is_offered(x, i) ||
	    !segment_check(x) ||
	    !(translate_flow(x) || (x->segmented ? translate_segmented(x) : translate_stack(x)) || translate_special(x) || translate_system(x) || translate_string(x) ||
	      reencode(x)))
		emit_interpret(x, i->row->branch != BR_NONE || i->row->attrs & INSN_END);
	sites_finish(x);
}

static bool save_faults(struct xlat *x)
{
	struct fault_entry *f;

	x->block->fault_count = (uint8_t)x->faults;
	if (!x->faults)
		return true;
	f = arena_alloc(x->t, x->faults * (unsigned)sizeof(*f), 4);
	for (unsigned k = 0; f && k < x->faults; k++)
		f[k] = x->fault[k];
	if (f)
		x->block->faults = (uint16_t)thing_of(x->block, f);
	return f;
}

/* Where loop_back() goes: nothing is kept, flags are in the host's, guest RSP is up to date. */
static void begin_loop(struct xlat *x)
{
	rsp_commit(x);
	x->flags_saved = false;
	x->held_at = NULL;
	groups_forget(x);
	streams_clear(x);
	emit_align(&x->hot, 16, 0);
	if (!x->t->lockstep)
		x->loop_head = emit_here(&x->hot);
}

bool translate_block(struct xlat *x)
{
	struct tinsn *last = &x->t->insns[x->count - 1];
	bool saved;

	groups_find(x);
	saved = flags_pass_through(x);
	if (x->block->view2)
		emit_crossing_entries(x);
	else
		emit_entries(x, saved);
	x->loop_head = NULL;
	x->flags_in_host = !saved;
	x->flags_saved = saved;
	x->rsp_adj = 0;
	x->addr_group = NO_GROUP;
	x->held_at = NULL;
	x->block->insns = (uint8_t)x->count;
	for (unsigned k = 0; k < x->count; k++) {
		x->insn = &x->t->insns[k];
		if (k == x->loop_at && x->stream_count)
			begin_loop(x);
		translate_one(x);
	}
	if (!x->ended) {
		rsp_commit(x);
		exit_direct(x, &x->hot, x->view->va + last->at + last->i.len);
	}
	x->block->code_size = hot_offset(x);
	x->block->cold_size = (uint16_t)(x->cold.p - x->t->cache.rw - x->block->cold_start);
	x->block->insns = (uint8_t)x->count;
	x->t->guest_insns += x->count;
	x->t->host_bytes += x->block->code_size;
	return save_faults(x) && !x->overflow && !x->hot.overflow && !x->cold.overflow;
}
