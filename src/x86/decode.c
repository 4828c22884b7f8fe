/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The instruction decoder: bytes → struct insn, driven by the tables that tools/gen-insns.py makes from
 * insns.tab.
 *
 * One pass, in the order of the bytes: prefixes, opcode and map (or VEX), ModRM; then the row is chosen among
 * the few candidates of that opcode by prefix, mode, register or memory form, ModRM.reg and VEX.W/L; then SIB
 * and displacement; then the row's operand list says what the fields mean and which immediates follow.
 *
 * Rules that are easy to forget (SDM volume 2, chapter 2):
 *  - REX counts only directly before the opcode. Of F2 and F3 the last one counts, and both outrank 66.
 *  - VEX after LOCK, 66, F2, F3 or REX is #UD; outside 64-bit mode C4/C5 are VEX only if the next byte's
 *    top bits are 11.
 *  - In 64-bit mode the overrides of ES, CS, SS and DS do nothing, and do not cancel an earlier FS or GS.
 *  - Near branches ignore 66 in 64-bit mode (Intel's rule; AMD's processors truncate the target).
 *  - LOCK is valid only on a read-modify-write row whose destination is memory.
 * AVX-512 (EVEX), XOP and 3DNow! are not offered: no such instruction.
 *
 * Compiled with the engine's rules (no vector registers, no libc): the translator calls it with guest state
 * live.
 */
#include <stddef.h>

#include "x86/insn_row.h"

struct decode {
	struct insn *insn;
	const uint8_t *code;
	unsigned pos, avail;
	enum insn_status status; /* of the first failed fetch */
	uint8_t prefix_bit;	 /* insn_row.prefixes bit in force */
	uint8_t wl;		 /* insn_row.wl bits in force */
	uint8_t segment;	 /* override or REG_NONE */
	bool is_vex;
};

static bool need(struct decode *d, unsigned count)
{
	if (d->pos + count <= d->avail && d->pos + count <= INSN_MAX_LEN)
		return true;
	if (d->status == INSN_OK)
		d->status = d->pos + count > INSN_MAX_LEN ? INSN_TOO_LONG : INSN_TRUNCATED;
	return false;
}

/* The next `size` bytes (1..8), little-endian, zero-extended; 0 and d->status set if they are not there. */
static uint64_t fetch(struct decode *d, unsigned size)
{
	uint64_t value;

	if (!need(d, size))
		return 0;
	__builtin_memcpy(&value, d->code + d->pos, 8); /* the snapshot has room behind */
	d->pos += size;
	return value & ~0ull >> (64 - 8 * size);
}

static uint64_t sign_extend(uint64_t value, unsigned size)
{
	unsigned shift = 64 - 8 * size;

	return size < 8 ? (uint64_t)((int64_t)(value << shift) >> shift) : value;
}

static uint64_t truncate_to(uint64_t value, unsigned size)
{
	return size < 8 ? value & ((1ull << 8 * size) - 1) : value;
}

static void take_segment(struct decode *d, uint8_t segment)
{
	d->insn->prefixes |= PFX_SEG;
	if (d->insn->mode != MODE_64 || segment >= SEG_FS)
		d->segment = segment;
}

/* One legacy prefix. */
static void take_prefix(struct decode *d, uint8_t byte)
{
	struct insn *i = d->insn;

	switch (byte) {
	case 0x26: take_segment(d, SEG_ES); break;
	case 0x2e: take_segment(d, SEG_CS); break;
	case 0x36: take_segment(d, SEG_SS); break;
	case 0x3e: take_segment(d, SEG_DS); break;
	case 0x64: take_segment(d, SEG_FS); break;
	case 0x65: take_segment(d, SEG_GS); break;
	case 0x66: i->prefixes |= PFX_66; break;
	case 0x67: i->prefixes |= PFX_67; break;
	case 0xf0: i->prefixes |= PFX_LOCK; break;
	case 0xf2: i->prefixes = (i->prefixes & ~PFX_REP) | PFX_REPNE; break;
	case 0xf3: i->prefixes = (i->prefixes & ~PFX_REPNE) | PFX_REP; break;
	}
}

