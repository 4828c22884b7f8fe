/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A 128 KiB ROM for QEMU's -bios: from the reset vector it copies the image behind it to 0:7c00 and starts it in
 * real mode, as the project's own runner does by setting registers. The processor's last 128 KiB below 4 GiB are
 * also visible at 0xe0000, where the real-mode copy reads them.
 *
 * IMAGE names the flat image file, at most 0x1f000 bytes.
 */
	.code16
	.text
rom:
	.incbin IMAGE
	.org 0x1f000, 0
	.global start
start:
	cli
	cld
	mov $0x02, %al		/* A20 */
	out %al, $0x92
	mov $0xe000, %ax
	mov %ax, %ds
	mov $0x07c0, %ax
	mov %ax, %es
	mov $(0x1f000 >> 12), %dx
1:	xor %si, %si		/* 4 KiB a turn */
	xor %di, %di
	mov $0x800, %cx
	rep movsw
	mov %ds, %ax
	add $0x100, %ax
	mov %ax, %ds
	mov %es, %ax
	add $0x100, %ax
	mov %ax, %es
	dec %dx
	jnz 1b
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0x7c00, %sp
	ljmp $0, $0x7c00
	.org 0x1fff0, 0
	ljmp $0xf000, $(start - rom - 0x10000)
	.org 0x20000, 0
