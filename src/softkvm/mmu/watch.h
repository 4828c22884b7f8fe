/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Data breakpoints (SDM volume 3, 17.2): pages that hold one are never entered in the TLB for data, so each access
 * to them takes the slow way, which asks here.
 */
#ifndef GUISE_MMU_WATCH_H
#define GUISE_MMU_WATCH_H

#include "softkvm/vcpu.h"

/* DR7, the breakpoint addresses or guest_debug changed. vCPU thread. */
void mmu_watch_update(struct vcpu *v);
/* Bytes were accessed: note the breakpoints they meet in v->debug_pending and end the inner loop. */
void mmu_watch_hit(struct vcpu *v, gva_t gva, unsigned len, bool write);

/* The debug registers in force: the user's of KVM_SET_GUEST_DEBUG, or the guest's. */
static inline const uint64_t *debug_registers(const struct vcpu *v)
{
	return v->guest_debug & KVM_GUESTDBG_USE_HW_BP ? v->debug_dr : v->dr;
}

enum { DR7_RW_EXECUTE = 0, DR7_RW_WRITE = 1, DR7_RW_IO = 2, DR7_RW_ACCESS = 3 };

static inline unsigned dr7_enabled(uint64_t dr7, int n)
{
	return dr7 >> (n * 2) & 3;
}

static inline unsigned dr7_rw(uint64_t dr7, int n)
{
	return dr7 >> (16 + n * 4) & 3;
}

static inline unsigned dr7_len(uint64_t dr7, int n)
{
	static const uint8_t len[] = {1, 2, 8, 4};

	return len[dr7 >> (18 + n * 4) & 3];
}

#endif
