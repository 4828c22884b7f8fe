/* SPDX-License-Identifier: BSD-2-Clause */
/* Near branches, calls, returns, loops; BOUND. Far transfers are in far.c, interrupts in softint.c. */
#include "softkvm/interpret/fast.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

/* RIP after this instruction plus displacement, truncated to the operand size (64-bit mode: always 64). */
static uint64_t target(const struct vcpu *v, const struct insn *i)
{
	return (v->rip + i->imm) & size_mask(i->op_size);
}

void op_jmp_rel(struct vcpu *v, const struct insn *i)
{
	branch_to(v, target(v, i));
}

void op_jcc(struct vcpu *v, const struct insn *i)
{
	if (cond(v, i->opcode & 15))
		branch_to(v, target(v, i));
}

void op_jmp_ind(struct vcpu *v, const struct insn *i)
{
	branch_to(v, op_read(v, i, 0));
}

static void call(struct vcpu *v, const struct insn *i, uint64_t rip)
{
	branch_check(v, rip);
	push(v, i->op_size, v->rip);
	v->rip = rip;
}

void op_call_rel(struct vcpu *v, const struct insn *i)
{
	call(v, i, target(v, i));
}

void op_call_ind(struct vcpu *v, const struct insn *i)
{
	call(v, i, op_read(v, i, 0));
}

/* RET and RET imm16 */
void op_ret(struct vcpu *v, const struct insn *i)
{
	uint64_t rip = stack_read(v, 0, i->op_size), drop = i->operand_count ? i->imm & 0xffff : 0;

	branch_to(v, rip);
	stack_add(v, (int64_t)(i->op_size + drop));
}

/* rCX in the address size */
static uint64_t counter(const struct vcpu *v, const struct insn *i)
{
	return v->gpr[RCX] & size_mask(i->mem.addr_size);
}

void op_jcxz(struct vcpu *v, const struct insn *i)
{
	if (!counter(v, i))
		branch_to(v, target(v, i));
}

static void loop_if(struct vcpu *v, const struct insn *i, bool condition)
{
	uint64_t count = (counter(v, i) - 1) & size_mask(i->mem.addr_size);

	if (count && condition)
		branch_to(v, target(v, i));
	gpr_write(v, RCX, i->mem.addr_size, count);
}

void op_loop(struct vcpu *v, const struct insn *i)
{
	loop_if(v, i, true);
}

void op_loope(struct vcpu *v, const struct insn *i)
{
	loop_if(v, i, v->rflags & FLAG_ZF);
}

void op_loopne(struct vcpu *v, const struct insn *i)
{
	loop_if(v, i, !(v->rflags & FLAG_ZF));
}

void op_bound(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->op_size;
	uint64_t offset = mem_offset(v, i);
	int64_t index = sign_extend(op_read(v, i, 0), size);
	int64_t lower = sign_extend(seg_read(v, i->mem.seg, offset, size), size);
	uint64_t second = (offset + size) & size_mask(i->mem.addr_size);
	int64_t upper = sign_extend(seg_read(v, i->mem.seg, second, size), size);

	if (index < lower || index > upper)
		raise_exception(v, VEC_BR);
}

/* --- forms (fast.h), 64-bit mode --- */

/* A relative branch inside one canonical half needs no check. */
static inline void branch_near(struct vcpu *v, const struct insn *i)
{
	uint64_t rip = v->rip + i->imm;

	if (unlikely((rip ^ v->rip) >> 47))
		branch_check(v, rip);
	v->rip = rip;
}

#define JCC_FORM(cc)											\
	static void jcc_##cc(struct vcpu *v, const struct insn *i)					\
	{												\
		if (cond(v, cc))									\
			branch_near(v, i);								\
	}

JCC_FORM(0)
JCC_FORM(1)
JCC_FORM(2)
JCC_FORM(3)
JCC_FORM(4)
JCC_FORM(5)
JCC_FORM(6)
JCC_FORM(7)
JCC_FORM(8)
JCC_FORM(9)
JCC_FORM(10)
JCC_FORM(11)
JCC_FORM(12)
JCC_FORM(13)
JCC_FORM(14)
JCC_FORM(15)

insn_handler *jcc_form(const struct insn *i)
{
	static insn_handler *const form[16] = {jcc_0, jcc_1, jcc_2,  jcc_3,  jcc_4,  jcc_5,  jcc_6,  jcc_7,
					       jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15};

	return form[i->opcode & 15];
}

static void jmp_near(struct vcpu *v, const struct insn *i)
{
	branch_near(v, i);
}

insn_handler *jmp_form(const struct insn *i)
{
	return jmp_near;
}
