/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * String instructions that fault in the middle, port and device access of every width, locked and split
 * accesses, and code that changes under the processor (SDM volume 1, 7.3.9.3; volume 3, 11.6 and 8.1.3).
 */
#include "metal.h"

#define TEST  0x40200000ull
#define PHYS  0x1200000ull
#define PHYS2 0x1400000ull
#define RW    (P_P | P_W)

static uint64_t *pte;

static void window(void)
{
	pte = pte_of(boot_pml4, TEST, 1);
	pte[0] = PHYS | RW;
	pte[1] = 0;
	WRITE_REG(cr3, READ_REG(cr3));
}

struct string_regs {
	uint64_t rsi, rdi, rcx, rax;
};

/* Runs one REP instruction; registers after it, or at its fault, are in r. */
#define STRING(insn, r)                                                                                      \
	TRY_ASM(AT(insn), "+S"((r).rsi)COMMA "+D"((r).rdi)COMMA "+c"((r).rcx)COMMA "+a"((r).rax), )

static void strings_faulting(void)
{
	uint8_t *low = (uint8_t *)TEST, *source = (uint8_t *)PHYS2;
	struct string_regs r;

	group("string instructions");
	window();
	for (int i = 0; i < 4096; i++)
		source[i] = (uint8_t)(i * 7);
	/* MOVSB into a page that is not there: stops with the registers telling how far it came. */
	r = (struct string_regs){PHYS2, TEST + 4096 - 10, 20, 0};
	STRING("cld; rep movsb", r);
	CHECK_TRAP(PF);
	CHECK_EQ(trap.error, 2);
	CHECK_EQ(trap.cr2, TEST + 4096);
	CHECK_EQ(r.rcx, 10);
	CHECK_EQ(r.rsi, PHYS2 + 10);
	CHECK_EQ(r.rdi, TEST + 4096);
	CHECK_EQ(memcmp(low + 4086, source, 10), 0);
	CHECK_UNLESS_ORACLE((trap.rflags & RFLAGS_RF) ==
			    (RFLAGS_RF)); /* in the middle of a repeated instruction */
	/* The same, with elements that straddle the border: the straddling one is not written at all. */
	low[4095] = 0x55;
	r = (struct string_regs){PHYS2, TEST + 4096 - 9, 4, 0};
	STRING("cld; rep movsq", r);
	CHECK_TRAP(PF);
	CHECK_EQ(r.rcx, 3);
	CHECK_EQ(r.rdi, TEST + 4095);
	CHECK_EQ(low[4095], 0x55);
	/* Source missing. */
	r = (struct string_regs){TEST + 4096 - 4, PHYS2 + 0x800, 8, 0};
	STRING("cld; rep movsw", r);
	CHECK_ERROR(PF, 0);
	CHECK_EQ(r.rcx, 6);
	CHECK_EQ(r.rsi, TEST + 4096);
	/* Backwards, into a read-only page. */
	pte[1] = (PHYS2 + 4096) | P_P;
	invlpg(TEST + 4096);
	pte[0] = 0;
	invlpg(TEST);
	r = (struct string_regs){TEST + 4096 + 8, PHYS2 + 0x900, 8, 0};
	STRING("std; rep lodsl; cld", r);
	CHECK_ERROR(PF, 0);
	CHECK_EQ(r.rcx, 5);
	CHECK_EQ(r.rsi, TEST + 4096 - 4);
	r = (struct string_regs){0, TEST + 4096, 3, 0x11};
	STRING("cld; rep stosb", r);
	CHECK_ERROR(PF, 3);
	CHECK_EQ(r.rcx, 3);
	/* CMPS and SCAS: flags of the last comparison done are kept at the fault. */
	window();
	memset(low + 4000, 'a', 96);
	r = (struct string_regs){0, TEST + 4000, 200, 'a'};
	STRING("cld; repe scasb", r);
	CHECK_ERROR(PF, 0);
	CHECK_EQ(r.rcx, 104);
	CHECK_EQ(trap.rflags & RFLAGS_ZF, RFLAGS_ZF);
	r = (struct string_regs){0, TEST + 4000, 200, 'b'};
	STRING("cld; repne scasb", r);
	CHECK_ERROR(PF, 0);
	CHECK_EQ(r.rcx, 104);
	memset(source, 'a', 64);
	source[20] = 'x';
	r = (struct string_regs){PHYS2, TEST + 4000, 200, 0};
	STRING("cld; repe cmpsb", r);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(r.rcx, 200 - 21);
	/* Zero count: nothing is touched. */
	r = (struct string_regs){TEST + 4096, TEST + 4096, 0, 0};
	STRING("rep movsq", r);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(r.rsi, TEST + 4096);
	/* 32-bit addresses wrap and zero-extend; the count is ECX. */
	r = (struct string_regs){0xffffffff00000000 | PHYS2, 0xeeeeeeee00000000 | (PHYS2 + 0x800),
				 0xdddddddd00000004, 0};
	STRING("cld; rep movsb (%%esi), (%%edi)", r);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(r.rsi, PHYS2 + 4);
	CHECK_EQ(r.rdi, PHYS2 + 0x804);
	CHECK_EQ(r.rcx, 0);
	/* Overlap: forward by one byte fills. */
	source[0] = 0x77;
	r = (struct string_regs){PHYS2, PHYS2 + 1, 100, 0};
	STRING("cld; rep movsb", r);
	for (int i = 0; i <= 100; i++)
		if (source[i] != 0x77)
			CHECK_EQ(i, 0);
	uint8_t expected[104];
	for (int i = 0; i < 104; i++)
		source[i] = expected[i] = (uint8_t)i;
	for (int i = 0; i < 96; i += 8) {
		uint64_t v;
		__builtin_memcpy(&v, expected + i, 8);
		__builtin_memcpy(expected + i + 4, &v, 8);
	}
	r = (struct string_regs){PHYS2, PHYS2 + 4, 12, 0};
	STRING("cld; rep movsq", r);
	CHECK_EQ(memcmp(source, expected, 104), 0);
	/* Two GVAs of one page overlap as one page does. */
	pte[1] = PHYS | RW;
	invlpg(TEST + 4096);
	low[0] = 0x42;
	r = (struct string_regs){TEST, TEST + 4096 + 1, 50, 0};
	STRING("cld; rep movsb", r);
	CHECK_EQ(low[50], 0x42);
	/* Long ones, all sizes, across many pages. */
	uint8_t *from = (uint8_t *)0x1600000, *to = (uint8_t *)0x1700000;
	for (unsigned i = 0; i < 0x10000; i++)
		from[i] = (uint8_t)(i ^ i >> 8);
	r = (struct string_regs){(uint64_t)from + 1, (uint64_t)to + 3, 0xfff0 / 8, 0};
	STRING("cld; rep movsq", r);
	CHECK_EQ(memcmp(from + 1, to + 3, 0xfff0), 0);
	CHECK_EQ(r.rdi, to + 3 + 0xfff0);
	r = (struct string_regs){(uint64_t)from + 0xfff8, (uint64_t)to + 0x1fff8, 0x2000, 0};
	STRING("std; rep movsq; cld", r);
	CHECK_EQ(memcmp(from, to + 0x10000, 0x10000), 0);
	r = (struct string_regs){0, (uint64_t)to + 1, 0x1000, 0x0102030405060708};
	STRING("cld; rep stosq", r);
	CHECK_EQ(to[1], 8);
	CHECK_EQ(to[0x8000], 1);
	CHECK_EQ(to[0x8001], from[0x7fff]);
}

