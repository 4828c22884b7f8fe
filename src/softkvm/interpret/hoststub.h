/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Running one guest vector or x87 instruction on the host: see hoststub.c. vCPU thread only; the guest's
 * state must be at rest (v->fpu_live false).
 */
#ifndef GUISE_INTERPRET_HOSTSTUB_H
#define GUISE_INTERPRET_HOSTSTUB_H

#include "softkvm/fpu.h"
#include "x86/insn_row.h"

/* What goes in and comes out beside the vector state. The assembly in hoststub.c knows the offsets. */
struct stub_call {
	const void *code;
	void *area;		/* XSAVE area, standard format */
	uint64_t components;	/* XSTATE_* moved in and, if `save`, out */
	void *mem;		/* the memory operand */
	uint64_t rax, rcx, rdx; /* rax stands for any encoded general register */
	uint64_t rflags;	/* status flags in, out */
	uint64_t save;		/* 0: the vector state that results is dropped */
	uint32_t host_mxcsr;
	uint16_t host_fcw;
	bool faulted;		/* an unmasked SIMD exception: MXCSR says which, no other result */
	uint8_t code_size;
};

int stub_cache_new(struct stub_cache **cache);
void stub_cache_free(struct stub_cache *cache);

/* Executable copy of the instruction: memory operand at [rdi], general register operand in rax; then RET. */
const void *stub_get(struct stub_cache *cache, const struct insn *i, uint8_t *size);

/* `may_fault`: SIMD exceptions are unmasked; c->faulted tells. */
void stub_run(struct stub_call *c, bool may_fault);

#endif
