/* SPDX-License-Identifier: BSD-2-Clause */
/* See compare.h. */
#include "compare.h"

#include <stdio.h>
#include <string.h>

#include "x86/insn_row.h"

enum { DATA_BYTES = NATIVE_DATA_SIZE + NATIVE_CONST_SIZE };

/* Spell out initial components, so that bytes compare. */
static void spell_out(struct xsave_area *x)
{
	if (!(x->xstate_bv & XSTATE_X87)) {
		x->fcw = FCW_INIT;
		x->fsw = 0;
		x->ftw = 0;
		memset(x->st, 0, sizeof(x->st));
	}
	if (!(x->xstate_bv & XSTATE_SSE))
		memset(x->xmm, 0, sizeof(x->xmm));
	if (!(x->xstate_bv & XSTATE_AVX))
		memset(x->ymmh, 0, sizeof(x->ymmh));
}

/*
 * What a faulting instruction has done to the units by then is up to the processor: whether the x87 unit has changed to MMX,
 * the flags of a conversion whose store faults, which elements a gather has got, what of an image is loaded.
 */
static void forget_half_done(const struct insn *i, const struct xsave_area *n, struct xsave_area *g)
{
	const unsigned gathered[] = {i->operand[0].reg, i->operand[2].reg};

	if (i->row->attrs & INSN_MMX) {
		g->fsw = n->fsw;
		g->ftw = n->ftw;
		memcpy(g->st, n->st, sizeof(g->st));
	}
	if (i->row->sem == SEM_XRSTOR || i->row->sem == SEM_FXRSTOR)
		memcpy(g, n, sizeof(*g));
	if (i->op == OP_VCVTPS2PH)
		g->mxcsr = n->mxcsr;
	for (unsigned k = 0; i->row->sem == SEM_VGATHER && k < 2; k++) {
		memcpy(g->xmm[gathered[k]], n->xmm[gathered[k]], 16);
		memcpy(g->ymmh[gathered[k]], n->ymmh[gathered[k]], 16);
	}
}

static bool compare_fp(const struct results *r, char *what, size_t size)
{
	struct xsave_area *n = &r->native->fp, *g = &r->emulated->fp;

	spell_out(n);
	spell_out(g);
	if (r->insn && r->native_outcome->vector >= 0)
		forget_half_done(r->insn, n, g);
	if (n->fcw != g->fcw || n->fsw != g->fsw || n->ftw != g->ftw || n->mxcsr != g->mxcsr) {
		snprintf(what, size, "fcw %x %x fsw %x %x ftw %x %x mxcsr %x %x", n->fcw, g->fcw, n->fsw,
			 g->fsw, n->ftw, g->ftw, n->mxcsr, g->mxcsr);
		return false;
	}
	for (unsigned k = 0; k < 16; k++) {
		if (memcmp(n->xmm[k], g->xmm[k], 16) || memcmp(n->ymmh[k], g->ymmh[k], 16) ||
		    (k < 8 && memcmp(n->st[k], g->st[k], 10))) {
			snprintf(what, size, "vector or x87 register %u", k);
			return false;
		}
	}
	return true;
}

/* Which round's flags show at a fault is up to the processor. */
static bool is_repeated_compare(const struct insn *i)
{
	return i && (i->row->sem == SEM_CMPS || i->row->sem == SEM_SCAS) && i->prefixes & (PFX_REP | PFX_REPNE);
}

static bool compare_registers(const struct results *r, char *what, size_t size)
{
	const uint64_t flags = FLAGS_STATUS | FLAG_DF | FLAG_AC;
	const struct cpu_state *n = r->native, *g = r->emulated;

	for (unsigned k = 0; k < 16; k++) {
		if (n->gpr[k] == g->gpr[k])
			continue;
		snprintf(what, size, "register %u native %#llx guest %#llx", k, (unsigned long long)n->gpr[k],
			 (unsigned long long)g->gpr[k]);
		return false;
	}
	if (r->native_outcome->vector >= 0 && (r->faulting_flags_loose || is_repeated_compare(r->insn)))
		return true;
	if ((n->rflags ^ g->rflags) & flags) {
		snprintf(what, size, "flags native %llx guest %llx", (unsigned long long)(n->rflags & flags),
			 (unsigned long long)(g->rflags & flags));
		return false;
	}
	return true;
}

