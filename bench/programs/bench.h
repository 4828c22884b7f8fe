/* SPDX-License-Identifier: BSD-2-Clause */
/* What the benchmark's parts share: see main.c. */
#ifndef GUISE_BENCH_H
#define GUISE_BENCH_H

#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

/* What one run did: how many operations, and a checksum that depends on the work alone. */
struct res {
	u64 ops;
	u64 sum;
};

extern u64 rng_s; /* state of rng(); a test sets it first */
static inline u64 rng(void)
{
	rng_s ^= rng_s << 13;
	rng_s ^= rng_s >> 7;
	rng_s ^= rng_s << 17;
	return rng_s;
}
void die(const char *what);
double now(void);	/* seconds */
void start(void);	/* a test that sets up first calls this when its clock shall begin */
extern char g_dir[256]; /* where the program and its tinytrue are */
u64 intmix_work(int iters, u64 seed);

double matmul_sc(int), matmul_sse(int), matmul_avx(int);
double nbody_sc(int), nbody_avx(int);

struct res bench_intmix(void);
struct res bench_sort(void);
struct res bench_qsort(void);
struct res bench_sieve(void);
struct res bench_chase(void);
struct res bench_hash(void);
struct res bench_matmul_sc(void);
struct res bench_matmul_sse(void);
struct res bench_matmul_avx(void);
struct res bench_nbody_sc(void);
struct res bench_nbody_avx(void);
struct res bench_x87(void);
struct res bench_aesni(void);
struct res bench_sha256(void);
struct res bench_libcmem(void);
struct res bench_avx2int(void);
struct res bench_sse2int(void);
struct res bench_bitops(void);
struct res bench_muldiv(void);
struct res bench_getppid(void);
struct res bench_clock(void);
struct res bench_rdtsc(void);
struct res bench_cpuid(void);
struct res bench_stat(void);
struct res bench_pipe(void);
struct res bench_forkexec(void);
struct res bench_fork(void);
struct res bench_mmap(void);
struct res bench_signal(void);
struct res bench_interp(void);
struct res bench_virtual(void);
struct res bench_fib(void);
struct res bench_smc(void);
struct res bench_smcdata(void);
struct res bench_jit(void);
struct res bench_jitdual(void);
struct res bench_gzip(void);
struct res bench_bbsha(void);
struct res bench_par_int(void);
struct res bench_par_atomic(void);
struct res bench_par_mutex(void);

#endif
