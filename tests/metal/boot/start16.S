/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the boot sector's state to C compiled for 16-bit real mode (gcc -m16): all segments 0, the image below 64 KiB.
 * Interrupts come through real-mode stubs that record them; a trap being caught goes on at catch_ip on catch_sp.
 */
	.section .entry, "ax"
	.code16
	.global _start
_start:
	cli
	cld
	xor %eax, %eax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %fs
	mov %ax, %gs
	mov %ax, %ss
	mov $0x7c00, %esp
	mov $bss_start, %edi
	mov $bss_end, %ecx
	sub %edi, %ecx
	rep stosb
	calll image_main
	pushl %eax
	pushl %eax
	calll finish

	.text
	.global trap_stubs
	.balign 8
trap_stubs:
	.set vector, 0
	.rept 256
	.balign 8
	pushw $vector
	jmp trap_common
	.set vector, vector + 1
	.endr

	/* SS:ESP -> GS FS ES DS EDI..EAX (8) vector IP CS FLAGS */
trap_common:
	pushal
	pushw %ds
	pushw %es
	pushw %fs
	pushw %gs
	cld
	movzwl %sp, %ebp
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ss:40(%ebp), %ax
	mov %ax, trap
	mov %ss:42(%ebp), %ax
	mov %ax, trap + 2
	mov %ss:44(%ebp), %ax
	mov %ax, trap + 4
	mov %ss:46(%ebp), %ax
	mov %ax, trap + 6
	lea 48(%ebp), %ax
	mov %ax, trap + 8
	mov %ss, %ax
	mov %ax, trap + 10
	pushfw
	popw trap + 12
	mov %ss:6(%ebp), %ax
	mov %ax, trap + 14
	mov %ss:4(%ebp), %ax
	mov %ax, trap + 16
	mov %ss:36(%ebp), %eax
	mov %eax, trap + 20
	mov %ss:32(%ebp), %eax
	mov %eax, trap + 24
	mov %ss:12(%ebp), %eax
	mov %eax, trap + 28
	mov %ss:8(%ebp), %eax
	mov %eax, trap + 32
	incl trap_count
	cmpw $0, trap_resume
	jne 1f
	mov catch_ip, %ax
	test %ax, %ax
	jz unexpected
	xor %dx, %dx
	mov %dx, %ss
	mov catch_sp, %esp
	mov %dx, %fs
	mov %dx, %gs
	movw $0, catch_ip
	jmp *%ax
	/* go on where it was; each IP is logged */
1:	mov trap_count, %eax
	cmp $32, %eax
	jae 2f
	mov trap + 2, %cx
	mov %cx, trap_log - 2(, %eax, 2)
2:	cmpw $2, trap_resume		/* 2: stop single steps */
	jne 3f
	andw $~0x100, %ss:46(%ebp)
3:	popw %gs
	popw %fs
	popw %es
	popw %ds
	popal
	add $2, %sp
	iretw
unexpected:
	xor %ax, %ax
	mov %ax, %ss
	mov $0x7c00, %esp
	calll unexpected_trap

	.bss
	.balign 4
	.global trap, trap_count, trap_resume, trap_log, catch_ip, catch_sp, here
trap:		.skip 36
trap_count:	.skip 4
trap_log:	.skip 64
trap_resume:	.skip 2
catch_ip:	.skip 2
catch_sp:	.skip 4
here:		.skip 2
