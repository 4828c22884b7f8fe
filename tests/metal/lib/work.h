/* SPDX-License-Identifier: BSD-2-Clause */
/* Work on a window of memory whose result depends on every step: see long_storm.c and smp_storm.c. */
#ifndef METAL_WORK_H
#define METAL_WORK_H

#include "metal.h"

enum { WORK_PAGES = 64 }; /* a window's size */

uint32_t next_random(uint32_t *seed);
uint64_t mix(uint64_t h, uint64_t v);
uint64_t fill_and_sort(uint64_t window, uint32_t seed);
uint64_t recurse(unsigned depth, uint64_t h);
uint64_t strings(uint64_t window, uint32_t seed);
/* Runs on a stack inside the window. */
uint64_t stack_and_flags(uint64_t window, uint64_t h);
uint64_t vectors(uint64_t window, uint64_t h);

#endif
