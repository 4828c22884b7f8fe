/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Debug exceptions in long mode: single step, breakpoint registers, RF, interrupt shadows, DR6/DR7 rules
 * (SDM volume 3, chapter 17; 6.8.3).
 */
#include "metal.h"

enum { MAX_STEPS = 64 };
enum { DR7_L0 = 1, DR7_GD = 1 << 13, DR7_FIXED = 0x400, BP_EXEC = 0, BP_WRITE = 1, BP_IO = 2, BP_RW = 3 };

static volatile unsigned steps;
static volatile uint64_t step_rip[MAX_STEPS], step_dr6[MAX_STEPS], step_flags[MAX_STEPS];
static volatile bool step_set_rf, step_stop;

/* Records each #DB and goes on. */
static bool on_debug(struct frame *f)
{
	if (f->vector != DB)
		return false;
	if (steps < MAX_STEPS) {
		step_rip[steps] = f->rip;
		step_dr6[steps] = READ_REG(dr6);
		step_flags[steps] = f->rflags;
	}
	steps++;
	WRITE_REG(dr6, 0xffff0ff0);
	if (step_set_rf)
		f->rflags |= RFLAGS_RF;
	if (step_stop)
		f->rflags &= ~(uint64_t)RFLAGS_TF;
	return true;
}

static void start_steps(void)
{
	steps = 0;
	step_set_rf = step_stop = false;
	WRITE_REG(dr6, 0xffff0ff0);
	trap_hook = on_debug;
}

#define SET_TF	 "pushf; orq $0x100, (%%rsp); popf\n"
#define CLEAR_TF "pushf; andq $~0x100, (%%rsp); popf\n"
#define MARK(n)	 #n ":"
#define ADDRESS(label)                                                                                       \
	({                                                                                                   \
		uint64_t a_;                                                                                 \
		asm volatile("lea " #label "(%%rip), %0" : "=r"(a_));                                        \
		a_;                                                                                          \
	})

static void single_step(void)
{
	group("single step");
	start_steps();
	asm volatile(SET_TF "ss1: nop\n ss2: nop\n ss3: " CLEAR_TF "ss4:" ::: "memory", "cc");
	/* A trap after each instruction following POPF, the last after the clearing POPF itself. */
	CHECK_EQ(steps, 5);
	CHECK_EQ(step_rip[0], ADDRESS(ss2));
	CHECK_EQ(step_rip[1], ADDRESS(ss3));
	CHECK_EQ(step_rip[4], ADDRESS(ss4));
	CHECK_EQ(step_dr6[0] & 0xe00f, 0x4000);
	CHECK_EQ(step_flags[0] & RFLAGS_TF, RFLAGS_TF);
	CHECK_EQ(step_flags[4] & RFLAGS_TF, 0);

	start_steps(); /* a taken jump */
	asm volatile(SET_TF "jmp st1\n ud2\n st1: nop\n" CLEAR_TF ::: "memory", "cc");
	CHECK_EQ(step_rip[0], ADDRESS(st1));

	start_steps(); /* MOV SS holds the trap back by one instruction */
	asm volatile("mov %%ss, %%eax\n" SET_TF "sh0: mov %%eax, %%ss\n sh1: nop\n sh2: nop\n" CLEAR_TF ::
			 : "rax", "memory", "cc");
	CHECK_EQ(step_rip[0], ADDRESS(sh2));

	start_steps(); /* REP: a trap after each iteration */
	static uint8_t from[4], to[4];
	asm volatile(SET_TF "rs1: rep movsb\n rs2: nop\n" CLEAR_TF ::"S"(from), "D"(to), "c"(3)
		     : "memory", "cc");
	CHECK_EQ(steps, 7);
	CHECK_EQ(step_rip[0], ADDRESS(rs1));
	CHECK_EQ(step_rip[1], ADDRESS(rs1));
	CHECK_EQ(step_rip[2], ADDRESS(rs2));

	start_steps(); /* an exception clears TF for its handler; the fault itself is not stepped */
	trap.vector = NO_TRAP;
	asm volatile("movq %%rsp, catch_rsp; movq $9f, catch_rip\n" SET_TF "ud2\n 9:" ::: "memory", "cc");
	CHECK_TRAP(UD);
	CHECK_EQ(steps, 0);
	CHECK_EQ(trap.rflags & RFLAGS_TF, RFLAGS_TF);

	start_steps(); /* INT n: the handler is not stepped, and the trap after it is lost */
	asm volatile("movq %%rsp, catch_rsp; movq $9f, catch_rip\n" SET_TF "int $0x80\n 9:" ::
			 : "memory", "cc");
	CHECK_TRAP(0x80);
	CHECK_EQ(steps, 0);

	start_steps(); /* IRET that sets TF: the instruction after it runs first */
	step_stop = true;
	asm volatile("mov %%rsp, %%rbx; pushq $0x10; push %%rbx; pushf; orq $0x100, (%%rsp); pushq $8; pushq "
		     "$ir1; iretq\n"
		     "ir1: nop\n ir2: nop" ::
			 : "rbx", "memory", "cc");
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_rip[0], ADDRESS(ir2));

	start_steps(); /* into SYSCALL-like far control: far return */
	step_stop = true;
	asm volatile(SET_TF "pushq $8\n pushq $fr1\n lretq\n fr1: nop" ::: "memory", "cc");
	CHECK_EQ(steps, 1);
}

