/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How an instruction asks for the run loop's attention at its end: changes of RFLAGS that matter to the loop,
 * and interrupt shadows. An engine leaves its inner loop at the next boundary once v->cont is 0.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_ATTENTION_H
#define GUISE_SOFTKVM_INTERPRET_ATTENTION_H

#include "softkvm/vcpu.h"

/* The run loop looks at everything before the next instruction. */
static inline void want_attention(struct vcpu *v)
{
	vcpu_call_out(v);
}

/*
 * Replace RFLAGS by POPF, IRET, SYSRET, STI...: IF may open the way for an interrupt that waits, TF starts
 * single stepping, RF needs one step; a shadow (set before this call) must end after the next instruction. AC
 * with SMAP is the caller's business (mmu_mode_changed).
 */
static inline void flags_changed(struct vcpu *v, uint64_t rflags)
{
	uint64_t set = rflags & ~v->rflags;

	v->rflags = rflags;
	if ((set & (FLAG_TF | FLAG_RF)) || v->shadow || ((set & FLAG_IF) && v->irq_waits))
		want_attention(v);
}

#endif
