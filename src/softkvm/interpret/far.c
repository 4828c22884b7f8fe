/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Far jumps, calls and returns (SDM volume 3, 5.8): to code segments, through call gates of 16, 32 and 64 bits, to
 * TSSs and task gates.
 */
#include "softkvm/interpret/descriptor.h"
#include "softkvm/interpret/ops.h"

struct far_pointer {
	uint16_t sel;
	uint64_t rip;
};

static struct far_pointer far_operand(struct vcpu *v, const struct insn *i)
{
	struct far_pointer p;
	uint64_t at;

	if (i->operand[0].kind == OPK_FAR) {
		p.sel = i->imm2;
		p.rip = i->imm & size_mask(i->op_size);
		return p;
	}
	at = mem_offset(v, i);
	p.rip = seg_read(v, i->mem.seg, at, i->op_size);
	p.sel = seg_read(v, i->mem.seg, (at + i->op_size) & size_mask(i->mem.addr_size), 2);
	return p;
}

/* --- code segments --- */

/* A code segment entered without a change of privilege (JMP, CALL, or a gate's target when `gate`). */
static void check_code(struct vcpu *v, uint16_t sel, uint64_t d, bool gate)
{
	uint32_t error = sel & 0xfffc;

	if (desc_is_system(d) || !desc_is_code(d))
		raise_error(v, VEC_GP, error);
	if (is_long_mode(v) && desc_is_64bit(d) && (d >> 54 & 1))
		raise_error(v, VEC_GP, error);
	if (desc_is_conforming(d)) {
		if (desc_dpl(d) > v->cpl)
			raise_error(v, VEC_GP, error);
	} else if (desc_dpl(d) != v->cpl || (!gate && (sel & 3u) > v->cpl)) {
		raise_error(v, VEC_GP, error);
	}
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, error);
}

static struct x86_seg code_segment(struct vcpu *v, uint16_t sel, uint64_t d, unsigned cpl)
{
	descriptor_mark_accessed(v, sel, &d);
	return seg_from_descriptor((sel & ~3) | cpl, d);
}

static uint64_t clip(const struct vcpu *v, const struct x86_seg *cs, uint64_t rip)
{
	return is_long_mode(v) && (cs->attr & SEG_L) ? rip : (uint32_t)rip;
}

static void jump(struct vcpu *v, struct x86_seg cs, uint64_t rip)
{
	rip = clip(v, &cs, rip);
	target_check(v, &cs, rip);
	cs_commit(v, cs, v->cpl);
	v->rip = rip;
}

/* Push CS and the return address at `size` each, then go on in cs at the same privilege. */
static void call(struct vcpu *v, struct x86_seg cs, uint64_t rip, unsigned size)
{
	uint16_t old_cs = v->seg[SEG_CS].sel;

	rip = clip(v, &cs, rip);
	target_check(v, &cs, rip);
	stack_write(v, -(int64_t)size, size, old_cs);
	stack_write(v, -2 * (int64_t)size, size, v->rip);
	stack_add(v, -2 * (int64_t)size);
	cs_commit(v, cs, v->cpl);
	v->rip = rip;
}

/* --- call gates --- */

struct gate {
	uint16_t sel;
	uint64_t rip;
	unsigned size;	/* of what is pushed: 2, 4 or 8 */
	unsigned params;
	uint64_t code;	/* target's descriptor */
};

static struct gate read_gate(struct vcpu *v, uint16_t sel, uint64_t d)
{
	struct gate g = {.sel = d >> 16, .rip = (d & 0xffff) | (d >> 32 & 0xffff0000), .params = d >> 32 & 31};
	bool wide = is_long_mode(v);

