// SPDX-License-Identifier: BSD-2-Clause
/*
 * REP MOVS and REP STOS of 64-bit code, inline: where every operand lies whole in a page that the soft TLB has, which is what
 * most of a kernel's copies do, the host's own instruction does it at the host addresses. Count 0, a page's end, DF, a miss
 * and all that a miss stands for are the interpreter's, which goes page by page.
 */
#include "softkvm/translate/translate.h"

/* On condition cc to `slow`, with all guest registers as they were. */
static void check_count(struct xlat *x, unsigned size, const uint8_t *slow)
{
	struct emit *e = &x->hot;

	emit_rm(e, 0xf6, 0, mem_base(ENV, ENV_OFF(rflags) + 1)); /* test byte, imm8 */
	emit_u8(e, FLAG_DF >> 8);
	emit_jcc(e, 5, slow);
	emit_lea(e, 8, SCRATCH, mem_base(GUEST_RCX, -1));
	emit_alu_imm(e, 8, ALU_CMP, SCRATCH, (int32_t)(PAGE_SIZE / size) - 1);
	emit_jcc(e, 7, slow);
}

/* The bytes from the guest address in host register `reg` on, of which there are at most PAGE_SIZE: their HVA into ADDR. */
static void check_bytes(struct xlat *x, unsigned reg, unsigned size, bool write, const uint8_t *slow)
{
	const enum tlb_kind kind = tlb_data_kind(write);
	struct emit *e = &x->hot;

	emit_lea(e, 8, ADDR, mem_index(reg, GUEST_RCX, (unsigned)__builtin_ctz(size), -1));
	emit_alu_rr(e, 8, ALU_XOR, ADDR, reg);
	emit_alu_imm(e, 8, ALU_CMP, ADDR, PAGE_SIZE - 1);
	emit_jcc(e, 7, slow);
	emit_mov(e, 8, ADDR, reg);
	emit_table_index(e, 0);
	emit_alu_rm(e, 8, ALU_XOR, ADDR, tlb_tag(kind));
	emit_alu_imm(e, 8, ALU_CMP, ADDR, PAGE_SIZE - 1);
	emit_jcc(e, 7, slow);
	emit_alu_rm(e, 8, ALU_ADD, ADDR, tlb_host(kind));
}

static void emit_rep(struct emit *e, unsigned opcode, unsigned size)
{
	if (size == 2)
		emit_u8(e, 0x66);
	emit_u8(e, 0xf3);
	if (size == 8)
		emit_u8(e, 0x48);
	emit_u8(e, (uint8_t)(size == 1 ? opcode : opcode + 1));
}

/* Where the element behind the last would be. */
static void advance(struct emit *e, unsigned reg, unsigned from, unsigned size)
{
	emit_lea(e, 8, reg, mem_index(from, GUEST_RCX, (unsigned)__builtin_ctz(size), 0));
}

static void translate_stos(struct xlat *x, unsigned size, const uint8_t *slow)
{
	struct emit *e = &x->hot;

	check_bytes(x, H_RDI, size, true, slow);
	emit_rr(e, 0x87 | OP_W, H_RDI, ADDR); /* xchg */
	emit_mov(e, 8, SCRATCH, GUEST_RCX);
	emit_rep(e, 0xaa, size);
	advance(e, H_RDI, ADDR, size);
}

static void translate_movs(struct xlat *x, unsigned size, const uint8_t *slow)
{
	const struct host_mem temp = mem_base(ENV, ENV_HOT(HOT_TEMP));
	struct emit *e = &x->hot;

	check_bytes(x, H_RSI, size, false, slow);
	emit_store(e, 8, temp, ADDR);
	check_bytes(x, H_RDI, size, true, slow);
	emit_rr(e, 0x87 | OP_W, H_RDI, ADDR);
	emit_load(e, 8, SCRATCH, temp);
	emit_store(e, 8, temp, H_RSI);
	emit_mov(e, 8, H_RSI, SCRATCH);
	emit_mov(e, 8, SCRATCH, GUEST_RCX);
	emit_rep(e, 0xa4, size);
	advance(e, H_RDI, ADDR, size);
	emit_load(e, 8, H_RSI, temp);
	advance(e, H_RSI, H_RSI, size);
}

bool translate_string(struct xlat *x)
{
	const struct insn *i = &x->insn->i;
	bool is_movs = i->row->sem == SEM_MOVS;
	unsigned size = i->operand[0].size;
	const uint8_t *slow;

	if ((!is_movs && i->row->sem != SEM_STOS) || !(i->prefixes & (PFX_REP | PFX_REPNE)) || x->word != 8 || i->mem.addr_size != 8 ||
	    (is_movs && i->mem.seg >= SEG_FS))
		return false;
	interpreter_ready(x);
	x->addr_group = NO_GROUP;
	slow = cold_interpreter(x);
	check_count(x, size, slow);
	if (is_movs)
		translate_movs(x, size, slow);
	else
		translate_stos(x, size, slow);
	emit_alu_rr(&x->hot, 4, ALU_XOR, GUEST_RCX, GUEST_RCX);
	return true;
}
