/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87, SSE and AVX state as struct kvm_fpu and as an XSAVE area (SDM volume 1, 13.4 and 10.5.1). At rest it lives
 * in v->fpu->area, in the standard format: see softkvm/fpu.h.
 */
#include <errno.h>
#include <string.h>

#include "softkvm/api/state_rows.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/cpuid.h"

static struct xsave_area *area_of(struct vcpu *v)
{
	return &v->fpu->x;
}

/* Write out initial states that are only implied, so that the bytes can be read. */
static void make_explicit(struct xsave_area *a)
{
	if (!(a->xstate_bv & XSTATE_X87)) {
		memset(a, 0, offsetof(struct xsave_area, mxcsr));
		memset(a->st, 0, sizeof(a->st));
		a->fcw = FCW_INIT;
	}
	if (!(a->xstate_bv & XSTATE_SSE))
		memset(a->xmm, 0, sizeof(a->xmm));
	a->xstate_bv |= XSTATE_X87 | XSTATE_SSE;
}

/* The pointers to the last x87 instruction are kept apart from the area: see softkvm/fpu.h. */
static void pointers_out(const struct vcpu_fpu *fpu, struct xsave_area *a)
{
	a->fop = fpu->last_op;
	a->fip = fpu->last_ip;
	a->fdp = fpu->last_dp;
}

static void pointers_in(struct vcpu_fpu *fpu, const struct xsave_area *a)
{
	fpu->last_op = a->fop;
	fpu->last_ip = a->fip;
	fpu->last_dp = a->fdp;
	fpu->last_cs = fpu->last_ds = 0;
}

long get_fpu(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct xsave_area *a = area_of(h->vcpu);
	struct kvm_fpu *out = data;

	make_explicit(a);
	pointers_out(h->vcpu->fpu, a);
	out->fcw = a->fcw;
	out->fsw = a->fsw;
	out->ftwx = a->ftw;
	out->last_opcode = a->fop;
	out->last_ip = a->fip;
	out->last_dp = a->fdp;
	out->mxcsr = a->mxcsr;
	memcpy(out->fpr, a->st, sizeof(out->fpr));
	memcpy(out->xmm, a->xmm, sizeof(out->xmm));
	return 0;
}

long set_fpu(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct xsave_area *a = area_of(h->vcpu);
	const struct kvm_fpu *in = data;

	make_explicit(a);
	a->fcw = in->fcw;
	a->fsw = in->fsw;
	a->ftw = in->ftwx;
	a->fop = in->last_opcode;
	a->fip = in->last_ip;
	a->fdp = in->last_dp;
	a->mxcsr = in->mxcsr & MXCSR_VALID;
	memcpy(a->st, in->fpr, sizeof(in->fpr));
	memcpy(a->xmm, in->xmm, sizeof(in->xmm));
	pointers_in(h->vcpu->fpu, a);
	return 0;
}

/* KVM_GET_XSAVE2's size is KVM_CHECK_EXTENSION's answer, which is the same 4096 bytes. */
long get_xsave(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct xsave_area *a = area_of(h->vcpu);

	make_explicit(a);
	pointers_out(h->vcpu->fpu, a);
	memcpy(data, a, sizeof(struct kvm_xsave));
	((struct xsave_area *)data)->mxcsr_mask = MXCSR_VALID;
	return 0;
}

long set_xsave(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct xsave_area *in = data;
	struct vcpu_fpu *fpu = h->vcpu->fpu;

	if (in->xstate_bv & ~(fpu->mask | XSTATE_X87 | XSTATE_SSE) || in->xcomp_bv)
		return -EINVAL;
	for (unsigned i = 0; i < sizeof(in->reserved1) / sizeof(*in->reserved1); i++)
		if (in->reserved1[i])
			return -EINVAL;
	if (in->mxcsr & ~(uint32_t)MXCSR_VALID)
		return -EINVAL;
	memcpy(fpu->area, in, sizeof(fpu->area));
	if (!(in->xstate_bv & (XSTATE_SSE | XSTATE_AVX)))
		fpu->x.mxcsr = MXCSR_INIT;
	pointers_in(fpu, in);
	return 0;
}

bool is_xcr0_valid(const struct vcpu *v, uint64_t xcr0)
{
	uint64_t offered = cpuid_xcr0_mask(v) | XSTATE_X87 | XSTATE_SSE;

	if (!(xcr0 & XSTATE_X87) || xcr0 & ~offered)
		return false;
	return !(xcr0 & XSTATE_AVX) || xcr0 & XSTATE_SSE;
}
