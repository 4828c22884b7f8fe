/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control registers, descriptor-table registers, XCR0, TLB instructions, HLT and MONITOR (SDM volume 3, chapters 2 and 4).
 * Long mode is active (EFER.LMA) while EFER.LME and CR0.PG are both set.
 */
#include "softkvm/interpret/control.h"

#include "softkvm/interpret/cpuid.h"
#include "softkvm/interpret/descriptor.h"
#include "softkvm/interpret/ops.h"
#include "softkvm/irqchip/irqchip.h"

/* --- writes with their rules --- */

static void mode_changed(struct vcpu *v)
{
	mode_update(v);
	mmu_mode_changed(v);
	want_attention(v);
}

static bool is_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

static bool enable_paging_allowed(struct vcpu *v, uint64_t cr0)
{
	if (v->efer & EFER_LME)
		return (v->cr4 & CR4_PAE) && !(v->seg[SEG_CS].attr & SEG_L);
	return !is_pae_paging(cr0, v->cr4, v->efer) || mmu_load_pdptes(v, v->cr3);
}

bool cr0_write(struct vcpu *v, uint64_t value)
{
	const uint64_t known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
	bool had_paging = v->cr0 & CR0_PG, has_paging = value & CR0_PG;

	if (value >> 32)
		return false;
	value = (value & known) | CR0_ET;
	if (((value & CR0_NW) && !(value & CR0_CD)) || (has_paging && !(value & CR0_PE)))
		return false;
	if (!had_paging && has_paging && !enable_paging_allowed(v, value))
		return false;
	if (had_paging && !has_paging && (v->mode == MODE_64 || (v->cr4 & CR4_PCIDE)))
		return false;
	v->cr0 = value;
	if (has_paging && (v->efer & EFER_LME))
		v->efer |= EFER_LMA;
	else
		v->efer &= ~(uint64_t)EFER_LMA;
	mode_changed(v);
	return true;
}

bool cr3_write(struct vcpu *v, uint64_t value)
{
	bool pcid = v->cr4 & CR4_PCIDE, noflush = pcid && (value & CR3_NOFLUSH);
	uint64_t old = v->cr3;

	if (pcid)
		value &= ~CR3_NOFLUSH;
	if (is_long_mode(v) && (value >> (v->phys_bits ? v->phys_bits : 40)))
		return false;
	if (!is_long_mode(v)) {
		value = (uint32_t)value;
		if (is_pae_paging(v->cr0, v->cr4, v->efer) && !mmu_load_pdptes(v, value))
			return false;
	}
	v->cr3 = value;
	mmu_cr3_loaded(v, old, noflush);
	return true;
}

bool cr4_write(struct vcpu *v, uint64_t value)
{
	uint64_t changed = v->cr4 ^ value;

	if (value & ~cr4_allowed(v))
		return false;
	if (is_long_mode(v)) {
		if (!(value & CR4_PAE) || (changed & CR4_LA57))
			return false;
	} else if ((changed & value & CR4_PCIDE)) {
		return false;
	}
	if ((changed & value & CR4_PCIDE) && (v->cr3 & 0xfff))
		return false;
	if (is_pae_paging(v->cr0, value, v->efer) && (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP)) &&
	    !mmu_load_pdptes(v, v->cr3))
		return false;
	v->cr4 = value;
	mode_changed(v);
	return true;
}

bool efer_write(struct vcpu *v, uint64_t value)
{
	uint64_t lma = v->efer & EFER_LMA;

	value &= ~(uint64_t)EFER_LMA;
	if (value & ~efer_allowed(v))
		return false;
	if ((v->cr0 & CR0_PG) && ((value ^ v->efer) & EFER_LME))
		return false;
	v->efer = value | lma;
	mode_changed(v);
	return true;
}

bool xcr0_write(struct vcpu *v, uint64_t value)
{
	if (!(value & 1) || (value & ~cpuid_xcr0_mask(v)))
		return false;
	if ((value & 4) && !(value & 2)) /* AVX needs SSE */
		return false;
	if ((value & 0xe0) && ((value & 0xe0) != 0xe0 || !(value & 4))) /* AVX-512 in whole */
		return false;
	v->xcr0 = value;
	want_attention(v);
	return true;
}

/* --- MOV CRn --- */

static void require(struct vcpu *v, bool good)
{
	if (!good)
		raise_error(v, VEC_GP, 0);
}

void op_mov_from_cr(struct vcpu *v, const struct insn *i)
{
	uint64_t value;

	switch (i->operand[1].reg) {
	case 0:
		value = v->cr0;
		break;
	case 2:
		value = v->cr2;
		break;
	case 3:
		value = v->cr3;
		break;
	case 4:
		value = v->cr4;
		break;
	case 8:
		value = lapic_get_cr8(v);
		break;
	default:
		raise_exception(v, VEC_UD);
	}
	op_write(v, i, 0, value);
}

void op_mov_to_cr(struct vcpu *v, const struct insn *i)
{
	uint64_t value = op_read(v, i, 1);

	switch (i->operand[0].reg) {
	case 0:
		require(v, cr0_write(v, value));
		break;
	case 2:
		v->cr2 = value;
		break;
	case 3:
		require(v, cr3_write(v, value));
		break;
	case 4:
		require(v, cr4_write(v, value));
		break;
	case 8:
		require(v, value <= 15);
		lapic_set_cr8(v, value);
		want_attention(v);
		break;
	default:
		raise_exception(v, VEC_UD);
	}
}

void op_lmsw(struct vcpu *v, const struct insn *i)
{
	uint64_t value = op_read(v, i, 0) & 0xf;

	require(v, cr0_write(v, (v->cr0 & ~0xeull) | value)); /* PE can be set, not cleared */
}

