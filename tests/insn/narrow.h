/* SPDX-License-Identifier: BSD-2-Clause */
/* 16 and 32-bit code beside the 64-bit code that does the same: see narrow.c. */
#ifndef GUISE_TESTS_NARROW_H
#define GUISE_TESTS_NARROW_H

#include "row_code.h"

struct narrow {
	enum insn_mode mode;	      /* of the guest's code: MODE_16 or MODE_32 */
	uint8_t prefixes[INSN_MAX_LEN]; /* the guest's, which replace the native code's */
	unsigned prefix_count, native_prefix_count;
};

/*
 * Random code of the row for `mode`, and in `native` 64-bit code with the same effect on states whose general
 * registers have no upper halves. False: there is none.
 */
bool narrow_code(const struct insn_row *row, enum insn_mode mode, struct random *r, struct narrow *n,
		 uint8_t native[INSN_MAX_LEN]);

/* The guest's code for the native code, whose fields may have been changed since. */
void narrow_from_native(const struct narrow *n, const uint8_t native[INSN_MAX_LEN],
			uint8_t guest[INSN_MAX_LEN]);

#endif
