/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Real-mode images: C compiled with -m16, all segments 0.
 *
 * TRY(code) runs 16-bit assembly; an interrupt or exception in it ends it and is told in `trap`. With
 * trap_resume set the stubs go back to where they came from, logging each IP.
 */
#ifndef METAL_REAL_H
#define METAL_REAL_H

#include "check.h"

struct trap {
	uint16_t vector, ip, cs, flags, sp, ss, handler_flags, ds, es, pad;
	uint32_t eax, ecx, esi, edi;
};

extern volatile struct trap trap;
extern volatile uint32_t trap_count, catch_sp;
extern volatile uint16_t trap_resume, trap_log[32], catch_ip, here;
extern uint8_t trap_stubs[];

#define AT(insn) "movw $8f, here\n 8: " insn "\n"
/* 16-bit assembly, with gcc's own mode restored behind it. */
#define CODE16(code) ".code16\n" code "\n.code16gcc\n"
#define TRY_ASM(code, outputs, inputs, ...)                                                                  \
	do {                                                                                                 \
		trap.vector = NO_TRAP;                                                                       \
		asm volatile(                                                                                \
		    CODE16("movw $9f, catch_ip\n movl %%esp, catch_sp\n pushl %%ebp; movl %%esp, "           \
			   "catch_sp\n" code "\n 9: movw $0, catch_ip; movl catch_sp, %%esp; popl %%ebp; "   \
					     "xorw %%ax, %%ax; mov %%ax, %%ds; mov %%ax, %%es")              \
		    : outputs:inputs                                                                         \
		    : "memory", "cc", "eax", ##__VA_ARGS__);                                                 \
	} while (0)
#define TRY(code)     TRY_ASM(code, , , "ebx", "ecx", "edx", "esi", "edi")
#define COMMA	      ,
#define CHECK_TRAP(v) CHECK_EQ(trap.vector, v)
#define CHECK_FAULT(v)                                                                                       \
	do {                                                                                                 \
		CHECK_EQ(trap.vector, v);                                                                    \
		CHECK_EQ(trap.ip, here);                                                                     \
	} while (0)
#define FAULT_IS(v) (trap.vector == (v) && trap.ip == here)

#endif
