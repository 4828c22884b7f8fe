/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * More code than a small code cache holds, on every processor at once: thousands of functions made at run time, called over
 * and over in changing order, a few of them far more often than the others. Each processor rewrites some of its own between
 * calls. What they compute is compared with the same formulas in C.
 */
#include "apic.h"

#define CODE ((uint8_t *)0x1000000)
enum { MAX_CPUS = 4, FUNCTIONS = 12000, SPACING = 64, SHARED = 64, ROUNDS = 30, BEHIND_MULTIPLIER = 9 };

static volatile unsigned alive = 1, done, wrong, go;
static uint32_t addend[FUNCTIONS]; /* as the code has it */

#define ADD(where, n) __atomic_add_fetch(&(where), n, __ATOMIC_SEQ_CST)

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

static uint32_t multiplier(unsigned k)
{
	return (k * 2654435761u & 0x7fffffff) | 1;
}

/* imul rax, rdi, multiplier; add rax, addend; rol rax, k % 64; ret */
static void make_function(unsigned k)
{
	uint8_t *p = CODE + k * SPACING;
	uint32_t m = multiplier(k);

	addend[k] = k;
	memcpy(p, "\x48\x69\xc7", 3);
	memcpy(p + 3, &m, 4);
	memcpy(p + 7, "\x48\x05", 2);
	memcpy(p + BEHIND_MULTIPLIER, &addend[k], 4);
	memcpy(p + 13, "\x48\xc1\xc0", 3);
	p[16] = k % 64;
	p[17] = 0xc3;
}

static uint64_t formula(unsigned k, uint64_t x)
{
	uint64_t y = x * multiplier(k) + addend[k];

	return k % 64 ? y << k % 64 | y >> (64 - k % 64) : y;
}

static uint64_t call(unsigned k, uint64_t x)
{
	return ((uint64_t(*)(uint64_t))(CODE + k * SPACING))(x);
}

static void rewrite(unsigned k, uint32_t value)
{
	addend[k] = value & 0x7fffffff;
	memcpy(CODE + k * SPACING + BEHIND_MULTIPLIER, &addend[k], 4);
}

/* The first SHARED functions are everybody's, and stay as they are; of the others each processor has its own. */
static void work(unsigned cpu)
{
	uint64_t x = cpu, want = cpu;
	uint32_t seed = cpu;

	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned n = 0; n < FUNCTIONS / MAX_CPUS; n++) {
			unsigned k = SHARED + (next_random(&seed) % ((FUNCTIONS - SHARED) / MAX_CPUS)) * MAX_CPUS + cpu;
			unsigned hot = n % SHARED;

			x = call(hot, call(k, x));
			want = formula(hot, formula(k, want));
			if (n % 16 == 0)
				rewrite(k, next_random(&seed));
		}
	if (x != want)
		ADD(wrong, 1);
	ADD(done, 1);
}

void ap_main(unsigned index);

void ap_main(unsigned index)
{
	load_idt();
	ADD(alive, 1);
	while (!go)
		pause();
	work(index);
	for (;;)
		pause();
}

static void delay(unsigned ticks)
{
	uint64_t end = rdtsc() + ticks;

	while (rdtsc() < end)
		pause();
}

int image_main(void)
{
	extern uint8_t ap_entry[], ap_entry_end[];

	setup_traps();
	setup_paging();
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (unsigned k = 0; k < FUNCTIONS; k++)
		make_function(k);
	group("code");
	memcpy((void *)0x1000, ap_entry, (size_t)(ap_entry_end - ap_entry));
	apic_enable();
	apic_write(APIC_ICR, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
	delay(20000000);
	apic_write(APIC_ICR, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | 1);
	for (unsigned turn = 0; turn < 100 && alive < 2; turn++)
		delay(200000000);
	CHECK(alive >= 2 && alive <= MAX_CPUS);
	go = 1;
	work(0);
	while (done < alive)
		pause();
	CHECK_EQ(wrong, 0);
	return verdict();
}
