// SPDX-License-Identifier: BSD-2-Clause
/*
 * The encoder for host code: prefixes, REX, ModRM, SIB and displacement (SDM volume 2, chapter 2) in one place.
 */
#include "softkvm/translate/emit.h"

static bool has_room(struct emit *e, unsigned n)
{
	if (n <= (uintptr_t)(e->end - e->p))
		return true;
	e->overflow = true;
	return false;
}

void emit_bytes(struct emit *e, const void *bytes, unsigned n)
{
	const uint8_t *b = bytes;

	if (!has_room(e, n))
		return;
	for (unsigned i = 0; i < n; i++)
		e->p[i] = b[i];
	e->p += n;
}

void emit_u32(struct emit *e, uint32_t x)
{
	if (!has_room(e, sizeof(x)))
		return;
	__builtin_memcpy(e->p, &x, sizeof(x));
	e->p += sizeof(x);
}

void emit_u64(struct emit *e, uint64_t x)
{
	if (!has_room(e, sizeof(x)))
		return;
	__builtin_memcpy(e->p, &x, sizeof(x));
	e->p += sizeof(x);
}

void emit_nops(struct emit *e, unsigned n)
{
	static const uint8_t nop[9][9] = {
		{ 0x90 }, { 0x66, 0x90 }, { 0x0f, 0x1f, 0x00 }, { 0x0f, 0x1f, 0x40, 0 }, { 0x0f, 0x1f, 0x44, 0, 0 },
		{ 0x66, 0x0f, 0x1f, 0x44, 0, 0 }, { 0x0f, 0x1f, 0x80, 0, 0, 0, 0 }, { 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 },
		{ 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 }
	};

	while (n) {
		unsigned k = n > 9 ? 9 : n;

		emit_bytes(e, nop[k - 1], k);
		n -= k;
	}
}

void emit_align(struct emit *e, unsigned align, unsigned ahead)
{
	emit_nops(e, -((uintptr_t)emit_here(e) + ahead) & (align - 1));
}

void emit_align_patch(struct emit *e, unsigned ahead)
{
	while (((uintptr_t)emit_here(e) + ahead) % 8 > 4 && !e->overflow)
		emit_u8(e, 0x2e);
}

static void emit_opcode(struct emit *e, unsigned op, unsigned rex)
{
	unsigned map = op >> OP_MAP_SHIFT;

	if (op & OP_66)
		emit_u8(e, 0x66);
	if (op & OP_W)
		rex |= 0x48;
	if (rex)
		emit_u8(e, (uint8_t)rex);
	if (map) {
		emit_u8(e, 0x0f);
		if (map > 1)
			emit_u8(e, map == 2 ? 0x38 : 0x3a);
	}
	emit_u8(e, (uint8_t)op);
}

void emit_modrm_mem(struct emit *e, unsigned reg, struct host_mem m)
{
	unsigned r = (reg & 7) << 3, mod;

	if (m.base == H_NONE) { /* absolute, or index * scale + disp32: SIB without base */
		emit_u8(e, (uint8_t)(r | 4));
		emit_u8(e, (uint8_t)(m.scale_log2 << 6 | (m.index == H_NONE ? 4 : m.index & 7) << 3 | 5));
		emit_u32(e, (uint32_t)m.disp);
		return;
	}
	mod = m.disp == 0 && (m.base & 7) != H_RBP ? 0 : m.disp == (int8_t)m.disp ? 1 : 2;
	if (m.index != H_NONE || (m.base & 7) == H_RSP) {
		emit_u8(e, (uint8_t)(mod << 6 | r | 4));
		emit_u8(e, (uint8_t)(m.scale_log2 << 6 | (m.index == H_NONE ? 4 : m.index & 7) << 3 | (m.base & 7)));
	} else {
		emit_u8(e, (uint8_t)(mod << 6 | r | (m.base & 7)));
	}
	if (mod == 1)
		emit_u8(e, (uint8_t)m.disp);
	else if (mod == 2)
		emit_u32(e, (uint32_t)m.disp);
}

