/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Four-level paging: permissions and error codes, accessed and dirty bits, reserved bits, large pages, what
 * must be flushed by what, PCIDs, SMEP and SMAP (SDM volume 3, chapter 4).
 *
 * Tests use the GVA window at TEST, in page tables of its own, backed by the physical page at PHYS.
 */
#include "metal.h"

#define TEST  0x40200000ull /* beyond the identity map */
#define PHYS  0x1200000ull
#define PHYS2 0x1400000ull
#define RW    (P_P | P_W)

static volatile uint64_t *const test = (volatile uint64_t *)TEST;
static volatile uint64_t *const phys = (volatile uint64_t *)PHYS;
static volatile uint64_t *const phys2 = (volatile uint64_t *)PHYS2;
static uint64_t *pte, *pde, *pdpte, *pml4e;

#define TRY_READ(at)  TRY_ASM(AT("mov (%0), %%rax"), , "r"(at), "rax")
#define TRY_WRITE(at) TRY_ASM(AT("movq $1, (%0)"), , "r"(at))

static void set_pte(uint64_t value)
{
	*pte = value;
	invlpg(TEST);
}

static void fresh_window(void)
{
	pte = pte_of(boot_pml4, TEST, 1);
	pde = pte_of(boot_pml4, TEST, 2);
	pdpte = pte_of(boot_pml4, TEST, 3);
	pml4e = pte_of(boot_pml4, TEST, 4);
	*pde = (*pde & ~0xfffull) | P_P | P_W | P_U;
	*pdpte = (*pdpte & ~0xfffull) | P_P | P_W | P_U;
	set_pte(PHYS | RW);
}

static void error_codes(void)
{
	group("error codes");
	fresh_window();
	set_pte(0);
	TRY_READ(TEST + 8);
	CHECK_FAULT_ERROR(PF, 0);
	CHECK_EQ(trap.cr2, TEST + 8);
	TRY_WRITE(TEST + 16);
	CHECK_FAULT_ERROR(PF, 2);
	CHECK_EQ(trap.cr2, TEST + 16);
	set_pte(PHYS | P_P);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	TRY_WRITE(TEST);
	CHECK_FAULT_ERROR(PF, 3);
	TRY_ASM(AT("addl $1, (%0)"), , "r"(TEST)); /* read-modify-write counts as a write */
	CHECK_FAULT_ERROR(PF, 3);
	TRY_ASM(AT("lock xaddl %%eax, (%0)"), , "r"(TEST), "rax");
	CHECK_FAULT_ERROR(PF, 3);
	TRY_ASM("xor %%eax, %%eax\n" AT("lock cmpxchg %%eax, (%0)"), , "r"(TEST + 512), "rax");
	CHECK_FAULT_ERROR(PF, 3);
	set_pte(PHYS | RW);
	*pde &= ~(uint64_t)P_W; /* W at every level */
	invlpg(TEST);
	TRY_WRITE(TEST);
	CHECK_FAULT_ERROR(PF, 3);
	*pde |= P_W;
	*pdpte &= ~(uint64_t)P_P;
	invlpg(TEST);
	TRY_READ(TEST);
	CHECK_FAULT_ERROR(PF, 0);
	*pdpte |= P_P;
	invlpg(TEST);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	TRY_ASM(AT("call *%0"), , "r"(TEST + 0x100000)); /* the page above is not there */
	CHECK_ERROR(PF, 0x10);
	CHECK_EQ(trap.cr2, TEST + 0x100000);
	CHECK_EQ(trap.rip, TEST + 0x100000);
}

static void write_protect(void)
{
	uint64_t cr0 = READ_REG(cr0);

	group("write protect");
	fresh_window();
	set_pte(PHYS | P_P);
	WRITE_REG(cr0, cr0 & ~(1ull << 16));
	phys[0] = 0;
	TRY_WRITE(TEST);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(phys[0], 1);
	CHECK_EQ(*pte & (P_A | P_D), P_A | P_D);
	WRITE_REG(cr0, cr0);
	TRY_WRITE(TEST);
	CHECK_FAULT_ERROR(PF, 3);
	WRITE_REG(cr0, cr0 & ~(1ull << 16));
	TRY_WRITE(TEST);
	CHECK_TRAP(NO_TRAP);
	WRITE_REG(cr0, cr0);
	TRY_WRITE(TEST);
	CHECK_FAULT_ERROR(PF, 3);
}

