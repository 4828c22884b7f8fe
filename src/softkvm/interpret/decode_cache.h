/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The interpreter's store of decoded code, one per vCPU: see decode_cache.c. vCPU thread only.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_DECODE_CACHE_H
#define GUISE_SOFTKVM_INTERPRET_DECODE_CACHE_H

#include "softkvm/interpret/ops.h"
#include "softkvm/mmu/mmu.h"

struct code_insn {
	insn_handler *run;
	struct insn insn;
};

/*
 * Instructions that follow each other inside one page; only the last one can branch or change the mode of
 * decoding.
 */
struct code_block {
	const uint8_t *hva;	/* of the first byte: the key */
	struct code_page *page; /* valid while its generation is this one */
	uint32_t generation;
	uint32_t bytes;
	uint16_t count;
	struct code_insn code[];
};

int decode_cache_new(struct vcpu *v); /* 0/-ENOMEM */
void decode_cache_free(struct vcpu *v);
/* Forget everything: memory slots or CPUID changed. */
void decode_cache_flush(struct vcpu *v);

/*
 * The decoded code at v->rip, as the current mode and privilege see it; good until the next call or cont ==
 * 0. Raises what the fetch raises (#PF, #GP); bytes that are no instruction are one that raises #UD when it
 * runs.
 */
const struct code_block *decode_lookup_slow(struct vcpu *v);

/* Handler of a decoded instruction with its checks (feature, privilege, protected mode). */
insn_handler *choose_handler(const struct vcpu *v, const struct insn *i);

/* Execute the decoded code at v->rip to its end, or until v->cont is 0. Raises and leaves as instructions do. */
void interpret_block(struct vcpu *v);

enum { BLOCK_SLOTS = 1 << 15, BLOCK_MAX_INSNS = 32 };

struct decode_cache {
	struct code_block *slot[MODE_64 + 1][BLOCK_SLOTS]; /* by mode and hash of the HVA; never NULL */
	struct code_block *cross; /* one uncached instruction: page-crossing, at the limit, invalid */
	uint8_t *arena;
	uint64_t used, size;
};

static inline unsigned block_slot(const void *hva)
{
	uintptr_t h = (uintptr_t)hva;

	return (h ^ h >> 15) & (BLOCK_SLOTS - 1);
}

#endif
