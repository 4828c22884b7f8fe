/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The compressions that Linux kernels come in, each by its library. What comes out goes on in pieces through one buffer: an
 * unpacked kernel is 50 MB and more, and the first touch of so much memory takes longer than filling it. All of
 * them are told the size of the output beforehand and fail when the stream holds more or less, so a hostile stream
 * cannot make them grow without bound.
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
#include "memory/backing.h"

enum { LZMA_MEMORY_LIMIT = 256 << 20, ZSTD_WINDOW_LOG = 30 };
_Static_assert(UNPACK_PIECE == 8 << 20, "the blocks of LZ4's legacy frame");

struct output {
	uint8_t *piece; /* of UNPACK_PIECE */
	size_t left;	/* of the whole, the piece being filled included */
	unpack_taker *take;
	void *opaque;
};

static size_t piece_size(const struct output *out)
{
	return out->left < UNPACK_PIECE ? out->left : UNPACK_PIECE;
}

/* The piece is filled. */
static int pass_on(struct output *out)
{
	size_t size = piece_size(out);

	out->left -= size;
	return out->take(out->opaque, (struct span){out->piece, size});
}

static int unpack_gzip(struct span packed, struct output *out)
{
	z_stream z = {.next_in = (uint8_t *)(uintptr_t)packed.bytes, .avail_in = packed.size};
	int state = Z_OK, err = 0;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -ENOMEM;
	while (!err && out->left) {
		z.next_out = out->piece;
		z.avail_out = piece_size(out);
		if (state == Z_OK)
			state = inflate(&z, Z_NO_FLUSH);
		err = z.avail_out ? -EINVAL : pass_on(out);
	}
	inflateEnd(&z);
	return err ? err : state == Z_STREAM_END ? 0 : -EINVAL;
}

/* Fill `size` bytes, or up to the stream's end. */
static lzma_ret fill_lzma(lzma_stream *z, lzma_ret state, uint8_t *to, size_t size)
{
	z->next_out = to;
	z->avail_out = size;
	while (state == LZMA_OK && z->avail_out)
		state = lzma_code(z, z->avail_in ? LZMA_RUN : LZMA_FINISH);
	return state;
}

static int run_lzma(lzma_stream *z, struct span packed, struct output *out)
{
	lzma_ret state = LZMA_OK;
	uint8_t more;
	int err = 0;

	z->next_in = packed.bytes;
	z->avail_in = packed.size;
	while (!err && out->left) {
		state = fill_lzma(z, state, out->piece, piece_size(out));
		err = z->avail_out ? -EINVAL : pass_on(out);
	}
	if (!err && (fill_lzma(z, state, &more, 1) != LZMA_STREAM_END || !z->avail_out))
		err = -EINVAL;
	lzma_end(z);
	return err;
}

static int unpack_xz(struct span packed, struct output *out)
{
	lzma_stream z = LZMA_STREAM_INIT;

	if (lzma_stream_decoder(&z, LZMA_MEMORY_LIMIT, 0) != LZMA_OK)
		return -ENOMEM;
	return run_lzma(&z, packed, out);
}

static int unpack_lzma(struct span packed, struct output *out)
{
	lzma_stream z = LZMA_STREAM_INIT;

	if (lzma_alone_decoder(&z, LZMA_MEMORY_LIMIT) != LZMA_OK)
		return -ENOMEM;
	return run_lzma(&z, packed, out);
}

/* The "legacy" frame: a magic number, then blocks that become 8 MiB, but for the last, each behind its packed size. */
static int unpack_lz4(struct span packed, struct output *out)
{
	size_t at = 4;
	int err = 0;

	while (!err && out->left) {
		size_t room = piece_size(out);
		uint32_t size;

		if (packed.size - at < 4)
			return -EINVAL;
		size = get_le32(packed.bytes + at);
		at += 4;
		if (size > packed.size - at)
			return -EINVAL;
		if (LZ4_decompress_safe((const char *)packed.bytes + at, (char *)out->piece, (int)size, (int)room) != (int)room)
			return -EINVAL;
		at += size;
		err = pass_on(out);
	}
	return err;
}

static int run_zstd(ZSTD_DStream *z, ZSTD_inBuffer *in, struct output *out)
{
	size_t state = 1; /* 0: the frame has ended */
	int err = 0;

	while (!err && out->left) {
		ZSTD_outBuffer piece = {out->piece, piece_size(out), 0};
		size_t before;

		do {
			before = in->pos + piece.pos;
			state = ZSTD_decompressStream(z, &piece, in);
			if (ZSTD_isError(state))
				return -EINVAL;
		} while (state && piece.pos < piece.size && in->pos + piece.pos > before);
		err = piece.pos < piece.size ? -EINVAL : pass_on(out);
	}
	return err ? err : state ? -EINVAL : 0;
}

static int unpack_zstd(struct span packed, struct output *out)
{
	size_t size = ZSTD_findFrameCompressedSize(packed.bytes, packed.size);
	ZSTD_inBuffer in = {packed.bytes, size, 0};
	ZSTD_DStream *z;
	int err;

	if (ZSTD_isError(size))
		return -EINVAL;
	z = ZSTD_createDStream();
	if (!z)
		return -ENOMEM;
	ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG); /* as much as one call for the whole would take */
	err = run_zstd(z, &in, out);
	ZSTD_freeDStream(z);
	return err;
}

static const struct format {
	const char *name;
	uint8_t magic[6];
	unsigned magic_size;
	int (*unpack)(struct span packed, struct output *out);
} formats[] = {
	{"gzip", {0x1f, 0x8b}, 2, unpack_gzip},
	{"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, unpack_xz},
	{"lzma", {0x5d, 0, 0}, 3, unpack_lzma},
	{"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, unpack_lz4},
	{"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, unpack_zstd},
};

static const struct format *find_format(struct span packed)
{
	for (unsigned k = 0; k < sizeof(formats) / sizeof(formats[0]); k++)
		if (packed.size > formats[k].magic_size && !memcmp(packed.bytes, formats[k].magic, formats[k].magic_size))
			return &formats[k];
	return NULL;
}

int unpack(struct span packed, size_t out_size, unpack_taker *take, void *opaque, const char **format)
{
	const struct format *f = find_format(packed);
	struct output out = {.left = out_size, .take = take, .opaque = opaque};
	int err;

	*format = f ? f->name : NULL;
	if (!f)
		return -ENOTSUP;
	out.piece = backing_new(UNPACK_PIECE);
	if (!out.piece)
		return -ENOMEM;
	err = f->unpack(packed, &out);
	backing_free(out.piece, UNPACK_PIECE);
	return err;
}
