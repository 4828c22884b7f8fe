/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shifts and rotates. The host masks the count and leaves flags alone for a count of 0 just as the guest's
 * processor would, so nothing is decided here.
 *
 * One thing depends on the form: OF after a rotate by two or more is not defined, and Intel's processors keep it when a
 * register is rotated by an immediate, but not when memory is or when the count is in CL. The translator has the host execute
 * the guest's own form, so it is done as the host does it here, too.
 */
#include "softkvm/interpret/flags.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

typedef uint64_t shift_fn(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags);

HOST_SHIFT(host_rol, "rol")
HOST_SHIFT(host_ror, "ror")
HOST_SHIFT(host_rcl, "rcl")
HOST_SHIFT(host_rcr, "rcr")
HOST_SHIFT(host_shl, "shl")
HOST_SHIFT(host_shr, "shr")
HOST_SHIFT(host_sar, "sar")

static inline __attribute__((always_inline)) void shift(struct vcpu *v, const struct insn *i, shift_fn *f)
{
	uint64_t count = (uint8_t)op_read(v, i, 1), old, flags = v->rflags, result;
	struct rmw m;

	old = rmw_begin(v, i, 0, false, &m);
	result = f(old, count, i->operand[0].size, &flags);
	rmw_commit(v, &m, &old, result);
	v->rflags = flags;
}

static bool host_keeps_of(void)
{
	uint8_t value = 0x7f, of;

	__asm__("incb %0; rolb $2, %0; seto %1" : "+q"(value), "=q"(of) : : "cc"); /* 7fh + 1 sets it; 80h rotated would clear it */
	return of;
}

static void rotate(struct vcpu *v, const struct insn *i, shift_fn *f)
{
	unsigned count = (uint8_t)i->imm & (i->operand[0].size == 8 ? 63 : 31);
	uint64_t before = v->rflags;

	shift(v, i, f);
	if (i->operand[0].kind == OPK_GPR && i->operand[1].kind == OPK_IMM && count > 1 && host_keeps_of())
		v->rflags = (v->rflags & ~(uint64_t)FLAG_OF) | (before & FLAG_OF);
}

void op_rol(struct vcpu *v, const struct insn *i)
{
	rotate(v, i, host_rol);
}

void op_ror(struct vcpu *v, const struct insn *i)
{
	rotate(v, i, host_ror);
}

void op_rcl(struct vcpu *v, const struct insn *i)
{
	shift(v, i, host_rcl);
}

void op_rcr(struct vcpu *v, const struct insn *i)
{
	shift(v, i, host_rcr);
}

void op_shl(struct vcpu *v, const struct insn *i)
{
	shift(v, i, host_shl);
}

void op_shr(struct vcpu *v, const struct insn *i)
{
	shift(v, i, host_shr);
}

void op_sar(struct vcpu *v, const struct insn *i)
{
	shift(v, i, host_sar);
}

/* Double shifts: dst shifted by CL, bits from src. */
#define HOST_DOUBLE_SHIFT(name, mnemonic)								\
	static uint64_t name(uint64_t dst, uint64_t src, uint64_t count, unsigned size, uint64_t *rflags) \
	{												\
		uint32_t ax = ax_from_flags(*rflags);							\
		if (size == 8)										\
			__asm__(FLAGS_LOAD mnemonic "q %%cl, %2, %0" FLAGS_SAVE				\
				: "+&r"(dst), "+&a"(ax) : "r"(src), "c"(count) : "cc");			\
		else if (size == 4)									\
			__asm__(FLAGS_LOAD mnemonic "l %%cl, %k2, %k0" FLAGS_SAVE			\
				: "+&r"(dst), "+&a"(ax) : "r"(src), "c"(count) : "cc");			\
		else											\
			__asm__(FLAGS_LOAD mnemonic "w %%cl, %w2, %w0" FLAGS_SAVE			\
				: "+&r"(dst), "+&a"(ax) : "r"(src), "c"(count) : "cc");			\
		*rflags = flags_from_ax(*rflags, ax);							\
		return dst;										\
	}

HOST_DOUBLE_SHIFT(host_shld, "shld")
HOST_DOUBLE_SHIFT(host_shrd, "shrd")

typedef uint64_t double_shift_fn(uint64_t dst, uint64_t src, uint64_t count, unsigned size, uint64_t *rflags);

static inline __attribute__((always_inline)) void double_shift(struct vcpu *v, const struct insn *i,
							       double_shift_fn *f)
{
	uint64_t src = op_read(v, i, 1), count = (uint8_t)op_read(v, i, 2), old, flags = v->rflags, result;
	struct rmw m;

	old = rmw_begin(v, i, 0, false, &m);
	result = f(old, src, count, i->operand[0].size, &flags);
	rmw_commit(v, &m, &old, result);
	v->rflags = flags;
}

void op_shld(struct vcpu *v, const struct insn *i)
{
	double_shift(v, i, host_shld);
}

void op_shrd(struct vcpu *v, const struct insn *i)
{
	double_shift(v, i, host_shrd);
}

/* BMI2 shifts: dst = operand 1 shifted by operand 2; no flags. */
static unsigned bmi_count(struct vcpu *v, const struct insn *i)
{
	return (unsigned)op_read(v, i, 2) & (i->operand[0].size * 8 - 1);
}

void op_shlx(struct vcpu *v, const struct insn *i)
{
	uint64_t value = op_read(v, i, 1);

	op_write(v, i, 0, value << bmi_count(v, i));
}

void op_shrx(struct vcpu *v, const struct insn *i)
{
	uint64_t value = op_read(v, i, 1);

	op_write(v, i, 0, value >> bmi_count(v, i));
}

void op_sarx(struct vcpu *v, const struct insn *i)
{
	int64_t value = sign_extend(op_read(v, i, 1), i->operand[0].size);

	op_write(v, i, 0, (uint64_t)(value >> bmi_count(v, i)));
}

void op_rorx(struct vcpu *v, const struct insn *i)
{
	unsigned bits = i->operand[0].size * 8, count = i->imm & (bits - 1);
	uint64_t value = op_read(v, i, 1);

	op_write(v, i, 0, count ? value >> count | value << (bits - count) : value);
}
