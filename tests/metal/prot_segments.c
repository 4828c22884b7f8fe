/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Segmentation in 32-bit protected mode: limits, types, privilege, descriptor tables, 16-bit segments, call
 * gates, rings and interrupts (SDM volume 3, chapters 3, 5 and 6).
 */
#include "legacy.h"

static void put_seg(unsigned slot, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	gdt[SEL_TEST / 8 + slot] = seg_desc(base, limit, access, flags);
}

#define SLOT(n)	       (SEL_TEST + 8 * (n))
#define READ(seg, at)  TRY_WITH(AT("movl %%" #seg ":(%%edx), %%eax"), at)
#define WRITE(seg, at) TRY_WITH(AT("movl %%ecx, %%" #seg ":(%%edx)"), at)
#define LOAD(seg, sel) TRY_WITH(AT("movl %%edx, %%" #seg), sel)

static void limits(void)
{
	group("limits");
	if (is_oracle()) {
		quirk("no segment limits");
		return;
	}
	put_seg(0, 0x100000, 0xfff, 0x93, 4);
	LOAD(es, SLOT(0));
	CHECK_TRAP(NO_TRAP);
	READ(es, 0xffc);
	CHECK_TRAP(NO_TRAP);
	READ(es, 0xffd);
	CHECK_FAULT_ERROR(GP, 0);
	READ(es, 0x1000);
	CHECK_FAULT_ERROR(GP, 0);
	READ(es, 0xfffffffe); /* wraps */
	CHECK_FAULT_ERROR(GP, 0);
	TRY("movb %%es:0xfff, %%al");
	CHECK_TRAP(NO_TRAP);
	TRY(AT("movw %%es:0xfff, %%ax"));
	CHECK_FAULT_ERROR(GP, 0);
	put_seg(0, 0x100000, 1, 0x93, 0xc); /* pages: 8 KiB */
	LOAD(es, SLOT(0));
	READ(es, 0x1ffc);
	CHECK_TRAP(NO_TRAP);
	READ(es, 0x1ffd);
	CHECK_FAULT_ERROR(GP, 0);
	/* Expand-down: above the limit, up to 64 KiB or 4 GiB. */
	put_seg(0, 0x100000, 0xfff, 0x97, 4);
	LOAD(es, SLOT(0));
	READ(es, 0x1000);
	CHECK_TRAP(NO_TRAP);
	READ(es, 0xfff);
	CHECK_FAULT_ERROR(GP, 0);
	READ(es, 0x20000);
	CHECK_TRAP(NO_TRAP);
	READ(es, 0xfffffffd);
	CHECK_FAULT_ERROR(GP, 0);
	put_seg(0, 0x100000, 0xfff, 0x97, 0);
	LOAD(es, SLOT(0));
	READ(es, 0xfffc);
	CHECK_TRAP(NO_TRAP);
	READ(es, 0xfffd);
	CHECK_FAULT_ERROR(GP, 0);
	READ(es, 0x10000);
	CHECK_FAULT_ERROR(GP, 0);
	/* Through SS: #SS(0). */
	put_seg(0, 0, 0xfffff, 0x93, 4); /* 1 MiB: enough for the handler's frame */
	TRY_WITH("mov %%edx, %%ss; mov $0xffffe, %%ecx\n" AT("movl %%ss:(%%ecx), %%eax"), SLOT(0));
	CHECK_FAULT_ERROR(SS, 0);
	TRY_WITH("mov %%edx, %%ss; mov $0x100000, %%ebp\n" AT("movl (%%ebp), %%eax"), SLOT(0));
	CHECK_FAULT_ERROR(SS, 0);
	TRY_WITH("mov %%edx, %%ss; mov $0x100000, %%ebp\n" AT(
		     "movl %%ds:(%%ebp), %%eax") "mov $0x10, %%eax; mov %%eax, %%ss",
		 SLOT(0));
	CHECK_TRAP(NO_TRAP);
	/* Code limits: jumps and fetches beyond, #GP(0). */
	put_seg(1, 0x100000, 0x7ff, 0x9b, 4);
	*(volatile uint8_t *)0x1007ff = 0x90;
	TRY("ljmp $0x58, $0x800");
	CHECK_ERROR(GP, 0);
	CHECK_EQ(trap.cs, SEL_CODE);
	TRY("ljmp $0x58, $0x7ff");
	CHECK_ERROR(GP, 0);
	CHECK_EQ(trap.cs, SLOT(1));
	CHECK_EQ(trap.eip, 0x800);
	*(volatile uint16_t *)0x1007fd = 0x00e8; /* CALL rel32 cut by the limit */
	TRY("ljmp $0x58, $0x7fd");
	CHECK_ERROR(GP, 0);
	CHECK_EQ(trap.eip, 0x7fd);
	reload_segments();
}

