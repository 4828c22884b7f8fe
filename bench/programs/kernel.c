/* SPDX-License-Identifier: BSD-2-Clause */
/* System calls, signals, pipes, processes and page faults. */
#include "bench.h"

#include <cpuid.h>
#include <immintrin.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

struct res bench_getppid(void)
{
	long n = 1000000;
	start();
	for (long i = 0; i < n; i++)
		syscall(SYS_getppid);
	return (struct res){n, 0};
}
struct res bench_clock(void)
{
	long n = 2000000;
	struct timespec t;
	start();
	for (long i = 0; i < n; i++)
		clock_gettime(CLOCK_MONOTONIC, &t);
	return (struct res){n, 0};
}
struct res bench_rdtsc(void)
{
	long n = 2000000;
	volatile u64 s = 0;
	start();
	for (long i = 0; i < n; i++)
		s += __rdtsc();
	return (struct res){n, 0};
}
struct res bench_cpuid(void)
{
	long n = 20000;
	u32 a, b, c, d;
	volatile u32 s = 0;
	start();
	for (long i = 0; i < n; i++) {
		__cpuid(0, a, b, c, d);
		s += a;
	}
	return (struct res){n, 0};
}
struct res bench_stat(void)
{
	long n = 200000;
	struct stat st;
	start();
	for (long i = 0; i < n; i++)
		if (stat("/proc/self", &st))
			die("stat");
	return (struct res){n, 0};
}
struct res bench_pipe(void)
{
	int a[2], b[2];
	char c = 1;
	long n = 30000;
	if (pipe(a) || pipe(b))
		die("pipe");
	pid_t p = fork();
	if (!p) {
		close(a[1]);
		close(b[0]);
		while (read(a[0], &c, 1) == 1)
			if (write(b[1], &c, 1) != 1)
				break;
		_exit(0);
	}
	close(a[0]);
	close(b[1]);
	start();
	for (long i = 0; i < n; i++)
		if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1)
			die("pp");
	close(a[1]);
	close(b[0]);
	waitpid(p, 0, 0);
	return (struct res){n, 0};
}
struct res bench_forkexec(void)
{
	char path[300];
	snprintf(path, sizeof path, "%s/tinytrue", g_dir);
	long n = 400;
	u64 s = 0;
	start();
	for (long i = 0; i < n; i++) {
		pid_t p = fork();
		int st;
		if (!p) {
			execl(path, "tinytrue", (char *)0);
			_exit(9);
		}
		waitpid(p, &st, 0);
		s += st;
	}
	return (struct res){n, s};
}
struct res bench_fork(void)
{
	long n = 1000;
	u64 s = 0;
	start();
	for (long i = 0; i < n; i++) {
		pid_t p = fork();
		int st;
		if (!p)
			_exit(0);
		waitpid(p, &st, 0);
		s += st;
	}
	return (struct res){n, s};
}
struct res bench_mmap(void)
{
	long n = 400, pg = 256;
	u64 s = 0;
	start();
	for (long i = 0; i < n; i++) {
		u8 *p = mmap(0, pg * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			die("mmap");
		for (long j = 0; j < pg; j++)
			p[j * 4096] = 1;
		s += p[4096];
		munmap(p, pg * 4096);
	}
	return (struct res){n * pg, s};
}
static volatile u64 g_sig;
static void onsig(int s)
{
	(void)s;
	g_sig++;
}
struct res bench_signal(void)
{
	long n = 100000;
	g_sig = 0;
	signal(SIGUSR1, onsig);
	start();
	for (long i = 0; i < n; i++)
		raise(SIGUSR1);
	return (struct res){n, g_sig};
}
