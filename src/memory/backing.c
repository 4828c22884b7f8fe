/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory in huge pages.
 *
 * Translated code touches its own tables (soft TLB, jump cache) and its code at random, so with 4 KiB pages they compete
 * with the guest's data for the host's TLB. And on a host that is itself virtualized the first touch of a page costs
 * a microsecond at the best, 10 to 20 by a fault: one huge page costs less than 512 small ones.
 *
 * Private memory becomes huge by MADV_HUGEPAGE, at its first touch. Shared memory does only by the administrator's
 * leave, but MADV_COLLAPSE (Linux 6.1) works without: it wants one page to be there.
 */
#include "memory/backing.h"

#include <stddef.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { SMALL_PAGE = 4096 };

/* Address space, a multiple of HUGE_PAGE; what surrounds it is given back. */
static uint8_t *reserve(uint64_t size)
{
	uint8_t *p = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)p & (HUGE_PAGE - 1);
	if (before)
		munmap(p, before);
	munmap(p + before + size, HUGE_PAGE - before);
	return p + before;
}

static uint64_t in_small_pages(uint64_t size)
{
	return (size + SMALL_PAGE - 1) & ~(uint64_t)(SMALL_PAGE - 1);
}

void *backing_new(uint64_t size)
{
	uint8_t *p = reserve(in_small_pages(size));

	if (!p)
		return NULL;
	if (mprotect(p, in_small_pages(size), PROT_READ | PROT_WRITE)) {
		backing_free(p, size);
		return NULL;
	}
	madvise(p, in_small_pages(size), MADV_HUGEPAGE);
	return p;
}

void backing_free(void *p, uint64_t size)
{
	if (p)
		munmap(p, in_small_pages(size));
}

void backing_populate(void *p, uint64_t size)
{
	madvise(p, size, MADV_POPULATE_WRITE);
}

void *backing_map(int fd, uint64_t size, int protection, int flags)
{
	uint8_t *p = reserve(in_small_pages(size));

	if (!p || mmap(p, size, protection, MAP_SHARED | MAP_FIXED | flags, fd, 0) != MAP_FAILED)
		return p;
	backing_free(p, size);
	return NULL;
}

bool backing_make_huge(void *p)
{
	return !madvise(p, SMALL_PAGE, MADV_POPULATE_WRITE) && !madvise(p, HUGE_PAGE, MADV_COLLAPSE);
}