static void types(void)
{
	group("types");
	put_seg(0, 0, 0xfffff, 0x91, 0xc); /* read-only */
	put_seg(1, 0, 0xfffff, 0x99, 0xc); /* execute-only */
	put_seg(2, 0, 0xfffff, 0x13, 0xc); /* not present */
	put_seg(3, 0, 0xfffff, 0xb3, 0xc); /* DPL 1 */
	put_seg(4, 0, 0xfffff, 0x92, 0xc); /* not accessed */
	LOAD(es, SLOT(0));
	READ(es, 0x2000);
	CHECK_TRAP(NO_TRAP);
	WRITE(es, 0x2000);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	LOAD(ss, SLOT(0));
	CHECK_FAULT_ERROR(GP, SLOT(0));
	LOAD(es, SLOT(1));
	CHECK_FAULT_ERROR(GP, SLOT(1));
	LOAD(es, SLOT(2));
	CHECK_FAULT_ERROR(NP, SLOT(2));
	LOAD(ss, SLOT(2));
	CHECK_FAULT_ERROR(SS, SLOT(2));
	LOAD(ss, SLOT(3));
	CHECK_FAULT_ERROR(GP, SLOT(3));
	LOAD(ss, 0);
	CHECK_FAULT_ERROR(GP, 0);
	LOAD(es, SLOT(3) + 3); /* RPL 3 may not have DPL 1 */
	CHECK_FAULT_ERROR(GP, SLOT(3));
	LOAD(es, SLOT(3) + 1);
	CHECK_TRAP(NO_TRAP);
	LOAD(fs, 0);
	CHECK_TRAP(NO_TRAP);
	READ(fs, 0x2000);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0)); /* null selector */
	WRITE(cs, 0x2000);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	READ(cs, 0x2000);
	CHECK_TRAP(NO_TRAP);
	LOAD(gs, SLOT(4));
	CHECK_EQ(gdt[SLOT(4) / 8] >> 40 & 1, 1);
	LOAD(gs, 0xfff8);
	CHECK_FAULT_ERROR(GP, 0xfff8);
	/* A base: added, and wrapped at 4 GiB. */
	put_seg(0, 0xfffff000, 0xfffff, 0x93, 0xc);
	*(volatile uint32_t *)0x2000 = 0xfeedface;
	LOAD(es, SLOT(0));
	TRY_WITH("movl %%es:(%%edx), %%eax; movl %%eax, 0x2010", 0x3000);
	CHECK_EQ(*(volatile uint32_t *)0x2010, 0xfeedface);
	reload_segments();
}

static uint32_t lar(uint32_t sel, bool *ok)
{
	uint32_t r = 0x55;
	uint8_t zf;

	asm volatile("lar %2, %0; setz %1" : "+r"(r), "=q"(zf) : "r"(sel) : "cc");
	*ok = zf;
	return r;
}

static uint32_t lsl(uint32_t sel, bool *ok)
{
	uint32_t r = 0x55;
	uint8_t zf;

	asm volatile("lsl %2, %0; setz %1" : "+r"(r), "=q"(zf) : "r"(sel) : "cc");
	*ok = zf;
	return r;
}

