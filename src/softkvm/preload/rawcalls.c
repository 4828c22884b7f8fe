/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * syscall(2), the function: programs and languages that make their system calls by number. What concerns /dev/kvm, its
 * descriptors and mappings goes to the interposed function of that name; everything else, softkvm's own calls among it, to
 * the kernel. Those come while the guest's vector state is live, so the way to the kernel uses no vector registers.
 */
#undef _FILE_OFFSET_BITS
#include "softkvm/preload/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

long guise_syscall(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	if (ret < 0 && ret > -4096) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}

/* The kernel's sigaction has another layout than libc's, but the same first two fields. */
struct kernel_sigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	unsigned long mask;
};

__attribute__((noinline)) static long set_action(int number, const struct kernel_sigaction *in, struct kernel_sigaction *out)
{
	struct sigaction action = {0}, old;

	if (in) {
		action.sa_handler = (sighandler_t)in->handler;
		action.sa_flags = (int)in->flags & ~0x04000000; /* SA_RESTORER is libc's */
		*(unsigned long *)&action.sa_mask = in->mask;
	}
	if (program_sigaction(number, in ? &action : NULL, &old))
		return -1;
	if (out)
		*out = (struct kernel_sigaction){(void *)old.sa_handler, (unsigned long)old.sa_flags, NULL,
						 *(unsigned long *)&old.sa_mask};
	return 0;
}

enum { SIGSET_SIZE = 8 };

__attribute__((noinline)) static long set_mask(int how, const uint64_t *in, uint64_t *out, size_t size)
{
	sigset_t set, old;
	int err;

	if (size != SIGSET_SIZE)
		return failed(-EINVAL);
	sigemptyset(&set);
	if (in)
		*(uint64_t *)&set = *in;
	err = program_sigmask(how, in ? &set : NULL, &old);
	if (err)
		return failed(-err);
	if (out)
		*out = *(uint64_t *)&old;
	return 0;
}

__attribute__((noinline)) static long open_by_how(int dir, const char *path, const struct open_how *how, size_t size)
{
	int fd = size >= sizeof(*how) ? open_if_kvm(dir, path, (int)how->flags) : NOT_KVM;

	return fd == NOT_KVM ? kernel(SYS_openat2, dir, (long)path, (long)how, (long)size, 0, 0) : fd;
}

EXPORT long guise_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (number == SYS_futex || is_ours(__builtin_return_address(0)))
		return kernel(number, a, b, c, d, e, f);
	switch (number) {
	case SYS_ioctl:
		return ioctl((int)a, (unsigned long)b, c);
	case SYS_open:
		return open((const char *)a, (int)b, (mode_t)c);
	case SYS_openat:
		return openat((int)a, (const char *)b, (int)c, (mode_t)d);
	case SYS_openat2:
		return open_by_how((int)a, (const char *)b, (const struct open_how *)c, (size_t)d);
	case SYS_close:
		return close((int)a);
	case SYS_close_range:
		return close_range((unsigned)a, (unsigned)b, (int)c);
	case SYS_dup:
		return dup((int)a);
	case SYS_dup2:
		return dup2((int)a, (int)b);
	case SYS_dup3:
		return dup3((int)a, (int)b, (int)c);
	case SYS_fcntl:
		return fcntl((int)a, (int)b, c);
	case SYS_access:
		return access((const char *)a, (int)b);
	case SYS_faccessat:
		return faccessat((int)a, (const char *)b, (int)c, 0);
	case SYS_faccessat2:
		return faccessat((int)a, (const char *)b, (int)c, (int)d);
	case SYS_stat:
		return stat((const char *)a, (struct stat *)b);
	case SYS_lstat:
		return lstat((const char *)a, (struct stat *)b);
	case SYS_fstat:
		return fstat((int)a, (struct stat *)b);
	case SYS_newfstatat:
		return fstatat((int)a, (const char *)b, (struct stat *)c, (int)d);
	case SYS_statx:
		return statx((int)a, (const char *)b, (int)c, (unsigned)d, (struct statx *)e);
	case SYS_mmap:
		return (long)program_mmap((void *)a, (size_t)b, (int)c, (int)d, (int)e, f);
	case SYS_munmap:
		return program_munmap((void *)a, (size_t)b);
	case SYS_mprotect:
		return program_mprotect((void *)a, (size_t)b, (int)c);
	case SYS_mremap:
		return (long)mremap((void *)a, (size_t)b, (size_t)c, (int)d, (void *)e);
	case SYS_madvise:
		return program_madvise((void *)a, (size_t)b, (int)c);
	case SYS_rt_sigaction:
		return set_action((int)a, (const struct kernel_sigaction *)b, (struct kernel_sigaction *)c);
	case SYS_rt_sigprocmask:
		return set_mask((int)a, (const uint64_t *)b, (uint64_t *)c, (size_t)d);
	}
	return kernel(number, a, b, c, d, e, f);
}
