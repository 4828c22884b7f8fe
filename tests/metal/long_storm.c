/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The same work, undisturbed and then in a storm: a timer interrupt every few microseconds whose handler
 * unmaps pages of the work's data, drops its stack's translation, and rewrites a function that the work calls
 * (to other instructions that do the same); page faults map the pages again. Results must be equal: every
 * fault and interrupt must find and leave exact registers, flags and memory, wherever an engine happens to
 * be.
 */
#include "apic.h"
#include "work.h"

#define WINDOW 0x40200000ull
#define PHYS   0x1200000ull
#define CODE   ((volatile uint8_t *)0x1800000)
enum { PAGES = WORK_PAGES, TIMER = 0x80, RUNS = 12, MAX_STORM_RUNS = 2000, ENOUGH_TICKS = 500 };

static uint64_t *pte;
static uint8_t ist_stacks[2][4096] __attribute__((aligned(16)));
static volatile unsigned ticks, faults;
static uint32_t storm_seed = 1;
static volatile bool storming;

/* Three ways to return RDI + 3. */
static const uint8_t variants[3][16] = {
    {0x48, 0x8d, 0x47, 0x03, 0x90, 0x90, 0x90, 0x90, 0xc3}, /* lea 3(%rdi), %rax */
    {0x48, 0x89, 0xf8, 0x48, 0x83, 0xc0, 0x03, 0x90, 0xc3}, /* mov %rdi, %rax; add $3, %rax */
    {0x48, 0x8d, 0x47, 0x01, 0x48, 0xff, 0xc0, 0xeb, 0x05, 0, 0, 0, 0, 0, 0x48,
     0xff}, /* see write_variant() */
};

static void write_variant(unsigned n)
{
	memcpy((void *)(CODE + 0x40), variants[n], 16);
	if (n == 2) {
		CODE[0x50] = 0xc0; /* ...; jmp over; inc %rax */
		CODE[0x51] = 0xc3;
	}
}

static void unmap_some(void)
{
	for (int i = 0; i < 3; i++) {
		unsigned n = next_random(&storm_seed) % PAGES;

		pte[n] &= ~(uint64_t)P_P;
		invlpg(WINDOW + n * 4096);
	}
}

static bool on_trap(struct frame *f)
{
	if (f->vector == TIMER) {
		ticks++;
		apic_write(APIC_EOI, 0);
		if (storming) {
			unmap_some();
			if (f->rip < (uint64_t)CODE || f->rip >= (uint64_t)CODE + 4096)
				write_variant(next_random(&storm_seed) % 3);
		}
		return true;
	}
	if (f->vector == PF) {
		uint64_t gva = READ_REG(cr2);

		if (gva < WINDOW || gva >= WINDOW + PAGES * 4096)
			return false;
		faults++;
		pte[(gva - WINDOW) >> 12] |= P_P;
		return true;
	}
	return false;
}

/* --- the work --- */

static uint64_t indirect(uint64_t h)
{
	uint64_t (*add3)(uint64_t) = (uint64_t(*)(uint64_t))(CODE + 0x40);

	for (unsigned i = 0; i < 2000; i++)
		h = mix(add3(h), i);
	return h;
}

/* User mode reads the window, faults included, and comes back by INT3. */
extern uint8_t user_sum[];
__asm__(".pushsection .user, \"ax\"\n"
	"user_sum: mov $0x40200000, %esi; mov $32768, %ecx; xor %eax, %eax\n"
	" 1: mov (%rsi), %rdx; rol $7, %rax; xor %rdx, %rax; push %rax; pop %rax; add $8, %rsi; dec %ecx; "
	"jnz 1b\n"
	" mov %rax, user_result; int3\n"
	"user_result: .quad 0\n"
	".popsection");
extern volatile uint64_t user_result;

static uint64_t work(uint32_t seed)
{
	uint64_t h = fill_and_sort(WINDOW, seed);

	h = mix(h, recurse(9, h));
	h = mix(h, strings(WINDOW, seed));
	h = stack_and_flags(WINDOW, h);
	h = vectors(WINDOW, h);
	h = indirect(h);
	run_user(user_sum, SEL_UCODE64, RFLAGS_IF);
	CHECK_TRAP(BP);
	asm volatile("sti");
	return mix(h, user_result);
}

int image_main(void)
{
	uint64_t expected[RUNS];

	setup_traps();
	setup_paging();
	pte = pte_of(boot_pml4, WINDOW, 1);
	for (unsigned i = 0; i < PAGES; i++)
		pte[i] = (PHYS + i * 4096) | P_P | P_W | P_U;
	pte[PAGES] = (PHYS + PAGES * 4096) | P_P | P_W | P_U;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_enable();
	trap_hook = on_trap;
	/* The work's own stack may be unmapped at any time. */
	tss.ist[0] = (uint64_t)(ist_stacks[0] + sizeof(ist_stacks[0]));
	tss.ist[1] = (uint64_t)(ist_stacks[1] + sizeof(ist_stacks[1]));
	set_gate(TIMER, trap_stubs + 16 * TIMER, SEL_CODE64, GATE_INTR, 1);
	set_gate(PF, trap_stubs + 16 * PF, SEL_CODE64, GATE_INTR, 2);
	write_variant(0);
	group("storm");
	for (unsigned run = 0; run < RUNS; run++) {
		memset((void *)PHYS, 0, (PAGES + 1) * 4096);
		sti(); /* PUSHF shows it */
		expected[run] = work(run + 1);
	}
	cli();
	CHECK_EQ(faults, 0);
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, TIMER | LVT_PERIODIC);
	apic_write(APIC_TIMER_INITIAL, 40000);
	storming = true;
	for (unsigned run = 0; run < MAX_STORM_RUNS && (run < RUNS || ticks < ENOUGH_TICKS); run++) {
		memset((void *)PHYS, 0, (PAGES + 1) * 4096);
		sti();
		CHECK_EQ(work(run % RUNS + 1), expected[run % RUNS]);
		cli();
	}
	CHECK(ticks);
	CHECK(faults);
	apic_write(APIC_LVT_TIMER, LVT_MASKED);
	return verdict();
}
