/* SPDX-License-Identifier: BSD-2-Clause */
/* Little- and big-endian fields of outside data at any alignment, and a few sums. Host is x86: little-endian. */
#ifndef GUISE_BASE_BYTES_H
#define GUISE_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline uint16_t get_le16(const void *p)
{
	uint16_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t get_le32(const void *p)
{
	uint32_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t get_le64(const void *p)
{
	uint64_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline void put_le16(void *p, uint16_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}

static inline void put_le32(void *p, uint32_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}

static inline void put_le64(void *p, uint64_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}

static inline uint32_t get_be32(const void *p)
{
	return __builtin_bswap32(get_le32(p));
}

static inline uint64_t get_be64(const void *p)
{
	return __builtin_bswap64(get_le64(p));
}

static inline void put_be32(void *p, uint32_t v)
{
	put_le32(p, __builtin_bswap32(v));
}

/* As memcpy(), but certain to use no vector register. */
static inline void copy_bytes(void *to, const void *from, uint64_t count)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static inline uint64_t align_up(uint64_t v, uint64_t power_of_two)
{
	return (v + power_of_two - 1) & ~(power_of_two - 1);
}

static inline uint64_t align_down(uint64_t v, uint64_t power_of_two)
{
	return v & ~(power_of_two - 1);
}

/* The byte that makes [p, p+len) sum to 0, if it is now 0 in there (ACPI, SMBIOS, MP tables). */
static inline uint8_t checksum8(const void *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t k = 0; k < len; k++)
		sum += ((const uint8_t *)p)[k];
	return -sum;
}

#endif
