/* SPDX-License-Identifier: BSD-2-Clause */
/* Moves between registers, memory and immediates; extensions; single flags; table look-up. */
#include <sched.h>

#include "softkvm/interpret/fast.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

void op_mov(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, op_read(v, i, 1));
}

/* MOVNTI: the hint changes nothing here. */
void op_movnti(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, op_read(v, i, 1));
}

void op_movzx(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, op_read(v, i, 1));
}

void op_movsx(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, (uint64_t)sign_extend(op_read(v, i, 1), i->operand[1].size));
}

/* With an operand size of 16 or 32 it is a plain move of that size (SDM volume 2, MOVSXD). */
void op_movsxd(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, (uint64_t)sign_extend(op_read(v, i, 1), i->operand[1].size));
}

static uint64_t byte_swap(uint64_t value, unsigned size)
{
	return __builtin_bswap64(value) >> (64 - 8 * size);
}

void op_movbe(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, byte_swap(op_read(v, i, 1), i->operand[0].size));
}

/* Undefined for 16 bits; processors write 0. */
void op_bswap(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->operand[0].size;

	op_write(v, i, 0, size == 2 ? 0 : byte_swap(op_read(v, i, 0), size));
}

void op_lea(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, mem_offset(v, i));
}

/* The source is read, and a 32-bit destination zero-extended, whether the condition holds or not. */
void op_cmovcc(struct vcpu *v, const struct insn *i)
{
	uint64_t src = op_read(v, i, 1);

	if (!cond(v, i->opcode & 15))
		src = op_read(v, i, 0);
	op_write(v, i, 0, src);
}

void op_setcc(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, cond(v, i->opcode & 15));
}

/* CBW, CWDE, CDQE */
void op_cbw(struct vcpu *v, const struct insn *i)
{
	unsigned half = i->op_size / 2;

	gpr_write(v, RAX, i->op_size, (uint64_t)sign_extend(gpr_read(v, RAX, half), half));
}

/* CWD, CDQ, CQO */
void op_cwd(struct vcpu *v, const struct insn *i)
{
	gpr_write(v, RDX, i->op_size, (uint64_t)(sign_extend(v->gpr[RAX], i->op_size) >> 63));
}

void op_lahf(struct vcpu *v, const struct insn *i)
{
	gpr_write(v, REG_AH, 1, (v->rflags & 0xd5) | FLAG_FIXED);
}

void op_sahf(struct vcpu *v, const struct insn *i)
{
	v->rflags = (v->rflags & ~0xd5ull) | (gpr_read(v, REG_AH, 1) & 0xd5);
}

void op_clc(struct vcpu *v, const struct insn *i)
{
	v->rflags &= ~(uint64_t)FLAG_CF;
}

void op_stc(struct vcpu *v, const struct insn *i)
{
	v->rflags |= FLAG_CF;
}

void op_cmc(struct vcpu *v, const struct insn *i)
{
	v->rflags ^= FLAG_CF;
}

void op_cld(struct vcpu *v, const struct insn *i)
{
	v->rflags &= ~(uint64_t)FLAG_DF;
}

void op_std(struct vcpu *v, const struct insn *i)
{
	v->rflags |= FLAG_DF;
}

void op_xlat(struct vcpu *v, const struct insn *i)
{
	uint64_t offset = (v->gpr[RBX] + (uint8_t)v->gpr[RAX]) & size_mask(i->mem.addr_size);

	gpr_write(v, RAX, 1, seg_read(v, i->mem.seg, offset, 1));
}

void op_salc(struct vcpu *v, const struct insn *i)
{
	gpr_write(v, RAX, 1, v->rflags & FLAG_CF ? 0xff : 0);
}

/* --- instructions without an effect on architectural state here --- */

void op_nop(struct vcpu *v, const struct insn *i)
{
}

/*
 * A vCPU that pauses waits for another one, which may want this very processor: after some rounds, yield it, as
 * hardware's pause-loop exits have a hypervisor do. The translator counts on its own and comes here to yield.
 */
void op_pause(struct vcpu *v, const struct insn *i)
{
	enum { PAUSES_PER_YIELD = 64 };

	if ((int32_t)--v->pauses > 0)
		return;
	v->pauses = PAUSES_PER_YIELD;
	if (v->vm->vcpu_count > 1)
		sched_yield();
}

void op_prefetch(struct vcpu *v, const struct insn *i)
{
}

void op_mfence(struct vcpu *v, const struct insn *i)
{
	__asm__ volatile("mfence" : : : "memory");
}

