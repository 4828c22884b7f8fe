/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Real mode: segments and wrapping, the interrupt table, 16-bit forms of instructions, what is not there, big
 * real mode (SDM volume 3, chapter 20).
 */
#include "real.h"

void unexpected_trap(void);

void unexpected_trap(void)
{
	put_string("FAIL unexpected interrupt ");
	put_hex(trap.vector);
	put_string(" at ");
	put_hex(trap.cs);
	put_string(":");
	put_hex(trap.ip);
	put_string("\n");
	finish(1);
}

static void setup(void)
{
	volatile uint16_t *ivt = (volatile uint16_t *)0;

	for (unsigned i = 0; i < 256; i++) {
		ivt[2 * i] = (uint16_t)(uint32_t)(trap_stubs + 8 * i);
		ivt[2 * i + 1] = 0;
	}
}

/* Memory anywhere below 1 MiB + 64 KiB, through FS. */
static void poke(uint32_t at, uint32_t value)
{
	uint32_t seg = at >> 4 > 0xffff ? 0xffff : at >> 4;

	asm volatile("mov %w0, %%fs; movb %b2, %%fs:(%1)" ::"r"(seg), "r"(at - (seg << 4)), "q"(value)
		     : "memory");
}

static uint32_t peek(uint32_t at)
{
	uint32_t seg = at >> 4 > 0xffff ? 0xffff : at >> 4, value;

	asm volatile("mov %w1, %%fs; mov %%fs:(%2), %0"
		     : "=r"(value)
		     : "r"(seg), "r"(at - (seg << 4))
		     : "memory");
	return value;
}

/* Runs 16-bit code that leaves a value in EAX. */
#define VALUE(code)                                                                                          \
	({                                                                                                   \
		uint32_t v_;                                                                                 \
		asm volatile(CODE16(code) : "=a"(v_)::"memory", "cc", "ebx", "ecx", "edx", "esi", "edi");    \
		v_;                                                                                          \
	})

static void segments(void)
{
	group("segments");
	poke(0x12345, 0xa5);
	CHECK_EQ(VALUE("mov $0x1234, %%ax; mov %%ax, %%es; movb %%es:5, %%al; movzx %%al, %%eax; xor %%bx, "
		       "%%bx; mov %%bx, %%es"),
		 0xa5);
	CHECK_EQ(VALUE("mov $0x1000, %%ax; mov %%ax, %%fs; mov $0x2345, %%bx; movzbl %%fs:(%%bx), %%eax"),
		 0xa5);
	/* A20 is on: ffff:10 is 1 MiB. */
	CHECK_EQ(
	    VALUE("mov $0xffff, %%ax; mov %%ax, %%gs; movl $0x600dcafe, %%gs:0x10; movl %%gs:0x10, %%eax"),
	    0x600dcafe);
	CHECK_EQ(peek(0x100000), 0x600dcafe);
	/* 16-bit effective addresses wrap inside the segment. */
	poke(0x20003, 0x5a);
	CHECK_EQ(VALUE("mov $0x2000, %%ax; mov %%ax, %%es; mov $0xfff0, %%bx; mov $0x13, %%si; movzbl "
		       "%%es:(%%bx,%%si), %%eax; xor %%bx, %%bx; mov %%bx, %%es"),
		 0x5a);
	/* BP and SP go with SS. */
	poke(0x30010, 0x77);
	CHECK_EQ(VALUE("mov %%sp, %%dx; mov $0x3000, %%ax; mov %%bp, %%cx; mov %%ax, %%ss; mov $0x10, %%bp; "
		       "movzbl (%%bp), %%eax; xor %%bx, %%bx; mov %%bx, %%ss; mov %%cx, %%bp"),
		 0x77);
	CHECK_EQ(VALUE("mov $0x3000, %%ax; mov %%esp, %%edx; mov %%ax, %%ss; mov $0x200, %%sp; pushw "
		       "$0x1357; xor %%ax, %%ax; mov %%ax, %%ss; mov %%edx, %%esp"),
		 0);
	CHECK_EQ(peek(0x301fe) & 0xffff, 0x1357);
	/* SP wraps from 0 to fffe. */
	CHECK_EQ(
	    VALUE("mov $0x3000, %%ax; mov %%esp, %%edx; mov %%ax, %%ss; mov $0, %%esp; pushw $0x2468; movzwl "
		  "%%sp, %%ecx; xor %%ax, %%ax; mov %%ax, %%ss; mov %%edx, %%esp; mov %%ecx, %%eax"),
	    0xfffe);
	CHECK_EQ(peek(0x3fffe) & 0xffff, 0x2468);
	/* A segment register keeps what it was given. */
	CHECK_EQ(VALUE("mov $0xabcd, %%ax; mov %%ax, %%fs; xor %%eax, %%eax; mov %%fs, %%ax"), 0xabcd);
	CHECK_EQ(VALUE("mov $-1, %%eax; mov %%fs, %%eax"), 0xabcd);
	CHECK_EQ(VALUE("pushl $0x11112222; popw %%gs; popw %%ax; shl $16, %%eax; mov %%gs, %%ax"),
		 0x11112222);
}

