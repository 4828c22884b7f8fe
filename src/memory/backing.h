/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory behind the engine's large tables and behind guest RAM, in huge pages where the host gives them. Needs no
 * vector registers.
 */
#ifndef GUISE_MEMORY_BACKING_H
#define GUISE_MEMORY_BACKING_H

#include <stdbool.h>
#include <stdint.h>

enum { HUGE_PAGE = 2 << 20 };

/*
 * `size` bytes of private memory that reads as zeroes, from a multiple of HUGE_PAGE on; backed when touched or populated.
 * NULL: none to be had. The caller's, released by backing_free() with the same size. Any thread.
 */
void *backing_new(uint64_t size);
void backing_free(void *p, uint64_t size);
/* Back [p, p + size), part of a backing_new(), with pages now. Advice only: where the kernel does not know it, pages come by faults. */
void backing_populate(void *p, uint64_t size);

/*
 * Map `size` bytes of a file, shared, from its offset 0 on at a multiple of HUGE_PAGE; flags: more of mmap()'s. NULL: failed, errno
 * says why. The caller's, released by munmap().
 */
void *backing_map(int fd, uint64_t size, int protection, int flags);

/*
 * Back the HUGE_PAGE bytes at p, a multiple of it in a shared writable mapping, with one huge page. What is there
 * stays. Costs less than as many small pages do. False: the host does not.
 */
bool backing_make_huge(void *p);

#endif