/* Is it a prefix other than REX? A bit for each byte: most instructions have none. */
static bool is_prefix(uint8_t byte)
{
	static const uint64_t bytes[4] = {1ull << 0x26 | 1ull << 0x2e | 1ull << 0x36 | 1ull << 0x3e,
					  0xfull << (0x64 - 0x40), 0, 1ull << (0xf0 - 0xc0) | 3ull << (0xf2 - 0xc0)};

	return bytes[byte / 64] >> byte % 64 & 1;
}

/* Prefixes up to and including REX. Leaves d->pos at the opcode (or VEX) byte. */
static bool take_prefixes(struct decode *d)
{
	struct insn *i = d->insn;

	while (need(d, 1)) {
		uint8_t byte = d->code[d->pos];

		if (i->mode == MODE_64 && (byte & 0xf0) == 0x40) {
			i->rex = byte;
		} else if (is_prefix(byte)) {
			take_prefix(d, byte);
			i->rex = 0;
		} else {
			if (i->rex)
				i->prefixes |= PFX_REX;
			return true;
		}
		d->pos++;
	}
	return false;
}

static void legacy_opcode(struct decode *d)
{
	struct insn *i = d->insn;

	i->opcode = fetch(d, 1);
	if (i->opcode == 0x0f) {
		i->opcode_map = 1;
		i->opcode = fetch(d, 1);
		if (i->opcode == 0x38 || i->opcode == 0x3a) {
			i->opcode_map = i->opcode == 0x38 ? 2 : 3;
			i->opcode = fetch(d, 1);
		}
	}
	d->prefix_bit = i->prefixes & PFX_66 ? 2 : 1;
	if (i->prefixes & (PFX_REP | PFX_REPNE))
		d->prefix_bit = i->prefixes & PFX_REPNE ? 8 : 4;
	d->wl = (i->rex & 8 ? 2 : 1) | 4 | 8;
}

/* C4 and C5 forms. False: not VEX here, or invalid (*valid says). */
static bool vex_opcode(struct decode *d, bool *valid)
{
	struct insn *i = d->insn;
	uint8_t first = d->code[d->pos], second, last;

	if ((first & 0xfe) != 0xc4 || !need(d, 2))
		return false;
	second = d->code[d->pos + 1];
	if (i->mode != MODE_64 && second < 0xc0)
		return false;
	d->is_vex = true;
	if (i->rex || i->prefixes & (PFX_LOCK | PFX_66 | PFX_REP | PFX_REPNE))
		*valid = false;
	d->pos += 2;
	last = second;
	i->opcode_map = 1;
	i->rex = 0x40 | (second & 0x80 ? 0 : 4);
	if (first == 0xc4) {
		last = fetch(d, 1);
		i->opcode_map = second & 0x1f;
		i->rex = 0x40 | (~second >> 5 & 7) | (last >> 4 & 8);
	}
	if (i->opcode_map < 1 || i->opcode_map > 3)
		*valid = false;
	i->prefixes |= PFX_VEX;
	i->vex_l = last >> 2 & 1;
	i->vex_vvvv = ~last >> 3 & 15;
	d->wl = (i->rex & 8 ? 2 : 1) | (i->vex_l ? 8 : 4);
	d->prefix_bit = (const uint8_t[]){1, 2, 4, 8}[last & 3];
	i->opcode_at = d->pos;
	i->opcode = fetch(d, 1);
	if (i->mode != MODE_64)
		i->rex &= 0x48;
	return true;
}

static bool row_matches(const struct decode *d, const struct insn_row *row)
{
	const struct insn *i = d->insn;

	if (!(row->prefixes & d->prefix_bit) || !(row->modes & 1 << i->mode) ||
	    !(row->wl & d->wl & 3) || !(row->wl & d->wl & 12))
		return false;
	if (row->encoding & ENC_REXB0 && i->rex & 1)
		return false;
	if (!i->has_modrm)
		return true;
	if (!(row->regs >> (i->modrm >> 3 & 7) & 1))
		return false;
	return i->modrm >= 0xc0 ? row->mods & 2 && row->rms >> (i->modrm & 7) & 1 : row->mods & 1;
}

