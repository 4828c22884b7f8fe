// SPDX-License-Identifier: BSD-2-Clause
/*
 * Between C and translated code: `enter`, `leave` and one trampoline per reason to call C. Written by the emitter at
 * start-up, since they are full of offsets and of the register map.
 *
 * A trampoline is jumped to with the site's arena offset in ecx and, where there is one, an address in r9. It puts the
 * guest's registers into the vCPU, calls its handler on the thread's stack and continues at the host address that the handler returns,
 * with registers, flags, r9 (COLD_RESULT) and rcx (COLD_SCRATCH) loaded again. Vector registers are left alone: handlers do not use them.
 */
#include "softkvm/translate/translate.h"

static const uint8_t in_host[] = { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R12, R13, R14, R15 };
static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void save_registers(struct emit *e)
{
	for (unsigned k = 0; k < sizeof(in_host); k++)
		emit_store(e, 8, mem_base(ENV, ENV_GPR(in_host[k])), host_register[in_host[k]]);
}

static void load_registers(struct emit *e)
{
	emit_flags_load(e);
	for (unsigned k = 0; k < sizeof(in_host); k++)
		emit_load(e, 8, host_register[in_host[k]], mem_base(ENV, ENV_GPR(in_host[k])));
	emit_load(e, 8, ADDR, mem_base(ENV, ENV_COLD(COLD_RESULT)));
	emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_COLD(COLD_SCRATCH)));
	emit_load(e, 8, TLB_BASE, mem_base(ENV, ENV_OFF(tlb) + 8 * TLB_READ));
	emit_jmp_mem(e, mem_base(ENV, ENV_COLD(COLD_TARGET)));
}

static void emit_enter(struct emit *e)
{
	for (unsigned k = 0; k < sizeof(callee_saved); k++) {
		if (callee_saved[k] & 8)
			emit_u8(e, 0x41);
		emit_u8(e, 0x50 | (callee_saved[k] & 7));
	}
	emit_u8(e, 0x57); /* push rdi: the vCPU; the stack is aligned for calls now */
	emit_store(e, 8, mem_base(H_RDI, ENV_BIAS + ENV_COLD(COLD_TARGET)), H_RSI);
	emit_store(e, 8, mem_base(H_RDI, ENV_BIAS + ENV_COLD(COLD_STACK)), H_RSP);
	emit_lea(e, 8, ENV, mem_base(H_RDI, ENV_BIAS));
	load_registers(e);
}

static void emit_leave(struct emit *e)
{
	emit_load(e, 8, H_RSP, mem_base(ENV, ENV_COLD(COLD_STACK)));
	emit_u8(e, 0x5f); /* pop rdi */
	for (unsigned k = sizeof(callee_saved); k-- > 0;) {
		if (callee_saved[k] & 8)
			emit_u8(e, 0x41);
		emit_u8(e, 0x58 | (callee_saved[k] & 7));
	}
	emit_u8(e, 0xc3);
}

static void emit_trampoline(struct emit *e, enum trampoline which)
{
	static const uint8_t call_rax[] = { 0xff, 0xd0 };

	if (which == TRAMP_LINK_HOST_FLAGS) {
		emit_store(e, 8, mem_base(ENV, ENV_HOT(HOT_TEMP)), SCRATCH);
		emit_flags_store(e);
		emit_load(e, 8, SCRATCH, mem_base(ENV, ENV_HOT(HOT_TEMP)));
	}
	save_registers(e);
	emit_lea(e, 8, H_RDI, mem_base(ENV, -ENV_BIAS));
	emit_mov(e, 4, H_RSI, SCRATCH);
	emit_mov(e, 8, H_RDX, ADDR);
	emit_mov_imm(e, H_RAX, (uintptr_t)tramp_handlers[which]);
	emit_load(e, 8, H_RSP, mem_base(ENV, ENV_COLD(COLD_STACK)));
	emit_bytes(e, call_rax, sizeof(call_rax));
	emit_load(e, 8, H_RDI, mem_base(H_RSP, 0)); /* the vCPU, by emit_enter() */
	emit_lea(e, 8, ENV, mem_base(H_RDI, ENV_BIAS));
	emit_store(e, 8, mem_base(ENV, ENV_COLD(COLD_TARGET)), H_RAX);
	load_registers(e);
}

/* In what is called by translated code the stack pointer is one return address lower. */
enum { CALLED = 8 };

