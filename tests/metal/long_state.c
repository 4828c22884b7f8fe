/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Processor state: XSAVE and its relatives, XCR0, CPUID and MSR rules, the time-stamp counter (SDM volume 1,
 * chapter 13; volumes 2 and 4).
 */
#include "metal.h"

enum { X87 = 1, SSE = 2, AVX = 4 };
static uint8_t area[4096] __attribute__((aligned(64))), area2[4096] __attribute__((aligned(64)));
static uint64_t cr4_plain;

#define XSAVE(insn, where, mask) TRY_ASM(AT(insn " (%0)"), , "r"(where)COMMA "a"(mask)COMMA "d"(0))

static void xsetbv(uint32_t value)
{
	asm volatile("xsetbv" ::"a"(value), "d"(0), "c"(0));
}

static uint32_t xgetbv(uint32_t index)
{
	uint32_t lo, hi;

	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(index));
	return lo;
}

static void control(void)
{
	extern uint8_t user_xsetbv[];
	__asm__(".pushsection .user, \"ax\"\nuser_xsetbv: mov $7, %eax; xor %edx, %edx; xor %ecx, %ecx; "
		"xsetbv\n.popsection");

	group("XCR0");
	CHECK_EQ(cpuid(1, 0).c >> 27 & 1, 0); /* OSXSAVE mirrors CR4 */
	TRY("xor %%ecx, %%ecx\n" AT("xgetbv"));
	CHECK_FAULT(UD);
	XSAVE("xsave", area, 7);
	CHECK_FAULT(UD);
	TRY(AT("vxorps %%ymm0, %%ymm0, %%ymm0"));
	CHECK_FAULT(UD);
	WRITE_REG(cr4, cr4_plain | 1 << 18);
	CHECK_EQ(cpuid(1, 0).c >> 27 & 1, 1);
	CHECK_EQ(xgetbv(0) & 1, 1);
	xsetbv(X87 | SSE);
	CHECK_EQ(cpuid(0xd, 0).b, 576);
	TRY(AT("vxorps %%xmm0, %%xmm0, %%xmm0"));
	CHECK_FAULT(UD);
	TRY("xor %%eax, %%eax; xor %%edx, %%edx; xor %%ecx, %%ecx\n" AT("xsetbv"));
	CHECK_FAULT_ERROR(GP, 0);
	TRY("mov $5, %%eax; xor %%edx, %%edx; xor %%ecx, %%ecx\n" AT("xsetbv"));
	CHECK_FAULT_ERROR(GP, 0);
	TRY("mov $7, %%eax; mov $0x40000000, %%edx; xor %%ecx, %%ecx\n" AT("xsetbv"));
	CHECK_FAULT_ERROR(GP, 0);
	TRY("mov $7, %%eax; xor %%edx, %%edx; mov $1, %%ecx\n" AT("xsetbv"));
	CHECK_FAULT_ERROR(GP, 0);
	run_user(user_xsetbv, SEL_UCODE64, 0);
	CHECK_ERROR(GP, 0);
	xsetbv(X87 | SSE | AVX);
	CHECK_EQ(xgetbv(0), 7);
	CHECK_EQ(cpuid(0xd, 0).b, 832);
	TRY(AT("vxorps %%ymm0, %%ymm0, %%ymm0"));
	CHECK_TRAP(NO_TRAP);
	uint64_t cr0 = READ_REG(cr0);
	WRITE_REG(cr0, cr0 | 8);
	TRY(AT("vxorps %%ymm0, %%ymm0, %%ymm0"));
	CHECK_FAULT(NM);
	XSAVE("xsave", area, 7);
	CHECK_UNLESS_ORACLE(FAULT_IS(NM));
	WRITE_REG(cr0, cr0);
}

static uint64_t *bv(uint8_t *a)
{
	return (uint64_t *)(a + 512);
}

static void set_ymm(uint64_t v)
{
	asm volatile("movq %0, %%xmm5; vpbroadcastq %%xmm5, %%ymm5" ::"r"(v));
}

static uint64_t get_ymm(uint64_t *high)
{
	uint64_t lo;

	asm volatile("movq %%xmm5, %0; vextracti128 $1, %%ymm5, %%xmm6; movq %%xmm6, %1"
		     : "=r"(lo), "=r"(*high));
	return lo;
}