static uint64_t dr7_for(unsigned n, unsigned type, unsigned length)
{
	return DR7_FIXED | DR7_L0 << 2 * n | (uint64_t)(type | length << 2) << (16 + 4 * n);
}

static void data_breakpoints(void)
{
	static volatile uint64_t words[4] __attribute__((aligned(32)));

	group("data breakpoints");
	start_steps();
	WRITE_REG(dr0, &words[1]);
	WRITE_REG(dr7, dr7_for(0, BP_WRITE, 2));
	asm volatile("db1: movq $1, %0\n db2: nop\n mov %1, %%rax\n movb $1, %2"
		     : "=m"(words[1])
		     : "m"(words[0]), "m"(words[2])
		     : "rax");
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_rip[0], ADDRESS(db2));
	CHECK_EQ(step_dr6[0] & 0xe00f, 1);
	CHECK_EQ(words[1], 1);
	start_steps(); /* reads do not hit a write breakpoint, a byte inside the quadword does */
	asm volatile("mov %0, %%rax\n movb $7, 5+%0\n db3: nop" : "+m"(words[1])::"rax");
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_rip[0], ADDRESS(db3));
	start_steps(); /* an access that only overlaps */
	asm volatile("movl $7, 6+%0\n db4: nop" : "+m"(words[0])::"rax");
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_rip[0], ADDRESS(db4));
	start_steps();
	asm volatile("movl $7, 4+%0" : "+m"(words[0])::"rax");
	CHECK_EQ(steps, 0);
	WRITE_REG(dr3, (uint64_t)&words[2] + 2);
	WRITE_REG(dr7, dr7_for(3, BP_RW, 1));
	start_steps();
	asm volatile("movw 2+%0, %%ax\n db5: nop; movw 4+%0, %%ax; incl %0\n db6: nop"
		     : "+m"(words[2])::"rax");
	CHECK_EQ(steps, 2);
	CHECK_EQ(step_rip[0], ADDRESS(db5));
	CHECK_EQ(step_rip[1], ADDRESS(db6));
	CHECK_EQ(step_dr6[0] & 0xe00f, 8);
	/* Stack pushes and string stores hit too. */
	WRITE_REG(dr1, &words[3]);
	WRITE_REG(dr7, dr7_for(1, BP_WRITE, 2));
	start_steps();
	asm volatile("cld; mov %0, %%rdi; mov $3, %%ecx; rep stosq\n db7: nop" ::"r"((uint64_t)&words[1])
		     : "rdi", "rcx", "memory", "cc");
	CHECK_EQ(steps, 1);
	CHECK_UNLESS_ORACLE((step_rip[0]) == (ADDRESS(db7)));
	start_steps();
	asm volatile("mov %%rsp, %%rbx; lea 32+%0, %%rsp; push %%rax\n db8: mov %%rbx, %%rsp" ::"m"(words[0])
		     : "rbx", "memory");
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_dr6[0] & 0xe00f, 2);
	WRITE_REG(dr7, DR7_FIXED);
	start_steps();
	words[3] = 1;
	CHECK_EQ(steps, 0);
	/* MOV SS with a data breakpoint on its operand: held back by one instruction. */
	static volatile uint16_t selector = SEL_DATA;
	WRITE_REG(dr0, &selector);
	WRITE_REG(dr7, dr7_for(0, BP_RW, 1));
	start_steps();
	asm volatile("mov %0, %%ss\n ds1: nop\n ds2: nop" ::"m"(selector));
	CHECK_EQ(steps, 1);
	CHECK_UNLESS_ORACLE(step_rip[0] == ADDRESS(ds2));
	WRITE_REG(dr7, DR7_FIXED);
}

