/* SPDX-License-Identifier: BSD-2-Clause */
/* Code that changes: patched, beside its data, made at run time through one or two mappings. */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef u32 (*fn)(u32);
static u8 *rwx(size_t n)
{
	u8 *p = mmap(0, n, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("rwx");
	return p;
}
struct res bench_smc(void) /* patch the immediate of a function, call it */
{
	u8 *p = rwx(4096);
	static const u8 c[] = {0xb8, 0, 0, 0, 0, 0x01, 0xf8, 0xc3};
	memcpy(p, c, sizeof c);
	u64 s = 0;
	u32 n = 300000;
	start();
	for (u32 i = 0; i < n; i++) {
		memcpy(p + 1, &i, 4);
		asm volatile("" ::: "memory");
		s += ((fn)p)(7);
	}
	munmap(p, 4096);
	return (struct res){n, s};
}
struct res bench_smcdata(void) /* code and often-written data in one page */
{
	u8 *p = rwx(4096);
	static const u8 c[] = {0x89, 0xf8, 0x83, 0xc0, 0x05, 0xc3};
	memcpy(p, c, sizeof c);
	u64 s = 0;
	u32 n = 3000000;
	volatile u32 *d = (u32 *)(p + 2048);
	start();
	for (u32 i = 0; i < n; i++) {
		*d = i;
		s += ((fn)p)(*d);
	}
	munmap(p, 4096);
	return (struct res){n, s};
}
static size_t gen(u8 *p, u32 seed)
{
	u8 *q = p;
	*q++ = 0x89;
	*q++ = 0xf8; /* mov eax, edi */
	for (int i = 0; i < 300; i++) {
		seed = seed * 1664525 + 1013904223;
		switch (seed >> 30) {
		case 0:
			*q++ = 0x05;
			break; /* add eax, imm32 */
		case 1:
			*q++ = 0x35;
			break; /* xor eax, imm32 */
		case 2:
			*q++ = 0x2d;
			break; /* sub eax, imm32 */
		default:
			*q++ = 0x69;
			*q++ = 0xc0;
			break; /* imul eax, eax, imm32 */
		}
		u32 k = seed | 1;
		memcpy(q, &k, 4);
		q += 4;
	}
	*q++ = 0xc3;
	return q - p;
}
static struct res jit(int dual)
{
	size_t len = 65536;
	u8 *w, *x;
	if (dual) {
		int fd = memfd_create("jit", 0);
		if (fd < 0 || ftruncate(fd, len))
			die("memfd");
		w = mmap(0, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		x = mmap(0, len, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
		close(fd);
		if (w == MAP_FAILED || x == MAP_FAILED)
			die("map");
	} else
		w = x = rwx(len);
	u64 s = 0;
	u32 n = 4000;
	memset(w, 0xc3, len);
	start();
	for (u32 i = 0; i < n; i++) {
		size_t o = (i & 15) * 4096;
		gen(w + o, i);
		asm volatile("" ::: "memory");
		for (u32 k = 0; k < 100; k++)
			s += ((fn)(x + o))(k);
	}
	munmap(w, len);
	if (x != w)
		munmap(x, len);
	return (struct res){n, s};
}
struct res bench_jit(void)
{
	return jit(0);
}
struct res bench_jitdual(void)
{
	return jit(1);
}