static void save_restore(void)
{
	uint64_t high;

	group("XSAVE");
	memset(area, 0, sizeof(area));
	set_ymm(0x1111222233334444);
	XSAVE("xsave", area, 7);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(*bv(area) & 6, 6);
	CHECK_EQ(*(uint64_t *)(area + 160 + 5 * 16), 0x1111222233334444);
	CHECK_EQ(*(uint64_t *)(area + 576 + 5 * 16), 0x1111222233334444);
	CHECK_EQ(*(uint32_t *)(area + 24), 0x1f80);
	set_ymm(0);
	XSAVE("xrstor", area, 7);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(get_ymm(&high), 0x1111222233334444);
	CHECK_EQ(high, 0x1111222233334444);
	/* Only what the mask asks for. */
	set_ymm(5);
	XSAVE("xrstor", area, 2);
	CHECK_EQ(get_ymm(&high), 0x1111222233334444);
	CHECK_EQ(high, 5);
	/* A component whose XSTATE_BV bit is clear goes to its initial state. */
	*bv(area) &= ~4ull;
	XSAVE("xrstor", area, 7);
	CHECK_EQ(get_ymm(&high), 0x1111222233334444);
	CHECK_EQ(high, 0);
	*bv(area) |= 4;
	/* Faults. */
	XSAVE("xsave", area + 8, 7);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	XSAVE("xrstor", area + 8, 7);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	*bv(area) |= 1ull << 40;
	XSAVE("xrstor", area, 7);
	CHECK_FAULT_ERROR(GP, 0);
	*bv(area) &= 7;
	area[512 + 16] = 1; /* reserved in the header */
	XSAVE("xrstor", area, 7);
	CHECK_FAULT_ERROR(GP, 0);
	area[512 + 16] = 0;
	*(uint32_t *)(area + 24) = 0x10000;
	XSAVE("xrstor", area, 7);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	*(uint32_t *)(area + 24) = 0x1f80;
	/* Into a page that is not there. */
	uint8_t *edge = (uint8_t *)0x1400000 + 4096 - 576;
	map(0x1401000, 0);
	XSAVE("xsave", edge, 7);
	CHECK_TRAP(PF);
	CHECK_EQ(trap.cr2 & ~0xfffull, 0x1401000);
	XSAVE("xsave", edge, 3);
	CHECK_TRAP(NO_TRAP);
	map(0x1401000, 0x1401000 | P_P | P_W);
	/* XSAVEOPT, XSAVEC, XSAVES. */
	uint32_t features = cpuid(0xd, 1).a;
	if (features & 1) {
		memset(area2, 0, sizeof(area2));
		set_ymm(77);
		XSAVE("xsaveopt", area2, 7);
		CHECK_TRAP(NO_TRAP);
		CHECK_EQ(*(uint64_t *)(area2 + 160 + 5 * 16), 77);
	}
	if (features & 2) {
		memset(area2, 0, sizeof(area2));
		set_ymm(78);
		XSAVE("xsavec", area2, 6);
		CHECK_EQ(bv(area2)[0], 6);
		CHECK_EQ(bv(area2)[1], 6 | 1ull << 63);
		CHECK_EQ(*(uint64_t *)(area2 + 576 + 5 * 16), 78);
		set_ymm(0);
		XSAVE("xrstor", area2, 6);
		CHECK_EQ(get_ymm(&high), 78);
		CHECK_EQ(high, 78);
		set_ymm(79);
		CHECK_EQ(xgetbv(1) & 4, 4);
	} else {
		skip("no XSAVEC");
	}
	if (features & 8) {
		XSAVE("xsaves", area2, 7);
		CHECK_EQ(bv(area2)[1] >> 63, 1);
		set_ymm(0);
		XSAVE("xrstors", area2, 7);
		CHECK_EQ(get_ymm(&high), 79);
		bv(area2)[1] &= ~(1ull << 63); /* XRSTORS wants the compacted format */
		XSAVE("xrstors", area2, 7);
		CHECK_FAULT_ERROR(GP, 0);
	} else {
		skip("no XSAVES");
	}
}

static void fxsave(void)
{
	uint64_t v;

	group("FXSAVE");
	asm volatile("movq %0, %%xmm15" ::"r"(0xabcdefull));
	asm volatile("fninit; fld1; fldpi");
	TRY_ASM(AT("fxsave64 (%0)"), , "r"(area));
	CHECK_EQ(*(uint16_t *)area, 0x37f);
	CHECK_EQ(*(uint16_t *)(area + 2) >> 11 & 7, 6); /* TOP */
	CHECK_EQ(area[4], 0xc0);
	CHECK_EQ(*(uint64_t *)(area + 160 + 15 * 16), 0xabcdef);
	asm volatile("fninit; pxor %%xmm15, %%xmm15" ::);
	TRY_ASM(AT("fxrstor64 (%0)"), , "r"(area));
	asm volatile("movq %%xmm15, %0" : "=r"(v));
	CHECK_EQ(v, 0xabcdef);
	uint16_t status;
	asm volatile("fnstsw %0" : "=a"(status));
	CHECK_EQ(status >> 11 & 7, 6);
	asm volatile("fninit");
	TRY_ASM(AT("fxsave64 8(%0)"), , "r"(area));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	*(uint32_t *)(area + 24) = 0x20000;
	TRY_ASM(AT("fxrstor64 (%0)"), , "r"(area));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	/* The x87 remembers where its last instruction stood; a translator may not know, but never tells its
	 * own address. */
	uint32_t env[7];
	asm volatile("fninit\n fi1: fld1; fnstenv %0; fninit" : "=m"(env));
	extern uint8_t fi1[];
	CHECK_UNLESS_ORACLE(env[3] == (uint32_t)(uint64_t)fi1 || env[3] == 0);
	CHECK_EQ(env[1] >> 11 & 7, 7);
	CHECK_EQ(env[2] & 0xffff, 0x3fff);
}

