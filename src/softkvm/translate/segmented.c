// SPDX-License-Identifier: BSD-2-Clause
/*
 * 16-bit code, and 32-bit code whose segments are not flat: real-address, virtual-8086 and segmented protected mode.
 *
 * Blocks know linear addresses. A view of segmented code belongs to one base and limit of CS, so RIP is a constant less
 * than the linear address, and where the segment ends is known when a block is made: the path stops there, and a branch
 * beyond it is the interpreter's, which raises #GP. A far transfer that changes the base makes other views current.
 *
 * What rights the data segments give is part of the flavour: a bit for each that is plain, which means expand-up,
 * readable and writable (of CS: readable). An access through another one is interpreted. Loading a segment register ends
 * a block. Base and limit are looked at when the access happens:
 *
 *	lea  r9d,[guest registers] ; movzx r9d,r9w	the offset, of 16 or 32 bits
 *	mov  ecx,[limit] ; sub rcx,r9 ; cmp rcx,size-1 ; jl cold
 *	add  r9d,[base]
 *	the soft TLB's check, as in memory.c
 *
 * Nothing is shared between accesses here, and SP is not lazy. A stack pointer of 16 bits leaves the rest of ESP alone.
 */
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/translate.h"

/* --- flavour --- */

static bool is_plain(const struct vcpu *v, unsigned seg)
{
	const struct x86_seg *s = &v->seg[seg];
	unsigned type = s->attr & (SEG_TYPE_CODE | SEG_TYPE_DC | SEG_TYPE_RW);

	if ((type & (SEG_TYPE_CODE | SEG_TYPE_DC)) == SEG_TYPE_DC)
		return false;
	if (!is_protected(v))
		return true;
	if (s->attr & SEG_UNUSABLE)
		return false;
	return seg == SEG_CS ? type & SEG_TYPE_RW : type == SEG_TYPE_RW;
}

uint32_t segmented_flavour(const struct vcpu *v)
{
	uint32_t f = FLAVOUR_SEGMENTED;

	if (!is_protected(v))
		f |= FLAVOUR_REAL;
	if (v->seg[SEG_SS].attr & SEG_DB)
		f |= FLAVOUR_SS32;
	for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
		if (is_plain(v, seg))
			f |= FLAVOUR_SEG << seg;
	return f;
}

static bool may_use(const struct xlat *x, unsigned seg, bool write)
{
	uint32_t f = x->view->flavour;

	return f & FLAVOUR_SEG << seg && !(write && seg == SEG_CS && !(f & FLAVOUR_REAL));
}

static bool uses_stack(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_PUSH:
	case SEM_POP:
	case SEM_PUSHF:
	case SEM_PUSH_SEG:
		return true;
	default:
		return i->row->branch == BR_CALL || i->row->branch == BR_CALL_IND || i->row->branch == BR_RET;
	}
}

bool segmented_is_plain(const struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct operand *mem = memory_operand_of(i);

	if (uses_stack(i) && !may_use(x, SEG_SS, true))
		return false;
	return !mem || (mem->size && may_use(x, i->mem.seg, mem->access & ACC_W));
}

/* --- addresses --- */

void segmented_offset(struct xlat *x)
{
	const struct insn_mem *m = &x->insn->i.mem;
	unsigned base = m->base == REG_NONE ? (unsigned)H_NONE : host_register[m->base];
	unsigned index = m->index == REG_NONE ? (unsigned)H_NONE : host_register[m->index];
	struct emit *e = &x->hot;

	x->addr_group = NO_GROUP;
	if (base == H_NONE && index == H_NONE) {
		emit_mov_imm(e, ADDR, m->addr_size == 2 ? (uint16_t)m->disp : (uint32_t)m->disp);
		return;
	}
	emit_lea(e, 4, ADDR, (struct host_mem){ (uint8_t)base, (uint8_t)index, m->scale_log2, (int32_t)m->disp });
	if (m->addr_size == 2)
		emit_rr(e, 0xb7 | 1 << OP_MAP_SHIFT, ADDR, ADDR); /* movzx r9d, r9w */
}

static struct host_mem segment_field(unsigned seg, unsigned field)
{
	return mem_base(ENV, ENV_OFF(seg[0]) + (int32_t)(seg * sizeof(struct x86_seg) + field));
}

/* ADDR holds an offset in the segment: make it linear if `size` bytes there are within its limit. */
static void check_limit(struct xlat *x, unsigned seg, unsigned size)
{
	struct emit *e = &x->hot;

	if (!x->interpreter)
		x->interpreter = cold_interpreter(x);
	emit_load(e, 4, SCRATCH, segment_field(seg, offsetof(struct x86_seg, limit)));
	emit_alu_rr(e, 8, ALU_SUB, SCRATCH, ADDR);
	emit_alu_imm(e, 8, ALU_CMP, SCRATCH, (int32_t)size - 1);
	emit_jcc(e, 12 /* L */, x->interpreter);
	emit_alu_rm(e, 4, ALU_ADD, ADDR, segment_field(seg, offsetof(struct x86_seg, base)));
}

