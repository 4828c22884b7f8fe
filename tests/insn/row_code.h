/* SPDX-License-Identifier: BSD-2-Clause */
/* Random instances of a row of the instruction table, for tests that want every row exercised. */
#ifndef GUISE_TESTS_ROW_CODE_H
#define GUISE_TESTS_ROW_CODE_H

#include <stdint.h>
#include "x86/insn_row.h"

struct random {
	uint64_t state; /* not 0 */
};

uint64_t random_u64(struct random *r);
unsigned random_below(struct random *r, unsigned n);

/*
 * Writes 15 bytes that begin with an encoding of `row` for `mode`, all free fields random; bytes after the
 * instruction are random too. An earlier row of the table may take precedence: decode to see. Returns false
 * if the row does not exist in that mode.
 */
bool row_code(const struct insn_row *row, enum insn_mode mode, struct random *r, uint8_t code[INSN_MAX_LEN]);

#endif
