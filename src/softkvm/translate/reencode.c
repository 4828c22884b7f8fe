// SPDX-License-Identifier: BSD-2-Clause
/*
 * Most guest instructions run on the host as they are, with other registers in their fields and [r9] as memory operand.
 *
 * The table row says where each operand sits (ModRM.reg, ModRM.rm, VEX.vvvv, opcode). Guest registers that live
 * in a host register are renamed; those that live in the vCPU are loaded into a scratch register before and stored after,
 * or used as a memory operand where the instruction has such a form. There are two scratch registers, rcx and r9; an
 * instruction that needs more borrows one of the guest's for its duration.
 *
 * AH, CH, DH and BH cannot be encoded beside a REX prefix, so nothing in such an instruction may be renamed to
 * r8-r15: its pointer goes into rcx, and guest RCX is worked on in rcx itself.
 */
#include "softkvm/translate/translate.h"

/* The encoding's fields that may name a general register. */
enum field { FIELD_REG, FIELD_RM, FIELD_VVVV, FIELD_OPCODE, FIELDS };

struct plan {
	const struct insn *i;
	uint8_t host[FIELDS];	   /* what is encoded */
	uint8_t guest[FIELDS];	   /* general register there, else REG_NONE */
	uint8_t access[FIELDS], size[FIELDS];
	uint8_t scratch_of[2];	   /* guest register in rcx, r9; REG_NONE: free */
	uint8_t pointer;	   /* register holding the memory operand's HVA, or H_NONE */
	int32_t pointer_disp;
	uint8_t borrowed, borrowed_for;
	bool rm_is_slot;	   /* ModRM.rm is a guest register used in place, in the vCPU */
	bool high_byte, byte_regs, implicit_rcx_read, implicit_rcx_write;
};

/* What the translator knows of each semantics whose operands are all that it touches. */
enum {
	FIT = 1,      /* may be renamed */
	FIT_SLOT = 2, /* and means the same with a memory operand in place of a register */
	FIT_BITS = 4, /* with a register as bit number the memory operand is a string of bits */
	FIT_UNIT = 8  /* if the guest may use the vector or x87 unit now */
};