static void umip_check(struct vcpu *v)
{
	if ((v->cr4 & CR4_UMIP) && v->cpl > 0)
		raise_error(v, VEC_GP, 0);
}

void op_smsw(struct vcpu *v, const struct insn *i)
{
	umip_check(v);
	op_write(v, i, 0, v->cr0);
}

void op_clts(struct vcpu *v, const struct insn *i)
{
	v->cr0 &= ~(uint64_t)CR0_TS;
}

/* --- GDTR, IDTR --- */

static void table_load(struct vcpu *v, const struct insn *i, struct x86_dtable *table)
{
	bool wide = v->mode == MODE_64;
	uint64_t at = mem_offset(v, i);
	uint16_t limit = seg_read(v, i->mem.seg, at, 2);
	uint64_t base = seg_read(v, i->mem.seg, (at + 2) & size_mask(i->mem.addr_size), wide ? 8 : 4);

	if (wide)
		require(v, is_canonical(v, base));
	else if (i->op_size == 2)
		base &= 0xffffff;
	*table = (struct x86_dtable){.base = base, .limit = limit};
}

static void table_store(struct vcpu *v, const struct insn *i, const struct x86_dtable *table)
{
	bool wide = v->mode == MODE_64;
	uint64_t at = mem_offset(v, i), next = (at + 2) & size_mask(i->mem.addr_size);

	umip_check(v);
	seg_address(v, i->mem.seg, next, wide ? 8 : 4, true);
	mmu_probe(v, seg_linear(v, i->mem.seg, next), wide ? 8 : 4, true);
	seg_write(v, i->mem.seg, at, 2, table->limit);
	seg_write(v, i->mem.seg, next, wide ? 8 : 4, table->base);
}

void op_lgdt(struct vcpu *v, const struct insn *i)
{
	table_load(v, i, &v->gdt);
}

void op_lidt(struct vcpu *v, const struct insn *i)
{
	table_load(v, i, &v->idt);
}

void op_sgdt(struct vcpu *v, const struct insn *i)
{
	table_store(v, i, &v->gdt);
}

void op_sidt(struct vcpu *v, const struct insn *i)
{
	table_store(v, i, &v->idt);
}

/* --- TLB and caches --- */

void op_invlpg(struct vcpu *v, const struct insn *i)
{
	mmu_invlpg(v, seg_linear(v, i->mem.seg, mem_offset(v, i)));
}

void op_invpcid(struct vcpu *v, const struct insn *i)
{
	uint64_t type = op_read(v, i, 0), at = mem_offset(v, i);
	uint64_t pcid = seg_read(v, i->mem.seg, at, 8);
	gva_t gva = seg_read(v, i->mem.seg, (at + 8) & size_mask(i->mem.addr_size), 8);

	require(v, type <= 3);
	if (type <= 1)
		require(v, !(pcid >> 12) && (!pcid || (v->cr4 & CR4_PCIDE)));
	if (type == 0)
		require(v, is_canonical(v, gva));
	mmu_invpcid(v, type, pcid, gva);
}

void op_invd(struct vcpu *v, const struct insn *i)
{
}

void op_wbinvd(struct vcpu *v, const struct insn *i)
{
}

/* --- waiting --- */

void op_hlt(struct vcpu *v, const struct insn *i)
{
	v->halted = true;
	v->counts->halt_exits++;
	want_attention(v);
}

/* MONITOR checks its address as a byte read; MWAIT is then a NOP, as the architecture allows. */
void op_monitor(struct vcpu *v, const struct insn *i)
{
	unsigned size = v->mode == MODE_64 ? (i->prefixes & PFX_67 ? 4 : 8) : (v->mode == MODE_32) ^ !!(i->prefixes & PFX_67) ? 4 : 2;

	require(v, !(uint32_t)v->gpr[RCX]);
	seg_read(v, i->mem.seg <= SEG_GS ? i->mem.seg : SEG_DS, v->gpr[RAX] & size_mask(size), 1);
}

void op_mwait(struct vcpu *v, const struct insn *i)
{
	require(v, !((uint32_t)v->gpr[RCX] & ~1u));
}

void op_rsm(struct vcpu *v, const struct insn *i)
{
	raise_exception(v, VEC_UD); /* never in system management mode */
}

/* --- SMAP, XCR0 --- */

static void set_ac(struct vcpu *v, uint64_t ac)
{
	v->rflags = (v->rflags & ~(uint64_t)FLAG_AC) | ac;
	mmu_mode_changed(v);
}

/* Above CPL 0 CLAC and STAC are #UD, not #GP. */
void op_clac(struct vcpu *v, const struct insn *i)
{
	if (v->cpl)
		raise_exception(v, VEC_UD);
	set_ac(v, 0);
}

void op_stac(struct vcpu *v, const struct insn *i)
{
	if (v->cpl)
		raise_exception(v, VEC_UD);
	set_ac(v, FLAG_AC);
}

void op_xgetbv(struct vcpu *v, const struct insn *i)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		raise_exception(v, VEC_UD);
	require(v, (uint32_t)v->gpr[RCX] <= 1);
	v->gpr[RAX] = (uint32_t)v->xcr0; /* 1: in use, where everything enabled counts as in use */
	v->gpr[RDX] = v->xcr0 >> 32;
}

void op_xsetbv(struct vcpu *v, const struct insn *i)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		raise_exception(v, VEC_UD);
	require(v, (uint32_t)v->gpr[RCX] == 0);
	require(v, xcr0_write(v, (uint32_t)v->gpr[RAX] | v->gpr[RDX] << 32));
}
