/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * FNSTENV, FLDENV, FNSAVE, FRSTOR: the x87 environment in its four layouts (SDM volume 1, 8.1.10): 14 or 28
 * bytes by operand size, pointers as selector and offset in protected mode (64-bit mode uses the 32-bit
 * protected layout), as linear addresses in real and virtual-8086 mode. The full tag word is computed from
 * the registers, as the area keeps only empty or not.
 */
#include "softkvm/interpret/ops.h"
#include "softkvm/interpret/vector.h"

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };
enum { FSW_TOP_SHIFT = 11, FCW_MASKS = 0x3f };
enum { ENV_MAX = 28, REGS_SIZE = 80 };

struct env {
	uint16_t fcw, fsw, ftw, fop, cs, ds;
	uint32_t ip, dp;
};

static unsigned tag_of(const uint8_t st[10])
{
	unsigned exponent = (st[8] | st[9] << 8) & 0x7fff;
	uint64_t mantissa;

	__builtin_memcpy(&mantissa, st, 8);
	if (!exponent && !mantissa)
		return TAG_ZERO;
	return exponent == 0x7fff || !exponent || !(mantissa >> 63) ? TAG_SPECIAL : TAG_VALID;
}

static uint16_t full_tags(const struct xsave_area *x)
{
	unsigned top = x->fsw >> FSW_TOP_SHIFT & 7, tags = 0;

	for (unsigned r = 0; r < 8; r++)
		tags |= (x->ftw >> r & 1 ? tag_of(x->st[(r - top) & 7]) : TAG_EMPTY) << 2 * r;
	return tags;
}

static uint8_t abridged_tags(uint16_t full)
{
	uint8_t tags = 0;

	for (unsigned r = 0; r < 8; r++)
		tags |= ((full >> 2 * r & 3) != TAG_EMPTY) << r;
	return tags;
}

static struct env env_get(struct vcpu *v)
{
	struct vcpu_fpu *f = v->fpu;

	vector_materialize(f, XSTATE_X87);
	return (struct env){
		.fcw = f->x.fcw, .fsw = f->x.fsw, .ftw = full_tags(&f->x), .fop = f->last_op & 0x7ff,
		.cs = f->last_cs, .ds = f->last_ds, .ip = (uint32_t)f->last_ip, .dp = (uint32_t)f->last_dp
	};
}

/* The area keeps the registers in stack order: a new TOP moves them. */
static void set_top(struct xsave_area *x, unsigned top)
{
	unsigned by = (top - (x->fsw >> FSW_TOP_SHIFT & 7)) & 7;
	uint8_t old[8][16];

	if (!by)
		return;
	copy(old, x->st, sizeof(old));
	for (unsigned k = 0; k < 8; k++)
		copy(x->st[k], old[(k + by) & 7], 16);
}

static void env_set(struct vcpu *v, const struct env *e)
{
	struct vcpu_fpu *f = v->fpu;

	vector_materialize(f, XSTATE_X87);
	set_top(&f->x, e->fsw >> FSW_TOP_SHIFT & 7);
	f->x.fcw = x87_control(e->fcw);
	f->x.fsw = x87_status(e->fsw, f->x.fcw);
	f->x.ftw = abridged_tags(e->ftw);
	f->x.xstate_bv |= XSTATE_X87;
	f->last_op = e->fop & 0x7ff;
	f->last_ip = e->ip;
	f->last_dp = e->dp;
	f->last_cs = e->cs;
	f->last_ds = e->ds;
}

/* --- layouts --- */

static void put16(uint8_t *p, uint16_t value)
{
	__builtin_memcpy(p, &value, 2);
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t value;

	__builtin_memcpy(&value, p, 2);
	return value;
}

static void put32(uint8_t *p, uint32_t value)
{
	__builtin_memcpy(p, &value, 4);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t value;

	__builtin_memcpy(&value, p, 4);
	return value;
}

static void env_pack_32(const struct env *e, bool protected, uint8_t *p)
{
	put32(p, 0xffff0000u | e->fcw);
	put32(p + 4, 0xffff0000u | e->fsw);
	put32(p + 8, 0xffff0000u | e->ftw);
	if (protected) {
		put32(p + 12, e->ip);
		put32(p + 16, e->cs | (uint32_t)e->fop << 16);
		put32(p + 20, e->dp);
		put32(p + 24, 0xffff0000u | e->ds);
		return;
	}
	put32(p + 12, 0xffff0000u | (uint16_t)e->ip);
	put32(p + 16, e->fop | (e->ip >> 16) << 12);
	put32(p + 20, 0xffff0000u | (uint16_t)e->dp);
	put32(p + 24, (e->dp >> 16) << 12);
}

static void env_pack_16(const struct env *e, bool protected, uint8_t *p)
{
	put16(p, e->fcw);
	put16(p + 2, e->fsw);
	put16(p + 4, e->ftw);
	put16(p + 6, (uint16_t)e->ip);
	put16(p + 10, (uint16_t)e->dp);
	put16(p + 8, protected ? e->cs : e->fop | (e->ip >> 16 & 15) << 12);
	put16(p + 12, protected ? e->ds : (e->dp >> 16 & 15) << 12);
}

