/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Backing for guest RAM: a memfd (or an unlinked file in a directory, such as a hugetlbfs mount), mapped shared so
 * that another process can be given the same pages.
 *
 * Huge pages are used when enough of them are reserved and free on this host: the mapping reserves them, so it fails at
 * once, and not when the guest runs, if there are too few. Then it is ordinary pages.
 *
 * Populating: a first touch costs a page fault, which on a nested or emulated host is far dearer than the zeroing
 * itself. MADV_POPULATE_WRITE takes many pages per kernel entry; it goes in steps so that a signal is not held up for
 * seconds. A kernel without it (before 5.14) leaves the pages to be touched one by one.
 */
#include "memory/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/backing.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { POPULATE_STEP = 64 << 20 };

struct backing {
	int fd;
	uint8_t *hva;
};

/* Map `fd`, which is this function's from here on: closed on failure. */
static int map_backing(int fd, uint64_t size, int flags, struct backing *out)
{
	void *map = NULL;
	int err;

	if (fd < 0)
		return -errno;
	if (!ftruncate(fd, size))
		map = backing_map(fd, size, PROT_READ | PROT_WRITE, flags);
	if (!map) {
		err = -errno;
		close(fd);
		return err;
	}
	*out = (struct backing){fd, map};
	return 0;
}

static int map_huge(const char *name, uint64_t size, struct backing *out)
{
	if (size % HUGE_PAGE)
		return -EINVAL;
	return map_backing(memfd_create(name, MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB), size, 0, out);
}

static int map_file_in(const char *dir, uint64_t size, struct backing *out)
{
	return map_backing(open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), size, 0, out);
}

static int map_plain(const char *name, uint64_t size, struct backing *out)
{
	int err = map_backing(memfd_create(name, MFD_CLOEXEC), size, MAP_NORESERVE, out);

	if (!err)
		madvise(out->hva, size, MADV_HUGEPAGE); /* a wish: refused where shared memory has no huge pages */
	return err;
}

static int populate_all(uint8_t *hva, uint64_t size)
{
	uint64_t done = 0, step;

	while (size - done >= HUGE_PAGE && backing_make_huge(hva + done))
		done += HUGE_PAGE;
	for (; done < size; done += step) {
		step = size - done < POPULATE_STEP ? size - done : POPULATE_STEP;
		if (madvise(hva + done, step, MADV_POPULATE_WRITE))
			return errno == EINVAL ? 0 : -errno;
	}
	return 0;
}

int ram_alloc(const char *name, uint64_t size, const char *dir, bool populate, uint8_t **hva, int *fd)
{
	struct backing backing = {.fd = -1};
	int err;

	if (!size || size % PAGE_SIZE)
		return -EINVAL;
	err = dir ? map_file_in(dir, size, &backing) : map_huge(name, size, &backing);
	if (err && !dir)
		err = map_plain(name, size, &backing);
	if (!err && populate) {
		err = populate_all(backing.hva, size);
		if (err)
			ram_free(backing.hva, size, backing.fd);
	}
	if (err)
		return err;
	*hva = backing.hva;
	*fd = backing.fd;
	return 0;
}

void ram_free(uint8_t *hva, uint64_t size, int fd)
{
	if (hva)
		munmap(hva, size);
	if (fd >= 0)
		close(fd);
}
