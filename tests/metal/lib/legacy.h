/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 32-bit protected-mode images. As metal.h: TRY() catches the first exception of a piece of assembly.
 */
#ifndef METAL_LEGACY_H
#define METAL_LEGACY_H

#include "check.h"

struct frame {
	uint32_t gs, fs, es, ds, edi, esi, ebp, esp_here, ebx, edx, ecx, eax;
	uint32_t vector, error, eip, cs, eflags;
	uint32_t esp, ss;			 /* from an outer ring */
	uint32_t v86_es, v86_ds, v86_fs, v86_gs; /* from v8086 mode */
};

struct trap {
	uint32_t vector, error, eip, cs, eflags, esp, ss, cr2, eax, ebx, ds, es, v86_es, v86_ds, v86_fs,
	    v86_gs, dr6, count, at;
};

enum {
	SEL_CODE = 0x08,
	SEL_DATA = 0x10,
	SEL_UCODE = 0x1b,
	SEL_UDATA = 0x23,
	SEL_CODE16 = 0x28,
	SEL_DATA16 = 0x30,
	SEL_TSS = 0x38,
	SEL_TSS2 = 0x40,
	SEL_LDT = 0x48,
	SEL_TEST = 0x50
};
enum { FLAG_VM = 1 << 17 };

extern volatile struct trap trap;
extern bool (*volatile trap_hook)(struct frame *); /* true: handled, return to the frame */
extern volatile uint32_t catch_eip, catch_esp, here;
extern uint8_t trap_stubs[];
extern uint64_t gdt[], idt[256];
extern struct __attribute__((packed)) {
	uint16_t limit;
	uint32_t base;
} gdtr, idtr;

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
	    edi, es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
	uint8_t redirection[32], bitmap[33];
} __attribute__((packed));
extern struct tss32 tss;

#define COMMA	 ,
#define AT(insn) "movl $8f, here\n 8: " insn "\n"
/* The code may use any register but ESP; memory operands must be static. */
#define TRY_ASM(code, outputs, inputs, ...)                                                                  \
	do {                                                                                                 \
		trap.vector = NO_TRAP;                                                                       \
		asm volatile("pushl %%ebp\n movl %%esp, catch_esp\n movl $9f, catch_eip\n" code              \
			     "\n 9: movl $0, catch_eip\n movl catch_esp, %%esp\n popl %%ebp"                 \
			     : outputs:inputs                                                                \
			     : "memory", "cc", ##__VA_ARGS__);                                               \
	} while (0)
#define TRY(code) TRY_ASM(code, , , "eax", "ebx", "ecx", "edx", "esi", "edi")
/* The code may use EAX as its scratch; `v` is in EDX. */
#define TRY_WITH(code, v) TRY_ASM(code, , "d"(v), "eax", "ebx", "ecx", "esi", "edi")
#define CHECK_TRAP(v)	  CHECK_EQ(trap.vector, v)
#define CHECK_ERROR(v, e)                                                                                    \
	do {                                                                                                 \
		CHECK_EQ(trap.vector, v);                                                                    \
		CHECK_EQ(trap.error, e);                                                                     \
	} while (0)
#define CHECK_FAULT_ERROR(v, e)                                                                              \
	do {                                                                                                 \
		CHECK_ERROR(v, e);                                                                           \
		CHECK_EQ(trap.eip, here);                                                                    \
	} while (0)
#define FAULT_IS(v)	     (trap.vector == (v) && trap.eip == here)
#define TRAP_IS(v, e)	     (trap.vector == (v) && trap.error == (e))
#define FAULT_IS_ERROR(v, e) (FAULT_IS(v) && trap.error == (e))

void setup_traps(void);
void set_gate(unsigned vector, const void *handler, unsigned selector, unsigned access);
void default_gate(unsigned vector);
uint64_t seg_desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
uint64_t gate_desc(uint32_t offset, unsigned selector, unsigned access, unsigned params);
void enter_user(const void *eip, uint32_t cs, const void *esp, uint32_t ss, uint32_t eflags);
void enter_v86(uint32_t ip, uint32_t cs, uint32_t sp, uint32_t ss, uint32_t eflags, uint32_t ds);
/* Run code in ring 3 until it traps. */
void run_user(const void *code, uint32_t eflags);
void run_v86(uint32_t ip, uint32_t cs, uint32_t eflags);
extern uint8_t user_stack_top[];
void reload_segments(void);

#define READ_REG(name)                                                                                       \
	({                                                                                                   \
		uint32_t v_;                                                                                 \
		asm volatile("mov %%" #name ", %0" : "=r"(v_));                                              \
		v_;                                                                                          \
	})
#define WRITE_REG(name, value) asm volatile("mov %0, %%" #name ::"r"((uint32_t)(value)) : "memory")
static inline uint32_t read_flags(void)
{
	uint32_t f;
	asm volatile("pushfl; pop %0" : "=r"(f));
	return f;
}
static inline void invlpg(uint32_t gva)
{
	asm volatile("invlpg (%0)" ::"r"(gva) : "memory");
}
static inline uint64_t rdmsr(uint32_t msr)
{
	uint64_t v;

	asm volatile("rdmsr" : "=A"(v) : "c"(msr));
	return v;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
	asm volatile("wrmsr" ::"c"(msr), "A"(v) : "memory");
}

#endif
