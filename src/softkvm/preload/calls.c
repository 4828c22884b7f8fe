/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The interposed functions: what has to do with /dev/kvm is answered here, all else goes on to libc.
 */
#undef _FILE_OFFSET_BITS /* both open and open64 are defined here, under their own names */
#include "softkvm/preload/preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { KVM_MAJOR = 10, KVM_MINOR = 232, PAGE = 4096 };

void *preload_next(const char *name)
{
	void *fn = dlsym(RTLD_NEXT, name);

	if (!fn) { /* a libc without it: nobody can have linked against it either */
		fprintf(stderr, "libguise-kvm: libc has no %s\n", name);
		abort();
	}
	return fn;
}

static bool is_kvm(const char *path)
{
	return path && !strcmp(path, "/dev/kvm");
}

static int failed(long err)
{
	errno = (int)-err;
	return -1;
}

/* --- opening --- */

static int open_kvm(int flags)
{
	struct softkvm *handle;
	int err = softkvm_open(getenv("GUISE_KVM_ENGINE"), &handle), fd;

	if (err)
		return failed(err);
	fd = memfd_create("guise-kvm", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (fd < 0) {
		softkvm_close(handle);
		return -1;
	}
	err = descriptor_add(fd, handle);
	if (err) {
		NEXT(close)(fd);
		return failed(err);
	}
	return fd;
}

#define TAKE_MODE(flags, mode)                             \
	mode_t mode = 0;                                   \
	if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
		va_list args_;                             \
		va_start(args_, flags);                    \
		mode = va_arg(args_, mode_t);              \
		va_end(args_);                             \
	}

EXPORT int open(const char *path, int flags, ...)
{
	TAKE_MODE(flags, mode)
	return is_kvm(path) ? open_kvm(flags) : NEXT(open)(path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...)
{
	TAKE_MODE(flags, mode)
	return is_kvm(path) ? open_kvm(flags) : NEXT(open64)(path, flags, mode);
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	TAKE_MODE(flags, mode)
	return is_kvm(path) ? open_kvm(flags) : NEXT(openat)(dir, path, flags, mode);
}

EXPORT int openat64(int dir, const char *path, int flags, ...)
{
	TAKE_MODE(flags, mode)
	return is_kvm(path) ? open_kvm(flags) : NEXT(openat64)(dir, path, flags, mode);
}

/* What _FORTIFY_SOURCE makes of open() without a mode. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return is_kvm(path) ? open_kvm(flags) : NEXT(__open_2)(path, flags);
}

EXPORT int __open64_2(const char *path, int flags)
{
	return is_kvm(path) ? open_kvm(flags) : NEXT(__open64_2)(path, flags);
}

/* --- is it there? --- */

EXPORT int access(const char *path, int mode)
{
	if (is_kvm(path))
		return mode & X_OK ? failed(-EACCES) : 0;
	return NEXT(access)(path, mode);
}

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
	if (is_kvm(path))
		return mode & X_OK ? failed(-EACCES) : 0;
	return NEXT(faccessat)(dir, path, mode, flags);
}

static int fill_stat(struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_mode = S_IFCHR | 0666;
	st->st_rdev = makedev(KVM_MAJOR, KVM_MINOR);
	st->st_nlink = 1;
	st->st_ino = 1;
	st->st_blksize = PAGE;
	return 0;
}

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "one layout on x86-64");

EXPORT int stat(const char *restrict path, struct stat *restrict st)
{
	return is_kvm(path) ? fill_stat(st) : NEXT(stat)(path, st);
}

EXPORT int stat64(const char *restrict path, struct stat64 *restrict st)
{
	return is_kvm(path) ? fill_stat((struct stat *)st) : NEXT(stat64)(path, st);
}

EXPORT int lstat(const char *restrict path, struct stat *restrict st)
{
	return is_kvm(path) ? fill_stat(st) : NEXT(lstat)(path, st);
}

EXPORT int lstat64(const char *restrict path, struct stat64 *restrict st)
{
	return is_kvm(path) ? fill_stat((struct stat *)st) : NEXT(lstat64)(path, st);
}

EXPORT int fstatat(int dir, const char *restrict path, struct stat *restrict st, int flags)
{
	return is_kvm(path) ? fill_stat(st) : NEXT(fstatat)(dir, path, st, flags);
}

EXPORT int fstatat64(int dir, const char *restrict path, struct stat64 *restrict st, int flags)
{
	return is_kvm(path) ? fill_stat((struct stat *)st) : NEXT(fstatat64)(dir, path, st, flags);
}

