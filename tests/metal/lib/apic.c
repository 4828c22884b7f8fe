/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counting interrupts and waiting for them.
 */
#include "apic.h"

volatile unsigned irq_count[256], irq_order[64], irq_total;
volatile bool irq_auto_eoi = true;
volatile uint64_t irq_rip;

static bool on_interrupt(struct frame *f)
{
	if (f->vector < 32 && f->vector != NMI)
		return false;
	irq_count[f->vector]++;
	if (irq_total < 64)
		irq_order[irq_total] = (unsigned)f->vector;
	irq_total++;
	irq_rip = f->rip;
	if (irq_auto_eoi && f->vector != NMI && f->vector < 0xf0 &&
	    (f->vector & 0xf0) != 0x70) /* 7x: the PICs' in these tests */
		apic_write(APIC_EOI, 0);
	return true;
}

void count_interrupts(void)
{
	trap_hook = on_interrupt;
}

void forget_interrupts(void)
{
	memset((void *)irq_count, 0, sizeof(irq_count));
	irq_total = 0;
}

void apic_enable(void)
{
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_TPR, 0);
}

bool wait_for(unsigned vector, unsigned n)
{
	uint64_t end = rdtsc() + 20000000000ull;

	while (irq_count[vector] < n && rdtsc() < end)
		asm volatile("sti; nop; nop; cli; pause" ::: "memory");
	return irq_count[vector] >= n;
}
