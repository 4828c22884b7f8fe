/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the boot sector's state (real mode, 0:7c00) to C in long mode: A20 is on, RAM is 32 MiB. Page tables here
 * map the first GiB and the last one below 4 GiB in 2 MiB pages; setup_paging() refines them. The application
 * processors of smp images come the same way through a copy of ap_entry at 0x1000.
 */
	.section .entry, "ax"
	.code16
	.global _start
_start:
	cli
	cld
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0x7c00, %sp
	lgdtl boot_gdtr
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x18, $entry32

	.code32
entry32:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $bss_start, %edi
	mov $bss_end, %ecx
	sub %edi, %ecx
	shr $2, %ecx
	xor %eax, %eax
	rep stosl
	/* page tables: PML4 -> PDPT -> two page directories of 2 MiB pages */
	movl $(boot_pdpt + 7), boot_pml4
	movl $(boot_pd_low + 7), boot_pdpt
	movl $(boot_pd_high + 7), boot_pdpt + 24
	xor %ecx, %ecx
	mov $0x083, %eax
1:	mov %eax, boot_pd_low(, %ecx, 8)
	lea 0xc0000018(%eax), %edx	/* uncached */
	mov %edx, boot_pd_high(, %ecx, 8)
	add $0x200000, %eax
	inc %ecx
	cmp $512, %ecx
	jb 1b
	mov $boot_stack_top, %esp
	call enter_long
	.code64
	mov $boot_stack_top, %rsp
	call image_main
	mov %eax, %edi
	call finish

	/* int3-free stub: turns on paging and returns into 64-bit code behind the call. */
	.code32
	.global enter_long
enter_long:
	mov %cr4, %eax
	or $0x6a0, %eax			/* PAE PGE OSFXSR OSXMMEXCPT */
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax			/* SCE LME NXE */
	wrmsr
	mov %cr0, %eax
	and $~0xc, %eax
	or $0x80010022, %eax		/* PG WP NE MP */
	mov %eax, %cr0
	ljmpl $0x08, $1f
	.code64
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	pop %rax			/* the 4-byte return address and 4 bytes above it */
	mov %eax, %eax
	jmp *%rax

	/* Copied to 0x1000: where SIPI vector 1 starts an AP. The AP's stack is taken by a locked counter. */
	.code16
	.global ap_entry, ap_entry_end
ap_entry:
	cli
	xor %ax, %ax
	mov %ax, %ds
	lgdtl boot_gdtr
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x18, $ap32
ap_entry_end:
	.code32
ap32:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $1, %ebx
	lock xadd %ebx, ap_next
	mov %ebx, %eax
	shl $13, %eax
	lea ap_stacks(%eax), %esp	/* the first AP has index 1: its stack ends at ap_stacks + 8 KiB */
	call enter_long
	.code64
	mov %ebx, %edi
	mov %ebx, %eax
	shl $13, %eax
	lea ap_stacks(%rax), %rsp
	call ap_main
2:	hlt
	jmp 2b

	.data
	.balign 8
	.global gdt, boot_gdtr
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* 08 code 64 */
	.quad 0x00cf93000000ffff	/* 10 data */
	.quad 0x00cf9b000000ffff	/* 18 code 32 */
	.quad 0x00cffb000000ffff	/* 20 user code 32 (SYSRET base - 8 order: 32-bit code, data, 64-bit code) */
	.quad 0x00cff3000000ffff	/* 28 user data */
	.quad 0x00affb000000ffff	/* 30 user code 64 */
	.quad 0x00009b000000ffff	/* 38 code 16 */
	.quad 0, 0			/* 40 TSS */
	.fill 22, 8, 0			/* 50.. for the tests */
gdt_end:
boot_gdtr:
	.word gdt_end - gdt - 1
	.long gdt, 0
	.global ap_next
ap_next:
	.long 1

	.weak ap_main
	.bss
	.balign 4096
	.global boot_pml4, boot_pdpt, boot_pd_low, boot_pd_high, boot_stack_top, ap_stacks
boot_pml4:	.skip 4096
boot_pdpt:	.skip 4096
boot_pd_low:	.skip 4096
boot_pd_high:	.skip 4096
	.skip 16384
boot_stack_top:
ap_stacks:	.skip 8 * 8192