static bool verr(uint32_t sel)
{
	uint8_t z;
	asm volatile("verr %w1; setz %0" : "=q"(z) : "r"(sel) : "cc");
	return z;
}
static bool verw(uint32_t sel)
{
	uint8_t z;
	asm volatile("verw %w1; setz %0" : "=q"(z) : "r"(sel) : "cc");
	return z;
}

static void questions(void)
{
	bool ok;

	group("LAR LSL VERR VERW ARPL");
	CHECK_EQ(lar(SEL_CODE, &ok) & 0xf0ff00, 0x00c09b00); /* bits 16-19 are undefined */
	CHECK(ok);
	CHECK_EQ(lsl(SEL_CODE, &ok), 0xffffffff);
	CHECK(ok);
	put_seg(0, 0, 0x123, 0x93, 4);
	CHECK_EQ(lsl(SLOT(0), &ok), 0x123);
	put_seg(0, 0, 0x123, 0x93, 0xc);
	CHECK_EQ(lsl(SLOT(0), &ok), 0x123fff);
	CHECK_EQ(lar(0, &ok), 0x55);
	CHECK(!ok);
	CHECK_EQ(lar(0xfff8, &ok), 0x55);
	CHECK(!ok);
	CHECK_EQ(lar(SEL_CODE + 3, &ok), 0x55); /* RPL 3 may not see DPL 0 */
	CHECK(!ok);
	lar(SEL_TSS, &ok);
	CHECK(ok);
	CHECK_EQ(lsl(SEL_TSS, &ok), sizeof(tss) - 1);
	gdt[SEL_TEST / 8] = gate_desc(0, SEL_CODE, 0x8e, 0); /* interrupt gate: neither */
	lar(SLOT(0), &ok);
	CHECK(!ok);
	gdt[SEL_TEST / 8] = gate_desc(0, SEL_CODE, 0x8c, 0); /* call gate: LAR yes, LSL no */
	lar(SLOT(0), &ok);
	CHECK(ok);
	lsl(SLOT(0), &ok);
	CHECK(!ok);
	CHECK(verr(SEL_CODE));
	CHECK(!verw(SEL_CODE));
	CHECK(verw(SEL_DATA));
	CHECK(!verr(0));
	CHECK(!verr(SEL_TSS));
	CHECK(!verr(SEL_DATA + 3));
	put_seg(0, 0, 0x123, 0x99, 4); /* execute-only */
	CHECK(!verr(SLOT(0)));
	put_seg(0, 0, 0x123, 0x9e, 4); /* conforming, readable: any level */
	CHECK(verr(SLOT(0) + 3));
	put_seg(0, 0, 0x123, 0x13, 4); /* not present is no obstacle */
	CHECK(verw(SLOT(0)));
	uint32_t r = 0x50;
	uint8_t z;
	asm volatile("arpl %w2, %w0; setz %1" : "+r"(r), "=q"(z) : "r"(3) : "cc");
	CHECK_EQ(r, 0x53);
	CHECK(z);
	asm volatile("arpl %w2, %w0; setz %1" : "+r"(r), "=q"(z) : "r"(1) : "cc");
	CHECK_EQ(r, 0x53);
	CHECK(!z);
}

static void local_table(void)
{
	static uint64_t ldt[4];

	group("LDT");
	ldt[1] = seg_desc(0x2000, 0xfff, 0x93, 4);
	gdt[SEL_LDT / 8] = seg_desc((uint32_t)ldt, sizeof(ldt) - 1, 0x82, 0);
	LOAD(es, 0x0c); /* no LDT yet */
	CHECK_FAULT_ERROR(GP, 0x0c);
	asm volatile("lldt %w0" ::"r"(SEL_LDT));
	uint32_t sel = 0;
	asm volatile("sldt %w0" : "+r"(sel));
	CHECK_EQ(sel & 0xffff, SEL_LDT);
	LOAD(es, 0x0c);
	CHECK_TRAP(NO_TRAP);
	*(volatile uint32_t *)0x2010 = 0x1234;
	TRY("movl %%es:0x10, %%eax; movl %%eax, 0x2020");
	CHECK_EQ(*(volatile uint32_t *)0x2020, 0x1234);
	CHECK_EQ(ldt[1] >> 40 & 1, 1);
	LOAD(es, 0x24); /* past it */
	CHECK_FAULT_ERROR(GP, 0x24);
	LOAD(es, 0x14); /* a null entry */
	CHECK_FAULT_ERROR(GP, 0x14);
	gdt[SEL_LDT / 8] &= ~(1ull << 47);
	TRY_WITH(AT("lldt %%dx"), SEL_LDT);
	CHECK_FAULT_ERROR(NP, SEL_LDT);
	reload_segments();
	asm volatile("lldt %w0" ::"r"(0));
}