static void accessed_dirty(void)
{
	uint8_t *code = (uint8_t *)PHYS;

	group("accessed and dirty");
	fresh_window();
	*pde &= ~(uint64_t)P_A;
	*pdpte &= ~(uint64_t)P_A;
	*pml4e &= ~(uint64_t)P_A;
	set_pte(PHYS | RW);
	TRY_READ(TEST);
	CHECK_EQ(*pte & (P_A | P_D), P_A);
	CHECK_EQ(*pde & P_A, P_A);
	CHECK_EQ(*pdpte & P_A, P_A);
	CHECK_EQ(*pml4e & P_A, P_A);
	TRY_WRITE(TEST); /* the translation is cached as clean: the write must still set D */
	CHECK_EQ(*pte & (P_A | P_D), P_A | P_D);
	set_pte(PHYS | RW);
	TRY_WRITE(TEST);
	CHECK_EQ(*pte & (P_A | P_D), P_A | P_D);
	set_pte(PHYS | P_P);
	TRY_WRITE(TEST); /* faults: D stays clear */
	CHECK_TRAP(PF);
	CHECK_EQ(*pte & P_D, 0);
	code[0] = 0xc3;
	set_pte(PHYS | RW);
	((void (*)(void))TEST)();
	CHECK_EQ(*pte & (P_A | P_D), P_A);
	/* A cleared bit comes back after INVLPG. */
	*pte &= ~(uint64_t)P_A;
	invlpg(TEST);
	TRY_READ(TEST);
	CHECK_EQ(*pte & P_A, P_A);
	/* CMPXCHG that fails still writes: D. */
	set_pte(PHYS | RW);
	phys[1] = 5;
	TRY_ASM("xor %%eax, %%eax; xor %%ecx, %%ecx; lock cmpxchg %%rcx, (%0)", , "r"(TEST + 8), "rax",
		"rcx");
	CHECK_EQ(*pte & P_D, P_D);
	CHECK_EQ(phys[1], 5);
}

static void no_execute(void)
{
	group("no execute");
	fresh_window();
	*(volatile uint8_t *)PHYS = 0xc3;
	set_pte(PHYS | RW | P_NX);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	TRY_ASM("call *%0", , "r"(TEST));
	CHECK_ERROR(PF, 0x11);
	CHECK_EQ(trap.rip, TEST);
	set_pte(PHYS | RW);
	TRY_ASM("call *%0", , "r"(TEST));
	CHECK_TRAP(NO_TRAP);
	*pde |= P_NX;
	invlpg(TEST);
	TRY_ASM("call *%0", , "r"(TEST));
	CHECK_ERROR(PF, 0x11);
	*pde &= ~P_NX;
	invlpg(TEST);
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull); /* NXE off: the bit is reserved */
	set_pte(PHYS | RW | P_NX);
	TRY_READ(TEST);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
}

static void reserved_bits(void)
{
	unsigned width = cpuid(0x80000008, 0).a & 0xff;

	group("reserved bits");
	fresh_window();
	if (width < 52) {
		set_pte(PHYS | RW | 1ull << 51);
		TRY_READ(TEST);
		CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
		TRY_WRITE(TEST);
		CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 0xb));
		TRY_ASM("call *%0", , "r"(TEST));
		CHECK_UNLESS_ORACLE(TRAP_IS(PF, 0x19));
		set_pte(PHYS | 1ull << 51 | P_W); /* not present: no reserved bits */
		TRY_READ(TEST);
		CHECK_FAULT_ERROR(PF, 0);
	}
	set_pte(PHYS | RW | 7ull << 9 | 0x7full << 52); /* ignored bits */
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	uint64_t old_pde = *pde, *other = pte_of(boot_pml4, 1ull << 39, 4);
	*other = *pml4e | P_PS; /* reserved at this level */
	TRY_READ((1ull << 39) + TEST);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
	*other = 0;
	*pde = PHYS | RW | P_PS | 1 << 13; /* 2 MiB page with address bit 13 */
	invlpg(TEST);
	TRY_READ(TEST);
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
	*pde = PHYS | RW | P_PS | 1 << 12; /* bit 12 is PAT */
	invlpg(TEST);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	*pde = old_pde;
	invlpg(TEST);
}

