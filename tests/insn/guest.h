/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest beside native.h's process: user code at the same addresses, the same pages with the same rights,
 * nothing else mapped.
 */
#ifndef GUISE_TESTS_GUEST_H
#define GUISE_TESTS_GUEST_H

#include "../unit/harness.h"
#include "native.h"
#include "x86/insn.h"

extern struct harness guest;

int guest_start(const char *engine); /* "interpret" (NULL too) or "translate"; 0/-errno */
/* Is this enum insn_feature offered? Code that needs others is not compared. */
bool guest_has(unsigned feature);
/* Code at address `at`; the rest of `room` bytes is HLT, which ends a run. */
void guest_code(uint32_t at, const uint8_t *code, unsigned size, unsigned room);
void guest_mode(enum insn_mode mode); /* what the code segment says */
/* One instruction, or, if `whole`, up to a fault or a HLT. */
void guest_run(uint32_t address, bool whole, const struct cpu_state *in, struct cpu_state *out,
	       struct outcome *outcome);

#endif
