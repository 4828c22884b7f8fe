/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libguise-kvm.so: softkvm behind the names that a program uses for /dev/kvm. Loaded by LD_PRELOAD (or `guise kvm`).
 *
 *	calls.c		the interposed libc functions: open & co., ioctl, mmap, close, dup..., access, stat
 *	descriptors.c	which file descriptors stand for which softkvm handle
 *	actions.c	the interposed signal functions: a handler that runs inside KVM_RUN ends it, as in the kernel
 *
 * Each handle is known to the program by real file descriptors (memfds), so that everything the kernel does with
 * descriptors (fork, poll, fcntl flags, /proc) works by itself; a vCPU's is the memfd of its run area.
 *
 * Limits: a program that makes raw system calls (static binaries, Go) is not seen. A VM belongs to the process that made
 * it, as in the kernel: after fork the child's ioctls give -EIO.
 */
#ifndef GUISE_PRELOAD_H
#define GUISE_PRELOAD_H

#include <stdbool.h>
#include <signal.h>

#include "softkvm/api/softkvm.h"

#define EXPORT __attribute__((visibility("default")))

/* The next definition of a libc function, looked up once. `name` must be an identifier. */
void *preload_next(const char *name);
#define NEXT(name)                                                                     \
	({                                                                             \
		static __typeof__(&name) _Atomic next_;                                \
		__typeof__(&name) fn_ = next_;                                         \
		if (!fn_)                                                              \
			next_ = fn_ = (__typeof__(&name))preload_next(#name);          \
		fn_;                                                                   \
	})

/* --- descriptors.c; any thread --- */

/* Make fd stand for the handle, which the table owns from now on. 0/-errno (the handle is then closed). */
int descriptor_add(int fd, struct softkvm *handle);
/* fd was duplicated: copy stands for the same handle. */
int descriptor_copy(int fd, int copy);
/* fd is about to be closed or overwritten. The handle ends with its last descriptor. */
void descriptor_drop(int fd);
void descriptor_drop_range(unsigned first, unsigned last);
/* The handle behind fd, or NULL. *foreign: it was made by another process (before fork). */
struct softkvm *descriptor_find(int fd, bool *foreign);

#endif