	if (desc_dpl(d) < v->cpl || desc_dpl(d) < (sel & 3u))
		raise_error(v, VEC_GP, sel & 0xfffc);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, sel & 0xfffc);
	g.size = wide ? 8 : desc_type(d) == DESC_CALL_GATE ? 4 : 2;
	if (wide) {
		uint64_t high = descriptor_read_high(v, sel, VEC_GP, 0);

		if (high >> 40 & 0x1f)
			raise_error(v, VEC_GP, sel & 0xfffc);
		g.rip |= high << 32;
		g.params = 0;
	} else if (g.size == 2) {
		g.rip &= 0xffff;
	}
	if (is_null(g.sel))
		raise_error(v, VEC_GP, 0);
	g.code = descriptor_read(v, g.sel, VEC_GP, 0);
	if (desc_is_system(g.code) || !desc_is_code(g.code) || desc_dpl(g.code) > v->cpl ||
	    (wide && (!desc_is_64bit(g.code) || (g.code >> 54 & 1))))
		raise_error(v, VEC_GP, g.sel & 0xfffc);
	if (!desc_is_present(g.code))
		raise_error(v, VEC_NP, g.sel & 0xfffc);
	return g;
}

/* A stack that is not in SS yet. */
struct stack {
	struct x86_seg ss;
	uint64_t rsp;
};

static void stack_put(struct vcpu *v, struct stack *s, unsigned size, uint64_t value)
{
	uint64_t mask = is_long_mode(v) ? ~0ull : s->ss.attr & SEG_DB ? 0xffffffff : 0xffff;
	uint64_t at = (s->rsp - size) & mask;

	bool down = s->ss.attr & SEG_TYPE_DC;

	if (is_long_mode(v) && (!is_canonical(v, at) || !is_canonical(v, at + size - 1)))
		raise_error(v, VEC_SS, 0);
	if (!is_long_mode(v) && (down ? at <= s->ss.limit || at + size - 1 > mask : at + size - 1 > s->ss.limit))
		raise_error(v, VEC_SS, s->ss.sel & 0xfffc);
	mmu_write_sys(v, is_long_mode(v) ? at : (uint32_t)(s->ss.base + at), size, value);
	s->rsp = (s->rsp & ~mask) | at;
}

/* Call to a more privileged, non-conforming segment: stack from the TSS, parameters copied. */
static void call_inner(struct vcpu *v, const struct gate *g)
{
	unsigned cpl = desc_dpl(g->code);
	struct x86_seg cs;
	struct stack stack = {0};
	uint64_t params[32];
	uint16_t ss;

	tss_stack(v, cpl, &ss, &stack.rsp, 0);
	if (!is_canonical(v, stack.rsp))
		raise_error(v, VEC_SS, 0);
	stack.ss = is_long_mode(v) ? seg_null(cpl) : stack_prepare(v, ss, cpl, VEC_TS, 0);
	if (is_long_mode(v))
		stack.ss.attr |= cpl << SEG_DPL_SHIFT;
	for (unsigned k = 0; k < g->params; k++)
		params[k] = stack_read(v, k * g->size, g->size);
	cs = code_segment(v, g->sel, g->code, cpl);
	target_check(v, &cs, g->rip);
	stack_put(v, &stack, g->size, v->seg[SEG_SS].sel);
	stack_put(v, &stack, g->size, v->gpr[RSP]);
	for (unsigned k = g->params; k-- > 0;)
		stack_put(v, &stack, g->size, params[k]);
	stack_put(v, &stack, g->size, v->seg[SEG_CS].sel);
	stack_put(v, &stack, g->size, v->rip);
	cs_commit(v, cs, cpl);
	v->seg[SEG_SS] = stack.ss;
	v->gpr[RSP] = stack.rsp;
	v->rip = g->rip;
}

static void through_gate(struct vcpu *v, uint16_t sel, uint64_t d, bool is_call)
{
	struct gate g = read_gate(v, sel, d);

	if (is_call && !desc_is_conforming(g.code) && desc_dpl(g.code) < v->cpl) {
		call_inner(v, &g);
		return;
	}
	check_code(v, g.sel, g.code, true);
	if (is_call)
		call(v, code_segment(v, g.sel, g.code, v->cpl), g.rip, g.size);
	else
		jump(v, code_segment(v, g.sel, g.code, v->cpl), g.rip);
}

/* --- tasks --- */

