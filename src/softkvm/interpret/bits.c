/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bit tests, bit scans, CRC32 and the bit-manipulation extensions, all computed by the host's own
 * instructions.
 */
#include "softkvm/interpret/flags.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

HOST_WIDE_FLAGS(host_bt, "bt")
HOST_WIDE_FLAGS(host_bts, "bts")
HOST_WIDE_FLAGS(host_btr, "btr")
HOST_WIDE_FLAGS(host_btc, "btc")
HOST_WIDE_FLAGS(host_bsf, "bsf")
HOST_WIDE_FLAGS(host_bsr, "bsr")
HOST_WIDE_FLAGS(host_tzcnt, "tzcnt")
HOST_WIDE_FLAGS(host_lzcnt, "lzcnt")
HOST_WIDE_FLAGS(host_popcnt, "popcnt")

typedef uint64_t bit_fn(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags);

/*
 * Offset of the unit that holds the bit: a register's bit number is signed and reaches past the memory
 * operand (SDM volume 2, BT).
 */
static uint64_t bit_unit(struct vcpu *v, const struct insn *i, uint64_t bit)
{
	unsigned size = i->operand[0].size, log2_bits = 3 + (unsigned)__builtin_ctz(size);
	uint64_t offset = mem_offset(v, i);

	if (i->operand[1].kind != OPK_IMM)
		offset += (uint64_t)(sign_extend(bit, size) >> log2_bits) * size;
	return offset & size_mask(i->mem.addr_size);
}

static inline __attribute__((always_inline)) void bit_modify(struct vcpu *v, const struct insn *i, bit_fn *f)
{
	uint64_t bit = op_read(v, i, 1), old, flags, result;
	unsigned size = i->operand[0].size;
	struct rmw m;

	if (i->operand[0].kind == OPK_MEM) {
		m.reg = REG_NONE;
		old = rmw_begin_memory(v, i->mem.seg, bit_unit(v, i, bit), size, i->prefixes & PFX_LOCK, &m);
	} else {
		old = rmw_begin(v, i, 0, false, &m);
	}
	do {
		flags = v->rflags;
		result = f(old, bit, size, &flags);
	} while (!rmw_commit(v, &m, &old, result));
	v->rflags = flags;
}

void op_bt(struct vcpu *v, const struct insn *i)
{
	uint64_t bit = op_read(v, i, 1), value;
	unsigned size = i->operand[0].size;

	if (i->operand[0].kind == OPK_MEM)
		value = seg_read(v, i->mem.seg, bit_unit(v, i, bit), size);
	else
		value = op_read(v, i, 0);
	host_bt(value, bit, size, &v->rflags);
}

void op_bts(struct vcpu *v, const struct insn *i)
{
	bit_modify(v, i, host_bts);
}

void op_btr(struct vcpu *v, const struct insn *i)
{
	bit_modify(v, i, host_btr);
}

void op_btc(struct vcpu *v, const struct insn *i)
{
	bit_modify(v, i, host_btc);
}

/*
 * dst = f(dst's whole register, src): what the host leaves in the register is what the guest's processor
 * leaves.
 */
static inline __attribute__((always_inline)) void scan(struct vcpu *v, const struct insn *i, bit_fn *f)
{
	uint64_t src = op_read(v, i, 1), *reg = &v->gpr[i->operand[0].reg];

	*reg = f(*reg, src, i->operand[0].size, &v->rflags);
}

void op_bsf(struct vcpu *v, const struct insn *i)
{
	scan(v, i, host_bsf);
}

void op_bsr(struct vcpu *v, const struct insn *i)
{
	scan(v, i, host_bsr);
}

void op_tzcnt(struct vcpu *v, const struct insn *i)
{
	scan(v, i, host_tzcnt);
}

void op_lzcnt(struct vcpu *v, const struct insn *i)
{
	scan(v, i, host_lzcnt);
}

void op_popcnt(struct vcpu *v, const struct insn *i)
{
	scan(v, i, host_popcnt);
}

