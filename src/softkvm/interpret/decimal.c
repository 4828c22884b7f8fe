/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decimal arithmetic, which the host's 64-bit mode does not have (SDM volume 2, AAA...DAS). Flags that the
 * manual calls undefined are left as current processors leave them where known, else cleared.
 */
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

static uint64_t result_flags(uint8_t al)
{
	uint64_t flags = 0;

	if (!al)
		flags |= FLAG_ZF;
	if (al & 0x80)
		flags |= FLAG_SF;
	if (!__builtin_parity(al))
		flags |= FLAG_PF;
	return flags;
}

static uint8_t al(const struct vcpu *v)
{
	return (uint8_t)v->gpr[RAX];
}

static uint8_t ah(const struct vcpu *v)
{
	return (uint8_t)(v->gpr[RAX] >> 8);
}

/* AAA and AAS: adjust AX by +-106h when the low digit overflowed. */
static void ascii_adjust(struct vcpu *v, int step)
{
	bool adjust = (al(v) & 15) > 9 || (v->rflags & FLAG_AF);
	uint16_t ax = (uint16_t)v->gpr[RAX];

	if (adjust)
		ax = (uint16_t)(ax + step * 0x106);
	gpr_write(v, RAX, 2, ax & 0xff0f);
	set_status_flags(v, result_flags(al(v)) | (adjust ? FLAG_AF | FLAG_CF : 0));
}

void op_aaa(struct vcpu *v, const struct insn *i)
{
	ascii_adjust(v, 1);
}

void op_aas(struct vcpu *v, const struct insn *i)
{
	ascii_adjust(v, -1);
}

void op_aam(struct vcpu *v, const struct insn *i)
{
	uint8_t base = (uint8_t)i->imm, value = al(v);

	if (!base)
		raise_exception(v, VEC_DE);
	gpr_write(v, RAX, 2, (uint64_t)(value / base) << 8 | value % base);
	set_status_flags(v, result_flags(al(v)));
}

void op_aad(struct vcpu *v, const struct insn *i)
{
	uint8_t value = (uint8_t)(al(v) + ah(v) * (uint8_t)i->imm);

	gpr_write(v, RAX, 2, value);
	set_status_flags(v, result_flags(value));
}

/* DAA and DAS: two digits, `sign` +1 or -1. */
static void decimal_adjust(struct vcpu *v, int sign)
{
	uint8_t old = al(v), value = old;
	bool carry = v->rflags & FLAG_CF, new_carry = false;
	uint64_t flags = 0;

	if ((old & 15) > 9 || (v->rflags & FLAG_AF)) {
		new_carry = carry || (sign > 0 ? old > 0xf9 : old < 6);
		value = (uint8_t)(value + sign * 6);
		flags |= FLAG_AF;
	}
	if (old > 0x99 || carry) {
		value = (uint8_t)(value + sign * 0x60);
		new_carry = true;
	}
	gpr_write(v, RAX, 1, value);
	set_status_flags(v, flags | result_flags(value) | (new_carry ? FLAG_CF : 0));
}

void op_daa(struct vcpu *v, const struct insn *i)
{
	decimal_adjust(v, 1);
}

void op_das(struct vcpu *v, const struct insn *i)
{
	decimal_adjust(v, -1);
}
