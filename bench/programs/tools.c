/* SPDX-License-Identifier: BSD-2-Clause */
/* BusyBox's gzip and sha256sum on a made-up file of 32 MiB. */
#include "bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char g_dat[300];
static void mkdata(void)
{
	struct stat st;
	long n = 32 << 20;
	snprintf(g_dat, sizeof g_dat, "%s/bench.dat", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!stat(g_dat, &st) && st.st_size == n)
		return;
	u8 *d = malloc(n);
	rng_s = 31337;
	long i = 0;
	char words[512][12];
	for (int w = 0; w < 512; w++) {
		int l = 2 + rng() % 9;
		for (int k = 0; k < l; k++)
			words[w][k] = 'a' + rng() % 26;
		words[w][l] = 0;
	}
	while (i < n) {
		int kind = (i >> 20) & 3;
		if (kind < 2) {
			u64 r = rng();
			const char *w = words[(r & 511) & ((r >> 9) & 511)];
			for (; *w && i < n; w++)
				d[i++] = *w;
			if (i < n)
				d[i++] = (r >> 60) ? ' ' : '\n';
		} else if (kind == 2) {
			u64 r = rng();
			for (int k = 0; k < 16 && i < n; k++)
				d[i++] = (u8)(k < 3 ? r >> (8 * k) : k < 8 ? 0u : (u64)k);
		} else {
			u64 r = rng();
			for (int k = 0; k < 8 && i < n; k++)
				d[i++] = r >> (8 * k);
		}
	}
	int fd = open(g_dat, O_CREAT | O_TRUNC | O_WRONLY, 0644);
	for (long o = 0; o < n;) {
		long r = write(fd, d + o, n - o);
		if (r <= 0)
			die("write");
		o += r;
	}
	close(fd);
	free(d);
}
static struct res tool(const char *arg0, const char *arg1)
{
	mkdata();
	int pf[2];
	if (pipe(pf))
		die("pipe");
	start();
	pid_t p = fork();
	u64 s = 0;
	u8 buf[65536];
	long r;
	if (!p) {
		int fd = open(g_dat, O_RDONLY);
		dup2(fd, 0);
		dup2(pf[1], 1);
		close(pf[0]);
		close(pf[1]);
		execl("/bin/busybox", arg0, arg1, (char *)0);
		_exit(9);
	}
	close(pf[1]);
	while ((r = read(pf[0], buf, sizeof buf)) > 0)
		s += r;
	close(pf[0]);
	int st;
	waitpid(p, &st, 0);
	if (st)
		fprintf(stderr, "tool status %d\n", st);
	return (struct res){32 << 20, s};
}
struct res bench_gzip(void)
{
	return tool("gzip", "-9");
}
struct res bench_bbsha(void)
{
	return tool("sha256sum", 0);
}
