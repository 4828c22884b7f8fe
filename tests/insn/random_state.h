/* SPDX-License-Identifier: BSD-2-Clause */
/* Random processor states and instructions aimed at mapped memory, for insn_native.c. */
#ifndef GUISE_TESTS_RANDOM_STATE_H
#define GUISE_TESTS_RANDOM_STATE_H

#include "native.h"
#include "row_code.h"

/* Everything random; numbers that mean something to the units come up often. */
void random_state(struct random *r, struct cpu_state *s);
/* Bytes as random_state() puts them into registers. */
void random_bytes(struct random *r, uint8_t *p, unsigned size);

/* May this instruction run natively in a test process, with the same result as in a guest's user mode? */
bool is_comparable(const struct insn *i);

/*
 * Adjusts registers, and displacements and branch offsets in `code` (decoded as *i; decode again), so that
 * memory accesses mostly hit NATIVE_DATA's pages and branches NATIVE_TAKEN.
 */
void aim(struct random *r, struct insn *i, uint32_t slot, struct cpu_state *s, uint8_t *code);

/* Offset that the memory operand names; next_rip: address behind the instruction. */
uint64_t effective_address(const struct insn *i, uint64_t next_rip, const struct cpu_state *s);

#endif
