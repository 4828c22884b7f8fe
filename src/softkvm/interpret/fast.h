/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Handlers for the hot forms of instructions, operand kinds and size known when it is decoded; but for MOV and
 * arithmetic in 64-bit mode only. They are instances of the same templates as the general op_*, in the same files.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_FAST_H
#define GUISE_SOFTKVM_INTERPRET_FAST_H

#include "softkvm/interpret/ops.h"

/*
 * Two-operand forms by destination and source (register, memory, immediate), each for 1, 4 and 8 bytes; NULL:
 * none.
 */
struct forms {
	insn_handler *rr[3], *ri[3], *rm[3], *mr[3], *mi[3];
};

/* The handler for exactly this form, or NULL: the general op_* serves. */
insn_handler *fast_handler(const struct insn *i);

/* Where the forms live. */
const struct forms *alu_forms(unsigned sem);  /* alu.c; NULL: none */
extern const struct forms mov_forms;	      /* mov.c */
insn_handler *movzx_form(const struct insn *i);
insn_handler *lea_form(const struct insn *i);
insn_handler *push_form(const struct insn *i); /* stack.c */
insn_handler *pop_form(const struct insn *i);
insn_handler *jcc_form(const struct insn *i);  /* flow.c */
insn_handler *jmp_form(const struct insn *i);

#endif
