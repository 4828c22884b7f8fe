/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * FXSAVE, FXRSTOR and the XSAVE family (SDM volume 1, 10.5 and chapter 13), between guest memory and the area
 * at rest.
 *
 * The area's xstate_bv bits are the guest's XINUSE: the host's XSAVE keeps them exact. Saving builds the
 * image in a buffer, then writes the parts that the instruction stores; restoring reads and checks the whole
 * image before it changes anything. Modified-state optimization (XSAVEOPT, XSAVES) is optional and not done;
 * init optimization is.
 *
 * Components known here are x87, SSE and AVX, as XCR0 never gets more (control.c); IA32_XSS is always 0.
 * MXCSR belongs to SSE and AVX in the standard format, to SSE alone in the compacted one.
 */
#include "softkvm/interpret/ops.h"
#include "softkvm/interpret/vector.h"

enum { LEGACY_SIZE = 512, AVX_OFFSET = 576, AVX_SIZE = 256, IMAGE_SIZE = AVX_OFFSET + AVX_SIZE };
enum { X87_HEAD = 24, MXCSR_OFFSET = 24, ST_OFFSET = 32, XMM_OFFSET = 160 };
#define XCOMP_COMPACTED (1ull << 63)

/* The first IMAGE_SIZE bytes of struct xsave_area. */
struct image {
	union {
		uint8_t bytes[IMAGE_SIZE];
		uint64_t words[IMAGE_SIZE / 8];
		struct {
			uint16_t fcw, fsw;
			uint8_t ftw, reserved0;
			uint16_t fop;
			uint64_t fip, fdp;
			uint32_t mxcsr, mxcsr_mask;
			uint8_t st[8][16], xmm[16][16], unused[96];
			uint64_t xstate_bv, xcomp_bv, reserved1[6];
			uint8_t ymmh[16][16];
		};
	};
};
_Static_assert(sizeof(struct image) == IMAGE_SIZE, "image layout");

static unsigned xmm_count(const struct vcpu *v)
{
	return v->mode == MODE_64 ? 16 : 8;
}

/* --- parts common to both families --- */

/* Address of an image; #GP(0) for misalignment comes before the segment's checks, and #AC never. */
static gva_t aligned_address(struct vcpu *v, const struct insn *i, unsigned align, unsigned size, bool write)
{
	uint64_t offset = mem_offset(v, i);

	require_alignment(v, seg_linear(v, i->mem.seg, offset), align);
	return address_unaligned(v, i->mem.seg, offset, size, write);
}

static void pointers_out(const struct vcpu *v, const struct insn *i, struct image *m)
{
	const struct vcpu_fpu *f = v->fpu;

	m->fop = f->last_op;
	m->fip = f->last_ip;
	m->fdp = f->last_dp;
	if (i->op_size != 8 || v->mode != MODE_64) {
		m->fip = (uint32_t)f->last_ip | (uint64_t)f->last_cs << 32;
		m->fdp = (uint32_t)f->last_dp | (uint64_t)f->last_ds << 32;
	}
}

static void pointers_in(struct vcpu *v, const struct insn *i, const struct image *m)
{
	struct vcpu_fpu *f = v->fpu;

	f->last_op = m->fop & 0x7ff;
	f->last_ip = m->fip;
	f->last_dp = m->fdp;
	f->last_cs = f->last_ds = 0;
	if (i->op_size != 8 || v->mode != MODE_64) {
		f->last_ip = (uint32_t)m->fip;
		f->last_dp = (uint32_t)m->fdp;
		f->last_cs = (uint16_t)(m->fip >> 32);
		f->last_ds = (uint16_t)(m->fdp >> 32);
	}
}

/* Everything the guest has, made explicit. */
static void build_image(struct vcpu *v, const struct insn *i, struct image *m)
{
	vector_materialize(v->fpu, XSTATE_X87 | XSTATE_SSE | XSTATE_AVX);
	copy(m->bytes, v->fpu->area, IMAGE_SIZE);
	m->reserved0 = 0;
	m->mxcsr_mask = MXCSR_VALID;
	pointers_out(v, i, m);
}

static void load_x87(struct vcpu *v, const struct insn *i, const struct image *m)
{
	struct xsave_area *x = &v->fpu->x;

	x->fcw = x87_control(m->fcw);
	x->fsw = x87_status(m->fsw, x->fcw);
	x->ftw = m->ftw;
	copy(x->st, m->st, sizeof(x->st));
	for (unsigned k = 0; k < 8; k++)
		clear(&x->st[k][10], 6);
	pointers_in(v, i, m);
	x->xstate_bv |= XSTATE_X87;
}

