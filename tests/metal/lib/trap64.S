/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 256 interrupt entries that build a struct frame for trap_handle(), and the way into user mode and back.
 */
	.text
	.global trap_stubs
	.balign 16
trap_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.set has_error, (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
	.set has_error, has_error || (vector == 29) || (vector == 30)
	.ifeq has_error
	push $0
	.endif
	push $vector - 128
	jmp trap_common
	.set vector, vector + 1
	.endr

trap_common:
	addq $128, (%rsp)
	push %rax
	push %rbx
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %rbp
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call trap_handle
	mov %rbx, %rsp
	.global trap_return
trap_return:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rbp
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rbx
	pop %rax
	add $16, %rsp
	iretq

	/* uint64_t call_catching(code, a, b): runs code; a trap that nobody else wants comes back here: 1. */
	.global call_catching
call_catching:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, catch_rsp
	movq $1f, catch_rip
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	call *%rax
	xor %eax, %eax
	jmp 2f
1:	mov $1, %eax
2:	movq $0, catch_rip
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	/* enter_user(rip, rsp, cs, rflags): to CPL 3; comes back only by a trap that call_catching() catches. */
	.global enter_user
enter_user:
	pushq $0x2b
	push %rsi
	push %rcx
	push %rdx
	push %rdi
	iretq