static const uint8_t fitness[SEM_COUNT] = {
	[SEM_ADD] = FIT | FIT_SLOT, [SEM_OR] = FIT | FIT_SLOT, [SEM_ADC] = FIT | FIT_SLOT,
	[SEM_SBB] = FIT | FIT_SLOT, [SEM_AND] = FIT | FIT_SLOT, [SEM_SUB] = FIT | FIT_SLOT,
	[SEM_XOR] = FIT | FIT_SLOT, [SEM_CMP] = FIT | FIT_SLOT, [SEM_TEST] = FIT | FIT_SLOT,
	[SEM_MOV] = FIT | FIT_SLOT, [SEM_MOVZX] = FIT | FIT_SLOT, [SEM_MOVSX] = FIT | FIT_SLOT,
	[SEM_MOVSXD] = FIT | FIT_SLOT, [SEM_IMUL2] = FIT | FIT_SLOT, [SEM_IMUL3] = FIT | FIT_SLOT,
	[SEM_CMOVCC] = FIT | FIT_SLOT, [SEM_INC] = FIT | FIT_SLOT, [SEM_DEC] = FIT | FIT_SLOT,
	[SEM_NEG] = FIT | FIT_SLOT, [SEM_NOT] = FIT | FIT_SLOT, [SEM_ROL] = FIT | FIT_SLOT,
	[SEM_ROR] = FIT | FIT_SLOT, [SEM_SHL] = FIT | FIT_SLOT, [SEM_SHR] = FIT | FIT_SLOT,
	[SEM_SAR] = FIT | FIT_SLOT, [SEM_POPCNT] = FIT | FIT_SLOT, [SEM_TZCNT] = FIT | FIT_SLOT,
	[SEM_LZCNT] = FIT | FIT_SLOT, [SEM_BSF] = FIT | FIT_SLOT, [SEM_BSR] = FIT | FIT_SLOT,
	[SEM_MUL] = FIT | FIT_SLOT, [SEM_IMUL1] = FIT | FIT_SLOT,
	[SEM_XCHG] = FIT, [SEM_XADD] = FIT, [SEM_CMPXCHG] = FIT, [SEM_CMPXCHG8B] = FIT, [SEM_CMPXCHG16B] = FIT,
	[SEM_BSWAP] = FIT, [SEM_SETCC] = FIT, [SEM_MOVNTI] = FIT, [SEM_CBW] = FIT, [SEM_CWD] = FIT,
	[SEM_LAHF] = FIT, [SEM_SAHF] = FIT, [SEM_CMC] = FIT, [SEM_CLC] = FIT, [SEM_STC] = FIT, [SEM_DIV] = FIT,
	[SEM_IDIV] = FIT, [SEM_RCL] = FIT, [SEM_RCR] = FIT, [SEM_SHLD] = FIT, [SEM_SHRD] = FIT, [SEM_CRC32] = FIT,
	[SEM_MOVBE] = FIT, [SEM_ADCX] = FIT, [SEM_ADOX] = FIT, [SEM_ANDN] = FIT, [SEM_BLSR] = FIT,
	[SEM_BLSMSK] = FIT, [SEM_BLSI] = FIT, [SEM_BEXTR] = FIT, [SEM_BZHI] = FIT, [SEM_PEXT] = FIT,
	[SEM_PDEP] = FIT, [SEM_MULX] = FIT, [SEM_SARX] = FIT, [SEM_SHLX] = FIT, [SEM_SHRX] = FIT,
	[SEM_RORX] = FIT, [SEM_MFENCE] = FIT, [SEM_LFENCE] = FIT, [SEM_SFENCE] = FIT, [SEM_RDRAND] = FIT,
	[SEM_RDSEED] = FIT,
	[SEM_BT] = FIT | FIT_BITS, [SEM_BTS] = FIT | FIT_BITS, [SEM_BTR] = FIT | FIT_BITS,
	[SEM_BTC] = FIT | FIT_BITS,
	[SEM_HOST] = FIT_UNIT, [SEM_HOST_X87] = FIT_UNIT, [SEM_FWAIT] = FIT_UNIT, [SEM_LDMXCSR] = FIT_UNIT,
	[SEM_VMASKMOV] = FIT_UNIT,
};

static bool has_slot_form(const struct insn *i)
{
	if ((i->row->sem == SEM_ROL || i->row->sem == SEM_ROR) && i->operand[1].kind == OPK_IMM)
		return false; /* OF comes out differently: see interpret/shift.c */
	return fitness[i->row->sem] & FIT_SLOT;
}

/* Vector and x87 instructions are fit if the guest may use that unit now. */
static bool is_fit_vector(const struct xlat *x, const struct insn *i)
{
	uint32_t attrs = i->row->attrs, need = 0;

	if (attrs & (INSN_VSIB | INSN_PRIV) || !(fitness[i->row->sem] & FIT_UNIT))
		return false;
	if (attrs & (INSN_X87 | INSN_MMX))
		need |= FLAVOUR_X87;
	if (attrs & INSN_SSE)
		need |= FLAVOUR_SSE;
	if (attrs & INSN_VEX)
		need |= FLAVOUR_AVX;
	return need && (x->view->flavour & need) == need;
}

static bool is_fit(const struct xlat *x, const struct insn *i)
{
	if (i->row->attrs & (INSN_HOST | INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX))
		return is_fit_vector(x, i);
	if (i->row->sem == SEM_MOV && i->operand[0].kind == OPK_MEM && !i->has_modrm)
		return false;
	if (i->row->sem == SEM_MOV && i->operand[1].kind == OPK_MEM && !i->has_modrm)
		return false;
	if (i->opcode == 0x82 && !i->opcode_map)
		return false; /* no such encoding in 64-bit mode */
	if (fitness[i->row->sem] & FIT_BITS)
		return i->modrm >= 0xc0 || i->operand[1].kind == OPK_IMM;
	return fitness[i->row->sem] & FIT;
}

