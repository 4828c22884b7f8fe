/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libguise-kvm.so: softkvm behind the names that a program uses for /dev/kvm. Loaded by LD_PRELOAD (or `guise kvm`).
 *
 *	paths.c		opening /dev/kvm; access, stat and their like
 *	calls.c		ioctl, close, dup...
 *	mappings.c	mmap of the run area; munmap and other changes under memory slots
 *	rawcalls.c	syscall(2) by number
 *	descriptors.c	which file descriptors stand for which softkvm handle
 *	actions.c	the interposed signal functions: a signal ends KVM_RUN, and its handler runs on the way out, as in the kernel
 *	cancel.c	pthread_cancel of a thread inside KVM_RUN
 *	cpuid.c		programs that ask CPUID whether there is hardware virtualization (program.c finds their instructions)
 *
 * Each handle is known to the program by real file descriptors (memfds), so that everything the kernel does with
 * descriptors (fork, poll, fcntl flags, /proc) works by itself; a vCPU's is the memfd of its run area.
 *
 * Limits: a program that enters the kernel by its own instructions (static binaries, Go) is not seen, nor is io_uring, nor
 * a descriptor that comes over a socket. A VM belongs to the process that made it, as in the kernel: after fork the
 * child's ioctls give -EIO.
 */
#ifndef GUISE_PRELOAD_H
#define GUISE_PRELOAD_H

#include <stdbool.h>
#include <signal.h>
#include <stddef.h>
#include <sys/types.h>

#include "softkvm/api/softkvm.h"

#define EXPORT __attribute__((visibility("default")))

/* Is this an address of our own code? softkvm's calls of interposed functions come to us like the program's. */
extern const char guise_text_start[] __asm__("__ehdr_start") __attribute__((visibility("hidden")));
extern const char guise_text_end[] __asm__("etext") __attribute__((visibility("hidden")));
static inline bool is_ours(const void *caller)
{
	return (const char *)caller >= guise_text_start && (const char *)caller < guise_text_end;
}

/* errno = -err; returns -1. */
int failed(long err);

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

/* --- what the program asks for, by whatever way --- */

enum { NOT_KVM = -2 };
/* A descriptor, -1 with errno, or NOT_KVM. */
int open_if_kvm(int dir, const char *path, int flags);
void *program_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
int program_munmap(void *addr, size_t size);
int program_mprotect(void *addr, size_t size, int prot);
int program_madvise(void *addr, size_t size, int advice);
int program_sigaction(int number, const struct sigaction *action, struct sigaction *old);
int program_sigmask(int how, const sigset_t *set, sigset_t *old); /* 0 or an error number, as pthread_sigmask() */

/*
 * --- signals and cancellation while softkvm is at work for the program (actions.c, cancel.c); the calling thread's ---
 * Between the two the program's signal handlers wait, and cancellation does, whatever its type: both may leave the thread's stack
 * by the shortest way. They come in handlers_release(). May be nested.
 */
void handlers_hold(void);
void handlers_release(void);
/* Within: would the thread's own cancellation type have it cancelled at once? */
bool handlers_cancel_at_once(void);
/* KVM_RUN, under handlers_hold(): result or -errno. Ends with -EINTR when the thread is cancelled and would be at once. */
long run_vcpu(struct softkvm *vcpu, uintptr_t arg);

/* --- descriptors.c; any thread --- */

/* Make fd stand for the handle, which the table owns from now on. 0/-errno (the handle is then closed). */
int descriptor_add(int fd, struct softkvm *handle);
/* fd was duplicated: copy stands for the same handle. */
int descriptor_copy(int fd, int copy);
/* fd is about to be closed or overwritten. The handle ends with its last descriptor. */
void descriptor_drop(int fd);
void descriptor_drop_range(unsigned first, unsigned last);
/* getpid(), without the call. Async-signal-safe once a descriptor was added. */
pid_t own_process(void);
/* The handle behind fd, or NULL. *foreign: it was made by another process (before fork). */
struct softkvm *descriptor_find(int fd, bool *foreign);

#endif