/* One REP instruction at one place of code, so that it runs as whatever it was translated to; the carry flag after it, set before. */
#define REPEAT(insn)                                                                                         \
	static bool repeat_##insn(struct string_regs *r)                                                     \
	{                                                                                                    \
		bool carry;                                                                                  \
		asm volatile("stc; rep " #insn                                                               \
			     : "+S"(r->rsi), "+D"(r->rdi), "+c"(r->rcx), "=@ccc"(carry)                      \
			     : "a"(r->rax)                                                                   \
			     : "memory");                                                                    \
		return carry;                                                                                \
	}
REPEAT(movsb) REPEAT(movsw) REPEAT(movsl) REPEAT(movsq)
REPEAT(stosb) REPEAT(stosw) REPEAT(stosl) REPEAT(stosq)

static bool (*const repeat_movs[])(struct string_regs *) = {repeat_movsb, repeat_movsw, repeat_movsl, repeat_movsq};
static bool (*const repeat_stos[])(struct string_regs *) = {repeat_stosb, repeat_stosw, repeat_stosl, repeat_stosq};

enum { MODEL = 2 * 4096 };

/* By single bytes, element after element, in a copy of the window. */
static void model_movs(uint8_t *model, unsigned from, unsigned to, unsigned size, unsigned count)
{
	uint8_t element[8];

	for (unsigned i = 0; i < count; i++) {
		for (unsigned k = 0; k < size; k++)
			element[k] = model[from + i * size + k];
		for (unsigned k = 0; k < size; k++)
			model[to + i * size + k] = element[k];
	}
}

