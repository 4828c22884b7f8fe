/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 32-bit paging with 4 KiB and 4 MiB pages, and PAE paging (SDM volume 3, 4.3 and 4.4).
 */
#include "legacy.h"

enum { P_P = 1, P_W = 2, P_U = 4, P_A = 32, P_D = 64, P_PS = 128, P_G = 256 };
#define TEST  0x40000000u
#define PHYS  0x01000000u
#define PHYS2 0x01400000u

static uint32_t *const pd = (uint32_t *)0x800000, *const pt_low = (uint32_t *)0x801000,
		       *const pt = (uint32_t *)0x802000;
static uint64_t *const pdpt = (uint64_t *)0x804000, *const pae_pd = (uint64_t *)0x805000,
		       *const pae_pt = (uint64_t *)0x806000, *const pae_pd1 = (uint64_t *)0x807000;
static volatile uint32_t *const test = (volatile uint32_t *)TEST, *const phys = (volatile uint32_t *)PHYS,
				*const phys2 = (volatile uint32_t *)PHYS2;
extern uint8_t user_start[], user_end[];

#define TRY_READ(at)  TRY_WITH(AT("movl (%%edx), %%eax"), at)
#define TRY_WRITE(at) TRY_WITH(AT("movl $1, (%%edx)"), at)

static void flush(void)
{
	WRITE_REG(cr3, READ_REG(cr3));
}

static void set_pte(uint32_t value)
{
	pt[0] = value;
	invlpg(TEST);
}

/* Identity for 32 MiB: the image in 4 KiB pages, its .user part for CPL 3. */
static void enable_legacy(void)
{
	memset(pd, 0, 4096);
	for (uint32_t i = 0; i < 1024; i++) {
		uint32_t at = i << 12;
		bool user = at >= (uint32_t)user_start && at < (uint32_t)user_end;

		pt_low[i] = at | P_P | P_W | (user ? P_U : 0);
		pt[i] = 0;
	}
	pd[0] = (uint32_t)pt_low | P_P | P_W | P_U;
	for (uint32_t i = 1; i < 8; i++)
		pd[i] = i << 22 | P_P | P_W | P_PS;
	pd[TEST >> 22] = (uint32_t)pt | P_P | P_W | P_U;
	WRITE_REG(cr4, READ_REG(cr4) | 0x90); /* PSE PGE */
	WRITE_REG(cr3, pd);
	WRITE_REG(cr0, READ_REG(cr0) | 0x80010000);
}

static void disable(void)
{
	WRITE_REG(cr0, READ_REG(cr0) & ~0x80010000u);
}

static void small_pages(void)
{
	group("32-bit paging");
	TRY_READ(TEST + 4);
	CHECK_FAULT_ERROR(PF, 0);
	CHECK_EQ(trap.cr2, TEST + 4);
	TRY_WRITE(TEST + 8);
	CHECK_FAULT_ERROR(PF, 2);
	set_pte(PHYS | P_P);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(pt[0] & (P_A | P_D), P_A);
	CHECK_EQ(pd[TEST >> 22] & P_A, P_A);
	TRY_WRITE(TEST);
	CHECK_FAULT_ERROR(PF, 3);
	CHECK_EQ(pt[0] & P_D, 0);
	WRITE_REG(cr0, READ_REG(cr0) & ~0x10000u);
	TRY_WRITE(TEST);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(pt[0] & P_D, P_D);
	WRITE_REG(cr0, READ_REG(cr0) | 0x10000u);
	set_pte(PHYS | P_P | P_W);
	test[1] = 0x1234;
	CHECK_EQ(phys[1], 0x1234);
	set_pte(PHYS2 | P_P | P_W);
	phys2[1] = 0x4321;
	CHECK_EQ(test[1], 0x4321);
	/* No execute-disable here: a fetch reports only P, U, W. */
	*(volatile uint8_t *)PHYS = 0xc3;
	set_pte(PHYS | P_P);
	TRY_WITH("call *%%edx", TEST);
	CHECK_TRAP(NO_TRAP);
	TRY_WITH("call *%%edx", TEST + 0x1000);
	CHECK_ERROR(PF, 0);
	CHECK_EQ(trap.cr2, TEST + 0x1000);
	/* Across the end of a 4 GiB segment: #GP or wrapping is the model's choice (SDM volume 3, 5.3). */
	TRY_WITH("mov (%%edx), %%eax", 0xfffffffe);
	CHECK(trap.vector == PF || trap.vector == GP);
}

extern uint8_t user_read[], user_write[];
__asm__(".pushsection .user, \"ax\"\n"
	"user_read: movl 0x40000000, %eax; int3\n"
	"user_write: movl $5, 0x40000000; int3\n"
	".popsection");

static void user_pages(void)
{
	group("user pages");
	set_pte(PHYS | P_P | P_W);
	run_user(user_read, 0);
	CHECK_ERROR(PF, 5);
	run_user(user_write, 0);
	CHECK_ERROR(PF, 7);
	set_pte(PHYS | P_P | P_U);
	run_user(user_read, 0);
	CHECK_TRAP(BP);
	run_user(user_write, 0);
	CHECK_ERROR(PF, 7);
	set_pte(0);
	run_user(user_read, 0);
	CHECK_ERROR(PF, 4);
	set_pte(PHYS | P_P | P_W | P_U);
	pd[TEST >> 22] &= ~(uint32_t)P_U;
	flush();
	run_user(user_read, 0);
	CHECK_ERROR(PF, 5);
	pd[TEST >> 22] |= P_U;
	flush();
	run_user(user_write, 0);
	CHECK_TRAP(BP);
}

