/* SPDX-License-Identifier: BSD-2-Clause */
/* See work.h. Sorting, recursion, strings, stack and flags, floating point. */
#include "work.h"

uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

uint64_t mix(uint64_t h, uint64_t v)
{
	h ^= v;
	h *= 0x9e3779b97f4a7c15;
	return h ^ h >> 29;
}

uint64_t fill_and_sort(uint64_t window, uint32_t seed)
{
	uint32_t *a = (uint32_t *)window;
	unsigned n = 3000;

	for (unsigned i = 0; i < n; i++)
		a[i * 5 % n] = next_random(&seed);
	for (unsigned gap = n / 2; gap; gap /= 2)
		for (unsigned i = gap; i < n; i++)
			for (unsigned j = i; j >= gap && a[j - gap] > a[j]; j -= gap) {
				uint32_t t = a[j];

				a[j] = a[j - gap];
				a[j - gap] = t;
			}
	uint64_t h = 0;
	for (unsigned i = 0; i < n; i++)
		h = mix(h, a[i]);
	return h;
}

uint64_t recurse(unsigned depth, uint64_t h)
{
	volatile uint64_t local[6];

	for (unsigned i = 0; i < 6; i++)
		local[i] = mix(h, i);
	if (depth)
		h = recurse(depth - 1, local[depth % 6]) + recurse(depth - 1, local[(depth + 3) % 6]);
	return mix(h, local[0]);
}

uint64_t strings(uint64_t window, uint32_t seed)
{
	uint8_t *a = (uint8_t *)window + 0x8000, *b = (uint8_t *)window + 0x20003;
	uint64_t h = seed;

	for (int i = 0; i < 20; i++) {
		size_t n = 100 + next_random(&seed) % 9000;

		memset(a, i * 37, n);
		a[n / 2] = 0x5a;
		memcpy(b + i, a, n);
		memcpy(a + 5, b + i, n - 5);
		h = mix(h, (uint64_t)memcmp(a, b, n));
		uint64_t left, *words = (uint64_t *)a;
		asm volatile("repne scasb" : "=c"(left), "+D"(words) : "0"(n), "a"(0x5a) : "memory", "cc");
		h = mix(h, left);
		h = mix(h, *(uint64_t *)(b + n / 2));
	}
	return h;
}

/* Pushes and pops on a stack in the window, carries across instructions, flags kept over faults. */
uint64_t stack_and_flags(uint64_t window, uint64_t h)
{
	uint64_t *words = (uint64_t *)(window + 0x30000);

	for (unsigned i = 0; i < 400; i++) {
		uint64_t top = window + 0x32000 - i % 64 * 128, out, carry;

		asm volatile(
		    "mov %%rsp, %%rbx; mov %3, %%rsp\n"
		    "cmp %%rax, %2; push %%rax; push %2; pushf; pop %%rcx; pop %%rdx; adc (%%rsp), %%rdx; "
		    "setc %b1; sbb %%rcx, %%rcx\n"
		    "lea (%%rdx,%%rcx,2), %0; pop %%rax; rcl $3, %0; mov %%rbx, %%rsp; movzbl %b1, %k1"
		    : "=&r"(out), "=&q"(carry)
		    : "r"(h), "r"(top), "a"(h * 3)
		    : "rbx", "rcx", "rdx", "cc", "memory");
		h = mix(h, out + carry);
		asm volatile("addq %1, (%0); adcq $0, 8(%0); bts %2, (%0)" ::"r"(words + i % 512), "r"(h),
			     "r"(h & 0xfff)
			     : "cc", "memory");
		h = mix(h, words[(i * 7) % 512]);
	}
	for (unsigned i = 0; i < 600; i++)
		words[i] = 0;
	return h;
}

uint64_t vectors(uint64_t window, uint64_t h)
{
	uint64_t *v = (uint64_t *)(window + 0x10000);

	for (unsigned i = 0; i < 16; i++)
		v[i] = mix(h, i) >> 12 | 0x3ff0000000000000; /* doubles in 1..2 */
	asm volatile(
	    "movupd (%0), %%xmm0; movupd 16(%0), %%xmm1; movupd 4080(%0), %%xmm3; xorpd %%xmm2, %%xmm2" ::"r"(
		v));
	for (unsigned i = 0; i < 300; i++)
		asm volatile("mulpd %%xmm1, %%xmm0; addpd (%0), %%xmm0; sqrtpd %%xmm0, %%xmm0; addpd %%xmm0, "
			     "%%xmm2; movupd %%xmm2, (%1)" ::"r"(v + i % 7 * 2),
			     "r"((uint8_t *)v + 4090 + i * 4)
			     : "memory");
	asm volatile("fninit; fldl (%0); fldl 8(%0)" ::"r"(v));
	for (unsigned i = 0; i < 300; i++)
		asm volatile("fmul %%st(1), %%st; fsqrt; faddl (%0); fxch" ::"r"(v + i % 14) : "memory");
	asm volatile("fstpl 256(%0); fstpl 264(%0); fninit; movupd %%xmm2, 272(%0)" ::"r"(v) : "memory");
	for (unsigned i = 32; i < 36; i++)
		h = mix(h, v[i]);
	return h;
}