static void model_stos(uint8_t *model, uint64_t value, unsigned to, unsigned size, unsigned count)
{
	for (unsigned i = 0; i < count * size; i++)
		model[to + i] = (uint8_t)(value >> 8 * (i % size));
}

/* A copy and a fill at these offsets of the window's two pages. */
static void string_at(unsigned log2_size, unsigned from, unsigned to, unsigned count)
{
	static uint8_t model[MODEL];
	uint8_t *low = (uint8_t *)TEST;
	const unsigned size = 1 << log2_size;
	struct string_regs r = {TEST + from, TEST + to, count, 0};

	for (unsigned i = 0; i < MODEL; i++)
		low[i] = model[i] = (uint8_t)(i * 5 + i / 256);
	model_movs(model, from, to, size, count);
	CHECK_EQ(repeat_movs[log2_size](&r), true);
	CHECK_EQ(memcmp(low, model, MODEL), 0);
	CHECK_EQ(r.rsi, TEST + from + count * size);
	CHECK_EQ(r.rdi, TEST + to + count * size);
	CHECK_EQ(r.rcx, 0);
	r = (struct string_regs){1, TEST + to, count, 0x8877665544332211};
	model_stos(model, r.rax, to, size, count);
	CHECK_EQ(repeat_stos[log2_size](&r), true);
	CHECK_EQ(memcmp(low, model, MODEL), 0);
	CHECK_EQ(r.rsi, 1);
	CHECK_EQ(r.rdi, TEST + to + count * size);
	CHECK_EQ(r.rcx, 0);
}

/* In one page or over its end by one element; nothing; one element that straddles the end; overlaps both ways. */
static void strings_in_pages(void)
{
	group("string instructions within a page and over its end");
	window();
	pte[1] = (PHYS + 4096) | RW;
	invlpg(TEST + 4096);
	for (unsigned log2_size = 0; log2_size < 4; log2_size++) {
		unsigned size = 1 << log2_size, page = 4096 / size;

		string_at(log2_size, 0, 64, 0);
		string_at(log2_size, 8, 64, 1);
		string_at(log2_size, 0, 4096, page);
		string_at(log2_size, 4096, 0, page);
		string_at(log2_size, 1, 4096, page - 1);
		string_at(log2_size, 4096 - 16 * size, 100, 16);
		string_at(log2_size, 4096 - 16 * size, 100, 17);
		string_at(log2_size, 100, 4096 - 16 * size, 16);
		string_at(log2_size, 100, 4096 - 16 * size, 17);
		string_at(log2_size, 4095, 200, 1);
		string_at(log2_size, 200, 4095, 1);
		string_at(log2_size, 500, 500 + size, 40);
		string_at(log2_size, 500, 501, 40);
		string_at(log2_size, 501, 500, 40);
	}
}

/* A count whose bytes are more than 64 bits can say goes on to the next page, which is not there. */
static void strings_without_end(void)
{
	struct string_regs r;

	group("string instructions of very many elements");
	window();
	for (int i = 0; i < 2; i++) {
		r = (struct string_regs){PHYS2, TEST + 4096 - 32, (1ull << 61) + 2, 0};
		STRING("cld; rep movsq", r);
		CHECK_ERROR(PF, 2);
		CHECK_EQ(r.rcx, (1ull << 61) - 2);
		CHECK_EQ(r.rdi, TEST + 4096);
		r = (struct string_regs){0, TEST + 4096 - 32, (1ull << 62) + 4, 0};
		STRING("cld; rep stosl", r);
		CHECK_ERROR(PF, 2);
		CHECK_EQ(r.rcx, (1ull << 62) - 4);
		CHECK_EQ(r.rdi, TEST + 4096);
		r = (struct string_regs){0, 0x7ffffffffffff900, 4, 0};
		STRING("cld; rep stosq", r);
		CHECK_ERROR(GP, 0);
		CHECK_EQ(r.rcx, 4);
	}
}

