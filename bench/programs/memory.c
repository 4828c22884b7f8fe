/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory-bound work: a random pointer chain and a large hash table. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

struct res bench_chase(void)
{
	struct nd {
		struct nd *n;
		u64 pad[7];
	};
	long n = 1 << 20;
	struct nd *a = aligned_alloc(64, n * sizeof *a);
	u32 *p = malloc(n * 4);
	rng_s = 777;
	for (long i = 0; i < n; i++)
		p[i] = i;
	for (long i = n - 1; i > 0; i--) {
		long j = rng() % i;
		u32 t = p[i];
		p[i] = p[j];
		p[j] = t;
	}
	for (long i = 0; i < n; i++) {
		a[i].pad[0] = i;
		a[i].n = &a[p[i]];
	}
	free(p);
	struct nd *q = a;
	u64 s = 0;
	long steps = 6000000;
	start();
	for (long i = 0; i < steps; i++) {
		s += q->pad[0];
		q = q->n;
	}
	free(a);
	return (struct res){steps, s};
}
struct res bench_hash(void)
{
	struct e {
		u64 k, v;
	};
	long cap = 1 << 22, n = 2200000;
	struct e *t = calloc(cap, sizeof *t);
	u64 s = 0;
	memset(t, 0, cap * sizeof *t);
	rng_s = 4242;
	start();
	for (long i = 0; i < n; i++) {
		u64 k = rng() | 1, h = (k * 0x9E3779B97F4A7C15ull) >> 42;
		while (t[h].k && t[h].k != k)
			h = (h + 1) & (cap - 1);
		t[h].k = k;
		t[h].v += i;
	}
	rng_s = 4242;
	for (long i = 0; i < n; i++) {
		u64 k = rng() | 1, h = (k * 0x9E3779B97F4A7C15ull) >> 42;
		while (t[h].k && t[h].k != k)
			h = (h + 1) & (cap - 1);
		s += t[h].v;
	}
	free(t);
	return (struct res){2 * n, s};
}
