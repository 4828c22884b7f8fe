/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The boot vCPU's state at the kernel's first instruction.
 *
 * 64-bit entry: long mode, the first 4 GiB mapped to themselves by 2 MiB pages, flat segments with the selectors that
 * the boot protocol asks for (code 10h, data 18h), RSI pointing to boot_params. PVH: protected mode without
 * paging, flat segments, EBX pointing to the start info. Interrupts are off in both.
 */
#include <errno.h>
#include <string.h>

#include "kvm/kvm.h"
#include "machine/boot.h"
#include "machine/layout.h"

enum { SELECTOR_CODE = 0x10, SELECTOR_DATA = 0x18, SELECTOR_TASK = 0x20 };
enum { TYPE_CODE = 11, TYPE_DATA = 3, TYPE_TASK = 11 };
enum { IDENTITY_GIB = 4, ENTRIES = 512, LARGE_PAGE = 2 << 20 };

static uint64_t descriptor(const struct kvm_segment *s)
{
	uint64_t limit = s->g ? s->limit >> 12 : s->limit;

	return (limit & 0xffff) | (s->base & 0xffffff) << 16 |
	       (uint64_t)(s->type | s->s << 4 | s->dpl << 5 | s->present << 7) << 40 | (limit >> 16 & 15) << 48 |
	       (uint64_t)(s->avl | s->l << 1 | s->db << 2 | s->g << 3) << 52 | (s->base >> 24 & 0xff) << 56;
}

static int write_gdt(struct memory *mem, struct kvm_sregs *sregs)
{
	uint64_t gdt[5] = {
		[SELECTOR_CODE / 8] = descriptor(&sregs->cs),
		[SELECTOR_DATA / 8] = descriptor(&sregs->ds),
		[SELECTOR_TASK / 8] = descriptor(&sregs->tr),
	};

	sregs->gdt.base = GDT_GPA;
	sregs->gdt.limit = sizeof(gdt) - 1;
	sregs->idt.base = 0;
	sregs->idt.limit = 0;
	return mem_write(mem, GDT_GPA, gdt, sizeof(gdt));
}

/* One top-level table, one directory-pointer table, four directories of 2 MiB pages, in consecutive pages. */
static int write_page_tables(struct memory *mem)
{
	uint64_t *table = mem_at(mem, PAGE_TABLES_GPA, (2 + IDENTITY_GIB) * PAGE_SIZE, MEM_WRITE);

	if (!table)
		return -EFAULT;
	table[0] = (PAGE_TABLES_GPA + PAGE_SIZE) | PTE_P | PTE_W;
	for (unsigned k = 0; k < IDENTITY_GIB; k++)
		table[ENTRIES + k] = (PAGE_TABLES_GPA + (2 + k) * PAGE_SIZE) | PTE_P | PTE_W;
	for (uint64_t k = 0; k < IDENTITY_GIB * ENTRIES; k++)
		table[2 * ENTRIES + k] = k * LARGE_PAGE | PTE_P | PTE_W | PTE_PS;
	return 0;
}

static void set_segments(struct kvm_sregs *s, bool is_64bit)
{
	struct kvm_segment code = {.limit = UINT32_MAX, .selector = SELECTOR_CODE, .type = TYPE_CODE, .present = 1,
				   .s = 1, .g = 1, .l = is_64bit, .db = !is_64bit};
	struct kvm_segment data = {.limit = UINT32_MAX, .selector = SELECTOR_DATA, .type = TYPE_DATA, .present = 1,
				   .s = 1, .g = 1, .db = 1};
	struct kvm_segment task = {.limit = 0x67, .selector = SELECTOR_TASK, .type = TYPE_TASK, .present = 1};

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = task;
}

static void set_modes(struct kvm_sregs *s, bool is_64bit)
{
	s->cr0 = CR0_PE | CR0_ET | CR0_NE;
	s->cr4 = 0;
	s->efer = 0;
	if (is_64bit) {
		s->cr0 |= CR0_PG;
		s->cr3 = PAGE_TABLES_GPA;
		s->cr4 = CR4_PAE;
		s->efer = EFER_LME | EFER_LMA;
	}
}

int boot_entry(struct kvm_vcpu *vcpu, struct memory *mem, const struct kernel *kernel)
{
	bool is_64bit = kernel->protocol == BOOT_LINUX64;
	struct kvm_regs regs = {.rip = kernel->entry, .rsp = BOOT_STACK_GPA, .rflags = FLAG_FIXED};
	struct kvm_sregs sregs;
	int err = kvm_vcpu_get_sregs(vcpu, &sregs);

	if (err)
		return err;
	set_segments(&sregs, is_64bit);
	set_modes(&sregs, is_64bit);
	err = write_gdt(mem, &sregs);
	if (!err && is_64bit)
		err = write_page_tables(mem);
	if (!err)
		err = kvm_vcpu_set_sregs(vcpu, &sregs);
	if (kernel->protocol != BOOT_PVH)
		regs.rsi = BOOT_PARAMS_GPA;
	else
		regs.rbx = PVH_START_INFO_GPA;
	return err ? err : kvm_vcpu_set_regs(vcpu, &regs);
}
