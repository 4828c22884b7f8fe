/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes x86-64 host instructions. A `struct emit` is a cursor into the writable view of the code cache; addresses
 * that go into the code (jump targets) are those of the executable view, `rx` bytes further on. Running over the end
 * is remembered in `overflow`, nothing is written then, and the caller throws the block away.
 *
 * Only the forms that the translator needs exist; each function writes one instruction and chooses its shortest form.
 */
#ifndef GUISE_TRANSLATE_EMIT_H
#define GUISE_TRANSLATE_EMIT_H

#include <stdbool.h>
#include <stdint.h>

enum host_reg {
	H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15,
	H_NONE = 0xff
};

/*
 * What in a block's code depends on where the block is, so that it can be copied (copy.c). A block has two pieces, hot and
 * cold; `at` is an offset from where its piece begins.
 */
enum reloc_kind {
	RELOC_TO_HOT, RELOC_TO_COLD, RELOC_TO_FIXED, /* rel32 from one piece to the other, or out */
	RELOC_NAME,				     /* imm32: arena offset of something of the block's */
	RELOC_VA,				     /* imm64: guest linear address that moves with the block's */
	RELOC_SLOT				     /* disp32: the block's place among code ids */
};
struct reloc {
	uint16_t at;
	uint8_t kind;
	bool cold;
};
enum { RELOC_MOST = 1024, PIECES = 2 };
struct reloc_log {
	const uint8_t *piece[PIECES]; /* executable addresses at which hot and cold code begin */
	uint32_t room;		      /* of each */
	uint32_t count;
	bool incomplete;	      /* there is more than that: the block cannot be copied */
	struct reloc reloc[RELOC_MOST];
};

struct emit {
	uint8_t *p, *end;
	intptr_t rx; /* executable view - writable view */
	bool overflow;
	struct reloc_log *log; /* NULL: nobody wants to know */
};

/* The bytes at an executable address depend on the place as `kind` says. */
void emit_reloc(struct reloc_log *log, const uint8_t *at, enum reloc_kind kind);

/* A memory operand: [base + index * scale + disp]. index H_NONE: none; base H_NONE: absolute disp32. */
struct host_mem {
	uint8_t base, index, scale_log2;
	int32_t disp;
};

static inline struct host_mem mem_base(unsigned base, int32_t disp)
{
	return (struct host_mem){ (uint8_t)base, H_NONE, 0, disp };
}

static inline struct host_mem mem_index(unsigned base, unsigned index, unsigned scale_log2, int32_t disp)
{
	return (struct host_mem){ (uint8_t)base, (uint8_t)index, (uint8_t)scale_log2, disp };
}

/* Address in the executable view of the next byte. */
static inline uint8_t *emit_here(const struct emit *e)
{
	return e->p + e->rx;
}

void emit_bytes(struct emit *e, const void *bytes, unsigned n);
static inline void emit_u8(struct emit *e, uint8_t b)
{
	if (e->p < e->end)
		*e->p++ = b;
	else
		e->overflow = true;
}
void emit_u32(struct emit *e, uint32_t x);
void emit_u64(struct emit *e, uint64_t x);
void emit_nops(struct emit *e, unsigned n);
/* NOPs until the executable address + `ahead` is a multiple of `align`. */
void emit_align(struct emit *e, unsigned align, unsigned ahead);
/*
 * Prefixes without meaning, until the four bytes that begin at + `ahead` lie in one aligned quadword, where they can be
 * replaced in one store (AMD volume 2, 7.3.2). The next instruction must be a JMP, a Jcc or one with a memory operand.
 */
void emit_align_patch(struct emit *e, unsigned ahead);

/* What stands around ModRM: REX.W, a 66/F2/F3 prefix (0: none), map (0: one-byte, 1: 0F, 2: 0F38, 3: 0F3A). */
enum { OP_W = 1 << 8, OP_BYTE = 1 << 9 /* byte registers: SPL..DIL need a REX */, OP_66 = 1 << 10, OP_MAP_SHIFT = 12 };

/* ModRM byte, SIB and displacement for `reg` (3 bits used) and a memory operand or register. */
void emit_modrm_mem(struct emit *e, unsigned reg, struct host_mem m);
/* One instruction, register-register or register-memory. op: opcode byte | OP_* | map << OP_MAP_SHIFT. */
void emit_rr(struct emit *e, unsigned op, unsigned reg, unsigned rm);
void emit_rm(struct emit *e, unsigned op, unsigned reg, struct host_mem m);

/* The few instructions used by name. Sizes: 8 = 64-bit, 4 = 32-bit (zero-extending). */
void emit_mov(struct emit *e, unsigned size, unsigned dst, unsigned src);
void emit_load(struct emit *e, unsigned size, unsigned dst, struct host_mem m);   /* size 4, 8; 1, 2 zero-extend */
void emit_store(struct emit *e, unsigned size, struct host_mem m, unsigned src);  /* 1, 2, 4, 8 */
void emit_lea(struct emit *e, unsigned size, unsigned dst, struct host_mem m);
void emit_mov_imm(struct emit *e, unsigned dst, uint64_t imm);
void emit_store_imm32(struct emit *e, unsigned size, struct host_mem m, int32_t imm); /* sign-extended for 8 */
/* op: /n of the 81/83 group: 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp. */
enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };
void emit_alu_imm(struct emit *e, unsigned size, unsigned op, unsigned rm, int32_t imm);
void emit_alu_mem_imm(struct emit *e, unsigned size, unsigned op, struct host_mem m, int32_t imm);
void emit_alu_rr(struct emit *e, unsigned size, unsigned op, unsigned dst, unsigned src);
void emit_alu_rm(struct emit *e, unsigned size, unsigned op, unsigned dst, struct host_mem m);
enum { SHIFT_ROL, SHIFT_ROR, SHIFT_SHL = 4, SHIFT_SHR, SHIFT_SAR = 7 };
void emit_shift_imm(struct emit *e, unsigned size, unsigned op, unsigned rm, unsigned count);

/* Jumps to an address of the executable view. */
void emit_jmp(struct emit *e, const void *target);
void emit_call(struct emit *e, const void *target);
void emit_jcc(struct emit *e, unsigned cc, const void *target);
void emit_jmp_mem(struct emit *e, struct host_mem m);
/* Forward jumps whose target is not known yet: returns the writable address of the rel32 (rel8) to patch. */
uint8_t *emit_jmp_forward(struct emit *e);
uint8_t *emit_jcc_forward(struct emit *e, unsigned cc);
uint8_t *emit_jrcxz_forward(struct emit *e);
void emit_patch32(const struct emit *e, uint8_t *rel32, const void *target);
void emit_patch8(const struct emit *e, uint8_t *rel8, const void *target);

#endif
