/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Console, checks and verdict of an image. Passing checks are only counted, so that an image makes few VM
 * exits.
 */
#include "check.h"

static unsigned checks, failures;
static const char *group_name = "start";

void put_char(char c)
{
	asm volatile("outb %0, $0xe9" ::"a"(c));
}

void put_string(const char *s)
{
	while (*s)
		put_char(*s++);
}

void put_hex(uint64_t value)
{
	bool started = false;

	put_string("0x");
	for (int shift = 60; shift >= 0; shift -= 4) {
		unsigned digit = (unsigned)(value >> shift) & 15;

		if (digit || started || !shift) {
			put_char("0123456789abcdef"[digit]);
			started = true;
		}
	}
}

static void put_decimal(unsigned value)
{
	if (value >= 10)
		put_decimal(value / 10);
	put_char((char)('0' + value % 10));
}

void check_at(bool ok, const char *file, int line, const char *what, uint64_t a, uint64_t b)
{
	checks++;
	if (ok)
		return;
	failures++;
	put_string("FAIL ");
	put_string(group_name);
	put_string(" ");
	put_string(file);
	put_string(":");
	put_decimal((unsigned)line);
	put_string(": ");
	put_string(what);
	put_string(" (");
	put_hex(a);
	put_string(", ");
	put_hex(b);
	put_string(")\n");
}

void group(const char *name)
{
	group_name = name;
}

void skip(const char *reason)
{
	put_string("skip ");
	put_string(group_name);
	put_string(": ");
	put_string(reason);
	put_string("\n");
}

void quirk(const char *what)
{
	put_string("quirk ");
	put_string(group_name);
	put_string(": ");
	put_string(what);
	put_string("\n");
}

int verdict(void)
{
	put_string(failures ? "FAILED " : "PASSED ");
	put_decimal(failures ? failures : checks);
	put_string(failures ? " of " : " checks\n");
	if (failures) {
		put_decimal(checks);
		put_string(" checks\n");
	}
	return failures != 0;
}

_Noreturn void finish(int status)
{
	asm volatile("outl %0, $0xf4" ::"a"(status));
	for (;;)
		asm volatile("cli; hlt");
}

void *memset(void *p, int c, size_t n)
{
	void *at = p;

	asm volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

bool is_oracle(void)
{
	return cpuid(0x40000000, 0).b == 0x54474354; /* "TCGT" */
}

bool is_amd(void)
{
	return cpuid(0, 0).c == 0x444d4163; /* "cAMD" */
}
