/* SPDX-License-Identifier: BSD-2-Clause */
/* See random_state.h. */
#include "random_state.h"

#include <string.h>

static uint64_t random_integer(struct random *r)
{
	static const uint64_t edges[] = {
		0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
		0x7fffffffffffffff, 0x8000000000000000, ~0ull, ~1ull
	};

	switch (random_below(r, 4)) {
	case 0: return edges[random_below(r, 16)];
	case 1: return random_u64(r) & 0xff;
	case 2: return random_u64(r) >> random_below(r, 64);
	}
	return random_u64(r);
}

static uint64_t random_double(struct random *r)
{
	static const uint64_t values[] = {
		0, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000, 0x4000000000000000,
		0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0xfff8000000000000,
		0x7ff0000000000001, 1, 0x8000000000000001, 0x000fffffffffffff, 0x0010000000000000,
		0x7fefffffffffffff, 0x41dfffffffc00000, 0xc1e0000000000000, 0x43e0000000000000,
		0x3fe0000000000000, 0x3ff8000000000000
	};
	return random_below(r, 3) ? values[random_below(r, 20)] : random_u64(r);
}

static uint32_t random_float(struct random *r)
{
	static const uint32_t values[] = {
		0, 0x80000000, 0x3f800000, 0xbf800000, 0x40000000, 0x7f800000, 0xff800000, 0x7fc00000,
		0xffc00000, 0x7f800001, 1, 0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x4effffff,
		0xcf000000, 0x3f000000, 0x3fc00000, 0x33800000
	};
	return random_below(r, 3) ? values[random_below(r, 20)] : (uint32_t)random_u64(r);
}

void random_bytes(struct random *r, uint8_t *p, unsigned size)
{
	for (unsigned k = 0; k + 8 <= size; k += 8) {
		uint64_t value = random_u64(r);

		switch (random_below(r, 4)) {
		case 0: value = random_double(r); break;
		case 1: value = random_float(r) | (uint64_t)random_float(r) << 32; break;
		case 2: value = random_integer(r); break;
		}
		memcpy(p + k, &value, 8);
	}
}

/* An 80-bit number; also ones that no operation makes (unnormals, pseudo-denormals). */
static void random_extended(struct random *r, uint8_t *p)
{
	static const uint16_t exponents[] = {0, 0, 1, 0x3ffe, 0x3fff, 0x4000, 0x403d, 0x403e, 0x7ffe, 0x7fff,
					     0x7fff, 0x3c00};
	static const uint64_t mantissas[] = {0, 1ull << 63, 3ull << 62, ~0ull, 1, 1ull << 62, 10ull << 60};
	uint16_t exponent =
		random_below(r, 3) ? exponents[random_below(r, 12)] : random_u64(r) >> 48 & 0x7fff;
	uint64_t mantissa = random_below(r, 2) ? mantissas[random_below(r, 7)] : random_u64(r);

	if (exponent && random_below(r, 16))
		mantissa |= 1ull << 63;
	exponent |= random_below(r, 2) << 15;
	memcpy(p, &mantissa, 8);
	memcpy(p + 8, &exponent, 2);
}

static void random_fp(struct random *r, struct xsave_area *x)
{
	memset(x, 0, 832);
	x->xstate_bv = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
	x->fcw = 0x40 | random_below(r, 4) << 8 | random_below(r, 4) << 10 |
		 (random_below(r, 6) ? 0x3f : random_below(r, 64));
	x->fsw = random_below(r, 8) << 11 | (random_u64(r) & 0x4700) |
		 (random_below(r, 6) ? 0 : random_below(r, 128));
	x->fsw &= ~0x8080;
	if (x->fsw & ~x->fcw & 0x3f)
		x->fsw |= 0x8080; /* error summary and busy */
	x->ftw = random_below(r, 3) ? 0xff : random_below(r, 4) ? 0 : random_u64(r) >> 56;
	x->mxcsr = (random_below(r, 6) ? 0x1f80 : random_below(r, 64) << 7) | random_below(r, 4) << 13 |
		   (random_below(r, 4) ? 0 : 0x8000) | (random_below(r, 4) ? 0 : 0x40) | random_below(r, 64);
	for (unsigned k = 0; k < 8; k++)
		random_extended(r, x->st[k]);
	random_bytes(r, x->xmm[0], sizeof(x->xmm));
	random_bytes(r, x->ymmh[0], sizeof(x->ymmh));
}

