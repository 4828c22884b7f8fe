/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's x87/SSE/AVX state and its moves between memory and the host's registers. Owned by interpret/hostexec.c.
 */
#ifndef GUISE_SOFTKVM_FPU_H
#define GUISE_SOFTKVM_FPU_H

#include <stdint.h>
#include "softkvm/vcpu.h"

enum { XSAVE_AREA_SIZE = 4096 }; /* standard format, all components up to AVX-512 */

struct vcpu_fpu {
	uint8_t area[XSAVE_AREA_SIZE] __attribute__((aligned(64))); /* XSAVE standard format */
	uint64_t mask;		     /* components moved: x87|SSE|AVX as the host and guest have */
	uint64_t last_ip, last_dp;   /* guest FIP/FDP of the last x87 instruction */
	uint16_t last_op, last_cs, last_ds;
};

int fpu_init(struct vcpu *v);	 /* power-on state; 0/-errno */
void fpu_deinit(struct vcpu *v);
void fpu_reset(struct vcpu *v);	 /* after RESET (not INIT) */
void fpu_enter(struct vcpu *v);	 /* memory -> host registers; saves the host's MXCSR and x87 control word */
void fpu_leave(struct vcpu *v);	 /* host registers -> memory; host's control words back */

#endif
