/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How fast the host's TSC runs. CLOCK_MONOTONIC_RAW is, on every host that this is worth anything on, the TSC scaled by
 * the frequency that the host's kernel works with; comparing both over 20 ms gives it to a few parts per million.
 */
#include "softkvm/irqchip/tsc.h"

#include <pthread.h>

enum { TRIES = 8 };
#define MEASURE_NS 20000000ull

struct sample {
	uint64_t tsc, ns;
};

/* Both clocks at one moment: of a few tries the one with the least time between the two TSC reads. */
static struct sample sample_clocks(void)
{
	struct sample best = {0};
	uint64_t best_gap = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		uint64_t before = host_tsc(), after;
		struct timespec ts;

		clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
		after = host_tsc();
		if (after - before < best_gap) {
			best_gap = after - before;
			best.tsc = before + best_gap / 2;
			best.ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
		}
	}
	return best;
}

static uint32_t khz;

static void measure(void)
{
	struct sample first = sample_clocks(), last;
	struct timespec pause = {.tv_nsec = MEASURE_NS};

	do
		nanosleep(&pause, NULL);
	while (last = sample_clocks(), last.ns - first.ns < MEASURE_NS);
	khz = (uint32_t)muldiv64(last.tsc - first.tsc, 1000000, last.ns - first.ns);
}

uint32_t host_tsc_khz(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, measure);
	return khz;
}