void op_lfence(struct vcpu *v, const struct insn *i)
{
	__asm__ volatile("lfence" : : : "memory");
}

void op_sfence(struct vcpu *v, const struct insn *i)
{
	__asm__ volatile("sfence" : : : "memory");
}

/* CLFLUSH, CLFLUSHOPT, CLWB: only the checks of a byte load. */
void op_clflush(struct vcpu *v, const struct insn *i)
{
	mmu_probe(v, op_addr(v, i, 1, false), 1, false);
}

/* --- random numbers: the host's, with the host's CF --- */

#define HOST_RANDOM(name, mnemonic)									\
	static bool name(uint64_t *value, unsigned size)						\
	{												\
		bool ok;										\
		if (size == 8)										\
			__asm__ volatile(mnemonic " %0" : "=r"(*value), "=@ccc"(ok));			\
		else if (size == 4)									\
			__asm__ volatile(mnemonic " %k0" : "=r"(*value), "=@ccc"(ok));			\
		else											\
			__asm__ volatile(mnemonic " %w0" : "=r"(*value), "=@ccc"(ok));			\
		return ok;										\
	}

HOST_RANDOM(host_rdrand, "rdrand")
HOST_RANDOM(host_rdseed, "rdseed")

static void set_random(struct vcpu *v, const struct insn *i, bool ok, uint64_t value)
{
	op_write(v, i, 0, ok ? value : 0);
	set_status_flags(v, ok ? FLAG_CF : 0);
}

void op_rdrand(struct vcpu *v, const struct insn *i)
{
	uint64_t value = 0;
	bool ok = host_rdrand(&value, i->operand[0].size);

	set_random(v, i, ok, value);
}

void op_rdseed(struct vcpu *v, const struct insn *i)
{
	uint64_t value = 0;
	bool ok = host_rdseed(&value, i->operand[0].size);

	set_random(v, i, ok, value);
}

/* --- forms (fast.h) --- */

#define MOV_FORM(name, dst_kind, kind, size)								\
	static void name(struct vcpu *v, const struct insn *i)						\
	{												\
		op_write_as(v, i, 0, dst_kind, size, op_read_as(v, i, 1, kind, size));			\
	}

#define MOV_FORMS(size)											\
	MOV_FORM(mov_rr##size, OPK_GPR, OPK_GPR, size)							\
	MOV_FORM(mov_ri##size, OPK_GPR, OPK_IMM, size)							\
	MOV_FORM(mov_rm##size, OPK_GPR, OPK_MEM, size)							\
	MOV_FORM(mov_mr##size, OPK_MEM, OPK_GPR, size)							\
	MOV_FORM(mov_mi##size, OPK_MEM, OPK_IMM, size)

MOV_FORMS(1)
MOV_FORMS(4)
MOV_FORMS(8)

const struct forms mov_forms = {.rr = {mov_rr1, mov_rr4, mov_rr8},
				.ri = {mov_ri1, mov_ri4, mov_ri8},
				.rm = {mov_rm1, mov_rm4, mov_rm8},
				.mr = {mov_mr1, mov_mr4, mov_mr8},
				.mi = {mov_mi1, mov_mi4, mov_mi8}};

#define EXTEND_FORM(name, kind, from, to)								\
	static void name(struct vcpu *v, const struct insn *i)						\
	{												\
		gpr_write(v, i->operand[0].reg, to, op_read_as(v, i, 1, kind, from));			\
	}

/* A 32-bit result is the 64-bit one, so the destination's size does not matter from 4 up. */
EXTEND_FORM(movzx_r1, OPK_GPR, 1, 8)
EXTEND_FORM(movzx_r2, OPK_GPR, 2, 8)
EXTEND_FORM(movzx_m1, OPK_MEM, 1, 8)
EXTEND_FORM(movzx_m2, OPK_MEM, 2, 8)

insn_handler *movzx_form(const struct insn *i)
{
	bool memory = i->operand[1].kind == OPK_MEM;

	if (i->operand[0].size < 4)
		return op_movzx;
	if (i->operand[1].size == 1)
		return memory ? movzx_m1 : movzx_r1;
	return memory ? movzx_m2 : movzx_r2;
}

static void lea_64(struct vcpu *v, const struct insn *i)
{
	v->gpr[i->operand[0].reg] = mem_offset(v, i);
}

insn_handler *lea_form(const struct insn *i)
{
	return i->operand[0].size == 8 ? lea_64 : op_lea;
}
