/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Vector and x87 instructions, executed on the host's own units: same results and status, bit for bit.
 *
 * Around the stub (hoststub.c) stands what the host cannot know: whether the guest's unit is enabled, where
 * the memory operand is, what general registers and flags it means, and the guest's FIP and FDP. Everything
 * that can fault is checked before anything changes:
 *
 *  - a memory operand within one page of RAM is used where it lies; any other goes through a bounce buffer.
 * An instruction that writes one of those runs twice: first without keeping its vector state, then memory is
 * written (which may fault or leave for a device), then it runs for good.
 *  - unmasked SIMD exceptions come back from the stub as `faulted`: #XM, or #UD without CR4.OSXMMEXCPT.
 *  - unmasked x87 exceptions stay pending in the status word for the next waiting instruction.
 *
 * #MF is raised whatever CR0.NE says: the FERR#/IGNNE# way through interrupt 13 is not modelled.
 */
#include "softkvm/interpret/hoststub.h"
#include "softkvm/interpret/ops.h"
#include "softkvm/interpret/vector.h"

struct execution {
	struct stub_call call;
	const struct operand *mem; /* NULL: none */
	gva_t gva;
	bool bounced, notify;
};

static uint64_t components_of(const struct vcpu *v, uint32_t attrs)
{
	uint64_t c = 0;

	if (attrs & (INSN_X87 | INSN_MMX))
		c |= XSTATE_X87;
	if (attrs & (INSN_SSE | INSN_VEX))
		c |= XSTATE_SSE;
	if (attrs & INSN_VEX)
		c |= XSTATE_AVX;
	return c & v->fpu->mask;
}

static const struct operand *memory_operand(const struct insn *i)
{
	if (i->has_modrm && i->modrm < 0xc0)
		for (unsigned k = 0; k < i->operand_count; k++)
			if (i->operand[k].kind == OPK_MEM)
				return &i->operand[k];
	return NULL;
}

/* Checks the memory operand and decides where the stub finds it. */
static void stage_memory(struct vcpu *v, const struct insn *i, struct execution *e)
{
	const struct operand *m = e->mem = memory_operand(i);
	bool write;

	e->bounced = e->notify = false;
	if (!m)
		return;
	write = m->access & ACC_W;
	if (i->row->attrs & INSN_ALIGN) /* before the segment's checks and #AC */
		require_alignment(v, seg_linear(v, i->mem.seg, mem_offset(v, i)), m->size);
	e->gva = op_addr(v, i, m->size, write);
	/* Only some processors want SHA operands aligned: they get them so; guests see the others' way. */
	if (i->row->feature == FEAT_SHA && e->gva & 15)
		e->call.mem = NULL;
	else
		e->call.mem = mmu_host_ptr(v, e->gva, m->size, write, &e->notify);
	if (e->call.mem)
		return;
	e->bounced = true;
	e->call.mem = v->fpu->bounce;
	vector_probe(v, e->gva, m->size, write);
	if (!write || i->row->attrs & INSN_X87) /* an x87 store with an unmasked exception stores nothing */
		vector_read(v, e->gva, v->fpu->bounce, m->size);
}

static uint64_t *register_slot(struct stub_call *c, const struct operand *o)
{
	if (!o->implicit || o->reg == RAX)
		return &c->rax;
	return o->reg == RCX ? &c->rcx : &c->rdx;
}

static void stage_registers(struct vcpu *v, const struct insn *i, struct stub_call *c)
{
	c->rax = c->rcx = c->rdx = 0;
	c->rflags = (v->rflags & FLAGS_STATUS) | FLAG_FIXED;
	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->operand[k].kind == OPK_GPR && i->operand[k].access & ACC_R)
			*register_slot(c, &i->operand[k]) =
				gpr_read(v, i->operand[k].reg, i->operand[k].size);
}

static void commit_registers(struct vcpu *v, const struct insn *i, struct stub_call *c)
{
	if (i->row->flags_written)
		set_status_flags(v, c->rflags);
	for (unsigned k = 0; k < i->operand_count; k++) {
		const struct operand *o = &i->operand[k];

		if (o->kind == OPK_GPR && o->access & ACC_W)
			gpr_write(v, o->reg, o->size, *register_slot(c, o));
	}
}

/* FIP, FDP, FOP (SDM volume 1, 8.1.8 and 8.1.9): control instructions leave them alone. */
static void commit_pointers(struct vcpu *v, const struct insn *i, const struct execution *e)
{
	struct vcpu_fpu *f = v->fpu;

	if (!(i->row->attrs & INSN_X87) || i->row->attrs & INSN_CONTROL)
		return;
	f->last_ip = v->insn_rip;
	f->last_op = (i->opcode & 7) << 8 | i->modrm;
	f->last_cs = v->seg[SEG_CS].sel;
	if (e->mem) {
		f->last_dp = seg_linear(v, i->mem.seg, mem_offset(v, i)) - v->seg[i->mem.seg].base;
		f->last_ds = v->seg[i->mem.seg].sel;
	}
}

static _Noreturn void raise_simd(struct vcpu *v)
{
	raise_exception(v, v->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
}

/* Runs the stub; the last run keeps the vector state. */
static void run(struct vcpu *v, const struct insn *i, struct execution *e)
{
	bool may_fault = i->row->attrs & INSN_FP_EXC && (v->fpu->x.mxcsr & MXCSR_MASKS) != MXCSR_MASKS;
	bool rerun = e->bounced && e->mem->access & ACC_W;

	e->call.code = stub_get(v->fpu->stubs, i, &e->call.code_size);
	e->call.area = v->fpu->area;
	e->call.components = components_of(v, i->row->attrs);
	e->call.save = !rerun;
	stub_run(&e->call, may_fault);
	if (rerun) {
		if (!e->call.faulted)
			vector_write(v, e->gva, v->fpu->bounce, e->mem->size);
		stage_registers(v, i, &e->call);
		e->call.save = true;
		stub_run(&e->call, may_fault);
	}
	if (e->call.faulted)
		raise_simd(v);
	if (e->notify)
		mmu_host_written(v, e->gva, e->mem->size);
}

static void execute(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	struct execution e;

	vector_check(v, i->row);
	stage_memory(v, i, &e);
	stage_registers(v, i, &e.call);
	run(v, i, &e);
	commit_registers(v, i, &e.call);
	commit_pointers(v, i, &e);
	vector_resume(v, live);
}

void op_host(struct vcpu *v, const struct insn *i)
{
	execute(v, i);
}

void op_host_x87(struct vcpu *v, const struct insn *i)
{
	execute(v, i);
}

void op_fninit(struct vcpu *v, const struct insn *i)
{
	execute(v, i);
	v->fpu->last_ip = v->fpu->last_dp = 0;
	v->fpu->last_op = v->fpu->last_cs = v->fpu->last_ds = 0;
}

void op_fwait(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);

	if ((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		raise_exception(v, VEC_NM);
	if (x87_pending(v))
		raise_exception(v, VEC_MF);
	vector_resume(v, live);
}

void op_ldmxcsr(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);
	uint32_t value;

	vector_check(v, i->row);
	value = (uint32_t)op_read(v, i, 0);
	if (value & ~(uint32_t)MXCSR_VALID)
		raise_error(v, VEC_GP, 0);
	v->fpu->x.mxcsr = value;
	vector_resume(v, live);
}

void op_stmxcsr(struct vcpu *v, const struct insn *i)
{
	bool live = vector_rest(v);

	vector_check(v, i->row);
	op_write(v, i, 0, v->fpu->x.mxcsr);
	vector_resume(v, live);
}
