/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A row of the instruction table, as tools/gen-insns.py makes it from insns.tab (whose head explains the
 * notation). The first half is what everybody asks about an instruction; the second half, the encoding, is
 * the decoder's.
 */
#ifndef GUISE_X86_INSN_ROW_H
#define GUISE_X86_INSN_ROW_H

#include <stdbool.h>
#include <stdint.h>
#include "x86/insn.h"
#include "x86/insn_ops.h" /* generated: enum insn_op, enum insn_sem, enum insn_feature */

/* insn_row.attrs */
enum {
	INSN_LOCK = 1 << 0,    /* LOCK may stand before it if it writes memory (the decoder has checked) */
	INSN_PRIV = 1 << 1,    /* #GP(0) unless CPL is 0 */
	INSN_END = 1 << 2,     /* changes how later instructions are decoded or interrupted */
	INSN_STRING = 1 << 3,  /* MOVS..OUTS: REP prefixes repeat it */
	INSN_PROT = 1 << 4,    /* #UD in real-address and virtual-8086 mode (all VEX rows, too) */
	INSN_CC = 1 << 5,      /* flags read depend on the condition, opcode & 15: see insn_flags_read() */
	INSN_HOST = 1 << 6,    /* runs on the host's vector or x87 unit: re-encode and execute */
	INSN_X87 = 1 << 7,     /* x87 instruction, or WAIT */
	INSN_NOWAIT = 1 << 8,  /* x87 that does not look for pending exceptions first: FNINIT, FNSTSW... */
	INSN_CONTROL = 1 << 9, /* x87 that leaves FIP, FDP and FOP alone: FLDCW, FNSTSW... */
	INSN_MMX = 1 << 10,   /* uses MMX registers: checks pending x87 exceptions, resets the x87 tag word */
	INSN_SSE = 1 << 11,   /* legacy SSE encoding: CR4.OSFXSR, CR0.EM */
	INSN_VEX = 1 << 12,   /* VEX encoding of vector state: CR4.OSXSAVE, XCR0.AVX (BMI rows lack it) */
	INSN_ALIGN = 1 << 13, /* #GP(0) unless the memory operand is aligned to its size */
	INSN_VSIB = 1 << 14,  /* gather: one access per element, mask register updated as it goes */
	INSN_MASKED = 1 << 15, /* masked load or store: no fault from elements not selected */
	INSN_FP_EXC = 1 << 16  /* can set MXCSR exception flags, hence raise #XM */
};

enum insn_branch {
	BR_NONE,
	BR_JMP,	     /* direct */
	BR_CALL,     /* direct */
	BR_COND,     /* Jcc, LOOPcc, JCXZ */
	BR_RET,	     /* near */
	BR_JMP_IND,  /* near, through register or memory */
	BR_CALL_IND,
	BR_FAR	     /* anything that loads CS or enters an exception: far transfers, INT, IRET, SYSCALL... */
};

/* One operand of an encoding: where it is found, how large it is. */
struct operand_spec {
	uint8_t how;   /* enum operand_how */
	uint8_t size;  /* enum operand_size */
	uint8_t access; /* ACC_* */
	uint8_t reg;   /* fixed registers */
};

/* Letters of SDM volume 2, appendix A.2.1, one to one; then fixed registers. */
enum operand_how {
	HOW_A, HOW_B, HOW_C, HOW_D, HOW_E, HOW_G, HOW_H, HOW_I, HOW_IS, HOW_I2, HOW_J, HOW_L, HOW_M, HOW_N,
	HOW_O, HOW_P, HOW_Q, HOW_R, HOW_S, HOW_U, HOW_V, HOW_W, HOW_X, HOW_Y, HOW_Z, HOW_VSIB, HOW_STI,
	HOW_GPR, HOW_SEG, HOW_ST, HOW_XMM, HOW_ONE
};