/* The host may fault here: #DE, #XM, #MF, alignment. */
static bool can_fault(const struct insn *i)
{
	return i->row->attrs & (INSN_HOST | INSN_ALIGN | INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX) || i->row->sem == SEM_DIV || i->row->sem == SEM_IDIV ||
	       i->row->sem == SEM_CMPXCHG16B;
}

static void note_field(struct plan *p, enum field f, const struct operand *o)
{
	p->guest[f] = o->reg;
	p->access[f] = o->access;
	p->size[f] = (uint8_t)o->size;
	if (o->size == 1)
		p->byte_regs = true;
	if (o->reg >= REG_AH)
		p->high_byte = true;
}

/* Reads the operands; false: one of them is of a kind that cannot be renamed. */
static bool plan_operands(struct plan *p)
{
	const struct insn *i = p->i;

	for (unsigned k = 0; k < i->operand_count; k++) {
		const struct operand *o = &i->operand[k];

		if (o->kind == OPK_MEM || o->kind == OPK_IMM || o->kind == OPK_IMM2 || o->kind == OPK_XMM || o->kind == OPK_MMX ||
		    o->kind == OPK_ST)
			continue;
		if (o->kind != OPK_GPR)
			return false;
		switch (i->row->operand[k].how) {
		case HOW_E:
		case HOW_R:
			note_field(p, FIELD_RM, o);
			break;
		case HOW_G:
			note_field(p, FIELD_REG, o);
			break;
		case HOW_B:
			note_field(p, FIELD_VVVV, o);
			break;
		case HOW_Z:
			note_field(p, FIELD_OPCODE, o);
			break;
		default:
			if (o->reg == RSP)
				return false;
			if (o->reg == RCX) {
				p->implicit_rcx_read |= o->access & ACC_R || o->size < 4;
				p->implicit_rcx_write |= !!(o->access & ACC_W);
			}
		}
	}
	return true;
}

static bool uses_guest(const struct plan *p, unsigned guest)
{
	const struct insn *i = p->i;

	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->operand[k].kind == OPK_GPR && (i->operand[k].reg == guest || i->operand[k].reg == guest + REG_AH))
			return true;
	return false;
}

/* A guest register's host register that the instruction does not use: saved in the vCPU meanwhile. */
static unsigned borrow(struct xlat *x, struct plan *p)
{
	static const uint8_t candidates[] = { R12, R13, R14, R15, RBX, RBP, RSI, RDI };

	/* A host fault would find the wrong value in it. */
	if (p->borrowed != H_NONE || can_fault(p->i))
		return H_NONE;
	for (unsigned k = 0; k < sizeof(candidates); k++)
		if (!uses_guest(p, candidates[k])) {
			p->borrowed = candidates[k];
			emit_store(&x->hot, 8, mem_base(ENV, ENV_HOT(HOT_TEMP)), p->borrowed);
			return p->borrowed;
		}
	return H_NONE;
}

static unsigned take_scratch(struct xlat *x, struct plan *p, unsigned guest)
{
	static const uint8_t reg[2] = { H_RCX, H_R9 };

	for (unsigned k = 0; k < 2; k++)
		if (p->scratch_of[k] == guest)
			return reg[k];
	if (p->borrowed != H_NONE && p->borrowed_for == guest)
		return p->borrowed;
	for (unsigned k = 0; k < 2; k++)
		if (p->scratch_of[k] == REG_NONE) {
			p->scratch_of[k] = (uint8_t)guest;
			if (k == 1)
				x->addr_group = NO_GROUP;
			return reg[k];
		}
	p->borrowed_for = (uint8_t)guest;
	return borrow(x, p);
}

/* Is the register's old value read, or merged with what is written? */
static bool value_matters(const struct plan *p, unsigned guest)
{
	for (unsigned f = 0; f < FIELDS; f++)
		if (p->guest[f] == guest && (p->access[f] & ACC_R || p->size[f] < 4))
			return true;
	return false;
}