void op_crc32(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1), crc = (uint32_t)v->gpr[i->operand[0].reg];

	switch (i->operand[1].size) {
	case 8:
		__asm__("crc32q %1, %0" : "+r"(crc) : "r"(src));
		break;
	case 4:
		__asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(src));
		break;
	case 2:
		__asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(src));
		break;
	default:
		__asm__("crc32b %b1, %k0" : "+r"(crc) : "r"(src));
		break;
	}
	v->gpr[i->operand[0].reg] = crc;
}

/* --- BMI1, BMI2: three operands in registers, 4 or 8 bytes --- */

/* dst = mnemonic(first, second): operands in the manual's order. */
#define HOST_BMI(name, mnemonic)									\
	static inline uint64_t name(uint64_t first, uint64_t second, unsigned size, uint64_t *rflags) \
	{												\
		uint32_t ax = ax_from_flags(*rflags);							\
		uint64_t dst;										\
		if (size == 8)										\
			__asm__(FLAGS_LOAD mnemonic " %3, %2, %0" FLAGS_SAVE				\
				: "=&r"(dst), "+&a"(ax) : "r"(first), "r"(second) : "cc");		\
		else											\
			__asm__(FLAGS_LOAD mnemonic " %k3, %k2, %k0" FLAGS_SAVE				\
				: "=&r"(dst), "+&a"(ax) : "r"(first), "r"(second) : "cc");		\
		*rflags = flags_from_ax(*rflags, ax);							\
		return dst;										\
	}

#define HOST_BMI_UNARY(name, mnemonic)									\
	static inline uint64_t name(uint64_t src, uint64_t unused, unsigned size, uint64_t *rflags)	\
	{												\
		uint32_t ax = ax_from_flags(*rflags);							\
		uint64_t dst;										\
		if (size == 8)										\
			__asm__(FLAGS_LOAD mnemonic " %2, %0" FLAGS_SAVE				\
				: "=&r"(dst), "+&a"(ax) : "r"(src) : "cc");				\
		else											\
			__asm__(FLAGS_LOAD mnemonic " %k2, %k0" FLAGS_SAVE				\
				: "=&r"(dst), "+&a"(ax) : "r"(src) : "cc");				\
		*rflags = flags_from_ax(*rflags, ax);							\
		return dst;										\
	}

HOST_BMI(host_andn, "andn")	 /* ~first & second */
HOST_BMI(host_pdep, "pdep")	 /* first deposited by mask second */
HOST_BMI(host_pext, "pext")
HOST_BMI(host_bextr, "bextr") /* second: start and length */
HOST_BMI(host_bzhi, "bzhi")
HOST_BMI_UNARY(host_blsi, "blsi")
HOST_BMI_UNARY(host_blsr, "blsr")
HOST_BMI_UNARY(host_blsmsk, "blsmsk")

void op_andn(struct vcpu *v, const struct insn *i)
{
	uint64_t second = op_read(v, i, 2);

	op_write(v, i, 0, host_andn(op_read(v, i, 1), second, i->operand[0].size, &v->rflags));
}

void op_pdep(struct vcpu *v, const struct insn *i)
{
	uint64_t mask = op_read(v, i, 2);

	op_write(v, i, 0, host_pdep(op_read(v, i, 1), mask, i->operand[0].size, &v->rflags));
}

void op_pext(struct vcpu *v, const struct insn *i)
{
	uint64_t mask = op_read(v, i, 2);

	op_write(v, i, 0, host_pext(op_read(v, i, 1), mask, i->operand[0].size, &v->rflags));
}

void op_bextr(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	op_write(v, i, 0, host_bextr(src, op_read(v, i, 2), i->operand[0].size, &v->rflags));
}

void op_bzhi(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	op_write(v, i, 0, host_bzhi(src, op_read(v, i, 2), i->operand[0].size, &v->rflags));
}

/* BLSI, BLSR, BLSMSK: operand 0 is VEX.vvvv, operand 1 the source. */
void op_blsi(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	op_write(v, i, 0, host_blsi(src, 0, i->operand[0].size, &v->rflags));
}

void op_blsr(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	op_write(v, i, 0, host_blsr(src, 0, i->operand[0].size, &v->rflags));
}

void op_blsmsk(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	op_write(v, i, 0, host_blsmsk(src, 0, i->operand[0].size, &v->rflags));
}
