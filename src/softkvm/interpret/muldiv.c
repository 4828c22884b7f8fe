/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Multiplication and division. Quotients that do not fit are found before the host divides, so #DE is the
 * guest's and never a host signal.
 */
#include "softkvm/interpret/flags.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

/* The operand that is written in the instruction; the others are fixed by it. */
static unsigned explicit_operand(const struct insn *i)
{
	unsigned k = 0;

	while (k + 1u < i->operand_count && i->operand[k].implicit)
		k++;
	return k;
}

/* rDX:rAX (AX for bytes) op= src on the host; `mnemonic` is mul, imul, div or idiv. */
#define HOST_WIDE(name, mnemonic)									\
	static void name(uint64_t *low, uint64_t *high, uint64_t src, unsigned size, uint64_t *rflags) \
	{												\
		uint64_t flags = ax_from_flags(*rflags), a = *low, d = *high;				\
		/* rBX carries the flags in and out as rAX is taken */					\
		if (size == 8)										\
			__asm__("xchg %%rax, %2\n\t" FLAGS_LOAD "xchg %%rax, %2\n\t" mnemonic "q %3\n\t" \
				"xchg %%rax, %2" FLAGS_SAVE "\n\txchg %%rax, %2"			\
				: "+&a"(a), "+&d"(d), "+&r"(flags) : "r"(src) : "cc");			\
		else if (size == 4)									\
			__asm__("xchg %%rax, %2\n\t" FLAGS_LOAD "xchg %%rax, %2\n\t" mnemonic "l %k3\n\t" \
				"xchg %%rax, %2" FLAGS_SAVE "\n\txchg %%rax, %2"			\
				: "+&a"(a), "+&d"(d), "+&r"(flags) : "r"(src) : "cc");			\
		else if (size == 2)									\
			__asm__("xchg %%rax, %2\n\t" FLAGS_LOAD "xchg %%rax, %2\n\t" mnemonic "w %w3\n\t" \
				"xchg %%rax, %2" FLAGS_SAVE "\n\txchg %%rax, %2"			\
				: "+&a"(a), "+&d"(d), "+&r"(flags) : "r"(src) : "cc");			\
		else											\
			__asm__("xchg %%rax, %2\n\t" FLAGS_LOAD "xchg %%rax, %2\n\t" mnemonic "b %b3\n\t" \
				"xchg %%rax, %2" FLAGS_SAVE "\n\txchg %%rax, %2"			\
				: "+&a"(a), "+&d"(d), "+&r"(flags) : "r"(src) : "cc");			\
		*low = a;										\
		*high = d;										\
		*rflags = flags_from_ax(*rflags, (uint32_t)flags);					\
	}

HOST_WIDE(host_mul, "mul")
HOST_WIDE(host_imul, "imul")
HOST_WIDE(host_div, "div")
HOST_WIDE(host_idiv, "idiv")

typedef void wide_fn(uint64_t *low, uint64_t *high, uint64_t src, unsigned size, uint64_t *rflags);

/*
 * The host instruction keeps the registers' upper parts as the guest's would, so whole registers go in and
 * out.
 */
static void wide(struct vcpu *v, wide_fn *f, uint64_t src, unsigned size)
{
	f(&v->gpr[RAX], &v->gpr[RDX], src, size, &v->rflags);
}

void op_mul(struct vcpu *v, const struct insn *i)
{
	unsigned k = explicit_operand(i);

	wide(v, host_mul, op_read(v, i, k), i->operand[k].size);
}

void op_imul1(struct vcpu *v, const struct insn *i)
{
	unsigned k = explicit_operand(i);

	wide(v, host_imul, op_read(v, i, k), i->operand[k].size);
}

static unsigned __int128 dividend(const struct vcpu *v, unsigned size)
{
	if (size == 1)
		return (uint16_t)v->gpr[RAX];
	return (unsigned __int128)gpr_read(v, RDX, size) << (8 * size) | gpr_read(v, RAX, size);
}

void op_div(struct vcpu *v, const struct insn *i)
{
	unsigned k = explicit_operand(i), size = i->operand[k].size;
	uint64_t divisor = op_read(v, i, k);

	if ((uint64_t)(dividend(v, size) >> (8 * size)) >= divisor) /* also if it is 0 */
		raise_exception(v, VEC_DE);
	wide(v, host_div, divisor, size);
}

/*
 * Does the signed quotient of n (2 * size bytes) and d fit `size` bytes? No division wider than 128 by 64
 * bits needed.
 */
static bool quotient_fits(__int128 n, int64_t d, unsigned size)
{
	bool negative = (n < 0) != (d < 0);
	unsigned __int128 un = n < 0 ? -(unsigned __int128)n : (unsigned __int128)n;
	uint64_t ud = d < 0 ? -(uint64_t)d : (uint64_t)d, high = (uint64_t)(un >> 64), quotient, remainder;

	if (!ud || high >= ud)
		return false;
	__asm__("divq %4" : "=a"(quotient), "=d"(remainder) : "a"((uint64_t)un), "d"(high), "r"(ud) : "cc");
	return quotient < (1ull << (8 * size - 1)) + negative;
}

void op_idiv(struct vcpu *v, const struct insn *i)
{
	unsigned k = explicit_operand(i), size = i->operand[k].size, unused = 128 - 16 * size;
	uint64_t divisor = op_read(v, i, k);
	__int128 n = (__int128)(dividend(v, size) << unused) >> unused;

	if (!quotient_fits(n, sign_extend(divisor, size), size))
		raise_exception(v, VEC_DE);
	wide(v, host_idiv, divisor, size);
}

HOST_WIDE_FLAGS(host_imul2, "imul")

void op_imul2(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	op_write(v, i, 0, host_imul2(op_read(v, i, 0), src, i->operand[0].size, &v->rflags));
}

void op_imul3(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	op_write(v, i, 0, host_imul2(src, i->imm, i->operand[0].size, &v->rflags));
}

/* Operand 0: high half, 1 (VEX.vvvv): low half, 2: source. The high half is written last. */
void op_mulx(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->operand[0].size;
	unsigned __int128 product = (unsigned __int128)op_read(v, i, 2) * gpr_read(v, RDX, size);

	op_write(v, i, 1, (uint64_t)product);
	op_write(v, i, 0, (uint64_t)(product >> (8 * size)));
}
