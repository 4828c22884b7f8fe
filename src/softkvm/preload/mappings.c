/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the program does with its mappings: the run area of a vCPU is mapped here, and softkvm is told of changes under memory
 * slots (softkvm/api/mapping.c). softkvm's own calls go straight on to libc.
 */
#undef _FILE_OFFSET_BITS
#include "softkvm/preload/preload.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>

enum { PAGE = 4096, ALL_RIGHTS = PROT_READ | PROT_WRITE };

/* --- mmap --- */

/* The run area's last page is the coalesced ring, which a VM's vCPUs share. */
static void *map_run_area(struct softkvm *handle, void *map, size_t size, int prot, off_t offset)
{
	size_t ring = 2 * PAGE;
	int fd = softkvm_ring_fd(handle);

	if (fd < 0 || (uint64_t)offset > ring || size <= ring - (size_t)offset)
		return map;
	if (NEXT(mmap)((char *)map + ring - offset, PAGE, prot, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
		return map;
	NEXT(munmap)(map, size);
	return MAP_FAILED;
}

/* As the kernel's anonymous files: what is neither a vCPU nor a file of the program's cannot be mapped. */
static void *map_handle(struct softkvm *handle, void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	void *map;

	if (!softkvm_run_area(handle)) {
		errno = ENODEV;
		return MAP_FAILED;
	}
	map = NEXT(mmap)(addr, size, prot, flags, fd, offset);
	return map == MAP_FAILED ? map : map_run_area(handle, map, size, prot, offset);
}

/* As softkvm_mapping_begin() and _end(); the program's handlers wait meanwhile, as they do for the kernel's munmap(). */
static bool change_begins(void *addr, size_t size)
{
	handlers_hold();
	if (softkvm_mapping_begin(addr, size))
		return true;
	handlers_release();
	return false;
}

static void change_ends(void *addr, size_t size)
{
	softkvm_mapping_end(addr, size);
	handlers_release();
}

static void replaced(void *addr, size_t size)
{
	handlers_hold();
	softkvm_mapping_replaced(addr, size);
	handlers_release();
}

/* Over an existing mapping. It may be memory of a slot. */
static void *map_over(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	bool stays = (prot & ALL_RIGHTS) == ALL_RIGHTS;
	bool stopped = !stays && change_begins(addr, size);
	void *map = NEXT(mmap)(addr, size, prot, flags, fd, offset);

	if (stopped)
		change_ends(addr, size);
	else if (map != MAP_FAILED)
		replaced(addr, size);
	return map;
}

void *program_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	bool foreign;
	struct softkvm *handle = flags & MAP_ANONYMOUS ? NULL : descriptor_find(fd, &foreign);

	if (handle)
		return map_handle(handle, addr, size, prot, flags, fd, offset);
	if (flags & MAP_FIXED)
		return map_over(addr, size, prot, flags, fd, offset);
	return NEXT(mmap)(addr, size, prot, flags, fd, offset);
}

EXPORT void *mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	if (is_ours(__builtin_return_address(0)))
		return NEXT(mmap)(addr, size, prot, flags, fd, offset);
	return program_mmap(addr, size, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *addr, size_t size, int prot, int flags, int fd, off64_t offset)
{
	if (is_ours(__builtin_return_address(0)))
		return NEXT(mmap)(addr, size, prot, flags, fd, offset);
	return program_mmap(addr, size, prot, flags, fd, offset);
}

/* --- changes --- */

int program_munmap(void *addr, size_t size)
{
	bool stopped = change_begins(addr, size);
	int ret = NEXT(munmap)(addr, size);

	if (stopped)
		change_ends(addr, size);
	return ret;
}

EXPORT int munmap(void *addr, size_t size)
{
	return is_ours(__builtin_return_address(0)) ? NEXT(munmap)(addr, size) : program_munmap(addr, size);
}

int program_mprotect(void *addr, size_t size, int prot)
{
	bool stopped = (prot & ALL_RIGHTS) != ALL_RIGHTS && change_begins(addr, size);
	int ret = NEXT(mprotect)(addr, size, prot);

	if (stopped)
		change_ends(addr, size);
	return ret;
}

EXPORT int mprotect(void *addr, size_t size, int prot)
{
	return is_ours(__builtin_return_address(0)) ? NEXT(mprotect)(addr, size, prot) : program_mprotect(addr, size, prot);
}

/* A key may take rights away from one thread and not from another: not followed further. */
EXPORT int pkey_mprotect(void *addr, size_t size, int prot, int key)
{
	bool stopped = change_begins(addr, size);
	int ret = NEXT(pkey_mprotect)(addr, size, prot, key);

	if (stopped)
		change_ends(addr, size);
	return ret;
}

static bool drops_contents(int advice)
{
	return advice == MADV_DONTNEED || advice == MADV_REMOVE || advice == MADV_FREE;
}

int program_madvise(void *addr, size_t size, int advice)
{
	int ret = NEXT(madvise)(addr, size, advice);

	if (!ret && drops_contents(advice))
		replaced(addr, size);
	return ret;
}

EXPORT int madvise(void *addr, size_t size, int advice)
{
	return is_ours(__builtin_return_address(0)) ? NEXT(madvise)(addr, size, advice) : program_madvise(addr, size, advice);
}

/* What was at the old place is gone there; at the new one it may lie over memory of a slot. */
EXPORT void *mremap(void *old, size_t old_size, size_t new_size, int flags, ...)
{
	bool stopped;
	void *target, *ret;
	va_list args;

	va_start(args, flags);
	target = va_arg(args, void *);
	va_end(args);
	stopped = change_begins(old, old_size);
	ret = NEXT(mremap)(old, old_size, new_size, flags, target);
	if (stopped)
		change_ends(old, old_size);
	if (ret != MAP_FAILED && flags & MREMAP_FIXED && change_begins(ret, new_size))
		change_ends(ret, new_size); /* its rights may be fewer, too */
	return ret;
}
