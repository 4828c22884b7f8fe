/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptor tables and the common end of every exception and interrupt in long mode.
 */
#include "metal.h"

volatile struct trap trap;
bool (*volatile trap_hook)(struct frame *);
volatile uint64_t catch_rip, catch_rsp, here;
struct gate idt[256] __attribute__((aligned(16)));
struct tss64 tss __attribute__((aligned(16)));
static uint8_t ring0_stack[8192] __attribute__((aligned(16)));
uint8_t user_stack[4096] __attribute__((section(".user"), aligned(4096)));
__asm__(".global user_stack_top\n.set user_stack_top, user_stack + 4096");

void trap_handle(struct frame *f);

static void unexpected(const struct frame *f)
{
	static bool again;

	if (again)
		finish(1);
	again = true;
	put_string("FAIL unexpected trap ");
	put_hex(f->vector);
	put_string(" error ");
	put_hex(f->error);
	put_string(" rip ");
	put_hex(f->rip);
	put_string(" cs ");
	put_hex(f->cs);
	put_string(" rsp ");
	put_hex(f->rsp);
	put_string(" rflags ");
	put_hex(f->rflags);
	put_string(" cr2 ");
	put_hex(READ_REG(cr2));
	put_string("\n");
	finish(1);
}

static void record(const struct frame *f)
{
	trap.vector = f->vector;
	trap.error = f->error;
	trap.rip = f->rip;
	trap.cs = f->cs;
	trap.rflags = f->rflags;
	trap.rsp = f->rsp;
	trap.ss = f->ss;
	trap.cr2 = READ_REG(cr2);
	trap.dr6 = READ_REG(dr6);
	trap.count++;
}

void trap_handle(struct frame *f)
{
	if (trap_hook && trap_hook(f))
		return;
	if (!catch_rip)
		unexpected(f);
	record(f);
	f->rip = catch_rip;
	f->rsp = catch_rsp;
	f->cs = SEL_CODE64;
	f->ss = SEL_DATA;
	f->rflags = 2;
	catch_rip = 0;
}

void set_gate(unsigned vector, void *handler, unsigned selector, unsigned type, unsigned ist)
{
	uint64_t at = (uint64_t)handler;

	idt[vector] = (struct gate){(uint16_t)at,
				    (uint16_t)selector,
				    (uint8_t)ist,
				    (uint8_t)type,
				    (uint16_t)(at >> 16),
				    (uint32_t)(at >> 32),
				    0};
}

void default_gate(unsigned vector)
{
	set_gate(vector, trap_stubs + 16 * vector, SEL_CODE64,
		 GATE_INTR | (vector == BP || vector == OF ? 0x60 : 0), 0);
}

uint64_t seg_desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

void load_idt(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = {sizeof(idt) - 1, (uint64_t)idt};

	asm volatile("lidt %0" ::"m"(idtr));
}

void setup_traps(void)
{
	for (unsigned i = 0; i < 256; i++)
		default_gate(i);
	load_idt();
	tss.rsp[0] = (uint64_t)(ring0_stack + sizeof(ring0_stack));
	tss.iomap = offsetof(struct tss64, bitmap);
	memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
	gdt[SEL_TSS / 8] = seg_desc((uint32_t)(uint64_t)&tss, sizeof(tss) - 1, 0x89, 0);
	gdt[SEL_TSS / 8 + 1] = 0;
	asm volatile("ltr %w0" ::"r"(SEL_TSS));
}

struct user_entry {
	void *code;
	uint64_t cs, rflags;
};

static void user_trampoline(uint64_t at, uint64_t unused)
{
	const struct user_entry *e = (const struct user_entry *)at;

	enter_user(e->code, user_stack_top, e->cs, e->rflags);
}

void run_user(void *code, uint64_t cs, uint64_t rflags)
{
	struct user_entry entry = {code, cs, rflags | 2};

	trap.vector = NO_TRAP;
	call_catching((void *)user_trampoline, (uint64_t)&entry, 0);
	asm volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs; mov %1, %%gs" ::"r"(SEL_DATA), "r"(0));
}
