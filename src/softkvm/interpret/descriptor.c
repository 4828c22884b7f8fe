/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors and the rules of segment registers (SDM volume 3, chapters 3 and 5): see descriptor.h.
 *
 * Descriptor tables are read as supervisor whatever the privilege is. Real-address mode keeps limits as they are
 * ("big real mode") and only moves the base.
 */
#include "softkvm/interpret/descriptor.h"

bool descriptor_address(const struct vcpu *v, uint16_t sel, unsigned size, gva_t *gva)
{
	uint32_t offset = sel & 0xfff8;

	if (sel & 4) {
		const struct x86_seg *ldt = &v->seg[SEG_LDTR];

		if ((ldt->attr & SEG_UNUSABLE) || is_null(ldt->sel) || offset + size - 1 > ldt->limit)
			return false;
		*gva = table_address(v, ldt->base, offset);
		return true;
	}
	if (offset + size - 1 > v->gdt.limit)
		return false;
	*gva = table_address(v, v->gdt.base, offset);
	return true;
}

uint64_t descriptor_read(struct vcpu *v, uint16_t sel, enum x86_vector vector, uint32_t ext)
{
	gva_t gva;

	if (!descriptor_address(v, sel, 8, &gva))
		raise_error(v, vector, (sel & 0xfffc) | ext);
	return mmu_read_sys(v, gva, 8);
}

uint64_t descriptor_read_high(struct vcpu *v, uint16_t sel, enum x86_vector vector, uint32_t ext)
{
	gva_t gva;

	if (!descriptor_address(v, sel, 16, &gva))
		raise_error(v, vector, (sel & 0xfffc) | ext);
	return mmu_read_sys(v, gva + 8, 8);
}

void descriptor_mark_accessed(struct vcpu *v, uint16_t sel, uint64_t *d)
{
	gva_t gva;

	if ((*d >> 40 & SEG_TYPE_ACCESSED) || !descriptor_address(v, sel, 8, &gva))
		return;
	*d |= (uint64_t)SEG_TYPE_ACCESSED << 40;
	mmu_write_sys(v, gva + 5, 1, *d >> 40 & 0xff);
}

void descriptor_mark_busy(struct vcpu *v, uint16_t sel, bool busy)
{
	gva_t gva;
	uint8_t type;

	if (!descriptor_address(v, sel, 8, &gva))
		return;
	type = mmu_read_sys(v, gva + 5, 1);
	mmu_write_sys(v, gva + 5, 1, busy ? type | 2 : type & ~2);
}

struct x86_seg seg_from_descriptor(uint16_t sel, uint64_t d)
{
	return (struct x86_seg){.base = desc_base(d), .limit = desc_limit(d), .sel = sel, .attr = desc_attr(d)};
}

struct x86_seg seg_real(const struct vcpu *v, unsigned seg, uint16_t sel)
{
	struct x86_seg s = v->seg[seg];

	s.sel = sel;
	s.base = (uint32_t)sel << 4;
	if (v->rflags & FLAG_VM) {
		s.limit = 0xffff;
		s.attr = SEG_P | SEG_DPL | SEG_S | SEG_TYPE_RW | SEG_TYPE_ACCESSED;
		return s;
	}
	s.attr &= SEG_G | SEG_DB | SEG_AVL;
	s.attr |= SEG_P | SEG_S | SEG_TYPE_RW | SEG_TYPE_ACCESSED;
	if (seg == SEG_CS)
		s.attr |= SEG_TYPE_CODE;
	return s;
}

struct x86_seg seg_null(uint16_t sel)
{
	return (struct x86_seg){.sel = sel, .attr = SEG_UNUSABLE};
}

static bool is_writable_data(uint64_t d)
{
	return !desc_is_system(d) && !desc_is_code(d) && (d >> 41 & 1);
}

static bool is_readable(uint64_t d)
{
	return !desc_is_system(d) && (!desc_is_code(d) || (d >> 41 & 1));
}

struct x86_seg stack_prepare(struct vcpu *v, uint16_t sel, unsigned cpl, enum x86_vector vector, uint32_t ext)
{
	uint32_t error = (sel & 0xfffc) | ext;
	uint64_t d;

