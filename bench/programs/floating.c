/* SPDX-License-Identifier: BSD-2-Clause */
/* Floating point, on the kernels of fpk.h; x87. */
#include "bench.h"

static u64 dsum(double d)
{
	return (u64)(long long)(d * 1000.0 + (d < 0 ? -.5 : .5));
}
struct res bench_matmul_sc(void)
{
	start();
	double d = matmul_sc(24);
	return (struct res){24ull * 2 * 256 * 256 * 256, dsum(d)};
}
struct res bench_matmul_sse(void)
{
	start();
	double d = matmul_sse(24);
	return (struct res){24ull * 2 * 256 * 256 * 256, dsum(d)};
}
struct res bench_matmul_avx(void)
{
	start();
	double d = matmul_avx(24);
	return (struct res){24ull * 2 * 256 * 256 * 256, dsum(d)};
}
struct res bench_nbody_sc(void)
{
	start();
	double d = nbody_sc(1000000);
	return (struct res){1000000, dsum(d)};
}
struct res bench_nbody_avx(void)
{
	start();
	double d = nbody_avx(1000000);
	return (struct res){1000000, dsum(d)};
}
struct res bench_x87(void)
{
	start();
	volatile long double seed = 0.5L;
	long double x = seed, s = 0;
	long n = 8000000;
	for (long i = 0; i < n; i++) {
		x = x * 3.7L * (1.0L - x);
		s += x / (1.0L + x);
		if (x > 0.99L)
			x -= 0.01L;
	}
	return (struct res){n, dsum((double)s / n)};
}