static void limits(void)
{
	group("limits");
	if (is_oracle()) {
		quirk("no segment limits");
		return;
	}
	TRY(AT("movw 0xffff, %%ax"));
	CHECK_FAULT(GP);
	TRY(AT("movl 0xfffd, %%eax"));
	CHECK_FAULT(GP);
	TRY("movl 0xfffc, %%eax; movb 0xffff, %%al");
	CHECK_TRAP(NO_TRAP);
	TRY("mov $0x10000, %%ebx\n" AT("movb (%%ebx), %%al"));
	CHECK_FAULT(GP);
	TRY("mov $-1, %%ebx\n" AT("movb 2(%%ebx), %%al")); /* wraps at 32 bits: 1 */
	CHECK_TRAP(NO_TRAP);
	TRY("pushl %%ebp; mov %%esp, %%ebx; mov $0xffff, %%ebp\n" AT(
	    "movw (%%bp), %%ax") "mov %%ebx, %%esp; popl %%ebp");
	CHECK_FAULT(SS);
}

static void interrupt_table(void)
{
	group("interrupt table");
	TRY(AT("int $0x40"));
	CHECK_TRAP(0x40);
	CHECK_EQ(trap.ip, here + 2);
	CHECK_EQ(trap.cs, 0);
	TRY(AT("int3"));
	CHECK_TRAP(BP);
	CHECK_EQ(trap.ip, here + 1);
	TRY("mov $0x7fff, %%ax; add $1, %%ax\n" AT("into"));
	CHECK_TRAP(OF);
	CHECK_EQ(trap.ip, here + 1);
	TRY("xor %%ax, %%ax\n" AT("into"));
	CHECK_TRAP(NO_TRAP);
	TRY("xor %%ax, %%ax\n" AT("divb %%al"));
	CHECK_FAULT(DE);
	TRY(AT("aam $0"));
	CHECK_FAULT(DE);
	TRY(AT("ud2"));
	CHECK_FAULT(UD);
	static volatile uint16_t bounds[2] = {5, 10};
	TRY_ASM("mov $11, %%cx\n" AT("bound %%cx, %0"), , "m"(bounds), "ecx");
	CHECK_FAULT(BR);
	TRY_ASM("mov $10, %%cx\n" AT("bound %%cx, %0"), , "m"(bounds), "ecx");
	CHECK_TRAP(NO_TRAP);
	TRY("mov %%cr0, %%eax; or $8, %%al; mov %%eax, %%cr0\n" AT("fnop"));
	CHECK_FAULT(NM);
	asm volatile("clts");
	/* Flags: the handler runs with IF and TF clear, the pushed image has them. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	TRY("stc; sti; nop; int $0x41");
	asm volatile("cli");
	CHECK_TRAP(0x41);
	CHECK_EQ(trap.flags & (RFLAGS_IF | RFLAGS_CF), RFLAGS_IF | RFLAGS_CF);
	CHECK_EQ(trap.handler_flags & (RFLAGS_IF | RFLAGS_TF), 0);
	/* LIDT moves the table, also in real mode. */
	static struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) moved = {0x3ff, 0x40000}, old = {0x3ff, 0};
	for (uint32_t i = 0; i < 1024; i++)
		poke(0x40000 + i, peek(i));
	poke(0x40000 + 0x42 * 4, (uint32_t)(trap_stubs + 8 * 0x43));
	poke(0x40000 + 0x42 * 4 + 1, (uint32_t)(trap_stubs + 8 * 0x43) >> 8);
	asm volatile("lidt %0" ::"m"(moved));
	TRY("int $0x42");
	CHECK_TRAP(0x43);
	asm volatile("lidt %0" ::"m"(old));
	TRY("int $0x42");
	CHECK_TRAP(0x42);
	moved.limit = 0x20 * 4 - 1;
	moved.base = 0;
	asm volatile("lidt %0" ::"m"(moved));
	TRY(AT("int $0x42")); /* past the limit: #GP */
	CHECK_FAULT(GP);
	asm volatile("lidt %0" ::"m"(old));
	/* 16-bit operand size: LIDT and LGDT take 24 bits of base. */
	static struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) wide = {0x3ff, 0x55040000}, seen;
	asm volatile(CODE16("lidtw %1; sidtw %0; lidtl %2") : "=m"(seen) : "m"(wide), "m"(old));
	CHECK_EQ(seen.base & 0xffffff, 0x40000);
	asm volatile("lgdtl %1; sgdtl %0" : "=m"(seen) : "m"(wide));
	CHECK_EQ(seen.base, 0x55040000);
	CHECK_EQ(seen.limit, 0x3ff);
}