static void large_pages(void)
{
	uint64_t old = *pde, old_pdpte = *pdpte;

	group("large pages");
	fresh_window();
	*pde = PHYS | RW | P_PS;
	invlpg(TEST);
	phys[0x1000 / 8] = 0x1234;
	phys[0x1ff000 / 8] = 0x5678;
	CHECK_EQ(test[0x1000 / 8], 0x1234);
	CHECK_EQ(*pde & (P_A | P_D), P_A);
	CHECK_EQ(test[0x1ff000 / 8], 0x5678);
	test[0x2000 / 8] = 1;
	CHECK_EQ(*pde & (P_A | P_D), P_A | P_D);
	CHECK_EQ(phys[0x2000 / 8], 1);
	/* INVLPG anywhere in the page drops all of it. */
	phys2[0x1000 / 8] = 0x4321;
	phys2[0x1ff000 / 8] = 0x8765;
	*pde = PHYS2 | RW | P_PS;
	invlpg(TEST + 0x100000);
	CHECK_EQ(test[0x1000 / 8], 0x4321);
	CHECK_EQ(test[0x1ff000 / 8], 0x8765);
	/* Splitting it into 4 KiB pages. */
	*pde = old;
	pte[1] = PHYS | RW;
	invlpg(TEST + 0x1000);
	phys[0] = 0x9999;
	CHECK_EQ(test[0x1000 / 8], 0x9999);
	pte[1] = 0;
	invlpg(TEST + 0x1000);
	if (cpuid(0x80000001, 0).d & 1 << 26) {
		*pdpte = 0 | RW | P_PS; /* 1 GiB: TEST + x -> x */
		asm volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" ::: "rax", "memory");
		phys[3] = 0xabcdef;
		CHECK_EQ(((volatile uint64_t *)(0x40000000 + PHYS))[3], 0xabcdef);
		CHECK_EQ(*pdpte & (P_A | P_D), P_A);
		((volatile uint64_t *)(0x40000000 + PHYS))[4] = 77;
		CHECK_EQ(phys[4], 77);
		CHECK_EQ(*pdpte & (P_A | P_D), P_A | P_D);
		phys[0x3000 / 8] = 0x33;
		CHECK_EQ(((volatile uint64_t *)(0x40000000 + PHYS + 0x3000))[0], 0x33);
		*pdpte = 0 | RW | P_PS | 1 << 13;
		asm volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" ::: "rax", "memory");
		TRY_READ(TEST);
		CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 9));
		*pdpte = old_pdpte;
		asm volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" ::: "rax", "memory");
	} else {
		skip("no 1 GiB pages");
	}
	CHECK_EQ(*pdpte, old_pdpte | P_A);
	fresh_window();
}

