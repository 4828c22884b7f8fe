/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bench-rings: packets per second through a virtqueue between two processors, ours beside the copy limit, in turns, with the time
 * that a cache line takes there and back printed beside each figure. That time may change by itself (a hypervisor
 * moves virtual processors): compare only figures of like round trips. A rate is that of the millisecond that is better than
 * four in five others of its sample, so that a busy machine costs samples, not truth.
 *
 *	bench-rings [SECONDS [PASSES [BATCH [BYTES [FORMS]]]]]
 *
 *	bench-rings trip				the round trip in ns
 *	bench-rings limit split|packed BYTES SECONDS	the limit's best quarter of a second, Mpps
 *
 * SECONDS of each sample: 0.3; PASSES: 3; the others choose: FORMS is a bit each for split and packed to the device, then to the driver.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "rings.h"

#define QUARTER 0.25 /* seconds */

struct thread {
	struct sample *sample;
	side_fn *fn;
	int cpu;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double tick_length(void)
{
	double start = now();
	uint64_t tick = __builtin_ia32_rdtsc();

	usleep(20000);
	return (now() - start) * 1e9 / (double)(__builtin_ia32_rdtsc() - tick);
}

static void *enter(void *arg)
{
	struct thread *t = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(t->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	while (!atomic_load(&t->sample->go))
		__builtin_ia32_pause();
	t->fn(t->sample);
	return NULL;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Let them run; the best quarter of a second, packets per second in millions. */
static double watch(struct sample *s, double seconds)
{
	double end = now() + seconds, mark = now(), best = 0;
	uint64_t before = 0;

	while (now() < end) {
		double time, left = end - now();
		uint64_t total;

		usleep((useconds_t)((left < QUARTER ? left : QUARTER) * 1e6));
		total = __atomic_load_n(&s->total, __ATOMIC_RELAXED);
		time = now();
		if (time - mark >= QUARTER * 0.9 && (double)(total - before) / (time - mark) > best)
			best = (double)(total - before) / (time - mark);
		before = total;
		mark = time;
	}
	return best / 1e6;
}

/* Run both sides for a while; what watch() saw. The sample's chunks are in order of their rates then. */
static double run(struct sample *s, side_fn *driver, side_fn *device, double seconds)
{
	struct thread side[2] = { { s, driver, 0 }, { s, device, 1 } };
	pthread_t thread[2];
	double best;

	s->go = s->stop = false;
	s->packets = s->calls = s->chunk_start = s->n_chunks = s->total = 0;
	for (unsigned k = 0; k < 2; k++)
		if (pthread_create(&thread[k], NULL, enter, &side[k]))
			abort();
	s->go = true;
	best = watch(s, seconds);
	s->stop = true;
	for (unsigned k = 0; k < 2; k++)
		pthread_join(thread[k], NULL);
	qsort(s->chunk, s->n_chunks, sizeof(double), order);
	return best;
}

/* The millisecond that is better than four in five. */
static double typical(const struct sample *s)
{
	return s->n_chunks ? s->chunk[s->n_chunks * 4 / 5] : 0;
}

static void bounce_even(struct sample *s)
{
	_Atomic uint64_t *word = (_Atomic uint64_t *)s->area;

	while (!atomic_load_explicit(&s->stop, memory_order_relaxed))
		if (!(atomic_load_explicit(word, memory_order_acquire) & 1)) {
			atomic_store_explicit(word, *word + 1, memory_order_release);
			count_packets(s, 1);
		}
}

static void bounce_odd(struct sample *s)
{
	_Atomic uint64_t *word = (_Atomic uint64_t *)s->area;

	while (!atomic_load_explicit(&s->stop, memory_order_relaxed))
		if (atomic_load_explicit(word, memory_order_acquire) & 1)
			atomic_store_explicit(word, *word + 1, memory_order_release);
}

/* A cache line's way to the other processor and back, in ns. */
static double round_trip(struct sample *s)
{
	memset(s->area, 0, 64);
	run(s, bounce_even, bounce_odd, 0.1);
	return 1e3 / typical(s);
}

static double one(struct sample *s, bool ours, double seconds, double *trip)
{
	double rate;

	memset(s->area, 0, AREA);
	if (ours)
		ours_set_up(s);
	run(s, ours ? ours_driver : limit_driver, ours ? ours_device : limit_device, seconds);
	rate = typical(s);
	*trip = round_trip(s);
	return rate;
}

static void compare(struct sample *s, double seconds, unsigned passes)
{
	double limit[16], ours[16], limit_trip[16], ours_trip[16], trip;

	for (unsigned k = 0; k < passes; k++) {
		limit[k] = one(s, false, seconds, &limit_trip[k]);
		ours[k] = one(s, true, seconds, &ours_trip[k]);
	}
	printf("%-6s %-9s %5u %5u", s->packed ? "packed" : "split", s->to_driver ? "to driver" : "to device", s->bytes - HEADER,
	       s->batch);
	for (unsigned k = 0; k < passes; k++)
		printf("  %6.2f/%-6.2f (%3.0f/%3.0f ns)", ours[k], limit[k], ours_trip[k], limit_trip[k]);
	qsort(ours, passes, sizeof(double), order);
	qsort(limit, passes, sizeof(double), order);
	trip = limit[passes / 2] / ours[passes / 2];
	printf("   %6.2f Mpps, %6.1f ns; limit %6.1f ns; %.2f of the limit's time\n", ours[passes / 2], 1e3 / ours[passes / 2],
	       1e3 / limit[passes / 2], trip);
	fflush(stdout);
}

/* For other scripts, one figure. */
static int report_trip(struct sample *s)
{
	printf("%.0f\n", round_trip(s));
	return 0;
}

static int report_limit(struct sample *s, const char *form, unsigned bytes, double seconds)
{
	if (HEADER + bytes > STRIDE) {
		fprintf(stderr, "packets of %u bytes at most, please\n", STRIDE - HEADER);
		return 2;
	}
	s->packed = !strcmp(form, "packed");
	s->bytes = HEADER + bytes;
	s->batch = 32;
	memset(s->area, 0, AREA);
	printf("%.3f\n", run(s, limit_driver, limit_device, seconds));
	return 0;
}

int main(int argc, char **argv)
{
	bool is_trip = argc == 2 && !strcmp(argv[1], "trip"), is_limit = argc == 5 && !strcmp(argv[1], "limit");
	double seconds = argc > 1 && !is_trip && !is_limit ? atof(argv[1]) : 0.3;
	unsigned passes = argc > 2 && !is_limit ? (unsigned)atoi(argv[2]) : 3;
	static const unsigned sizes[] = { 64, 1500 }, batches[] = { 1, 8, 32, 64 };
	static struct sample s;

	passes = passes < 1 ? 1 : passes > 16 ? 16 : passes;
	s.chunk = calloc(CHUNKS_MAX, sizeof(double));
	s.ns_per_tick = tick_length();
	s.area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	s.private = aligned_alloc(4096, RING * STRIDE);
	if (s.area == MAP_FAILED || !s.private || !s.chunk)
		return 1;
	memset(s.private, 1, RING * STRIDE);
	memset(s.template, 0xa5, sizeof(s.template));
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		puts("needs two processors");
		return 77;
	}
	if (is_trip)
		return report_trip(&s);
	if (is_limit)
		return report_limit(&s, argv[2], (unsigned)atoi(argv[3]), atof(argv[4]));
	puts("format direction  bytes batch  ours/limit Mpps (round trips) per pass, then medians");
	for (unsigned z = 0; z < 2; z++)
		for (unsigned b = 0; b < 4; b++)
			for (unsigned form = 0; form < 4; form++) {
				if ((argc > 3 && (unsigned)atoi(argv[3]) != batches[b]) ||
				    (argc > 4 && (unsigned)atoi(argv[4]) != sizes[z]) ||
				    (argc > 5 && !((unsigned)atoi(argv[5]) >> form & 1)))
					continue;
				s.bytes = HEADER + sizes[z];
				s.batch = batches[b];
				s.packed = form & 1;
				s.to_driver = form & 2;
				compare(&s, seconds, passes);
			}
	return 0;
}
