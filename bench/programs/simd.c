/* SPDX-License-Identifier: BSD-2-Clause */
/* Vector and cryptographic instructions, SHA-256 in C, the C library's string functions, bit instructions. */
#include "bench.h"

#include <immintrin.h>
#include <string.h>

__attribute__((target("aes,sse4.1"))) struct res bench_aesni(void)
{
	__m128i k[11], b[4];
	for (int i = 0; i < 11; i++)
		k[i] = _mm_set1_epi32(0x1234567 * (i + 1));
	for (int i = 0; i < 4; i++)
		b[i] = _mm_set1_epi32(i);
	long n = 8000000;
	start();
	for (long i = 0; i < n; i += 4) {
		for (int j = 0; j < 4; j++)
			b[j] = _mm_xor_si128(b[j], k[0]);
		for (int r = 1; r < 10; r++)
			for (int j = 0; j < 4; j++)
				b[j] = _mm_aesenc_si128(b[j], k[r]);
		for (int j = 0; j < 4; j++)
			b[j] = _mm_aesenclast_si128(b[j], k[10]);
	}
	__m128i x = _mm_xor_si128(_mm_xor_si128(b[0], b[1]), _mm_xor_si128(b[2], b[3]));
	return (struct res){n, (u64)_mm_extract_epi64(x, 0)};
}
static const u32 K256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))
static void sha256_block(u32 *h, const u8 *p)
{
	u32 w[64], v[8];
	for (int i = 0; i < 16; i++)
		w[i] = (u32)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		u32 a = w[i - 15], b = w[i - 2];
		w[i] = w[i - 16] + (ROR(a, 7) ^ ROR(a, 18) ^ a >> 3) + w[i - 7] +
		       (ROR(b, 17) ^ ROR(b, 19) ^ b >> 10);
	}
	memcpy(v, h, 32);
	for (int i = 0; i < 64; i++) {
		u32 t1 = v[7] + (ROR(v[4], 6) ^ ROR(v[4], 11) ^ ROR(v[4], 25)) +
			 ((v[4] & v[5]) ^ (~v[4] & v[6])) + K256[i] + w[i];
		u32 t2 = (ROR(v[0], 2) ^ ROR(v[0], 13) ^ ROR(v[0], 22)) +
			 ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		v[7] = v[6];
		v[6] = v[5];
		v[5] = v[4];
		v[4] = v[3] + t1;
		v[3] = v[2];
		v[2] = v[1];
		v[1] = v[0];
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}
struct res bench_sha256(void)
{
	static u8 buf[65536];
	u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
		    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	for (int i = 0; i < 65536; i++)
		buf[i] = i * 7;
	start();
	for (int r = 0; r < 1000; r++)
		for (int i = 0; i < 65536; i += 64)
			sha256_block(h, buf + i);
	return (struct res){1000ull * 65536, h[0]};
}
struct res bench_libcmem(void)
{
	static const int sz[] = {8, 24, 100, 512, 4096, 65536};
	u8 *a = aligned_alloc(64, 1 << 17), *b = aligned_alloc(64, 1 << 17);
	u64 bytes = 0, s = 0;
	memset(a, 'x', 1 << 17);
	memset(b, 'y', 1 << 17);
	start();
	for (int k = 0; k < 6; k++) {
		int n = sz[k];
		long it = k < 4 ? 600000 : k == 4 ? 300000 : 30000;
		for (long i = 0; i < it; i++) {
			u8 *d = b + (i & 31), *c = a + (i & 63);
			memcpy(d, c, n);
			asm volatile("" ::: "memory");
			memset(d, (int)i | 1, n);
			asm volatile("" ::: "memory");
			d[n] = 0;
			asm volatile("" ::: "memory");
			s += strlen((char *)d);
			bytes += 3 * n;
		}
	}
	free(a);
	free(b);
	return (struct res){bytes, s};
}
__attribute__((target("avx2"))) struct res bench_avx2int(void)
{
	static u8 buf[65536] __attribute__((aligned(64)));
	for (int i = 0; i < 65536; i++)
		buf[i] = i * 13 + (i >> 8);
	__m256i acc = _mm256_setzero_si256(), mul = _mm256_set1_epi16(0x35),
		sh = _mm256_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 14, 13, 12, 11,
				     10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	start();
	for (int r = 0; r < 6000; r++)
		for (int i = 0; i < 65536; i += 32) {
			__m256i v = _mm256_load_si256((__m256i *)(buf + i));
			v = _mm256_shuffle_epi8(v, sh);
			acc = _mm256_add_epi8(_mm256_mullo_epi16(acc, mul), _mm256_sad_epu8(v, acc));
			acc = _mm256_xor_si256(acc, _mm256_max_epu8(v, _mm256_slli_epi16(acc, 3)));
		}
	u64 o[4];
	_mm256_storeu_si256((__m256i *)o, acc);
	return (struct res){6000ull * 65536, o[0] ^ o[1] ^ o[2] ^ o[3]};
}
struct res bench_sse2int(void)
{
	static u8 buf[65536] __attribute__((aligned(64)));
	for (int i = 0; i < 65536; i++)
		buf[i] = i * 13 + (i >> 8);
	__m128i acc = _mm_setzero_si128(), mul = _mm_set1_epi16(0x35);
	start();
	for (int r = 0; r < 3200; r++)
		for (int i = 0; i < 65536; i += 16) {
			__m128i v = _mm_load_si128((__m128i *)(buf + i));
			v = _mm_shuffle_epi32(v, 0x1b);
			acc = _mm_add_epi8(_mm_mullo_epi16(acc, mul), _mm_sad_epu8(v, acc));
			acc = _mm_xor_si128(acc, _mm_max_epu8(v, _mm_slli_epi16(acc, 3)));
		}
	u64 o[2];
	_mm_storeu_si128((__m128i *)o, acc);
	return (struct res){3200ull * 65536, o[0] ^ o[1]};
}
__attribute__((target("sse4.2,popcnt,bmi,bmi2,lzcnt"))) struct res bench_bitops(void)
{
	u64 s = 1, c = 0;
	long n = 30000000;
	start();
	for (long i = 0; i < n; i++) {
		s = s * 6364136223846793005ull + i;
		c = _mm_crc32_u64(c, s) + _mm_popcnt_u64(s) + _pext_u64(s, 0x0f0f0f0f0f0f0f0full) +
		    _lzcnt_u64(s | 1) + _tzcnt_u64(s | (1ull << 60)) + _andn_u64(s, c);
	}
	return (struct res){n, c};
}
struct res bench_muldiv(void)
{
	u64 s = 0x123456789abcdefull, c = 0;
	long n = 10000000;
	start();
	for (long i = 1; i <= n; i++) {
		unsigned __int128 m = (unsigned __int128)s * (s ^ i);
		s = (u64)(m >> 64) + (u64)m + i;
		c += s / (i | 0x10001) + (u32)s % (u32)(i | 3);
	}
	return (struct res){n, c};
}
