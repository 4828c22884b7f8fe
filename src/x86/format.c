/* SPDX-License-Identifier: BSD-2-Clause */
/* Disassembly for logs and failing tests: Zydis prints the bytes that our decoder accepted. */
#include <Zydis/Zydis.h>
#include <stdio.h>

#include "x86/insn_row.h"

char *insn_format(const struct insn *insn, uint64_t rip, char *buf, unsigned size)
{
	static const ZydisMachineMode modes[] = {
		ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LONG_64
	};
	ZydisDisassembledInstruction text;

	if (ZYAN_SUCCESS(ZydisDisassembleIntel(modes[insn->mode], rip, insn->bytes, insn->len, &text)))
		snprintf(buf, size, "%s", text.text);
	else
		snprintf(buf, size, "%s", insn->row->mnemonic);
	return buf;
}
