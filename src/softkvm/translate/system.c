// SPDX-License-Identifier: BSD-2-Clause
/*
 * System instructions that kernels execute all the time, inline: CLI, STI, PUSHF, RDTSC, SWAPGS and their like, and
 * PAUSE. Each checks at run time
 * that it is the plain case (CPL 0, no interrupt waiting, TSC not restricted) and has the interpreter execute it otherwise.
 *
 * STI without a waiting interrupt needs no shadow, provided that nobody looks for interrupts before the next
 * instruction is over: so it never is the last instruction of its block (superblock.c), and inside a block nobody looks.
 */
#include "softkvm/translate/translate.h"

const uint8_t *cold_interpreter(struct xlat *x)
{
	const uint8_t *cold = emit_here(&x->cold);
	struct site *s = site_new(x);

	if (!s->insn)
		s->insn = interpreted_new(x);
	emit_name(x, &x->cold, s);
	emit_jmp(&x->cold, x->t->tramp[TRAMP_INTERPRET]);
	return cold;
}

/* On condition cc the slow way; it comes back behind the instruction. */
static void cold_interpret(struct xlat *x, unsigned cc)
{
	emit_jcc(&x->hot, cc, cold_interpreter(x));
}

/* Flags must be saved for good here: the slow way looks at them, and the check destroys the host's. */
void interpreter_ready(struct xlat *x)
{
	rsp_commit(x);
	flags_save_all(x);
	x->flags_in_host = false;
}

static void unless_cpl0(struct xlat *x)
{
	emit_alu_mem_imm(&x->hot, 4, ALU_CMP, mem_base(ENV, ENV_OFF(cpl)), 0);
	cold_interpret(x, 5);
}

static void translate_cli(struct xlat *x)
{
	interpreter_ready(x);
	unless_cpl0(x);
	emit_alu_mem_imm(&x->hot, 4, ALU_AND, mem_base(ENV, ENV_OFF(rflags)), ~FLAG_IF);
}

/* Every so many times the interpreter's, which lets another vCPU have the processor. */
static void translate_pause(struct xlat *x)
{
	emit_u8(&x->hot, 0xf3);
	emit_u8(&x->hot, 0x90);
	if (x->v->vm->vcpu_count < 2)
		return;
	interpreter_ready(x);
	emit_alu_mem_imm(&x->hot, 4, ALU_SUB, mem_base(ENV, ENV_OFF(pauses)), 1);
	cold_interpret(x, 2);
}

static bool translate_sti(struct xlat *x)
{
	if (x->insn == &x->t->insns[x->count - 1])
		return false;
	interpreter_ready(x);
	unless_cpl0(x);
	emit_rm(&x->hot, 0x80, 7, mem_base(ENV, ENV_OFF(irq_waits))); /* cmp byte, 0 */
	emit_u8(&x->hot, 0);
	cold_interpret(x, 5);
	emit_alu_mem_imm(&x->hot, 4, ALU_OR, mem_base(ENV, ENV_OFF(rflags)), FLAG_IF);
	return true;
}

void emit_flags_word(struct xlat *x)
{
	struct emit *e = &x->hot;

	x->addr_group = NO_GROUP;
	emit_load(e, 2, SCRATCH, mem_base(ENV, ENV_HOT(HOT_SAVED_FLAGS)));
	emit_mov(e, 4, ADDR, SCRATCH);
	emit_shift_imm(e, 4, SHIFT_SHR, ADDR, 8);
	emit_alu_imm(e, 4, ALU_AND, ADDR, FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF);
	emit_alu_imm(e, 4, ALU_AND, SCRATCH, 1);
	emit_shift_imm(e, 4, SHIFT_SHL, SCRATCH, 11);
	emit_alu_rr(e, 4, ALU_OR, ADDR, SCRATCH);
	emit_load(e, 4, SCRATCH, mem_base(ENV, ENV_OFF(rflags)));
	emit_alu_imm(e, 4, ALU_AND, SCRATCH, ~(FLAGS_STATUS | FLAG_RF | FLAG_VM));
	emit_alu_rr(e, 4, ALU_OR, SCRATCH, ADDR);
	emit_store(e, 8, mem_base(ENV, ENV_HOT(HOT_TEMP)), SCRATCH);
}

static void translate_pushf(struct xlat *x)
{
	struct emit *e = &x->hot;

	flags_save_all(x);
	x->flags_in_host = false;
	emit_flags_word(x);
	memory_stack(x, -(int)x->word, x->word, true);
	emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_HOT(HOT_TEMP)));
	emit_store(e, x->word, x->mem, SCRATCH);
	x->rsp_adj = (int16_t)(x->rsp_adj - (int)x->word);
}