static void selectors(void)
{
	volatile uint16_t stored[2] = {0xffff, 0xffff};
	uint64_t rax = ~0ull, r9, rdx = ~0ull;

	group("selectors read");
	asm volatile("mov %%ss, %%eax; mov %%cs, %%r9; mov %%ds, %%dx; mov %%cs, %3; mov %%r9, %1"
		     : "+a"(rax), "=r"(r9), "+d"(rdx), "=m"(stored[0])
		     :
		     : "r9");
	CHECK_EQ(rax, SEL_DATA);
	CHECK_EQ(r9, SEL_CODE64);
	CHECK_EQ(rdx, (~0ull << 16) | SEL_DATA);
	CHECK_EQ(stored[0], SEL_CODE64);
	CHECK_EQ(stored[1], 0xffff);
}

static void ports(void)
{
	uint8_t *buf = (uint8_t *)PHYS2;
	struct string_regs r;

	group("ports");
	outl(0xe0, 0x11223344);
	CHECK_EQ(inl(0xe0), 0x11223344);
	CHECK_EQ(inw(0xe0), 0x3344);
	CHECK_EQ(inw(0xe2), 0x1122);
	CHECK_EQ(inb(0xe1), 0x33);
	outb(0xe3, 0x99);
	CHECK_EQ(inl(0xe0), 0x99223344);
	outb(0xe1, 0xcd);
	outb(0xe2, 0xab);
	CHECK_EQ(inl(0xe0), 0x99abcd44);
	uint64_t rax = 0x1111111111111111;
	asm volatile("inb $0xe0, %%al" : "+a"(rax));
	CHECK_EQ(rax, 0x1111111111111144);
	asm volatile("inw %%dx, %%ax" : "+a"(rax) : "d"(0xe0));
	CHECK_EQ(rax, 0x111111111111cd44);
	asm volatile("inl %%dx, %%eax" : "+a"(rax) : "d"(0xe0));
	CHECK_EQ(rax, 0x99abcd44);
	CHECK_EQ(inb(0x1234), 0xff); /* nobody */
	/* String I/O. */
	memcpy(buf, "abcdefgh", 8);
	r = (struct string_regs){(uint64_t)buf, 0, 2, 0};
	TRY_ASM(AT("cld; rep outsl"), "+S"(r.rsi)COMMA "+c"(r.rcx), "d"(0xe0));
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(r.rsi, buf + 8);
	CHECK_EQ(inl(0xe0), 0x68676665);
	r.rcx = 100;
	TRY_ASM(AT("cld; rep insb"), "+D"(buf)COMMA "+c"(r.rcx), "d"(0xe1));
	CHECK_EQ(buf, PHYS2 + 100);
	buf = (uint8_t *)PHYS2;
	CHECK_EQ(buf[0], 'f');
	CHECK_EQ(buf[99], 'f');
	CHECK_EQ(buf[100] == 'f', 0);
	/* INS into a page that is not there: the port must not have been read for the faulting element. */
	window();
	r = (struct string_regs){0, TEST + 4096 - 4, 4, 0};
	TRY_ASM(AT("cld; rep insw"), "+D"(r.rdi)COMMA "+c"(r.rcx), "d"(0xe0));
	CHECK_ERROR(PF, 2);
	CHECK_EQ(r.rcx, 2);
	CHECK_EQ(*(uint32_t *)(TEST + 4092), 0x66656665);
	/* Long runs across pages. */
	outb(0xe0, 0x5a);
	r = (struct string_regs){0, 0x1600ff0, 5000, 0};
	TRY_ASM(AT("cld; rep insb"), "+D"(r.rdi)COMMA "+c"(r.rcx), "d"(0xe0));
	CHECK_EQ(r.rdi, 0x1600ff0 + 5000);
	CHECK_EQ(*(uint8_t *)(0x1600ff0 + 4999), 0x5a);
}

