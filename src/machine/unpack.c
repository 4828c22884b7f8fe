/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The compressions that Linux kernels come in, each by its library. All of them are told the size of the output
 * beforehand and fail when the stream holds more or less, so a hostile stream cannot make them write elsewhere or
 * grow without bound.
 */
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "machine/boot.h"

enum { LZ4_LEGACY_BLOCK = 8 << 20, LZMA_MEMORY_LIMIT = 256 << 20 };

static int unpack_gzip(struct span packed, uint8_t *out, size_t out_size)
{
	z_stream z = {.next_in = (uint8_t *)(uintptr_t)packed.bytes, .avail_in = packed.size, .next_out = out,
		      .avail_out = out_size};
	int end;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -ENOMEM;
	end = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return end == Z_STREAM_END && !z.avail_out ? 0 : -EINVAL;
}

static int run_lzma(lzma_stream *z, struct span packed, uint8_t *out, size_t out_size)
{
	lzma_ret end;

	z->next_in = packed.bytes;
	z->avail_in = packed.size;
	z->next_out = out;
	z->avail_out = out_size;
	do {
		end = lzma_code(z, LZMA_RUN);
	} while (end == LZMA_OK && z->avail_in && z->avail_out);
	lzma_end(z);
	return (end == LZMA_STREAM_END || end == LZMA_OK) && !z->avail_out ? 0 : -EINVAL;
}

static int unpack_xz(struct span packed, uint8_t *out, size_t out_size)
{
	lzma_stream z = LZMA_STREAM_INIT;

	if (lzma_stream_decoder(&z, LZMA_MEMORY_LIMIT, 0) != LZMA_OK)
		return -ENOMEM;
	return run_lzma(&z, packed, out, out_size);
}

static int unpack_lzma(struct span packed, uint8_t *out, size_t out_size)
{
	lzma_stream z = LZMA_STREAM_INIT;

	if (lzma_alone_decoder(&z, LZMA_MEMORY_LIMIT) != LZMA_OK)
		return -ENOMEM;
	return run_lzma(&z, packed, out, out_size);
}

/* The "legacy" frame: a magic number, then blocks of up to 8 MiB, each behind its packed size. */
static int unpack_lz4(struct span packed, uint8_t *out, size_t out_size)
{
	size_t at = 4, done = 0;

	while (done < out_size) {
		size_t room = out_size - done < LZ4_LEGACY_BLOCK ? out_size - done : LZ4_LEGACY_BLOCK;
		uint32_t size;
		int n;

		if (packed.size - at < 4)
			return -EINVAL;
		size = get_le32(packed.bytes + at);
		at += 4;
		if (size > packed.size - at)
			return -EINVAL;
		n = LZ4_decompress_safe((const char *)packed.bytes + at, (char *)out + done, size, room);
		if (n <= 0)
			return -EINVAL;
		at += size;
		done += n;
	}
	return 0;
}

static int unpack_zstd(struct span packed, uint8_t *out, size_t out_size)
{
	size_t size = ZSTD_findFrameCompressedSize(packed.bytes, packed.size);

	if (ZSTD_isError(size))
		return -EINVAL;
	return ZSTD_decompress(out, out_size, packed.bytes, size) == out_size ? 0 : -EINVAL;
}

static const struct format {
	const char *name;
	uint8_t magic[6];
	unsigned magic_size;
	int (*unpack)(struct span packed, uint8_t *out, size_t out_size);
} formats[] = {
	{"gzip", {0x1f, 0x8b}, 2, unpack_gzip},
	{"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, unpack_xz},
	{"lzma", {0x5d, 0, 0}, 3, unpack_lzma},
	{"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, unpack_lz4},
	{"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, unpack_zstd},
};

int unpack(struct span packed, uint8_t *out, size_t out_size, const char **format)
{
	*format = NULL;
	for (unsigned k = 0; k < sizeof(formats) / sizeof(formats[0]); k++) {
		const struct format *f = &formats[k];

		if (packed.size > f->magic_size && !memcmp(packed.bytes, f->magic, f->magic_size)) {
			*format = f->name;
			return f->unpack(packed, out, out_size);
		}
	}
	return -ENOTSUP;
}