EXPORT int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict st)
{
	if (!is_kvm(path))
		return NEXT(statx)(dir, path, flags, mask, st);
	memset(st, 0, sizeof(*st));
	st->stx_mask = STATX_BASIC_STATS;
	st->stx_mode = S_IFCHR | 0666;
	st->stx_rdev_major = KVM_MAJOR;
	st->stx_rdev_minor = KVM_MINOR;
	st->stx_nlink = 1;
	st->stx_ino = 1;
	st->stx_blksize = PAGE;
	return 0;
}

/* --- ioctl --- */

/* A descriptor for a new VM or vCPU, close-on-exec as the kernel's are. */
static int make_descriptor(unsigned long request, struct softkvm *child)
{
	int fd = request == KVM_CREATE_VCPU ? fcntl(softkvm_run_fd(child), F_DUPFD_CLOEXEC, 0) : memfd_create("guise-kvm-vm", MFD_CLOEXEC);
	int err;

	if (fd < 0) {
		softkvm_close(child);
		return -1;
	}
	err = descriptor_add(fd, child);
	if (err) {
		NEXT(close)(fd);
		return failed(err);
	}
	return fd;
}

static int kvm_ioctl(struct softkvm *handle, unsigned long request, void *arg)
{
	struct softkvm *child = NULL;
	long ret = softkvm_ioctl(handle, request, (uintptr_t)arg, &child);

	if (ret < 0)
		return failed(ret);
	return child ? make_descriptor(request, child) : (int)ret;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	struct softkvm *handle = NULL;
	bool foreign = false;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (_IOC_TYPE(request) == KVMIO)
		handle = descriptor_find(fd, &foreign);
	if (!handle)
		return NEXT(ioctl)(fd, request, arg);
	if (foreign) /* the kernel: kvm->mm != current->mm */
		return failed(-EIO);
	return kvm_ioctl(handle, (uint32_t)request, arg);
}

/* --- mmap: the run area, whose last page is the coalesced ring that a VM's vCPUs share --- */

static void *map_run_area(struct softkvm *handle, void *map, size_t size, int prot, off_t offset)
{
	size_t ring = 2 * PAGE;
	int fd = softkvm_ring_fd(handle);

	if (fd < 0 || (uint64_t)offset > ring || size <= ring - (size_t)offset)
		return map;
	if (NEXT(mmap)((char *)map + ring - offset, PAGE, prot, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
		return map;
	munmap(map, size);
	return MAP_FAILED;
}

EXPORT void *mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	bool foreign;
	struct softkvm *handle = fd >= 0 ? descriptor_find(fd, &foreign) : NULL;
	void *map = NEXT(mmap)(addr, size, prot, flags, fd, offset);

	return handle && map != MAP_FAILED && softkvm_run_area(handle) ? map_run_area(handle, map, size, prot, offset) : map;
}

EXPORT void *mmap64(void *addr, size_t size, int prot, int flags, int fd, off64_t offset)
{
	return mmap(addr, size, prot, flags, fd, offset);
}

/* --- the life of descriptors --- */

EXPORT int close(int fd)
{
	descriptor_drop(fd);
	return NEXT(close)(fd);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	if (!(flags & (int)CLOSE_RANGE_CLOEXEC))
		descriptor_drop_range(first, last);
	return NEXT(close_range)(first, last, flags);
}

EXPORT void closefrom(int first)
{
	descriptor_drop_range(first < 0 ? 0 : (unsigned)first, ~0u);
	NEXT(closefrom)(first);
}

/* The copy of a descriptor that was just made. */
static int copied(int fd, int copy)
{
	int err = copy < 0 ? 0 : descriptor_copy(fd, copy);

	if (!err)
		return copy;
	NEXT(close)(copy);
	return failed(err);
}

EXPORT int dup(int fd)
{
	return copied(fd, NEXT(dup)(fd));
}

EXPORT int dup2(int fd, int copy)
{
	int ret;

	if (fd == copy)
		return NEXT(dup2)(fd, copy);
	ret = NEXT(dup2)(fd, copy);
	if (ret >= 0)
		descriptor_drop(copy);
	return copied(fd, ret);
}

EXPORT int dup3(int fd, int copy, int flags)
{
	int ret = NEXT(dup3)(fd, copy, flags);

	if (ret >= 0)
		descriptor_drop(copy);
	return copied(fd, ret);
}

static int duplicates(int command)
{
	return command == F_DUPFD || command == F_DUPFD_CLOEXEC;
}

EXPORT int fcntl(int fd, int command, ...)
{
	va_list args;
	void *arg;
	int ret;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	ret = NEXT(fcntl)(fd, command, arg);
	return duplicates(command) ? copied(fd, ret) : ret;
}

EXPORT int fcntl64(int fd, int command, ...)
{
	va_list args;
	void *arg;
	int ret;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	ret = NEXT(fcntl64)(fd, command, arg);
	return duplicates(command) ? copied(fd, ret) : ret;
}