static void device_memory(void)
{
	volatile uint8_t *dev = (volatile uint8_t *)0xff000000;
	volatile uint32_t *dev32 = (volatile uint32_t *)0xff000000;
	volatile uint64_t *dev64 = (volatile uint64_t *)0xff000000;
	struct string_regs r;

	group("device memory");
	dev32[0] = 0x01020304;
	dev32[1] = 0x05060708;
	CHECK_EQ(dev32[0], 0x01020304);
	CHECK_EQ(dev[1], 3);
	CHECK_EQ(dev64[0], 0x0506070801020304);
	dev64[1] = 0x1122334455667788;
	CHECK_EQ(dev32[2], 0x55667788);
	CHECK_EQ(*(volatile uint16_t *)(dev + 0xe), 0x1122);
	asm volatile("addl $1, %0" : "+m"(dev32[2])); /* read-modify-write */
	CHECK_EQ(dev32[2], 0x55667789);
	asm volatile("lock orl $0x10, %0" : "+m"(dev32[2]));
	CHECK_EQ(dev32[2], 0x55667799);
	uint32_t v = 7;
	asm volatile("xchg %0, %1" : "+r"(v), "+m"(dev32[2]));
	CHECK_EQ(v, 0x55667799);
	CHECK_EQ(dev32[2], 7);
	asm volatile("lock cmpxchg %2, %1" : "=a"(v), "+m"(dev32[2]) : "r"(9), "a"(7));
	CHECK_EQ(dev32[2], 9);
	asm volatile("push %0; pop %1" ::"m"(dev64[1]), "m"(dev64[2]) : "memory");
	CHECK_EQ(dev64[2], dev64[1]);
	asm volatile("movzbl %1, %0" : "=r"(v) : "m"(dev[0]));
	CHECK_EQ(v, 4);
	asm volatile("movb $0xee, %0; btsl $0, %0" : "+m"(dev32[4]));
	CHECK_EQ(dev[16], 0xef);
	/* Unaligned, and across what may be split. */
	*(volatile uint32_t *)(dev + 0x1fd) = 0xa1b2c3d4;
	CHECK_EQ(*(volatile uint32_t *)(dev + 0x1fd), 0xa1b2c3d4);
	/* Strings between device and memory. */
	memcpy((void *)PHYS2, "0123456789abcdef", 16);
	r = (struct string_regs){PHYS2, (uint64_t)dev + 0x100, 4, 0};
	STRING("cld; rep movsl", r);
	CHECK_EQ(dev32[0x104 / 4], 0x37363534);
	r = (struct string_regs){(uint64_t)dev + 0x100, PHYS2 + 0x100, 16, 0};
	STRING("cld; rep movsb", r);
	CHECK_EQ(memcmp((void *)PHYS2, (void *)(PHYS2 + 0x100), 16), 0);
	r = (struct string_regs){(uint64_t)dev + 0x100, (uint64_t)dev + 0x200, 2, 0};
	STRING("cld; rep movsq", r);
	CHECK_EQ(dev32[0x20c / 4], 0x66656463);
	r = (struct string_regs){0, (uint64_t)dev + 0x200, 16, 'c'};
	STRING("cld; repne scasb", r);
	CHECK_EQ(r.rcx, 16 - 13);
	r = (struct string_regs){(uint64_t)dev + 0x100, PHYS2, 16, 0};
	STRING("cld; repe cmpsb", r);
	CHECK_EQ(r.rcx, 0);
	asm volatile("movups %0, %%xmm0; movups %%xmm0, %1" ::"m"(dev[0x100]), "m"(dev[0x300]) : "memory");
	CHECK_EQ(dev64[0x308 / 8], dev64[0x108 / 8]);
}

