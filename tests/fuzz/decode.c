/* SPDX-License-Identifier: BSD-2-Clause */
/* The decoder on outside bytes: never reads past what it was given, and what it accepts is consistent. */
#include <stdlib.h>
#include <string.h>

#include "x86/insn_row.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned avail = size < 16 ? size : 16;
	uint8_t *code = malloc(avail + !avail); /* exact size: ASan sees a byte too many */
	struct insn i, again;
	char text[100];

	memcpy(code, data, avail);
	for (int mode = MODE_16; mode <= MODE_64; mode++) {
		if (insn_decode(&i, code, avail, mode) != INSN_OK)
			continue;
		if (i.len > avail || i.len > INSN_MAX_LEN || i.operand_count > INSN_MAX_OPERANDS)
			abort();
		if (insn_decode(&again, i.bytes, i.len, mode) != INSN_OK || again.row != i.row)
			abort();
		if (insn_decode(&again, i.bytes, i.len - 1, mode) != INSN_TRUNCATED)
			abort();
		insn_format(&i, 0x1000, text, sizeof(text));
	}
	free(code);
	return 0;
}
