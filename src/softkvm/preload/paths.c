/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening /dev/kvm, and the questions whether it is there and what it is: the file need not exist.
 *
 * Programs linked against a glibc before 2.33 ask by __xstat() and its like.
 */
#undef _FILE_OFFSET_BITS /* both open and open64 are defined here, under their own names */
#include "softkvm/preload/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { KVM_MAJOR = 10, KVM_MINOR = 232, PAGE = 4096, STAT_VERSION = 1 };

static bool is_kvm(const char *path)
{
	return path && !strcmp(path, "/dev/kvm");
}

/* Relative to a directory: "kvm" in /dev. */
static bool is_kvm_at(int dir, const char *path)
{
	char link[64], name[8];
	ssize_t n;

	if (!path || strcmp(path, "kvm"))
		return is_kvm(path);
	snprintf(link, sizeof(link), dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
	n = readlink(link, name, sizeof(name));
	return n == 4 && !memcmp(name, "/dev", 4);
}

/* --- opening --- */

static int open_kvm(int flags)
{
	struct softkvm *handle;
	int err = softkvm_open(getenv("GUISE_KVM_ENGINE"), &handle), fd;

	if (err)
		return failed(err);
	softkvm_mapping_watch();
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

int open_if_kvm(int dir, const char *path, int flags)
{
	return is_kvm_at(dir, path) ? open_kvm(flags) : NOT_KVM;
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
	return is_kvm_at(AT_FDCWD, path) ? open_kvm(flags) : NEXT(open)(path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...)
{
	TAKE_MODE(flags, mode)
	return is_kvm_at(AT_FDCWD, path) ? open_kvm(flags) : NEXT(open64)(path, flags, mode);
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	TAKE_MODE(flags, mode)
	return is_kvm_at(dir, path) ? open_kvm(flags) : NEXT(openat)(dir, path, flags, mode);
}

EXPORT int openat64(int dir, const char *path, int flags, ...)
{
	TAKE_MODE(flags, mode)
	return is_kvm_at(dir, path) ? open_kvm(flags) : NEXT(openat64)(dir, path, flags, mode);
}

/* What _FORTIFY_SOURCE makes of open() without a mode. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return is_kvm_at(AT_FDCWD, path) ? open_kvm(flags) : NEXT(__open_2)(path, flags);
}

EXPORT int __open64_2(const char *path, int flags)
{
	return is_kvm_at(AT_FDCWD, path) ? open_kvm(flags) : NEXT(__open64_2)(path, flags);
}

EXPORT int __openat_2(int dir, const char *path, int flags)
{
	return is_kvm_at(dir, path) ? open_kvm(flags) : NEXT(__openat_2)(dir, path, flags);
}

EXPORT int __openat64_2(int dir, const char *path, int flags)
{
	return is_kvm_at(dir, path) ? open_kvm(flags) : NEXT(__openat64_2)(dir, path, flags);
}

/* --- is it there? --- */

static int may_access(int mode)
{
	return mode & X_OK ? failed(-EACCES) : 0;
}

EXPORT int access(const char *path, int mode)
{
	return is_kvm_at(AT_FDCWD, path) ? may_access(mode) : NEXT(access)(path, mode);
}

EXPORT int eaccess(const char *path, int mode)
{
	return is_kvm_at(AT_FDCWD, path) ? may_access(mode) : NEXT(eaccess)(path, mode);
}

EXPORT int euidaccess(const char *path, int mode)
{
	return is_kvm_at(AT_FDCWD, path) ? may_access(mode) : NEXT(euidaccess)(path, mode);
}

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
	return is_kvm_at(dir, path) ? may_access(mode) : NEXT(faccessat)(dir, path, mode, flags);
}

/* --- what is it? --- */

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

/* Does the descriptor, or an empty path relative to it, stand for /dev/kvm itself? */
static bool is_kvm_fd(int fd)
{
	bool foreign;
	struct softkvm *handle = descriptor_find(fd, &foreign);

	return handle && softkvm_is_system(handle);
}

static bool is_kvm_path(int dir, const char *path, int flags)
{
	if (flags & AT_EMPTY_PATH && path && !*path)
		return is_kvm_fd(dir);
	return is_kvm_at(dir, path);
}

EXPORT int stat(const char *restrict path, struct stat *restrict st)
{
	return is_kvm_at(AT_FDCWD, path) ? fill_stat(st) : NEXT(stat)(path, st);
}

EXPORT int stat64(const char *restrict path, struct stat64 *restrict st)
{
	return is_kvm_at(AT_FDCWD, path) ? fill_stat((struct stat *)st) : NEXT(stat64)(path, st);
}

EXPORT int lstat(const char *restrict path, struct stat *restrict st)
{
	return is_kvm_at(AT_FDCWD, path) ? fill_stat(st) : NEXT(lstat)(path, st);
}

EXPORT int lstat64(const char *restrict path, struct stat64 *restrict st)
{
	return is_kvm_at(AT_FDCWD, path) ? fill_stat((struct stat *)st) : NEXT(lstat64)(path, st);
}

EXPORT int fstat(int fd, struct stat *st)
{
	return is_kvm_fd(fd) ? fill_stat(st) : NEXT(fstat)(fd, st);
}

EXPORT int fstat64(int fd, struct stat64 *st)
{
	return is_kvm_fd(fd) ? fill_stat((struct stat *)st) : NEXT(fstat64)(fd, st);
}

EXPORT int fstatat(int dir, const char *restrict path, struct stat *restrict st, int flags)
{
	return is_kvm_path(dir, path, flags) ? fill_stat(st) : NEXT(fstatat)(dir, path, st, flags);
}

EXPORT int fstatat64(int dir, const char *restrict path, struct stat64 *restrict st, int flags)
{
	return is_kvm_path(dir, path, flags) ? fill_stat((struct stat *)st) : NEXT(fstatat64)(dir, path, st, flags);
}

EXPORT int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict st)
{
	if (!is_kvm_path(dir, path, flags))
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

/* --- the same for old binaries; libc's own are these with a version that it checks --- */

int __xstat(int version, const char *path, struct stat *st);
int __xstat64(int version, const char *path, struct stat64 *st);
int __lxstat(int version, const char *path, struct stat *st);
int __lxstat64(int version, const char *path, struct stat64 *st);
int __fxstat(int version, int fd, struct stat *st);
int __fxstat64(int version, int fd, struct stat64 *st);

static int checked(int version)
{
	return version == STAT_VERSION ? 0 : failed(-EINVAL);
}

EXPORT int __xstat(int version, const char *path, struct stat *st)
{
	return checked(version) ? -1 : stat(path, st);
}

EXPORT int __xstat64(int version, const char *path, struct stat64 *st)
{
	return checked(version) ? -1 : stat64(path, st);
}

EXPORT int __lxstat(int version, const char *path, struct stat *st)
{
	return checked(version) ? -1 : lstat(path, st);
}

EXPORT int __lxstat64(int version, const char *path, struct stat64 *st)
{
	return checked(version) ? -1 : lstat64(path, st);
}

EXPORT int __fxstat(int version, int fd, struct stat *st)
{
	return checked(version) ? -1 : fstat(fd, st);
}

EXPORT int __fxstat64(int version, int fd, struct stat64 *st)
{
	return checked(version) ? -1 : fstat64(fd, st);
}
