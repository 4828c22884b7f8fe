// SPDX-License-Identifier: BSD-2-Clause
/*
 * PUSH, POP and LEAVE of the mode's full width, and arithmetic on RSP that only moves it.
 */
#include "softkvm/translate/translate.h"

static void push_register(struct xlat *x, unsigned guest)
{
	struct emit *e = &x->hot;

	memory_stack(x, -(int)x->word, x->word, true);
	if (guest == RSP || host_register[guest] == H_NONE) {
		reg_load(x, x->word, SCRATCH, guest);
		emit_store(e, x->word, x->mem, SCRATCH);
	} else {
		emit_store(e, x->word, x->mem, host_register[guest]);
	}
}

static bool translate_push(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct operand *o = &i->operand[0];

	switch (o->kind) {
	case OPK_GPR:
		push_register(x, o->reg);
		break;
	case OPK_IMM:
		memory_stack(x, -(int)x->word, x->word, true);
		emit_store_imm32(&x->hot, x->word, x->mem, (int32_t)i->imm);
		break;
	case OPK_MEM:
		memory_operand(x, x->word, false);
		emit_load(&x->hot, x->word, SCRATCH, x->mem);
		emit_store(&x->hot, 8, mem_base(ENV, ENV_HOT(HOT_TEMP)), SCRATCH);
		memory_stack(x, -(int)x->word, x->word, true);
		emit_load(&x->hot, 8, SCRATCH, mem_base(ENV, ENV_HOT(HOT_TEMP)));
		emit_store(&x->hot, x->word, x->mem, SCRATCH);
		break;
	default:
		return false;
	}
	x->rsp_adj = (int16_t)(x->rsp_adj - (int)x->word);
	return true;
}

static bool translate_pop(struct xlat *x)
{
	const struct operand *o = &x->insn->i.operand[0];
	unsigned host;

	if (o->kind != OPK_GPR)
		return false;
	memory_stack(x, 0, x->word, false);
	if (o->reg == RSP) {
		emit_load(&x->hot, x->word, GUEST_RSP, x->mem);
		x->rsp_adj = 0;
		return true;
	}
	host = host_register[o->reg];
	emit_load(&x->hot, x->word, host == H_NONE ? (unsigned)SCRATCH : host, x->mem);
	if (host == H_NONE)
		emit_store(&x->hot, 8, mem_base(ENV, ENV_GPR(o->reg)), SCRATCH);
	x->rsp_adj = (int16_t)(x->rsp_adj + (int)x->word);
	return true;
}

/* RSP = RBP, then POP RBP. */
static void translate_leave(struct xlat *x)
{
	flags_clobber(x);
	emit_mov(&x->hot, x->word, ADDR, H_RBP);
	memory_check(x, x->word, false);
	emit_lea(&x->hot, x->word, GUEST_RSP, mem_base(H_RBP, (int)x->word));
	emit_load(&x->hot, x->word, H_RBP, mem_base(ADDR, 0));
	x->rsp_adj = 0;
}

/* ADD or SUB RSP, constant: a pending change, if nobody wants the flags. */
static bool translate_move_rsp(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	int64_t by = i->operand[0].size == 4 ? (int32_t)i->imm : (int64_t)i->imm;

	if (i->operand[0].kind != OPK_GPR || i->operand[0].reg != RSP || i->operand[1].kind != OPK_IMM || i->operand[0].size != x->word ||
	    x->insn->live || by > 4096 || by < -4096)
		return false;
	x->rsp_adj += (int16_t)(i->row->sem == SEM_ADD ? by : -by);
	return true;
}

bool translate_stack(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	if (i->op_size != x->word)
		return false;
	switch (i->row->sem) {
	case SEM_PUSH:
		return translate_push(x);
	case SEM_POP:
		return translate_pop(x);
	case SEM_LEAVE:
		translate_leave(x);
		return true;
	case SEM_ADD:
	case SEM_SUB:
		return translate_move_rsp(x);
	default:
		return false;
	}
}
