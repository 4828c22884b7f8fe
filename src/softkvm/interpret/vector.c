/* SPDX-License-Identifier: BSD-2-Clause */
/* See vector.h. */
#include "softkvm/interpret/vector.h"

enum { FSW_FLAGS = 0x3f, FSW_ES = 1 << 7, FSW_B = 1 << 15, FCW_VALID = 0x1f3f, FCW_FIXED = 0x40 };

uint16_t x87_control(uint16_t fcw)
{
	return (fcw & FCW_VALID) | FCW_FIXED;
}

uint16_t x87_status(uint16_t fsw, uint16_t fcw)
{
	fsw &= ~(FSW_ES | FSW_B);
	return fsw & ~fcw & FSW_FLAGS ? fsw | FSW_ES | FSW_B : fsw;
}

bool x87_pending(const struct vcpu *v)
{
	const struct xsave_area *x = &v->fpu->x;

	return x->xstate_bv & XSTATE_X87 && x->fsw & ~x->fcw & FSW_FLAGS;
}

static void check_x87(struct vcpu *v, const struct insn_row *row)
{
	if (v->cr0 & (CR0_EM | CR0_TS))
		raise_exception(v, VEC_NM);
	if (!(row->attrs & INSN_NOWAIT) && x87_pending(v))
		raise_exception(v, VEC_MF);
}

static void check_vex(struct vcpu *v)
{
	const uint64_t both = XSTATE_SSE | XSTATE_AVX;

	if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & both) != both)
		raise_exception(v, VEC_UD);
	if (v->cr0 & CR0_TS)
		raise_exception(v, VEC_NM);
}

static void check_sse_mmx(struct vcpu *v, uint32_t attrs)
{
	if (v->cr0 & CR0_EM || (attrs & INSN_SSE && !(v->cr4 & CR4_OSFXSR)))
		raise_exception(v, VEC_UD);
	if (v->cr0 & CR0_TS)
		raise_exception(v, VEC_NM);
	if (attrs & INSN_MMX && x87_pending(v))
		raise_exception(v, VEC_MF);
}

void vector_check(struct vcpu *v, const struct insn_row *row)
{
	if (row->attrs & INSN_X87)
		check_x87(v, row);
	else if (row->attrs & INSN_VEX)
		check_vex(v);
	else
		check_sse_mmx(v, row->attrs);
}

void vector_materialize(struct vcpu_fpu *f, uint64_t components)
{
	struct xsave_area *x = &f->x;
	uint64_t initial = components & ~x->xstate_bv;

	if (initial & XSTATE_X87) {
		x->fcw = FCW_INIT;
		x->fsw = 0;
		x->ftw = x->reserved0 = 0;
		clear(x->st, sizeof(x->st));
	}
	if (initial & XSTATE_SSE)
		clear(x->xmm, sizeof(x->xmm));
	if (initial & XSTATE_AVX)
		clear(x->ymmh, sizeof(x->ymmh));
}

/* --- memory --- */

/* How much of [gva, +len) one access may take: mmu's limit, and up to 4 GiB outside 64-bit mode. */
static unsigned piece(const struct vcpu *v, gva_t gva, unsigned len)
{
	unsigned n = len > 64 ? 64 : len;

	if (v->mode != MODE_64 && gva + n > 1ull << 32)
		n = (unsigned)((1ull << 32) - gva);
	return n;
}

static gva_t advance(const struct vcpu *v, gva_t gva, unsigned n)
{
	return v->mode == MODE_64 ? gva + n : (uint32_t)(gva + n);
}

void vector_read(struct vcpu *v, gva_t gva, void *buf, unsigned len)
{
	while (len) {
		unsigned n = piece(v, gva, len);

		mmu_read_bytes(v, gva, buf, n);
		gva = advance(v, gva, n);
		buf = (uint8_t *)buf + n;
		len -= n;
	}
}

void vector_write(struct vcpu *v, gva_t gva, const void *buf, unsigned len)
{
	while (len) {
		unsigned n = piece(v, gva, len);

		mmu_write_bytes(v, gva, buf, n);
		gva = advance(v, gva, n);
		buf = (const uint8_t *)buf + n;
		len -= n;
	}
}

void vector_probe(struct vcpu *v, gva_t gva, unsigned len, bool write)
{
	while (len) {
		unsigned n = piece(v, gva, len);

		mmu_probe(v, gva, n, write);
		gva = advance(v, gva, n);
		len -= n;
	}
}

/* --- registers --- */

void ymm_get(struct vcpu *v, unsigned reg, uint8_t value[32])
{
	vector_materialize(v->fpu, XSTATE_SSE | XSTATE_AVX);
	copy(value, v->fpu->x.xmm[reg], 16);
	copy(value + 16, v->fpu->x.ymmh[reg], 16);
}

void ymm_set(struct vcpu *v, unsigned reg, const uint8_t value[32])
{
	const uint64_t both = (XSTATE_SSE | XSTATE_AVX) & v->fpu->mask;

	vector_materialize(v->fpu, both);
	v->fpu->x.xstate_bv |= both;
	copy(v->fpu->x.xmm[reg], value, 16);
	copy(v->fpu->x.ymmh[reg], value + 16, 16);
}
