/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hosts in 64-bit mode cannot run 16 and 32-bit code, but most instructions do the same in 64-bit mode once
 * the prefixes for operand and address size are right. So the instruction is made for the narrow mode, its
 * size prefixes are replaced, and both decodings must agree: same row, same operands of the same sizes,
 * 32-bit addresses. Left out are instructions that use the stack, whose width is the mode's, and saved
 * images, whose layout is.
 */
#include "narrow.h"

#include <string.h>

static bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0:
	case 0xf2: case 0xf3:
		return true;
	}
	return false;
}

static bool depends_on_mode(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_PUSH: case SEM_POP: case SEM_PUSHF: case SEM_POPF: case SEM_ENTER: case SEM_LEAVE:
	case SEM_FXSAVE: case SEM_FXRSTOR: case SEM_XSAVE: case SEM_XSAVEOPT: case SEM_XSAVEC:
	case SEM_XRSTOR:
		return true;
	}
	if (i->row->branch == BR_COND || i->row->branch == BR_JMP)
		return i->mode == MODE_32 && i->op_size == 2; /* truncates EIP */
	return i->row->branch != BR_NONE;
}

static bool same_effect(const struct insn *a, const struct insn *b)
{
	if (a->row != b->row || a->mem.addr_size != 4 || b->mem.addr_size != 4)
		return false;
	if (a->mem.base != b->mem.base || a->mem.index != b->mem.index)
		return false;
	for (unsigned k = 0; k < a->operand_count; k++)
		if (a->operand[k].size != b->operand[k].size || a->operand[k].kind != b->operand[k].kind ||
		    a->operand[k].reg != b->operand[k].reg)
			return false;
	return !depends_on_mode(a);
}

bool narrow_code(const struct insn_row *row, enum insn_mode mode, struct random *r, struct narrow *n,
		 uint8_t native[INSN_MAX_LEN])
{
	uint8_t code[INSN_MAX_LEN], made[INSN_MAX_LEN];
	unsigned count = 0;
	struct insn a, b;

	if (!row_code(row, mode, r, made))
		return false;
	while (count < 4 && is_prefix(made[count]))
		count++;
	n->mode = mode;
	n->prefix_count = n->native_prefix_count = 0;
	if (mode == MODE_16)
		n->prefixes[n->prefix_count++] = 0x67;
	for (unsigned k = 0; k < count; k++)
		if (made[k] != 0x67)
			n->prefixes[n->prefix_count++] = made[k];
	/* The same for 64-bit mode, with or without 66. */
	native[n->native_prefix_count++] = 0x67;
	if (random_below(r, 2))
		native[n->native_prefix_count++] = 0x66;
	for (unsigned k = 0; k < count; k++)
		if (made[k] != 0x66 && made[k] != 0x67)
			native[n->native_prefix_count++] = made[k];
	memcpy(native + n->native_prefix_count, made + count, INSN_MAX_LEN - n->native_prefix_count);
	narrow_from_native(n, native, code);
	return insn_decode(&a, code, INSN_MAX_LEN, mode) == INSN_OK &&
	       insn_decode(&b, native, INSN_MAX_LEN, MODE_64) == INSN_OK && same_effect(&a, &b) &&
	       a.len - n->prefix_count == b.len - n->native_prefix_count;
}

void narrow_from_native(const struct narrow *n, const uint8_t native[INSN_MAX_LEN],
			uint8_t guest[INSN_MAX_LEN])
{
	unsigned tail = INSN_MAX_LEN -
			(n->prefix_count > n->native_prefix_count ? n->prefix_count : n->native_prefix_count);

	memset(guest, 0xcc, INSN_MAX_LEN);
	memcpy(guest, n->prefixes, n->prefix_count);
	memcpy(guest + n->prefix_count, native + n->native_prefix_count, tail);
}