/* Fetches ModRM if the opcode has one and chooses the row. NULL: no such instruction, or bytes missing. */
static const struct insn_row *find_row(struct decode *d)
{
	struct insn *i = d->insn;
	const struct insn_slot *slot = &insn_slots[i->opcode_map + (d->is_vex ? 4 : 0)][i->opcode];

	if (!slot->count)
		return NULL;
	if (slot->flags & SLOT_MODRM) {
		i->modrm_at = d->pos;
		i->modrm = fetch(d, 1);
		i->has_modrm = true;
		if (d->status)
			return NULL;
		if (slot->flags & SLOT_BY_REG)
			slot = &insn_reg_slots[slot->first][i->modrm >> 3 & 7];
	}
	for (unsigned k = 0; k < slot->count; k++) {
		const struct insn_row *row = &insn_rows[insn_candidates[slot->first + k]];

		if (row_matches(d, row))
			return row;
	}
	return NULL;
}

static void take_disp(struct decode *d, unsigned size)
{
	struct insn *i = d->insn;

	if (!size)
		return;
	i->disp_at = d->pos;
	i->disp_size = size;
	i->mem.disp = (int64_t)sign_extend(fetch(d, size), size);
}

static void address_16(struct decode *d)
{
	static const uint8_t bases[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
	static const uint8_t indexes[8] = {RSI, RDI, RSI, RDI, REG_NONE, REG_NONE, REG_NONE, REG_NONE};
	struct insn *i = d->insn;
	unsigned mod = i->modrm >> 6, rm = i->modrm & 7;

	i->mem.base = bases[rm];
	i->mem.index = indexes[rm];
	if (mod == 0 && rm == 6) {
		i->mem.base = REG_NONE;
		take_disp(d, 2);
	} else {
		take_disp(d, mod); /* 1 or 2 bytes */
	}
}

/* SIB; returns false when a base of 5 without displacement bits means "disp32, no base". */
static bool take_sib(struct decode *d, bool vsib)
{
	struct insn *i = d->insn;
	uint8_t sib = fetch(d, 1);
	unsigned index = (sib >> 3 & 7) | (i->rex & 2 ? 8 : 0);

	i->mem.scale_log2 = sib >> 6;
	i->mem.vsib = vsib;
	if (vsib || index != 4)
		i->mem.index = index;
	if ((sib & 7) == 5 && i->modrm < 0x40)
		return false;
	i->mem.base = (sib & 7) | (i->rex & 1 ? 8 : 0);
	return true;
}

static bool address_32_64(struct decode *d, bool vsib)
{
	struct insn *i = d->insn;
	unsigned mod = i->modrm >> 6, rm = i->modrm & 7;

	if (rm == 4) {
		if (!take_sib(d, vsib))
			mod = 2;
	} else if (vsib) {
		return false;
	} else if (rm == 5 && mod == 0) {
		i->mem.base = i->mode == MODE_64 ? BASE_RIP : REG_NONE;
		mod = 2;
	} else {
		i->mem.base = rm | (i->rex & 1 ? 8 : 0);
	}
	take_disp(d, mod == 1 ? 1 : mod == 2 ? 4 : 0);
	return true;
}

/* SIB and displacement of a memory operand; false: invalid (VSIB without SIB, or with 16-bit addressing). */
static bool take_address(struct decode *d, bool vsib)
{
	struct insn *i = d->insn;

	if (i->mem.addr_size == 2) {
		if (vsib)
			return false;
		address_16(d);
	} else if (!address_32_64(d, vsib)) {
		return false;
	}
	if (d->segment == REG_NONE && (i->mem.base == RSP || i->mem.base == RBP))
		i->mem.seg = SEG_SS;
	return true;
}

static unsigned operand_bytes(const struct insn *i, uint8_t size)
{
	unsigned vector = i->vex_l ? 32 : 16;

	switch (size) {
	case SIZE_V: return i->op_size;
	case SIZE_Z: return i->op_size == 2 ? 2 : 4;
	case SIZE_Y: return i->mode == MODE_64 && i->rex & 8 ? 8 : 4;
	case SIZE_N: return i->mode == MODE_64 ? 8 : 4;
	case SIZE_P: return i->op_size + 2;
	case SIZE_2V: return i->op_size * 2;
	case SIZE_S: return i->mode == MODE_64 ? 10 : 6;
	case SIZE_X: return vector;
	case SIZE_X2: return vector / 2;
	case SIZE_X4: return vector / 4;
	case SIZE_X8: return vector / 8;
	case SIZE_ASZ: return i->mem.addr_size;
	case SIZE_ENV: return i->op_size == 2 ? 14 : 28;
	case SIZE_FSAVE: return i->op_size == 2 ? 94 : 108;
	}
	return size;
}

static void set_reg(struct operand *o, uint8_t kind, unsigned reg)
{
	o->kind = kind;
	o->reg = reg;
}

/* A general register by number: without REX, byte registers 4..7 are AH CH DH BH. */
static void set_gpr(const struct insn *i, struct operand *o, unsigned reg)
{
	bool high = o->size == 1 && reg >= 4 && reg < 8 && !(i->prefixes & PFX_REX);

	set_reg(o, OPK_GPR, high ? reg - 4 + REG_AH : reg);
}

static void take_imm(struct decode *d, unsigned bytes, uint64_t *value)
{
	struct insn *i = d->insn;

	if (!i->imm_at)
		i->imm_at = d->pos;
	i->imm_size += bytes;
	*value = fetch(d, bytes);
}

static bool immediate_operand(struct decode *d, struct operand *o, const struct operand_spec *s)
{
	struct insn *i = d->insn;
	unsigned encoded = s->how == HOW_IS ? 1 : s->size == SIZE_V ? o->size : o->size > 4 ? 4 : o->size;

	o->kind = s->how == HOW_I2 ? OPK_IMM2 : OPK_IMM;
	if (s->how == HOW_I2) {
		take_imm(d, 1, &i->imm2);
		return true;
	}
	if (s->size == SIZE_Z)
		o->size = i->op_size; /* Iz: 4 bytes extended to 8 */
	take_imm(d, encoded, &i->imm);
	if (s->how == HOW_IS || s->size == SIZE_Z)
		i->imm = truncate_to(sign_extend(i->imm, encoded), o->size);
	return true;
}

static bool memory_or(struct decode *d, struct operand *o, uint8_t kind, unsigned reg)
{
	if (d->insn->modrm >= 0xc0)
		set_reg(o, kind, reg);
	else
		o->kind = OPK_MEM;
	return true;
}

static bool control_register(const struct insn *i, struct operand *o, uint8_t kind, unsigned reg)
{
	set_reg(o, kind, reg);
	if (kind == OPK_CR)
		return 0x11d >> reg & 1; /* CR0, 2, 3, 4, 8 */
	return reg < 8;
}

static bool take_operand(struct decode *d, struct operand *o, const struct operand_spec *s)
{
	struct insn *i = d->insn;
	unsigned reg = (i->modrm >> 3 & 7) | (i->rex & 4 ? 8 : 0);
	unsigned rm = (i->modrm & 7) | (i->rex & 1 ? 8 : 0);

	o->access = s->access;
	o->implicit = false;
	o->reg = REG_NONE;
	o->size = operand_bytes(i, s->size);
	switch (s->how) {
	case HOW_E:
		if (i->modrm < 0xc0)
			return memory_or(d, o, OPK_MEM, 0);
		/* fall through */
	case HOW_R: set_gpr(i, o, rm); return true;
	case HOW_G: set_gpr(i, o, reg); return true;
	case HOW_Z: set_gpr(i, o, (i->opcode & 7) | (i->rex & 1 ? 8 : 0)); return true;
	case HOW_B: set_reg(o, OPK_GPR, i->vex_vvvv); return true;
	case HOW_M:
	case HOW_VSIB: o->kind = OPK_MEM; return true;
	case HOW_I:
	case HOW_IS:
	case HOW_I2: return immediate_operand(d, o, s);
	case HOW_J:
		o->kind = OPK_REL;
		take_imm(d, o->size, &i->imm);
		i->imm = sign_extend(i->imm, o->size);
		return true;
	case HOW_A:
		o->kind = OPK_FAR;
		take_imm(d, i->op_size, &i->imm);
		take_imm(d, 2, &i->imm2);
		return true;
	case HOW_O:
		o->kind = OPK_MEM;
		take_disp(d, i->mem.addr_size);
		i->mem.disp = truncate_to(i->mem.disp, i->mem.addr_size);
		return true;
	case HOW_S:
		set_reg(o, OPK_SEG, reg & 7);
		return (reg & 7) < 6 && !(s->access & ACC_W && (reg & 7) == SEG_CS);
	case HOW_C: return control_register(i, o, OPK_CR, reg);
	case HOW_D: return control_register(i, o, OPK_DR, reg);
	case HOW_X: o->kind = OPK_STR_SRC; return true;
	case HOW_Y: o->kind = OPK_STR_DST; return true;
	case HOW_P: set_reg(o, OPK_MMX, reg & 7); return true;
	case HOW_N: set_reg(o, OPK_MMX, rm & 7); return true;
	case HOW_Q: return memory_or(d, o, OPK_MMX, rm & 7);
	case HOW_V: set_reg(o, OPK_XMM, reg); return true;
	case HOW_U: set_reg(o, OPK_XMM, rm); return true;
	case HOW_W: return memory_or(d, o, OPK_XMM, rm);
	case HOW_H: set_reg(o, OPK_XMM, i->vex_vvvv); return true;
	case HOW_L:
		take_imm(d, 1, &i->imm);
		set_reg(o, OPK_XMM, i->imm >> 4 & (i->mode == MODE_64 ? 15 : 7));
		return true;
	case HOW_STI: set_reg(o, OPK_ST, i->modrm & 7); return true;
	case HOW_ONE: o->kind = OPK_IMM; i->imm = 1; break;
	case HOW_GPR: set_reg(o, OPK_GPR, s->reg); break;
	case HOW_SEG: set_reg(o, OPK_SEG, s->reg); break;
	case HOW_ST: set_reg(o, OPK_ST, s->reg); break;
	case HOW_XMM: set_reg(o, OPK_XMM, s->reg); break;
	}
	o->implicit = true;
	return true;
}

static unsigned effective_operand_size(const struct insn *i)
{
	bool toggled = i->prefixes & PFX_66;

	if (i->mode == MODE_16)
		return toggled ? 4 : 2;
	if (i->mode == MODE_32)
		return toggled ? 2 : 4;
	if (i->row->encoding & ENC_F64 || i->rex & 8)
		return 8;
	if (toggled)
		return 2;
	return i->row->encoding & ENC_D64 ? 8 : 4;
}

static unsigned effective_address_size(const struct insn *i)
{
	bool toggled = i->prefixes & PFX_67;

	switch (i->mode) {
	case MODE_16: return toggled ? 4 : 2;
	case MODE_32: return toggled ? 2 : 4;
	}
	return toggled ? 4 : 8;
}

/* All fields but bytes[] and row; no compiler-made memset here. */
static void reset(struct insn *i, enum insn_mode mode)
{
	i->mode = mode;
	i->prefixes = i->rex = i->vex_l = i->vex_vvvv = 0;
	i->opcode_map = i->modrm = i->operand_count = 0;
	i->has_modrm = false;
	i->mem.base = i->mem.index = REG_NONE;
	i->mem.scale_log2 = 0;
	i->mem.vsib = false;
	i->mem.disp = 0;
	i->imm = i->imm2 = 0;
	i->opcode_at = i->modrm_at = i->disp_at = i->disp_size = i->imm_at = i->imm_size = 0;
}

/* VGATHER is #UD if any two of destination, index and mask are the same register. */
static bool gather_registers_differ(const struct insn *i)
{
	unsigned destination = i->operand[0].reg, mask = i->operand[2].reg;

	return destination != mask && destination != i->mem.index && mask != i->mem.index;
}

/* Everything after the row is known. False: invalid. */
static bool take_operands(struct decode *d)
{
	struct insn *i = d->insn;
	const struct insn_row *row = i->row;

	i->op = row->op;
	i->op_size = effective_operand_size(i);
	i->mem.addr_size = effective_address_size(i);
	i->mem.seg = d->segment == REG_NONE ? SEG_DS : d->segment;
	if (d->is_vex && i->vex_vvvv && !(row->encoding & ENC_VVVV))
		return false;
	if (i->mode != MODE_64)
		i->vex_vvvv &= 7;
	if (i->has_modrm && row->encoding & ENC_MODREG)
		i->modrm |= 0xc0;
	if (i->has_modrm && i->modrm < 0xc0 && !take_address(d, row->attrs & INSN_VSIB))
		return false;
	for (unsigned k = 0; k < row->operand_count; k++)
		if (!take_operand(d, &i->operand[k], &row->operand[k]))
			return false;
	i->operand_count = row->operand_count;
	for (unsigned k = i->operand_count; k < INSN_MAX_OPERANDS; k++)
		i->operand[k].kind = OPK_NONE;
	if (row->attrs & INSN_VSIB && !gather_registers_differ(i))
		return false;
	if (!(i->prefixes & PFX_LOCK))
		return true;
	return row->attrs & INSN_LOCK && i->operand[0].kind == OPK_MEM && i->operand[0].access & ACC_W;
}

enum { SNAPSHOT = 16 }; /* INSN_MAX_LEN and one more, to tell too long from truncated */

/* Another processor may be writing: each byte is read once, so that operands and insn.bytes agree. */
static unsigned take_snapshot(uint8_t *to, const uint8_t *code, unsigned avail)
{
	typedef uint8_t half[SNAPSHOT / 2];
	uint64_t low, high;

	if (avail >= SNAPSHOT) { /* assembly: one access of any alignment, and no data race for sanitizers */
		__asm__ volatile("movq %1, %0" : "=r"(low) : "m"(*(const half *)code));
		__asm__ volatile("movq %1, %0" : "=r"(high) : "m"(*(const half *)(code + SNAPSHOT / 2)));
		__builtin_memcpy(to, &low, sizeof(low));
		__builtin_memcpy(to + sizeof(low), &high, sizeof(high));
		return SNAPSHOT;
	}
	for (unsigned k = 0; k < avail; k++)
		to[k] = __atomic_load_n(&code[k], __ATOMIC_RELAXED);
	return avail;
}

enum insn_status insn_decode(struct insn *insn, const uint8_t *memory, unsigned avail, enum insn_mode mode)
{
	uint8_t code[SNAPSHOT + 8] = {0};
	struct decode d = {.insn = insn, .code = code, .segment = REG_NONE};
	bool valid = true;

	d.avail = take_snapshot(code, memory, avail);
	reset(insn, mode);
	if (take_prefixes(&d) && !vex_opcode(&d, &valid)) {
		insn->opcode_at = d.pos;
		legacy_opcode(&d);
		if (insn->opcode_map)
			insn->opcode_at = d.pos - 1;
	}
	if (!d.status && valid) {
		insn->row = find_row(&d);
		valid = insn->row && take_operands(&d);
	}
	insn->len = d.pos;
	if (d.status)
		return d.status;
	if (!valid)
		return INSN_INVALID;
	__builtin_memcpy(insn->bytes, code, 8);
	__builtin_memcpy(insn->bytes + 7, code + 7, 8);
	return INSN_OK;
}
