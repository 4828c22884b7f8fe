/* SPDX-License-Identifier: BSD-2-Clause */
/* What the ring benchmark's two kinds of sample share: memory, pinned threads, the clock. */
#ifndef GUISE_BENCH_RINGS_H
#define GUISE_BENCH_RINGS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RING = 256, STRIDE = 2048, HEADER = 12, AREA = 8 << 20, BATCH_MAX = 64 };

struct sample {
	bool packed;
	bool to_driver;	  /* the device sends; else the driver does */
	unsigned bytes;	  /* of a packet, header included */
	unsigned batch;
	uint8_t *area;	  /* AREA bytes, shared */
	uint8_t *private; /* the consumer's RING * STRIDE bytes */
	uint8_t template[STRIDE];
	_Atomic bool go __attribute__((aligned(256))), stop;

	/* The consumer's: packets in each millisecond, of which the better ones count (see main.c) */
	uint64_t packets __attribute__((aligned(256))), calls, chunk_start, total;
	double ns_per_tick, *chunk; /* Mpps */
	unsigned n_chunks;
};

enum { CHUNKS_MAX = 4096, CHUNK_NS = 1000000 };

static inline void idle(void)
{
	__builtin_ia32_pause();
}

/* The consumer took n packets. */
static inline void count_packets(struct sample *s, unsigned n)
{
	uint64_t t;

	s->packets += n;
	__atomic_store_n(&s->total, s->total + n, __ATOMIC_RELAXED);
	if (++s->calls % 16)
		return;
	t = __builtin_ia32_rdtsc();
	if ((double)(t - s->chunk_start) * s->ns_per_tick < CHUNK_NS)
		return;
	if (s->chunk_start && s->n_chunks < CHUNKS_MAX)
		s->chunk[s->n_chunks++] = (double)s->packets / ((double)(t - s->chunk_start) * s->ns_per_tick) * 1e3;
	s->chunk_start = t;
	s->packets = 0;
}

typedef void side_fn(struct sample *s);

/* The least that a virtqueue of this format can do: no checks, no translation, fixed buffers. */
side_fn limit_driver, limit_device;
/* Our driver half and our device half. */
side_fn ours_driver, ours_device;
void ours_set_up(struct sample *s);

#endif