static void sixteen_bit(void)
{
	uint32_t r, before;

	group("16-bit segments");
	/* 16-bit code, 32-bit stack. */
	asm volatile("lcall $0x28, $1f; jmp 2f\n .code16\n 1: mov $0x1234, %%eax; mov $0x5678, %%ax; pushw "
		     "%%ax; popw %%cx; add %%cx, %%ax; lretl\n .code32\n 2:"
		     : "=a"(r)::"ecx", "memory", "cc");
	CHECK_EQ(r, 0xacf0);
	/* A 16-bit far call pushes words. */
	asm volatile("mov %%esp, %1; data16 lcall $0x28, $1f; jmp 2f\n .code16\n 1: movl %%esp, %%eax; "
		     "lretw\n .code32\n 2: sub %%eax, %1; mov %1, %0"
		     : "=a"(r), "=&c"(before)::"memory", "cc");
	CHECK_EQ(r, 4);
	/* A 16-bit stack: only SP moves, ESP's upper half stays. */
	asm volatile("mov %%esp, %%ebx; mov $0x30, %%eax; mov %%eax, %%ss; mov $0x12340000, %%esp; push "
		     "%%eax; mov %%esp, %%ecx;"
		     "mov $0x10, %%eax; mov %%eax, %%ss; mov %%ebx, %%esp; mov %%ecx, %0"
		     : "=a"(r)::"ebx", "ecx", "memory");
	CHECK_EQ(r, 0x1234fffc);
	CHECK_EQ(*(volatile uint32_t *)0xfffc, 0x30);
	/* 67 in 32-bit code: 16-bit addressing. */
	*(volatile uint32_t *)0x2345 = 0x600d;
	asm volatile("mov $0xffff2000, %%ebx; mov $0x345, %%esi; addr16 mov (%%bx,%%si), %0"
		     : "=a"(r)::"ebx", "esi");
	CHECK_EQ(r, 0x600d);
	/* A conditional jump with 66: EIP is cut to 16 bits. */
	asm volatile("xor %%eax, %%eax; data16 jmp 1f; inc %%eax; 1:" : "=a"(r));
	CHECK_EQ(r, 0);
}

extern uint8_t gate_target[], gate_target_16[], conforming_target[], user_call[], user_call_after[],
    user_int[], user_cli[], user_far_up[], user_load_kernel[], user_pop_es[], user_int3[], user_lret_inner[],
    user_conforming[];
uint32_t seen_frame[8], seen_esp, seen_cs, seen_ss;
__asm__(".pushsection .text\n"
	"gate_target: mov %esp, %ss:seen_esp; mov %cs, %ss:seen_cs; mov %ss, %ss:seen_ss; push %esi; push "
	"%edi; push %ecx; push %ds; push %es\n"
	" mov %ss, %ecx; mov %ecx, %ds; mov %ecx, %es; mov seen_esp, %esi; mov $seen_frame, %edi; mov $8, "
	"%ecx; cld; rep movsl\n"
	" pop %es; pop %ds; pop %ecx; pop %edi; pop %esi; lret $8\n"
	"conforming_target: mov %cs, %eax; lret\n"
	".popsection\n"
	".pushsection .user, \"ax\"\n"
	"user_call: pushl $0x1111; pushl $0x2222; lcall $0x53, $0\n"
	"user_call_after: int3\n"
	"user_int: int $0x80\n"
	"user_cli: cli\n"
	"user_far_up: lcall $0x08, $0\n"
	"user_load_kernel: mov $0x10, %eax; mov %eax, %es\n"
	"user_int3: int3\n"
	"user_lret_inner: pushl $0x08; pushl $0; lret\n"
	"user_conforming: lcall $0x5b, $conforming_target; int3\n"
	".popsection");

