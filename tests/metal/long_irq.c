/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Interrupts on one processor: local APIC, I/O APIC, PICs and PIT, NMI, HLT, interrupt shadows and priorities
 * (SDM volume 3, chapter 10; 6.8).
 */
#include "apic.h"

static void self(unsigned vector)
{
	apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | vector);
}

static void local_apic(void)
{
	group("local APIC");
	CHECK_EQ(rdmsr(MSR_APIC_BASE) & 0xfffff900, 0xfee00900);
	CHECK_EQ(apic_read(APIC_ID) >> 24, 0);
	CHECK(apic_read(APIC_VERSION) >> 16 >= 4);
	apic_enable();
	forget_interrupts();
	self(0x40);
	CHECK_EQ(irq_total, 0); /* IF is clear */
	CHECK(apic_bit(APIC_IRR, 0x40));
	CHECK(wait_for(0x40, 1));
	CHECK(!apic_bit(APIC_IRR, 0x40));
	CHECK(!apic_bit(APIC_ISR, 0x40));
	/* Priority: the highest vector first; sent twice, taken once. */
	forget_interrupts();
	self(0x41);
	self(0x91);
	self(0x51);
	self(0x51);
	CHECK(wait_for(0x41, 1));
	CHECK_EQ(irq_total, 3);
	CHECK_EQ(irq_order[0], 0x91);
	CHECK_EQ(irq_order[1], 0x51);
	CHECK_EQ(irq_order[2], 0x41);
	/* TPR and CR8 hold back classes up to theirs. */
	forget_interrupts();
	apic_write(APIC_TPR, 0x50);
	CHECK_EQ(READ_REG(cr8), 5);
	CHECK_EQ(apic_read(APIC_PPR), 0x50);
	self(0x5f);
	self(0x60);
	CHECK(wait_for(0x60, 1));
	CHECK_EQ(irq_total, 1);
	WRITE_REG(cr8, 4);
	CHECK_EQ(apic_read(APIC_TPR), 0x40);
	CHECK(wait_for(0x5f, 1));
	WRITE_REG(cr8, 0);
	/* Without EOI only higher classes come through. */
	forget_interrupts();
	irq_auto_eoi = false;
	self(0x60);
	CHECK(wait_for(0x60, 1));
	CHECK(apic_bit(APIC_ISR, 0x60));
	CHECK_EQ(apic_read(APIC_PPR), 0x60);
	self(0x61);
	self(0x70 + 0x10);
	CHECK(wait_for(0x80, 1));
	CHECK_EQ(irq_total, 2);
	apic_write(APIC_EOI, 0);
	CHECK_EQ(apic_read(APIC_PPR), 0x60);
	apic_write(APIC_EOI, 0);
	CHECK(wait_for(0x61, 1));
	apic_write(APIC_EOI, 0);
	CHECK_EQ(apic_read(APIC_PPR), 0);
	irq_auto_eoi = true;
	/* Vectors below 16 are illegal: the error is in ESR after a write to it. */
	apic_write(APIC_ESR, 0);
	if (!is_oracle()) /* which delivers it */
		self(3);
	apic_write(APIC_ESR, 0);
	CHECK_UNLESS_ORACLE((apic_read(APIC_ESR) & 0x60) != 0);
	apic_write(APIC_ESR, 0);
	/* Logical destination to oneself. */
	apic_write(APIC_LDR, 0x02000000);
	apic_write(APIC_DFR, 0xffffffff);
	forget_interrupts();
	apic_write(APIC_ICR_HIGH, 0x02000000);
	apic_write(APIC_ICR, ICR_LOGICAL | ICR_ASSERT | 0x45);
	apic_write(APIC_ICR_HIGH, 0x04000000);
	apic_write(APIC_ICR, ICR_LOGICAL | ICR_ASSERT | 0x46);
	CHECK(wait_for(0x45, 1));
	CHECK_EQ(irq_count[0x46], 0);
	apic_write(APIC_ICR_HIGH, 0);
}