void random_state(struct random *r, struct cpu_state *s)
{
	for (unsigned k = 0; k < 16; k++)
		s->gpr[k] = random_integer(r);
	s->gpr[RSP] = NATIVE_DATA + 0x2000 + 8 * random_below(r, 256);
	s->gpr[RBP] = random_below(r, 2) ? s->gpr[RBP] : s->gpr[RSP] + 64;
	s->rflags = FLAG_FIXED | FLAG_IF | (random_u64(r) & (FLAGS_STATUS | FLAG_DF));
	if (!random_below(r, 16))
		s->rflags |= FLAG_AC;
	random_fp(r, &s->fp);
}

static bool is_xsave(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_XSAVE: case SEM_XSAVEOPT: case SEM_XSAVEC: case SEM_XRSTOR:
		return true;
	}
	return false;
}

bool is_comparable(const struct insn *i)
{
	switch (i->row->sem) {
	/* answers of the machine */
	case SEM_CPUID: case SEM_RDTSC: case SEM_RDTSCP: case SEM_RDPMC: case SEM_RDRAND: case SEM_RDSEED:
	case SEM_RDPID: case SEM_XGETBV: case SEM_SGDT: case SEM_SIDT: case SEM_SLDT: case SEM_STR:
	case SEM_SMSW: case SEM_MONITOR: case SEM_MWAIT: case SEM_VMCALL: case SEM_VMMCALL: case SEM_LAR:
	case SEM_LSL: case SEM_VERR: case SEM_VERW:
	/* the process's own segments */
	case SEM_MOV_FROM_SEG: case SEM_MOV_TO_SEG: case SEM_PUSH_SEG: case SEM_POP_SEG:
	case SEM_LOAD_FAR_PTR: case SEM_RDFSBASE: case SEM_RDGSBASE: case SEM_WRFSBASE: case SEM_WRGSBASE:
	case SEM_SWAPGS:
		return false;
	}
	if (i->row->sem == SEM_NOP && i->opcode == 0x0d && i->modrm >= 0xc0)
		return false; /* #UD on AMD's processors */
	if ((i->row->sem == SEM_LOOPE || i->row->sem == SEM_LOOPNE) && i->prefixes & (PFX_REP | PFX_REPNE))
		return false; /* AMD's processors take the condition from the prefix */
	if (i->row->sem == SEM_XCHG && i->opcode == 0x90 && i->prefixes & PFX_REP)
		return false; /* with R8: AMD's processors do that, Intel's pause */
	if (i->row->sem == SEM_MOVSXD && i->op_size == 2 && i->modrm < 0xc0)
		return false; /* AMD's processors read 32 bits, Intel's 16 */
	if (i->row->feature == FEAT_SHA && (i->mem.base == RSP || i->mem.base == i->mem.index))
		return false; /* cannot be aligned: see aim() */
	if (is_xsave(i) &&
	    (i->mem.base == RAX || i->mem.base == RDX || i->mem.index == RAX || i->mem.index == RDX))
		return false; /* EDX:EAX are taken */
	if (i->row->sem >= SEM_BT && i->row->sem <= SEM_BTC && i->modrm < 0xc0 &&
	    (i->operand[1].reg == i->mem.base || i->operand[1].reg == i->mem.index))
		return false; /* cannot be aimed */
	if (i->row->branch == BR_FAR)
		return i->row->sem == SEM_UD;
	if (i->row->encoding & ENC_F64 && i->prefixes & PFX_66)
		return false; /* Intel ignores the prefix, AMD does not */
	return i->mem.seg < SEG_FS;
}

/* Where a memory operand of `size` bytes should lie. */
static uint32_t random_target(struct random *r, unsigned size)
{
	uint32_t end = NATIVE_DATA + NATIVE_DATA_SIZE;
	unsigned align = size >= 64 ? 64 : size >= 32 ? 32 : size >= 16 ? 16 : 8;

	switch (random_below(r, 16)) {
	case 0: return end - random_below(r, size + 8);			       /* into the read-only page */
	case 1: return end + NATIVE_CONST_SIZE - random_below(r, size + 8); /* out of it */
	case 2: return NATIVE_DATA - random_below(r, size + 8);
	case 3: return NATIVE_DATA + 4096 * (1 + random_below(r, 3)) - random_below(r, size + 8);
	case 4:
	case 5: return NATIVE_DATA + random_below(r, 0x2000);
	}
	return (NATIVE_DATA + random_below(r, 0x2000)) & -align;
}

static void patch(uint8_t *code, const struct insn *i, unsigned at, unsigned size, uint64_t value)
{
	memcpy(code + at, &value, size);
	(void)i;
}