/* Sizes up to 127 are bytes; the rest depend on prefixes. */
enum operand_size {
	SIZE_V = 128, /* operand size: 2, 4, 8 */
	SIZE_Z,	      /* operand size, at most 4 */
	SIZE_Y,	      /* 8 with REX.W/VEX.W in 64-bit mode, else 4 */
	SIZE_N,	      /* 8 in 64-bit mode, else 4 */
	SIZE_P,	      /* far pointer: operand size + 2 */
	SIZE_2V,      /* BOUND's pair */
	SIZE_S,	      /* descriptor-table register image: 10 in 64-bit mode, else 6 */
	SIZE_X,	      /* 16, or 32 with VEX.L */
	SIZE_X2, SIZE_X4, SIZE_X8, /* half, quarter, eighth of it */
	SIZE_ASZ,     /* address size */
	SIZE_ENV,     /* FNSTENV's image: 14 or 28 by operand size */
	SIZE_FSAVE    /* FNSAVE's image: 94 or 108 */
};

struct insn_row {
	const char *mnemonic;
	uint16_t op, sem;
	/* FLAG_* masks. `may`: for some operand values only (shift counts). */
	uint16_t flags_read, flags_written, flags_undefined, flags_may;
	uint32_t attrs;
	uint8_t feature; /* enum insn_feature the guest's CPUID must offer */
	uint8_t branch;	 /* enum insn_branch */

	/* Encoding: all masks must agree. */
	uint8_t prefixes; /* bit 0: no 66/F2/F3; 1: 66; 2: F3; 3: F2 */
	uint8_t modes;	  /* bit = enum insn_mode */
	uint8_t mods;	  /* bit 0: memory form, 1: register form */
	uint8_t regs;	  /* bit = ModRM.reg */
	uint8_t rms;	  /* bit = ModRM.rm, of register forms */
	uint8_t wl;	  /* bit 0: W0 allowed, 1: W1, 2: VEX.L 0, 3: VEX.L 1 */
	uint8_t encoding; /* ENC_* */
	uint8_t operand_count;
	struct operand_spec operand[INSN_MAX_OPERANDS];
};

enum {
	ENC_D64 = 1,	/* operand size is 8 by default in 64-bit mode */
	ENC_F64 = 2,	/* operand size is 8 always in 64-bit mode */
	ENC_VVVV = 4,	/* VEX.vvvv names an operand; else it must be 1111b */
	ENC_MODREG = 8, /* ModRM.mod is ignored, always a register form (MOV CRn, DRn) */
	ENC_REXB0 = 16	/* only without REX.B: NOP, PAUSE */
};

/* Candidates for one opcode: `count` of insn_candidates[] from `first`; by ModRM.reg if SLOT_BY_REG. */
struct insn_slot {
	uint16_t first;
	uint8_t count;
	uint8_t flags; /* SLOT_* */
};
enum { SLOT_MODRM = 1, SLOT_BY_REG = 2 };

extern const struct insn_row insn_rows[];
extern const unsigned insn_row_count;
extern const uint16_t insn_candidates[];
extern const struct insn_slot insn_slots[8][256]; /* maps 0..3 legacy, 4..7 VEX */
extern const struct insn_slot insn_reg_slots[][8];

/* Status flags that condition code cc (Jcc's low opcode bits) looks at. */
static inline uint16_t cond_flags(unsigned cc)
{
	static const uint16_t flags[8] = {
		FLAG_OF, FLAG_CF, FLAG_ZF, FLAG_CF | FLAG_ZF, FLAG_SF, FLAG_PF, FLAG_SF | FLAG_OF,
		FLAG_ZF | FLAG_SF | FLAG_OF
	};
	return flags[cc >> 1 & 7];
}

/* Flags an instruction reads: its row's, or by its condition. */
static inline uint16_t insn_flags_read(const struct insn *i)
{
	return i->row->attrs & INSN_CC ? cond_flags(i->opcode & 15) : i->row->flags_read;
}

#endif
