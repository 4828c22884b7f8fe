/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUISE_SOFTKVM_INTERPRET_FAST_H
#define GUISE_SOFTKVM_INTERPRET_FAST_H

#include "softkvm/interpret/ops.h"

/*
 * A handler made for exactly this form of instruction (fixed operand kinds and size), or NULL: the general op_* serves. It
 * does what op_* does: tests/unit/test_fast.c compares the two.
 */
insn_handler *fast_handler(const struct insn *i);

#endif
