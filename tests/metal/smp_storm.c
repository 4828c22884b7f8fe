/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The storm of long_storm.c between processors: each one but the first works in a window of its own, and
 * calls one shared function, while the first unmaps their pages (with shootdowns), maps them again or lets
 * them fault, and rewrites the function to other instructions that do the same. Nobody may compute anything
 * else than undisturbed.
 */
#include "apic.h"
#include "work.h"

#define WINDOWS 0x40200000ull
#define PHYS	0x1200000ull
#define CODE	((volatile uint8_t *)0x1a00000)
enum { MAX_CPUS = 5, RUNS = 4, ROUNDS = 40, SHOOT = 0x60 };

static volatile unsigned alive = 1, done, generation, faults, shots[MAX_CPUS], wrong, cpus;
static volatile uint32_t apic_ids[MAX_CPUS];
static volatile bool storming;
static volatile uint64_t shot_gva;
static uint64_t expected[MAX_CPUS][RUNS];
static uint64_t *pte;

#define ADD(where, n) __atomic_add_fetch(&(where), n, __ATOMIC_SEQ_CST)

static uint64_t window_of(unsigned cpu)
{
	return WINDOWS + (cpu - 1) * WORK_PAGES * 4096;
}

static unsigned this_cpu(void)
{
	uint32_t id = apic_read(APIC_ID) >> 24;

	for (unsigned i = 0; i < MAX_CPUS; i++)
		if (apic_ids[i] == id)
			return i;
	return 0;
}

static bool on_trap(struct frame *f)
{
	if (f->vector == SHOOT) {
		invlpg(shot_gva);
		ADD(shots[this_cpu()], 1);
		apic_write(APIC_EOI, 0);
		return true;
	}
	if (f->vector == PF) {
		uint64_t n = (READ_REG(cr2) - WINDOWS) >> 12;

		if (n >= MAX_CPUS * WORK_PAGES)
			return false;
		__atomic_or_fetch(&pte[n], P_P, __ATOMIC_SEQ_CST);
		ADD(faults, 1);
		return true;
	}
	return false;
}

/*
 * Two functions behind one jump: the jump's displacement is one aligned byte, so that a processor in the
 * middle of the call sees the old or the new target, and both return RDI + 3.
 */
static void write_code(void)
{
	static const uint8_t first[] = {0x48, 0x8d, 0x47, 0x03, 0xc3}; /* lea 3(%rdi), %rax; ret */
	static const uint8_t second[] = {0x48, 0x89, 0xf8, 0x48, 0x83, 0xc0, 0x03, 0xc3}; /* mov; add; ret */

	memcpy((void *)(CODE + 0x10), first, sizeof(first));
	memcpy((void *)(CODE + 0x20), second, sizeof(second));
	CODE[0] = 0xeb; /* jmp */
	CODE[1] = 0x0e;
}

/* Without vectors(): ThreadSanitizer's code, in the handlers of its build, uses the registers that are the guest's. */
static uint64_t work(unsigned cpu, uint32_t seed)
{
	uint64_t (*add3)(uint64_t) = (uint64_t(*)(uint64_t))CODE, window = window_of(cpu), h;

	memset((void *)window, 0, WORK_PAGES * 4096);
	h = fill_and_sort(window, seed);
	h = mix(h, recurse(8, h));
	h = mix(h, strings(window, seed));
	for (unsigned i = 0; i < 3000; i++)
		h = mix(add3(h), i);
	return h;
}

void ap_main(unsigned index);

void ap_main(unsigned index)
{
	unsigned seen = 0;

	load_idt();
	apic_enable();
	apic_ids[index] = apic_read(APIC_ID) >> 24;
	ADD(alive, 1);
	sti(); /* and so it stays: a shootdown may come after the last run, and is waited for */
	for (;;) {
		while (generation == seen)
			pause();
		seen = generation;
		for (unsigned run = 0; run < RUNS; run++) {
			uint64_t h = work(index, run + index);

			if (!storming)
				expected[index][run] = h;
			else if (h != expected[index][run])
				ADD(wrong, 1);
		}
		ADD(done, 1);
	}
}

static void delay(unsigned ticks)
{
	uint64_t end = rdtsc() + ticks;

	while (rdtsc() < end)
		pause();
}

static void shoot_down(unsigned cpu, unsigned page)
{
	unsigned n = (cpu - 1) * WORK_PAGES + page, before = shots[cpu];

	__atomic_and_fetch(&pte[n], ~(uint64_t)P_P, __ATOMIC_SEQ_CST);
	shot_gva = WINDOWS + n * 4096ull;
	apic_write(APIC_ICR_HIGH, apic_ids[cpu] << 24);
	apic_write(APIC_ICR, ICR_ASSERT | SHOOT);
	while (shots[cpu] == before)
		pause();
}

static void storm(void)
{
	uint32_t seed = 7;

	done = 0;
	ADD(generation, 1);
	while (done < cpus - 1) {
		if (!storming) {
			pause();
			continue;
		}
		for (unsigned c = 1; c < cpus && done == 0; c++)
			shoot_down(c, next_random(&seed) % WORK_PAGES);
		CODE[1] = CODE[1] == 0x0e ? 0x1e : 0x0e;
		delay(next_random(&seed) % 100000);
	}
}

int image_main(void)
{
	extern uint8_t ap_entry[], ap_entry_end[];

	setup_traps();
	setup_paging();
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	pte = pte_of(boot_pml4, WINDOWS, 1);
	for (unsigned i = 0; i < MAX_CPUS * WORK_PAGES; i++)
		pte[i] = (PHYS + i * 4096) | P_P | P_W;
	trap_hook = on_trap;
	write_code();
	group("storm");
	memcpy((void *)0x1000, ap_entry, (size_t)(ap_entry_end - ap_entry));
	apic_enable();
	apic_ids[0] = apic_read(APIC_ID) >> 24;
	apic_write(APIC_ICR, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
	delay(20000000);
	apic_write(APIC_ICR, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | 1);
	for (unsigned turn = 0; turn < 100 && alive < 2; turn++)
		delay(200000000);
	delay(200000000); /* for any others */
	cpus = alive;
	CHECK(cpus >= 2 && cpus <= MAX_CPUS);
	storm();
	CHECK_EQ(faults, 0);
	storming = true;
	for (unsigned round = 0; round < ROUNDS; round++)
		storm();
	CHECK(faults);
	CHECK_EQ(wrong, 0);
	return verdict();
}
