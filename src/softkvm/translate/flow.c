// SPDX-License-Identifier: BSD-2-Clause
/*
 * Branches and the ways out of a block.
 *
 * A direct exit is a jump that at first goes to a stub in the cold part, which has C look the target up and patch the jump.
 * Jumps backward poll for attention first, without touching flags (JRCXZ); everything else that can make an endless loop
 * goes through a `checked` entry, which polls.
 *
 * An indirect exit looks in the jump cache for its target's linear address. The cache may hold blocks of other
 * address spaces or dead ones: `checked` finds out.
 */
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/translate.h"

static struct link *link_new(struct xlat *x, gva_t target, enum link_entry entry)
{
	struct link *l = arena_alloc(x->t, sizeof(*l), 4);

	if (!l) {
		x->overflow = true;
		return &x->t->no_link;
	}
	l->thing = thing_of(x->block, l);
	l->out_next = x->block->out;
	x->block->out = l->thing;
	l->target = (int32_t)(target - x->view->va);
	l->entry = entry;
	return l;
}

/* The stub of a link, at e's end. Flags are in the host's registers if the link is straight. */
static const uint8_t *emit_stub(struct xlat *x, struct emit *e, struct link *l)
{
	const uint8_t *stub = emit_here(e);

	l->stub = (uint16_t)(e->p - x->t->cache.rw - x->block->cold_start);
	emit_name(x, e, l);
	emit_jmp(e, x->t->tramp[l->entry == LINK_STRAIGHT ? TRAMP_LINK_HOST_FLAGS : TRAMP_LINK]);
	return stub;
}

static void note_rel32(struct xlat *x, struct emit *e, struct link *l)
{
	l->is_cold = e == &x->cold;
	l->rel32 = (uint16_t)(e->p - 4 - x->t->cache.rw - (l->is_cold ? x->block->cold_start : x->block->code_start));
}

static bool in_page(const struct xlat *x, gva_t target)
{
	return (target & PAGE_MASK) == x->view->va;
}

static gva_t insn_va(const struct xlat *x)
{
	return x->view->va + x->insn->at;
}

/* A linear address in the block's mode. */
static gva_t wrap(const struct xlat *x, gva_t va)
{
	return x->word == 4 ? (uint32_t)va : va;
}

static gva_t next_va(const struct xlat *x)
{
	return wrap(x, insn_va(x) + x->insn->i.len);
}

static gva_t target_va(const struct xlat *x)
{
	return branch_target(x->view, &x->insn->i, x->insn->at);
}

/*
 * May the direct branch go where it goes? Else the interpreter raises #GP at it. That takes those, too, that go so far
 * that a link cannot say it.
 */
static bool is_good_target(const struct xlat *x)
{
	gva_t target = target_va(x);
	int64_t distance = (int64_t)(target - x->view->va);

	return x->word == 8 ? is_canonical(x->v, target) && distance == (int32_t)distance : view_rip(x->view, target) <= x->view->cs_limit;
}

/* How to enter `target`, given where flags are; saves them if they must be. */
static enum link_entry choose_entry(struct xlat *x, struct emit *e, gva_t target)
{
	if (in_page(x, target))
		return x->flags_in_host || !x->flags_saved ? LINK_STRAIGHT : LINK_SAVED;
	if (x->flags_in_host && !x->flags_saved)
		emit_flags_store(e);
	return LINK_CHECKED;
}

void exit_direct(struct xlat *x, struct emit *e, gva_t va)
{
	gva_t target = wrap(x, va);
	enum link_entry entry = choose_entry(x, e, target);
	struct link *l = link_new(x, target, entry);
	uint8_t *poll = NULL;

	if (entry != LINK_CHECKED && target <= insn_va(x)) {
		emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_OFF(cont)));
		poll = emit_jrcxz_forward(e);
	}
	emit_align_patch(e, 1);
	if (e == &x->cold) {
		uint8_t *rel = emit_jmp_forward(e);

		note_rel32(x, e, l);
		if (poll)
			emit_patch8(e, poll, emit_here(e));
		emit_patch32(e, rel, emit_stub(x, e, l));
		return;
	}
	emit_jmp(e, emit_stub(x, &x->cold, l));
	note_rel32(x, e, l);
	if (poll) {
		emit_patch8(e, poll, emit_here(e));
		emit_jmp(e, x->t->cache.rx + x->block->cold_start + l->stub);
	}
}