/* Choose a host register for one field, loading the guest's value if it matters. False: cannot. */
static bool assign(struct xlat *x, struct plan *p, enum field f)
{
	unsigned guest = p->guest[f];
	bool loaded = false;

	if (guest == REG_NONE)
		return true;
	if (guest >= REG_AH) {
		p->host[f] = (uint8_t)(guest - REG_AH + 4);
		if (guest - REG_AH != RCX)
			return true;
		guest = RCX;
	} else if (guest == RSP) {
		if (p->high_byte)
			return false;
		rsp_commit(x);
		p->host[f] = GUEST_RSP;
		return true;
	} else if (host_register[guest] != H_NONE && !(p->high_byte && guest == RCX)) {
		p->host[f] = host_register[guest];
		return true;
	} else if (f == FIELD_RM && host_register[guest] == H_NONE && has_slot_form(p->i) && !p->high_byte &&
		   (!(p->access[f] & ACC_W) || p->size[f] != 4)) {
		p->rm_is_slot = true;
		return true;
	}
	for (unsigned k = 0; k < 2; k++)
		loaded |= p->scratch_of[k] == guest;
	loaded |= p->borrowed != H_NONE && p->borrowed_for == guest;
	if (p->high_byte) { /* guest RCX in rcx itself */
		if (p->pointer == H_RCX)
			return false;
		p->scratch_of[0] = RCX;
		if (p->guest[f] < REG_AH)
			p->host[f] = H_RCX;
		if (!loaded)
			emit_mov(&x->hot, 8, H_RCX, GUEST_RCX);
		return true;
	}
	p->host[f] = (uint8_t)take_scratch(x, p, guest);
	if (p->host[f] == H_NONE)
		return false;
	if (!loaded && value_matters(p, guest))
		slot_load(x, p->host[f], guest);
	return true;
}

/* Guest registers that were worked on in scratch registers go home. */
static void write_back(struct xlat *x, const struct plan *p)
{
	uint32_t done = 0;

	for (unsigned f = 0; f < FIELDS; f++) {
		unsigned guest = p->guest[f], home = guest;

		if (guest == REG_NONE || !(p->access[f] & ACC_W) || (f == FIELD_RM && p->rm_is_slot))
			continue;
		if (guest >= REG_AH)
			home = guest - REG_AH;
		if (done & 1u << home)
			continue;
		done |= 1u << home;
		if (p->high_byte && home == RCX)
			emit_mov(&x->hot, 8, GUEST_RCX, H_RCX);
		else if (host_register[home] == H_NONE)
			slot_store(x, home, p->host[f]);
	}
	if (p->implicit_rcx_write)
		emit_mov(&x->hot, 8, GUEST_RCX, H_RCX);
	if (p->borrowed != H_NONE)
		emit_load(&x->hot, 8, p->borrowed, mem_base(ENV, ENV_HOT(HOT_TEMP)));
}

/* 32-bit code may have VEX.W set where it would say that a general operand has 64 bits: it is ignored there. */
static bool ignores_w(const struct insn *i)
{
	for (unsigned k = 0; i->mode != MODE_64 && k < i->operand_count; k++)
		switch (i->row->operand[k].how) {
		case HOW_E:
		case HOW_R:
		case HOW_G:
		case HOW_B:
		case HOW_GPR: /* lengths of VPCMPESTRM */
			return true;
		}
	return false;
}

static unsigned rex_bits(const struct plan *p)
{
	unsigned rm = p->i->has_modrm ? p->host[FIELD_RM] : p->host[FIELD_OPCODE], rex = ignores_w(p->i) ? 0 : p->i->rex & 8;

	if (p->pointer != H_NONE)
		rm = p->pointer;
	if (p->rm_is_slot)
		rm = ENV;
	if (p->i->has_modrm && p->host[FIELD_REG] & 8)
		rex |= 4;
	if (rm & 8)
		rex |= 1;
	return rex;
}

