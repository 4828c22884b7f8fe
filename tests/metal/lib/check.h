/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What images of every mode share: console, checks, ports, CPUID.
 */
#ifndef METAL_CHECK_H
#define METAL_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NO_TRAP = 0x100 };
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };
enum {
	RFLAGS_CF = 1,
	RFLAGS_PF = 4,
	RFLAGS_AF = 16,
	RFLAGS_ZF = 64,
	RFLAGS_SF = 128,
	RFLAGS_TF = 0x100,
	RFLAGS_IF = 0x200,
	RFLAGS_DF = 0x400,
	RFLAGS_OF = 0x800,
	RFLAGS_NT = 0x4000,
	RFLAGS_RF = 0x10000,
	RFLAGS_AC = 0x40000
};

/* --- console and verdict (print.c) --- */
void put_char(char c);
void put_string(const char *s);
void put_hex(uint64_t value);
void check_at(bool ok, const char *file, int line, const char *what, uint64_t a, uint64_t b);
void group(const char *name);
void skip(const char *reason);
void quirk(const char *what); /* the oracle's own deviation was seen and is allowed */
_Noreturn void finish(int status);
int verdict(void);
#define CHECK(cond) check_at((cond), __FILE__, __LINE__, #cond, 0, 0)
#define CHECK_EQ(a, b)                                                                                       \
	do {                                                                                                 \
		uint64_t a_ = (uint64_t)(a), b_ = (uint64_t)(b);                                             \
		check_at(a_ == b_, __FILE__, __LINE__, #a " == " #b, a_, b_);                                \
	} while (0)
/* A check the oracle is known to fail. */
#define CHECK_UNLESS_ORACLE(cond)                                                                            \
	do {                                                                                                 \
		if (!(cond) && is_oracle())                                                                  \
			quirk(#cond);                                                                        \
		else                                                                                         \
			CHECK(cond);                                                                         \
	} while (0)

static inline void outb(uint16_t port, uint8_t v)
{
	asm volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(uint16_t port, uint16_t v)
{
	asm volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t v)
{
	asm volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
	uint8_t v;
	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline uint16_t inw(uint16_t port)
{
	uint16_t v;
	asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline uint32_t inl(uint16_t port)
{
	uint32_t v;
	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
struct cpuid {
	uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
	struct cpuid r;

	asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
	return r;
}
bool is_oracle(void); /* running on QEMU's TCG */
bool is_amd(void);
void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
int image_main(void);

#endif
