/* SPDX-License-Identifier: BSD-2-Clause */
/* Two threads; BENCH_PIN=1 puts them on CPUs 0 and 1. */
#include "bench.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void mkthreads(pthread_t *t, void *(*f)(void *))
{
	for (long i = 0; i < 2; i++) {
		pthread_attr_t a;
		cpu_set_t s;
		CPU_ZERO(&s);
		CPU_SET(i % sysconf(_SC_NPROCESSORS_ONLN), &s);
		pthread_attr_init(&a);
		if (getenv("BENCH_PIN"))
			pthread_attr_setaffinity_np(&a, sizeof s, &s);
		if (pthread_create(&t[i], &a, f, (void *)(i + 1)))
			die("pthread_create");
	}
}
static void *th_int(void *a)
{
	return (void *)intmix_work(12000, (long)a);
}
struct res bench_par_int(void)
{
	pthread_t t[2];
	void *r;
	u64 s = 0;
	start();
	mkthreads(t, th_int);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &r);
		s += (u64)r;
	}
	return (struct res){24000, s};
}
static u64 g_ctr __attribute__((aligned(64)));
static void *th_at(void *a)
{
	(void)a;
	for (long i = 0; i < 12000000; i++)
		__atomic_fetch_add(&g_ctr, 1, __ATOMIC_SEQ_CST);
	return 0;
}
struct res bench_par_atomic(void)
{
	pthread_t t[2];
	g_ctr = 0;
	start();
	mkthreads(t, th_at);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], 0);
	return (struct res){24000000, g_ctr};
}
static pthread_mutex_t g_mx = PTHREAD_MUTEX_INITIALIZER;
static void *th_mx(void *a)
{
	(void)a;
	for (long i = 0; i < 4000000; i++) {
		pthread_mutex_lock(&g_mx);
		g_ctr++;
		pthread_mutex_unlock(&g_mx);
	}
	return 0;
}
struct res bench_par_mutex(void)
{
	pthread_t t[2];
	g_ctr = 0;
	start();
	mkthreads(t, th_mx);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], 0);
	return (struct res){8000000, g_ctr};
}