static void absent(void)
{
	group("not in real mode");
	TRY(AT("lar %%ax, %%bx"));
	CHECK_FAULT(UD);
	TRY(AT("lsl %%ax, %%bx"));
	CHECK_FAULT(UD);
	TRY(AT("verr %%ax"));
	CHECK_FAULT(UD);
	TRY(AT("verw %%ax"));
	CHECK_FAULT(UD);
	TRY(AT("sldt %%ax"));
	CHECK_FAULT(UD);
	TRY(AT("str %%ax"));
	CHECK_FAULT(UD);
	TRY(AT("lldt %%ax"));
	CHECK_FAULT(UD);
	TRY(AT("ltr %%ax"));
	CHECK_FAULT(UD);
	TRY(AT("arpl %%ax, %%bx"));
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xf0, 0x90")); /* LOCK NOP */
	CHECK_FAULT(UD);
	TRY(AT("mov %%ax, %%cs")); /* gone since the 286 */
	CHECK_FAULT(UD);
	TRY(AT(".byte 0xc5, 0xf8, 0x77")); /* LDS with a register: no VEX here */
	CHECK_FAULT(UD);
}

/* Result and flags of a decimal-adjust instruction with AX and the flags given. */
static uint32_t adjust(uint32_t which, uint32_t ax, uint32_t flags)
{
	uint32_t out;

	switch (which) {
#define CASE(n, insn)                                                                                        \
	case n:                                                                                              \
		asm volatile(                                                                                \
		    CODE16("pushw %w2; popfw; " insn                                                         \
			   "; pushfw; popw %%cx; shl $16, %%ecx; movzwl %%ax, %%eax; or %%ecx, %%eax")       \
		    : "=a"(out)                                                                              \
		    : "a"(ax), "d"(flags)                                                                    \
		    : "ecx", "cc");                                                                          \
		break
		CASE(0, "daa");
		CASE(1, "das");
		CASE(2, "aaa");
		CASE(3, "aas");
		CASE(4, "aam");
		CASE(5, "aad");
		CASE(6, ".byte 0xd6"); /* SALC */
	default:
		out = 0;
	}
	return out;
}

static void decimal(void)
{
	enum { CF = 1 << 16, AF = 16 << 16, ZF = 64 << 16, SF = 128 << 16, PF_ = 4 << 16 };

	group("decimal");
	CHECK_EQ(adjust(0, 0x3c, 2) & (0xffff | CF | AF), 0x42 | AF);
	CHECK_EQ(adjust(0, 0x9a, 2) & (0xffff | CF | AF | ZF), 0x00 | CF | AF | ZF);
	CHECK_EQ(adjust(0, 0x12, 2 | 1) & (0xffff | CF | AF), 0x72 | CF);
	CHECK_EQ(adjust(0, 0x12, 2 | 16) & (0xffff | CF | AF), 0x18 | AF);
	CHECK_EQ(adjust(1, 0x2d, 2 | 16) & (0xffff | CF | AF), 0x27 | AF);
	CHECK_EQ(adjust(1, 0x03, 2 | 16) & (0xffff | CF | AF), 0xfd | AF | CF);
	CHECK_EQ(adjust(1, 0xee, 2) & (0xffff | CF | AF), 0x88 | AF | CF);
	CHECK_EQ(adjust(2, 0x010b, 2) & (0xffff | CF | AF), 0x0201 | CF | AF);
	CHECK_EQ(adjust(2, 0x00fb, 2) & (0xffff | CF | AF),
		 0x0201 | CF | AF); /* carries into AH: AX + 106h */
	CHECK_EQ(adjust(2, 0x0105, 2) & (0xffff | CF | AF), 0x0105);
	CHECK_EQ(adjust(3, 0x0100, 2 | 16) & (0xffff | CF | AF), 0xff0a | CF | AF); /* AX - 6, AH - 1 */
	CHECK_EQ(adjust(3, 0x0205, 2) & (0xffff | CF | AF), 0x0205);
	CHECK_EQ(adjust(4, 0x0059, 2) & (0xffff | ZF | SF | PF_), 0x0809 | PF_);
	CHECK_EQ(adjust(5, 0x0809, 2) & (0xffff | ZF | SF | PF_), 0x0059 | PF_);
	CHECK_EQ(adjust(6, 0x1200, 2 | 1) & 0xffff, 0x12ff);
	CHECK_EQ(adjust(6, 0x1255, 2) & 0xffff, 0x1200);
}