static void env_unpack_32(struct env *e, bool protected, const uint8_t *p)
{
	e->fcw = get16(p);
	e->fsw = get16(p + 4);
	e->ftw = get16(p + 8);
	if (protected) {
		e->ip = get32(p + 12);
		e->cs = get16(p + 16);
		e->fop = get16(p + 18);
		e->dp = get32(p + 20);
		e->ds = get16(p + 24);
		return;
	}
	e->ip = get16(p + 12) | (get32(p + 16) >> 12) << 16;
	e->fop = get16(p + 16) & 0x7ff;
	e->dp = get16(p + 20) | (get32(p + 24) >> 12) << 16;
	e->cs = e->ds = 0;
}

static void env_unpack_16(struct env *e, bool protected, const uint8_t *p)
{
	uint16_t high_ip = get16(p + 8), high_dp = get16(p + 12);

	e->fcw = get16(p);
	e->fsw = get16(p + 2);
	e->ftw = get16(p + 4);
	e->fop = protected ? 0 : high_ip & 0x7ff;
	e->cs = protected ? high_ip : 0;
	e->ds = protected ? high_dp : 0;
	e->ip = get16(p + 6) | (protected ? 0 : (uint32_t)(high_ip >> 12) << 16);
	e->dp = get16(p + 10) | (protected ? 0 : (uint32_t)(high_dp >> 12) << 16);
}

static unsigned env_pack(struct vcpu *v, const struct insn *i, uint8_t *p)
{
	struct env e = env_get(v);

	if (i->op_size == 2) {
		env_pack_16(&e, is_protected(v), p);
		return 14;
	}
	env_pack_32(&e, is_protected(v), p);
	return 28;
}

static unsigned env_unpack(struct vcpu *v, const struct insn *i, const uint8_t *p, struct env *e)
{
	if (i->op_size == 2) {
		env_unpack_16(e, is_protected(v), p);
		return 14;
	}
	env_unpack_32(e, is_protected(v), p);
	return 28;
}

/* --- instructions --- */

/* Address of an image, which for #AC is an array of words or doublewords. */
static gva_t image_address(struct vcpu *v, const struct insn *i, unsigned size, bool write)
{
	if (v->rflags & FLAG_AC)
		op_addr(v, i, i->op_size == 2 ? 2 : 4, write);
	return op_addr(v, i, size, write);
}

void op_fnstenv(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	uint8_t image[ENV_MAX];
	unsigned size;

	vector_check(v, i->row);
	size = env_pack(v, i, image);
	vector_write(v, image_address(v, i, size, true), image, size);
	v->fpu->x.fcw |= FCW_MASKS;
	v->fpu->x.fsw = x87_status(v->fpu->x.fsw, v->fpu->x.fcw);
	v->fpu->x.xstate_bv |= XSTATE_X87;
	vector_resume(v, live);
}

void op_fldenv(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	uint8_t image[ENV_MAX];
	struct env e;

	vector_check(v, i->row);
	vector_read(v, image_address(v, i, i->operand[0].size, false), image, i->operand[0].size);
	env_unpack(v, i, image, &e);
	env_set(v, &e);
	vector_resume(v, live);
}

static void initialize_x87(struct vcpu *v)
{
	struct vcpu_fpu *f = v->fpu;

	set_top(&f->x, 0);
	f->x.fcw = FCW_INIT;
	f->x.fsw = 0;
	f->x.ftw = 0;
	f->x.xstate_bv |= XSTATE_X87; /* the registers keep their values */
	f->last_ip = f->last_dp = 0;
	f->last_op = f->last_cs = f->last_ds = 0;
}

void op_fnsave(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	uint8_t image[ENV_MAX + REGS_SIZE];
	unsigned size;
	gva_t gva;

	vector_check(v, i->row);
	size = env_pack(v, i, image);
	for (unsigned k = 0; k < 8; k++)
		copy(image + size + 10 * k, v->fpu->x.st[k], 10);
	size += REGS_SIZE;
	gva = image_address(v, i, size, true);
	vector_probe(v, gva, size, true);
	vector_write(v, gva, image, size);
	initialize_x87(v);
	vector_resume(v, live);
}

void op_frstor(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	uint8_t image[ENV_MAX + REGS_SIZE];
	unsigned size = i->operand[0].size;
	struct env e;

	vector_check(v, i->row);
	vector_read(v, image_address(v, i, size, false), image, size);
	size = env_unpack(v, i, image, &e);
	env_set(v, &e);
	for (unsigned k = 0; k < 8; k++) {
		copy(v->fpu->x.st[k], image + size + 10 * k, 10);
		clear(&v->fpu->x.st[k][10], 6);
	}
	vector_resume(v, live);
}