static void apic_timer(void)
{
	group("APIC timer");
	forget_interrupts();
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, 0x42);
	apic_write(APIC_TIMER_INITIAL, 100000);
	CHECK(apic_read(APIC_TIMER_CURRENT) <= 100000);
	CHECK(wait_for(0x42, 1));
	CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
	asm volatile("sti; nop; nop; cli");
	CHECK_EQ(irq_count[0x42], 1);
	forget_interrupts();
	apic_write(APIC_LVT_TIMER, 0x43 | LVT_PERIODIC);
	apic_write(APIC_TIMER_INITIAL, 200000);
	CHECK(wait_for(0x43, 5));
	apic_write(APIC_LVT_TIMER, 0x43 | LVT_PERIODIC | LVT_MASKED);
	asm volatile("sti; nop; nop; cli");
	forget_interrupts();
	for (int i = 0; i < 100; i++)
		asm volatile("sti; nop; cli");
	CHECK_EQ(irq_total, 0);
	apic_write(APIC_TIMER_INITIAL, 0);
	/* HLT wakes by it; RIP is behind HLT. */
	apic_write(APIC_LVT_TIMER, 0x44);
	apic_write(APIC_TIMER_INITIAL, 1000000);
	asm volatile("sti; hlt\n after_hlt: cli" ::: "memory");
	uint64_t after;
	asm volatile("lea after_hlt(%%rip), %0" : "=r"(after));
	CHECK_EQ(irq_count[0x44], 1);
	CHECK_EQ(irq_rip, after);
	if (cpuid(1, 0).c & 1 << 24) {
		apic_write(APIC_LVT_TIMER, 0x46 | LVT_TSC_DEADLINE);
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + (1ull << 40));
		CHECK(rdmsr(MSR_TSC_DEADLINE) != 0);
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
		CHECK(wait_for(0x46, 1));
		CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
		wrmsr(MSR_TSC_DEADLINE, 1); /* long past: at once */
		CHECK(wait_for(0x46, 2));
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + (1ull << 40));
		wrmsr(MSR_TSC_DEADLINE, 0);
		CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
	} else {
		skip("no TSC deadline");
	}
	apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

static void shadows(void)
{
	uint64_t at;

	group("interrupt shadows");
	forget_interrupts();
	self(0x40);
	asm volatile("sti\n sh1: nop\n sh2: nop\n cli" ::: "memory");
	asm volatile("lea sh2(%%rip), %0" : "=r"(at));
	CHECK_EQ(irq_count[0x40], 1);
	CHECK_EQ(irq_rip, at); /* one instruction ran under STI's shadow */
	forget_interrupts();
	self(0x40);
	asm volatile("sti; cli; nop" ::: "memory"); /* never open */
	CHECK_EQ(irq_total, 0);
	asm volatile("sti; nop; cli" ::: "memory");
	CHECK_EQ(irq_total, 1);
	forget_interrupts();
	self(0x40);
	asm volatile("pushf; orq $0x200, (%%rsp); popf\n pf1: nop; cli" ::
			 : "memory"); /* POPF has no shadow */
	asm volatile("lea pf1(%%rip), %0" : "=r"(at));
	CHECK_EQ(irq_rip, at);
	forget_interrupts();
	asm volatile("mov %%ss, %%eax; mov $0xfee00300, %%ecx; sti; nop; movl $0x44040, (%%rcx)\n ms0: mov "
		     "%%eax, %%ss\n ms1: nop\n ms2: cli" ::
			 : "rax", "rcx", "memory");
	asm volatile("lea ms0(%%rip), %0" : "=r"(at));
	CHECK_EQ(irq_count[0x40], 1);
	CHECK_UNLESS_ORACLE(irq_rip == at);
	/* STI with IF already set has no shadow to speak of; HLT in the shadow still sleeps and wakes. */
	forget_interrupts();
	self(0x40);
	asm volatile("sti; hlt; cli" ::: "memory");
	CHECK_EQ(irq_count[0x40], 1);
	/* An interrupt between the iterations of a REP string instruction: registers go on right. */
	static uint8_t from[65536], to[65536];
	for (unsigned i = 0; i < sizeof(from); i++)
		from[i] = (uint8_t)(i * 3 + (i >> 8));
	forget_interrupts();
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, 0x43 | LVT_PERIODIC);
	apic_write(APIC_TIMER_INITIAL, 50000);
	for (int i = 0; i < 50; i++) {
		memset(to, 0, sizeof(to));
		asm volatile("sti");
		memcpy(to, from, sizeof(to));
		asm volatile("cli");
		CHECK_EQ(memcmp(from, to, sizeof(to)), 0);
	}
	CHECK(wait_for(0x43, 1));
	apic_write(APIC_LVT_TIMER, LVT_MASKED);
	asm volatile("sti; nop; nop; cli");
}

static volatile unsigned nmi_depth, nmi_seen;

static bool on_nmi(struct frame *f)
{
	if (f->vector == NMI) {
		nmi_seen++;
		if (nmi_seen == 1) { /* another NMI inside waits for IRET */
			apic_write(APIC_ICR, ICR_SELF * 0 | ICR_ASSERT | ICR_NMI);
			for (volatile int i = 0; i < 100; i++)
				;
			nmi_depth = nmi_seen;
		}
		return true;
	}
	return false;
}