static void stack_forms(void)
{
	group("stack");
	CHECK_EQ(VALUE("mov %%sp, %%bx; pushw %%sp; popw %%ax; sub %%bx, %%ax; movzwl %%ax, %%eax"),
		 0); /* the old SP */
	CHECK_EQ(VALUE("mov %%esp, %%ebx; mov $0x1111, %%ax; mov $0x2222, %%cx; mov $0x3333, %%dx; mov "
		       "$0x4444, %%si; mov $0x5555, %%di; pushaw; mov %%esp, %%edi; movzwl 14(%%edi), %%eax; "
		       "movw 2(%%edi), %%cx; shl $16, %%eax; mov %%cx, %%ax; mov %%ebx, %%esp"),
		 0x11114444);
	CHECK_EQ(VALUE("mov %%esp, %%ebx; pushw $-2; popw %%ax; pushl $-3; popl %%ecx; cmp %%ebx, %%esp; "
		       "sete %%dl; shl $16, %%eax; mov %%cx, %%ax"),
		 0xfffefffd);
	CHECK_EQ(VALUE("pushw $0x7ed5; popfw; pushfw; popw %%ax; pushw $2; popfw; movzwl %%ax, %%eax"),
		 0x7ed7);
	CHECK_EQ(VALUE("mov %%esp, %%edi; mov %%ebp, %%esi; mov $0x9999, %%bp; enterw $8, $0; movzwl %%sp, "
		       "%%eax; leavew; movzwl %%di, %%ecx; sub %%eax, %%ecx; movzwl %%bp, %%eax; shl $16, "
		       "%%eax; add %%ecx, %%eax; mov %%esi, %%ebp"),
		 0x99990000 + 10);
	CHECK_EQ(VALUE("pushw %%cs; callw 1f; xor %%eax, %%eax; jmp 2f; 1: mov $7, %%ax; lretw; 2: movzwl "
		       "%%ax, %%eax"),
		 0);
	CHECK_EQ(VALUE("lcallw $0, $1f; jmp 2f; 1: mov $7, %%eax; lretw; 2:"), 7);
	CHECK_EQ(VALUE("lcalll $0, $1f; jmp 2f; 1: mov $8, %%eax; lretl; 2:"), 8);
	CHECK_EQ(VALUE("mov %%esp, %%ecx; pushw $5; pushw $6; callw 1f; sub %%esp, %%ecx; mov %%ecx, %%eax; "
		       "jmp 2f; 1: retw $4; 2:"),
		 0);
	CHECK_EQ(VALUE("ljmpw $0x10, $(1f - 0x100); 1: mov %%cs, %%ax; ljmpw $0, $2f; 2: movzwl %%ax, %%eax"),
		 0x10);
	static volatile struct {
		uint16_t offset, selector;
	} far_ptr = {0x1234, 0x5678};
	uint32_t r;
	asm volatile(CODE16("lfs %1, %%ax; mov %%fs, %%cx; shl $16, %%ecx; mov %%ax, %%cx; mov %%ecx, %%eax")
		     : "=a"(r)
		     : "m"(far_ptr)
		     : "ecx");
	CHECK_EQ(r, 0x56781234);
	asm volatile(CODE16("les %1, %%ax; mov %%es, %%cx; shl $16, %%ecx; mov %%ax, %%cx; mov %%ecx, %%eax; "
			    "xor %%cx, %%cx; mov %%cx, %%es")
		     : "=a"(r)
		     : "m"(far_ptr)
		     : "ecx");
	CHECK_EQ(r, 0x56781234);
	/* IRET in both sizes. */
	CHECK_EQ(VALUE("pushfw; pushw %%cs; pushw $1f; mov $1, %%eax; iretw; ud2; 1: inc %%eax"), 2);
	CHECK_EQ(VALUE("pushfl; pushl $0; pushl $1f; mov $1, %%eax; iretl; ud2; 1: inc %%eax"), 2);
}