/* Any REX changes byte registers 4..7 from AH.. to SPL..: needed for those, forbidden for these. */
static bool needs_plain_rex(const struct plan *p)
{
	if (!p->byte_regs || p->high_byte)
		return false;
	for (unsigned f = 0; f < FIELDS; f++)
		if (p->guest[f] != REG_NONE && p->size[f] == 1 && p->host[f] >= 4 && !(f == FIELD_RM && p->rm_is_slot))
			return true;
	return false;
}

/* INC and DEC of one byte: what are REX prefixes in 64-bit mode. */
static bool is_short_incdec(const struct insn *i)
{
	return (i->row->sem == SEM_INC || i->row->sem == SEM_DEC) && !i->has_modrm;
}

static void emit_inc_dec(struct emit *e, const struct plan *p)
{
	emit_u8(e, 0xff);
	emit_u8(e, (uint8_t)((p->i->row->sem == SEM_INC ? 0xc0 : 0xc8) | (p->host[FIELD_OPCODE] & 7)));
}

/* In 16-bit code the prefix has the opposite meaning, but where it is part of the opcode. */
static bool wants_66(const struct insn *i)
{
	enum { WITHOUT = 1, WITH = 2 };

	if (i->mode != MODE_16)
		return i->prefixes & PFX_66;
	switch (i->row->prefixes & (WITHOUT | WITH)) {
	case WITHOUT:
		return false;
	case WITH:
		return true;
	default:
		return i->op_size == 2 && !(i->row->attrs & (INSN_HOST | INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX));
	}
}

static void put_legacy(struct emit *e, const struct plan *p)
{
	const struct insn *i = p->i;
	unsigned rex = rex_bits(p);

	if (i->prefixes & PFX_LOCK)
		emit_u8(e, 0xf0);
	if (wants_66(i))
		emit_u8(e, 0x66);
	if (i->prefixes & PFX_REP)
		emit_u8(e, 0xf3);
	if (i->prefixes & PFX_REPNE)
		emit_u8(e, 0xf2);
	if (rex || needs_plain_rex(p))
		emit_u8(e, (uint8_t)(0x40 | rex));
	if (i->opcode_map) {
		emit_u8(e, 0x0f);
		if (i->opcode_map > 1)
			emit_u8(e, i->opcode_map == 2 ? 0x38 : 0x3a);
	}
	if (is_short_incdec(i))
		emit_inc_dec(e, p);
	else if (p->guest[FIELD_OPCODE] != REG_NONE)
		emit_u8(e, (uint8_t)((i->opcode & ~7) | (p->host[FIELD_OPCODE] & 7)));
	else
		emit_u8(e, i->opcode);
}

static void put_vex(struct emit *e, const struct plan *p)
{
	const struct insn *i = p->i;
	unsigned rex = rex_bits(p), last = i->bytes[i->opcode_at - 1] & 7; /* L, pp */

	last |= (~p->host[FIELD_VVVV] & 15u) << 3;
	if (i->opcode_map == 1 && !(rex & 0xb)) {
		emit_u8(e, 0xc5);
		emit_u8(e, (uint8_t)((rex & 4 ? 0 : 0x80) | last));
	} else {
		emit_u8(e, 0xc4);
		emit_u8(e, (uint8_t)((~rex & 7u) << 5 | i->opcode_map));
		emit_u8(e, (uint8_t)((rex & 8 ? 0x80 : 0) | last));
	}
	emit_u8(e, i->opcode);
}

/* Is the immediate's upper half a register? In 32-bit code its highest bit is ignored. */
static bool names_register(const struct insn *i)
{
	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->row->operand[k].how == HOW_L)
			return true;
	return false;
}