	if (is_null(sel))
		raise_error(v, vector, ext);
	d = descriptor_read(v, sel, vector, ext);
	if ((sel & 3) != cpl || !is_writable_data(d) || desc_dpl(d) != cpl)
		raise_error(v, vector, error);
	if (!desc_is_present(d))
		raise_error(v, VEC_SS, error);
	descriptor_mark_accessed(v, sel, &d);
	return seg_from_descriptor(sel, d);
}

struct x86_seg return_code_segment(struct vcpu *v, uint16_t sel)
{
	unsigned rpl = sel & 3;
	uint64_t d;

	if (is_null(sel))
		raise_error(v, VEC_GP, 0);
	d = descriptor_read(v, sel, VEC_GP, 0);
	if (desc_is_system(d) || !desc_is_code(d) || rpl < v->cpl ||
	    (desc_is_conforming(d) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl) ||
	    (is_long_mode(v) && desc_is_64bit(d) && (d >> 54 & 1)))
		raise_error(v, VEC_GP, sel & 0xfffc);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, sel & 0xfffc);
	descriptor_mark_accessed(v, sel, &d);
	return seg_from_descriptor(sel, d);
}

/* Null selectors: never for SS, except in 64-bit mode outside CPL 3 with a matching RPL. */
static struct x86_seg prepare_null(struct vcpu *v, unsigned seg, uint16_t sel)
{
	struct x86_seg s = seg_null(sel);

	if (seg != SEG_SS)
		return s;
	if (v->mode != MODE_64 || v->cpl == 3 || (sel & 3) != v->cpl)
		raise_error(v, VEC_GP, 0);
	s.attr |= v->cpl << SEG_DPL_SHIFT;
	return s;
}

struct x86_seg seg_prepare(struct vcpu *v, unsigned seg, uint16_t sel)
{
	uint64_t d;

	if (is_real_style(v))
		return seg_real(v, seg, sel);
	if (is_null(sel))
		return prepare_null(v, seg, sel);
	if (seg == SEG_SS)
		return stack_prepare(v, sel, v->cpl, VEC_GP, 0);
	d = descriptor_read(v, sel, VEC_GP, 0);
	if (!is_readable(d))
		raise_error(v, VEC_GP, sel & 0xfffc);
	if (!(desc_is_code(d) && desc_is_conforming(d)) && ((sel & 3) > desc_dpl(d) || v->cpl > desc_dpl(d)))
		raise_error(v, VEC_GP, sel & 0xfffc);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, sel & 0xfffc);
	descriptor_mark_accessed(v, sel, &d);
	return seg_from_descriptor(sel, d);
}

void mode_update(struct vcpu *v)
{
	uint16_t attr = v->seg[SEG_CS].attr;
	enum insn_mode mode = attr & SEG_DB ? MODE_32 : MODE_16;

	if (is_long_mode(v) && (attr & SEG_L))
		mode = MODE_64;
	else if (v->rflags & FLAG_VM)
		mode = MODE_16;
	__atomic_store_n(&v->mode, mode, __ATOMIC_RELAXED); /* other vCPUs look, when they have written code */
}

void cs_commit(struct vcpu *v, struct x86_seg cs, unsigned cpl)
{
	bool changed = v->cpl != cpl;

	v->seg[SEG_CS] = cs;
	v->cpl = cpl;
	mode_update(v);
	if (changed)
		mmu_cpl_changed(v);
}

void target_check(struct vcpu *v, const struct x86_seg *cs, uint64_t rip)
{
	bool good;

	if (is_long_mode(v) && (cs->attr & SEG_L))
		good = is_canonical(v, rip);
	else
		good = rip <= cs->limit;
	if (!good)
		raise_error(v, VEC_GP, 0);
}

void drop_privileged_segments(struct vcpu *v)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned k = 0; k < sizeof(data); k++) {
		struct x86_seg *s = &v->seg[data[k]];
		bool conforming = (s->attr & (SEG_TYPE_CODE | SEG_TYPE_DC)) == (SEG_TYPE_CODE | SEG_TYPE_DC);

		if ((s->attr & SEG_UNUSABLE) || conforming || seg_dpl(s) >= v->cpl)
			continue;
		s->sel = 0; /* the base stays: 64-bit code may go on using that of FS and GS */
		s->attr |= SEG_UNUSABLE;
	}
}