static void locked(void)
{
	static uint64_t pair[2] __attribute__((aligned(16)));
	uint8_t *split = (uint8_t *)PHYS + 0x3fd; /* crosses a cache line */
	uint64_t lo, hi;
	uint8_t zf;

	group("locked");
	pair[0] = 1, pair[1] = 2;
	asm volatile("lock cmpxchg16b %3; setz %2"
		     : "=a"(lo), "=d"(hi), "=r"(zf), "+m"(pair)
		     : "a"(1ull), "d"(2ull), "b"(3ull), "c"(4ull)
		     : "cc");
	CHECK_EQ(zf, 1);
	CHECK_EQ(pair[0], 3);
	CHECK_EQ(pair[1], 4);
	asm volatile("lock cmpxchg16b %3; setz %2"
		     : "=a"(lo), "=d"(hi), "=r"(zf), "+m"(pair)
		     : "a"(1ull), "d"(2ull), "b"(3ull), "c"(4ull)
		     : "cc");
	CHECK_EQ(zf, 0);
	CHECK_EQ(lo, 3);
	CHECK_EQ(hi, 4);
	TRY_ASM("xor %%eax, %%eax\n" AT("lock cmpxchg16b 8(%0)"), , "r"(pair), "rax", "rdx");
	CHECK_FAULT_ERROR(GP, 0);
	asm volatile("cmpxchg8b %2; setz %1"
		     : "=a"(lo), "=r"(zf), "+m"(pair[0])
		     : "a"(3), "d"(0), "b"(5), "c"(6)
		     : "cc");
	CHECK_EQ(zf, 1);
	CHECK_EQ(pair[0], 0x600000005);
	*(uint64_t *)split = 10;
	for (int i = 0; i < 10; i++)
		asm volatile("lock incq %0" : "+m"(*(uint64_t *)split));
	CHECK_EQ(*(uint64_t *)split, 20);
	lo = 5;
	asm volatile("xchg %0, %1" : "+r"(lo), "+m"(*(uint64_t *)split));
	CHECK_EQ(lo, 20);
	asm volatile("lock xadd %0, %1" : "+r"(lo), "+m"(*(uint64_t *)split));
	CHECK_EQ(*(uint64_t *)split, 25);
	asm volatile("lock btsl %1, %0; setc %2" : "+m"(*split) : "r"(1u), "m"(zf) : "cc");
	CHECK_EQ(*split, 27);
	/* BTS with a register reaches beyond the operand. */
	static uint8_t bits[64];
	asm volatile("lock btsq %1, %0" : "+m"(bits[16]) : "r"(-100ll) : "cc", "memory");
	CHECK_EQ(bits[16 - 13], 1 << 4);
}

/* --- changing code --- */

typedef int (*func)(void);
#define CODE ((uint8_t *)0x1800000)