static void put_instruction(struct emit *e, const struct plan *p)
{
	const struct insn *i = p->i;

	if (i->prefixes & PFX_VEX)
		put_vex(e, p);
	else
		put_legacy(e, p);
	if (i->has_modrm) {
		if (p->pointer != H_NONE)
			emit_modrm_mem(e, p->host[FIELD_REG], mem_base(p->pointer, p->pointer_disp));
		else if (p->rm_is_slot)
			emit_modrm_mem(e, p->host[FIELD_REG], mem_base(ENV, ENV_GPR(p->guest[FIELD_RM])));
		else
			emit_u8(e, (uint8_t)(0xc0 | (p->host[FIELD_REG] & 7) << 3 | (p->host[FIELD_RM] & 7)));
	}
	if (i->mode != MODE_64 && names_register(i))
		emit_u8(e, i->bytes[i->imm_at] & 0x7f);
	else if (i->imm_size)
		emit_bytes(e, i->bytes + i->imm_at, i->imm_size);
}

const struct operand *memory_operand_of(const struct insn *i)
{
	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->operand[k].kind == OPK_MEM && i->operand[k].access & ACC_RW)
			return &i->operand[k];
	return NULL;
}

static bool fits(const struct plan *p, const struct operand *mem)
{
	const struct insn *i = p->i;

	if ((mem && (mem->size == 0 || mem->size > 64 || i->mem.vsib)))
		return false;
	if (i->has_modrm && i->modrm < 0xc0 && !mem)
		return false; /* address only: LEA and friends have their own */
	/* REX cannot be avoided, or rcx is wanted twice. */
	if (p->high_byte && (p->implicit_rcx_read || p->implicit_rcx_write || p->guest[FIELD_REG] == RSP || p->guest[FIELD_RM] == RSP))
		return false;
	return true;
}

static void plan_init(struct plan *p, const struct insn *i)
{
	p->i = i;
	p->host[FIELD_REG] = (i->modrm >> 3 & 7) | (i->rex & 4 ? 8 : 0);
	p->host[FIELD_RM] = (i->modrm & 7) | (i->rex & 1 ? 8 : 0);
	p->host[FIELD_VVVV] = i->vex_vvvv;
	p->host[FIELD_OPCODE] = 0;
	for (unsigned f = 0; f < FIELDS; f++) {
		p->guest[f] = REG_NONE;
		p->access[f] = p->size[f] = 0;
	}
	p->scratch_of[0] = p->scratch_of[1] = REG_NONE;
	p->pointer = p->borrowed = H_NONE;
	p->pointer_disp = 0;
	p->borrowed_for = REG_NONE;
	p->rm_is_slot = p->high_byte = p->byte_regs = p->implicit_rcx_read = p->implicit_rcx_write = false;
}

bool reencode(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	const struct operand *mem = memory_operand_of(i);
	struct emit *e = &x->hot;
	uint8_t *start;
	struct plan p;

	plan_init(&p, i);
	if (!is_fit(x, i) || !plan_operands(&p) || !fits(&p, mem))
		return false;
	if (p.high_byte && mem && (p.guest[FIELD_REG] == REG_CH || p.guest[FIELD_REG] == RCX))
		return false;
	if (mem) {
		memory_operand(x, mem->size, mem->access & ACC_W);
		p.pointer = ADDR;
		p.pointer_disp = x->mem.disp;
		p.scratch_of[1] = BASE_RIP; /* taken */
	}
	flags_need(x); /* before rcx gets another use */
	if (mem && p.high_byte) {
		emit_lea(e, 8, H_RCX, x->mem);
		p.pointer = H_RCX;
		p.pointer_disp = 0;
		p.scratch_of[0] = BASE_RIP;
	}
	if (p.implicit_rcx_read || p.implicit_rcx_write)
		p.scratch_of[0] = RCX;
	for (unsigned f = 0; f < FIELDS; f++)
		if (!assign(x, &p, f))
			return false;
	if (p.implicit_rcx_read)
		emit_mov(e, 8, H_RCX, GUEST_RCX);
	start = e->p;
	put_instruction(e, &p);
	if (can_fault(i))
		fault_note(x, start);
	write_back(x, &p);
	if ((i->row->flags_written | i->row->flags_undefined | i->row->flags_may) & FLAGS_STATUS)
		flags_written(x);
	return true;
}
