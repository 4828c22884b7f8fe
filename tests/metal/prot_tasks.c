/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hardware task switches and virtual-8086 mode (SDM volume 3, chapters 7 and 20).
 */
#include "legacy.h"

static struct tss32 other __attribute__((aligned(128))), third __attribute__((aligned(128)));
static uint8_t other_stack[4096] __attribute__((aligned(16))), third_stack[4096] __attribute__((aligned(16)));
uint32_t task_ran, task_eax, task_flags, task_error, task_cr0;

extern uint8_t task_body[];
__asm__(".pushsection .text.tasks, \"ax\"\n"
	/* CALLed or entered by a task gate: leaves by IRET; entered again, it goes on behind it. */
	"task_body: incl task_ran; mov %eax, task_eax; pushfl; pop task_flags; mov %cr0, %ecx; mov %ecx, "
	"task_cr0; iretl; jmp task_body\n"
	".popsection");

static void fill(struct tss32 *t, void *body, uint8_t *stack_top)
{
	memset(t, 0, sizeof(*t));
	t->cs = SEL_CODE;
	t->ds = t->es = t->ss = SEL_DATA;
	t->esp = (uint32_t)stack_top;
	t->eip = (uint32_t)body;
	t->eflags = 2;
	t->eax = 0x12345678;
	t->cr3 = READ_REG(cr3);
	t->iomap = sizeof(*t);
}

/* The second task, free to be switched to; the first one is the current one. */
static void prepare(void *body)
{
	fill(&other, body, other_stack + sizeof(other_stack));
	gdt[SEL_TSS2 / 8] = seg_desc((uint32_t)&other, 103, 0x89, 0);
	gdt[SEL_TSS / 8] = (gdt[SEL_TSS / 8] & ~(0xfull << 40)) | 0xbull << 40;
	task_ran = 0;
}

static unsigned busy(unsigned sel)
{
	return gdt[sel / 8] >> 41 & 1;
}

static void calls(void)
{
	group("task calls");
	prepare(task_body);
	TRY("stc; lcall $0x40, $0; 7: nop");
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(task_ran, 1);
	CHECK_EQ(task_eax, 0x12345678);
	CHECK_EQ(task_flags & RFLAGS_NT, RFLAGS_NT);
	CHECK_EQ(other.link & 0xffff, SEL_TSS);
	CHECK_EQ(task_cr0 & 8, 8); /* TS */
	asm volatile("clts");
	CHECK_EQ(busy(SEL_TSS), 1);
	CHECK_EQ(busy(SEL_TSS2), 0);
	CHECK_EQ(read_flags() & RFLAGS_NT, 0);
	CHECK_EQ(tss.cs, SEL_CODE);
	CHECK_UNLESS_ORACLE(tss.eflags & RFLAGS_CF);
	CHECK_EQ(other.eflags & RFLAGS_NT, 0);
	TRY("lcall $0x40, $0");
	CHECK_EQ(task_ran, 2);
	/* Registers come back. */
	uint32_t b, s;
	asm volatile("mov $0x1111, %%ebx; mov $0x2222, %%esi; lcall $0x40, $0; mov %%ebx, %0; mov %%esi, %1"
		     : "=r"(b), "=r"(s)::"ebx", "esi", "memory", "cc");
	CHECK_EQ(b, 0x1111);
	CHECK_EQ(s, 0x2222);
	asm volatile("clts");
	/* A task gate in the IDT, by INT and by an exception without error code. */
	prepare(task_body);
	idt[0x40] = gate_desc(0, SEL_TSS2, 0x85, 0);
	TRY("int $0x40");
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(task_ran, 1);
	default_gate(0x40);
	/* A task gate in the GDT. */
	prepare(task_body);
	gdt[SEL_TEST / 8] = gate_desc(0, SEL_TSS2, 0x85, 0);
	TRY("lcall $0x50, $0");
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(task_ran, 1);
}

/* #GP's task corrects EDX in the interrupted task's TSS before it returns. */
extern uint8_t task_fixing_body[];
__asm__(".pushsection .text.tasks, \"ax\"\n"
	"task_fixing_body: pop task_error; incl task_ran; movl $0x10, tss + 48; iretl; jmp task_fixing_body\n"
	".popsection");