static void counters(void)
{
	group("counters and strings");
	CHECK_EQ(VALUE("mov $0x10003, %%ecx; xor %%eax, %%eax; 1: inc %%eax; loop 1b"), 3); /* CX */
	CHECK_EQ(VALUE("mov $0x10000, %%ecx; xor %%eax, %%eax; jcxz 1f; inc %%eax; 1:"), 0);
	CHECK_EQ(VALUE("mov $0x10000, %%ecx; xor %%eax, %%eax; jecxz 1f; inc %%eax; 1:"), 1);
	CHECK_EQ(VALUE("mov $3, %%ecx; xor %%eax, %%eax; 1: inc %%eax; addr32 loop 1b"), 3);
	/* SI and DI wrap at 64 KiB, the upper halves stay. */
	poke(0x2ffff, 0x11);
	poke(0x20000, 0x22);
	CHECK_EQ(VALUE("cld; mov $0x2000, %%ax; mov %%ax, %%ds; mov $0x5555ffff, %%esi; lodsb; mov %%al, "
		       "%%ah; lodsb; xor %%bx, %%bx; mov %%bx, %%ds; movzwl %%ax, %%eax"),
		 0x1122);
	CHECK_EQ(VALUE("cld; mov $0x2000, %%ax; mov %%ax, %%ds; mov $0x5555ffff, %%esi; lodsb; xor %%bx, "
		       "%%bx; mov %%bx, %%ds; mov %%esi, %%eax"),
		 0x55550000);
	CHECK_EQ(VALUE("cld; mov $0x2000, %%ax; mov %%ax, %%es; mov $0xfffe, %%di; mov $0x7777, %%ax; mov "
		       "$4, %%cx; rep stosb; xor %%bx, %%bx; mov %%bx, %%es; movzwl %%di, %%eax"),
		 2);
	CHECK_EQ(peek(0x20001) & 0xff, 0x77);
	CHECK_EQ(peek(0x2fffe) & 0xff, 0x77);
	/* A segment override on the source. */
	poke(0x31000, 0x99);
	CHECK_EQ(VALUE("cld; mov $0x3100, %%ax; mov %%ax, %%fs; xor %%si, %%si; fs lodsb; movzx %%al, %%eax"),
		 0x99);
	CHECK_EQ(VALUE("mov $0x3100, %%ax; mov %%ax, %%fs; xor %%bx, %%bx; xor %%al, %%al; fs xlat; movzx "
		       "%%al, %%eax"),
		 0x99);
	/* 67: 32-bit addressing with a scaled index. */
	poke(0x1234, 0x42);
	CHECK_EQ(VALUE("mov $0x1000, %%ebx; mov $0x46, %%ecx; movzbl 0x11c(%%ebx,%%ecx,4), %%eax"), 0x42);
	CHECK_EQ(VALUE("mov $0x12345678, %%eax; mov $0, %%bx; imul $2, %%eax, %%ecx; xchg %%eax, %%ecx"),
		 0x2468acf0);
}

static void single_step(void)
{
	group("single step");
	trap_count = 0;
	trap_resume = 1;
	asm volatile(CODE16("pushfw; popw %%ax; or $0x100, %%ax; pushw %%ax; popfw\n"
			    "rs1: nop\n rs2: nop\n rs3: and $~0x100, %%ax; pushw %%ax; popfw\n rs4:")::
			 : "eax", "memory", "cc");
	trap_resume = 0;
	extern uint8_t rs2[], rs3[];
	CHECK_EQ(trap_count, 5);
	CHECK_EQ(trap_log[0], (uint32_t)rs2);
	CHECK_EQ(trap_log[1], (uint32_t)rs3);
	trap_count = 0;
	trap_resume = 2;
	asm volatile(CODE16("pushfw; popw %%ax; or $0x100, %%ax; pushw %%ax; popfw\n"
			    "mov %%ss, %%bx; mov %%bx, %%ss\n nop\n rs5: nop\n")::
			 : "eax", "ebx", "memory", "cc");
	trap_resume = 0;
	CHECK_EQ(trap_count, 1);
}

