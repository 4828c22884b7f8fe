// SPDX-License-Identifier: BSD-2-Clause
/*
 * Guest memory accesses in translated code: the first strategy, an inline soft TLB.
 *
 *	lea  r9,[guest ea]
 *	mov  ecx,r9d ; shr ecx,8 ; and ecx,[mask] ; add rcx,[table]
 *	xor  r9,[rcx]                page offset, if the page hits
 *	cmp  r9,4096-size ; ja cold  miss, or the access crosses the page: one compare for both
 *	add  r9,[rcx+8]              HVA
 *
 * Accesses through RSP look at one remembered entry, that of the stack's page, before the table.
 *
 * The cold part undoes the XOR and calls the miss trampoline, which either brings the HVA and returns behind the
 * check (`retry`), or has the interpreter execute the whole instruction and returns behind that (`resume`), or raises
 * the instruction's fault. An address that is not canonical can never hit.
 */
#include "softkvm/translate/translate.h"

struct site *site_new(struct xlat *x)
{
	struct site *s = arena_alloc(x->t, sizeof(*s));

	if (!s || x->sites == 4) {
		x->overflow = true;
		return &x->t->nowhere;
	}
	s->block = arena_offset(x->t, x->block);
	s->at = x->insn->at;
	s->rsp_adj = x->rsp_before;
	if (x->block->view2)
		s->insn = interpreted_new(x);
	x->site[x->sites++] = s;
	return s;
}

void sites_finish(struct xlat *x)
{
	for (unsigned k = 0; k < x->sites; k++) {
		x->site[k]->resume = (uint32_t)(x->hot.p - x->t->cache.rw);
		x->site[k]->rsp_after = x->rsp_adj;
	}
	x->sites = 0;
}

static void emit_site_call(struct emit *e, struct xlat *x, const struct site *s, enum trampoline which)
{
	emit_mov_imm(e, SCRATCH, arena_offset(x->t, s));
	emit_jmp(e, x->t->tramp[which]);
}

/* `undo`: what holds the tag that r9 was XORed with. */
static void cold_miss(struct xlat *x, struct host_mem undo, unsigned size, bool write)
{
	struct site *s = site_new(x);

	s->size = (uint8_t)size;
	s->is_write = write;
	emit_alu_rm(&x->cold, 8, ALU_XOR, ADDR, undo);
	emit_site_call(&x->cold, x, s, TRAMP_MISS);
	s->retry = 0;
}

static void site_retry_here(struct xlat *x)
{
	if (x->sites)
		x->site[x->sites - 1]->retry = (uint32_t)(x->hot.p - x->t->cache.rw);
}

void memory_check(struct xlat *x, unsigned size, bool write)
{
	struct emit *e = &x->hot;

	emit_mov(e, 4, SCRATCH, ADDR);
	emit_shift_imm(e, 4, SHIFT_SHR, SCRATCH, 8);
	emit_alu_rm(e, 4, ALU_AND, SCRATCH, mem_base(ENV, ENV_OFF(tlb_mask)));
	emit_alu_rm(e, 8, ALU_ADD, SCRATCH, mem_base(ENV, ENV_OFF(tlb) + (write ? 8 * TLB_WRITE : 8 * TLB_READ)));
	emit_alu_rm(e, 8, ALU_XOR, ADDR, mem_base(SCRATCH, 0));
	emit_alu_imm(e, 8, ALU_CMP, ADDR, 4096 - (int32_t)size);
	emit_jcc(e, 7, emit_here(&x->cold));
	cold_miss(x, mem_base(SCRATCH, 0), size, write);
	emit_alu_rm(e, 8, ALU_ADD, ADDR, mem_base(SCRATCH, 8));
	site_retry_here(x);
}

static void stack_check(struct xlat *x, unsigned size, bool write)
{
	struct emit *e = &x->hot;

	emit_alu_rm(e, 8, ALU_XOR, ADDR, mem_base(ENV, ENV_OFF(stack.tag)));
	emit_alu_imm(e, 8, ALU_CMP, ADDR, 4096 - (int32_t)size);
	emit_jcc(e, 7, emit_here(&x->cold));
	cold_miss(x, mem_base(ENV, ENV_OFF(stack.tag)), size, write);
	if (x->sites)
		x->site[x->sites - 1]->is_stack = true;
	emit_alu_rm(e, 8, ALU_ADD, ADDR, mem_base(ENV, ENV_OFF(stack.host)));
	site_retry_here(x);
}

void memory_stack(struct xlat *x, int32_t disp, unsigned size, bool write)
{
	flags_clobber(x);
	disp += x->rsp_adj;
	if (disp)
		emit_lea(&x->hot, 8, ADDR, mem_base(GUEST_RSP, disp));
	else
		emit_mov(&x->hot, 8, ADDR, GUEST_RSP);
	stack_check(x, size, write);
}

/* Base and index in host registers, displacement included, modulo 2^64 or 2^32. */
static void address_sum(struct xlat *x, const struct insn_mem *m, unsigned width)
{
	unsigned base = H_NONE, index = H_NONE;
	int64_t disp = m->disp;
	struct host_mem mem;

	if (m->base == RSP)
		disp += x->rsp_adj;
	if (m->index == RSP)
		rsp_commit(x); /* cannot be encoded; for completeness */
	if (m->base != REG_NONE)
		base = m->base == RSP ? (unsigned)GUEST_RSP : reg_read(x, m->base, ADDR);
	if (m->index != REG_NONE)
		index = reg_read(x, m->index, SCRATCH);
	mem = (struct host_mem){ (uint8_t)base, (uint8_t)index, m->scale_log2, (int32_t)disp };
	if (index == H_NONE && base != H_NONE && !disp) {
		if (base != ADDR || width == 4)
			emit_mov(&x->hot, width, ADDR, base);
	} else {
		emit_lea(&x->hot, width, ADDR, mem);
	}
}

void memory_address(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct insn_mem *m = &i->mem;
	unsigned width = m->addr_size == 8 ? 8 : 4;

	if (m->base == BASE_RIP) {
		uint64_t ea = x->view->va + x->insn->at + i->len + (uint64_t)m->disp;

		emit_mov_imm(&x->hot, ADDR, width == 8 ? ea : (uint32_t)ea);
	} else if (m->base == REG_NONE && m->index == REG_NONE) {
		emit_mov_imm(&x->hot, ADDR, width == 8 ? (uint64_t)m->disp : (uint32_t)m->disp);
	} else {
		address_sum(x, m, width);
	}
	if (m->seg >= SEG_FS)
		emit_alu_rm(&x->hot, 8, ALU_ADD, ADDR, mem_base(ENV, ENV_OFF(seg[0].base) + (int32_t)sizeof(struct x86_seg) * m->seg));
}

void memory_operand(struct xlat *x, unsigned size, bool write)
{
	const struct insn_mem *m = &x->insn->i.mem;

	flags_clobber(x);
	memory_address(x);
	if (m->base == RSP && m->index == REG_NONE && m->seg < SEG_FS && m->addr_size == 8)
		stack_check(x, size, write);
	else
		memory_check(x, size, write);
}
