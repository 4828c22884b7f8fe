/* SPDX-License-Identifier: BSD-2-Clause */
/* Order of memory accesses beyond what C's atomics say cheaply. */
#ifndef GUISE_BASE_FENCE_H
#define GUISE_BASE_FENCE_H

/* Store before load. Not __atomic_thread_fence(): TSan does not know that, and a locked add is what compilers emit for it. */
static inline void full_fence(void)
{
	__asm__ volatile("lock; addl $0, -4(%%rsp)" ::: "memory", "cc");
}

#endif
