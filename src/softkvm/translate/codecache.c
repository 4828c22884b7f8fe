// SPDX-License-Identifier: BSD-2-Clause
/*
 * A memfd mapped twice, RW and RX, at addresses the kernel chose. Hot code (the straight path of blocks) fills the
 * lower part, cold code (misses, side exits) the upper, so that cold bytes do not dilute the instruction cache. It is backed
 * by huge pages, or a megabyte at a time: taken singly, a page's first touch costs as much as translating ten blocks.
 *
 * The cache is divided into pieces with cursors of their own. They have one owner at a time: the translator's lock.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/backing.h"
#include "softkvm/translate/codecache.h"

enum { POPULATE_STEP = 1 << 20 };

int codecache_init(struct codecache *c, uint64_t size, uint64_t split)
{
	int fd = memfd_create("guise-code", MFD_CLOEXEC), err;

	*c = (struct codecache){ .size = size, .split = split };
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size)) {
		err = -errno;
		close(fd);
		return err;
	}
	c->rw = backing_map(fd, size, PROT_READ | PROT_WRITE, 0);
	c->rx = c->rw ? backing_map(fd, size, PROT_READ | PROT_EXEC, 0) : NULL;
	err = c->rx ? 0 : -errno;
	close(fd);
	if (err) {
		codecache_deinit(c);
		return err;
	}
	return 0;
}

void codecache_deinit(struct codecache *c)
{
	if (c->rw)
		munmap(c->rw, c->size);
	if (c->rx)
		munmap(c->rx, c->size);
	c->rw = c->rx = NULL;
}

/* Advice only: where the kernel does not know it, pages come by faults. */
static void populate_small(struct codecache *c, uint64_t from, uint64_t len)
{
	madvise(c->rw + from, len, MADV_POPULATE_WRITE);
	madvise(c->rx + from, len, MADV_POPULATE_READ);
}

static bool is_huge(struct codecache *c, uint64_t chunk)
{
	uint64_t bit = 1ull << chunk % 64;

	if (c->huge[chunk / 64] & bit)
		return true;
	if (c->small_only || (chunk + 1) * HUGE_PAGE > c->size)
		return false;
	if (!backing_make_huge(c->rw + chunk * HUGE_PAGE)) {
		c->small_only = true;
		return false;
	}
	madvise(c->rx + chunk * HUGE_PAGE, HUGE_PAGE, MADV_POPULATE_READ);
	c->huge[chunk / 64] |= bit;
	return true;
}

static void populate(struct codecache *c, uint64_t from, uint64_t len)
{
	for (uint64_t end = from + len, next; from < end; from = next) {
		next = (from / HUGE_PAGE + 1) * HUGE_PAGE;
		if (next > end)
			next = end;
		if (!is_huge(c, from / HUGE_PAGE))
			populate_small(c, from, next - from);
	}
}

static void make_ready(struct codecache *c, uint64_t *ready, uint64_t need, uint64_t end)
{
	while (*ready < need) {
		uint64_t step = end - *ready < POPULATE_STEP ? end - *ready : POPULATE_STEP;

		populate(c, *ready, step);
		*ready += step;
	}
}

static void space_set(struct code_space *s, uint64_t hot, uint64_t hot_size, uint64_t cold, uint64_t cold_size)
{
	*s = (struct code_space){ .hot_start = hot, .hot_end = hot + hot_size, .cold_start = cold, .cold_end = cold + cold_size,
				  .hot = hot, .cold = cold, .hot_ready = hot, .cold_ready = cold };
}

void codecache_fixed(const struct codecache *c, struct code_space *s)
{
	space_set(s, 0, CODECACHE_FIXED, c->split, CODECACHE_FIXED);
}

void codecache_slice(const struct codecache *c, unsigned index, unsigned count, struct code_space *s)
{
	uint64_t hot = (c->split - CODECACHE_FIXED) / count & ~4095ull;
	uint64_t cold = (c->size - c->split - CODECACHE_FIXED) / count & ~4095ull;

	space_set(s, CODECACHE_FIXED + index * hot, hot, c->split + CODECACHE_FIXED + index * cold, cold);
}

static uint64_t aligned(uint64_t at)
{
	return (at + 15) & ~15ull;
}

bool codecache_has_room(const struct code_space *s, unsigned room)
{
	return aligned(s->hot) + room <= s->hot_end && aligned(s->cold) + room <= s->cold_end;
}

void codecache_begin(struct codecache *c, struct code_space *s, struct emit *hot, struct emit *cold, unsigned room)
{
	uint64_t start = aligned(s->hot), cold_start = (s->cold + 7) & ~7ull;

	make_ready(c, &s->hot_ready, start + room, s->hot_end);
	make_ready(c, &s->cold_ready, cold_start + room, s->cold_end);
	*hot = (struct emit){ c->rw + start, c->rw + start + room, c->rx - c->rw, false, NULL };
	*cold = (struct emit){ c->rw + cold_start, c->rw + cold_start + room, c->rx - c->rw, false, NULL };
}

void codecache_commit(const struct codecache *c, struct code_space *s, const struct emit *hot, const struct emit *cold)
{
	s->hot = (uint64_t)(hot->p - c->rw);
	s->cold = (uint64_t)(cold->p - c->rw);
}

void codecache_rewind(struct code_space *s)
{
	s->hot = s->hot_start;
	s->cold = s->cold_start;
}