static void nmi(void)
{
	group("NMI");
	trap_hook = on_nmi;
	apic_write(APIC_ICR_HIGH, 0); /* to APIC 0: NMI has no shorthand to oneself */
	apic_write(APIC_ICR, ICR_ASSERT | ICR_NMI);
	for (volatile int i = 0; i < 1000 && nmi_seen < 2; i++)
		;
	CHECK_EQ(nmi_seen, 2);
	CHECK_EQ(nmi_depth, 1);
	count_interrupts();
	forget_interrupts();
	/* It comes through with IF clear and wakes HLT. */
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER,
		   ICR_NMI | 0x40); /* delivery mode is ignored by the timer: a plain interrupt */
	apic_write(APIC_LVT_TIMER, LVT_MASKED);
	apic_write(APIC_ICR, ICR_ASSERT | ICR_NMI);
	for (volatile int i = 0; i < 1000 && !irq_count[NMI]; i++)
		;
	CHECK_EQ(irq_count[NMI], 1);
}

static void io_apic(void)
{
	group("I/O APIC");
	CHECK_EQ(ioapic_read(1) >> 16 & 0xff, 23);
	for (unsigned pin = 0; pin < 24; pin++)
		ioapic_pin(pin, 1 << 16);
	/* Edge: once per rise. */
	forget_interrupts();
	ioapic_pin(10, 0x55);
	outb(0x2000 + 10, 1);
	CHECK(wait_for(0x55, 1));
	outb(0x2000 + 10, 1);
	outb(0x2000 + 10, 0);
	CHECK_EQ(irq_total, 1);
	outb(0x2000 + 10, 1);
	CHECK(wait_for(0x55, 2));
	outb(0x2000 + 10, 0);
	/* Level: again after each EOI while the line is up. */
	forget_interrupts();
	irq_auto_eoi = false;
	ioapic_pin(11, 0x56 | 1 << 15);
	outb(0x2000 + 11, 1);
	CHECK(wait_for(0x56, 1));
	CHECK(apic_bit(APIC_TMR, 0x56));
	CHECK_EQ(ioapic_read(0x10 + 22) >> 14 & 1, 1); /* remote IRR */
	CHECK_EQ(irq_total, 1);
	apic_write(APIC_EOI, 0);
	CHECK(wait_for(0x56, 2));
	outb(0x2000 + 11, 0);
	apic_write(APIC_EOI, 0);
	CHECK_EQ(ioapic_read(0x10 + 22) >> 14 & 1, 0);
	asm volatile("sti; nop; nop; cli");
	CHECK_EQ(irq_total, 2);
	irq_auto_eoi = true;
	/* Masked: an edge is lost, a level waits. */
	forget_interrupts();
	ioapic_pin(11, 0x56 | 1 << 15 | 1 << 16);
	outb(0x2000 + 11, 1);
	asm volatile("sti; nop; nop; cli");
	CHECK_EQ(irq_total, 0);
	irq_auto_eoi = false;
	ioapic_pin(11, 0x56 | 1 << 15);
	CHECK(wait_for(0x56, 1));
	outb(0x2000 + 11, 0);
	apic_write(APIC_EOI, 0);
	irq_auto_eoi = true;
	ioapic_pin(11, 1 << 16);
	/* The table reads back. */
	ioapic_pin(12, 0x0f00000000018957ull | 1 << 16);
	CHECK_EQ(ioapic_read(0x10 + 24) & 0x1afff, 0x18957 & 0x1afff);
	CHECK_EQ(ioapic_read(0x11 + 24) >> 24, 0x0f);
	ioapic_pin(12, 1 << 16);
}