static void code_bytes(void)
{
	group("code through segments");
	/* The same bytes through two segment pairs: a change is seen in both. */
	poke(0x50000, 0xb8); /* mov $1, %ax; lret */
	poke(0x50001, 1);
	poke(0x50002, 0);
	poke(0x50003, 0xcb);
	CHECK_EQ(VALUE("xor %%eax, %%eax; lcallw $0x5000, $0"), 1);
	CHECK_EQ(VALUE("xor %%eax, %%eax; lcallw $0x4ff0, $0x100"), 1);
	poke(0x50001, 2);
	CHECK_EQ(VALUE("xor %%eax, %%eax; lcallw $0x5000, $0"), 2);
	CHECK_EQ(VALUE("xor %%eax, %%eax; lcallw $0x4f00, $0x1000"), 2);
}

/* Big real mode: 4 GiB limits loaded in protected mode stay in the hidden part. */
static void big_real(void)
{
	static uint64_t table[3] = {0, 0x00cf93000000ffff, 0x00009b000000ffff};
	static struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) gdtr;

	group("big real mode");
	gdtr.limit = sizeof(table) - 1;
	gdtr.base = (uint32_t)table;
	asm volatile(CODE16("lgdtl %0; mov %%cr0, %%eax; or $1, %%al; mov %%eax, %%cr0; mov $8, %%bx; mov "
			    "%%bx, %%fs; mov %%bx, %%gs;"
			    "and $~1, %%eax; mov %%eax, %%cr0; xor %%bx, %%bx; mov %%bx, %%gs")::"m"(gdtr)
		     : "eax", "ebx", "memory");
	CHECK_EQ(VALUE("mov $0x200000, %%ebx; movl $0x13572468, %%fs:(%%ebx); movl %%fs:(%%ebx), %%eax"),
		 0x13572468);
	/* Loading GS in real mode changed its base but not its limit. */
	CHECK_EQ(VALUE("mov $0x10, %%ax; mov %%ax, %%gs; mov $0x1fff00, %%ebx; movl %%gs:(%%ebx), %%eax"),
		 0x13572468);
	/* PE on without a far jump: still 16-bit code, CS as it was. */
	CHECK_EQ(VALUE("mov %%cr0, %%eax; or $1, %%al; mov %%eax, %%cr0; mov $0x11, %%cx; mov %%cs, %%cx; "
		       "and $~1, %%eax; mov %%eax, %%cr0; movzwl %%cx, %%eax"),
		 0);
	uint32_t word = VALUE("smsw %%ax; lmsw %%ax; smsw %%eax");
	CHECK_EQ(word & 1, 0);
}

static void timer_interrupt(void)
{
	group("PIC and PIT");
	/* Virtual wire: the local APIC on, LINT0 takes the PIC's interrupts. FS reaches 4 GiB since
	 * big_real(). */
	asm volatile(
	    CODE16("xor %%ax, %%ax; mov %%ax, %%fs; mov $0xfee000f0, %%ebx; movl $0x1ff, %%fs:(%%ebx);"
		   "mov $0xfee00350, %%ebx; movl $0x700, %%fs:(%%ebx)")::
		: "eax", "ebx", "memory");
	outb(0x20, 0x11); /* both PICs, vectors 0x50 and 0x58 */
	outb(0xa0, 0x11);
	outb(0x21, 0x50);
	outb(0xa1, 0x58);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, 0xfe);
	outb(0x43, 0x30); /* channel 0, mode 0, 1000 clocks */
	outb(0x40, 0xe8);
	outb(0x40, 3);
	TRY("sti; 1: hlt; jmp 1b");
	CHECK_TRAP(0x50);
	CHECK_EQ(trap.flags & RFLAGS_IF, RFLAGS_IF);
	outb(0x20, 0x0b); /* in service: IRQ 0 */
	CHECK_EQ(inb(0x20), 1);
	outb(0x20, 0x20);
	outb(0x20, 0x0b);
	CHECK_EQ(inb(0x20), 0);
	outb(0x21, 0xff);
}

int image_main(void)
{
	setup();
	segments();
	limits();
	interrupt_table();
	absent();
	decimal();
	stack_forms();
	counters();
	single_step();
	code_bytes();
	big_real();
	timer_interrupt();
	return verdict();
}
