/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's x87/SSE/AVX state and its moves between memory and the host's registers (interpret/fpu.c).
 *
 * At rest (v->fpu_live false) it is in fpu->area, in XSAVE's standard format. A component whose xstate_bv bit
 * is clear is in its initial state whatever its bytes say. MXCSR is always in the area. The pointers to the
 * last x87 instruction are the last_* fields; the area's own are scratch.
 */
#ifndef GUISE_SOFTKVM_FPU_H
#define GUISE_SOFTKVM_FPU_H

#include <stdint.h>
#include "softkvm/vcpu.h"

enum { XSAVE_AREA_SIZE = 4096 }; /* standard format, all components up to AVX-512 */
enum { XSTATE_X87 = 1, XSTATE_SSE = 2, XSTATE_AVX = 4 };
enum { FCW_INIT = 0x37f, MXCSR_INIT = 0x1f80, MXCSR_VALID = 0xffff, MXCSR_MASKS = 0x1f80 };

/* SDM volume 1, 13.4. */
struct xsave_area {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved0; /* abridged tag word: bit = physical register in use */
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16], xmm[16][16]; /* st in stack order */
	uint8_t unused[96];
	uint64_t xstate_bv, xcomp_bv, reserved1[6];
	uint8_t ymmh[16][16];
	uint8_t others[XSAVE_AREA_SIZE - 832];
};
_Static_assert(sizeof(struct xsave_area) == XSAVE_AREA_SIZE, "standard format");

struct stub_cache; /* interpret/hoststub.c */

struct vcpu_fpu {
	union {
		uint8_t area[XSAVE_AREA_SIZE];
		struct xsave_area x;
	} __attribute__((aligned(64)));
	uint64_t mask;		     /* components moved: x87|SSE|AVX as the host has */
	uint64_t last_ip, last_dp;   /* guest FIP/FDP of the last x87 instruction */
	uint16_t last_op, last_cs, last_ds;
	uint16_t host_fcw;	     /* while live */
	uint32_t host_mxcsr;
	uint64_t entered_ip;	     /* FIP as loaded by fpu_enter() */
	/* The translator's: guest RIP of the x87 instruction at host address `host_ip`; NULL: reads as 0. */
	uint64_t (*guest_ip)(struct vcpu *v, uint64_t host_ip);
	struct stub_cache *stubs;
	uint8_t bounce[64] __attribute__((aligned(64)));
};

int fpu_init(struct vcpu *v);	 /* power-on state; 0/-errno (-ENOTSUP: the host lacks XSAVE) */
void fpu_deinit(struct vcpu *v);
void fpu_reset(struct vcpu *v);	 /* after RESET (not INIT) */
void fpu_enter(struct vcpu *v);	 /* memory -> host registers; saves the host's MXCSR and x87 control word */
void fpu_leave(struct vcpu *v);	 /* host registers -> memory; host's control words back */

#endif
