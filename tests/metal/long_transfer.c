/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ways between privilege levels and code sizes: SYSCALL and SYSRET, SYSENTER and SYSEXIT, IRET, far returns,
 * call gates, compatibility mode (SDM volume 3, 5.8; volume 2).
 */
#include "metal.h"

enum {
	MSR_STAR = 0xc0000081,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_FMASK,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP,
	MSR_SYSENTER_EIP,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE
};

/* What an entry point saw. */
uint64_t gate_frame[4];
uint64_t entry_rcx, entry_r11, entry_flags, entry_cs, entry_ss, entry_rsp;
extern uint8_t syscall_entry[], syscall_entry_sysret[], sysenter_entry[], sysenter_entry_exit[], gate_entry[];
extern uint8_t user_syscall[], user_syscall_after[], user_sysenter[], user_after_exit[], user_gate[],
    user_gate_after[], user_gs[], user_compat[], user_nop_int3[], user_lret[], user_iret_up[];

__asm__(
    ".pushsection .text\n"
    "record_entry: mov %rcx, entry_rcx; mov %r11, entry_r11; pushf; pop entry_flags; mov %cs, entry_cs; mov "
    "%ss, entry_ss\n"
    " ret\n"
    /* No stack is switched by SYSCALL: borrow the kernel's. */
    "syscall_entry: mov %rsp, entry_rsp; mov $boot_stack_top - 8192, %rsp; call record_entry; int3\n"
    "syscall_entry_sysret: mov %rsp, entry_rsp; mov $boot_stack_top - 8192, %rsp; call record_entry\n"
    " mov entry_rsp, %rsp; mov $0x246, %r11d; rex.w sysret\n"
    "sysenter_entry: mov %rsp, entry_rsp; call record_entry; int3\n"
    "sysenter_entry_exit: mov %rsp, entry_rsp; call record_entry; mov $user_after_exit, %edx\n"
    " mov $user_stack_top, %ecx; rex.w sysexit\n"
    "gate_entry: mov %rsp, entry_rsp; mov %rsp, %rsi; mov $gate_frame, %edi; mov $4, %ecx; cld; rep movsq; "
    "call record_entry; lretq\n"
    ".popsection\n"
    ".pushsection .user, \"ax\"\n"
    "user_syscall: stc; std; syscall\n"
    "user_syscall_after: int3\n"
    "user_sysenter: sysenter\n int3\n"
    "user_after_exit: int3\n"
    "user_gate: rex.w lcall *user_gate_pointer\n"
    "user_gate_after: int3\n"
    "user_gate_pointer: .quad 0; .word 0x53\n"
    "user_gs: mov %gs:0, %rax; int3\n"
    "user_nop_int3: nop; int3\n"
    "user_lret: pushq $0x23; pushq $user_compat; lretq\n"
    "user_iret_up: pushq $0x10; pushq $0x1000; pushq $2; pushq $8; pushq $0; iretq\n"
    ".code32\n"
    "user_compat: mov $0x12345678, %eax; inc %eax; push %eax; pop %ebx; mov %esp, %esi; .byte 0x40; int3\n"
    ".code64\n"
    ".popsection");

static void syscall_sysret(void)
{
	group("SYSCALL");
	wrmsr(MSR_STAR, (uint64_t)SEL_UCODE32 << 48 | (uint64_t)SEL_CODE64 << 32);
	wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
	wrmsr(MSR_FMASK, RFLAGS_CF | RFLAGS_IF);
	run_user(user_syscall, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.cs, SEL_CODE64);
	CHECK_EQ(entry_rcx, user_syscall_after);
	CHECK_EQ(entry_r11 & (RFLAGS_CF | RFLAGS_DF), RFLAGS_CF | RFLAGS_DF);
	CHECK_UNLESS_ORACLE((entry_flags & (RFLAGS_CF | RFLAGS_DF)) == (RFLAGS_DF));
	CHECK_EQ(entry_cs & 0xffff, SEL_CODE64);
	CHECK_EQ(entry_ss & 0xffff, SEL_DATA);
	CHECK_EQ(entry_rsp, user_stack_top);
	wrmsr(MSR_LSTAR, (uint64_t)syscall_entry_sysret);
	run_user(user_syscall, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.rip, user_syscall_after + 1);
	CHECK_EQ(trap.cs, SEL_UCODE64);
	CHECK_EQ(trap.ss, SEL_UDATA);
	CHECK_EQ(trap.rsp, user_stack_top);
	CHECK_EQ(trap.rflags & 0xfff, 0x246);
	/* From CPL 0 SYSCALL works, SYSRET from user mode does not, nor either with SCE off. */
	TRY("mov $0xc0000080, %%ecx; rdmsr; and $~1, %%eax; wrmsr\n" AT("syscall"));
	CHECK_FAULT(UD);
	TRY("xor %%ecx, %%ecx\n" AT("rex.w sysret"));
	CHECK_FAULT(UD);
	TRY("mov $0xc0000080, %%ecx; rdmsr; or $1, %%eax; wrmsr");
	CHECK_TRAP(NO_TRAP);
}

