// SPDX-License-Identifier: BSD-2-Clause
/*
 * Guest memory accesses in translated code: the first strategy, an inline soft TLB.
 *
 *	lea  r9,[guest ea]
 *	mov  ecx,r9d ; shr ecx,8 ; and ecx,[mask]
 *	xor  r9,[r8+rcx]             page offset, if the page hits
 *	cmp  r9,4096-size ; ja cold  miss, or the access crosses the page: one compare for both
 *	add  r9,[r8+rcx+8]           HVA
 *
 * r8 is the read table; the write table is at a constant distance from it.
 *
 * Accesses through RSP look at one remembered entry, that of the stack's page, before the table. Accesses of a group
 * (group.c) share one check of their whole extent.
 *
 * The cold part undoes the XOR and calls the miss trampoline, which either brings the HVA and returns behind the
 * check (`retry`), or has the interpreter execute the whole instruction and returns behind that (`resume`), or raises
 * the instruction's fault. An address that is not canonical can never hit.
 */
#include "softkvm/translate/translate.h"

enum { MAX_DELTA = 4096, MOST_SIZE = 1023 /* that a site can say */ };

static uint8_t established_groups(const struct xlat *x)
{
	uint8_t count = 0;

	for (unsigned k = 0; k < x->group_count; k++)
		count += x->group[k].established;
	return count;
}

struct site *site_new(struct xlat *x)
{
	struct site *s = arena_alloc(x->t, sizeof(*s), 4);

	if (!s || x->sites == 4) {
		x->overflow = true;
		return &x->t->nowhere;
	}
	s->thing = (uint16_t)thing_of(x->block, s);
	s->at = x->insn->at;
	s->rsp_adj = x->rsp_before;
	s->uses_unit = x->insn->i.row->attrs & (INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX) ||
		       x->insn->i.row->sem == SEM_CMPXCHG16B;
	s->aligned = x->insn->i.row->attrs & INSN_ALIGN || x->insn->i.row->sem == SEM_CMPXCHG16B;
	if (x->block->view2)
		s->insn = interpreted_new(x);
	x->site_groups[x->sites] = established_groups(x);
	x->site[x->sites++] = s;
	return s;
}

void sites_finish(struct xlat *x)
{
	for (unsigned k = 0; k < x->sites; k++) {
		x->site[k]->resume = hot_offset(x);
		x->site[k]->rsp_after = x->rsp_adj;
		x->site[k]->addr_group = x->addr_group;
		x->site[k]->held = slot_held(x) & 15;
		/*
		 * Nothing to resume at; or a group that a later access of the instruction leads, whose HVA nobody would have
		 * kept if the interpreter executed the whole instruction.
		 */
		x->site[k]->ends |= x->ended || x->site_groups[k] != established_groups(x);
	}
	x->sites = 0;
}

static void emit_site_call(struct emit *e, struct xlat *x, const struct site *s, enum trampoline which)
{
	emit_name(x, e, s);
	emit_jmp(e, x->t->tramp[which]);
}

/* One check: what it compares with, and what it does when that fails. */
struct check {
	unsigned size;	   /* bytes from the address in ADDR on */
	bool write, stack; /* stack: look at the stack's entry, not the table */
	uint8_t stream;	   /* look at this stream's entry first; or NO_STREAM */
	const struct access *leader; /* of a group, else NULL */
	int64_t own_offset;	     /* of the leader's access in the extent */
};

static struct host_mem tag_of(const struct check *c)
{
	if (c->stream != NO_STREAM)
		return mem_base(ENV, ENV_COLD(COLD_STREAM + 2 * c->stream));
	return c->stack ? mem_base(ENV, ENV_OFF(stack.tag)) : tlb_tag(tlb_data_kind(c->write));
}

static struct host_mem host_of(const struct check *c)
{
	if (c->stream != NO_STREAM)
		return mem_base(ENV, ENV_COLD(COLD_STREAM + 2 * c->stream + 1));
	return c->stack ? mem_base(ENV, ENV_OFF(stack.host)) : tlb_host(tlb_data_kind(c->write));
}

/* A group whose page is there, but which crosses its end: on to the plain copy. r9 is the offset in the page. */
static void cold_crossing(struct xlat *x)
{
	emit_alu_imm(&x->cold, 8, ALU_CMP, ADDR, 4095);
	exit_to_plain(x, 6 /* BE */);
}

void emit_table_index(struct emit *e, unsigned pushed)
{
	emit_mov(e, 4, SCRATCH, ADDR);
	emit_shift_imm(e, 4, SHIFT_SHR, SCRATCH, 8);
	emit_alu_rm(e, 4, ALU_AND, SCRATCH, mem_base(ENV, ENV_OFF(tlb_mask) + (int32_t)pushed));
}