static void large_pages(void)
{
	uint32_t old = pd[TEST >> 22];

	group("4 MiB pages");
	pd[TEST >> 22] = PHYS | P_P | P_W | P_PS;
	invlpg(TEST);
	phys[0x3ff000 / 4] = 0x77;
	CHECK_EQ(test[0x3ff000 / 4], 0x77);
	CHECK_EQ(pd[TEST >> 22] & (P_A | P_D), P_A);
	test[0x123000 / 4] = 0x66;
	CHECK_EQ(phys[0x123000 / 4], 0x66);
	CHECK_EQ(pd[TEST >> 22] & (P_A | P_D), P_A | P_D);
	pd[TEST >> 22] = PHYS | P_P | P_W | P_PS | 1 << 21; /* reserved */
	invlpg(TEST);
	TRY_READ(TEST);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
	pd[TEST >> 22] = old;
	flush();
}

/* The same memory through PAE tables. */
static void enable_pae(uint64_t nx)
{
	memset(pdpt, 0, 4096);
	memset(pae_pd, 0, 4096);
	memset(pae_pd1, 0, 4096);
	memset(pae_pt, 0, 4096);
	for (uint32_t i = 0; i < 16; i++)
		pae_pd[i] = (uint64_t)i << 21 | P_P | P_W | P_PS | P_U;
	pae_pd1[0] = (uint32_t)pae_pt | P_P | P_W | P_U;
	pdpt[0] = (uint32_t)pae_pd | P_P;
	pdpt[1] = (uint32_t)pae_pd1 | P_P;
	WRITE_REG(cr4, READ_REG(cr4) | 0x20);
	WRITE_REG(cr3, pdpt);
	if (nx)
		wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	WRITE_REG(cr0, READ_REG(cr0) | 0x80010000);
}

static void set_pae(uint64_t value)
{
	pae_pt[0] = value;
	invlpg(TEST);
}

static void pae(void)
{
	group("PAE paging");
	enable_pae(1);
	TRY_READ(TEST);
	CHECK_FAULT_ERROR(PF, 0);
	set_pae(PHYS | P_P);
	phys[2] = 0xabc;
	CHECK_EQ(test[2], 0xabc);
	CHECK_EQ(pae_pt[0] & (P_A | P_D), P_A);
	CHECK_UNLESS_ORACLE(!(pdpt[1] & P_A)); /* no accessed bit there */
	TRY_WRITE(TEST);
	CHECK_FAULT_ERROR(PF, 3);
	set_pae(PHYS | P_P | P_W);
	test[3] = 9;
	CHECK_EQ(phys[3], 9);
	CHECK_EQ(pae_pt[0] & (P_A | P_D), P_A | P_D);
	*(volatile uint8_t *)PHYS = 0xc3;
	TRY_WITH("call *%%edx", TEST);
	CHECK_TRAP(NO_TRAP);
	set_pae(PHYS | P_P | P_W | 1ull << 63);
	TRY_WITH("call *%%edx", TEST);
	CHECK_ERROR(PF, 0x11);
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
	flush();
	TRY_READ(TEST);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	set_pae(PHYS | P_P | 1ull << 52); /* reserved in PAE */
	TRY_READ(TEST);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
	/* 2 MiB pages. */
	pae_pd1[0] = PHYS | P_P | P_W | P_PS;
	invlpg(TEST);
	phys[0x1ff000 / 4] = 0x4242;
	CHECK_EQ(test[0x1ff000 / 4], 0x4242);
	pae_pd1[0] = PHYS2 | P_P | P_W | P_PS;
	invlpg(TEST + 0x1000);
	phys2[0x1ff000 / 4] = 0x2424;
	CHECK_EQ(test[0x1ff000 / 4], 0x2424);
	pae_pd1[0] = (uint32_t)pae_pt | P_P | P_W | P_U;
	set_pae(PHYS | P_P | P_W);
	/* The four PDPTEs are registers: a change in memory counts at the next load of CR3. */
	uint64_t old = pdpt[1];
	pdpt[1] = 0;
	invlpg(TEST);
	TRY_READ(TEST);
	CHECK_UNLESS_ORACLE(trap.vector == NO_TRAP);
	flush();
	TRY_READ(TEST);
	CHECK_FAULT_ERROR(PF, 0);
	/* Reserved bits in them fail the load: #GP(0), CR3 stays. */
	pdpt[1] = old | P_W;
	TRY_WITH(AT("mov %%edx, %%cr3"), (uint32_t)pdpt);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	pdpt[1] = old;
	flush();
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	/* CR3 need only be aligned to 32 bytes. */
	memcpy((uint8_t *)pdpt + 0x7e0, pdpt, 32);
	WRITE_REG(cr3, (uint32_t)pdpt + 0x7e0);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	WRITE_REG(cr3, pdpt);
	/* Leaving PAE with paging on reads CR3 as 32-bit tables: not tried; with paging off it is free. */
	disable();
	WRITE_REG(cr4, READ_REG(cr4) & ~0x20u);
}

/* In and out of paging: what was cached does not survive. */
static void switching(void)
{
	group("switching paging");
	for (int i = 0; i < 10; i++) {
		enable_legacy();
		set_pte((i & 1 ? PHYS : PHYS2) | P_P | P_W);
		phys[7] = 1;
		phys2[7] = 2;
		CHECK_EQ(test[7], i & 1 ? 1 : 2);
		disable();
		enable_pae(0);
		set_pae((i & 1 ? PHYS2 : PHYS) | P_P | P_W);
		CHECK_EQ(test[7], i & 1 ? 2 : 1);
		disable();
		WRITE_REG(cr4, READ_REG(cr4) & ~0x20u);
	}
}

int image_main(void)
{
	setup_traps();
	enable_legacy();
	small_pages();
	user_pages();
	large_pages();
	disable();
	pae();
	switching();
	return verdict();
}