static void sysenter_sysexit(void)
{
	group("SYSENTER");
	if (is_amd()) { /* AMD has it in legacy mode only */
		run_user(user_sysenter, SEL_UCODE64, 0);
		CHECK_TRAP(UD);
		return;
	}
	wrmsr(MSR_SYSENTER_CS, 0);
	run_user(user_sysenter, SEL_UCODE64, 0);
	CHECK_ERROR(GP, 0);
	/* CS, SS, and for SYSEXIT +16 and +24 (+32 and +40 with REX.W): the order of this GDT suits up to the
	 * exit. */
	wrmsr(MSR_SYSENTER_CS, SEL_CODE64);
	wrmsr(MSR_SYSENTER_ESP, tss.rsp[0] - 4096);
	wrmsr(MSR_SYSENTER_EIP, (uint64_t)sysenter_entry);
	run_user(user_sysenter, SEL_UCODE64, RFLAGS_IF);
	CHECK_TRAP(BP);
	CHECK_EQ(entry_cs & 0xffff, SEL_CODE64);
	CHECK_EQ(entry_ss & 0xffff, SEL_DATA);
	CHECK_EQ(entry_rsp, tss.rsp[0] - 4096);
	CHECK_EQ(entry_flags & RFLAGS_IF, 0);
	wrmsr(MSR_SYSENTER_EIP, (uint64_t)sysenter_entry_exit);
	run_user(user_sysenter, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.rip, user_after_exit + 1);
	CHECK_EQ(trap.cs & 3, 3);
	CHECK_EQ(trap.rsp, user_stack_top);
}

static void call_gates(void)
{
	group("call gates");
	uint64_t at = (uint64_t)gate_entry;

	gdt[SEL_TEST / 8] =
	    (at & 0xffff) | (uint64_t)SEL_CODE64 << 16 | 0xecull << 40 | (at >> 16 & 0xffff) << 48;
	gdt[SEL_TEST / 8 + 1] = at >> 32;
	run_user(user_gate, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.cs, SEL_UCODE64);
	CHECK_EQ(trap.rip, user_gate_after + 1);
	CHECK_EQ(trap.rsp, user_stack_top);
	CHECK_EQ(entry_cs & 0xffff, SEL_CODE64);
	CHECK_EQ(entry_ss & 0xffff, 0); /* a null SS in 64-bit mode */
	CHECK_EQ(entry_rsp, tss.rsp[0] - 32);
	CHECK_EQ(gate_frame[3], SEL_UDATA);
	CHECK_EQ(gate_frame[2], user_stack_top);
	CHECK_EQ(gate_frame[1], SEL_UCODE64);
	CHECK_EQ(gate_frame[0], user_gate_after);
	gdt[SEL_TEST / 8] &= ~(3ull << 45); /* DPL 0 */
	run_user(user_gate, SEL_UCODE64, 0);
	CHECK_ERROR(GP, SEL_TEST);
	gdt[SEL_TEST / 8] |= 3ull << 45;
	gdt[SEL_TEST / 8] &= ~(1ull << 47);
	run_user(user_gate, SEL_UCODE64, 0);
	CHECK_ERROR(NP, SEL_TEST);
	gdt[SEL_TEST / 8] |= 1ull << 47;
	gdt[SEL_TEST / 8 + 1] |= 0x1full << 40; /* upper type must be 0 */
	run_user(user_gate, SEL_UCODE64, 0);
	CHECK_UNLESS_ORACLE(TRAP_IS(GP, SEL_TEST));
	gdt[SEL_TEST / 8 + 1] = 0;
	uint64_t saved = tss.rsp[0];
	tss.rsp[0] = (1ull << 47) + 64;
	trap.vector = NO_TRAP;
	tss.ist[1] = saved;
	idt[SS].ist = 2;
	run_user(user_gate, SEL_UCODE64, 0);
	CHECK_UNLESS_ORACLE(trap.vector == SS);
	tss.rsp[0] = saved;
	default_gate(SS);
}

