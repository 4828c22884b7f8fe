/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's vector state as a whole: power-on values, and its moves into and out of the host's registers.
 *
 * The host's own floating point environment is only its two control words: the C ABI lets a callee change
 * every vector register and wants the x87 stack empty. So leaving means XSAVE, FNINIT, VZEROUPPER and the
 * host's MXCSR and FCW.
 *
 * XSAVE stores as FIP the host address of the last x87 instruction. The guest must never see that: the
 * pointers at rest are last_*, and fpu_leave() asks the translator for the guest's RIP if x87 code has run
 * since fpu_enter(). Processors that keep the pointers only while an exception is pending store 0 otherwise:
 * nothing new.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "softkvm/fpu.h"
#include "softkvm/interpret/hoststub.h"

enum { CPUID_1_ECX_OSXSAVE = 1 << 27 };

static uint64_t host_xcr0(void)
{
	uint32_t a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & CPUID_1_ECX_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return a | (uint64_t)d << 32;
}

int fpu_init(struct vcpu *v)
{
	uint64_t xcr0 = host_xcr0();
	int err;

	if ((xcr0 & (XSTATE_X87 | XSTATE_SSE)) != (XSTATE_X87 | XSTATE_SSE))
		return -ENOTSUP;
	v->fpu = aligned_alloc(64, sizeof(*v->fpu));
	if (!v->fpu)
		return -ENOMEM;
	for (unsigned k = 0; k < sizeof(*v->fpu); k++)
		((uint8_t *)v->fpu)[k] = 0;
	v->fpu->mask = xcr0 & (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX);
	err = stub_cache_new(&v->fpu->stubs);
	if (err) {
		free(v->fpu);
		v->fpu = NULL;
		return err;
	}
	fpu_reset(v);
	return 0;
}

void fpu_deinit(struct vcpu *v)
{
	if (!v->fpu)
		return;
	stub_cache_free(v->fpu->stubs);
	free(v->fpu);
	v->fpu = NULL;
}

/* As KVM does it: the state after FNINIT, not RESET's odd control word of 40H. */
void fpu_reset(struct vcpu *v)
{
	struct vcpu_fpu *f = v->fpu;

	for (unsigned k = 0; k < sizeof(f->area); k++)
		f->area[k] = 0;
	f->x.fcw = FCW_INIT;
	f->x.mxcsr = MXCSR_INIT;
	f->last_ip = f->last_dp = 0;
	f->last_op = f->last_cs = f->last_ds = 0;
	v->fpu_live = false;
}

void fpu_enter(struct vcpu *v)
{
	struct vcpu_fpu *f = v->fpu;

	f->x.fip = f->entered_ip = f->last_ip;
	f->x.fdp = f->last_dp;
	f->x.fop = f->last_op;
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(f->host_mxcsr), "=m"(f->host_fcw));
	__asm__ volatile("xrstor64 %0" : : "m"(f->x), "a"((uint32_t)f->mask), "d"(0) : "memory");
	v->fpu_live = true;
}

static void guest_pointers(struct vcpu *v)
{
	struct vcpu_fpu *f = v->fpu;

	if (!f->x.fip || f->x.fip == f->entered_ip)
		return;
	f->last_ip = f->guest_ip ? f->guest_ip(v, f->x.fip) : 0;
	f->last_op = f->x.fop;
	f->last_dp = 0;
	f->last_cs = v->seg[SEG_CS].sel;
	f->last_ds = v->seg[SEG_DS].sel;
}

void fpu_leave(struct vcpu *v)
{
	struct vcpu_fpu *f = v->fpu;

	__asm__ volatile("xsave64 %0" : "+m"(f->x) : "a"((uint32_t)f->mask), "d"(0) : "memory");
	__asm__ volatile("fninit\n\tfldcw %0\n\tldmxcsr %1" : : "m"(f->host_fcw), "m"(f->host_mxcsr));
	if (f->mask & XSTATE_AVX)
		__asm__ volatile("vzeroupper");
	v->fpu_live = false;
	guest_pointers(v);
}
