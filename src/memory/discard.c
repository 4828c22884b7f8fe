/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Giving guest memory back to the host: a hole in the file behind a slot, so that no process that maps it keeps the pages.
 * The range reads as zeroes afterwards and is backed again by the next touch.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "memory/memory.h"

int memory_discard(struct memory *mem, gpa_t gpa, uint64_t len)
{
	struct mem_slot *slot = memory_find(mem, gpa);
	uint64_t offset;
	uint8_t *hva = mem_at(mem, gpa, len, MEM_WRITE);

	if (!hva)
		return -EFAULT;
	offset = gpa - slot->gpa;
	if (slot->fd < 0)
		return madvise(hva, len, MADV_DONTNEED) ? -errno : 0;
	return fallocate(slot->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(slot->fd_offset + offset), (off_t)len) ? -errno : 0;
}
