/* SPDX-License-Identifier: BSD-2-Clause */
/* From the boot sector's state to C in 32-bit protected mode, flat, without paging. */
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
	lgdtl gdtr
	mov %cr0, %eax
	or $0x21, %al			/* PE NE */
	mov %eax, %cr0
	ljmpl $0x08, $1f
	.code32
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov $bss_start, %edi
	mov $bss_end, %ecx
	sub %edi, %ecx
	shr $2, %ecx
	xor %eax, %eax
	rep stosl
	mov $stack_top, %esp
	call image_main
	push %eax
	call finish

	.data
	.balign 8
	.global gdt, gdtr
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* 08 code */
	.quad 0x00cf93000000ffff	/* 10 data */
	.quad 0x00cffb000000ffff	/* 18 user code */
	.quad 0x00cff3000000ffff	/* 20 user data */
	.quad 0x00009b000000ffff	/* 28 code 16 */
	.quad 0x000093000000ffff	/* 30 data 16 */
	.quad 0				/* 38 TSS */
	.quad 0				/* 40 second TSS */
	.quad 0				/* 48 LDT */
	.fill 22, 8, 0			/* 50.. for the tests */
gdt_end:
gdtr:
	.word gdt_end - gdt - 1
	.long gdt

	.bss
	.balign 16
	.skip 16384
stack_top:
