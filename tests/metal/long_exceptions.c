/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exceptions in long mode: which vector, which error code, where it restarts, and what the handler finds on
 * its stack (SDM volume 3, chapter 6).
 */
#include "metal.h"

static void divide(void)
{
	uint64_t a;

	group("divide");
	TRY_ASM("mov $5, %%eax; xor %%edx, %%edx; xor %%ecx, %%ecx\n" AT("div %%ecx"), "=&a"(a), , "rcx",
		"rdx");
	CHECK_FAULT(DE);
	CHECK_EQ(a, 5);
	TRY("mov $0x80000000, %%eax; mov $-1, %%edx; mov $-1, %%ecx\n" AT("idiv %%ecx"));
	CHECK_FAULT(DE);
	TRY("mov $0x200, %%eax; mov $2, %%ecx\n" AT("div %%cl"));
	CHECK_FAULT(DE);
	TRY("mov $1, %%edx; xor %%eax, %%eax; mov $1, %%ecx\n" AT("divq %%rcx"));
	CHECK_FAULT(DE);
	TRY("mov $0xff80, %%eax; mov $1, %%ecx\n" AT("idiv %%cl")); /* -128 fits */
	CHECK_TRAP(NO_TRAP);
	TRY("mov $0xff7f, %%eax; mov $1, %%ecx\n" AT("idiv %%cl")); /* -129 does not */
	CHECK_FAULT(DE);
}

static void undefined(void)
{
	group("undefined");
	TRY(AT("ud2"));
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x0f, 0xb9, 0xc0")); /* UD1 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x0f, 0xff, 0xc0")); /* UD0 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x06")); /* PUSH ES */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x27")); /* DAA */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x60")); /* PUSHA */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x9a, 0, 0, 0, 0, 8, 0")); /* CALL far direct */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xce")); /* INTO */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xd5, 10")); /* AAD */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x82, 0xc0, 0")); /* alias of 80 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xf0, 0x89, 0xc0")); /* LOCK MOV */
	CHECK_UNLESS_ORACLE(FAULT_IS(UD));
	TRY(AT(".byte 0xf0, 0x01, 0xc0")); /* LOCK ADD register */
	CHECK_FAULT(UD);
	TRY("lea stack_word(%%rip), %%rax\n" AT(".byte 0xf0, 0x83, 0x38, 0")); /* LOCK CMP memory */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x8d, 0xc0")); /* LEA register */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x0f, 0x20, 0xc8")); /* MOV from CR1 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x0f, 0x22, 0xe8")); /* MOV to CR5 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x8e, 0xc8")); /* MOV to CS */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x8e, 0xf0")); /* MOV to segment register 6 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x8c, 0xf0")); /* MOV from segment register 6 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xc7, 0xc8, 0, 0, 0, 0")); /* C7 /1 register */
	CHECK_UNLESS_ORACLE(FAULT_IS(UD));
	TRY(AT(".byte 0xff, 0xf8")); /* FF /7 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xff, 0xe8")); /* JMP far register */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0x0f, 0xc7, 0xc8")); /* CMPXCHG8B register */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xc4, 0xe2, 0x78, 0xf2, 0xc0, 0x66")); /* LDS-like or VEX: with CR4.OSXSAVE off ANDN
								still runs */
	CHECK(trap.vector == NO_TRAP || trap.vector == UD);
}

uint64_t stack_word;

static void software_interrupts(void)
{
	group("software interrupts");
	TRY(AT("int3"));
	CHECK_TRAP(BP);
	CHECK_EQ(trap.rip, here + 1);
	TRY(AT(".byte 0xcd, 3"));
	CHECK_TRAP(BP);
	CHECK_EQ(trap.rip, here + 2);
	TRY(AT("int $0x80"));
	CHECK_TRAP(0x80);
	CHECK_EQ(trap.rip, here + 2);
	TRY("sub $64, %%rsp\n" AT(
	    "int $13")); /* no error code is pushed: the handler finds the frame shifted */
	CHECK_TRAP(GP);
	CHECK_EQ(trap.error, here + 2);
	TRY(AT(".byte 0xf1"));
	CHECK_UNLESS_ORACLE(trap.vector == (DB));
	CHECK_UNLESS_ORACLE((trap.rip) == (here + 1));
	TRY("std; pushf; orq $0x4000, (%%rsp); popf\n" AT("int $0x81"));
	CHECK_TRAP(0x81);
	CHECK_EQ(trap.rflags & (RFLAGS_DF | RFLAGS_NT), RFLAGS_DF | RFLAGS_NT);
}

