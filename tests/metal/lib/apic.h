/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Local APIC and I/O APIC registers, and interrupts that are counted per vector.
 */
#ifndef METAL_APIC_H
#define METAL_APIC_H

#include "metal.h"

enum {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR_HIGH = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_LINT0 = 0x350,
	APIC_LVT_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370,
	APIC_TIMER_INITIAL = 0x380,
	APIC_TIMER_CURRENT = 0x390,
	APIC_TIMER_DIVIDE = 0x3e0
};
enum {
	LVT_MASKED = 1 << 16,
	LVT_PERIODIC = 1 << 17,
	LVT_TSC_DEADLINE = 2 << 17,
	ICR_SELF = 1 << 18,
	ICR_ALL = 2 << 18,
	ICR_OTHERS = 3 << 18,
	ICR_LOGICAL = 1 << 11,
	ICR_ASSERT = 1 << 14,
	ICR_NMI = 4 << 8,
	ICR_INIT = 5 << 8,
	ICR_STARTUP = 6 << 8
};
#define MSR_APIC_BASE	 0x1b
#define MSR_TSC_DEADLINE 0x6e0

static inline uint32_t apic_read(unsigned reg)
{
	return *(volatile uint32_t *)(0xfee00000ull + reg);
}
static inline void apic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)(0xfee00000ull + reg) = v;
}
static inline bool apic_bit(unsigned base, unsigned vector)
{
	return apic_read(base + vector / 32 * 16) >> (vector & 31) & 1;
}
static inline uint32_t ioapic_read(unsigned reg)
{
	*(volatile uint32_t *)0xfec00000ull = reg;
	return *(volatile uint32_t *)0xfec00010ull;
}
static inline void ioapic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)0xfec00000ull = reg;
	*(volatile uint32_t *)0xfec00010ull = v;
}
static inline void ioapic_pin(unsigned pin, uint64_t entry)
{
	ioapic_write(0x10 + 2 * pin, 1 << 16);
	ioapic_write(0x11 + 2 * pin, (uint32_t)(entry >> 32));
	ioapic_write(0x10 + 2 * pin, (uint32_t)entry);
}

extern volatile unsigned irq_count[256];
extern volatile unsigned irq_order[64], irq_total;
extern volatile bool irq_auto_eoi;
extern volatile uint64_t irq_rip;

/* Makes vectors from 32 up counted; exceptions go on to TRY. */
void count_interrupts(void);
void forget_interrupts(void);
void apic_enable(void);
/* Waits with interrupts on until irq_count[vector] reaches n; false after several seconds. */
bool wait_for(unsigned vector, unsigned n);

#endif
