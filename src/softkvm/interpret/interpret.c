/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The interpreter as an engine: finds the block at RIP, calls each instruction's handler in turn, and comes
 * out when v->cont is 0. It keeps no state of its own between instructions, so the translator may call it for
 * one instruction at any boundary.
 *
 * Per instruction: RIP is advanced before the handler runs, insn_rip remembers where it was, and v->insn is
 * what runs.
 */
#include "softkvm/engine.h"
#include "softkvm/interpret/decode_cache.h"
#include "softkvm/interpret/operand.h"

/* Outside 64-bit mode code ends at its segment's limit, whoever decoded these bytes before. */
static inline bool is_within_code(const struct vcpu *v, const struct code_block *block)
{
	return v->mode == MODE_64 || v->rip + block->bytes - 1 <= v->seg[SEG_CS].limit;
}

static inline const struct code_block *lookup(struct vcpu *v)
{
	const struct code_block *block;
	const uint8_t *hva;

	hva = tlb_probe(v, TLB_FETCH, likely(v->mode == MODE_64) ? v->rip : (uint32_t)(v->seg[SEG_CS].base + v->rip), 1);
	if (likely(hva)) {
		block = v->decode->slot[v->mode][block_slot(hva)];
		if (likely(block->hva == hva && is_within_code(v, block) &&
			   block->generation == atomic_load_explicit(&block->page->generation, memory_order_acquire)))
			return block;
	}
	return decode_lookup_slow(v);
}

/* Runs the instruction at rip; returns the address of the one after it. */
static inline uint64_t run_insn(struct vcpu *v, const struct code_insn *c, uint64_t rip, uint64_t rip_mask)
{
	uint64_t next = (rip + c->insn.len) & rip_mask;

	v->insn = &c->insn;
	v->insn_rip = rip;
	v->rip = next;
	c->run(v, &c->insn);
	return next;
}

static inline bool may_go_on(const struct vcpu *v)
{
	return likely(atomic_load_explicit(&v->cont, memory_order_relaxed));
}

/* Only a block's last instruction branches, and a repeating one goes back only when it may not go on. */
static inline __attribute__((always_inline)) void run_block(struct vcpu *v)
{
	const struct code_block *block = lookup(v);
	const struct code_insn *c = block->code, *end = c + block->count;
	uint64_t mask = likely(v->mode == MODE_64) ? ~0ull : 0xffffffffu, rip = v->rip;

	do
		rip = run_insn(v, c, rip, mask);
	while (++c < end && may_go_on(v));
	v->steps += (uint64_t)(c - block->code);
}

static void run_blocks(struct vcpu *v)
{
	do
		run_block(v);
	while (may_go_on(v));
}

void interpret_block(struct vcpu *v)
{
	run_block(v);
}

static void interpret_run(struct vcpu *v, bool single)
{
	if (likely(!single)) {
		run_blocks(v);
		return;
	}
	run_insn(v, lookup(v)->code, v->rip, v->mode == MODE_64 ? ~0ull : 0xffffffffu);
	v->steps++;
}

static int interpret_vm_init(struct vm *vm)
{
	return 0;
}

static void interpret_vm_deinit(struct vm *vm)
{
}

/* A store hit code that somebody decoded: every vCPU looks its block up again before the next instruction. */
static void interpret_code_changed(struct vm *vm, gpa_t gpa, uint64_t len, struct code_change *change)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	if (change)
		code_change_done(change); /* decoded code is stale by its generation */
	for (unsigned k = 0; k < count; k++)
		if (vm->vcpu[k])
			vcpu_call_out(vm->vcpu[k]);
}

const struct engine engine_interpret = {
	.name = "interpret",
	.vm_init = interpret_vm_init,
	.vm_deinit = interpret_vm_deinit,
	.vcpu_init = decode_cache_new,
	.vcpu_deinit = decode_cache_free,
	.run = interpret_run,
	.code_changed = interpret_code_changed,
};
