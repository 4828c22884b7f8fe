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

struct codecache {
	uint8_t *rw, *rx;
	uint64_t size, split; /* hot code below split, cold code from there on */
	uint64_t fixed;	     /* bytes at the start that outlive every flush: the trampolines */
	uint64_t hot, cold;  /* next free byte of each */
	uint64_t hot_ready, cold_ready; /* backed with pages so far */
};

int codecache_init(struct codecache *c, uint64_t size, uint64_t split); /* multiples of 1 MiB; 0/-errno */
void codecache_deinit(struct codecache *c);
/* Cursors for one block; false: the cache is full. Every block gets room for at least `room` bytes of each kind. */
bool codecache_begin(struct codecache *c, struct emit *hot, struct emit *cold, unsigned room);
void codecache_commit(struct codecache *c, const struct emit *hot, const struct emit *cold);
/* Everything after the fixed part becomes free. Nobody may be inside it. */
void codecache_flush(struct codecache *c);
/* What was emitted so far stays for ever. */
void codecache_fix(struct codecache *c);

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
