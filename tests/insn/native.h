/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One instruction on the real processor, with all registers given and all registers, or the fault, taken
 * back. Code and data live at fixed low addresses so that a guest can have the same ones. One thread only.
 */
#ifndef GUISE_TESTS_NATIVE_H
#define GUISE_TESTS_NATIVE_H

#include "softkvm/fpu.h"

enum {
	/* executable, not writable */
	NATIVE_CODE = 0x10000, NATIVE_CODE_SIZE = 0x10000,
	/* an instruction's slot; where branches may go in it */
	NATIVE_SLOT = 64, NATIVE_TAKEN = 40,
	NATIVE_DATA = 0x30000, NATIVE_DATA_SIZE = 0x4000,
	/* read-only; then nothing is mapped */
	NATIVE_CONST = NATIVE_DATA + NATIVE_DATA_SIZE, NATIVE_CONST_SIZE = 0x1000
};

struct cpu_state {
	uint64_t gpr[16], rflags, rip;
	struct xsave_area fp __attribute__((aligned(64)));
};

struct outcome {
	int vector;	/* -1: none */
	uint64_t error, cr2;
};

int native_init(void); /* 0/-errno; native_signal_init() comes after whatever else takes signals */
/* Puts `code` into the slot at address `slot`; falls through and NATIVE_TAKEN both lead back. */
void native_code(uint32_t slot, const uint8_t *code, unsigned size);
/* Writable view of the data and constants, NATIVE_DATA first. */
uint8_t *native_data(void);
void native_run(uint32_t slot, const struct cpu_state *in, struct cpu_state *out, struct outcome *outcome);

#endif