static void translate_rdtsc(struct xlat *x)
{
	static const uint8_t rdtsc[] = { 0x0f, 0x31 };
	struct emit *e = &x->hot;

	interpreter_ready(x);
	emit_rm(e, 0xf6, 0, mem_base(ENV, ENV_OFF(cr4))); /* test byte, imm8 */
	emit_u8(e, CR4_TSD);
	cold_interpret(x, 5);
	emit_bytes(e, rdtsc, sizeof(rdtsc));
	emit_shift_imm(e, 8, SHIFT_SHL, H_RDX, 32);
	emit_alu_rr(e, 8, ALU_OR, H_RAX, H_RDX);
	emit_alu_rm(e, 8, ALU_ADD, H_RAX, mem_base(ENV, ENV_OFF(tsc_offset)));
	emit_mov(e, 8, H_RDX, H_RAX);
	emit_shift_imm(e, 8, SHIFT_SHR, H_RDX, 32);
	emit_mov(e, 4, H_RAX, H_RAX);
	if (x->insn->i.row->sem == SEM_RDTSCP)
		emit_load(e, 4, GUEST_RCX, mem_base(ENV, ENV_OFF(tsc_aux)));
}

static struct host_mem segment_base(unsigned seg)
{
	return mem_base(ENV, ENV_OFF(seg[0].base) + (int32_t)(seg * sizeof(struct x86_seg)));
}

static void translate_swapgs(struct xlat *x)
{
	struct emit *e = &x->hot;

	interpreter_ready(x);
	unless_cpl0(x);
	groups_forget(x);
	emit_load(e, 8, SCRATCH, segment_base(SEG_GS));
	emit_load(e, 8, ADDR, mem_base(ENV, ENV_OFF(kernel_gs_base)));
	emit_store(e, 8, mem_base(ENV, ENV_OFF(kernel_gs_base)), SCRATCH);
	emit_store(e, 8, segment_base(SEG_GS), ADDR);
}

static void unless_fsgsbase(struct xlat *x)
{
	interpreter_ready(x);
	emit_rm(&x->hot, 0xf7, 0, mem_base(ENV, ENV_OFF(cr4))); /* test dword, imm32 */
	emit_u32(&x->hot, CR4_FSGSBASE);
	cold_interpret(x, 4);
}

static void translate_read_base(struct xlat *x, unsigned seg)
{
	const struct operand *o = &x->insn->i.operand[0];

	unless_fsgsbase(x);
	x->addr_group = NO_GROUP;
	emit_load(&x->hot, o->size, ADDR, segment_base(seg));
	reg_store(x, o->reg, ADDR);
}

/* A base that is not canonical is the interpreter's: it raises #GP. */
static void translate_write_base(struct xlat *x, unsigned seg)
{
	const struct operand *o = &x->insn->i.operand[0];
	struct emit *e = &x->hot;

	unless_fsgsbase(x);
	groups_forget(x);
	reg_load(x, o->size, ADDR, o->reg);
	emit_mov(e, 8, SCRATCH, ADDR);
	emit_shift_imm(e, 8, SHIFT_SHL, SCRATCH, 16);
	emit_shift_imm(e, 8, SHIFT_SAR, SCRATCH, 16);
	emit_alu_rr(e, 8, ALU_CMP, SCRATCH, ADDR);
	cold_interpret(x, 5);
	emit_store(e, 8, segment_base(seg), ADDR);
}

bool translate_system(struct xlat *x)
{
	const struct insn *i = &x->insn->i;

	switch (i->row->sem) {
	case SEM_PAUSE:
		translate_pause(x);
		return true;
	case SEM_CLI:
		translate_cli(x);
		return true;
	case SEM_STI:
		return translate_sti(x);
	case SEM_PUSHF:
		if (i->op_size != x->word || x->segmented)
			return false;
		translate_pushf(x);
		return true;
	case SEM_RDTSC:
	case SEM_RDTSCP:
		translate_rdtsc(x);
		return true;
	case SEM_SWAPGS:
		translate_swapgs(x);
		return true;
	case SEM_RDFSBASE:
		translate_read_base(x, SEG_FS);
		return true;
	case SEM_RDGSBASE:
		translate_read_base(x, SEG_GS);
		return true;
	case SEM_WRFSBASE:
		translate_write_base(x, SEG_FS);
		return true;
	case SEM_WRGSBASE:
		translate_write_base(x, SEG_GS);
		return true;
	default:
		return false;
	}
}