static bool stack_seen_aligned(struct frame *f)
{
	CHECK_EQ(((uint64_t)&f->ss + 8) & 15, 0);
	CHECK_EQ(read_flags() & (RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_IF), 0);
	return false;
}

static bool flags_seen(struct frame *f)
{
	CHECK_EQ(read_flags() & RFLAGS_IF, RFLAGS_IF);
	return false;
}

static void stack_frame(void)
{
	group("stack frame");
	trap_hook = stack_seen_aligned;
	for (int i = 0; i < 16; i += 3) {
		trap.vector = NO_TRAP;
		asm volatile("mov %%rsp, %%rbx; sub %0, %%rsp; movq $9f, catch_rip; mov %%rsp, catch_rsp; "
			     "int $0x82; 9: mov %%rbx, %%rsp" ::"r"((uint64_t)i + 64)
			     : "rbx", "memory", "cc");
		CHECK_TRAP(0x82);
		CHECK_EQ(trap.rsp, catch_rsp);
		CHECK_EQ(trap.ss, SEL_DATA);
		CHECK_EQ(trap.cs, SEL_CODE64);
	}
	trap_hook = flags_seen;
	set_gate(0x83, trap_stubs + 16 * 0x83, SEL_CODE64, GATE_TRAP, 0); /* a trap gate leaves IF */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	TRY("sti; nop; int $0x83");
	cli();
	CHECK_TRAP(0x83);
	trap_hook = NULL;
	default_gate(0x83);
}

static void fpu_unavailable(void)
{
	uint64_t cr0 = READ_REG(cr0);

	group("device not available");
	WRITE_REG(cr0, cr0 | 8); /* TS */
	TRY(AT("fnop"));
	CHECK_FAULT(NM);
	TRY(AT("xorps %%xmm0, %%xmm0"));
	CHECK_FAULT(NM);
	TRY(AT("fwait")); /* MP and TS */
	CHECK_FAULT(NM);
	TRY(AT("pause; sfence; mfence; lfence; prefetcht0 (%%rax)"));
	CHECK_TRAP(NO_TRAP);
	WRITE_REG(cr0, (cr0 | 8) & ~2ull);
	TRY(AT("fwait"));
	CHECK_TRAP(NO_TRAP);
	WRITE_REG(cr0, (cr0 | 4) & ~8ull); /* EM */
	TRY(AT("fnop"));
	CHECK_FAULT(NM);
	TRY(AT("xorps %%xmm0, %%xmm0"));
	CHECK_FAULT(UD);
	WRITE_REG(cr0, cr0);
	asm volatile("clts");
	TRY(AT("fnop; xorps %%xmm0, %%xmm0"));
	CHECK_TRAP(NO_TRAP);
	uint64_t cr4 = READ_REG(cr4);
	WRITE_REG(cr4, cr4 & ~0x200ull); /* OSFXSR */
	TRY(AT("xorps %%xmm0, %%xmm0"));
	CHECK_FAULT(UD);
	WRITE_REG(cr4, cr4);
}