void segmented_operand(struct xlat *x, unsigned size, bool write)
{
	unsigned seg = x->insn->i.mem.seg;

	flags_clobber(x);
	segmented_offset(x);
	check_limit(x, seg, size);
	memory_check(x, size, write);
	x->mem = mem_base(ADDR, 0);
}

/* --- the stack --- */

static bool is_wide_stack(const struct xlat *x)
{
	return x->view->flavour & FLAVOUR_SS32;
}

static void stack_check(struct xlat *x, int disp, unsigned size, bool write)
{
	struct emit *e = &x->hot;

	flags_clobber(x);
	x->addr_group = NO_GROUP;
	emit_lea(e, 4, ADDR, mem_base(GUEST_RSP, disp));
	if (!is_wide_stack(x))
		emit_rr(e, 0xb7 | 1 << OP_MAP_SHIFT, ADDR, ADDR);
	check_limit(x, SEG_SS, size);
	memory_check(x, size, write);
	x->mem = mem_base(ADDR, 0);
}

void segmented_push_check(struct xlat *x, unsigned slot, unsigned size)
{
	stack_check(x, -(int)slot, size, true);
}

void segmented_pop_check(struct xlat *x, unsigned size)
{
	stack_check(x, 0, size, false);
}

/* Leaves ADDR alone. */
void segmented_move_sp(struct xlat *x, int by)
{
	struct emit *e = &x->hot;

	if (is_wide_stack(x)) {
		emit_lea(e, 4, GUEST_RSP, mem_base(GUEST_RSP, by));
		return;
	}
	emit_lea(e, 4, SCRATCH, mem_base(GUEST_RSP, by));
	emit_rr(e, 0x89 | OP_66, SCRATCH, GUEST_RSP); /* mov r11w, cx */
}

static bool push_value(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct operand *o = &i->operand[0];
	unsigned size = i->op_size;

	switch (o->kind) {
	case OPK_GPR:
		segmented_push_check(x, size, size);
		emit_store(&x->hot, size, x->mem, host_register[o->reg]);
		break;
	case OPK_IMM:
		segmented_push_check(x, size, size);
		emit_store_imm32(&x->hot, size, x->mem, (int32_t)i->imm);
		break;
	case OPK_MEM:
		segmented_operand(x, size, false);
		emit_load(&x->hot, size, SCRATCH, x->mem);
		emit_store(&x->hot, 8, mem_base(ENV, ENV_HOT(HOT_TEMP)), SCRATCH);
		segmented_push_check(x, size, size);
		emit_load(&x->hot, 8, SCRATCH, mem_base(ENV, ENV_HOT(HOT_TEMP)));
		emit_store(&x->hot, size, x->mem, SCRATCH);
		break;
	default:
		return false;
	}
	segmented_move_sp(x, -(int)size);
	return true;
}

/* The selector alone is written, also in a slot of 4 bytes. */
static void push_segment(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	segmented_push_check(x, i->op_size, 2);
	emit_load(&x->hot, 2, SCRATCH, segment_field(i->operand[0].reg, offsetof(struct x86_seg, sel)));
	emit_store(&x->hot, 2, x->mem, SCRATCH);
	segmented_move_sp(x, -(int)i->op_size);
}

/* Write 2 or 4 bytes of ADDR to a guest register. */
static void put_register(struct xlat *x, unsigned size, unsigned guest)
{
	emit_rr(&x->hot, 0x89 | (size == 2 ? OP_66 : 0), ADDR, host_register[guest]);
}

static bool pop_register(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	if (i->operand[0].kind != OPK_GPR || i->operand[0].reg == RSP)
		return false;
	segmented_pop_check(x, i->op_size);
	emit_load(&x->hot, i->op_size, ADDR, x->mem);
	segmented_move_sp(x, (int)i->op_size);
	put_register(x, i->op_size, i->operand[0].reg);
	return true;
}

/* The status flags are in saved_flags, the others in the vCPU; virtual-8086 mode has its own rules. */
static void push_flags(struct xlat *x)
{
	unsigned size = x->insn->i.op_size;

	flags_save_all(x);
	x->flags_in_host = false;
	x->interpreter = cold_interpreter(x);
	emit_rm(&x->hot, 0xf7, 0, mem_base(ENV, ENV_OFF(rflags))); /* test dword, imm32 */
	emit_u32(&x->hot, FLAG_VM);
	emit_jcc(&x->hot, 5, x->interpreter);
	emit_flags_word(x);
	segmented_push_check(x, size, size);
	emit_load(&x->hot, 8, SCRATCH, mem_base(ENV, ENV_HOT(HOT_TEMP)));
	emit_store(&x->hot, size, x->mem, SCRATCH);
	segmented_move_sp(x, -(int)size);
}

static void load_address(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	segmented_offset(x);
	put_register(x, i->op_size, i->operand[0].reg);
}

bool translate_segmented(struct xlat *x)
{
	switch (x->insn->i.row->sem) {
	case SEM_PUSH:
		return push_value(x);
	case SEM_PUSH_SEG:
		push_segment(x);
		return true;
	case SEM_POP:
		return pop_register(x);
	case SEM_PUSHF:
		push_flags(x);
		return true;
	case SEM_LEA:
		load_address(x);
		return true;
	default:
		return false;
	}
}