static void rings(void)
{
	group("rings");
	run_user(user_int3, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.cs, SEL_UCODE);
	CHECK_EQ(trap.ss, SEL_UDATA);
	CHECK_EQ(trap.esp, user_stack_top);
	CHECK_EQ(trap.at + sizeof(struct frame) - 16, tss.esp0); /* the ring-0 stack of the TSS */
	run_user(user_cli, 0);
	CHECK_ERROR(GP, 0);
	run_user(user_int, 0);
	CHECK_ERROR(GP, 0x80 * 8 + 2);
	run_user(user_far_up, 0);
	CHECK_ERROR(GP, SEL_CODE);
	run_user(user_load_kernel, 0);
	CHECK_ERROR(GP, SEL_DATA);
	run_user(user_lret_inner, 0);
	CHECK_ERROR(GP, SEL_CODE);
	set_gate(0x81, trap_stubs + 16 * 0x81, SEL_CODE, 0xee);
	put_seg(1, 0, 0xfffff, 0x9f, 0xc); /* conforming, DPL 0: runs at CPL 3 */
	run_user(user_conforming, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.eax & 0xffff, 0x5b);
	/* IRET to ring 3 empties data segments it may not keep. */
	asm volatile("mov %0, %%fs; mov %1, %%gs" ::"r"(SEL_DATA), "r"(SEL_UDATA));
	static volatile uint32_t fs, gs;
	TRY_ASM(
	    "pushl $2; pushl $0x23; pushl $user_stack_top; pushl $0x1b; pushl $user_int3; call enter_user", ,
	    , "eax", "ebx", "ecx", "edx", "esi", "edi");
	CHECK_TRAP(BP);
	(void)fs, (void)gs;
	reload_segments();
}