static void flushes(void)
{
	uint64_t cr4 = READ_REG(cr4);

	group("flushes");
	fresh_window();
	phys[0] = 1;
	phys2[0] = 2;
	CHECK_EQ(test[0], 1);
	set_pte(PHYS2 | RW);
	CHECK_EQ(test[0], 2);
	*pte = PHYS | RW;
	WRITE_REG(cr3, READ_REG(cr3));
	CHECK_EQ(test[0], 1);
	set_pte(PHYS | RW | P_G);
	CHECK_EQ(test[0], 1);
	*pte = PHYS2 | RW | P_G;
	invlpg(TEST); /* drops global pages too */
	CHECK_EQ(test[0], 2);
	*pte = PHYS | RW | P_G;
	WRITE_REG(cr4, cr4 ^ 0x80);
	WRITE_REG(cr4, cr4);
	CHECK_EQ(test[0], 1);
	*pte = PHYS2 | RW;
	WRITE_REG(cr0, READ_REG(cr0) ^ 1 << 16); /* WP: may keep entries, so INVLPG */
	WRITE_REG(cr0, READ_REG(cr0) ^ 1 << 16);
	invlpg(TEST);
	CHECK_EQ(test[0], 2);
	/* Writes, too, go where the new entry says. */
	test[0] = 5;
	set_pte(PHYS | RW);
	test[0] = 6;
	CHECK_EQ(phys2[0], 5);
	CHECK_EQ(phys[0], 6);
	/* Not present -> present needs no flush. */
	set_pte(0);
	TRY_READ(TEST);
	CHECK_TRAP(PF);
	*pte = PHYS2 | RW;
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	CHECK_EQ(test[0], 5);
	/* A page table replaced in the PDE: one INVLPG for the address. */
	uint64_t *other = alloc_page(), old = *pde;
	other[0] = PHYS | RW;
	*pde = (uint64_t)other | RW;
	invlpg(TEST);
	CHECK_EQ(test[0], 6);
	*pde = old;
	invlpg(TEST);
	CHECK_EQ(test[0], 5);
	/* Another address space with the same address elsewhere. */
	uint64_t *space = new_space(), cr3 = READ_REG(cr3);
	space[0] = 0;
	uint64_t *pdpt2 = alloc_page();
	memcpy(pdpt2, boot_pdpt, 4096);
	pdpt2[1] = 0;
	space[0] = (uint64_t)pdpt2 | P_P | P_W | P_U;
	*pte_of(space, TEST, 1) = PHYS | RW;
	WRITE_REG(cr3, space);
	CHECK_EQ(test[0], 6);
	test[1] = 0x66;
	WRITE_REG(cr3, cr3);
	CHECK_EQ(test[0], 5);
	CHECK_EQ(phys[1], 0x66);
	/* The code's own page remapped: fetches follow. */
	uint8_t *a = (uint8_t *)PHYS, *b = (uint8_t *)PHYS2;
	a[0x800] = 0xb8, a[0x801] = 1, a[0x802] = a[0x803] = a[0x804] = 0, a[0x805] = 0xc3;
	memcpy(b + 0x800, a + 0x800, 6);
	b[0x801] = 2;
	int (*f)(void) = (int (*)(void))(TEST + 0x800);
	for (int i = 0; i < 4; i++) {
		set_pte((i & 1 ? PHYS2 : PHYS) | RW);
		CHECK_EQ(f(), 1 + (i & 1));
	}
	WRITE_REG(cr3, space);
	CHECK_EQ(f(), 1);
	WRITE_REG(cr3, cr3);
	CHECK_EQ(f(), 2);
}