void exit_to_plain(struct xlat *x, unsigned cc)
{
	struct emit *e = &x->cold;
	struct link *l = link_new(x, insn_va(x), LINK_SAVED);
	uint8_t *skip = emit_jcc_forward(e, cc ^ 1), *rel;

	l->plain = true;
	if (x->rsp_before)
		emit_lea(e, x->word, GUEST_RSP, mem_base(GUEST_RSP, x->rsp_before));
	emit_align_patch(e, 1);
	rel = emit_jmp_forward(e);
	note_rel32(x, e, l);
	emit_patch32(e, rel, emit_stub(x, e, l));
	emit_patch32(e, skip, emit_here(e));
}

/* Leave for `target` if condition cc holds; the path goes on otherwise. */
static void side_exit(struct xlat *x, unsigned cc, gva_t target)
{
	int16_t adj = x->rsp_adj;

	if (in_page(x, target) && !adj && target > insn_va(x)) {
		struct link *l = link_new(x, target, LINK_STRAIGHT);

		emit_align_patch(&x->hot, 2);
		emit_jcc(&x->hot, cc, emit_stub(x, &x->cold, l));
		note_rel32(x, &x->hot, l);
		return;
	}
	emit_jcc(&x->hot, cc, emit_here(&x->cold));
	if (adj)
		emit_lea(&x->cold, x->word, GUEST_RSP, mem_base(GUEST_RSP, adj));
	exit_direct(x, &x->cold, target);
}

/* Back to the head of a block that is its own loop, streams kept; flags are in the host's. */
static void loop_back(struct xlat *x)
{
	struct emit *e = &x->hot;
	uint8_t *poll;

	emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_OFF(cont)));
	poll = emit_jrcxz_forward(e);
	emit_jmp(e, x->loop_head);
	emit_patch8(e, poll, emit_here(e));
	emit_jmp(e, emit_here(&x->cold));
	emit_flags_store(&x->cold);
	emit_name(x, &x->cold, x->block);
	emit_jmp(&x->cold, x->t->tramp[TRAMP_POLL]);
}

static void translate_jcc(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	gva_t next = next_va(x), target = target_va(x);
	bool last = x->insn == &x->t->insns[x->count - 1];
	unsigned cc = i->opcode & 15;

	flags_need(x);
	if (x->insn->follow) {
		side_exit(x, cc ^ 1, next);
		return;
	}
	if (last && in_page(x, target) && target <= insn_va(x)) {
		rsp_commit(x);
		side_exit(x, cc ^ 1, next);
		if (x->loop_head)
			loop_back(x);
		else
			exit_direct(x, &x->hot, target);
		x->ended = true;
	} else {
		side_exit(x, cc, target);
	}
}

/* rCX, as wide as the address size, into SCRATCH; less one for LOOP. */
static void count_registers(struct xlat *x, bool is_loop)
{
	unsigned width = x->insn->i.mem.addr_size;
	struct emit *e = &x->hot;

	if (!is_loop && width == 2) {
		emit_rr(e, 0xb7 | 1 << OP_MAP_SHIFT, SCRATCH, GUEST_RCX);
		return;
	}
	if (!is_loop) {
		emit_mov(e, width, SCRATCH, GUEST_RCX);
		return;
	}
	emit_lea(e, width == 8 ? 8 : 4, SCRATCH, mem_base(GUEST_RCX, -1));
	if (width == 2) {
		emit_rr(e, 0x89 | OP_66, SCRATCH, GUEST_RCX);
		emit_rr(e, 0xb7 | 1 << OP_MAP_SHIFT, SCRATCH, SCRATCH);
	} else {
		emit_mov(e, width, GUEST_RCX, SCRATCH);
	}
}

