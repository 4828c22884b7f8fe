/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the 64-bit images share: a console, checks, traps that can be caught, page tables, user mode.
 *
 * An image is a list of groups of checks. A failed check prints its line and the values; the image ends by
 * writing 0 (all passed) or 1 to port 0xf4. Port 0xe9 is the console. Devices are those of QEMU's pc machine
 * with isa-debug-exit and pc-testdev; the project's own runner offers the same.
 *
 * Traps: TRY(code) runs an instruction sequence; the first exception in it ends it, `trap` tells which.
 * Outside TRY an exception goes to trap_hook, if set and willing, else it fails the image. Only the boot
 * processor uses these.
 */
#ifndef METAL_H
#define METAL_H

#include "check.h"

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

enum {
	SEL_CODE64 = 0x08,
	SEL_DATA = 0x10,
	SEL_CODE32 = 0x18,
	SEL_UCODE32 = 0x23,
	SEL_UDATA = 0x2b,
	SEL_UCODE64 = 0x33,
	SEL_CODE16 = 0x38,
	SEL_TSS = 0x40,
	SEL_TEST = 0x50
};
struct trap {
	uint64_t vector, error, rip, cs, rflags, rsp, ss, cr2, dr6, count;
};

extern volatile struct trap trap;		   /* the last trap */
extern bool (*volatile trap_hook)(struct frame *); /* true: handled, return to the frame */
extern volatile uint64_t catch_rip, catch_rsp;	   /* where a caught trap continues; 0: not catching */

/* Run `code`; afterwards trap.vector is the exception that ended it or NO_TRAP. */
#define TRY_ASM(code, outputs, inputs, ...)                                                                  \
	do {                                                                                                 \
		trap.vector = NO_TRAP;                                                                       \
		asm volatile("movq $9f, catch_rip\n\tmovq %%rsp, catch_rsp\n\t" code                         \
			     "\n\t9: movq $0, catch_rip"                                                     \
			     : outputs:inputs                                                                \
			     : "memory", "cc", ##__VA_ARGS__);                                               \
	} while (0)
#define TRY(code) TRY_ASM(code, , , "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")
#define COMMA	  ,
/* Prefix of the instruction that is expected to trap: its address goes to `here`. */
extern volatile uint64_t here;
#define AT(insn) "movq $8f, here\n\t8: " insn "\n\t"
/* A fault that left RIP at the instruction marked by AT(). */
#define FAULT_IS(v)	     (trap.vector == (v) && trap.rip == here)
#define FAULT_IS_ERROR(v, e) (FAULT_IS(v) && trap.error == (e))
#define TRAP_IS(v, e)	     (trap.vector == (v) && trap.error == (e))
#define CHECK_FAULT(v)                                                                                       \
	do {                                                                                                 \
		CHECK_TRAP(v);                                                                               \
		CHECK_EQ(trap.rip, here);                                                                    \
	} while (0)
#define CHECK_FAULT_ERROR(v, e)                                                                              \
	do {                                                                                                 \
		CHECK_ERROR(v, e);                                                                           \
		CHECK_EQ(trap.rip, here);                                                                    \
	} while (0)
#define CHECK_TRAP(v) CHECK_EQ(trap.vector, v)
#define CHECK_ERROR(v, e)                                                                                    \
	do {                                                                                                 \
		CHECK_EQ(trap.vector, v);                                                                    \
		CHECK_EQ(trap.error, e);                                                                     \
	} while (0)

/* --- traps (trap.c) --- */
struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
};
struct tss64 {
	uint32_t reserved0;
	uint64_t rsp[3], reserved1, ist[7], reserved2;
	uint16_t reserved3, iomap;
	uint8_t bitmap[32 + 1];
} __attribute__((packed));
extern struct gate idt[256];
extern struct tss64 tss;
extern uint64_t gdt[];
extern uint8_t trap_stubs[];

void setup_traps(void);
void load_idt(void);
void set_gate(unsigned vector, void *handler, unsigned selector, unsigned type, unsigned ist);
void default_gate(unsigned vector);
uint64_t call_catching(void *code, uint64_t a, uint64_t b);
void enter_user(void *rip, void *rsp, uint64_t cs, uint64_t rflags);
/* Run code at CPL 3 until it traps; the trap is in `trap`. */
void run_user(void *code, uint64_t cs, uint64_t rflags);
extern uint8_t user_stack_top[];
uint64_t seg_desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
enum { GATE_INTR = 0x8e, GATE_TRAP = 0x8f };

/* --- paging (paging.c) --- */
enum { P_P = 1, P_W = 2, P_U = 4, P_PWT = 8, P_PCD = 16, P_A = 32, P_D = 64, P_PS = 128, P_G = 256 };
#define P_NX (1ull << 63)
extern uint64_t boot_pml4[512], boot_pdpt[512], boot_pd_low[512], boot_pd_high[512];
extern uint8_t user_start[], user_end[];
void setup_paging(void);
void *alloc_page(void);					   /* zeroed, from 16 MiB up */
uint64_t *pte_of(uint64_t *pml4, uint64_t gva, int level); /* entry at level (1..4), making tables above */
void map(uint64_t gva, uint64_t pte);			   /* 4 KiB, in boot_pml4; flushes it */
uint64_t *new_space(void);				   /* a PML4 that shares the low 512 GiB's tables */

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return lo | (uint64_t)hi << 32;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
	asm volatile("wrmsr" ::"c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return lo | (uint64_t)hi << 32;
}
#define READ_REG(name)                                                                                       \
	({                                                                                                   \
		uint64_t v_;                                                                                 \
		asm volatile("mov %%" #name ", %0" : "=r"(v_));                                              \
		v_;                                                                                          \
	})
#define WRITE_REG(name, value) asm volatile("mov %0, %%" #name ::"r"((uint64_t)(value)) : "memory")
static inline uint64_t read_flags(void)
{
	uint64_t f;
	asm volatile("pushf; pop %0" : "=r"(f));
	return f;
}
static inline void invlpg(uint64_t gva)
{
	asm volatile("invlpg (%0)" ::"r"(gva) : "memory");
}
static inline void cli(void)
{
	asm volatile("cli" ::: "memory");
}
static inline void sti(void)
{
	asm volatile("sti" ::: "memory");
}
static inline void pause(void)
{
	asm volatile("pause" ::: "memory");
}

#endif
