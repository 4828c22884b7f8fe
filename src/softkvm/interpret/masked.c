/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Vector accesses to memory by element: MASKMOVQ and MASKMOVDQU, VMASKMOV and VPMASKMOV, VGATHER. Elements
 * that the mask leaves out are not accessed and cannot fault. A gather that faults keeps the elements it has
 * (their mask elements are clear), so it continues where it stopped.
 */
#include "softkvm/interpret/ops.h"
#include "softkvm/interpret/vector.h"

/* No #AC for single elements. */
static gva_t element_address(struct vcpu *v, const struct insn *i, uint64_t offset, unsigned size, bool write)
{
	return address_unaligned(v, i->mem.seg, offset & size_mask(i->mem.addr_size), size, write);
}

/* --- MASKMOVQ, MASKMOVDQU: bytes to DS:rDI --- */

/* Which bytes must be writable when some are selected is up to the processor: all of them, as on AMD's. */
static void write_selected_bytes(struct vcpu *v, const struct insn *i, const uint8_t *data,
				 const uint8_t *mask, unsigned size)
{
	gva_t gva = seg_address(v, i->mem.seg, v->gpr[RDI] & size_mask(i->mem.addr_size), size, true);

	vector_probe(v, gva, size, true);
	for (unsigned k = 0; k < size; k++)
		if (mask[k] >> 7)
			vector_write(v, gva + k, &data[k], 1);
}

/* mm<n> is the mantissa of physical x87 register n. */
static const uint8_t *mmx_bytes(const struct vcpu *v, unsigned n)
{
	const struct xsave_area *x = &v->fpu->x;

	return x->st[(n - (x->fsw >> 11 & 7)) & 7];
}

/* What every MMX instruction does to the x87 state: TOP 0, all tags valid. The registers move with TOP. */
static void enter_mmx(struct vcpu *v)
{
	struct xsave_area *x = &v->fpu->x;
	uint8_t physical[8][16];

	for (unsigned n = 0; n < 8; n++)
		copy(physical[n], mmx_bytes(v, n), 16);
	copy(x->st, physical, sizeof(physical));
	x->fsw &= ~0x3800;
	x->ftw = 0xff;
	x->xstate_bv |= XSTATE_X87;
}

void op_maskmov(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	const struct xsave_area *x = &v->fpu->x;

	vector_check(v, i->row);
	if (i->operand[0].kind == OPK_MMX) {
		vector_materialize(v->fpu, XSTATE_X87);
		write_selected_bytes(v, i, mmx_bytes(v, i->operand[0].reg), mmx_bytes(v, i->operand[1].reg),
				     8);
		enter_mmx(v);
	} else {
		vector_materialize(v->fpu, XSTATE_SSE);
		write_selected_bytes(v, i, x->xmm[i->operand[0].reg], x->xmm[i->operand[1].reg], 16);
	}
	vector_resume(v, live);
}

/* --- VMASKMOVPS/PD, VPMASKMOVD/Q --- */

static unsigned maskmov_element(const struct insn *i)
{
	switch (i->op) {
	case OP_VMASKMOVPD:
	case OP_VPMASKMOVQ: return 8;
	}
	return 4;
}

static bool selected(const uint8_t *mask, unsigned element, unsigned k)
{
	return mask[element * (k + 1) - 1] >> 7;
}

static void masked_load(struct vcpu *v, const struct insn *i, const uint8_t *mask, unsigned element,
			unsigned count)
{
	uint64_t offset = mem_offset(v, i);
	uint8_t value[32] = {0};

	for (unsigned k = 0; k < count; k++)
		if (selected(mask, element, k))
			vector_read(v, element_address(v, i, offset + k * element, element, false),
				    value + k * element, element);
	ymm_set(v, i->operand[0].reg, value);
}

static void masked_store(struct vcpu *v, const struct insn *i, const uint8_t *mask, unsigned element,
			 unsigned count)
{
	uint64_t offset = mem_offset(v, i);
	uint8_t value[32];

	ymm_get(v, i->operand[2].reg, value);
	for (unsigned k = 0; k < count; k++)
		if (selected(mask, element, k))
			vector_probe(v, element_address(v, i, offset + k * element, element, true), element,
				     true);
	for (unsigned k = 0; k < count; k++)
		if (selected(mask, element, k))
			vector_write(v, element_address(v, i, offset + k * element, element, true),
				     value + k * element, element);
}

void op_vmaskmov(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	unsigned element = maskmov_element(i), count = (i->vex_l ? 32 : 16) / element;
	uint8_t mask[32];

	vector_check(v, i->row);
	ymm_get(v, i->operand[1].reg, mask);
	if (i->operand[0].kind == OPK_MEM)
		masked_store(v, i, mask, element, count);
	else
		masked_load(v, i, mask, element, count);
	vector_resume(v, live);
}

/* --- VGATHER --- */

static uint64_t gather_offset(const struct vcpu *v, const struct insn *i, const uint8_t *index,
			      unsigned index_size, unsigned k)
{
	uint64_t offset = (uint64_t)i->mem.disp, value = 0;

	for (unsigned b = 0; b < index_size; b++)
		value |= (uint64_t)index[k * index_size + b] << 8 * b;
	if (i->mem.base != REG_NONE)
		offset += v->gpr[i->mem.base];
	return offset + ((uint64_t)sign_extend(value, index_size) << i->mem.scale_log2);
}

void op_vgather(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	unsigned vector = i->vex_l ? 32 : 16, data_size = i->operand[1].size,
		 index_size = i->opcode & 1 ? 8 : 4;
	unsigned count = vector / (data_size > index_size ? data_size : index_size);
	uint8_t data[32], mask[32], index[32];

	vector_check(v, i->row);
	ymm_get(v, i->operand[0].reg, data);
	ymm_get(v, i->operand[2].reg, mask);
	ymm_get(v, i->mem.index, index);
	for (unsigned k = 0; k < count; k++) {
		if (selected(mask, data_size, k)) {
			uint64_t offset = gather_offset(v, i, index, index_size, k);
			gva_t gva = element_address(v, i, offset, data_size, false);

			vector_read(v, gva, data + k * data_size, data_size);
		}
		clear(mask + k * data_size, data_size);
		ymm_set(v, i->operand[0].reg, data); /* progress: the next element may fault */
		ymm_set(v, i->operand[2].reg, mask);
	}
	clear(data + count * data_size, 32 - count * data_size);
	clear(mask, sizeof(mask));
	ymm_set(v, i->operand[0].reg, data);
	ymm_set(v, i->operand[2].reg, mask);
	vector_resume(v, live);
}