static void fpu_errors(void)
{
	static uint16_t unmask_zero = 0x37b;
	static uint32_t mxcsr_unmask_zero = 0x1f80 & ~0x200, mxcsr = 0x1f80, seen;

	group("floating point");
	TRY_ASM("fninit; fldcw %0; fld1; fldz; fdivrp\n" AT("fwait"), , "m"(unmask_zero));
	CHECK_FAULT(MF);
	TRY_ASM("fninit; fldcw %0; fld1; fldz; fdivrp\n" AT("fld1"), , "m"(unmask_zero));
	CHECK_UNLESS_ORACLE(FAULT_IS(MF));
	TRY_ASM("fninit; fldcw %0; fld1; fldz; fdivrp; fnclex; fwait", , "m"(unmask_zero));
	CHECK_TRAP(NO_TRAP);
	TRY_ASM("fninit; fldcw %0; fld1; fldz; fdivrp; fnstsw %%ax; fninit", , "m"(unmask_zero), "rax");
	CHECK_TRAP(NO_TRAP);
	TRY_ASM("ldmxcsr %0; mov $1, %%eax; cvtsi2ss %%eax, %%xmm0; xorps %%xmm1, %%xmm1\n" AT(
		    "divss %%xmm1, %%xmm0"),
		, "m"(mxcsr_unmask_zero), "rax");
	CHECK_UNLESS_ORACLE(FAULT_IS(XM));
	asm volatile("stmxcsr %0; ldmxcsr %1" : "=m"(seen) : "m"(mxcsr));
	CHECK_EQ(seen & 4, 4);
	uint64_t cr4 = READ_REG(cr4);
	WRITE_REG(cr4, cr4 & ~0x400ull); /* OSXMMEXCPT off: #UD instead */
	TRY_ASM("ldmxcsr %0; mov $1, %%eax; cvtsi2ss %%eax, %%xmm0; xorps %%xmm1, %%xmm1\n" AT(
		    "divss %%xmm1, %%xmm0"),
		, "m"(mxcsr_unmask_zero), "rax");
	CHECK_UNLESS_ORACLE(trap.vector == UD && trap.rip == here);
	WRITE_REG(cr4, cr4);
	asm volatile("ldmxcsr %0" ::"m"(mxcsr));
	static uint32_t reserved = 0x11f80;
	TRY_ASM(AT("ldmxcsr %0"), , "m"(reserved));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	static uint8_t area[32] __attribute__((aligned(16)));
	TRY_ASM(AT("movaps 1(%0), %%xmm0"), , "r"(area));
	CHECK_UNLESS_ORACLE(trap.vector == GP && trap.error == 0 && trap.rip == here);
	TRY_ASM(AT("movups 1(%0), %%xmm0"), , "r"(area));
	CHECK_TRAP(NO_TRAP);
}

static void canonical(void)
{
	group("canonical addresses");
	TRY("mov $0x8000, %%rax; shl $32, %%rax\n" AT("mov (%%rax), %%rcx"));
	CHECK_FAULT_ERROR(GP, 0);
	TRY("mov $0x8000, %%rax; shl $32, %%rax\n" AT("mov -1(%%rax), %%rcx")); /* the last byte is outside */
	CHECK_UNLESS_ORACLE(trap.vector == GP && trap.rip == here);
	TRY("mov $0x8000, %%rax; shl $32, %%rax; xchg %%rax, %%rbp\n" AT(
	    "mov (%%rbp), %%rcx") "9: xchg %%rax, %%rbp");
	CHECK_UNLESS_ORACLE(trap.vector == (SS));
	CHECK_EQ(trap.error, 0);
	TRY("mov $0x8000, %%rax; shl $32, %%rax\n" AT("jmp *%%rax"));
	CHECK_TRAP(GP);
	CHECK_UNLESS_ORACLE(trap.rip == here); /* Intel: at the jump; others: at the target */
	TRY("mov $0x8000, %%rax; shl $32, %%rax\n" AT("invlpg (%%rax)")); /* ignored */
	CHECK_TRAP(NO_TRAP);
	TRY("mov $0x8000, %%rax; shl $32, %%rax\n" AT("prefetcht0 (%%rax)"));
	CHECK_TRAP(NO_TRAP);
}