static void compatibility_mode(void)
{
	group("compatibility mode");
	run_user(user_compat, SEL_UCODE32, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.cs, SEL_UCODE32);
	CHECK_EQ(trap.rsp, user_stack_top);
	run_user(user_lret, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(trap.cs, SEL_UCODE32);
	run_user(user_iret_up, SEL_UCODE64, 0); /* outward only */
	CHECK_ERROR(GP, SEL_CODE64);
	/* CPL 0, 32-bit code, and back by a far jump. */
	uint64_t out;
	asm volatile("pushq $0x18; pushq $1f; lretq\n .code32\n 1: mov $0xffffffff, %%eax; .byte 0x40; ljmp "
		     "$8, $2f\n .code64\n 2:"
		     : "=a"(out)::"memory", "cc");
	CHECK_EQ(out, 0); /* 40 is INC EAX there */
	/* Segment bases count in compatibility mode and not in 64-bit mode. */
	gdt[SEL_TEST / 8 + 2] = seg_desc(0x100000, 0xfffff, 0x93, 0xc);
	*(volatile uint32_t *)0x101000 = 0xabcd1234;
	*(volatile uint32_t *)0x1000 = 0x11112222;
	asm volatile("mov %1, %%es; pushq $0x18; pushq $1f; lretq\n .code32\n 1: mov %%es:0x1000, %%eax; "
		     "ljmp $8, $2f\n .code64\n"
		     " 2: mov %2, %%es"
		     : "=&a"(out)
		     : "r"(SEL_TEST + 16), "r"(SEL_DATA)
		     : "memory", "cc");
	CHECK_EQ(out, 0xabcd1234);
	asm volatile("mov %1, %%es; mov %%es:0x1000, %%eax; mov %2, %%es"
		     : "=&a"(out)
		     : "r"(SEL_TEST + 16), "r"(SEL_DATA));
	CHECK_UNLESS_ORACLE((out) == (0x11112222));
	/* 32-bit code with a limit. */
	gdt[SEL_TEST / 8 + 3] = seg_desc(0, 0xfff, 0x93, 0x4);
	TRY_ASM("mov %0, %%es; pushq $0x18; pushq $1f; lretq\n .code32\n 1: mov %%es:0xffd, %%eax; ljmp $8, "
		"$9f\n .code64",
		, "r"(SEL_TEST + 24), "rax");
	CHECK_UNLESS_ORACLE(TRAP_IS(GP, 0) && trap.cs == SEL_CODE32); /* TCG has no limit checks */
	asm volatile("mov %0, %%es" ::"r"(SEL_DATA));
	/* A 16-bit code segment in compatibility mode: 66 widens. */
	asm volatile("pushq $0x38; pushq $1f; lretq\n .code16\n 1: mov $0x7fff, %%ax; add $1, %%ax; pushf; "
		     "pop %%cx; ljmpl $8, $2f\n .code64\n 2:"
		     : "=a"(out)::"rcx", "memory", "cc");
	CHECK_EQ(out & 0xffff, 0x8000);
}

static void iret_forms(void)
{
	uint64_t ss, cs, rsp, before;

	group("IRET");
	asm volatile("mov %%rsp, %0; mov %%rsp, %%rbx; pushq $0; push %%rbx; pushf; pushq $8; pushq $1f; "
		     "iretq\n 1: mov %%ss, %1; mov %%rsp, %2\n"
		     " mov %3, %%ss"
		     : "=&r"(before), "=&r"(ss), "=&r"(rsp)
		     : "r"(SEL_DATA)
		     : "rbx", "memory", "cc");
	CHECK_EQ(ss & 0xffff, 0); /* a null SS is fine at CPL 0 in 64-bit mode */
	CHECK_EQ(rsp, before);
	TRY("mov %%rsp, %%rbx; pushq $0x10; push %%rbx; pushf; pushq $0; pushq $1f\n" AT("iretq") "1: nop");
	CHECK_FAULT_ERROR(GP, 0);
	TRY("mov %%rsp, %%rbx; pushq $0x10; push %%rbx; pushf; pushq $0x10; pushq $1f\n" AT(
	    "iretq") "1: nop");
	CHECK_FAULT_ERROR(GP, SEL_DATA);
	TRY("mov %%rsp, %%rbx; pushq $0x10; push %%rbx; pushf; orq $0x4000, (%%rsp); pushq $8; pushq $1f\n "
	    "pushf; orq $0x4000, (%%rsp); popf\n" AT("iretq") "1: nop"); /* NT in 64-bit mode */
	CHECK_FAULT_ERROR(GP, 0);
	TRY("mov $0x8000, %%rax; shl $32, %%rax; mov %%rsp, %%rbx; pushq $0x10; push %%rbx; pushf; pushq $8; "
	    "push %%rax\n" AT("iretq"));
	CHECK_UNLESS_ORACLE(trap.vector == GP);
	/* 32-bit and 16-bit frames: IRETD */
	asm volatile(
	    "mov %%rsp, %%rbx; sub $20, %%rsp; movl $1f, (%%rsp); movl $8, 4(%%rsp); movl $0x202, 8(%%rsp); "
	    "mov %%ebx, 12(%%rsp);"
	    "movl $0x10, 16(%%rsp); cli; .byte 0xcf\n 1: mov %%cs, %0; pushf; cli; pop %1; mov %%rbx, %%rsp"
	    : "=r"(cs), "=r"(rsp)::"rbx", "memory", "cc");
	CHECK_EQ(cs & 0xffff, SEL_CODE64);
	CHECK_EQ(rsp & RFLAGS_IF, RFLAGS_IF);
}

static void flag_rules(void)
{
	group("flag rules");
	/* POPF at CPL 3 with IOPL 0 changes neither IF nor IOPL. */
	extern uint8_t user_popf[];
	__asm__(
	    ".pushsection .user, \"ax\"\nuser_popf: pushq $0x3ed7; popf; pushf; pop %rax; ud2\n.popsection");
	run_user(user_popf, SEL_UCODE64, 0);
	CHECK_TRAP(UD);
	CHECK_EQ(trap.rflags & 0x3200, 0);
	CHECK_EQ(trap.rflags & 0xcd5, 0xcd5);
	uint64_t f;
	asm volatile("pushq $0x3cd7; popf; pushf; pop %0; pushq $2; popf" : "=r"(f)::"cc", "memory");
	CHECK_EQ(f & 0xffff, 0x3cd7);
	asm volatile("pushf; orq $0x200000, (%%rsp); popf; pushf; pop %0" : "=r"(f)::"cc", "memory");
	CHECK_EQ(f & 0x200000, 0x200000);
	asm volatile("pushq $2; popf; pushf; pop %0" : "=r"(f)::"cc", "memory");
	CHECK_EQ(f, 2);
	asm volatile("movb $0xff, %%ah; sahf; pushf; pop %0" : "=r"(f)::"cc", "memory", "rax");
	CHECK_EQ(f & 0xff, 0xd7);
}

static void bases(void)
{
	uint64_t v;

	group("segment bases");
	*(volatile uint64_t *)0x500 = 0x1111;
	*(volatile uint64_t *)0x600 = 0x2222;
	wrmsr(MSR_GS_BASE, 0x500);
	wrmsr(MSR_KERNEL_GS_BASE, 0x600);
	asm volatile("mov %%gs:0, %0" : "=r"(v));
	CHECK_EQ(v, 0x1111);
	asm volatile("swapgs; mov %%gs:0, %0" : "=r"(v));
	CHECK_EQ(v, 0x2222);
	CHECK_EQ(rdmsr(MSR_GS_BASE), 0x600);
	CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), 0x500);
	TRY("mov $0xc0000101, %%ecx; mov $0x8000, %%edx; xor %%eax, %%eax\n" AT("wrmsr"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_FS_BASE, ~0xfffull);
	*(volatile uint64_t *)0x1008 = 0x3333;
	asm volatile("mov %%fs:0x2008, %0" : "=r"(v)); /* wraps at 64 bits */
	CHECK_EQ(v, 0x3333);
	*(volatile uint64_t *)0x1010 = 0x4444;
	asm volatile("mov $0x2010, %%eax; mov %%fs:(%%eax), %0"
		     : "=r"(v)::"rax"); /* the base is added after the 32-bit wrap */
	CHECK_EQ(v, 0x4444);
	wrmsr(MSR_FS_BASE, 0x500);
	asm volatile("mov $-0x100, %%eax; add $0x100, %%eax; mov %%fs:(%%eax), %0" : "=r"(v)::"rax");
	CHECK_EQ(v, 0x1111);
	asm volatile("mov %0, %%fs" ::"r"(SEL_DATA)); /* loading a selector sets the base */
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0);
	if (cpuid(7, 0).b & 1) {
		uint64_t cr4 = READ_REG(cr4);

		TRY(AT("rdfsbase %%rax"));
		CHECK_FAULT(UD);
		WRITE_REG(cr4, cr4 | 1 << 16);
		asm volatile("wrgsbase %0" ::"r"(0x12345678ull));
		CHECK_EQ(rdmsr(MSR_GS_BASE), 0x12345678);
		asm volatile("mov $-1, %%rax; wrfsbase %%eax; rdfsbase %0" : "=r"(v)::"rax");
		CHECK_EQ(v, 0xffffffff);
		TRY_ASM(AT("wrfsbase %0"), , "r"(1ull << 47));
		CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
		WRITE_REG(cr4, cr4);
		wrmsr(MSR_GS_BASE, 0);
		wrmsr(MSR_FS_BASE, 0);
	} else {
		skip("no FSGSBASE");
	}
}