/*
 * LOOP, LOOPE, LOOPNE and JCXZ: no flags are changed, so JRCXZ decides here, too. They end their block, which leaves for
 * the next instruction through the cold part.
 */
static bool translate_count_branch(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	uint16_t sem = i->row->sem;
	struct emit *e = &x->hot;
	uint8_t *zero, *skip = NULL;

	rsp_commit(x);
	flags_need(x);
	count_registers(x, sem != SEM_JCXZ);
	zero = emit_jrcxz_forward(e);
	if (sem == SEM_LOOPE || sem == SEM_LOOPNE)
		skip = emit_jcc_forward(e, sem == SEM_LOOPE ? 5 : 4);
	emit_jmp(e, emit_here(&x->cold));
	exit_direct(x, &x->cold, sem == SEM_JCXZ ? next_va(x) : target_va(x));
	if (skip)
		emit_patch32(e, skip, emit_here(e));
	emit_patch8(e, zero, emit_here(e));
	exit_direct(x, e, sem == SEM_JCXZ ? target_va(x) : next_va(x));
	x->ended = true;
	return true;
}

/* rsp_fix: how far this instruction has moved guest RSP, to take back if the target is not canonical. */
void exit_indirect(struct xlat *x, int rsp_fix)
{
	const int32_t cache = ENGINE_TABLE_AT - ENV_BIAS;
	const unsigned scale = 4 - JUMP_CACHE_DROPPED_BITS; /* entries have 16 bytes */
	struct emit *e = &x->hot;
	struct site *s = site_new(x);

	s->rsp_adj = (int16_t)-rsp_fix;
	emit_mov(e, 4, SCRATCH, ADDR);
	emit_alu_imm(e, 4, ALU_AND, SCRATCH, (JUMP_CACHE_ENTRIES - 1) << JUMP_CACHE_DROPPED_BITS);
	emit_alu_rm(e, 8, ALU_CMP, ADDR, mem_index(ENV, SCRATCH, scale, cache + (int32_t)offsetof(struct jump_cache_entry, pc)));
	emit_jcc(e, 5, emit_here(&x->cold));
	emit_jmp_mem(e, mem_index(ENV, SCRATCH, scale, cache + (int32_t)offsetof(struct jump_cache_entry, code)));
	emit_name(x, &x->cold, s);
	emit_jmp(&x->cold, x->t->tramp[TRAMP_INDIRECT]);
	x->ended = true;
}

/* Push the return address, in segmented code. */
static void segmented_call_push(struct xlat *x)
{
	unsigned size = x->insn->i.op_size;

	segmented_push_check(x, size, size);
	emit_store_imm32(&x->hot, size, x->mem, (int32_t)view_rip(x->view, next_va(x)));
	segmented_move_sp(x, -(int)size);
}

static void emit_call_push(struct xlat *x, gva_t next)
{
	if (x->segmented) {
		segmented_call_push(x);
		return;
	}
	memory_stack(x, -(int)x->word, x->word, true);
	if (x->word == 4 || (int64_t)next == (int32_t)next) {
		x->t->relocs.incomplete = true;
		emit_store_imm32(&x->hot, x->word, x->mem, (int32_t)next);
	} else {
		emit_va(x, SCRATCH, next);
		emit_store(&x->hot, 8, x->mem, SCRATCH);
	}
	x->rsp_adj = (int16_t)(x->rsp_adj - (int)x->word);
	rsp_commit(x);
}

/* ADDR holds where a branch of segmented code goes: beyond the limit it is the interpreter's. Nothing has changed yet. */
static void segmented_target_check(struct xlat *x)
{
	uint32_t limit = x->view->cs_limit;

	if (limit == 0xffffffff || (limit >= 0xffff && x->insn->i.op_size == 2))
		return;
	if (!x->interpreter)
		x->interpreter = cold_interpreter(x);
	emit_alu_imm(&x->hot, 4, ALU_CMP, ADDR, (int32_t)limit);
	emit_jcc(&x->hot, 7 /* A */, x->interpreter);
}