static void selectors(void)
{
	group("selectors");
	gdt[SEL_TEST / 8] = seg_desc(0, 0xfffff, 0x13, 0xc);	 /* data, not present */
	gdt[SEL_TEST / 8 + 1] = seg_desc(0, 0xfffff, 0x9b, 0xa); /* another code segment */
	gdt[SEL_TEST / 8 + 2] = seg_desc(0, 0xfffff, 0x91, 0xc); /* read-only data */
	gdt[SEL_TEST / 8 + 3] = seg_desc(0, 0xfffff, 0x99, 0xa); /* execute-only code */
	gdt[SEL_TEST / 8 + 4] = seg_desc(0, 0xfffff, 0x92, 0xc); /* writable data, not accessed */
	gdt[SEL_TEST / 8 + 5] = seg_desc(0, 0xfffff, 0x9b, 0xe); /* L and D */
	TRY_ASM(AT("mov %0, %%ds"), , "r"(SEL_TEST));
	CHECK_FAULT_ERROR(NP, SEL_TEST);
	TRY_ASM(AT("mov %0, %%ss"), , "r"(SEL_TEST));
	CHECK_FAULT_ERROR(SS, SEL_TEST);
	TRY_ASM(AT("mov %0, %%ss"), , "r"(SEL_TEST + 16));
	CHECK_FAULT_ERROR(GP, SEL_TEST + 16);
	TRY_ASM(AT("mov %0, %%ss"), , "r"(SEL_DATA + 3)); /* RPL is not CPL */
	CHECK_FAULT_ERROR(GP, SEL_DATA);
	TRY_ASM(AT("mov %0, %%ss"), , "r"(SEL_CODE64));
	CHECK_FAULT_ERROR(GP, SEL_CODE64);
	TRY_ASM(AT("mov %0, %%ds"), , "r"(SEL_CODE64)); /* readable code is fine */
	CHECK_TRAP(NO_TRAP);
	TRY_ASM(AT("mov %0, %%ds"), , "r"(SEL_TEST + 24));
	CHECK_FAULT_ERROR(GP, SEL_TEST + 24);
	TRY_ASM(AT("mov %0, %%es"), , "r"(0x1000)); /* past the GDT */
	CHECK_FAULT_ERROR(GP, 0x1000);
	TRY_ASM(AT("mov %0, %%es"), , "r"(0x1004)); /* LDT, which is null */
	CHECK_FAULT_ERROR(GP, 0x1004);
	TRY_ASM(AT("mov %0, %%es"), , "r"(3));
	CHECK_TRAP(NO_TRAP);
	TRY_ASM(AT("mov %0, %%fs"), , "r"(SEL_TSS));
	CHECK_FAULT_ERROR(GP, SEL_TSS);
	TRY_ASM(AT("mov %0, %%es"), , "r"(SEL_TEST + 32));
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(gdt[SEL_TEST / 8 + 4] >> 40 & 0xff, 0x93); /* accessed now */
	TRY_ASM("mov %0, %%ss; xor %%eax, %%eax\n" AT("mov %%eax, %%ss"), , "r"(SEL_DATA),
		"rax"); /* null SS, 64-bit CPL 0 */
	CHECK_TRAP(NO_TRAP);
	asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs" ::"r"(SEL_DATA), "r"(0));
	TRY_ASM(AT("ltr %w0"), , "r"(SEL_TSS)); /* busy already */
	CHECK_FAULT_ERROR(GP, SEL_TSS);
	TRY_ASM(AT("ltr %w0"), , "r"(SEL_DATA));
	CHECK_FAULT_ERROR(GP, SEL_DATA);
	TRY_ASM(AT("ltr %w0"), , "r"(0));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	gdt[SEL_TSS / 8] &= ~(2ull << 40);
	asm volatile("ltr %w0" ::"r"(SEL_TSS));
	TRY_ASM(AT("lldt %w0"), , "r"(SEL_DATA));
	CHECK_FAULT_ERROR(GP, SEL_DATA);
	TRY_ASM(AT("lldt %w0"), , "r"(0));
	CHECK_TRAP(NO_TRAP);
}

/* Far transfers through 16-byte memory operands. */
struct far_ptr {
	uint64_t offset;
	uint16_t selector;
} __attribute__((packed));

static void far_jump(void *to, unsigned selector)
{
	static struct far_ptr target;

	target = (struct far_ptr){(uint64_t)to, (uint16_t)selector};
	TRY_ASM(AT("rex.w ljmp *%0"), , "m"(target), "rax");
}