static void crossing(void)
{
	volatile uint8_t *end = (volatile uint8_t *)TEST + 4096;
	uint64_t v;

	group("crossing a page");
	fresh_window();
	pte[1] = 0;
	invlpg(TEST + 4096);
	for (int i = 1; i <= 8; i++)
		end[-i] = (uint8_t)(0x80 + i);
	TRY_ASM(AT("movq %%rax, (%0)"), , "r"(TEST + 4093), "rax");
	CHECK_FAULT_ERROR(PF, 2);
	CHECK_EQ(trap.cr2, TEST + 4096);
	CHECK_EQ(end[-3], 0x83); /* nothing was written */
	TRY_ASM(AT("movq (%0), %%rax"), , "r"(TEST + 4093), "rax");
	CHECK_FAULT_ERROR(PF, 0);
	CHECK_EQ(trap.cr2, TEST + 4096);
	TRY_ASM(AT("lock addq $1, (%0)"), , "r"(TEST + 4093));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(PF, 2));
	CHECK_EQ(end[-3], 0x83);
	pte[1] = PHYS2 | P_P;
	invlpg(TEST + 4096);
	TRY_ASM(AT("movq %%rax, (%0)"), , "r"(TEST + 4093), "rax");
	CHECK_FAULT_ERROR(PF, 3);
	CHECK_EQ(trap.cr2, TEST + 4096);
	CHECK_EQ(end[-3], 0x83);
	pte[1] = PHYS2 | RW;
	invlpg(TEST + 4096);
	asm volatile("movq %1, (%0)" ::"r"(TEST + 4093), "r"(0x1122334455667788ull) : "memory");
	CHECK_EQ(((volatile uint8_t *)PHYS)[4093], 0x88);
	CHECK_EQ(((volatile uint8_t *)PHYS2)[0], 0x55);
	CHECK_EQ(((volatile uint8_t *)PHYS2)[4], 0x11);
	asm volatile("movq (%1), %0" : "=r"(v) : "r"(TEST + 4093));
	CHECK_EQ(v, 0x1122334455667788);
	asm volatile("lock addq %1, (%0)" ::"r"(TEST + 4093), "r"(1ull << 32) : "memory");
	CHECK_EQ(((volatile uint8_t *)PHYS2)[1], 0x45);
	asm volatile("lock cmpxchgq %2, (%1)"
		     : "=a"(v)
		     : "r"(TEST + 4093), "r"(7ull), "a"(0x1122334555667788ull)
		     : "memory");
	asm volatile("movq (%1), %0" : "=r"(v) : "r"(TEST + 4093));
	CHECK_EQ(v, 7);
	/* A first page that is not there and a second that is: the first is reported, with its own address.
	 */
	set_pte(0);
	TRY_ASM(AT("movq (%0), %%rax"), , "r"(TEST + 4093), "rax");
	CHECK_FAULT_ERROR(PF, 0);
	CHECK_EQ(trap.cr2, TEST + 4093);
	pte[1] = 0;
	invlpg(TEST + 4096);
}

extern uint8_t user_read_test[], user_write_test[], user_exec_test[];
__asm__(".pushsection .user, \"ax\"\n"
	"user_read_test: mov $0x40200000, %eax; mov (%rax), %rcx; int3\n"
	"user_write_test: mov $0x40200000, %eax; movq $9, (%rax); int3\n"
	"user_exec_test: mov $0x40200000, %eax; jmp *%rax\n"
	".popsection");

