/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lock-step execution (translate/verify.c): what it needs of the memory and I/O code. While v->lockstep is set, the
 * instruction under way is a trial: device accesses must not happen, and in its recording half every store to RAM is
 * noted beforehand, so that it can be taken back.
 */
#ifndef GUISE_SOFTKVM_LOCKSTEP_H
#define GUISE_SOFTKVM_LOCKSTEP_H

#include <stddef.h>

#include "softkvm/vcpu.h"

struct lockstep;

/* Bytes of RAM at hva are about to be stored to. May leave the trial: the log is full. */
void lockstep_log(struct vcpu *v, uint8_t *hva, gpa_t gpa, unsigned size);

static inline void lockstep_store(struct vcpu *v, uint8_t *hva, gpa_t gpa, unsigned size)
{
	if (__builtin_expect(v->lockstep != NULL, 0))
		lockstep_log(v, hva, gpa, size);
}

/* A device is about to be touched. */
static inline void lockstep_device(struct vcpu *v)
{
	if (__builtin_expect(v->lockstep != NULL, 0))
		vcpu_leave(v);
}

#endif
