/* SPDX-License-Identifier: BSD-2-Clause */
/* The main executable as it lies in memory: see program.c. */
#ifndef GUISE_PRELOAD_PROGRAM_H
#define GUISE_PRELOAD_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROGRAM_SEGMENTS = 8 };

struct program {
	struct program_segment { /* not writable */
		const uint8_t *start;
		size_t size;
		bool executable;
	} segment[PROGRAM_SEGMENTS];
	unsigned segments;
	const void *table; /* its functions, or NULL */
};

/* Find the main executable of this process. The loader must be done with it: from constructors on. */
void program_look(struct program *p);
/* Is this text anywhere in its read-only segments? */
bool program_says(const struct program *p, const char *text);
/* Where the function begins that has this address, or NULL: nobody knows. */
const uint8_t *program_function(const struct program *p, const uint8_t *at);

#endif