static void counters(void)
{
	uint64_t last = rdtsc();
	uint32_t aux;

	group("TSC and MSRs");
	for (int i = 0; i < 1000; i++) {
		uint64_t now = rdtsc();

		if (now < last)
			CHECK_EQ(now, last);
		last = now;
	}
	if (cpuid(0x80000001, 0).d >> 27 & 1) {
		wrmsr(0xc0000103, 0x1234567);
		asm volatile("rdtscp" : "=c"(aux)::"rax", "rdx");
		CHECK_EQ(aux, 0x1234567);
		TRY("mov $0xc0000103, %%ecx; mov $1, %%edx; xor %%eax, %%eax\n" AT("wrmsr"));
		CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0) || (is_amd() && trap.vector == NO_TRAP));
	}
	static const uint32_t plain[] = {0xc0000081, 0xc0000082, 0xc0000083, 0x175, 0x176, 0xc0000102};
	for (unsigned i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
		uint64_t old = rdmsr(plain[i]);

		wrmsr(plain[i], 0x12345678 + i);
		CHECK_EQ(rdmsr(plain[i]), 0x12345678 + i);
		wrmsr(plain[i], old);
	}
	uint64_t efer = rdmsr(0xc0000080);
	CHECK_EQ(efer & 0xd01, 0xd01);
	TRY("mov $0xc0000080, %%ecx; rdmsr; or $2, %%eax\n" AT("wrmsr"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	uint64_t pat = rdmsr(0x277);
	wrmsr(0x277, 0x0007040600070406);
	TRY("mov $0x277, %%ecx; rdmsr; mov $2, %%al\n" AT("wrmsr")); /* 2 is no memory type */
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	wrmsr(0x277, pat);
	CHECK_EQ(rdmsr(0x277), pat);
	TRY("mov $0xfe, %%ecx\n" AT("rdmsr")); /* MTRRCAP */
	CHECK_TRAP(NO_TRAP);
	TRY("mov $0xfe, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx\n" AT("wrmsr"));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	uint64_t before = rdtsc();
	wrmsr(0x10, before + (1ull << 40));
	CHECK_UNLESS_ORACLE(rdtsc() >= before + (1ull << 40));
	wrmsr(0x10, before);
}

static void identification(void)
{
	struct cpuid c = cpuid(0, 0), f = cpuid(1, 0), x = cpuid(0x80000001, 0);

	group("CPUID");
	CHECK(c.a >= 0xd);
	CHECK(cpuid(0x80000000, 0).a >= 0x80000008);
	/* What every x86-64 processor has. */
	CHECK_EQ(f.d & 0x07808151, 0x07808151 & f.d);
	CHECK_EQ(f.d & (1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 15 | 1 << 24 | 1 << 25 |
			1 << 26),
		 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 15 | 1 << 24 | 1 << 25 |
		     1 << 26);
	CHECK_EQ(x.d & (1 << 11 | 1 << 29), 1 << 11 | 1 << 29);
	CHECK((cpuid(0x80000008, 0).a & 0xff) >= 36);
	/* Above the highest basic leaf, and sub-leaves that do not exist. */
	CHECK_EQ(cpuid(7, 100).b, 0);
	/* RIP-relative sanity: CPUID leaves the upper halves of its registers clear. */
	uint64_t a = ~0ull, b;
	asm volatile("mov %2, %%rbx; cpuid; mov %%rbx, %1"
		     : "+a"(a), "=r"(b)
		     : "r"(~0ull), "c"(0)
		     : "rbx", "rdx");
	CHECK_EQ(a >> 32, 0);
	CHECK_EQ(b >> 32, 0);
	if (f.c >> 30 & 1) { /* RDRAND: CF set, and not always the same */
		uint64_t v1 = 0, v2 = 0;
		uint8_t ok;

		asm volatile("rdrand %0; setc %2; rdrand %1" : "=r"(v1), "=r"(v2), "=q"(ok)::"cc");
		CHECK_EQ(ok, 1);
		CHECK(v1 != v2);
	}
	TRY_ASM(AT("clflush (%0)"), , "r"(0x70000000ull));
	CHECK_UNLESS_ORACLE(trap.vector == PF);
	TRY_ASM(AT("prefetcht0 (%0)"), , "r"(0x70000000ull));
	CHECK_TRAP(NO_TRAP);
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	*pte_of(boot_pml4, 0x1400000, 2) = 0;
	for (uint64_t gva = 0x1400000; gva < 0x1600000; gva += 4096)
		map(gva, gva | P_P | P_W);
	cr4_plain = READ_REG(cr4);
	if (cpuid(1, 0).c >> 26 & 1 && cpuid(1, 0).c >> 28 & 1) {
		control();
		save_restore();
	} else {
		skip("no XSAVE or no AVX");
	}
	fxsave();
	counters();
	identification();
	return verdict();
}
