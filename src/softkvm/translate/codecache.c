// SPDX-License-Identifier: BSD-2-Clause
/*
 * A memfd mapped twice, RW and RX, at addresses the kernel chose. Hot code (the straight path of blocks) fills the
 * lower part, cold code (misses, side exits) the upper, so that cold bytes do not dilute the instruction cache. Pages are populated a megabyte at a time: taken singly, a first touch costs as much as translating ten blocks.
 *
 * There is one owner of the cursors at a time: the translator's lock.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

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
	c->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	c->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	err = c->rw == MAP_FAILED || c->rx == MAP_FAILED ? -errno : 0;
	close(fd);
	if (err) {
		codecache_deinit(c);
		return err;
	}
	codecache_flush(c);
	c->cold_ready = c->cold;
	return 0;
}

void codecache_deinit(struct codecache *c)
{
	if (c->rw && c->rw != MAP_FAILED)
		munmap(c->rw, c->size);
	if (c->rx && c->rx != MAP_FAILED)
		munmap(c->rx, c->size);
	c->rw = c->rx = NULL;
}

/* Advice only: where the kernel does not know it, pages come by faults. */
static void populate(struct codecache *c, uint64_t from, uint64_t len)
{
	madvise(c->rw + from, len, MADV_POPULATE_WRITE);
	madvise(c->rx + from, len, MADV_POPULATE_READ);
}

static void make_ready(struct codecache *c, uint64_t *ready, uint64_t need)
{
	while (*ready < need && *ready < c->size) {
		populate(c, *ready, POPULATE_STEP);
		*ready += POPULATE_STEP;
	}
}

bool codecache_begin(struct codecache *c, struct emit *hot, struct emit *cold, unsigned room)
{
	uint64_t start = (c->hot + 15) & ~15ull;

	if (start + room > c->split || c->cold + room > c->size)
		return false;
	make_ready(c, &c->hot_ready, start + room);
	make_ready(c, &c->cold_ready, c->cold + room);
	*hot = (struct emit){ c->rw + start, c->rw + start + room, c->rx - c->rw, false };
	*cold = (struct emit){ c->rw + c->cold, c->rw + c->cold + room, c->rx - c->rw, false };
	return true;
}

void codecache_commit(struct codecache *c, const struct emit *hot, const struct emit *cold)
{
	c->hot = (uint64_t)(hot->p - c->rw);
	c->cold = (uint64_t)(cold->p - c->rw);
}

void codecache_flush(struct codecache *c)
{
	c->hot = c->fixed;
	c->cold = c->split;
}

void codecache_fix(struct codecache *c)
{
	c->fixed = c->hot;
}