static void pics(void)
{
	group("PICs and PIT");
	outb(0x20, 0x11);
	outb(0xa0, 0x11);
	outb(0x21, 0x70);
	outb(0xa1, 0x78);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	CHECK_EQ(inb(0x21), 0xff);
	apic_write(APIC_LVT_LINT0, 0x700); /* ExtINT */
	forget_interrupts();
	outb(0x21, 0xf7); /* IRQ 3 */
	outb(0x2003, 1);
	CHECK(wait_for(0x73, 1));
	outb(0x20, 0x0b);
	CHECK_EQ(inb(0x20), 8);
	outb(0x2003, 0);
	outb(0x2003, 1); /* in service: not again */
	asm volatile("sti; nop; nop; cli");
	CHECK_EQ(irq_total, 1);
	outb(0x20, 0x20);
	CHECK(wait_for(0x73, 2));
	outb(0x2003, 0);
	outb(0x20, 0x20);
	/* Through the second PIC. */
	forget_interrupts();
	outb(0x21, 0xfb);
	outb(0xa1, 0xf7); /* IRQ 11 */
	outb(0x200b, 1);
	CHECK(wait_for(0x7b, 1));
	outb(0x200b, 0);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	outb(0xa1, 0xff);
	outb(0x21, 0xff);
	/* PIT, channel 0: one shot, then periodic. */
	forget_interrupts();
	outb(0x21, 0xfe);
	outb(0x43, 0x30);
	outb(0x40, 0);
	outb(0x40, 4);
	CHECK(wait_for(0x70, 1));
	outb(0x20, 0x20);
	outb(0x43, 0x34); /* rate generator */
	outb(0x40, 0xa9);
	outb(0x40, 4);
	for (unsigned i = 2; i < 6; i++) {
		CHECK(wait_for(0x70, i));
		outb(0x20, 0x20);
	}
	outb(0x43, 0); /* latch: counts down */
	unsigned count = inb(0x40);
	count |= (unsigned)inb(0x40) << 8;
	CHECK(count <= 0x4a9);
	outb(0x21, 0xff);
	/* Channel 2 through port 61h: OUT goes high after the count. */
	outb(0x61, (uint8_t)((inb(0x61) & ~2) | 1));
	outb(0x43, 0xb0);
	outb(0x42, 0xff);
	uint64_t start = rdtsc();
	outb(0x42, 0xff);
	uint8_t low = inb(0x61) & 0x20;
	CHECK(!low || rdtsc() - start > 10000000); /* unless the host took a long break */
	uint64_t end = rdtsc() + 6000000000ull;
	while (!(inb(0x61) & 0x20) && rdtsc() < end)
		;
	CHECK_EQ(inb(0x61) & 0x20, 0x20);
	apic_write(APIC_LVT_LINT0, LVT_MASKED);
	/* The PIT through the I/O APIC: pin 2. */
	forget_interrupts();
	ioapic_pin(2, 0x57);
	CHECK(wait_for(0x57, 2));
	ioapic_pin(2, 1 << 16);
	outb(0x43, 0x30);		    /* stop: one shot, not loaded */
	asm volatile("sti; nop; nop; cli"); /* one may have been under way */
}

static void x2apic(void)
{
	group("x2APIC");
	if (!(cpuid(1, 0).c & 1 << 21)) {
		skip("not offered");
		return;
	}
	TRY("mov $0x802, %%ecx\n" AT("rdmsr")); /* only in x2APIC mode */
	CHECK_FAULT_ERROR(GP, 0);
	uint64_t base = rdmsr(MSR_APIC_BASE);
	wrmsr(MSR_APIC_BASE, base | 1 << 10);
	CHECK_EQ(rdmsr(0x802), 0);
	wrmsr(0x80f, 0x1ff);
	forget_interrupts();
	irq_auto_eoi = false;
	wrmsr(0x83f, 0x48); /* self IPI */
	CHECK(wait_for(0x48, 1));
	wrmsr(0x80b, 0);
	wrmsr(0x830, 0x49); /* to APIC 0 */
	CHECK(wait_for(0x49, 1));
	wrmsr(0x80b, 0);
	wrmsr(0x830, ICR_SELF | 0x4a);
	CHECK(wait_for(0x4a, 1));
	CHECK_EQ(rdmsr(0x810 + 2) >> 10 & 1, 1);
	wrmsr(0x80b, 0);
	CHECK_EQ(rdmsr(0x80d), 1);						 /* logical id of APIC 0 */
	TRY("mov $0x80b, %%ecx; mov $1, %%eax; xor %%edx, %%edx\n" AT("wrmsr")); /* EOI takes 0 only */
	CHECK_FAULT_ERROR(GP, 0);
	TRY("mov $0x80e, %%ecx\n" AT("rdmsr")); /* no DFR */
	CHECK_FAULT_ERROR(GP, 0);
	wrmsr(0x808, 0x30);
	CHECK_EQ(READ_REG(cr8), 3);
	WRITE_REG(cr8, 0);
	TRY("mov $0x1b, %%ecx; rdmsr; btr $11, %%eax; bts $10, %%eax\n" AT(
	    "wrmsr")); /* x2APIC without enable */
	CHECK_FAULT_ERROR(GP, 0);
	irq_auto_eoi = true;
	wrmsr(MSR_APIC_BASE, base & ~(1ull << 11));
	CHECK_EQ(cpuid(1, 0).d >> 9 & 1, 0); /* the feature bit follows */
	wrmsr(MSR_APIC_BASE, base);
	CHECK_EQ(cpuid(1, 0).d >> 9 & 1, 1);
	apic_enable();
	forget_interrupts();
	self(0x40);
	CHECK(wait_for(0x40, 1));
}

int image_main(void)
{
	setup_traps();
	setup_paging();
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	count_interrupts();
	local_apic();
	apic_timer();
	shadows();
	nmi();
	count_interrupts();
	io_apic();
	pics();
	x2apic();
	return verdict();
}