static uint64_t scaled_index(const struct insn *i, const struct cpu_state *s)
{
	if (i->mem.index == REG_NONE || i->mem.vsib)
		return 0;
	return s->gpr[i->mem.index] << i->mem.scale_log2;
}

/* Gathers: small indices. */
static void aim_vector_index(struct random *r, const struct insn *i, struct cpu_state *s)
{
	uint8_t *halves[2] = {s->fp.xmm[i->mem.index], s->fp.ymmh[i->mem.index]};
	unsigned size = i->opcode & 1 ? 8 : 4;

	for (unsigned k = 0; k < 32; k += size) {
		int64_t index = (int64_t)random_below(r, 1024) - (random_below(r, 4) ? 0 : 256);

		memcpy(halves[k / 16] + k % 16, &index, size);
	}
}

static void aim_memory(struct random *r, struct insn *i, uint32_t slot, struct cpu_state *s, uint8_t *code,
		       uint32_t target)
{
	const struct insn_mem *m = &i->mem;

	if (m->vsib)
		aim_vector_index(r, i, s);
	if (m->base == BASE_RIP) {
		patch(code, i, i->disp_at, 4, target - (slot + i->len));
	} else if (m->base == REG_NONE) {
		if (m->index != REG_NONE && !m->vsib)
			s->gpr[m->index] = random_below(r, 512);
		patch(code, i, i->disp_at, i->disp_size, target - scaled_index(i, s));
	} else if (m->base == m->index && !m->vsib) {
		s->gpr[m->base] = (target - m->disp) / (1 + (1 << m->scale_log2));
	} else if (m->base == RSP) {
		if (m->index != REG_NONE && !m->vsib)
			s->gpr[m->index] = random_below(r, 512);
		if (i->disp_size == 4)
			patch(code, i, i->disp_at, 4, target - s->gpr[RSP] - scaled_index(i, s));
	} else {
		s->gpr[m->base] = target - m->disp - scaled_index(i, s);
	}
	if (m->addr_size == 4 && m->base != RSP && m->base < 16 && random_below(r, 2) &&
	    i->row->sem != SEM_XLAT)
		s->gpr[m->base] ^= random_u64(r) << 32;
}

static bool is_mem(const struct insn *i)
{
	return i->has_modrm && i->modrm < 0xc0 && !(i->row->encoding & ENC_MODREG);
}

static unsigned memory_size(const struct insn *i)
{
	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->operand[k].kind == OPK_MEM && i->operand[k].size)
			return i->operand[k].size;
	return 64;
}

/* BT and its kin reach far from a memory operand by their register's value. */
static void aim_bits(struct random *r, const struct insn *i, struct cpu_state *s)
{
	if (i->operand[1].kind == OPK_GPR && is_mem(i) && i->operand[1].reg < 16)
		s->gpr[i->operand[1].reg] = (int64_t)random_below(r, 4096) - 1024;
}

static void aim_string(struct random *r, const struct insn *i, struct cpu_state *s)
{
	s->gpr[RSI] = random_target(r, 8);
	s->gpr[RDI] = random_below(r, 4) ? random_target(r, 8) : s->gpr[RSI] + random_below(r, 32) - 16;
	s->gpr[RCX] = random_below(r, 4) ? random_below(r, 40) : 0;
	(void)i;
}

/* XSAVE's family: requested components that both sides have; a header that is often valid. */
static void aim_xsave(struct random *r, struct cpu_state *s, uint32_t target)
{
	uint64_t header[8] = {random_below(r, 8)};

	s->gpr[RAX] = random_below(r, 8);
	s->gpr[RDX] = 0;
	if (!random_below(r, 3))
		header[1] = 1ull << 63 | 7;
	if (!random_below(r, 8))
		header[random_below(r, 8)] = random_below(r, 16);
	if (target >= NATIVE_DATA && target + 832 <= NATIVE_DATA + NATIVE_DATA_SIZE) {
		uint32_t mxcsr = 0x1f80 | random_below(r, 64);

		memcpy(native_data() + target - NATIVE_DATA + 512, header, sizeof(header));
		memcpy(native_data() + target - NATIVE_DATA + 24, &mxcsr, random_below(r, 8) ? 4 : 0);
	}
}

static void put_target(uint32_t address, uint64_t value)
{
	if (address >= NATIVE_DATA && address + 8 <= NATIVE_CONST + NATIVE_CONST_SIZE)
		memcpy(native_data() + address - NATIVE_DATA, &value, 8);
}