static void to_task(struct vcpu *v, uint16_t sel, uint64_t d, bool is_call)
{
	if (desc_dpl(d) < v->cpl || desc_dpl(d) < (sel & 3u))
		raise_error(v, VEC_GP, sel & 0xfffc);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, sel & 0xfffc);
	if (desc_type(d) == DESC_TASK_GATE)
		sel = d >> 16;
	task_switch(v, sel, is_call ? TASK_CALL : TASK_JMP, v->rip, false, 0, 0);
}

static void to_system(struct vcpu *v, uint16_t sel, uint64_t d, bool is_call)
{
	switch (desc_type(d)) {
	case DESC_CALL_GATE16:
		if (!is_long_mode(v)) {
			through_gate(v, sel, d, is_call);
			return;
		}
		break;
	case DESC_CALL_GATE:
		through_gate(v, sel, d, is_call);
		return;
	case DESC_TSS16:
	case DESC_TSS:
	case DESC_TASK_GATE:
		if (!is_long_mode(v)) {
			to_task(v, sel, d, is_call);
			return;
		}
		break;
	}
	raise_error(v, VEC_GP, sel & 0xfffc);
}

/* --- instructions --- */

static void far_transfer(struct vcpu *v, const struct insn *i, bool is_call)
{
	struct far_pointer p = far_operand(v, i);
	struct x86_seg cs;
	uint64_t d;

	if (is_real_style(v)) {
		cs = seg_real(v, SEG_CS, p.sel);
	} else {
		if (is_null(p.sel))
			raise_error(v, VEC_GP, 0);
		d = descriptor_read(v, p.sel, VEC_GP, 0);
		if (desc_is_system(d)) {
			to_system(v, p.sel, d, is_call);
			return;
		}
		check_code(v, p.sel, d, false);
		cs = code_segment(v, p.sel, d, v->cpl);
	}
	if (is_call)
		call(v, cs, p.rip, i->op_size);
	else
		jump(v, cs, p.rip);
}

void op_jmp_far(struct vcpu *v, const struct insn *i)
{
	far_transfer(v, i, false);
}

void op_call_far(struct vcpu *v, const struct insn *i)
{
	far_transfer(v, i, true);
}

static void retf_outer(struct vcpu *v, struct x86_seg cs, uint64_t rip, unsigned size, unsigned release)
{
	unsigned cpl = cs.sel & 3;
	uint64_t rsp = stack_read(v, 2 * size + release, size);
	uint16_t ss_sel = stack_read(v, 3 * size + release, size);
	struct x86_seg ss;

	if (is_null(ss_sel) && is_long_mode(v) && (cs.attr & SEG_L) && cpl != 3 && (ss_sel & 3) == cpl) {
		ss = seg_null(ss_sel);
		ss.attr |= cpl << SEG_DPL_SHIFT;
	} else {
		ss = stack_prepare(v, ss_sel, cpl, VEC_GP, 0);
	}
	target_check(v, &cs, rip);
	cs_commit(v, cs, cpl);
	v->seg[SEG_SS] = ss;
	v->gpr[RSP] = v->mode == MODE_64 || (ss.attr & SEG_DB) ? rsp : (v->gpr[RSP] & ~0xffffull) | (rsp & 0xffff);
	stack_add(v, release);
	drop_privileged_segments(v);
	v->rip = rip;
}

void op_retf(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->op_size, release = i->operand_count && i->operand[0].kind == OPK_IMM ? i->imm & 0xffff : 0;
	uint64_t rip = stack_read(v, 0, size);
	uint16_t sel = stack_read(v, size, size);
	struct x86_seg cs;

	if (is_real_style(v)) {
		cs = seg_real(v, SEG_CS, sel);
		target_check(v, &cs, rip);
		stack_add(v, 2 * size + release);
		cs_commit(v, cs, v->cpl);
		v->rip = rip;
		return;
	}
	cs = return_code_segment(v, sel);
	if ((sel & 3u) > v->cpl) {
		retf_outer(v, cs, rip, size, release);
		return;
	}
	rip = clip(v, &cs, rip);
	target_check(v, &cs, rip);
	stack_add(v, 2 * size + release);
	cs_commit(v, cs, v->cpl);
	v->rip = rip;
}