static void user_privilege(void)
{
	extern uint8_t user_in[], user_rdmsr[], user_rdtsc[], user_sgdt[], user_lgdt[], user_swapgs[],
	    user_invlpg[], user_cr[];
	__asm__(".pushsection .user, \"ax\"\n"
		"user_in: inb $0xe0, %al; int3\n"
		"user_rdmsr: xor %ecx, %ecx; rdmsr\n"
		"user_rdtsc: rdtsc; int3\n"
		"user_sgdt: sgdt -16(%rsp); int3\n"
		"user_lgdt: lgdt -16(%rsp)\n"
		"user_swapgs: swapgs\n"
		"user_invlpg: invlpg (%rsp)\n"
		"user_cr: mov %cr0, %rax\n"
		".popsection");
	uint8_t *const privileged[] = {user_rdmsr, user_lgdt, user_swapgs, user_invlpg, user_cr};
	uint64_t cr4 = READ_REG(cr4);

	group("privilege");
	for (unsigned i = 0; i < sizeof(privileged) / sizeof(privileged[0]); i++) {
		run_user(privileged[i], SEL_UCODE64, 0x3000);
		CHECK_ERROR(GP, 0);
	}
	run_user(user_in, SEL_UCODE64, 0);
	CHECK_ERROR(GP, 0);
	run_user(user_in, SEL_UCODE64, 0x3000);
	CHECK_TRAP(BP);
	tss.bitmap[0xe0 / 8] &= (uint8_t) ~(1u << (0xe0 & 7)); /* the I/O permission bitmap */
	run_user(user_in, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	tss.bitmap[0xe0 / 8] = 0xff;
	run_user(user_in, SEL_UCODE64, 0);
	CHECK_ERROR(GP, 0);
	run_user(user_rdtsc, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	WRITE_REG(cr4, cr4 | 4); /* TSD */
	run_user(user_rdtsc, SEL_UCODE64, 0);
	CHECK_ERROR(GP, 0);
	TRY("rdtsc");
	CHECK_TRAP(NO_TRAP);
	WRITE_REG(cr4, cr4);
	run_user(user_sgdt, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	if (cpuid(7, 0).c & 4) {
		WRITE_REG(cr4, cr4 | 1 << 11); /* UMIP */
		run_user(user_sgdt, SEL_UCODE64, 0);
		CHECK_ERROR(GP, 0);
		WRITE_REG(cr4, cr4);
	} else {
		skip("no UMIP");
	}
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	syscall_sysret();
	sysenter_sysexit();
	call_gates();
	compatibility_mode();
	iret_forms();
	flag_rules();
	bases();
	user_privilege();
	return verdict();
}