static void user_pages(void)
{
	group("user pages");
	fresh_window();
	*(volatile uint8_t *)PHYS = 0xcc;
	run_user(user_read_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 5);
	CHECK_EQ(trap.cr2, TEST);
	run_user(user_write_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 7);
	run_user(user_exec_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 0x15);
	CHECK_EQ(trap.rip, TEST);
	set_pte(0);
	run_user(user_read_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 4);
	run_user(user_write_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 6);
	set_pte(PHYS | RW | P_U);
	run_user(user_read_test, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	run_user(user_exec_test, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	run_user(user_write_test, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	*pde &= ~(uint64_t)P_U; /* U at every level */
	invlpg(TEST);
	run_user(user_read_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 5);
	*pde |= P_U;
	set_pte(PHYS | P_P | P_U);
	run_user(user_write_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 7);
	/* WP off does not let user mode write. */
	WRITE_REG(cr0, READ_REG(cr0) & ~(1ull << 16));
	run_user(user_write_test, SEL_UCODE64, 0);
	CHECK_ERROR(PF, 7);
	WRITE_REG(cr0, READ_REG(cr0) | 1 << 16);
}

static void smep(void)
{
	uint64_t cr4 = READ_REG(cr4);

	group("SMEP");
	if (!(cpuid(7, 0).b & 1 << 7)) {
		skip("not offered");
		return;
	}
	fresh_window();
	*(volatile uint8_t *)PHYS = 0xc3;
	set_pte(PHYS | RW | P_U);
	TRY_ASM("call *%0", , "r"(TEST));
	CHECK_TRAP(NO_TRAP);
	WRITE_REG(cr4, cr4 | 1 << 20);
	TRY_ASM("call *%0", , "r"(TEST));
	CHECK_ERROR(PF, 0x11);
	CHECK_EQ(trap.cr2, TEST);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
	set_pte(PHYS | RW);
	TRY_ASM("call *%0", , "r"(TEST));
	CHECK_TRAP(NO_TRAP);
	set_pte(PHYS | RW | P_U);
	*(volatile uint8_t *)PHYS = 0xcc;
	run_user(user_exec_test, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	WRITE_REG(cr4, cr4);
	*(volatile uint8_t *)PHYS = 0xc3;
	TRY_ASM("call *%0", , "r"(TEST));
	CHECK_TRAP(NO_TRAP);
}

static void smap(void)
{
	uint64_t cr4 = READ_REG(cr4);

	group("SMAP");
	if (!(cpuid(7, 0).b & 1 << 20)) {
		TRY(AT(".byte 0x0f, 0x01, 0xcb")); /* STAC */
		CHECK_FAULT(UD);
		skip("not offered");
		return;
	}
	fresh_window();
	set_pte(PHYS | RW | P_U);
	WRITE_REG(cr4, cr4 | 1 << 21);
	TRY_READ(TEST);
	CHECK_FAULT_ERROR(PF, 1);
	TRY_WRITE(TEST);
	CHECK_FAULT_ERROR(PF, 3);
	TRY_ASM(".byte 0x0f, 0x01, 0xcb\n mov (%0), %%rax\n .byte 0x0f, 0x01, 0xca", , "r"(TEST),
		"rax"); /* STAC CLAC */
	CHECK_TRAP(NO_TRAP);
	TRY_READ(TEST);
	CHECK_FAULT_ERROR(PF, 1);
	TRY_ASM("pushf; orq $0x40000, (%%rsp); popf; movq $3, (%0)", , "r"(TEST));
	CHECK_TRAP(NO_TRAP);
	TRY_ASM("pushf; andq $~0x40000, (%%rsp); popf\n" AT("movq $3, (%0)"), , "r"(TEST));
	CHECK_FAULT_ERROR(PF, 3);
	run_user(user_read_test, SEL_UCODE64, 0);
	CHECK_TRAP(BP);
	WRITE_REG(cr4, cr4);
	TRY_READ(TEST);
	CHECK_TRAP(NO_TRAP);
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t gva)
{
	struct {
		uint64_t pcid, gva;
	} d = {pcid, gva};

	asm volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

static void pcid(void)
{
	uint64_t cr4 = READ_REG(cr4), cr3 = READ_REG(cr3);

	group("PCID");
	if (!(cpuid(1, 0).c & 1 << 17)) {
		skip("not offered");
		return;
	}
	fresh_window();
	WRITE_REG(cr3, cr3 | 8); /* PWT: bits 11:0 must be 0 to turn PCIDs on */
	TRY_ASM(AT("mov %0, %%cr4"), , "r"(cr4 | 1 << 17));
	CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	WRITE_REG(cr3, cr3);
	WRITE_REG(cr4, cr4 | 1 << 17);
	CHECK_EQ(READ_REG(cr4) >> 17 & 1, 1);
	uint64_t *space = new_space(), *pdpt2 = alloc_page();
	memcpy(pdpt2, boot_pdpt, 4096);
	pdpt2[1] = 0;
	space[0] = (uint64_t)pdpt2 | P_P | P_W | P_U;
	uint64_t *pte2 = pte_of(space, TEST, 1);
	*pte2 = PHYS2 | RW;
	phys[0] = 1;
	phys2[0] = 2;
	CHECK_EQ(test[0], 1);
	WRITE_REG(cr3, (uint64_t)space | 5);
	CHECK_EQ(READ_REG(cr3), (uint64_t)space | 5);
	CHECK_EQ(test[0], 2);
	WRITE_REG(cr3, cr3 | 1ull << 63);
	CHECK_EQ(READ_REG(cr3), cr3); /* bit 63 is not kept */
	CHECK_EQ(test[0], 1);
	WRITE_REG(cr3, (uint64_t)space | 5 | 1ull << 63);
	CHECK_EQ(test[0], 2);
	/* Without bit 63, the new PCID's entries are dropped. */
	*pte2 = PHYS | RW;
	WRITE_REG(cr3, cr3 | 1ull << 63);
	WRITE_REG(cr3, (uint64_t)space | 5);
	CHECK_EQ(test[0], 1);
	if (cpuid(7, 0).b & 1 << 10) {
		*pte2 = PHYS2 | RW;
		invpcid(0, 5, TEST); /* one address of one PCID */
		CHECK_EQ(test[0], 2);
		WRITE_REG(cr3, cr3 | 1ull << 63);
		*pte2 = PHYS | RW;
		invpcid(1, 5, 0); /* one PCID */
		WRITE_REG(cr3, (uint64_t)space | 5 | 1ull << 63);
		CHECK_EQ(test[0], 1);
		*pte2 = PHYS2 | RW | P_G;
		invpcid(3, 0, 0); /* all but global */
		CHECK_EQ(test[0], 2);
		*pte2 = PHYS | RW;
		invpcid(2, 0, 0); /* all */
		CHECK_EQ(test[0], 1);
		WRITE_REG(cr3, cr3 | 1ull << 63);
		*pte2 = PHYS2 | RW;
		invpcid(2, 0, 0); /* other PCIDs', too */
		WRITE_REG(cr3, (uint64_t)space | 5 | 1ull << 63);
		CHECK_EQ(test[0], 2);
		struct {
			uint64_t pcid, gva;
		} d = {0x1000, 0};
		TRY_ASM(AT("invpcid %0, %1"), , "m"(d)COMMA "r"(1ull));
		CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
		TRY_ASM(AT("invpcid %0, %1"), , "m"(d)COMMA "r"(4ull));
		CHECK_UNLESS_ORACLE(FAULT_IS_ERROR(GP, 0));
	} else {
		skip("no INVPCID");
	}
	/* PCIDE may be cleared at any PCID; the TLB goes with it. */
	WRITE_REG(cr3, cr3 | 1ull << 63);
	WRITE_REG(cr4, cr4);
	TRY_ASM(AT("mov %0, %%cr3"), , "r"(cr3));
	CHECK_TRAP(NO_TRAP);
}

static void implicit_accesses(void)
{
	group("implicit accesses");
	fresh_window();
	/* GDT and IDT read through paging. */
	memcpy((void *)PHYS, idt, 4096);
	set_pte(PHYS | RW);
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) moved = {4095, TEST};
	asm volatile("lidt %0" ::"m"(moved));
	TRY(AT("int3"));
	CHECK_TRAP(BP);
	load_idt();
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) gdtr, other;
	asm volatile("sgdt %0" : "=m"(gdtr));
	memcpy((void *)PHYS, gdt, 256);
	other = gdtr;
	other.base = TEST + 4096 - 0x18; /* selectors from 0x18 on lie beyond */
	pte[1] = 0;
	invlpg(TEST + 4096);
	memcpy((uint8_t *)PHYS + 4096 - 0x18, gdt, 0x18);
	asm volatile("lgdt %0" ::"m"(other));
	TRY_ASM(AT("mov %0, %%fs"), , "r"(SEL_UDATA)); /* 0x28 */
	asm volatile("lgdt %0" ::"m"(gdtr));
	CHECK_FAULT_ERROR(PF, 0);
	CHECK_EQ(trap.cr2, TEST + 4096 + 0x10);
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	error_codes();
	write_protect();
	accessed_dirty();
	no_execute();
	reserved_bits();
	large_pages();
	flushes();
	crossing();
	user_pages();
	smep();
	smap();
	pcid();
	implicit_accesses();
	return verdict();
}