static void instruction_breakpoints(void)
{
	group("instruction breakpoints");
	start_steps();
	step_set_rf = true;
	WRITE_REG(dr2, ADDRESS(ib1));
	WRITE_REG(dr7, dr7_for(2, BP_EXEC, 0));
	asm volatile("xor %%eax, %%eax\n ib1: inc %%eax\n ib2: nop" ::: "rax", "cc");
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_rip[0], ADDRESS(ib1));
	CHECK_EQ(step_dr6[0] & 0xe00f, 4);
	CHECK_EQ(step_flags[0] & RFLAGS_RF, 0); /* a fault by an instruction breakpoint pushes RF clear... */
	start_steps();				/* in a loop: once a turn */
	step_set_rf = true;
	WRITE_REG(dr2, ADDRESS(ib3));
	asm volatile("mov $4, %%ecx\n ib3: dec %%ecx; jnz ib3" ::: "rcx", "cc");
	CHECK_EQ(steps, 4);
	/* Without RF it hits again and again: break out by moving the breakpoint. */
	WRITE_REG(dr7, DR7_FIXED);
	/* The breakpoint is on the instruction's first byte only. */
	start_steps();
	step_set_rf = true;
	WRITE_REG(dr2, ADDRESS(ib4) + 1);
	WRITE_REG(dr7, dr7_for(2, BP_EXEC, 0));
	asm volatile("ib4: mov $0x90909090, %%eax" ::: "rax");
	CHECK_EQ(steps, 0);
	/* It comes before the instruction's own fault. */
	WRITE_REG(dr2, ADDRESS(ib5));
	trap.vector = NO_TRAP;
	asm volatile("movq %%rsp, catch_rsp; movq $9f, catch_rip\n ib5: ud2\n 9:" ::: "memory", "cc");
	CHECK_EQ(steps, 1);
	CHECK_TRAP(UD);
	CHECK_EQ(trap.rflags & RFLAGS_RF, RFLAGS_RF); /* ...other faults push it set */
	WRITE_REG(dr7, DR7_FIXED);
	/* RF set by IRET for one instruction only. */
	WRITE_REG(dr2, ADDRESS(ib6));
	WRITE_REG(dr7, dr7_for(2, BP_EXEC, 0));
	start_steps();
	step_set_rf = true;
	asm volatile("mov %%rsp, %%rbx; pushq $0x10; push %%rbx; pushf; orq $0x10000, (%%rsp); pushq $8; "
		     "pushq $ib6; iretq\n"
		     "ib6: nop" ::
			 : "rbx", "memory", "cc");
	CHECK_EQ(steps, 0);
	CHECK_EQ(read_flags() & RFLAGS_RF, 0);
	WRITE_REG(dr7, DR7_FIXED);
	/* POPF cannot set RF. */
	WRITE_REG(dr2, ADDRESS(ib7));
	WRITE_REG(dr7, dr7_for(2, BP_EXEC, 0));
	start_steps();
	step_set_rf = true;
	asm volatile("pushf; orq $0x10000, (%%rsp); popf\n ib7: nop" ::: "memory", "cc");
	CHECK_EQ(steps, 1);
	WRITE_REG(dr7, DR7_FIXED);
}