static unsigned rex_mem(struct host_mem m)
{
	unsigned rex = 0;

	if (m.base != H_NONE && m.base & 8)
		rex |= 0x41;
	if (m.index != H_NONE && m.index & 8)
		rex |= 0x42;
	return rex;
}

void emit_rr(struct emit *e, unsigned op, unsigned reg, unsigned rm)
{
	unsigned rex = (reg & 8 ? 0x44 : 0) | (rm & 8 ? 0x41 : 0);

	if (op & OP_BYTE && (reg >= 4 || rm >= 4))
		rex |= 0x40;
	emit_opcode(e, op, rex);
	emit_u8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void emit_rm(struct emit *e, unsigned op, unsigned reg, struct host_mem m)
{
	unsigned rex = (reg & 8 ? 0x44 : 0) | rex_mem(m);

	if (op & OP_BYTE && reg >= 4)
		rex |= 0x40;
	emit_opcode(e, op, rex);
	emit_modrm_mem(e, reg, m);
}

void emit_mov(struct emit *e, unsigned size, unsigned dst, unsigned src)
{
	emit_rr(e, 0x89 | (size == 8 ? OP_W : 0), src, dst);
}

void emit_load(struct emit *e, unsigned size, unsigned dst, struct host_mem m)
{
	switch (size) {
	case 1:
		emit_rm(e, 0xb6 | 1 << OP_MAP_SHIFT, dst, m);
		break;
	case 2:
		emit_rm(e, 0xb7 | 1 << OP_MAP_SHIFT, dst, m);
		break;
	default:
		emit_rm(e, 0x8b | (size == 8 ? OP_W : 0), dst, m);
	}
}

void emit_store(struct emit *e, unsigned size, struct host_mem m, unsigned src)
{
	if (size == 1)
		emit_rm(e, 0x88 | OP_BYTE, src, m);
	else
		emit_rm(e, 0x89 | (size == 8 ? OP_W : size == 2 ? OP_66 : 0), src, m);
}

void emit_lea(struct emit *e, unsigned size, unsigned dst, struct host_mem m)
{
	emit_rm(e, 0x8d | (size == 8 ? OP_W : 0), dst, m);
}

void emit_mov_imm(struct emit *e, unsigned dst, uint64_t imm)
{
	unsigned b = dst & 8 ? 0x41 : 0;

	if (imm <= UINT32_MAX) {
		if (b)
			emit_u8(e, (uint8_t)b);
		emit_u8(e, (uint8_t)(0xb8 | (dst & 7)));
		emit_u32(e, (uint32_t)imm);
	} else if ((int64_t)imm == (int32_t)imm) {
		emit_rr(e, 0xc7 | OP_W, 0, dst);
		emit_u32(e, (uint32_t)imm);
	} else {
		emit_u8(e, (uint8_t)(0x48 | b));
		emit_u8(e, (uint8_t)(0xb8 | (dst & 7)));
		emit_u64(e, imm);
	}
}

void emit_store_imm32(struct emit *e, unsigned size, struct host_mem m, int32_t imm)
{
	emit_rm(e, size == 1 ? 0xc6 : 0xc7 | (size == 8 ? OP_W : size == 2 ? OP_66 : 0), 0, m);
	if (size >= 4)
		emit_u32(e, (uint32_t)imm);
	else
		emit_bytes(e, &imm, size);
}

static void emit_imm8_or_32(struct emit *e, int32_t imm)
{
	if (imm == (int8_t)imm)
		emit_u8(e, (uint8_t)imm);
	else
		emit_u32(e, (uint32_t)imm);
}

static unsigned alu_imm_op(unsigned size, int32_t imm)
{
	return (imm == (int8_t)imm ? 0x83 : 0x81) | (size == 8 ? OP_W : 0);
}

void emit_alu_imm(struct emit *e, unsigned size, unsigned op, unsigned rm, int32_t imm)
{
	emit_rr(e, alu_imm_op(size, imm), op, rm);
	emit_imm8_or_32(e, imm);
}

void emit_alu_mem_imm(struct emit *e, unsigned size, unsigned op, struct host_mem m, int32_t imm)
{
	emit_rm(e, alu_imm_op(size, imm), op, m);
	emit_imm8_or_32(e, imm);
}

void emit_alu_rr(struct emit *e, unsigned size, unsigned op, unsigned dst, unsigned src)
{
	emit_rr(e, (op << 3 | 1) | (size == 8 ? OP_W : 0), src, dst);
}

void emit_alu_rm(struct emit *e, unsigned size, unsigned op, unsigned dst, struct host_mem m)
{
	emit_rm(e, (op << 3 | 3) | (size == 8 ? OP_W : 0), dst, m);
}

void emit_shift_imm(struct emit *e, unsigned size, unsigned op, unsigned rm, unsigned count)
{
	emit_rr(e, 0xc1 | (size == 8 ? OP_W : 0), op, rm);
	emit_u8(e, (uint8_t)count);
}

static void log_reloc(struct reloc_log *log, uint32_t at, enum reloc_kind kind, bool cold)
{
	if (log->count == RELOC_MOST || at > UINT16_MAX)
		log->incomplete = true;
	else
		log->reloc[log->count++] = (struct reloc){ (uint16_t)at, (uint8_t)kind, cold };
}

static unsigned piece_of(const struct reloc_log *log, const uint8_t *rx)
{
	unsigned k = 0;

	while (k < PIECES && (uintptr_t)rx - (uintptr_t)log->piece[k] >= log->room)
		k++;
	return k;
}

void emit_reloc(struct reloc_log *log, const uint8_t *at, enum reloc_kind kind)
{
	unsigned piece = log ? piece_of(log, at) : PIECES;

	if (piece < PIECES)
		log_reloc(log, (uint32_t)(at - log->piece[piece]), kind, piece == 1);
}

/* A rel32 at an executable address. */
static void log_rel32(struct reloc_log *log, const uint8_t *at, const uint8_t *target)
{
	if (log && piece_of(log, at) != piece_of(log, target))
		emit_reloc(log, at, RELOC_TO_HOT + piece_of(log, target));
}

static void emit_rel32(struct emit *e, const void *target)
{
	log_rel32(e->log, emit_here(e), target);
	emit_u32(e, (uint32_t)((const uint8_t *)target - (emit_here(e) + 4)));
}

void emit_jmp(struct emit *e, const void *target)
{
	emit_u8(e, 0xe9);
	emit_rel32(e, target);
}

void emit_call(struct emit *e, const void *target)
{
	emit_u8(e, 0xe8);
	emit_rel32(e, target);
}

void emit_jcc(struct emit *e, unsigned cc, const void *target)
{
	emit_u8(e, 0x0f);
	emit_u8(e, (uint8_t)(0x80 | cc));
	emit_rel32(e, target);
}

void emit_jmp_mem(struct emit *e, struct host_mem m)
{
	emit_rm(e, 0xff, 4, m);
}

uint8_t *emit_jmp_forward(struct emit *e)
{
	emit_u8(e, 0xe9);
	emit_u32(e, 0);
	return e->p - 4;
}

uint8_t *emit_jcc_forward(struct emit *e, unsigned cc)
{
	emit_u8(e, 0x0f);
	emit_u8(e, (uint8_t)(0x80 | cc));
	emit_u32(e, 0);
	return e->p - 4;
}

uint8_t *emit_jrcxz_forward(struct emit *e)
{
	emit_u8(e, 0xe3);
	emit_u8(e, 0);
	return e->p - 1;
}

void emit_patch32(const struct emit *e, uint8_t *rel32, const void *target)
{
	int32_t rel = (int32_t)((const uint8_t *)target - (rel32 + e->rx + 4));

	log_rel32(e->log, rel32 + e->rx, target);
	if (!e->overflow)
		__builtin_memcpy(rel32, &rel, 4);
}

void emit_patch8(const struct emit *e, uint8_t *rel8, const void *target)
{
	if (!e->overflow)
		*rel8 = (uint8_t)((const uint8_t *)target - (rel8 + e->rx + 1));
}
