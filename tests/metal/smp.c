/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Several processors: start by INIT and SIPI, interprocessor interrupts, locked instructions, TLB shootdown,
 * code that another processor changes, and memory order (SDM volume 3, 8.2, 8.3, 8.4, 10.6).
 *
 * Application processors wait in ap_main() for jobs; run_all() hands one function to every processor and
 * waits.
 */
#include "apic.h"

enum { MAX_CPUS = 8, TICKS = 2000000000 };
#define TEST 0x40200000ull

typedef void job_fn(unsigned cpu, unsigned cpus);

static volatile unsigned alive, done, generation;
static volatile bool started[MAX_CPUS];
static volatile uint32_t apic_ids[MAX_CPUS];
static job_fn *volatile job;
static unsigned cpus;
static volatile unsigned ipi_count[MAX_CPUS][256];
static volatile bool ap_stop;

#define ADD(where, n) __atomic_add_fetch(&(where), n, __ATOMIC_SEQ_CST)

static unsigned this_cpu(void)
{
	uint32_t id = apic_read(APIC_ID) >> 24;

	for (unsigned i = 0; i < cpus; i++)
		if (apic_ids[i] == id)
			return i;
	return 0;
}

static bool on_trap(struct frame *f)
{
	if (f->vector < 32 && f->vector != NMI)
		return false;
	ADD(ipi_count[this_cpu()][f->vector], 1);
	if (f->vector == 0x60) /* shootdown */
		invlpg(TEST);
	if (f->vector != NMI)
		apic_write(APIC_EOI, 0);
	return true;
}

static bool wait_until(volatile unsigned *what, unsigned value)
{
	uint64_t end = rdtsc() + 60ull * TICKS; /* a busy host may run one processor while the other holds a lock */

	while (*what < value && rdtsc() < end)
		pause();
	return *what >= value;
}

void ap_main(unsigned index);

void ap_main(unsigned index)
{
	unsigned seen = 0;

	load_idt();
	apic_enable();
	apic_ids[index] = apic_read(APIC_ID) >> 24;
	seen = generation;
	ADD(alive, 1);
	started[index] = true;
	for (;;) {
		while (generation == seen)
			pause();
		seen = generation;
		job(index, cpus);
		ADD(done, 1);
	}
}

static void run_all(job_fn *fn)
{
	done = 0;
	job = fn;
	ADD(generation, 1);
	fn(0, cpus);
	CHECK(wait_until(&done, cpus - 1));
}

static void delay(unsigned ticks)
{
	uint64_t end = rdtsc() + ticks;

	while (rdtsc() < end)
		pause();
}

