/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptor tables and the common end of every exception and interrupt in 32-bit protected mode.
 */
#include "legacy.h"

volatile struct trap trap;
bool (*volatile trap_hook)(struct frame *);
volatile uint32_t catch_eip, catch_esp, here;
uint64_t idt[256] __attribute__((aligned(16)));
struct tss32 tss __attribute__((aligned(128)));
struct __attribute__((packed)) {
	uint16_t limit;
	uint32_t base;
} idtr_value;
static uint8_t ring0_stack[8192] __attribute__((aligned(16)));
uint8_t user_stack[4096] __attribute__((section(".user"), aligned(4096)));
__asm__(
    ".global user_stack_top\n.set user_stack_top, user_stack + 4096\n.global idtr\n.set idtr, idtr_value");

int trap_handle(struct frame *f);

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
	put_string(" eip ");
	put_hex(f->eip);
	put_string(" cs ");
	put_hex(f->cs);
	put_string(" eflags ");
	put_hex(f->eflags);
	put_string(" cr2 ");
	put_hex(READ_REG(cr2));
	put_string("\n");
	finish(1);
}

static void record(const struct frame *f)
{
	bool outer = (f->cs & 3) || (f->eflags & FLAG_VM);

	trap.vector = f->vector;
	trap.error = f->error;
	trap.eip = f->eip;
	trap.cs = f->cs & 0xffff;
	trap.eflags = f->eflags;
	trap.esp = outer ? f->esp : (uint32_t)(&f->eflags + 1);
	trap.ss = outer ? f->ss & 0xffff : 0;
	trap.cr2 = READ_REG(cr2);
	trap.dr6 = READ_REG(dr6);
	trap.eax = f->eax;
	trap.ebx = f->ebx;
	trap.ds = f->ds & 0xffff;
	trap.es = f->es & 0xffff;
	trap.v86_es = f->v86_es;
	trap.v86_ds = f->v86_ds;
	trap.v86_fs = f->v86_fs;
	trap.v86_gs = f->v86_gs;
	trap.at = (uint32_t)f;
	trap.count++;
}

int trap_handle(struct frame *f)
{
	if (trap_hook && trap_hook(f))
		return 1;
	if (!catch_eip)
		unexpected(f);
	record(f);
	return 0;
}

uint64_t gate_desc(uint32_t offset, unsigned selector, unsigned access, unsigned params)
{
	return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)params << 32 |
	       (uint64_t)access << 40 | (uint64_t)(offset >> 16) << 48;
}

void set_gate(unsigned vector, const void *handler, unsigned selector, unsigned access)
{
	idt[vector] = gate_desc((uint32_t)handler, selector, access, 0);
}

void default_gate(unsigned vector)
{
	set_gate(vector, trap_stubs + 16 * vector, SEL_CODE, vector == BP || vector == OF ? 0xee : 0x8e);
}

uint64_t seg_desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

void reload_segments(void)
{
	asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs" ::"r"(SEL_DATA),
		     "r"(0));
}

void setup_traps(void)
{
	for (unsigned i = 0; i < 256; i++)
		default_gate(i);
	idtr.limit = sizeof(idt) - 1;
	idtr.base = (uint32_t)idt;
	asm volatile("lidt %0" ::"m"(idtr));
	tss.esp0 = (uint32_t)(ring0_stack + sizeof(ring0_stack));
	tss.ss0 = SEL_DATA;
	tss.iomap = offsetof(struct tss32, bitmap);
	memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
	gdt[SEL_TSS / 8] = seg_desc((uint32_t)&tss, sizeof(tss) - 1, 0x89, 0);
	asm volatile("ltr %w0" ::"r"(SEL_TSS));
}

void run_user(const void *code, uint32_t eflags)
{
	TRY_ASM("pushl %0; pushl $0x23; pushl $user_stack_top; pushl $0x1b; pushl %1; call enter_user", ,
		"a"(eflags | 2) COMMA "d"(code), "ebx", "ecx", "esi", "edi");
	reload_segments();
}

void run_v86(uint32_t ip, uint32_t cs, uint32_t eflags)
{
	TRY_ASM("pushl $0x1111; pushl %0; pushl $0x1000; pushl $0x2000; pushl %2; pushl %1; call enter_v86", ,
		"a"(eflags | 2 | FLAG_VM) COMMA "d"(ip)COMMA "c"(cs), "ebx", "esi", "edi");
	reload_segments();
}
