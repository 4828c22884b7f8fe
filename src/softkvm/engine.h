/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The seam between the run loop (interpret/run.c) and a CPU engine. The run loop owns everything between
 * instructions: requests, event injection, HLT, exits. An engine executes instructions until something needs it.
 */
#ifndef GUISE_SOFTKVM_ENGINE_H
#define GUISE_SOFTKVM_ENGINE_H

#include "softkvm/vm.h"

struct code_change; /* mmu/mmu.h */

struct engine {
	const char *name; /* "interpret", "translate", "verify" */
	int (*vm_init)(struct vm *vm);
	void (*vm_deinit)(struct vm *vm);
	int (*vcpu_init)(struct vcpu *v); /* 0/-errno */
	void (*vcpu_deinit)(struct vcpu *v);
	/*
	 * Execute instructions until v->cont is 0, the vCPU halts, an instruction leaves an interrupt shadow or
	 * changes what the run loop looks at. Returns at an instruction boundary with all registers in *v; may
	 * also leave by raise_*()/vcpu_leave(). With `single` set exactly one instruction is executed.
	 */
	void (*run)(struct vcpu *v, bool single);
	/*
	 * Guest-physical page contents changed behind the engine (store, slot change, DMA found by hash). What was made of them is
	 * forgotten; then, before anything is made of them again, code_change_done() is called if there is a change. Any thread.
	 */
	void (*code_changed)(struct vm *vm, gpa_t gpa, uint64_t len, struct code_change *change);
};

extern const struct engine engine_interpret;
extern const struct engine engine_translate;
extern const struct engine engine_verify; /* both, compared block by block */

#endif
