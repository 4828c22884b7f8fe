// SPDX-License-Identifier: BSD-2-Clause
/*
 * Instructions that are translated one by one: addresses, absolute moves, bit strings, direction flag, hints.
 */
#include "softkvm/translate/translate.h"

/* LEA of 4 or 8 bytes; the sum goes into the destination directly where everything is in host registers. */
static bool translate_lea(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct insn_mem *m = &i->mem;
	unsigned dst = i->operand[0].reg, width = i->op_size < m->addr_size ? i->op_size : m->addr_size;
	bool simple = m->base != BASE_RIP && m->base != REG_NONE && host_register[m->base] != H_NONE &&
		      (m->index == REG_NONE || host_register[m->index] != H_NONE) && host_register[dst] != H_NONE;

	if (width < 4)
		return false;
	if (dst == RSP && m->base == RSP && m->index == REG_NONE && width == x->word && m->disp < 4096 && m->disp > -4096) {
		x->rsp_adj += (int16_t)m->disp;
		return true;
	}
	if (!simple || dst == RSP) {
		uint8_t seg = m->seg;

		x->insn->i.mem.seg = SEG_DS;
		memory_address(x, 0);
		x->insn->i.mem.seg = seg;
		if (width == 4)
			emit_mov(&x->hot, 4, ADDR, ADDR);
		reg_store(x, dst, ADDR);
		return true;
	}
	emit_lea(&x->hot, width, host_register[dst],
		 (struct host_mem){ host_register[m->base], m->index == REG_NONE ? H_NONE : host_register[m->index], m->scale_log2,
				    (int32_t)(m->disp + (m->base == RSP ? x->rsp_adj : 0)) });
	return true;
}

/* MOV between AL..RAX and an absolute address. */
static void translate_mov_absolute(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	bool store = i->operand[0].kind == OPK_MEM;
	unsigned size = i->operand[0].size;

	memory_operand(x, size, store);
	if (store)
		emit_store(&x->hot, size, x->mem, H_RAX);
	else if (size >= 4)
		emit_load(&x->hot, size, H_RAX, x->mem);
	else
		emit_rm(&x->hot, size == 1 ? 0x8a : 0x8b | OP_66, H_RAX, x->mem);
}

static bool translate_mov_from_seg(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct host_mem selector = mem_base(ENV, ENV_OFF(seg[0].sel) + (int32_t)sizeof(struct x86_seg) * i->operand[1].reg);
	struct emit *e = &x->hot;

	if (i->operand[0].kind == OPK_MEM) {
		memory_operand(x, 2, true);
		emit_load(e, 2, SCRATCH, selector);
		emit_store(e, 2, x->mem, SCRATCH);
		return true;
	}
	if (i->operand[0].size == 2)
		return false;
	emit_load(e, 2, SCRATCH, selector);
	reg_store(x, i->operand[0].reg, SCRATCH);
	return true;
}

/*
 * BT, BTS, BTR, BTC [mem], reg: the register is a signed bit number anywhere from the operand on. The word that holds it
 * becomes the operand, the number modulo the word's size the bit.
 */
static bool translate_bit_string(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	unsigned size = i->op_size, reg = i->operand[1].reg;
	struct emit *e = &x->hot;

	if (x->segmented || size < 4 || i->mem.addr_size != x->word || (x->word == 4 && i->mem.seg >= SEG_FS))
		return false;
	flags_clobber(x);
	reg_load(x, size, SCRATCH, reg);
	emit_alu_imm(e, 4, ALU_AND, SCRATCH, (int32_t)size * 8 - 1);
	emit_store(e, 8, mem_base(ENV, ENV_HOT(HOT_TEMP)), SCRATCH);
	memory_address(x, 0);
	reg_load(x, size, SCRATCH, reg);
	if (size == 4)
		emit_rr(e, 0x63 | OP_W, SCRATCH, SCRATCH); /* movsxd */
	emit_shift_imm(e, 8, SHIFT_SAR, SCRATCH, size == 8 ? 6 : 5);
	emit_lea(e, x->word, ADDR, mem_index(ADDR, SCRATCH, size == 8 ? 3 : 2, 0));
	memory_check(x, size, i->operand[0].access & ACC_W);
	flags_need(x);
	emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_HOT(HOT_TEMP)));
	if (i->prefixes & PFX_LOCK)
		emit_u8(e, 0xf0);
	emit_rm(e, i->opcode | 1 << OP_MAP_SHIFT | (size == 8 ? OP_W : 0), SCRATCH, mem_base(ADDR, 0));
	flags_written(x);
	return true;
}

bool translate_special(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	switch (i->row->sem) {
	case SEM_LEA:
		return !x->segmented && translate_lea(x);
	case SEM_MOV:
		if (i->has_modrm || (i->operand[0].kind != OPK_MEM && i->operand[1].kind != OPK_MEM))
			return false;
		translate_mov_absolute(x);
		return true;
	case SEM_MOV_FROM_SEG:
		return translate_mov_from_seg(x);
	case SEM_BT:
	case SEM_BTS:
	case SEM_BTR:
	case SEM_BTC:
		return i->modrm < 0xc0 && i->operand[1].kind == OPK_GPR && translate_bit_string(x);
	case SEM_CLD:
	case SEM_STD: /* the host's own DF stays clear */
		flags_clobber(x);
		emit_alu_mem_imm(&x->hot, 4, i->row->sem == SEM_STD ? ALU_OR : ALU_AND, mem_base(ENV, ENV_OFF(rflags)),
				 i->row->sem == SEM_STD ? FLAG_DF : ~FLAG_DF);
		return true;
	case SEM_NOP:
	case SEM_PREFETCH:
		return true;
	default:
		return false;
	}
}
