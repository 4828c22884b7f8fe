/* SPDX-License-Identifier: BSD-2-Clause */
/* Cache lines that other processors have, asked for before they are needed. */
#ifndef GUISE_BASE_PREFETCH_H
#define GUISE_BASE_PREFETCH_H

enum { CACHE_LINE = 64 };

/*
 * The line at p, to be written. __builtin_prefetch(p, 1) is no more than a fetch for reading where the compiler must not assume
 * PREFETCHW, as on plain x86-64: the store then waits a second time, until the others have given up their copies. Every 64-bit processor
 * takes the instruction, some as a NOP. Any address will do.
 */
static inline void prefetch_to_write(const void *p)
{
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
}

#endif