/*
 * Called (with emit_refill_stack()'s the only calls in translated code) where the stack's remembered entry failed: look for the address in r9 in
 * the table. Found: returns with the HVA in r9, a write entry being remembered. Else returns 5 bytes further on, r9 as
 * it was. Accesses of up to 8 bytes.
 */
static void emit_probe_stack(struct emit *e, bool write)
{
	static const uint8_t ret[] = { 0xc3 };
	const enum tlb_kind kind = tlb_data_kind(write);
	uint8_t *miss;

	emit_table_index(e, CALLED);
	emit_alu_rm(e, 8, ALU_XOR, ADDR, tlb_tag(kind));
	emit_alu_imm(e, 8, ALU_CMP, ADDR, 4096 - 8);
	miss = emit_jcc_forward(e, 7);
	if (write) {
		emit_store(e, 8, mem_base(ENV, CALLED + ENV_COLD(COLD_SPARE)), ADDR);
		emit_load(e, 8, ADDR, tlb_tag(kind));
		emit_store(e, 8, mem_base(ENV, CALLED + ENV_OFF(stack.tag)), ADDR);
		emit_load(e, 8, ADDR, tlb_host(kind));
		emit_store(e, 8, mem_base(ENV, CALLED + ENV_OFF(stack.host)), ADDR);
		emit_alu_rm(e, 8, ALU_ADD, ADDR, mem_base(ENV, CALLED + ENV_COLD(COLD_SPARE)));
	} else {
		emit_alu_rm(e, 8, ALU_ADD, ADDR, tlb_host(kind));
	}
	emit_bytes(e, ret, 1);
	emit_patch32(e, miss, emit_here(e));
	emit_alu_rm(e, 8, ALU_XOR, ADDR, tlb_tag(kind));
	emit_alu_mem_imm(e, 8, ALU_ADD, mem_base(H_RSP, 0), 5);
	emit_bytes(e, ret, 1);
}

/*
 * Called for a group on the stack whose page is not the remembered one: r9 has its address, and keeps it. If the write
 * table has the page, the stack's entry becomes that; else returns 5 bytes further on. What is asked for may then still
 * cross the page.
 */
static void emit_refill_stack(struct emit *e)
{
	static const uint8_t ret[] = { 0xc3 };
	struct host_mem temp = mem_base(ENV, CALLED + ENV_COLD(COLD_SPARE));
	uint8_t *miss;

	emit_store(e, 8, temp, ADDR);
	emit_table_index(e, CALLED);
	emit_alu_rm(e, 8, ALU_XOR, ADDR, tlb_tag(TLB_WRITE));
	emit_alu_imm(e, 8, ALU_CMP, ADDR, 4095);
	miss = emit_jcc_forward(e, 7);
	emit_load(e, 8, ADDR, tlb_tag(TLB_WRITE));
	emit_store(e, 8, mem_base(ENV, CALLED + ENV_OFF(stack.tag)), ADDR);
	emit_load(e, 8, ADDR, tlb_host(TLB_WRITE));
	emit_store(e, 8, mem_base(ENV, CALLED + ENV_OFF(stack.host)), ADDR);
	emit_load(e, 8, ADDR, temp);
	emit_bytes(e, ret, 1);
	emit_patch32(e, miss, emit_here(e));
	emit_load(e, 8, ADDR, temp);
	emit_alu_mem_imm(e, 8, ALU_ADD, mem_base(H_RSP, 0), 5);
	emit_bytes(e, ret, 1);
}

int trampolines_emit(struct translator *t)
{
	struct code_space space;
	struct emit hot, cold;

	codecache_fixed(&t->cache, &space);
	codecache_begin(&t->cache, &space, &hot, &cold, CODECACHE_FIXED);
	t->enter = emit_here(&hot);
	emit_enter(&hot);
	emit_align(&hot, 16, 0);
	t->leave = emit_here(&hot);
	emit_leave(&hot);
	for (unsigned k = 0; k < TRAMP_COUNT; k++) {
		emit_align(&hot, 16, 0);
		t->tramp[k] = emit_here(&hot);
		emit_trampoline(&hot, k);
	}
	for (unsigned write = 0; write < 2; write++) {
		emit_align(&hot, 16, 0);
		t->probe_stack[write] = emit_here(&hot);
		emit_probe_stack(&hot, write);
	}
	emit_align(&hot, 16, 0);
	t->probe_stack[PROBE_REFILL] = emit_here(&hot);
	emit_refill_stack(&hot);
	return hot.overflow ? -1 : 0;
}
