/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Status flags by the host: an operation is done by the same instruction at the same width on the host, with
 * the guest's flags loaded before and read after it, so flags that the manual calls undefined agree with the
 * processor as well. LAHF/SAHF carry SF ZF AF PF CF in AH; OF travels in AL (SETO; ADD 7Fh sets it again).
 *
 * The macros make functions  uint64_t NAME(dst, src, size, *rflags):  dst op src at `size` bytes.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_FLAGS_H
#define GUISE_SOFTKVM_INTERPRET_FLAGS_H

#include <stdint.h>

#include "x86/arch.h"

#define FLAGS_LOAD "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_SAVE "\n\tlahf\n\tseto %%al"

static inline uint64_t flags_from_ax(uint64_t rflags, uint32_t ax)
{
	return (rflags & ~(uint64_t)FLAGS_STATUS) | (ax >> 8 & 0xd5) | (ax & 1) << 11;
}

static inline uint32_t ax_from_flags(uint64_t rflags)
{
	return (uint32_t)((rflags & 0xff) << 8 | (rflags >> 11 & 1));
}

/* dst op= src; the flags before do not matter to the result. */
#define HOST_BINARY(name, mnemonic)									\
	static inline uint64_t name(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags)	\
	{												\
		uint32_t ax;										\
		if (size == 8)										\
			__asm__(mnemonic "q %2, %0" FLAGS_SAVE : "+&r"(dst), "=&a"(ax) : "r"(src) : "cc"); \
		else if (size == 4)									\
			__asm__(mnemonic "l %k2, %k0" FLAGS_SAVE : "+&r"(dst), "=&a"(ax) : "r"(src) : "cc"); \
		else if (size == 2)									\
			__asm__(mnemonic "w %w2, %w0" FLAGS_SAVE : "+&r"(dst), "=&a"(ax) : "r"(src) : "cc"); \
		else											\
			__asm__(mnemonic "b %b2, %b0" FLAGS_SAVE : "+&r"(dst), "=&a"(ax) : "r"(src) : "cc"); \
		*rflags = flags_from_ax(*rflags, ax);							\
		return dst;										\
	}

/* dst op= src with all status flags as input too (carry, or flags that the operation leaves alone). */
#define HOST_BINARY_FLAGS(name, mnemonic)                                                                    \
	static inline uint64_t name(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags)             \
	{                                                                                                    \
		uint32_t ax = ax_from_flags(*rflags);                                                        \
		if (size == 8)                                                                               \
			__asm__(FLAGS_LOAD mnemonic "q %2, %0" FLAGS_SAVE                                    \
				: "+&r"(dst), "+&a"(ax)                                                      \
				: "r"(src)                                                                   \
				: "cc");                                                                     \
		else if (size == 4)                                                                          \
			__asm__(FLAGS_LOAD mnemonic "l %k2, %k0" FLAGS_SAVE                                  \
				: "+&r"(dst), "+&a"(ax)                                                      \
				: "r"(src)                                                                   \
				: "cc");                                                                     \
		else if (size == 2)                                                                          \
			__asm__(FLAGS_LOAD mnemonic "w %w2, %w0" FLAGS_SAVE                                  \
				: "+&r"(dst), "+&a"(ax)                                                      \
				: "r"(src)                                                                   \
				: "cc");                                                                     \
		else                                                                                         \
			__asm__(FLAGS_LOAD mnemonic "b %b2, %b0" FLAGS_SAVE                                  \
				: "+&r"(dst), "+&a"(ax)                                                      \
				: "r"(src)                                                                   \
				: "cc");                                                                     \
		*rflags = flags_from_ax(*rflags, ax);                                                        \
		return dst;                                                                                  \
	}

/* The same for instructions that have no byte form. */
#define HOST_WIDE_FLAGS(name, mnemonic)                                                                      \
	static inline uint64_t name(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags)             \
	{                                                                                                    \
		uint32_t ax = ax_from_flags(*rflags);                                                        \
		if (size == 8)                                                                               \
			__asm__(FLAGS_LOAD mnemonic "q %2, %0" FLAGS_SAVE                                    \
				: "+&r"(dst), "+&a"(ax)                                                      \
				: "r"(src)                                                                   \
				: "cc");                                                                     \
		else if (size == 4)                                                                          \
			__asm__(FLAGS_LOAD mnemonic "l %k2, %k0" FLAGS_SAVE                                  \
				: "+&r"(dst), "+&a"(ax)                                                      \
				: "r"(src)                                                                   \
				: "cc");                                                                     \
		else                                                                                         \
			__asm__(FLAGS_LOAD mnemonic "w %w2, %w0" FLAGS_SAVE                                  \
				: "+&r"(dst), "+&a"(ax)                                                      \
				: "r"(src)                                                                   \
				: "cc");                                                                     \
		*rflags = flags_from_ax(*rflags, ax);                                                        \
		return dst;                                                                                  \
	}

/* dst shifted or rotated by CL = src. */
#define HOST_SHIFT(name, mnemonic)									\
	static inline uint64_t name(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags)	\
	{												\
		uint32_t ax = ax_from_flags(*rflags);							\
		if (size == 8)										\
			__asm__(FLAGS_LOAD mnemonic "q %%cl, %0" FLAGS_SAVE				\
				: "+&r"(dst), "+&a"(ax) : "c"(src) : "cc");				\
		else if (size == 4)									\
			__asm__(FLAGS_LOAD mnemonic "l %%cl, %k0" FLAGS_SAVE				\
				: "+&r"(dst), "+&a"(ax) : "c"(src) : "cc");				\
		else if (size == 2)									\
			__asm__(FLAGS_LOAD mnemonic "w %%cl, %w0" FLAGS_SAVE				\
				: "+&r"(dst), "+&a"(ax) : "c"(src) : "cc");				\
		else											\
			__asm__(FLAGS_LOAD mnemonic "b %%cl, %b0" FLAGS_SAVE				\
				: "+&r"(dst), "+&a"(ax) : "c"(src) : "cc");				\
		*rflags = flags_from_ax(*rflags, ax);							\
		return dst;										\
	}

/* dst = op dst. src is ignored: one signature for all. */
#define HOST_UNARY_FLAGS(name, mnemonic)								\
	static inline uint64_t name(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags)	\
	{												\
		uint32_t ax = ax_from_flags(*rflags);							\
		if (size == 8)										\
			__asm__(FLAGS_LOAD mnemonic "q %0" FLAGS_SAVE : "+&r"(dst), "+&a"(ax) : : "cc"); \
		else if (size == 4)									\
			__asm__(FLAGS_LOAD mnemonic "l %k0" FLAGS_SAVE : "+&r"(dst), "+&a"(ax) : : "cc"); \
		else if (size == 2)									\
			__asm__(FLAGS_LOAD mnemonic "w %w0" FLAGS_SAVE : "+&r"(dst), "+&a"(ax) : : "cc"); \
		else											\
			__asm__(FLAGS_LOAD mnemonic "b %b0" FLAGS_SAVE : "+&r"(dst), "+&a"(ax) : : "cc"); \
		*rflags = flags_from_ax(*rflags, ax);							\
		return dst;										\
	}

#endif