static void call_gates(void)
{
	group("call gates");
	gdt[SEL_TEST / 8] = gate_desc((uint32_t)gate_target, SEL_CODE, 0xec, 2);
	run_user(user_call, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.eip, user_call_after + 1);
	CHECK_EQ(trap.esp, user_stack_top); /* the parameters are gone from both stacks */
	CHECK_EQ(seen_cs & 0xffff, SEL_CODE);
	CHECK_EQ(seen_ss & 0xffff, SEL_DATA);
	CHECK_EQ(seen_esp, tss.esp0 - 24);
	CHECK_EQ(seen_frame[0], user_call_after);
	CHECK_EQ(seen_frame[1] & 0xffff, SEL_UCODE);
	CHECK_EQ(seen_frame[2], 0x2222);
	CHECK_EQ(seen_frame[3], 0x1111);
	CHECK_EQ(seen_frame[4], user_stack_top - 8);
	CHECK_EQ(seen_frame[5] & 0xffff, SEL_UDATA);
	gdt[SEL_TEST / 8] = gate_desc((uint32_t)gate_target, SEL_CODE, 0x8c, 2);
	run_user(user_call, 0);
	CHECK_ERROR(GP, SEL_TEST);
	gdt[SEL_TEST / 8] = gate_desc((uint32_t)gate_target, SEL_CODE, 0x6c, 2);
	run_user(user_call, 0);
	CHECK_ERROR(NP, SEL_TEST);
	gdt[SEL_TEST / 8] = gate_desc((uint32_t)gate_target, 0, 0xec, 2);
	run_user(user_call, 0);
	CHECK_ERROR(GP, 0);
	gdt[SEL_TEST / 8] = gate_desc((uint32_t)gate_target, SEL_DATA, 0xec, 2);
	run_user(user_call, 0);
	CHECK_ERROR(GP, SEL_DATA);
	/* Bad stacks in the TSS: #TS with the selector; through a gate of its own for the way back. */
	gdt[SEL_TEST / 8] = gate_desc((uint32_t)gate_target, SLOT(2), 0xec, 2);
	put_seg(2, 0, 0xfffff, 0xbb, 0xc); /* ring 1 code: its stack is ss1 */
	tss.ss1 = 0;
	run_user(user_call, 0);
	CHECK_ERROR(TS, 0);
	tss.ss1 = SEL_DATA; /* wrong level */
	run_user(user_call, 0);
	CHECK_ERROR(TS, SEL_DATA);
	put_seg(3, 0, 0xfffff, 0x33, 0xc);
	tss.ss1 = SLOT(3) + 1;
	run_user(user_call, 0);
	CHECK_UNLESS_ORACLE(TRAP_IS(SS, SLOT(3))); /* not present */
	/* And to ring 1, working. */
	static uint8_t ring1_stack[256];
	put_seg(3, 0, 0xfffff, 0xb3, 0xc);
	tss.esp1 = (uint32_t)(ring1_stack + sizeof(ring1_stack));
	run_user(user_call, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(seen_cs & 0xffff, SLOT(2) + 1);
	CHECK_EQ(seen_ss & 0xffff, SLOT(3) + 1);
	CHECK_EQ(trap.esp, user_stack_top);
	/* At the same level: no stack switch, no parameters. */
	gdt[SEL_TEST / 8] = gate_desc((uint32_t)conforming_target, SEL_CODE, 0x8c, 2);
	TRY("lcall $0x50, $0");
	CHECK_TRAP(NO_TRAP);
}

uint32_t frame_words[4];

static void interrupt_gates(void)
{
	group("interrupt gates");
	TRY(AT("int $0x33"));
	CHECK_TRAP(0x33);
	CHECK_EQ(trap.eip, here + 2);
	idt[0x33] &= ~(1ull << 47);
	TRY(AT("int $0x33"));
	CHECK_FAULT_ERROR(NP, 0x33 * 8 + 2);
	set_gate(0x33, trap_stubs, SEL_DATA, 0x8e);
	TRY(AT("int $0x33"));
	CHECK_FAULT_ERROR(GP, SEL_DATA);
	set_gate(0x33, trap_stubs, 0, 0x8e);
	TRY(AT("int $0x33"));
	CHECK_FAULT_ERROR(GP, 0);
	set_gate(0x33, trap_stubs, SEL_UCODE, 0x8e); /* less privileged than CPL */
	TRY(AT("int $0x33"));
	CHECK_FAULT_ERROR(GP, SEL_UCODE & ~3);
	/* A 16-bit interrupt gate pushes words. */
	extern uint8_t gate16[];
	__asm__(
	    ".pushsection .text.gate16, \"ax\"\n .code16\n gate16: movl $frame_words, %ecx; movl (%esp), "
	    "%eax; movl %eax, (%ecx); movl 4(%esp), %eax; movl %eax, 4(%ecx); iretw\n .code32\n.popsection");
	put_seg(4, 0, 0xfffff, 0x9b, 8); /* 16-bit code, 4 GiB */
	idt[0x34] = gate_desc((uint32_t)gate16, SLOT(4), 0x86, 0);
	if ((uint32_t)gate16 < 0x10000) {
		asm volatile("pushl $2; popfl; movl %%esp, %%ebx; .byte 0xea; .long 1f; .word 0x70\n "
			     ".code16\n 1: int $0x34; ljmpl $8, $2f\n .code32\n 2: movl %%ebx, %%esp" ::
				 : "eax", "ebx", "ecx", "memory", "cc");
		CHECK_EQ(frame_words[0] >> 16, SLOT(4));
		CHECK_EQ(frame_words[1] & 0xffff, 2);
	}
	default_gate(0x33);
}

int image_main(void)
{
	setup_traps();
	limits();
	types();
	questions();
	local_table();
	sixteen_bit();
	rings();
	call_gates();
	interrupt_gates();
	return verdict();
}