static void io_breakpoints(void)
{
	uint64_t cr4 = READ_REG(cr4);

	group("I/O breakpoints");
	WRITE_REG(cr4, cr4 | 8); /* DE */
	WRITE_REG(dr0, 0xe0);
	WRITE_REG(dr7, dr7_for(0, BP_IO, 0));
	start_steps();
	asm volatile("inb $0xe0, %%al\n io1: nop; inb $0xe1, %%al; outb %%al, $0xe0\n io2: nop" ::: "rax");
	CHECK_EQ(steps, 2);
	CHECK_EQ(step_rip[0], ADDRESS(io1));
	CHECK_EQ(step_rip[1], ADDRESS(io2));
	CHECK_EQ(step_dr6[0] & 0xe00f, 1);
	WRITE_REG(dr7, DR7_FIXED);
	/* With DE, DR4 and DR5 are #UD; without, they are DR6 and DR7. */
	TRY(AT(".byte 0x0f, 0x21, 0xe0"));
	CHECK_FAULT(UD);
	WRITE_REG(cr4, cr4);
	uint64_t v;
	asm volatile(".byte 0x0f, 0x21, 0xe8" : "=a"(v)); /* mov %dr5, %rax */
	CHECK_EQ(v, DR7_FIXED);
}

static void register_rules(void)
{
	group("debug registers");
	start_steps();
	WRITE_REG(dr6, 0);
	CHECK_EQ(READ_REG(dr6) & ~0x10800ull, 0xfffe07f0); /* bits 11 and 16 depend on the model */
	WRITE_REG(dr6, 0xffff0ff0);
	WRITE_REG(dr7, 0);
	CHECK_EQ(READ_REG(dr7), DR7_FIXED);
	WRITE_REG(dr0, 0x1122334455667788);
	CHECK_EQ(READ_REG(dr0), 0x1122334455667788);
	TRY_ASM(AT("mov %0, %%dr7"), , "r"(1ull << 32));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	WRITE_REG(dr7, DR7_FIXED);
	TRY_ASM(AT("mov %0, %%dr6"), , "r"(1ull << 32));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	WRITE_REG(dr6, 0xffff0ff0);
	/* General detect: the next access of a debug register is a #DB, before it happens; GD is cleared. */
	WRITE_REG(dr7, DR7_FIXED | DR7_GD);
	asm volatile("gd1: mov %%dr0, %%rax" ::: "rax");
	if (is_oracle() && !steps) {
		quirk("no general detect");
	} else {
		CHECK_EQ(steps, 1);
		CHECK_EQ(step_rip[0], ADDRESS(gd1));
		CHECK_EQ(step_dr6[0] & 0x2000, 0x2000);
	}
	WRITE_REG(dr7, DR7_FIXED);
	WRITE_REG(dr0, 0);
}

extern uint8_t user_mov_dr[], user_step[], user_step_2[];
__asm__(".pushsection .user, \"ax\"\n"
	"user_mov_dr: mov %dr0, %rax\n"
	"user_step: nop\n"
	"user_step_2: nop; int3\n"
	".popsection");

static void user_mode(void)
{
	group("user mode");
	start_steps();
	run_user(user_mov_dr, SEL_UCODE64, 0);
	CHECK_ERROR(GP, 0);
	start_steps();
	step_stop = true;
	run_user(user_step, SEL_UCODE64, RFLAGS_TF);
	CHECK_TRAP(BP);
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_rip[0], user_step_2);
	WRITE_REG(dr0, user_step_2);
	WRITE_REG(dr7, dr7_for(0, BP_EXEC, 0));
	start_steps();
	step_set_rf = true;
	run_user(user_step, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	CHECK_EQ(steps, 1);
	start_steps(); /* single step and breakpoint at once: step after user_step, then the breakpoint */
	step_set_rf = true;
	step_stop = true;
	run_user(user_step, SEL_UCODE64, RFLAGS_TF);
	CHECK_TRAP(BP);
	CHECK(steps == 1 || steps == 2);
	WRITE_REG(dr7, DR7_FIXED);
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	single_step();
	data_breakpoints();
	instruction_breakpoints();
	io_breakpoints();
	register_rules();
	user_mode();
	return verdict();
}