static void far_targets(void)
{
	group("far targets");
	far_jump(NULL, 0);
	CHECK_FAULT_ERROR(GP, 0);
	far_jump(NULL, SEL_DATA);
	CHECK_FAULT_ERROR(GP, SEL_DATA);
	far_jump(NULL, SEL_UCODE64);
	CHECK_FAULT_ERROR(GP, SEL_UCODE64 & ~3u);
	if (!is_oracle()) { /* which jumps there */
		far_jump(NULL, SEL_TEST + 40);
		CHECK_FAULT_ERROR(GP, SEL_TEST + 40);
	}
	far_jump(NULL, 0x1000);
	CHECK_FAULT_ERROR(GP, 0x1000);
	gdt[SEL_TEST / 8 + 1] &= ~(1ull << 47);
	far_jump(NULL, SEL_TEST + 8);
	CHECK_FAULT_ERROR(NP, SEL_TEST + 8);
	gdt[SEL_TEST / 8 + 1] |= 1ull << 47;
	far_jump(NULL, SEL_TSS); /* a TSS is not a target in long mode */
	CHECK_FAULT_ERROR(GP, SEL_TSS);
	far_jump((void *)(1ull << 47), SEL_TEST + 8);
	CHECK_TRAP(GP);
	CHECK_EQ(trap.error, 0);
}

extern uint8_t user_misaligned[], user_int_80[], user_cli[], user_read_kernel[], user_hlt[];
__asm__(".pushsection .user, \"ax\"\n"
	"user_misaligned: pushf; orq $0x40000, (%rsp); popf; mov -15(%rsp), %eax; ud2\n"
	"user_int_80: int $0x80\n"
	"user_cli: cli\n"
	"user_hlt: hlt\n"
	"user_read_kernel: mov gdt, %rax\n"
	".popsection");

static void from_user(void)
{
	uint64_t cr0 = READ_REG(cr0);

	group("from user mode");
	run_user(user_int_80, SEL_UCODE64, 0);
	CHECK_UNLESS_ORACLE(TRAP_IS(GP, 0x80 * 8 + 2));
	CHECK_EQ(trap.cs, SEL_UCODE64);
	CHECK_EQ(trap.ss, SEL_UDATA);
	CHECK_EQ(trap.rip, user_int_80);
	CHECK_EQ(trap.rsp, user_stack_top);
	run_user(user_cli, SEL_UCODE64, 0);
	CHECK_ERROR(GP, 0);
	run_user(user_hlt, SEL_UCODE64, 0x3000);
	CHECK_ERROR(GP, 0);
	run_user(user_cli, SEL_UCODE64, 0x3000); /* IOPL 3: CLI passes, HLT does not */
	CHECK_ERROR(GP, 0);
	CHECK_EQ(trap.rip, user_hlt);
	run_user(user_read_kernel, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 5);
	CHECK_EQ(trap.cr2, gdt);
	run_user(user_misaligned, SEL_UCODE64, 0);
	CHECK_TRAP(UD);
	WRITE_REG(cr0, cr0 | 1 << 18); /* AM */
	run_user(user_misaligned, SEL_UCODE64, 0);
	CHECK_UNLESS_ORACLE(trap.vector == AC && trap.error == 0);
	WRITE_REG(cr0, cr0);
}

static uint8_t ist_stack[4096] __attribute__((aligned(16)));