/* ADDR holds an offset in the code segment: on there. */
static void segmented_exit(struct xlat *x, int rsp_fix)
{
	if (x->view->cs_base)
		emit_alu_imm(&x->hot, 4, ALU_ADD, ADDR, (int32_t)x->view->cs_base);
	exit_indirect(x, rsp_fix);
}

static void translate_ret(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	int moved = (int)i->op_size + (i->operand_count ? (int)(uint16_t)i->imm : 0);

	flags_save_all(x);
	if (x->segmented) {
		segmented_pop_check(x, i->op_size);
		emit_load(&x->hot, i->op_size, ADDR, x->mem);
		x->flags_in_host = false;
		segmented_target_check(x);
		segmented_move_sp(x, moved);
		segmented_exit(x, moved);
		return;
	}
	memory_stack(x, 0, x->word, false);
	emit_load(&x->hot, x->word, ADDR, x->mem);
	rsp_commit(x);
	emit_lea(&x->hot, x->word, GUEST_RSP, mem_base(GUEST_RSP, moved));
	exit_indirect(x, moved);
}

/* The branch's target, from a register or from memory, into ADDR. */
static void load_target(struct xlat *x)
{
	const struct operand *o = &x->insn->i.operand[0];

	if (o->kind == OPK_MEM) {
		memory_operand(x, o->size, false);
		emit_load(&x->hot, o->size, ADDR, x->mem);
		x->addr_group = NO_GROUP; /* its HVA is no longer there for the push */
	} else if (o->size == 2) {
		emit_rr(&x->hot, 0xb7 | 1 << OP_MAP_SHIFT, ADDR, host_register[o->reg]); /* movzx */
	} else {
		reg_load(x, x->word, ADDR, o->reg);
	}
}

static void translate_indirect(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	bool is_call = i->row->branch == BR_CALL_IND;

	flags_save_all(x);
	load_target(x);
	if (x->segmented) {
		x->flags_in_host = false;
		segmented_target_check(x);
	}
	if (is_call) {
		emit_store(&x->hot, 8, mem_base(ENV, ENV_HOT(HOT_TEMP)), ADDR);
		emit_call_push(x, next_va(x));
		emit_load(&x->hot, 8, ADDR, mem_base(ENV, ENV_HOT(HOT_TEMP)));
	} else {
		rsp_commit(x);
	}
	x->flags_in_host = false;
	if (x->segmented)
		segmented_exit(x, is_call ? -(int)i->op_size : 0);
	else
		exit_indirect(x, is_call ? -(int)x->word : 0);
}

static void translate_jmp(struct xlat *x)
{
	if (x->insn->follow)
		return;
	rsp_commit(x);
	exit_direct(x, &x->hot, target_va(x));
	x->ended = true;
}

bool translate_flow(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	if (i->row->branch == BR_NONE)
		return false;
	if (i->op_size != x->word && !x->segmented)
		return false;
	switch (i->row->branch) {
	case BR_JMP:
		if (!is_good_target(x))
			return false;
		translate_jmp(x);
		return true;
	case BR_CALL:
		if (!is_good_target(x))
			return false;
		emit_call_push(x, next_va(x));
		exit_direct(x, &x->hot, target_va(x));
		x->ended = true;
		return true;
	case BR_COND:
		if (!is_good_target(x))
			return false;
		if (i->row->sem != SEM_JCC)
			return translate_count_branch(x);
		translate_jcc(x);
		return true;
	case BR_RET:
		translate_ret(x);
		return true;
	case BR_JMP_IND:
	case BR_CALL_IND:
		if (i->operand[0].size != i->op_size)
			return false;
		translate_indirect(x);
		return true;
	default:
		return false;
	}
}
