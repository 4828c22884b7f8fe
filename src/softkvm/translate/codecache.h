/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The code cache: memory of generated code, seen twice. One view is writable, the other executable, both of one memfd;
 * no page is ever both at one address.
 */
#ifndef GUISE_TRANSLATE_CODECACHE_H
#define GUISE_TRANSLATE_CODECACHE_H

#include <stdbool.h>
#include <stdint.h>
#include "softkvm/translate/emit.h"

enum { CODECACHE_MOST = 1 << 30 };

struct codecache {
	uint8_t *rw, *rx;
	uint64_t size, split;		      /* hot code below split, cold code from there on */
	uint64_t huge[CODECACHE_MOST >> 21 >> 6]; /* a bit for every 2 MiB that are one huge page */
	bool small_only;		      /* the host refused one */
};

/* A piece of it, of both kinds. Offsets. */
struct code_space {
	uint64_t hot_start, hot_end, cold_start, cold_end;
	uint64_t hot, cold;		/* next free byte of each */
	uint64_t hot_ready, cold_ready; /* backed with pages so far */
};

enum { CODECACHE_FIXED = 16 << 10 }; /* bytes of each kind for what is there for ever: the trampolines */

int codecache_init(struct codecache *c, uint64_t size, uint64_t split); /* multiples of the page size, at most CODECACHE_MOST; 0/-errno */
void codecache_deinit(struct codecache *c);
/* The fixed piece; piece number `index` of `count` that share the rest. */
void codecache_fixed(const struct codecache *c, struct code_space *s);
void codecache_slice(const struct codecache *c, unsigned index, unsigned count, struct code_space *s);
/* Is there room for a block of at most `room` bytes of each kind? */
bool codecache_has_room(const struct code_space *s, unsigned room);
/* Cursors for one, which may fill `room` bytes: hot code from a multiple of 16 on, cold code of 8. */
void codecache_begin(struct codecache *c, struct code_space *s, struct emit *hot, struct emit *cold, unsigned room);
void codecache_commit(const struct codecache *c, struct code_space *s, const struct emit *hot, const struct emit *cold);
/* All of the piece becomes free. Nobody may be inside it. */
void codecache_rewind(struct code_space *s);

static inline bool codecache_holds(const struct codecache *c, const void *rx)
{
	return (uintptr_t)rx - (uintptr_t)c->rx < c->size;
}

/* The writable view of an executable address. */
static inline uint8_t *codecache_rw(const struct codecache *c, const void *rx)
{
	return c->rw + ((const uint8_t *)rx - c->rx);
}

#endif
