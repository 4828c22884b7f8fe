/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One decoded instruction. The table src/x86/insns.tab describes every instruction once, in the notation of
 * the Intel SDM (volume 2, appendix A); a generator makes the decoder's tables and `enum insn_op` from it.
 * The interpreter, the translator, the disassembly in logs and the tests all work from `struct insn`.
 */
#ifndef GUISE_X86_INSN_H
#define GUISE_X86_INSN_H

#include <stdbool.h>
#include <stdint.h>
#include "x86/arch.h"

enum { INSN_MAX_LEN = 15, INSN_MAX_OPERANDS = 6 };

/* What CS and EFER say about code: operand/address size default and encoding rules. */
enum insn_mode { MODE_16, MODE_32, MODE_64 };

enum operand_kind {
	OPK_NONE,
	OPK_GPR,  /* reg: enum x86_gpr, 16..19 = AH CH DH BH */
	OPK_MEM,  /* the one memory operand, described by insn.mem */
	OPK_IMM,  /* insn.imm, already sign- or zero-extended to the operand's size */
	OPK_IMM2, /* insn.imm2: ENTER's level, EXTRQ/INSERTQ's and is4-imm forms' second immediate */
	OPK_REL,  /* branch target = next RIP + (int64_t)insn.imm */
	OPK_FAR,  /* far pointer: insn.imm = offset, insn.imm2 = selector */
	OPK_SEG,  /* reg: enum x86_segreg */
	OPK_CR,	  /* reg: control register number */
	OPK_DR,	  /* reg: debug register number */
	OPK_ST,	  /* reg: x87 stack index */
	OPK_MMX,  /* reg: 0..7 */
	OPK_XMM,  /* reg: 0..15; size says 16 or 32 (ymm); scalar forms say 4 or 8 */
	OPK_STR_SRC, /* DS:[rSI] of a string instruction (segment override applies: insn.mem.seg) */
	OPK_STR_DST  /* ES:[rDI] */
};

enum { ACC_R = 1, ACC_W = 2, ACC_RW = 3, ACC_ADDR = 4 /* address only: LEA, INVLPG, NOP Ev, PREFETCH */ };

struct operand {
	uint8_t kind;	/* enum operand_kind */
	uint8_t reg;	/* see the kind */
	uint8_t access; /* ACC_* */
	bool implicit;	/* not encoded in ModRM/VEX: AL, rCX, DX, constant 1... */
	uint16_t size;	/* bytes; 0 where the instruction's own state decides (XSAVE, FNSAVE) */
};

struct insn_mem {
	uint8_t seg;	    /* effective segment, override applied (enum x86_segreg) */
	uint8_t base;	    /* enum x86_gpr, BASE_RIP or REG_NONE */
	uint8_t index;	    /* enum x86_gpr or REG_NONE; VSIB: vector register number */
	uint8_t scale_log2;
	uint8_t addr_size;  /* 2, 4 or 8 bytes */
	bool vsib;
	int64_t disp;	    /* sign-extended; moffs: the whole address */
};

enum {
	PFX_LOCK = 1, PFX_REP = 2 /* F3 */, PFX_REPNE = 4 /* F2 */, PFX_66 = 8, PFX_67 = 16, PFX_SEG = 32,
	PFX_REX = 64, PFX_VEX = 128
};

struct insn_row; /* a row of the table: see insn_row.h, generated tables in insn_table.c */

struct insn {
	const struct insn_row *row; /* what the table says: op, attributes, flags read/written */
	uint16_t op;		    /* enum insn_op, = row->op */
	uint8_t len;		    /* bytes of the whole instruction, 1..15 */
	uint8_t mode;		    /* enum insn_mode it was decoded in */
	uint8_t op_size;	    /* effective operand size: 2, 4 or 8 (1 never: see operand.size) */
	uint8_t prefixes;	    /* PFX_* seen */
	uint8_t rex;		    /* REX byte or 0; for VEX: its R, X, B, W in REX form (0x40 | WRXB) */
	uint8_t vex_l;		    /* VEX.L */
	uint8_t vex_vvvv;	    /* register number, 0..15 */
	uint8_t opcode;		    /* last opcode byte: condition code = opcode & 15 */
	uint8_t opcode_map;	    /* 0 one-byte, 1 0F, 2 0F38, 3 0F3A */
	uint8_t modrm;		    /* ModRM byte, valid if has_modrm */
	bool has_modrm;
	uint8_t operand_count;
	struct operand operand[INSN_MAX_OPERANDS];
	struct insn_mem mem;
	uint64_t imm, imm2;
	/* For re-encoding: byte offsets inside bytes[] (0 = absent) and sizes. */
	uint8_t opcode_at, modrm_at, disp_at, disp_size, imm_at, imm_size;
	uint8_t bytes[INSN_MAX_LEN]; /* `len` of them; then anything */
};

enum insn_status {
	INSN_OK,
	INSN_INVALID,	/* #UD: no such instruction in this mode (LOCK where it may not stand, too) */
	INSN_TRUNCATED, /* needs more bytes than were given */
	INSN_TOO_LONG	/* over 15 bytes: #GP */
};

/*
 * Decode one instruction of at most `avail` bytes (15 are always enough) as code of mode `mode`.
 * On INSN_OK *insn is complete; otherwise only insn->len (bytes looked at) is. Reads nothing past
 * code[avail-1]. Pure function, any thread. CPUID is not looked at: engines check row->feature.
 */
enum insn_status insn_decode(struct insn *insn, const uint8_t *code, unsigned avail, enum insn_mode mode);

/* Intel-syntax text of a decoded instruction at address `rip` into buf, NUL-terminated. Returns buf. */
char *insn_format(const struct insn *insn, uint64_t rip, char *buf, unsigned size);

#endif