static void emit_table_probe(struct emit *e, const struct check *c)
{
	emit_table_index(e, 0);
	emit_alu_rm(e, 8, ALU_XOR, ADDR, tlb_tag(tlb_data_kind(c->write)));
	emit_alu_imm(e, 8, ALU_CMP, ADDR, 4096 - (int32_t)c->size);
}

/* The stream has left its page: look in the table, and remember. Falls through with the address in r9 if it is not there. */
static void cold_stream(struct xlat *x, const struct check *c)
{
	struct host_mem tag = tag_of(c), host = host_of(c), temp = mem_base(ENV, ENV_COLD(COLD_SPARE));
	const enum tlb_kind kind = tlb_data_kind(c->write);
	struct emit *e = &x->cold;
	uint8_t *miss;

	emit_table_probe(e, c);
	miss = emit_jcc_forward(e, 7);
	emit_store(e, 8, temp, ADDR);
	emit_load(e, 8, ADDR, tlb_tag(kind));
	emit_store(e, 8, tag, ADDR);
	emit_load(e, 8, ADDR, tlb_host(kind));
	emit_store(e, 8, host, ADDR);
	emit_alu_rm(e, 8, ALU_ADD, ADDR, temp);
	emit_jmp_forward(e);
	x->probe_rel32 = (uint32_t)(e->p - 4 - x->t->cache.rw);
	emit_patch32(e, miss, emit_here(e));
	if (c->leader)
		cold_crossing(x);
	emit_alu_rm(e, 8, ALU_XOR, ADDR, tlb_tag(kind));
}

static struct site *cold_miss(struct xlat *x, const struct check *c)
{
	struct emit *e = &x->cold;
	struct site *s = site_new(x);

	x->probe_rel32 = 0;
	s->size = c->size & MOST_SIZE;
	x->overflow |= c->size > MOST_SIZE;
	s->is_write = c->write;
	s->is_stack = c->stack;
	s->is_masked = x->insn->i.row->attrs & INSN_MASKED;
	if (c->leader) {
		s->own_size = c->leader->size & 127;
		s->own_offset = (unsigned)c->own_offset & MOST_SIZE;
		s->own_write = c->leader->write;
		cold_crossing(x);
	}
	emit_alu_rm(e, 8, ALU_XOR, ADDR, tag_of(c));
	if (c->stream != NO_STREAM)
		cold_stream(x, c);
	if (c->stack && (c->size <= 8 || c->leader)) {
		emit_call(e, x->t->probe_stack[c->leader ? PROBE_REFILL : c->write]);
		x->probe_rel32 = (uint32_t)(e->p - x->t->cache.rw) + 1;
		emit_jmp_forward(e); /* found: to `retry`, or to check again */
	}
	emit_site_call(e, x, s, c->leader ? TRAMP_GROUP : TRAMP_MISS);
	return s;
}

static void emit_check(struct xlat *x, const struct check *c)
{
	struct emit *e = &x->hot;
	const uint8_t *again = emit_here(e);
	struct site *s;

	if (c->stack || c->stream != NO_STREAM) {
		emit_alu_rm(e, 8, ALU_XOR, ADDR, tag_of(c));
		emit_alu_imm(e, 8, ALU_CMP, ADDR, 4096 - (int32_t)c->size);
	} else {
		emit_table_probe(e, c);
	}
	emit_jcc(e, 7, emit_here(&x->cold));
	s = cold_miss(x, c);
	emit_alu_rm(e, 8, ALU_ADD, ADDR, host_of(c));
	s->retry = hot_offset(x);
	if (x->probe_rel32)
		emit_patch32(&x->cold, x->t->cache.rw + x->probe_rel32, c->stack && c->leader ? again : emit_here(e));
}

void streams_clear(struct xlat *x)
{
	struct emit *e = &x->hot;

	if (x->stream_count)
		emit_mov_imm(e, SCRATCH, 1ull << 63); /* as tlb_drop_stack() does: nothing passes */
	for (unsigned k = 0; k < 2 * x->stream_count; k++)
		emit_store(e, 8, mem_base(ENV, ENV_COLD(COLD_STREAM + k)), SCRATCH);
}

void memory_check(struct xlat *x, unsigned size, bool write)
{
	struct check c = { .size = size, .write = write, .stream = NO_STREAM };

	x->addr_group = NO_GROUP;
	emit_check(x, &c);
}

