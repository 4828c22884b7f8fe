/* SPDX-License-Identifier: BSD-2-Clause */
/* Integer work: a mix of list, matrix, state machine and CRC; sorting; a sieve. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

struct ln {
	struct ln *next;
	int v;
};
static u32 crc16(u32 c, u32 d)
{
	for (int i = 0; i < 8; i++) {
		u32 x = (d ^ c) & 1;
		d >>= 1;
		c >>= 1;
		if (x)
			c ^= 0xa001;
	}
	return c;
}
static struct ln *msort(struct ln *l)
{
	if (!l || !l->next)
		return l;
	struct ln *a = l, *b = l->next;
	while (b && b->next) {
		a = a->next;
		b = b->next->next;
	}
	b = a->next;
	a->next = 0;
	a = msort(l);
	b = msort(b);
	struct ln h, *t = &h;
	while (a && b) {
		if (a->v <= b->v) {
			t->next = a;
			a = a->next;
		} else {
			t->next = b;
			b = b->next;
		}
		t = t->next;
	}
	t->next = a ? a : b;
	return h.next;
}
static int state_machine(const char *s, u32 *cnt)
{
	int st = 0, tr = 0;
	for (; *s; s++) {
		int o = st;
		switch (st) {
		case 0:
			st = (*s >= '0' && *s <= '9')	? 1
			     : (*s == '+' || *s == '-') ? 2
			     : *s == '.'		? 3
			     : *s == ','		? 0
							: 6;
			break;
		case 1:
			st = *s == '.' ? 3 : *s == ',' ? 0 : (*s >= '0' && *s <= '9') ? 1 : 6;
			break;
		case 2:
			st = (*s >= '0' && *s <= '9') ? 1 : *s == '.' ? 3 : 6;
			break;
		case 3:
			st = (*s == 'e' || *s == 'E') ? 4 : *s == ',' ? 0 : (*s >= '0' && *s <= '9') ? 3 : 6;
			break;
		case 4:
			st = (*s == '+' || *s == '-') ? 5 : 6;
			break;
		case 5:
			st = *s == ',' ? 0 : (*s >= '0' && *s <= '9') ? 5 : 6;
			break;
		default:
			st = *s == ',' ? 0 : 6;
			break;
		}
		cnt[st]++;
		tr += o != st;
	}
	return tr;
}
u64 intmix_work(int iters, u64 seed)
{
	enum { L = 256, M = 24 };
	struct ln nodes[L];
	short A[M][M], B[M][M];
	int C[M][M];
	u32 crc = 0, cnt[7] = {0};
	for (int it = 0; it < iters; it++) {
		u64 s = seed + it;
		for (int i = 0; i < L; i++) {
			s = s * 6364136223846793005ull + 1442695040888963407ull;
			nodes[i].v = (int)(s >> 40) & 0xffff;
			nodes[i].next = i + 1 < L ? &nodes[i + 1] : 0;
		}
		struct ln *h = msort(nodes);
		for (int k = 0; h; h = h->next, k++)
			if (!(k & 15))
				crc = crc16(crc, h->v & 0xffff);
		for (int i = 0; i < M; i++)
			for (int j = 0; j < M; j++) {
				A[i][j] = i * it + j;
				B[i][j] = j * 3 - i + it;
			}
		for (int i = 0; i < M; i++)
			for (int j = 0; j < M; j++) {
				int x = 0;
				for (int k = 0; k < M; k++)
					x += A[i][k] * B[k][j];
				C[i][j] = x;
			}
		for (int i = 0; i < M; i++)
			crc = crc16(crc, (C[i][i] >> 3) & 0xffff);
		crc ^= state_machine("5012,1234,-874,+122,35.54400,.1234500,-110.700,+0.64400,5.500e+3,-."
				     "123e-2,-87e+832,+0.6e-12,T0.3e-1F,-T.T++Tq,1T3.4e4z,34.0e-T^",
				     cnt);
	}
	return crc ^ ((u64)cnt[6] << 20) ^ ((u64)cnt[1] << 40);
}
struct res bench_intmix(void)
{
	start();
	return (struct res){6000, intmix_work(6000, 1)};
}

static void qs(int *a, long n)
{
	while (n > 16) {
		int p = a[n / 2];
		long i = 0, j = n - 1;
		for (;;) {
			while (a[i] < p)
				i++;
			while (a[j] > p)
				j--;
			if (i >= j)
				break;
			int t = a[i];
			a[i] = a[j];
			a[j] = t;
			i++;
			j--;
		}
		qs(a, i);
		a += i;
		n -= i;
	}
	for (long i = 1; i < n; i++) {
		int x = a[i];
		long j = i;
		while (j > 0 && a[j - 1] > x) {
			a[j] = a[j - 1];
			j--;
		}
		a[j] = x;
	}
}
static int icmp(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;
	return (x > y) - (x < y);
}
static struct res sortn(int lib)
{
	long n = 1000000;
	int *a = malloc(n * 4);
	rng_s = 12345;
	for (long i = 0; i < n; i++)
		a[i] = (int)rng();
	u64 s = 0;
	start();
	for (int r = 0; r < (lib ? 2 : 4); r++) {
		if (lib)
			qsort(a, n, 4, icmp);
		else
			qs(a, n);
		for (long i = 0; i < n; i += 997)
			s = s * 31 + (u32)a[i];
		for (long i = 0; i < n; i++)
			a[i] = a[i] * 0x9E3779B1u + r;
	}
	free(a);
	return (struct res){(lib ? 2 : 4) * n, s};
}
struct res bench_sort(void)
{
	return sortn(0);
}
struct res bench_qsort(void)
{
	return sortn(1);
}
struct res bench_sieve(void)
{
	long n = 8000000;
	u8 *b = malloc(n + 1);
	u64 c = 0;
	start();
	for (int r = 0; r < 5; r++) {
		memset(b, 1, n + 1);
		for (long i = 2; i * i <= n; i++)
			if (b[i])
				for (long j = i * i; j <= n; j += i)
					b[j] = 0;
		for (long i = 2; i <= n; i++)
			c += b[i];
	}
	free(b);
	return (struct res){5 * n, c};
}
