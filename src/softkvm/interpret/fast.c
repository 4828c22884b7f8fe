/* SPDX-License-Identifier: BSD-2-Clause */
/* Choice among the hot forms of instructions: see fast.h. */
#include "softkvm/interpret/fast.h"

#include <stddef.h>

static insn_handler *pick(const struct forms *forms, const struct insn *i)
{
	unsigned to = i->operand[0].kind, from = i->operand[1].kind, size = i->operand[0].size;
	unsigned column = size == 8 ? 2 : size == 4 ? 1 : 0;

	if (!forms || size == 2 || (i->prefixes & PFX_LOCK))
		return NULL;
	if (to == OPK_GPR)
		return from == OPK_GPR ? forms->rr[column] :
		       from == OPK_IMM ? forms->ri[column] :
		       from == OPK_MEM ? forms->rm[column] : NULL;
	if (to == OPK_MEM)
		return from == OPK_GPR ? forms->mr[column] : from == OPK_IMM ? forms->mi[column] : NULL;
	return NULL;
}

/* The forms that stand on operand.h alone mean the same in every mode. */
static insn_handler *fast_in_any_mode(const struct insn *i)
{
	return pick(i->row->sem == SEM_MOV ? &mov_forms : alu_forms(i->row->sem), i);
}

insn_handler *fast_handler(const struct insn *i)
{
	if (i->mode != MODE_64)
		return fast_in_any_mode(i);
	switch (i->row->sem) {
	case SEM_MOVZX:
		return movzx_form(i);
	case SEM_LEA:
		return lea_form(i);
	case SEM_PUSH:
		return push_form(i);
	case SEM_POP:
		return pop_form(i);
	case SEM_JCC:
		return jcc_form(i);
	case SEM_JMP_REL:
		return jmp_form(i);
	default:
		return fast_in_any_mode(i);
	}
}