static void emit_return(uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static void changing_code(void)
{
	func f = (func)CODE;
	uint8_t *alias = (uint8_t *)TEST;

	group("changing code");
	for (uint32_t i = 0; i < 300; i++) { /* by plain stores */
		emit_return(CODE, i);
		CHECK_EQ(f(), i);
	}
	for (uint32_t i = 0; i < 300; i++) { /* through another mapping */
		pte[0] = (uint64_t)CODE | RW;
		invlpg(TEST);
		emit_return(alias, i + 1000);
		CHECK_EQ(f(), i + 1000);
	}
	for (uint32_t i = 0; i < 50; i++) { /* run through the alias */
		emit_return(CODE, i + 7);
		CHECK_EQ(((func)alias)(), i + 7);
	}
	/* Data on the same page as code that runs. */
	volatile uint32_t *data = (volatile uint32_t *)(CODE + 0x800);
	emit_return(CODE, 1);
	for (uint32_t i = 0; i < 1000; i++) {
		*data = i;
		CHECK_EQ(f() + *data, 1 + i);
	}
	/* Code that changes the next instruction, and one behind it in the same block. */
	uint32_t r;
	asm volatile("movl $1, %%ecx\n"
		     "1: movb $2, 2f+1(%%rip)\n"
		     "2: movl $1, %%eax\n"
		     " movb $1, 2b+1(%%rip)"
		     : "=a"(r)::"rcx", "memory");
	CHECK_EQ(r, 2);
	asm volatile("movb $0x90, 3f(%%rip); movb $0x90, 3f+1(%%rip)\n xor %%eax, %%eax\n 3: .byte 0xeb, 4\n "
		     "inc %%eax\n inc %%eax"
		     : "=a"(r)::"memory");
	CHECK_EQ(r, 2);
	/* A loop that rewrites its own immediate. */
	asm volatile("xor %%eax, %%eax; movl $10, %%ecx\n"
		     "4: addl $5, %%eax\n .set imm, . - 1\n"
		     " incb imm(%%rip); dec %%ecx; jnz 4b\n"
		     " movb $5, imm(%%rip)"
		     : "=a"(r)::"rcx", "memory", "cc");
	CHECK_EQ(r, 5 * 10 + 45);
	/* REP STOS over the code ahead; the instruction itself finishes first. */
	emit_return(CODE + 0x100, 5);
	CHECK_EQ(((func)(CODE + 0x100))(), 5);
	static const uint8_t stos_over[] = {0xfc, 0xb0, 0x90, 0xb9, 8,	  0,	0,    0, 0x48, 0x8d, 0x3d,
					    2,	  0,	0,    0,    0xf3, 0xaa, 0xeb, 6, 0x0f, 0x0b, 0x0f,
					    0x0b, 0x0f, 0x0b, 0xb8, 42,	  0,	0,    0, 0xc3};
	for (int i = 0; i < 3; i++) {
		memcpy(CODE + 0x200, stos_over, sizeof(stos_over));
		CHECK_EQ(((func)(CODE + 0x200))(), 42);
	}
	/* PUSH and CALL that write code. */
	emit_return(CODE + 0x300, 1);
	((func)(CODE + 0x300))();
	asm volatile("mov %%rsp, %%rbx; lea 8(%0), %%rsp; pushq %1; mov %%rbx, %%rsp" ::"r"(CODE + 0x300),
		     "r"(0xc300000009b8ull)
		     : "rbx", "memory");
	CHECK_EQ(((func)(CODE + 0x300))(), 9);
	/* An instruction across two pages, whose second half changes. */
	emit_return(CODE + 0x1000 - 3, 0x11111111);
	CHECK_EQ(((func)(CODE + 0x1000 - 3))(), 0x11111111);
	CODE[0x1000] = 0x22;
	CHECK_EQ(((func)(CODE + 0x1000 - 3))(), 0x11221111);
	CODE[0xfff] = 0x33;
	CHECK_EQ(((func)(CODE + 0x1000 - 3))(), 0x11223311);
	/* Locked and vector stores, string stores. */
	emit_return(CODE + 0x400, 1);
	((func)(CODE + 0x400))();
	asm volatile("lock incb %0" : "+m"(CODE[0x401]));
	CHECK_EQ(((func)(CODE + 0x400))(), 2);
	static uint8_t image[16] __attribute__((aligned(16)));
	emit_return(image, 77);
	asm volatile("movaps %0, %%xmm0; movaps %%xmm0, %1" ::"m"(image), "m"(CODE[0x400]) : "memory");
	CHECK_EQ(((func)(CODE + 0x400))(), 77);
	emit_return(image, 78);
	memcpy(CODE + 0x400, image, 16);
	CHECK_EQ(((func)(CODE + 0x400))(), 78);
	static uint8_t fp_image[8];
	image[1] = 79;
	memcpy(fp_image, image, 8);
	asm volatile("fildll %0; fistpll %1" ::"m"(fp_image), "m"(CODE[0x400]) : "memory");
	CHECK_EQ(((func)(CODE + 0x400))(), 79);
	/* By a device: INS into code. */
	emit_return(CODE + 0x500, 1);
	((func)(CODE + 0x500))();
	outb(0xe0, 0x55);
	asm volatile("insb" ::"D"(CODE + 0x501), "d"(0xe0) : "memory");
	CHECK_EQ(((func)(CODE + 0x500))(), 0x55);
	/* The page swapped for another by its page-table entry. */
	uint64_t *code_pte = &pte[2];
	emit_return((uint8_t *)PHYS + 0x40, 1);
	emit_return((uint8_t *)PHYS2 + 0x40, 2);
	for (int i = 0; i < 20; i++) {
		*code_pte = (i & 1 ? PHYS2 : PHYS) | RW;
		invlpg(TEST + 0x2000);
		CHECK_EQ(((func)(TEST + 0x2040))(), 1 + (i & 1));
	}
	/* The accessed-bit write of a page walk may hit a page that also holds code: here the page table
	 * itself. */
	uint8_t *in_table = (uint8_t *)&pte[256];
	emit_return(in_table, 3);
	for (int i = 0; i < 4; i++) {
		pte[3] = PHYS | RW;
		invlpg(TEST + 0x3000);
		*(volatile uint8_t *)(TEST + 0x3000);
		CHECK_EQ(((func)in_table)(), 3);
	}
}

/* A jump into the middle of an instruction that also runs whole. */
static void overlapping_code(void)
{
	uint32_t a, b;

	group("overlapping code");
	asm volatile(
	    "xor %%eax, %%eax; xor %%ecx, %%ecx\n"
	    "1: .byte 0xb8\n 2: inc %%ecx; nop; nop\n test %%eax, %%eax; jz 3f; xor %%eax, %%eax; jmp 2b\n 3:"
	    : "=a"(a), "=c"(b)::"cc");
	CHECK_EQ(a, 0);
	CHECK_EQ(b, 1);
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	window();
	strings_faulting();
	strings_in_pages();
	strings_without_end();
	selectors();
	ports();
	device_memory();
	locked();
	changing_code();
	overlapping_code();
	return verdict();
}
