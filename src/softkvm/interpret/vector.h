/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all vector instructions of the interpreter share: is the unit usable, is an x87 exception pending,
 * access to memory operands of any size, and to vector registers at rest.
 */
#ifndef GUISE_INTERPRET_VECTOR_H
#define GUISE_INTERPRET_VECTOR_H

#include "softkvm/fpu.h"
#include "softkvm/interpret/operand.h"
#include "x86/insn_row.h"

/*
 * Brings the state to rest for an op_* function; returns whether it was live, for vector_resume(). An op_*
 * that leaves by an exception leaves the state at rest, and the translator enters it again.
 */
static inline bool vector_rest(struct vcpu *v)
{
	bool live = v->fpu_live;

	if (live)
		fpu_leave(v);
	return live;
}

static inline void vector_resume(struct vcpu *v, bool live)
{
	if (live)
		fpu_enter(v);
}

/* #UD, #NM, #MF as the row's unit requires (SDM volume 2, 2.4-2.7; volume 3, 13.1). */
void vector_check(struct vcpu *v, const struct insn_row *row);

/* Is an unmasked x87 exception pending? */
bool x87_pending(const struct vcpu *v);

/* x87 control and status as the unit keeps them: reserved bits forced, error summary and busy recomputed. */
uint16_t x87_control(uint16_t fcw);
uint16_t x87_status(uint16_t fsw, uint16_t fcw);

/* Make the bytes of these components true to their state: initial ones are written out. xstate_bv stays. */
void vector_materialize(struct vcpu_fpu *f, uint64_t components);

/* #GP(0) for an address that is not aligned to `align` (a power of two). */
static inline void require_alignment(struct vcpu *v, gva_t gva, unsigned align)
{
	if (gva & (align - 1))
		raise_error(v, VEC_GP, 0);
}

/* seg_address() without #AC. */
static inline gva_t address_unaligned(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size,
				      bool write)
{
	if (!seg_allows(v, seg, offset, size, write))
		raise_error(v, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
	return seg_linear(v, seg, offset);
}

/* Any length; page crossing, device memory and the 4 GiB wrap outside 64-bit mode are handled. */
void vector_read(struct vcpu *v, gva_t gva, void *buf, unsigned len);
void vector_write(struct vcpu *v, gva_t gva, const void *buf, unsigned len);
/* Raises what writing there would raise. */
void vector_probe(struct vcpu *v, gva_t gva, unsigned len, bool write);

static inline void copy(void *to, const void *from, unsigned len)
{
	for (unsigned k = 0; k < len; k++)
		((uint8_t *)to)[k] = ((const uint8_t *)from)[k];
}

static inline void clear(void *to, unsigned len)
{
	for (unsigned k = 0; k < len; k++)
		((uint8_t *)to)[k] = 0;
}

/* All 32 bytes of a vector register (the upper half is zero if the guest has no AVX), and back. */
void ymm_get(struct vcpu *v, unsigned reg, uint8_t value[32]);
void ymm_set(struct vcpu *v, unsigned reg, const uint8_t value[32]);

#endif