/* The XSAVE family and CMPS: see only_order_differs(). */
static bool has_order_of_its_own(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_XSAVE: case SEM_XSAVEOPT: case SEM_XSAVEC: case SEM_XRSTOR: case SEM_CMPS:
		return true;
	}
	return false;
}

/* Large images, masked and double operands are touched in an order that is the processor's: the fault's details differ. */
static bool has_loose_faults(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_FRSTOR: case SEM_FNSAVE: case SEM_FLDENV: case SEM_FNSTENV: case SEM_FXSAVE:
	case SEM_FXRSTOR: case SEM_XSAVE: case SEM_XSAVEOPT: case SEM_XSAVEC: case SEM_XRSTOR:
	case SEM_MASKMOV: case SEM_VMASKMOV: case SEM_CMPS:
		return true;
	}
	return false;
}

static bool same_fault(const struct insn *i, const struct outcome *n, const struct outcome *g)
{
	if (i && n->vector == VEC_PF && has_loose_faults(i))
		return true;
	return n->error == g->error && (n->vector != VEC_PF || n->cr2 == g->cr2);
}

static bool is_outside(uint64_t address)
{
	return address < NATIVE_DATA || address >= NATIVE_DATA + DATA_BYTES;
}

/*
 * Which parts of a large image a processor touches, and which of two operands first, is its own: of one that lies partly where
 * there is no memory, one processor may see what another does not, or see #AC or #GP first.
 */
static bool only_order_differs(const struct results *r)
{
	const struct outcome *n = r->native_outcome, *g = r->emulated_outcome;

	if (!r->insn || !has_order_of_its_own(r->insn) || n->vector == g->vector)
		return false;
	if (r->insn->row->sem == SEM_CMPS && (n->vector < 0 || g->vector < 0))
		return false;
	return (n->vector == VEC_PF && is_outside(n->cr2)) || (g->vector == VEC_PF && is_outside(g->cr2));
}

static bool compare_outcome(const struct results *r, char *what, size_t size)
{
	const struct outcome *n = r->native_outcome, *g = r->emulated_outcome;

	if (n->vector == g->vector && (n->vector < 0 || same_fault(r->insn, n, g)))
		return true;
	if (r->insn && r->insn->op == OP_VCVTPS2PH && n->vector == VEC_XM && g->vector == VEC_PF)
		return true; /* its conversion and its store both fault: either may come first */
	snprintf(what, size, "fault native %d error %llx cr2 %llx, guest %d error %llx cr2 %llx at %llx",
		 n->vector, (unsigned long long)n->error, (unsigned long long)n->cr2, g->vector,
		 (unsigned long long)g->error, (unsigned long long)g->cr2,
		 (unsigned long long)r->emulated->rip);
	return false;
}

/* A store of 80 bits may be two, of which the first happens. */
static bool may_have_stored(const struct results *r)
{
	return r->insn && r->native_outcome->vector == VEC_PF && r->insn->row->attrs & INSN_X87 && r->insn->operand[0].size == 10;
}

static bool compare_memory(const struct results *r, char *what, size_t size)
{
	const uint8_t *n = native_data(), *g = guest.ram + NATIVE_DATA;
	unsigned k = 0;

	if (may_have_stored(r) || !memcmp(n, g, DATA_BYTES))
		return true;
	while (n[k] == g[k])
		k++;
	snprintf(what, size, "memory at %x: native %02x guest %02x", NATIVE_DATA + k, n[k], g[k]);
	return false;
}

bool compare_results(const struct results *r, char *what, size_t size)
{
	if (only_order_differs(r))
		return true;
	if (!compare_outcome(r, what, size) || !compare_registers(r, what, size) ||
	    !compare_fp(r, what, size))
		return false;
	if (r->native->rip != r->emulated->rip) {
		snprintf(what, size, "RIP native %llx guest %llx", (unsigned long long)r->native->rip,
			 (unsigned long long)r->emulated->rip);
		return false;
	}
	return compare_memory(r, what, size);
}