static void load_xmm(struct vcpu *v, const struct image *m)
{
	struct xsave_area *x = &v->fpu->x;

	vector_materialize(v->fpu, XSTATE_SSE);
	copy(x->xmm, m->xmm, 16 * xmm_count(v));
	x->xstate_bv |= XSTATE_SSE;
}

static void load_ymmh(struct vcpu *v, const struct image *m)
{
	struct xsave_area *x = &v->fpu->x;

	vector_materialize(v->fpu, XSTATE_AVX);
	copy(x->ymmh, m->ymmh, 16 * xmm_count(v));
	x->xstate_bv |= XSTATE_AVX;
}

/* --- FXSAVE, FXRSTOR --- */

/* EFER.FFXSR at CPL 0 in 64-bit mode leaves the XMM registers out (APM volume 2, 11.4.4). */
static bool fast_fxsave(const struct vcpu *v)
{
	return v->efer & EFER_FFXSR && v->mode == MODE_64 && !v->cpl;
}

static gva_t fx_address(struct vcpu *v, const struct insn *i, bool write)
{
	if (v->cr0 & (CR0_EM | CR0_TS))
		raise_exception(v, VEC_NM);
	return aligned_address(v, i, 16, LEGACY_SIZE, write);
}

void op_fxsave(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	gva_t gva = fx_address(v, i, true);
	struct image m;

	build_image(v, i, &m);
	vector_probe(v, gva, LEGACY_SIZE, true);
	vector_write(v, gva, m.bytes, fast_fxsave(v) ? XMM_OFFSET : XMM_OFFSET + 16 * xmm_count(v));
	vector_resume(v, live);
}

void op_fxrstor(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	gva_t gva = fx_address(v, i, false);
	struct image m;

	vector_read(v, gva, m.bytes, LEGACY_SIZE);
	if (m.mxcsr & ~(uint32_t)MXCSR_VALID)
		raise_error(v, VEC_GP, 0);
	load_x87(v, i, &m);
	v->fpu->x.mxcsr = m.mxcsr;
	if (!fast_fxsave(v))
		load_xmm(v, &m);
	vector_resume(v, live);
}

/* --- XSAVE family --- */

/* #UD, #NM and the address of the area, 64-byte aligned, of `size` bytes. */
static gva_t xsave_address(struct vcpu *v, const struct insn *i, unsigned size, bool write)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		raise_exception(v, VEC_UD);
	if (v->cr0 & CR0_TS)
		raise_exception(v, VEC_NM);
	return aligned_address(v, i, 64, size, write);
}

/* RFBM: requested-feature bitmap. */
static uint64_t requested(const struct vcpu *v)
{
	return ((uint32_t)v->gpr[RAX] | v->gpr[RDX] << 32) & v->xcr0;
}

static unsigned image_size(uint64_t components)
{
	return components & XSTATE_AVX ? IMAGE_SIZE : AVX_OFFSET;
}

/* Write the bytes of `components`, which both formats place alike: AVX is the first extended one. */
static void write_components(struct vcpu *v, gva_t gva, const struct image *m, uint64_t components,
			     bool mxcsr)
{
	if (components & XSTATE_X87) {
		vector_write(v, gva, m->bytes, X87_HEAD);
		vector_write(v, gva + ST_OFFSET, &m->bytes[ST_OFFSET], XMM_OFFSET - ST_OFFSET);
	}
	if (mxcsr)
		vector_write(v, gva + MXCSR_OFFSET, &m->bytes[MXCSR_OFFSET], 8);
	if (components & XSTATE_SSE)
		vector_write(v, gva + XMM_OFFSET, &m->bytes[XMM_OFFSET], 16 * xmm_count(v));
	if (components & XSTATE_AVX)
		vector_write(v, gva + AVX_OFFSET, &m->bytes[AVX_OFFSET], 16 * xmm_count(v));
}

/* XSAVE and XSAVEOPT: standard format; `optimize` leaves initial components' bytes alone. */
static void xsave_standard(struct vcpu *v, const struct insn *i, bool optimize)
{
	bool live = vector_rest(v);
	uint64_t rfbm = requested(v), in_use, bv;
	gva_t gva = xsave_address(v, i, image_size(rfbm), true);
	struct image m;

	vector_probe(v, gva, image_size(rfbm), true);
	in_use = v->fpu->x.xstate_bv & rfbm;
	build_image(v, i, &m);
	vector_read(v, gva + LEGACY_SIZE, &bv, 8);
	bv = (bv & ~rfbm) | in_use;
	write_components(v, gva, &m, optimize ? in_use : rfbm, rfbm & (XSTATE_SSE | XSTATE_AVX));
	vector_write(v, gva + LEGACY_SIZE, &bv, 8);
	vector_resume(v, live);
}

