/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Backing for guest RAM: a memfd (or an unlinked file in a directory, such as a hugetlbfs mount), mapped shared so
 * that another process can be given the same pages.
 *
 * Populating: a first touch costs a page fault, which on a nested or emulated host is far dearer than the zeroing
 * itself. MADV_POPULATE_WRITE takes many pages per kernel entry; it goes in steps so that a signal is not held up for
 * seconds. A kernel without it (before 5.14) leaves the pages to be touched one by one.
 */
#include "memory/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { POPULATE_STEP = 64 << 20 };

static int backing_open(const char *name, const char *dir)
{
	int fd = dir ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : memfd_create(name, MFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int populate_all(uint8_t *hva, uint64_t size)
{
	for (uint64_t done = 0, step; done < size; done += step) {
		step = size - done < POPULATE_STEP ? size - done : POPULATE_STEP;
		if (madvise(hva + done, step, MADV_POPULATE_WRITE))
			return errno == EINVAL ? 0 : -errno;
	}
	return 0;
}

int ram_alloc(const char *name, uint64_t size, const char *dir, bool populate, uint8_t **hva, int *fd)
{
	void *map;
	int err = 0, file;

	if (!size || size % PAGE_SIZE)
		return -EINVAL;
	file = backing_open(name, dir);
	if (file < 0)
		return file;
	if (ftruncate(file, size)) {
		err = -errno;
		goto close_file;
	}
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
	if (map == MAP_FAILED) {
		err = -errno;
		goto close_file;
	}
	madvise(map, size, MADV_HUGEPAGE); /* a wish: refused where shared memory has no huge pages */
	if (populate)
		err = populate_all(map, size);
	if (err)
		goto unmap;
	*hva = map;
	*fd = file;
	return 0;
unmap:
	munmap(map, size);
close_file:
	close(file);
	return err;
}

void ram_free(uint8_t *hva, uint64_t size, int fd)
{
	if (hva)
		munmap(hva, size);
	if (fd >= 0)
		close(fd);
}