uint64_t effective_address(const struct insn *i, uint64_t next_rip, const struct cpu_state *s)
{
	const struct insn_mem *m = &i->mem;
	uint64_t ea = m->disp + scaled_index(i, s);

	if (m->base == BASE_RIP)
		ea += next_rip;
	else if (m->base != REG_NONE)
		ea += s->gpr[m->base];
	return m->addr_size == 4 ? (uint32_t)ea : ea;
}

/* Near branches go to NATIVE_TAKEN. */
static void aim_branch(const struct insn *i, uint32_t slot, struct cpu_state *s, uint8_t *code,
		       uint32_t target)
{
	switch (i->row->branch) {
	case BR_RET: put_target(s->gpr[RSP], slot + NATIVE_TAKEN); break;
	case BR_JMP_IND:
	case BR_CALL_IND:
		if (is_mem(i))
			put_target(target, slot + NATIVE_TAKEN);
		else
			s->gpr[i->operand[0].reg] = slot + NATIVE_TAKEN;
		break;
	default: patch(code, i, i->imm_at, i->imm_size, NATIVE_TAKEN - i->len);
	}
}

/*
 * Images, masked stores, vectors that need no alignment otherwise (AMD's processors check those, Intel's do not): when they
 * are misaligned for #AC is up to the processor.
 */
static bool has_loose_alignment(const struct insn *i)
{
	if (is_xsave(i) || i->row->attrs & INSN_VEX || (is_mem(i) && memory_size(i) >= 16))
		return true;
	switch (i->row->sem) {
	case SEM_FNSTENV: case SEM_FNSAVE: case SEM_FLDENV: case SEM_FRSTOR: case SEM_FXSAVE:
	case SEM_FXRSTOR: case SEM_MASKMOV:
		return true;
	}
	return false;
}

/* MXCSR.MM is AMD's and not offered to guests. */
static void clear_misaligned_mode(const struct insn *i, uint32_t address)
{
	unsigned at = address + (i->op == OP_LDMXCSR || i->op == OP_VLDMXCSR ? 2 : 26);

	if (i->row->sem != SEM_LDMXCSR && i->row->sem != SEM_FXRSTOR && i->row->sem != SEM_XRSTOR)
		return;
	if (at >= NATIVE_DATA && at < NATIVE_CONST + NATIVE_CONST_SIZE)
		native_data()[at - NATIVE_DATA] &= ~2;
}

/* With an exception that is not masked a store may not happen, and then not fault either. */
static bool may_not_store(const struct insn *i, const struct cpu_state *s)
{
	return i->row->attrs & INSN_X87 && i->operand[0].kind == OPK_MEM && i->operand[0].access & ACC_W &&
	       (~s->fp.fcw & 0x3f);
}

void aim(struct random *r, struct insn *i, uint32_t slot, struct cpu_state *s, uint8_t *code)
{
	uint32_t target = random_target(r, memory_size(i));

	if (may_not_store(i, s))
		target = NATIVE_DATA + random_below(r, 0x2000);
	if (i->row->feature == FEAT_SHA) /* some processors allow misaligned operands there */
		target &= -16;
	if (i->row->attrs & INSN_STRING)
		aim_string(r, i, s);
	if (i->row->sem >= SEM_BT && i->row->sem <= SEM_BTC)
		aim_bits(r, i, s);
	if (i->row->branch == BR_COND && i->row->sem != SEM_JCC)
		s->gpr[RCX] = random_below(r, 3);
	if (i->row->sem == SEM_XLAT)
		s->gpr[RBX] = target - 128;
	if (i->row->sem == SEM_MASKMOV)
		s->gpr[RDI] = target;
	if (i->row->sem == SEM_LEAVE || i->row->sem == SEM_ENTER)
		s->gpr[RBP] = random_target(r, 256);
	if (is_xsave(i))
		aim_xsave(r, s, target);
	if (is_mem(i))
		aim_memory(r, i, slot, s, code, target);
	else if (i->disp_size) /* moffs */
		patch(code, i, i->disp_at, i->disp_size, target);
	if (is_mem(i)) {
		insn_decode(i, code, INSN_MAX_LEN, MODE_64);
		target = effective_address(i, slot + i->len, s);
		clear_misaligned_mode(i, target);
	}
	if (has_loose_alignment(i) || may_not_store(i, s))
		s->rflags &= ~FLAG_AC;
	if (i->row->branch != BR_NONE && i->row->branch != BR_FAR)
		aim_branch(i, slot, s, code, target);
	if (i->row->sem == SEM_POPF) /* no TF, NT: the test's own process would notice */
		put_target(s->gpr[RSP], random_u64(r) & (FLAGS_STATUS | FLAG_DF | FLAG_IF | FLAG_ID));
}
