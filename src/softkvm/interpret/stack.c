/* SPDX-License-Identifier: BSD-2-Clause */
/* Pushes, pops, frames, and the flags register through the stack (SDM volume 2; CLI, STI and POPF tables). */
#include "softkvm/interpret/attention.h"
#include "softkvm/interpret/fast.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

void op_push(struct vcpu *v, const struct insn *i)
{
	push(v, i->op_size, op_read(v, i, 0));
}

void op_pop(struct vcpu *v, const struct insn *i)
{
	uint64_t value = stack_read(v, 0, i->op_size), old_rsp = v->gpr[RSP], new_rsp, offset;

	stack_add(v, i->op_size);
	if (i->operand[0].kind == OPK_GPR) {
		gpr_write(v, i->operand[0].reg, i->op_size, value);
		return;
	}
	/* An address based on rSP uses its new value; rSP itself must not change if the store faults. */
	offset = mem_offset(v, i);
	new_rsp = v->gpr[RSP];
	v->gpr[RSP] = old_rsp;
	seg_write(v, i->mem.seg, offset, i->op_size, value);
	v->gpr[RSP] = new_rsp;
}

void op_pusha(struct vcpu *v, const struct insn *i)
{
	int size = i->op_size;

	for (int reg = RAX; reg <= RDI; reg++)
		stack_write(v, -(reg + 1) * size, (unsigned)size, gpr_read(v, (unsigned)reg, (unsigned)size));
	stack_add(v, -8 * size);
}

void op_popa(struct vcpu *v, const struct insn *i)
{
	int size = i->op_size;
	uint64_t value[8];

	for (int reg = RAX; reg <= RDI; reg++)
		value[reg] = stack_read(v, (RDI - reg) * size, (unsigned)size);
	for (unsigned reg = RAX; reg <= RDI; reg++)
		if (reg != RSP)
			gpr_write(v, reg, (unsigned)size, value[reg]);
	stack_add(v, 8 * size);
}

/* ENTER size, level (SDM volume 2). The final stack pointer is checked by a probe of a write there. */
void op_enter(struct vcpu *v, const struct insn *i)
{
	int size = i->op_size, level = (int)(i->imm2 & 31);
	uint64_t frame, mask = stack_mask(v), frame_size = i->imm & 0xffff, sp;

	stack_write(v, -size, (unsigned)size, gpr_read(v, RBP, (unsigned)size));
	frame = v->gpr[RSP] - (uint64_t)size;
	for (int k = 1; k < level; k++) {
		uint64_t bp = (v->gpr[RBP] - (uint64_t)(k * size)) & mask;

		stack_write(v, -(k + 1) * size, (unsigned)size, seg_read(v, SEG_SS, bp, (unsigned)size));
	}
	if (level)
		stack_write(v, -(level + 1) * size, (unsigned)size, frame);
	sp = v->gpr[RSP] - (uint64_t)(size * (level + 1)) - frame_size;
	mmu_probe(v, seg_address(v, SEG_SS, sp & mask, (unsigned)size, true), (unsigned)size, true);
	gpr_write(v, RBP, (unsigned)size, frame);
	stack_add(v, -(int64_t)(size * (level + 1)) - (int64_t)frame_size);
}

void op_leave(struct vcpu *v, const struct insn *i)
{
	uint64_t mask = stack_mask(v), bp = v->gpr[RBP] & mask, value = seg_read(v, SEG_SS, bp, i->op_size);

	v->gpr[RSP] = mask == 0xffff ? (v->gpr[RSP] & ~0xffffull) | bp : bp;
	stack_add(v, i->op_size);
	gpr_write(v, RBP, i->op_size, value);
}

/* --- flags --- */

static bool is_v8086(const struct vcpu *v)
{
	return v->rflags & FLAG_VM;
}

/* Virtual-8086 mode below IOPL 3: is the 16-bit form served by VME? */
static bool vme_applies(const struct vcpu *v, unsigned size)
{
	return (v->cr4 & CR4_VME) && size == 2;
}