/* Base and index in host registers, displacement included, modulo 2^64 or 2^32. */
static void address_sum(struct xlat *x, const struct insn_mem *m, unsigned width, int64_t delta)
{
	unsigned base = H_NONE, index = H_NONE;
	int64_t disp = m->disp + delta;
	struct host_mem mem;

	if (m->base == RSP)
		disp += x->rsp_adj;
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

void memory_address(struct xlat *x, int64_t delta)
{
	const struct insn *i = &x->insn->i;
	const struct insn_mem *m = &i->mem;
	unsigned width = m->addr_size == 8 ? 8 : 4;

	x->addr_group = NO_GROUP;
	if (m->base == BASE_RIP) {
		uint64_t ea = x->view->va + x->insn->at + i->len + (uint64_t)(m->disp + delta);

		emit_va(x, ADDR, width == 8 ? ea : (uint32_t)ea);
	} else if (m->base == REG_NONE && m->index == REG_NONE) {
		uint64_t ea = (uint64_t)(m->disp + delta);

		emit_mov_imm(&x->hot, ADDR, ea & (~0ull >> (64 - 8 * m->addr_size)));
	} else {
		address_sum(x, m, width, delta);
		if (m->addr_size == 2)
			emit_rr(&x->hot, 0xb7 | 1 << OP_MAP_SHIFT, ADDR, ADDR); /* movzx r9d, r9w */
	}
	if (m->seg >= SEG_FS)
		emit_alu_rm(&x->hot, x->word, ALU_ADD, ADDR, mem_base(ENV, ENV_OFF(seg[0].base) + (int32_t)sizeof(struct x86_seg) * m->seg));
}

/* A follower: the group's HVA is in the frame, or in r9 already. False: this access must check. */
static bool follow(struct xlat *x, const struct access *a)
{
	const struct access_group *g;

	if (!a || a->group == NO_GROUP || !x->group[a->group].established)
		return false;
	g = &x->group[a->group];
	if (x->addr_group != a->group)
		emit_load(&x->hot, 8, ADDR, mem_base(ENV, ENV_GROUP(a->group)));
	x->addr_group = a->group;
	x->mem = mem_base(ADDR, (int32_t)(a->disp - g->low));
	return true;
}

/* Turn the check of one access into that of its group; false: it stays alone. */
static bool lead(struct xlat *x, const struct access *a, struct check *c)
{
	struct access_group rest;

	if (!a || !group_lead(x, a, &rest))
		return false;
	c->leader = a;
	c->own_offset = a->disp - rest.low;
	c->size = (unsigned)(rest.high - rest.low);
	c->write = rest.write;
	rest.established = true;
	x->group[a->group] = rest;
	return true;
}

/* After a check: remember a group's HVA; where the access itself is. */
static void checked(struct xlat *x, const struct check *c)
{
	x->mem = mem_base(ADDR, (int32_t)c->own_offset);
	x->addr_group = NO_GROUP;
	if (c->leader) {
		x->addr_group = c->leader->group;
		emit_store(&x->hot, 8, mem_base(ENV, ENV_GROUP(c->leader->group)), ADDR);
	}
}

void memory_stack(struct xlat *x, int32_t disp, unsigned size, bool write)
{
	const struct access *a = group_access(x, true);
	struct check c = { .size = size, .write = write, .stack = true, .stream = NO_STREAM };

	if (follow(x, a))
		return;
	flags_clobber(x);
	lead(x, a, &c);
	disp += x->rsp_adj - (int32_t)c.own_offset;
	if (disp)
		emit_lea(&x->hot, x->word, ADDR, mem_base(GUEST_RSP, disp));
	else
		emit_mov(&x->hot, x->word, ADDR, GUEST_RSP);
	emit_check(x, &c);
	checked(x, &c);
}

static bool fits_disp32(const struct insn_mem *m, int64_t delta)
{
	int64_t disp = m->disp + delta;

	return m->base == BASE_RIP || (disp > -0x7fff0000 && disp < 0x7fff0000);
}

void memory_operand(struct xlat *x, unsigned size, bool write)
{
	const struct insn_mem *m = &x->insn->i.mem;
	const struct access *a = group_access(x, false);
	struct check c = { .size = size, .write = write, .stream = NO_STREAM };

	if (x->segmented) {
		segmented_operand(x, size, write);
		return;
	}
	if (follow(x, a))
		return;
	flags_clobber(x);
	if (a && fits_disp32(m, -MAX_DELTA) && fits_disp32(m, MAX_DELTA))
		lead(x, a, &c);
	c.stack = m->base == RSP && m->index == REG_NONE && m->seg < SEG_FS && m->addr_size == x->word;
	if (a && !c.stack)
		c.stream = a->stream;
	memory_address(x, -c.own_offset);
	emit_check(x, &c);
	checked(x, &c);
}