/* XSAVEC and XSAVES: compacted format, init optimization. */
static void xsave_compacted(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	uint64_t rfbm = requested(v), in_use, header[2];
	gva_t gva = xsave_address(v, i, image_size(rfbm), true);
	struct image m;

	vector_probe(v, gva, image_size(rfbm), true);
	in_use = v->fpu->x.xstate_bv & rfbm;
	if (v->fpu->x.mxcsr != MXCSR_INIT)
		in_use |= rfbm & XSTATE_SSE;
	build_image(v, i, &m);
	header[0] = in_use;
	header[1] = rfbm | XCOMP_COMPACTED;
	write_components(v, gva, &m, in_use, in_use & XSTATE_SSE);
	vector_write(v, gva + LEGACY_SIZE, header, 16);
	vector_resume(v, live);
}

static bool header_tail_clear(const struct image *m, unsigned from)
{
	for (unsigned k = from; k < 6; k++)
		if (m->reserved1[k])
			return false;
	return true;
}

/* The header's rules (SDM volume 1, 13.8 and 13.12). */
static bool header_valid(const struct vcpu *v, const struct image *m)
{
	if (m->xstate_bv & ~v->xcr0)
		return false;
	if (m->xcomp_bv & XCOMP_COMPACTED)
		return !(m->xcomp_bv & ~XCOMP_COMPACTED & ~v->xcr0) && !(m->xstate_bv & ~m->xcomp_bv) &&
		       header_tail_clear(m, 0);
	return !m->xcomp_bv && !m->reserved1[0];
}

/* A component back to its initial state; outside 64-bit mode registers 8..15 stay. */
static void initialize(struct vcpu *v, uint64_t components)
{
	struct xsave_area *x = &v->fpu->x;
	static const struct image initial = {.fcw = FCW_INIT};

	if (v->mode == MODE_64) {
		x->xstate_bv &= ~components;
	} else {
		if (components & XSTATE_SSE)
			load_xmm(v, &initial);
		if (components & XSTATE_AVX)
			load_ymmh(v, &initial);
	}
	if (components & XSTATE_X87) {
		x->xstate_bv &= ~XSTATE_X87;
		v->fpu->last_ip = v->fpu->last_dp = 0;
		v->fpu->last_op = v->fpu->last_cs = v->fpu->last_ds = 0;
	}
}

static void load_components(struct vcpu *v, const struct insn *i, const struct image *m, uint64_t rfbm)
{
	uint64_t load = rfbm & m->xstate_bv;

	initialize(v, rfbm & ~m->xstate_bv);
	if (load & XSTATE_X87)
		load_x87(v, i, m);
	if (load & XSTATE_SSE)
		load_xmm(v, m);
	if (load & XSTATE_AVX)
		load_ymmh(v, m);
}

static void xrstor(struct vcpu *v, const struct insn *i, bool must_be_compacted)
{
	bool live = vector_rest(v), compacted, load_mxcsr;
	uint64_t rfbm = requested(v);
	gva_t gva = xsave_address(v, i, image_size(rfbm), false);
	struct image m;

	vector_read(v, gva, m.bytes, image_size(rfbm));
	compacted = m.xcomp_bv & XCOMP_COMPACTED;
	if ((must_be_compacted && !compacted) || !header_valid(v, &m))
		raise_error(v, VEC_GP, 0);
	load_mxcsr = rfbm & (compacted ? XSTATE_SSE & m.xstate_bv : XSTATE_SSE | XSTATE_AVX);
	if (load_mxcsr && m.mxcsr & ~(uint32_t)MXCSR_VALID)
		raise_error(v, VEC_GP, 0);
	if (compacted) /* what the image does not hold becomes initial */
		m.xstate_bv &= m.xcomp_bv;
	load_components(v, i, &m, rfbm);
	if (load_mxcsr)
		v->fpu->x.mxcsr = m.mxcsr;
	else if (compacted && rfbm & XSTATE_SSE)
		v->fpu->x.mxcsr = MXCSR_INIT;
	vector_resume(v, live);
}

void op_xsave(struct vcpu *v, const struct insn *i)
{
	xsave_standard(v, i, false);
}

void op_xsaveopt(struct vcpu *v, const struct insn *i)
{
	xsave_standard(v, i, true);
}

void op_xsavec(struct vcpu *v, const struct insn *i)
{
	xsave_compacted(v, i);
}

static void require_cpl0(struct vcpu *v)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		raise_exception(v, VEC_UD);
	if (v->cpl)
		raise_error(v, VEC_GP, 0);
}

void op_xsaves(struct vcpu *v, const struct insn *i)
{
	require_cpl0(v);
	xsave_compacted(v, i);
}

void op_xrstor(struct vcpu *v, const struct insn *i)
{
	xrstor(v, i, false);
}

void op_xrstors(struct vcpu *v, const struct insn *i)
{
	require_cpl0(v);
	xrstor(v, i, true);
}