void op_pushf(struct vcpu *v, const struct insn *i)
{
	uint64_t image = v->rflags & ~(uint64_t)(FLAG_RF | FLAG_VM);

	if (is_v8086(v) && iopl(v) < 3) {
		if (!vme_applies(v, i->op_size))
			raise_error(v, VEC_GP, 0);
		image = (image & ~(uint64_t)FLAG_IF) | FLAG_IOPL | (v->rflags & FLAG_VIF ? FLAG_IF : 0);
	}
	push(v, i->op_size, image);
}

/* POPF in v8086 mode with IOPL < 3 and VME: IF goes to VIF. */
static void popf_vme(struct vcpu *v, uint64_t image)
{
	const uint64_t keep = ~(uint64_t)(FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_VIF);

	if ((image & FLAG_TF) || ((image & FLAG_IF) && (v->rflags & FLAG_VIP)))
		raise_error(v, VEC_GP, 0);
	v->rflags = (v->rflags & keep) | (image & (FLAGS_STATUS | FLAG_DF | FLAG_NT)) |
		    (image & FLAG_IF ? FLAG_VIF : 0);
}

void op_popf(struct vcpu *v, const struct insn *i)
{
	uint64_t image = stack_read(v, 0, i->op_size);
	uint64_t change = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;

	if (is_v8086(v) && iopl(v) < 3) {
		if (!vme_applies(v, i->op_size))
			raise_error(v, VEC_GP, 0);
		popf_vme(v, image);
		stack_add(v, i->op_size);
		return;
	}
	if (v->cpl <= iopl(v))
		change |= FLAG_IF;
	if (v->cpl == 0)
		change |= FLAG_IOPL;
	change &= size_mask(i->op_size);
	stack_add(v, i->op_size);
	flags_changed(v, (v->rflags & ~change & ~(uint64_t)FLAG_RF) | (image & change));
}

void op_cli(struct vcpu *v, const struct insn *i)
{
	if (v->cpl <= iopl(v)) {
		v->rflags &= ~(uint64_t)FLAG_IF;
		return;
	}
	if (!(is_v8086(v) ? v->cr4 & CR4_VME : v->cpl == 3 && (v->cr4 & CR4_PVI)))
		raise_error(v, VEC_GP, 0);
	v->rflags &= ~(uint64_t)FLAG_VIF;
}

void op_sti(struct vcpu *v, const struct insn *i)
{
	if (v->cpl <= iopl(v)) {
		if (v->rflags & FLAG_IF)
			return;
		v->shadow |= KVM_X86_SHADOW_INT_STI;
		flags_changed(v, v->rflags | FLAG_IF);
		return;
	}
	if ((v->rflags & FLAG_VIP) || !(is_v8086(v) ? v->cr4 & CR4_VME : v->cpl == 3 && (v->cr4 & CR4_PVI)))
		raise_error(v, VEC_GP, 0);
	v->rflags |= FLAG_VIF;
}

/* --- forms (fast.h), 64-bit mode --- */

static void push_register(struct vcpu *v, const struct insn *i)
{
	uint64_t sp = v->gpr[RSP] - 8;

	seg_write(v, SEG_SS, sp, 8, v->gpr[i->operand[0].reg]);
	v->gpr[RSP] = sp;
}

static void pop_register(struct vcpu *v, const struct insn *i)
{
	uint64_t value = seg_read(v, SEG_SS, v->gpr[RSP], 8);

	v->gpr[RSP] += 8;
	v->gpr[i->operand[0].reg] = value;
}

insn_handler *push_form(const struct insn *i)
{
	return i->op_size == 8 && i->operand[0].kind == OPK_GPR ? push_register : op_push;
}

insn_handler *pop_form(const struct insn *i)
{
	return i->op_size == 8 && i->operand[0].kind == OPK_GPR ? pop_register : op_pop;
}