static void start_processors(void)
{
	extern uint8_t ap_entry[], ap_entry_end[];

	group("start");
	memcpy((void *)0x1000, ap_entry, (size_t)(ap_entry_end - ap_entry));
	apic_enable();
	apic_ids[0] = apic_read(APIC_ID) >> 24;
	alive = 1;
	apic_write(APIC_ICR, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
	delay(20000000);
	apic_write(APIC_ICR, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | 1);
	delay(20000000);
	apic_write(APIC_ICR, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | 1); /* ignored by those that run */
	CHECK(wait_until(&alive, 2));
	delay(400000000); /* and any others */
	cpus = alive;
	CHECK(cpus >= 2 && cpus <= MAX_CPUS);
	for (unsigned i = 0; i < cpus; i++)
		for (unsigned j = 0; j < i; j++)
			CHECK(apic_ids[i] != apic_ids[j]);
}

/* --- locked instructions --- */

enum { ROUNDS = 20000, SPLIT_EVERY = 100 /* hosts that detect bus locks make each cost a millisecond */ };
static volatile uint64_t counter[8];
static uint8_t span[8192] __attribute__((aligned(4096)));
static volatile uint64_t pair[2] __attribute__((aligned(16)));
static volatile uint32_t lock_word, plain_counter, bit_lock, bit_counter;

static void locked_job(unsigned cpu, unsigned n)
{
	volatile uint64_t *line = (uint64_t *)(span + 60), *page = (uint64_t *)(span + 4093);

	for (unsigned i = 0; i < ROUNDS; i++) {
		asm volatile("lock incq %0" : "+m"(counter[0])::"memory");
		uint64_t three = 3;
		asm volatile("lock xaddq %1, %0" : "+m"(counter[1]), "+r"(three)::"memory");
		asm volatile("1: mov %0, %%rax; lea 1(%%rax), %%rcx; lock cmpxchg %%rcx, %0; jne 1b"
			     : "+m"(counter[2])::"rax", "rcx", "cc", "memory");
		asm volatile("lock addb $1, %0" : "+m"(*(volatile uint8_t *)&counter[3])::"memory");
		asm volatile("lock xorq %1, %0" : "+m"(counter[4]) : "r"(1ull << cpu) : "memory");
		asm volatile("lock subq $-5, %0" : "+m"(counter[5])::"memory");
		asm volatile("lock negq %0" : "+m"(counter[6])::"memory");
		asm volatile("1: mov $1, %%eax; xchg %%eax, %0; test %%eax, %%eax; jz 2f; pause; jmp 1b; 2:"
			     : "+m"(lock_word)::"rax", "cc", "memory");
		plain_counter++;
		__atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
		asm volatile("1: lock btsl $5, %0; jnc 2f; pause; jmp 1b; 2:"
			     : "+m"(bit_lock)::"cc", "memory");
		bit_counter++;
		asm volatile("lock btrl $5, %0" : "+m"(bit_lock)::"cc", "memory");
		if (i % SPLIT_EVERY == 0) {
			asm volatile("lock incq %0" : "+m"(*line)::"memory");
			asm volatile("lock incq %0" : "+m"(*page)::"memory");
			uint64_t lo = pair[0], hi = pair[1];
			uint8_t ok;
			do
				asm volatile("lock cmpxchg16b %3; setz %2"
					     : "+a"(lo), "+d"(hi), "=q"(ok), "+m"(pair)
					     : "b"(lo + 1), "c"(hi + 2)
					     : "cc", "memory");
			while (!ok);
		}
	}
}

static void locked(void)
{
	group("locked instructions");
	run_all(locked_job);
	CHECK_EQ(counter[0], cpus * ROUNDS);
	CHECK_EQ(counter[1], 3 * cpus * ROUNDS);
	CHECK_EQ(counter[2], cpus * ROUNDS);
	CHECK_EQ(counter[3], (uint8_t)(cpus * ROUNDS));
	CHECK_EQ(counter[4], 0);
	CHECK_EQ(counter[5], 5 * cpus * ROUNDS);
	CHECK_EQ(plain_counter, cpus * ROUNDS);
	CHECK_EQ(bit_counter, cpus * ROUNDS);
	CHECK_EQ(*(uint64_t *)(span + 60), cpus * ROUNDS / SPLIT_EVERY);
	CHECK_EQ(*(uint64_t *)(span + 4093), cpus * ROUNDS / SPLIT_EVERY);
	CHECK_EQ(pair[0], cpus * ROUNDS / SPLIT_EVERY);
	CHECK_EQ(pair[1], 2 * cpus * ROUNDS / SPLIT_EVERY);
}

/* --- interprocessor interrupts --- */

static volatile bool leave_ipi_job;

static void ipi_job(unsigned cpu, unsigned n)
{
	if (!cpu)
		return;
	while (!leave_ipi_job)
		asm volatile("sti; hlt; cli" ::: "memory");
}

static void send(unsigned cpu, uint32_t icr)
{
	apic_write(APIC_ICR_HIGH, apic_ids[cpu] << 24);
	apic_write(APIC_ICR, icr | ICR_ASSERT);
}

static void interrupts(void)
{
	group("interprocessor interrupts");
	leave_ipi_job = false;
	done = 0;
	job = ipi_job;
	ADD(generation, 1);
	for (unsigned i = 1; i <= 50; i++) /* each wakes a HLT */
		for (unsigned cpu = 1; cpu < cpus; cpu++) {
			send(cpu, 0x50);
			CHECK(wait_until(&ipi_count[cpu][0x50], i));
		}
	CHECK_EQ(ipi_count[0][0x50], 0);
	apic_write(APIC_ICR, ICR_OTHERS | ICR_ASSERT | 0x51);
	for (unsigned cpu = 1; cpu < cpus; cpu++)
		CHECK(wait_until(&ipi_count[cpu][0x51], 1));
	CHECK_EQ(ipi_count[0][0x51], 0);
	apic_write(APIC_ICR, ICR_ALL | ICR_ASSERT | 0x52);
	for (unsigned cpu = 1; cpu < cpus; cpu++)
		CHECK(wait_until(&ipi_count[cpu][0x52], 1));
	asm volatile("sti; nop; nop; cli" ::: "memory");
	CHECK_EQ(ipi_count[0][0x52], 1);
	send(1, ICR_NMI);
	CHECK(wait_until(&ipi_count[1][NMI], 1));
	/* Logical destinations, flat model. */
	send(1, 0x53);
	CHECK(wait_until(&ipi_count[1][0x53], 1));
	leave_ipi_job = true;
	apic_write(APIC_ICR, ICR_OTHERS | ICR_ASSERT | 0x5f);
	CHECK(wait_until(&done, cpus - 1));
}

/* --- TLB shootdown --- */

static volatile bool shooting;
static volatile unsigned phase, stale;
enum { SHOTS = 200 };

static void shot_job(unsigned cpu, unsigned n)
{
	volatile uint64_t *window = (volatile uint64_t *)TEST;

	if (cpu) {
		asm volatile("sti");
		while (shooting) {
			unsigned before = phase;
			uint64_t value = *window;

			/* The page of phase p holds p; the value read may not be older than the phase known
			 * before. */
			if (value < before)
				ADD(stale, 1);
		}
		asm volatile("cli" ::: "memory");
		return;
	}
	uint64_t *pte = pte_of(boot_pml4, TEST, 1);
	for (unsigned i = 1; i <= SHOTS; i++) {
		uint64_t page = 0x1200000 + (i & 1) * 4096;

		*(volatile uint64_t *)page = i;
		*(volatile uint64_t *)pte = page | P_P | P_W;
		invlpg(TEST);
		for (unsigned c = 1; c < n; c++)
			send(c, 0x60);
		for (unsigned c = 1; c < n; c++)
			CHECK(wait_until(&ipi_count[c][0x60], i));
		phase = i;
	}
	shooting = false;
}

static void shootdown(void)
{
	group("TLB shootdown");
	*(volatile uint64_t *)0x1200000 = 0;
	map(TEST, 0x1200000 | P_P | P_W);
	shooting = true;
	run_all(shot_job);
	CHECK_EQ(stale, 0);
}

/* --- code that another processor changes --- */

static volatile unsigned code_version, code_seen[MAX_CPUS], code_wrong;
enum { VERSIONS = 300 };
#define CODE ((volatile uint8_t *)0x1800000)

static void code_job(unsigned cpu, unsigned n)
{
	if (!cpu) {
		for (unsigned v = 1; v <= VERSIONS; v++) {
			CODE[1] = (uint8_t)v;
			CODE[2] = (uint8_t)(v >> 8);
			__atomic_store_n(&code_version, v, __ATOMIC_SEQ_CST);
			for (unsigned c = 1; c < n; c++)
				wait_until(&code_seen[c], v);
		}
		return;
	}
	for (unsigned v = 0; v < VERSIONS;) {
		while (code_version == v)
			pause();
		v = code_version;
		cpuid(0, 0); /* serializes, as SDM 8.1.3 asks */
		if (((unsigned (*)(void))CODE)() != v)
			ADD(code_wrong, 1);
		code_seen[cpu] = v;
	}
}

/* Runs the code without pause while it changes: only whole old or new values, for the store is one aligned
 * word. */
static void code_race_job(unsigned cpu, unsigned n)
{
	volatile uint32_t *immediate = (volatile uint32_t *)(CODE + 0x100);

	if (!cpu) {
		for (unsigned i = 0; i < 5000; i++)
			*immediate = i & 1 ? 0x11111111 : 0x22222222;
		ap_stop = true;
		return;
	}
	while (!ap_stop) {
		unsigned r = ((unsigned (*)(void))(CODE + 0xff))();

		if (r != 0x11111111 && r != 0x22222222)
			ADD(code_wrong, 1);
	}
}

static void changing_code(void)
{
	group("cross-modifying code");
	CODE[0] = 0xb8, CODE[1] = CODE[2] = CODE[3] = CODE[4] = 0, CODE[5] = 0xc3;
	run_all(code_job);
	CHECK_EQ(code_wrong, 0);
	code_wrong = 0;
	CODE[0xff] = 0xb8, CODE[0x104] = 0xc3;
	*(volatile uint32_t *)(CODE + 0x100) = 0x11111111;
	ap_stop = false;
	run_all(code_race_job);
	CHECK_EQ(code_wrong, 0);
}

/* --- memory order --- */

enum { CELLS = 4096, TURNS = 20 };
struct cell {
	volatile uint32_t x __attribute__((aligned(64))), y __attribute__((aligned(64)));
};
#define cell ((struct cell *)0x1900000)
static uint32_t seen[2][CELLS], seen2[2][CELLS];
static volatile unsigned ready;

static void meet(void)
{
	unsigned turn = ADD(ready, 1);

	while (ready < (turn + 1) / 2 * 2)
		pause();
}

/* Message passing: data, then flag; who sees the flag sees the data. */
static void message_job(unsigned cpu, unsigned n)
{
	if (cpu > 1)
		return;
	meet();
	for (unsigned i = 0; i < CELLS; i++) {
		if (cpu == 0) {
			cell[i].x = 1;
			cell[i].y = 1;
		} else {
			seen[0][i] = cell[i].y;
			seen[1][i] = cell[i].x;
		}
	}
}

/* Store buffering with a fence between: not both see 0. */
static void fenced_job(unsigned cpu, unsigned n)
{
	if (cpu > 1)
		return;
	meet();
	for (unsigned i = 0; i < CELLS; i++) {
		if (cpu == 0)
			cell[i].x = 1;
		else
			cell[i].y = 1;
		if (i & 1)
			asm volatile("mfence" ::: "memory");
		else
			asm volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");
		seen[cpu][i] = cpu == 0 ? cell[i].y : cell[i].x;
	}
}

/* Load buffering: loads are not passed by later stores. */
static void load_job(unsigned cpu, unsigned n)
{
	if (cpu > 1)
		return;
	meet();
	for (unsigned i = 0; i < CELLS; i++) {
		if (cpu == 0) {
			seen[0][i] = cell[i].y;
			cell[i].x = 1;
		} else {
			seen[1][i] = cell[i].x;
			cell[i].y = 1;
		}
	}
}

/* One location never goes backwards; one's own stores are seen at once. */
static void coherence_job(unsigned cpu, unsigned n)
{
	if (cpu > 1)
		return;
	meet();
	for (unsigned i = 0; i < CELLS; i++) {
		if (cpu == 0) {
			cell[i].x = 1;
			seen[0][i] = cell[i].x;
			cell[i].x = 2;
		} else {
			seen[1][i] = cell[i].x;
			seen2[1][i] = cell[i].x;
		}
	}
}

static void clear_cells(void)
{
	for (unsigned i = 0; i < CELLS; i++)
		cell[i].x = cell[i].y = 0;
}

static void memory_order(void)
{
	unsigned bad[4] = {0};

	group("memory order");
	for (unsigned turn = 0; turn < TURNS; turn++) {
		clear_cells();
		run_all(message_job);
		for (unsigned i = 0; i < CELLS; i++)
			bad[0] += seen[0][i] && !seen[1][i];
		clear_cells();
		run_all(fenced_job);
		for (unsigned i = 0; i < CELLS; i++)
			bad[1] += !seen[0][i] && !seen[1][i];
		clear_cells();
		run_all(load_job);
		for (unsigned i = 0; i < CELLS; i++)
			bad[2] += seen[0][i] && seen[1][i];
		clear_cells();
		run_all(coherence_job);
		for (unsigned i = 0; i < CELLS; i++)
			bad[3] += seen2[1][i] < seen[1][i] || seen[0][i] < 1;
	}
	CHECK_EQ(bad[0], 0);
	CHECK_EQ(bad[1], 0);
	CHECK_EQ(bad[2], 0);
	CHECK_EQ(bad[3], 0);
}

/* --- accessed and dirty bits are set by locked updates --- */

static volatile uint64_t *shared_pte;
static volatile unsigned lost;

static void dirty_job(unsigned cpu, unsigned n)
{
	if (cpu > 1)
		return;
	for (unsigned i = 0; i < 2000; i++) {
		if (cpu) {
			*(volatile uint64_t *)TEST = i;
			invlpg(TEST);
		} else { /* a software bit, set and cleared by locked instructions, is never lost */
			asm volatile("lock btsq $9, %0" : "+m"(*shared_pte)::"cc", "memory");
			if (!(*shared_pte >> 9 & 1))
				ADD(lost, 1);
			asm volatile("lock btrq $9, %0; lock btrq $6, %0"
				     : "+m"(*shared_pte)::"cc", "memory");
		}
	}
}

static void dirty_bits(void)
{
	group("page-table updates");
	map(TEST, 0x1200000 | P_P | P_W);
	shared_pte = pte_of(boot_pml4, TEST, 1);
	run_all(dirty_job);
	CHECK_EQ(lost, 0);
	CHECK_EQ(*shared_pte & ~0x60ull, 0x1200000 | P_P | P_W);
}

/* --- INIT of a running processor, and SIPI again --- */

static void restart(void)
{
	group("restart");
	extern uint32_t ap_next;
	unsigned before = alive;

	ap_next = 1; /* the same stack, the same index */
	started[1] = false;
	send(1, ICR_INIT);
	delay(20000000);
	CHECK(!started[1]);
	send(1, ICR_STARTUP | 1);
	CHECK(wait_until(&alive, before + 1));
	delay(2000000);
	CHECK(started[1]);
	run_all(locked_job);
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	trap_hook = on_trap;
	start_processors();
	if (cpus < 2)
		return verdict();
	locked();
	interrupts();
	shootdown();
	changing_code();
	memory_order();
	dirty_bits();
	restart();
	return verdict();
}
