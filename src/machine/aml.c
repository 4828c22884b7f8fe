/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/aml.h"

#include <string.h>

#include "base/bytes.h"

enum { OP_ZERO = 0, OP_ONE = 1, OP_NAME = 8, OP_BYTE = 10, OP_WORD = 11, OP_DWORD = 12, OP_STRING = 13, OP_QWORD = 14,
       OP_SCOPE = 0x10, OP_BUFFER = 0x11, OP_PACKAGE = 0x12, OP_EXTENDED = 0x5b, OP_DEVICE = 0x82 };

static void put(struct aml *a, const void *bytes, size_t count)
{
	if (count > a->size - a->used) {
		a->overflow = true;
		return;
	}
	memcpy(a->bytes + a->used, bytes, count);
	a->used += count;
}

static void put8(struct aml *a, uint8_t v)
{
	put(a, &v, 1);
}

static void put16(struct aml *a, uint16_t v)
{
	put(a, &v, 2);
}

static void put32(struct aml *a, uint32_t v)
{
	put(a, &v, 4);
}

static void put64(struct aml *a, uint64_t v)
{
	put(a, &v, 8);
}

/* Four characters, padded with '_'; a leading backslash is kept. */
static void put_name(struct aml *a, const char *name)
{
	char segment[4] = "____";

	if (*name == '\\')
		put8(a, *name++);
	memcpy(segment, name, strnlen(name, 4));
	put(a, segment, 4);
}

/* Make room of `count` bytes at `at`. */
static bool insert(struct aml *a, size_t at, size_t count)
{
	if (count > a->size - a->used) {
		a->overflow = true;
		return false;
	}
	memmove(a->bytes + at + count, a->bytes + at, a->used - at);
	a->used += count;
	return true;
}

/* PkgLength (20.2.4): counts itself; the first byte's top bits say how many more there are. */
void aml_close(struct aml *a, size_t mark)
{
	size_t body = a->used - mark, total;
	unsigned more = body + 1 < 0x40 ? 0 : body + 2 < 0x1000 ? 1 : 2;

	if (a->overflow || !insert(a, mark, 1 + more))
		return;
	total = body + 1 + more;
	if (!more) {
		a->bytes[mark] = total;
		return;
	}
	a->bytes[mark] = more << 6 | (total & 15);
	for (unsigned k = 0; k < more; k++)
		a->bytes[mark + 1 + k] = total >> (4 + 8 * k);
}

size_t aml_scope(struct aml *a, const char *name)
{
	size_t mark;

	put8(a, OP_SCOPE);
	mark = a->used;
	put_name(a, name);
	return mark;
}

size_t aml_device(struct aml *a, const char *name)
{
	size_t mark;

	put8(a, OP_EXTENDED);
	put8(a, OP_DEVICE);
	mark = a->used;
	put_name(a, name);
	return mark;
}

size_t aml_package(struct aml *a, unsigned n_elements)
{
	size_t mark;

	put8(a, OP_PACKAGE);
	mark = a->used;
	put8(a, n_elements);
	return mark;
}

void aml_name(struct aml *a, const char *name)
{
	put8(a, OP_NAME);
	put_name(a, name);
}

void aml_int(struct aml *a, uint64_t value)
{
	if (value <= 1) {
		put8(a, value ? OP_ONE : OP_ZERO);
	} else if (value <= UINT8_MAX) {
		put8(a, OP_BYTE);
		put8(a, value);
	} else if (value <= UINT16_MAX) {
		put8(a, OP_WORD);
		put16(a, value);
	} else if (value <= UINT32_MAX) {
		put8(a, OP_DWORD);
		put32(a, value);
	} else {
		put8(a, OP_QWORD);
		put64(a, value);
	}
}

void aml_string(struct aml *a, const char *text)
{
	put8(a, OP_STRING);
	put(a, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? c - '0' : c - 'A' + 10;
}

/* Three letters of five bits, four hex digits; stored with the bytes swapped (19.6.37). */
void aml_eisa_id(struct aml *a, const char *id)
{
	uint32_t v = (uint32_t)(id[0] - 0x40) << 26 | (uint32_t)(id[1] - 0x40) << 21 | (uint32_t)(id[2] - 0x40) << 16;

	for (unsigned k = 0; k < 4; k++)
		v |= hex_digit(id[3 + k]) << (12 - 4 * k);
	put8(a, OP_DWORD);
	put32(a, __builtin_bswap32(v));
}

/* A buffer whose size is filled in at the end, as a word constant. */
size_t aml_resources(struct aml *a)
{
	size_t mark;

	put8(a, OP_BUFFER);
	mark = a->used;
	put8(a, OP_WORD);
	put16(a, 0);
	return mark;
}

void aml_close_resources(struct aml *a, size_t mark)
{
	put8(a, 0x79); /* end tag, no checksum */
	put8(a, 0);
	if (!a->overflow)
		put_le16(a->bytes + mark + 1, a->used - mark - 3);
	aml_close(a, mark);
}

void aml_io(struct aml *a, uint16_t base, uint8_t size)
{
	put8(a, 0x47);
	put8(a, 1); /* 16-bit decode */
	put16(a, base);
	put16(a, base);
	put8(a, 1);
	put8(a, size);
}

void aml_irq(struct aml *a, unsigned irq)
{
	put8(a, 0x22);
	put16(a, 1 << irq);
}

void aml_level_irq(struct aml *a, unsigned gsi)
{
	enum { CONSUMER = 1, LEVEL = 0, ACTIVE_HIGH = 0, SHARED = 8 };

	put8(a, 0x89);
	put16(a, 6);
	put8(a, CONSUMER | LEVEL | ACTIVE_HIGH | SHARED);
	put8(a, 1);
	put32(a, gsi);
}

enum { KIND_MEMORY = 0, KIND_IO = 1, KIND_BUS = 2, FIXED_MIN_MAX = 0xc, MEMORY_RW = 1, IO_ENTIRE = 3 };

static void put_address_header(struct aml *a, uint8_t tag, uint16_t length, uint8_t kind, uint8_t flags)
{
	put8(a, tag);
	put16(a, length);
	put8(a, kind);
	put8(a, FIXED_MIN_MAX);
	put8(a, flags);
}

void aml_bus_range(struct aml *a, uint16_t first, uint16_t last)
{
	put_address_header(a, 0x88, 13, KIND_BUS, 0);
	put16(a, 0);
	put16(a, first);
	put16(a, last);
	put16(a, 0);
	put16(a, last - first + 1);
}

void aml_io_window(struct aml *a, uint16_t base, uint32_t size)
{
	put_address_header(a, 0x88, 13, KIND_IO, IO_ENTIRE);
	put16(a, 0);
	put16(a, base);
	put16(a, base + size - 1);
	put16(a, 0);
	put16(a, size);
}

void aml_memory_window(struct aml *a, uint64_t base, uint64_t size)
{
	put_address_header(a, 0x8a, 43, KIND_MEMORY, MEMORY_RW);
	put64(a, 0);
	put64(a, base);
	put64(a, base + size - 1);
	put64(a, 0);
	put64(a, size);
}

void aml_memory_fixed(struct aml *a, uint32_t base, uint32_t size)
{
	put8(a, 0x86);
	put16(a, 9);
	put8(a, 1);
	put32(a, base);
	put32(a, size);
}