static void error_codes(void)
{
	group("task gate with error code");
	prepare(task_fixing_body);
	idt[GP] = gate_desc(0, SEL_TSS2, 0x85, 0);
	asm volatile("movl $0x1238, %%edx; mov %%edx, %%es" ::: "edx", "memory", "cc");
	CHECK_EQ(task_ran, 1);
	CHECK_EQ(task_error, 0x1238);
	default_gate(GP);
	asm volatile("clts");
	reload_segments();
}

enum { SLOT3 = SEL_TEST + 0x18 };

/* Runs as a task: notes the error code and goes on where TRY() catches. */
extern uint8_t task_catch_body[];
__asm__(".pushsection .text.tasks, \"ax\"\n"
	"task_catch_body: pop task_error; incl task_ran; mov $0x10, %eax; mov %eax, %ss; mov catch_esp, "
	"%esp; mov catch_eip, %eax;"
	" movl $0, catch_eip; jmp *%eax\n"
	".popsection");

static void back_to_first_task(void)
{
	gdt[SEL_TSS / 8] = (gdt[SEL_TSS / 8] & ~(0xfull << 40)) | 0x9ull << 40;
	asm volatile("pushl $2; popfl; ltr %w0; clts" ::"r"(SEL_TSS) : "cc");
	reload_segments();
}

static void task_faults(void)
{
	group("task switch faults");
	prepare(task_body);
	gdt[SEL_TSS2 / 8] |= 2ull << 40; /* busy */
	TRY(AT("lcall $0x40, $0"));
	CHECK_FAULT_ERROR(GP, SEL_TSS2);
	prepare(task_body);
	gdt[SEL_TSS2 / 8] &= ~(1ull << 47);
	TRY(AT("lcall $0x40, $0"));
	CHECK_FAULT_ERROR(NP, SEL_TSS2);
	prepare(task_body);
	gdt[SEL_TSS2 / 8] = seg_desc((uint32_t)&other, 102, 0x89, 0);
	TRY(AT("lcall $0x40, $0"));
	CHECK_FAULT_ERROR(TS, SEL_TSS2);
	TRY(AT("ljmp $0x40, $0"));
	CHECK_FAULT_ERROR(TS, SEL_TSS2);
	/* Errors found in the new task belong to it; as it has no usable stack then, #TS has a task of its
	 * own. */
	for (int i = 0; i < 3; i++) {
		prepare(task_body);
		fill(&third, task_catch_body, third_stack + sizeof(third_stack));
		gdt[SLOT3 / 8] = seg_desc((uint32_t)&third, 103, 0x89, 0);
		idt[TS] = gate_desc(0, SLOT3, 0x85, 0);
		if (i == 0)
			other.cs = SEL_DATA;
		else if (i == 1)
			other.ss = SEL_UDATA;
		else
			other.ds = SEL_TSS;
		TRY("lcall $0x40, $0");
		CHECK_EQ(task_ran, 1);
		CHECK_EQ(task_error, i == 0 ? SEL_DATA : i == 1 ? SEL_UDATA & ~3 : SEL_TSS);
		CHECK_EQ(third.link & 0xffff, SEL_TSS2);
		CHECK_EQ(busy(SEL_TSS2), 1);
		CHECK_UNLESS_ORACLE(other.eip == (uint32_t)task_body);
		back_to_first_task();
	}
	default_gate(TS);
	/* IRET with NT and a link that is no busy TSS. */
	prepare(task_body);
	tss.link = SEL_DATA;
	TRY("pushfl; orl $0x4000, (%%esp); popfl\n" AT("iretl"));
	CHECK_ERROR(TS, SEL_DATA);
	asm volatile("pushl $2; popfl");
	tss.link = 0;
}

static void double_fault_task(void)
{
	group("double fault by task gate");
	prepare(task_catch_body);
	idt[DF] = gate_desc(0, SEL_TSS2, 0x85, 0);
	uint64_t saved = idt[UD];
	idt[UD] = gate_desc(0, SEL_DATA, 0x8e, 0); /* #UD -> #GP, whose gate is bad as well -> #DF */
	idt[GP] = gate_desc(0, SEL_DATA, 0x8e, 0);
	TRY("ud2");
	CHECK_EQ(task_ran, 1);
	CHECK_EQ(task_error, 0);
	idt[UD] = saved;
	default_gate(GP);
	default_gate(DF);
	back_to_first_task();
}

