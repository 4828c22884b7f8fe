/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fixed work on the CPU, memory and the kernel, to compare a guest with the host: one static binary, the same everywhere.
 *
 *	bench list | bench all [REPEAT] | bench NAME[,NAME...] [REPEAT]
 *
 * One line a run: BENCH name repeat operations seconds operations/s user_s sys_s checksum. The checksum depends on the
 * work alone: it must be the same on every engine (tests whose result can differ by rounding give it fewer digits).
 * With BENCH_MARK in the environment the line START comes when a test's clock begins, for a reader that samples the
 * CPU time of the whole virtual machine.
 */
#include "bench.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

char g_dir[256] = "";
u64 rng_s = 88172645463325252ull;

/* When the running test's clock began. */
static double start_wall, start_user, start_sys;

void die(const char *what)
{
	perror(what);
	exit(2);
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double seconds(struct timeval t)
{
	return t.tv_sec + t.tv_usec * 1e-6;
}

/* User and system time of this process and of its children that have ended. */
static void cpu_times(double *user, double *sys)
{
	struct rusage self, children;

	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &children);
	*user = seconds(self.ru_utime) + seconds(children.ru_utime);
	*sys = seconds(self.ru_stime) + seconds(children.ru_stime);
}

void start(void)
{
	cpu_times(&start_user, &start_sys);
	if (getenv("BENCH_MARK"))
		printf("START\n");
	start_wall = now();
}

static int has(const char *feature)
{
	u32 a, b, c, d;

	__builtin_cpu_init();
	if (!strcmp(feature, "avx2"))
		return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
	if (!strcmp(feature, "bmi2"))
		return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
	__cpuid(1, a, b, c, d);
	return strcmp(feature, "aes") || (c >> 25 & 1);
}

static const struct {
	const char *name;
	struct res (*run)(void);
	const char *need; /* a processor feature */
	const char *unit;
} tests[] = {
	{ "intmix", bench_intmix, NULL, "iter" },
	{ "sort", bench_sort, NULL, "elem" },
	{ "qsort", bench_qsort, NULL, "elem" },
	{ "sieve", bench_sieve, NULL, "num" },
	{ "fib", bench_fib, NULL, "fib40" },
	{ "muldiv", bench_muldiv, NULL, "op" },
	{ "bitops", bench_bitops, "bmi2", "op" },
	{ "chase", bench_chase, NULL, "step" },
	{ "hash", bench_hash, NULL, "op" },
	{ "matmul", bench_matmul_sc, NULL, "flop" },
	{ "matmul_sse2", bench_matmul_sse, NULL, "flop" },
	{ "matmul_avx2", bench_matmul_avx, "avx2", "flop" },
	{ "nbody", bench_nbody_sc, NULL, "step" },
	{ "nbody_avx2", bench_nbody_avx, "avx2", "step" },
	{ "x87", bench_x87, NULL, "iter" },
	{ "aesni", bench_aesni, "aes", "block" },
	{ "sha256", bench_sha256, NULL, "byte" },
	{ "libcmem", bench_libcmem, NULL, "byte" },
	{ "sse2int", bench_sse2int, NULL, "byte" },
	{ "avx2int", bench_avx2int, "avx2", "byte" },
	{ "interp", bench_interp, NULL, "insn" },
	{ "virtual", bench_virtual, NULL, "call" },
	{ "smc", bench_smc, NULL, "patch" },
	{ "smcdata", bench_smcdata, NULL, "call" },
	{ "jit", bench_jit, NULL, "fn" },
	{ "jitdual", bench_jitdual, NULL, "fn" },
	{ "getppid", bench_getppid, NULL, "call" },
	{ "clock", bench_clock, NULL, "call" },
	{ "rdtsc", bench_rdtsc, NULL, "insn" },
	{ "cpuid", bench_cpuid, NULL, "insn" },
	{ "stat", bench_stat, NULL, "call" },
	{ "signal", bench_signal, NULL, "sig" },
	{ "pipe", bench_pipe, NULL, "rt" },
	{ "fork", bench_fork, NULL, "proc" },
	{ "forkexec", bench_forkexec, NULL, "proc" },
	{ "mmap", bench_mmap, NULL, "page" },
	{ "gzip", bench_gzip, NULL, "byte" },
	{ "bbsha256", bench_bbsha, NULL, "byte" },
	{ "par_int", bench_par_int, NULL, "iter" },
	{ "par_atomic", bench_par_atomic, NULL, "op" },
	{ "par_mutex", bench_par_mutex, NULL, "op" },
};

enum { N_TESTS = sizeof(tests) / sizeof(*tests) };

static int is_listed(const char *list, const char *name)
{
	size_t length = strlen(name);

	for (const char *p = list; (p = strstr(p, name)); p += length)
		if ((p == list || p[-1] == ',') && (!p[length] || p[length] == ','))
			return 1;
	return 0;
}

/* "all" leaves out what needs two CPUs or BusyBox. */
static int is_wanted(const char *what, const char *name)
{
	if (strcmp(what, "all"))
		return is_listed(what, name);
	return strncmp(name, "par_", 4) && strcmp(name, "gzip") && strcmp(name, "bbsha256");
}

static void run_once(int test, int repeat)
{
	struct res result = tests[test].run();
	double wall = now() - start_wall, user, sys;

	cpu_times(&user, &sys);
	printf("BENCH %s %d %llu %.6f %.6g %.3f %.3f %016llx\n", tests[test].name, repeat, (unsigned long long)result.ops,
	       wall, result.ops / wall, user - start_user, sys - start_sys, (unsigned long long)result.sum);
}

static void find_own_folder(void)
{
	ssize_t length = readlink("/proc/self/exe", g_dir, sizeof(g_dir) - 1);
	char *slash;

	g_dir[length > 0 ? length : 0] = 0;
	slash = strrchr(g_dir, '/');
	if (slash)
		*slash = 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "list";
	int repeats = argc > 2 ? atoi(argv[2]) : 1;

	find_own_folder();
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 0; i < N_TESTS; i++) {
		if (!strcmp(what, "list"))
			printf("%s %s\n", tests[i].name, tests[i].unit);
		else if (!is_wanted(what, tests[i].name))
			continue;
		else if (tests[i].need && !has(tests[i].need))
			printf("SKIP %s no-%s\n", tests[i].name, tests[i].need);
		else
			for (int k = 0; k < repeats; k++)
				run_once(i, k);
	}
	printf("BENCH-END\n");
	return 0;
}