static void idt_errors(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) small = {16 * 32 - 1, (uint64_t)idt};

	group("IDT errors");
	idt[0x84].type &= 0x7f;
	TRY(AT("int $0x84"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(NP, 0x84 * 8 + 2));
	idt[UD].type &= 0x7f;
	TRY(AT("ud2"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(NP, UD * 8 + 3)); /* EXT: not caused by INT n */
	idt[BP].type &= 0x7f;
	TRY(AT("int3"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(NP, BP * 8 + 2));
	default_gate(0x84);
	default_gate(UD);
	default_gate(BP);
	idt[0x84].type = 0x85; /* task gate: none in long mode */
	TRY(AT("int $0x84"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0x84 * 8 + 2));
	set_gate(0x84, trap_stubs, SEL_DATA, GATE_INTR, 0);
	TRY(AT("int $0x84"));
	CHECK_FAULT_ERROR(GP, SEL_DATA);
	set_gate(0x84, trap_stubs, 0, GATE_INTR, 0);
	TRY(AT("int $0x84"));
	CHECK_FAULT_ERROR(GP, 0);
	set_gate(0x84, trap_stubs, SEL_CODE32, GATE_INTR, 0);
	TRY(AT("int $0x84"));
	CHECK_FAULT_ERROR(GP, SEL_CODE32);
	set_gate(0x84, (void *)(1ull << 47), SEL_CODE64, GATE_INTR, 0);
	TRY(AT("int $0x84"));
	CHECK_TRAP(GP);
	default_gate(0x84);
	asm volatile("lidt %0" ::"m"(small));
	TRY(AT("int $0x20"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0x20 * 8 + 2));
	load_idt();
}

static bool on_ist(struct frame *f)
{
	CHECK((uint64_t)f >= (uint64_t)ist_stack && (uint64_t)f < (uint64_t)ist_stack + sizeof(ist_stack));
	return false;
}

static void double_fault(void)
{
	group("double fault");
	tss.ist[0] = (uint64_t)ist_stack + sizeof(ist_stack);
	set_gate(DF, trap_stubs + 16 * DF, SEL_CODE64, GATE_INTR, 1);
	idt[GP].type &= 0x7f; /* #GP cannot be delivered: #NP, both contributory */
	TRY("mov $0x8000, %%rax; shl $32, %%rax\n" AT("mov (%%rax), %%rcx"));
	CHECK_ERROR(DF, 0);
	default_gate(GP);
	idt[PF].type &= 0x7f; /* #PF then #NP */
	TRY("mov $0x70000000, %%rax\n" AT("mov (%%rax), %%rcx"));
	CHECK_ERROR(DF, 0);
	default_gate(PF);
	/* No stack: #UD cannot push, a page fault; which cannot push either. */
	trap_hook = on_ist;
	TRY("mov $0x70000000, %%rax; mov %%rax, %%rsp; ud2");
	trap_hook = NULL;
	CHECK_ERROR(DF, 0);
	CHECK_EQ(trap.rsp, 0x70000000);
	CHECK_EQ(READ_REG(cr2), 0x70000000 - 8);
	/* #UD on no stack with #PF on an IST stack: a plain page fault. */
	set_gate(PF, trap_stubs + 16 * PF, SEL_CODE64, GATE_INTR, 1);
	TRY("mov $0x70000000, %%rax; mov %%rax, %%rsp\n" AT("ud2"));
	CHECK_FAULT_ERROR(PF, 2);
	CHECK_EQ(trap.cr2, 0x70000000 - 8);
	/* A non-canonical stack: #SS(0) during #UD: also contributory with benign #UD: plain #SS. */
	set_gate(SS, trap_stubs + 16 * SS, SEL_CODE64, GATE_INTR, 1);
	TRY("mov $0x8000, %%rax; shl $32, %%rax; mov %%rax, %%rsp\n add $8192, %%rsp;" AT("ud2"));
	CHECK_UNLESS_ORACLE(trap.vector == SS);
	default_gate(SS);
	default_gate(PF);
	default_gate(DF);
}

/* Values that QEMU 7.2 takes, and dies of or hangs at. */
static void control_registers_unchecked_by_oracle(void)
{
	uint64_t cr4 = READ_REG(cr4);

	TRY_ASM(AT("mov %0, %%cr0"), , "r"((uint64_t)0x80000000)); /* PG without PE */
	CHECK_FAULT_ERROR(GP, 0);
	TRY_ASM(AT("mov %0, %%cr4"), , "r"(cr4 & ~0x20ull)); /* PAE off in long mode */
	CHECK_FAULT_ERROR(GP, 0);
	TRY_ASM(AT("mov %0, %%cr4"), , "r"(cr4 | 1ull << 31));
	CHECK_FAULT_ERROR(GP, 0);
	TRY_ASM(AT("mov %0, %%cr3"), , "r"(READ_REG(cr3) | 1ull << 60));
	CHECK_FAULT_ERROR(GP, 0);
	TRY("xor %%edx, %%edx; mov $0xc0000080, %%ecx; rdmsr; and $~0x100, %%eax\n" AT(
	    "wrmsr")); /* LME off with PG on */
	CHECK_FAULT_ERROR(GP, 0);
}

static void control_registers(void)
{
	uint64_t cr0 = READ_REG(cr0), word;

	group("control registers");
	if (!is_oracle())
		control_registers_unchecked_by_oracle();
	TRY_ASM(AT("mov %0, %%cr0"), , "r"((cr0 & ~(1ull << 30)) | 1 << 29)); /* NW without CD */
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	WRITE_REG(cr0, cr0);
	TRY_ASM(AT("mov %0, %%cr0"), , "r"(cr0 | 1ull << 32));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	TRY_ASM(AT("mov %0, %%cr8"), , "r"((uint64_t)16));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	TRY_ASM(AT("mov %0, %%cr8"), , "r"((uint64_t)5));
	CHECK_EQ(READ_REG(cr8), 5);
	WRITE_REG(cr8, 0);
	TRY("mov $0x12345678, %%ecx\n" AT("rdmsr"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	TRY("mov $0xc0000082, %%ecx; mov $0x8000, %%edx; xor %%eax, %%eax\n" AT(
	    "wrmsr")); /* LSTAR not canonical */
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	asm volatile("smsw %0" : "=r"(word));
	CHECK_EQ(word & 0xffff, cr0 & 0xffff);
	TRY_ASM("lmsw %w0", , "r"(0)); /* cannot clear PE */
	CHECK_EQ(READ_REG(cr0) & 1, 1);
	WRITE_REG(cr0, cr0);
}

static void fetch_limits(void)
{
	uint8_t *page = (uint8_t *)0x1400000;

	group("instruction fetch");
	map((uint64_t)page + 4096, 0);
	/* 15 bytes are the limit: 14 prefixes and NOP pass, 15 do not. */
	memset(page, 0x66, 15);
	page[14] = 0x90;
	page[15] = 0xc3;
	CHECK_EQ(call_catching(page, 0, 0), 0);
	memset(page, 0x66, 15);
	page[15] = 0x90;
	CHECK_EQ(call_catching(page, 0, 0), 1);
	CHECK_ERROR(GP, 0);
	CHECK_EQ(trap.rip, page);
	/* An instruction that runs into a page that is not there: #PF there, RIP at its start. */
	page[4095] = 0x48;
	CHECK_EQ(call_catching(page + 4095, 0, 0), 1);
	CHECK_ERROR(PF, 0x10);
	CHECK_EQ(trap.cr2, page + 4096);
	CHECK_EQ(trap.rip, page + 4095);
	page[4093] = 0x0f, page[4094] = 0x0b; /* UD2 just before the end: no fetch beyond */
	CHECK_EQ(call_catching(page + 4093, 0, 0), 1);
	CHECK_TRAP(UD);
	/* The same with the page there. */
	map((uint64_t)page + 4096, 0x1500000 | P_P | P_W);
	page[4092] = 0x48, page[4093] = 0xc7, page[4094] = 0xc0,
	page[4095] = 0x78; /* mov $0x12345678, %rax */
	uint8_t *next = (uint8_t *)0x1500000;
	next[0] = 0x56, next[1] = 0x34, next[2] = 0x12, next[3] = 0xc3;
	uint64_t (*f)(void) = (uint64_t(*)(void))(page + 4092);
	CHECK_EQ(f(), 0x12345678);
	next[2] = 0x13;
	CHECK_EQ(f(), 0x13345678);
	/* NX */
	map((uint64_t)page + 4096, 0x1500000 | P_P | P_W | P_NX);
	CHECK_EQ(call_catching(page + 4092, 0, 0), 1);
	CHECK_ERROR(PF, 0x11);
	CHECK_EQ(trap.cr2, page + 4096);
	map((uint64_t)page + 4096, ((uint64_t)page + 4096) | P_P | P_W);
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	for (uint64_t gva = 0x1400000; gva < 0x1600000; gva += 4096) { /* one 2 MiB region in 4 KiB pages */
		if (gva == 0x1400000)
			*pte_of(boot_pml4, gva, 2) = 0;
		map(gva, gva | P_P | P_W);
	}
	divide();
	undefined();
	software_interrupts();
	stack_frame();
	fpu_unavailable();
	fpu_errors();
	canonical();
	selectors();
	far_targets();
	from_user();
	idt_errors();
	double_fault();
	control_registers();
	fetch_limits();
	return verdict();
}