/* --- virtual-8086 mode: code at 0x3000:0 --- */

#define V86_CODE ((uint8_t *)0x30000)

static void put_code(const uint8_t *code, unsigned n)
{
	memcpy(V86_CODE, code, n);
}

#define V86(...)                                                                                             \
	do {                                                                                                 \
		static const uint8_t code_[] = {__VA_ARGS__};                                                \
		put_code(code_, sizeof(code_));                                                              \
		run_v86(0, 0x3000, iopl);                                                                    \
	} while (0)

static void virtual_8086(void)
{
	volatile uint32_t *ivt = (volatile uint32_t *)0;
	uint32_t iopl = 0;

	group("v8086");
	V86(0xcc); /* INT3 is not IOPL-sensitive, its gate's DPL counts */
	CHECK_TRAP(BP);
	CHECK_EQ(trap.cs, 0x3000);
	CHECK_EQ(trap.eip, 1);
	CHECK_EQ(trap.ss, 0x1000);
	CHECK_EQ(trap.esp, 0x2000);
	CHECK_EQ(trap.eflags & FLAG_VM, FLAG_VM);
	CHECK_EQ(trap.v86_es & 0xffff, 0x2222);
	CHECK_EQ(trap.v86_ds & 0xffff, 0x1111);
	CHECK_EQ(trap.v86_fs & 0xffff, 0x3333);
	CHECK_EQ(trap.v86_gs & 0xffff, 0x4444);
	CHECK_EQ(trap.at + sizeof(struct frame), tss.esp0);
	CHECK_EQ(trap.ds, 0); /* the data segments are null in the handler */
	/* Real-mode addresses. */
	*(volatile uint16_t *)(0x11110 + 4) = 0xbeef;
	V86(0xa1, 4, 0, 0x8c, 0xd3, 0xcc); /* mov 4, %ax; mov %ss, %bx; int3 */
	CHECK_TRAP(BP);
	CHECK_EQ(trap.eax & 0xffff, 0xbeef);
	CHECK_EQ(trap.ebx & 0xffff, 0x1000);
	V86(0x50, 0x8b, 0xdc, 0xcc); /* push %ax; mov %sp, %bx */
	CHECK_EQ(trap.ebx & 0xffff, 0x1ffe);
	/* IOPL 0: the sensitive instructions fault, with EIP at themselves. */
	V86(0x90, 0xfa); /* CLI */
	CHECK_ERROR(GP, 0);
	CHECK_EQ(trap.eip, 1);
	V86(0xfb);
	CHECK_ERROR(GP, 0);
	V86(0x9c); /* PUSHF */
	CHECK_ERROR(GP, 0);
	V86(0x9d);
	CHECK_ERROR(GP, 0);
	V86(0xcf);
	CHECK_ERROR(GP, 0);
	V86(0xcd, 0x21); /* INT n */
	CHECK_ERROR(GP, 0);
	CHECK_EQ(trap.eip, 0);
	V86(0xf4); /* HLT: CPL 3 */
	CHECK_ERROR(GP, 0);
	V86(0x0f, 0x20, 0xc0); /* MOV from CR0 */
	CHECK_ERROR(GP, 0);
	V86(0x0f, 0x00, 0xc0); /* SLDT */
	CHECK_TRAP(UD);
	V86(0x63, 0xc0); /* ARPL */
	CHECK_TRAP(UD);
	V86(0xc5, 0xc0); /* LDS register */
	CHECK_TRAP(UD);
	/* I/O goes by the bitmap whatever IOPL says. */
	V86(0xe4, 0xe0);
	CHECK_ERROR(GP, 0);
	tss.bitmap[0xe0 / 8] = 0xfe;
	V86(0xe4, 0xe0, 0xcc);
	CHECK_TRAP(BP);
	tss.bitmap[0xe0 / 8] = 0xff;
	iopl = 0x3000;
	V86(0xe4, 0xe0);
	CHECK_ERROR(GP, 0);
	/* IOPL 3: they work; INT n goes through the IDT to ring 0. */
	V86(0xfa, 0xfb, 0x9c, 0x5b, 0xfa, 0xcc); /* cli; sti; pushf; pop %bx; cli; int3 */
	CHECK_TRAP(BP);
	CHECK_EQ(trap.ebx & 0x200, 0x200);
	CHECK_EQ(trap.eflags & 0x200, 0);
	V86(0xcd, 0x21);
	CHECK_ERROR(GP, 0x21 * 8 + 2); /* the gate's DPL is 0 */
	set_gate(0x21, trap_stubs + 16 * 0x21, SEL_CODE, 0xee);
	V86(0xcd, 0x21);
	CHECK_TRAP(0x21);
	CHECK_EQ(trap.eip, 2);
	CHECK_EQ(trap.v86_ds & 0xffff, 0x1111);
	/* A handler segment that is not ring 0: #GP(selector). */
	set_gate(0x21, trap_stubs + 16 * 0x21, SEL_UCODE, 0xee);
	V86(0xcd, 0x21);
	CHECK_ERROR(GP, SEL_UCODE & ~3u);
	default_gate(0x21);
	/* POPF and IRET change neither IOPL nor VM. */
	V86(0x68, 0x02, 0x00, 0x9d, 0x9c, 0x5b, 0xcc); /* push $2; popf; pushf; pop %bx; int3 */
	CHECK_TRAP(BP);
	CHECK_EQ(trap.ebx & 0x3000, 0x3000);
	V86(0x68, 0x02, 0x70, 0x68, 0x00, 0x30, 0x68, 0x0a, 0x00, 0xcf, 0x9c, 0x5b,
	    0xcc); /* iret to 3000:a */
	CHECK_TRAP(BP);
	CHECK_EQ(trap.ebx & 0x7000, 0x7000);
	/* 32-bit operands and addresses inside 64 KiB. */
	V86(0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0xcc);
	CHECK_EQ(trap.eax, 0x12345678);
	/* Virtual-mode extensions. */
	struct cpuid features = cpuid(1, 0);
	if (!(features.d & 2)) {
		skip("no VME");
		return;
	}
	uint32_t cr4 = READ_REG(cr4);
	WRITE_REG(cr4, cr4 | 1);
	iopl = 0;
	memset(tss.redirection, 0xff, sizeof(tss.redirection));
	V86(0xcd, 0x21); /* bit set, IOPL 0: #GP */
	CHECK_ERROR(GP, 0);
	tss.redirection[0x21 / 8] &= (uint8_t) ~(1u << (0x21 & 7));
	ivt[0x21] = 0x3000 << 16 | 0x100;
	V86_CODE[0x100] = 0x58; /* pop %ax; pop %bx; pop %cx; mov %cx,%bx; int3 */
	V86_CODE[0x101] = 0x5b;
	V86_CODE[0x102] = 0x5b;
	V86_CODE[0x103] = 0xcc;
	V86(0xcd, 0x21);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.cs, 0x3000);
	CHECK_EQ(trap.eip, 0x104);
	CHECK_EQ(trap.eax & 0xffff, 2);
	CHECK_EQ(trap.ebx & 0x3000, 0x3000); /* the image shows IOPL 3, and VIF as IF */
	V86(0xfb, 0x9c, 0x5b, 0xfa, 0xcc);   /* STI and CLI change VIF */
	CHECK_TRAP(BP);
	CHECK_EQ(trap.ebx & 0x200, 0x200);
	CHECK_EQ(trap.eflags & (1 << 19 | 0x200), 0);
	V86(0xfb, 0xcc);
	CHECK_EQ(trap.eflags & 1 << 19, 1 << 19);
	iopl = 1 << 20; /* VIP: STI faults */
	V86(0xfb, 0xcc);
	CHECK_ERROR(GP, 0);
	WRITE_REG(cr4, cr4);
}

int image_main(void)
{
	setup_traps();
	calls();
	error_codes();
	task_faults();
	double_fault_task();
	virtual_8086();
	return verdict();
}
