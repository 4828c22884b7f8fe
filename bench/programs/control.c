/* SPDX-License-Identifier: BSD-2-Clause */
/* An interpreter's dispatch, polymorphic calls, recursion. */
#include "bench.h"

struct res bench_interp(void)
{
	/* a loop in a stack-free bytecode: computed-goto dispatch */
	enum { ADD, XORI, MUL, SHR, LD, ST, DEC, JNZ, HALT };
	static const u8 prog[] = {LD,  ADD, XORI, ST,  MUL,  SHR, ADD, LD,  XORI,
				  ADD, ST,  SHR,  MUL, XORI, DEC, JNZ, HALT};
	static const void *tab[] = {&&add, &&xori, &&mul, &&shr, &&ld, &&st, &&dec, &&jnz, &&halt};
	u64 a = 1, b = 3, mem[64] = {0}, n = 6000000, cnt = n;
	const u8 *pc = prog;
	start();
#define NEXT goto *tab[*pc++]
	NEXT;
add:
	a += b + cnt;
	NEXT;
xori:
	a ^= 0x5bd1e995;
	NEXT;
mul:
	b = b * 33 + a;
	NEXT;
shr:
	a ^= a >> 13;
	NEXT;
ld:
	a += mem[b & 63];
	NEXT;
st:
	mem[a & 63] = b;
	NEXT;
dec:
	cnt--;
	NEXT;
jnz:
	if (cnt)
		pc = prog;
	NEXT;
halt:
	return (struct res){n * 16, a ^ b};
}
struct obj {
	u64 (*f)(struct obj *, u64);
	u64 v;
};
#define VF(i)                                                                                                \
	static u64 vf##i(struct obj *o, u64 x)                                                               \
	{                                                                                                    \
		return (x ^ o->v) + i + (x >> (i + 1));                                                      \
	}
VF(0) VF(1) VF(2) VF(3) VF(4) VF(5) VF(6) VF(7) struct res bench_virtual(void)
{
	static u64 (*const fs[])(struct obj *, u64) = {vf0, vf1, vf2, vf3, vf4, vf5, vf6, vf7};
	struct obj o[256];
	u64 x = 1;
	rng_s = 99;
	for (int i = 0; i < 256; i++) {
		o[i].f = fs[rng() & 7];
		o[i].v = rng();
	}
	start();
	for (int r = 0; r < 240000; r++)
		for (int i = 0; i < 256; i++)
			x = o[i].f(&o[i], x);
	return (struct res){240000ull * 256, x};
}
static u64 fib(u64 n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}
static u64 (*volatile fibp)(u64) = fib;
struct res bench_fib(void)
{
	start();
	u64 r = fibp(40);
	return (struct res){1, r};
}
