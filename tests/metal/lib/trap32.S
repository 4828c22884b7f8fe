/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 256 interrupt entries for 32-bit protected mode. A trap that is being caught goes on at catch_eip on
 * catch_esp with flat segments, from whatever ring or mode it came.
 */
	.text
	.global trap_stubs
	.balign 16
trap_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
	.else
	push $0
	.endif
	pushl $vector
	jmp trap_common
	.set vector, vector + 1
	.endr

trap_common:
	pushal
	push %ds
	push %es
	push %fs
	push %gs
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	mov %esp, %ebx
	mov %esp, %eax
	mov %ss, %ecx			/* a 16-bit stack is as good */
	push %eax
	call trap_handle		/* 1: return to the frame */
	mov %ebx, %esp
	test %eax, %eax
	jz 1f
	pop %gs
	pop %fs
	pop %es
	pop %ds
	popal
	add $8, %esp
	iretl
1:	mov $0x10, %eax
	mov %eax, %ss
	mov catch_esp, %esp
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	testb $3, 60(%ebx)		/* ring 0 keeps what it loaded */
	jnz 2f
	testl $0x20000, 64(%ebx)
	jnz 2f
	mov 8(%ebx), %es
	mov 4(%ebx), %fs
	mov (%ebx), %gs
2:	pushl $2
	popfl
	mov catch_eip, %eax
	movl $0, catch_eip
	jmp *%eax

	/* enter_user(eip, cs, esp, ss, eflags): to an outer ring; v8086 mode takes es, ds, fs, gs as well. */
	.global enter_user, enter_v86
enter_user:
	mov %esp, %ebx
	pushl 16(%ebx)
	pushl 12(%ebx)
	pushl 20(%ebx)
	pushl 8(%ebx)
	pushl 4(%ebx)
	mov 16(%ebx), %eax
	mov %eax, %ds
	mov %eax, %es
	iretl
	/* enter_v86(ip, cs, sp, ss, eflags, ds) */
enter_v86:
	mov %esp, %ebx
	pushl $0x4444
	pushl $0x3333
	pushl 24(%ebx)
	pushl $0x2222
	pushl 16(%ebx)
	pushl 12(%ebx)
	pushl 20(%ebx)
	pushl 8(%ebx)
	pushl 4(%ebx)
	iretl
