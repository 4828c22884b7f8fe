/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ioctl, and the life of descriptors: what has to do with /dev/kvm is answered here, all else goes on to libc.
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
#include <unistd.h>

void *preload_next(const char *name)
{
	void *fn = dlsym(RTLD_NEXT, name);

	if (!fn) { /* a libc without it: nobody can have linked against it either */
		fprintf(stderr, "libguise-kvm: libc has no %s\n", name);
		abort();
	}
	return fn;
}

int failed(long err)
{
	errno = (int)-err;
	return -1;
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

static int held_ioctl(struct softkvm *handle, unsigned long request, void *arg)
{
	struct softkvm *child = NULL;
	long ret = request == KVM_RUN ? run_vcpu(handle, (uintptr_t)arg) : softkvm_ioctl(handle, request, (uintptr_t)arg, &child);

	if (ret < 0)
		return failed(ret);
	return child ? make_descriptor(request, child) : (int)ret;
}

/* Handlers run at the end, as when the kernel's ioctl() returns. */
static int kvm_ioctl(struct softkvm *handle, unsigned long request, void *arg)
{
	int ret;

	if (request == KVM_RUN)
		softkvm_run_follows();
	handlers_hold();
	ret = held_ioctl(handle, request, arg);
	handlers_release();
	return ret;
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
	if (foreign && !softkvm_is_system(handle)) /* the kernel: kvm->mm != current->mm */
		return failed(-EIO);
	return kvm_ioctl(handle, (uint32_t)request, arg);
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
