/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The SIGBUS handler finds the mapping of a faulting address in a table that it can read at any instant: entries are
 * published by their length and taken back before the memory is unmapped. What is not in the table goes where it
 * went before.
 */
#include "vhost/shared_map.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { MAX_GUARDS = 4096 };

static struct guard {
	_Atomic uintptr_t base;
	_Atomic size_t length; /* 0: not in use. Stored last, with release: pairs with the handler's acquire */
	_Atomic int trouble_fd;
} guards[MAX_GUARDS];

static _Atomic unsigned n_guards; /* entries that were ever used */
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER; /* of writers */
static struct sigaction previous;

static struct guard *guard_of(uintptr_t address)
{
	unsigned n = atomic_load_explicit(&n_guards, memory_order_acquire);

	for (unsigned k = 0; k < n; k++) {
		size_t length = atomic_load_explicit(&guards[k].length, memory_order_acquire);

		if (length && address - atomic_load_explicit(&guards[k].base, memory_order_relaxed) < length)
			return &guards[k];
	}
	return NULL;
}

static void pass_on(int signal, siginfo_t *info, void *context)
{
	if (previous.sa_flags & SA_SIGINFO && previous.sa_sigaction) {
		previous.sa_sigaction(signal, info, context);
	} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(signal);
	} else {
		struct sigaction dfl = { .sa_handler = SIG_DFL };

		sigaction(signal, &dfl, NULL); /* the access faults again, and now for good */
	}
}

static void handle(int signal, siginfo_t *info, void *context)
{
	struct guard *g = info->si_code > 0 ? guard_of((uintptr_t)info->si_addr) : NULL;
	int saved = errno;
	uint64_t one = 1;

	if (!g || mmap((void *)atomic_load(&g->base), atomic_load(&g->length), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		pass_on(signal, info, context);
	else if (write(atomic_load(&g->trouble_fd), &one, sizeof(one)) < 0)
		errno = saved; /* it is signalled already */
	errno = saved;
}

/* With guard_lock held, for each mapping: who embeds us may have taken the signal back since. */
static void install(void)
{
	struct sigaction action = { .sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK }, now;

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, NULL, &now) || (now.sa_flags & SA_SIGINFO && now.sa_sigaction == handle))
		return;
	previous = now;
	sigaction(SIGBUS, &action, NULL);
}

static int guard_add(void *base, size_t length, int trouble_fd)
{
	unsigned k;

	pthread_mutex_lock(&guard_lock);
	install();
	for (k = 0; k < MAX_GUARDS && atomic_load_explicit(&guards[k].length, memory_order_relaxed); k++)
		;
	if (k < MAX_GUARDS) {
		atomic_store_explicit(&guards[k].base, (uintptr_t)base, memory_order_relaxed);
		atomic_store_explicit(&guards[k].trouble_fd, trouble_fd, memory_order_relaxed);
		atomic_store_explicit(&guards[k].length, length, memory_order_release);
		if (k >= atomic_load(&n_guards))
			atomic_store(&n_guards, k + 1);
	}
	pthread_mutex_unlock(&guard_lock);
	return k < MAX_GUARDS ? 0 : -ENOSPC;
}

static void guard_del(void *base)
{
	pthread_mutex_lock(&guard_lock);
	for (unsigned k = 0; k < MAX_GUARDS; k++)
		if (atomic_load(&guards[k].length) && atomic_load(&guards[k].base) == (uintptr_t)base)
			atomic_store(&guards[k].length, 0);
	pthread_mutex_unlock(&guard_lock);
}

/* What the file system maps in: huge pages' files take only multiples of theirs. */
static uint64_t granule_of(int fd)
{
	struct statfs fs;

	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize >= 4096)
		return (uint64_t)fs.f_bsize;
	return 4096;
}

static bool too_short(int fd, uint64_t end)
{
	struct stat st;

	return fstat(fd, &st) || (S_ISREG(st.st_mode) && (uint64_t)st.st_size < end);
}

int shared_map_open(struct shared_map *map, int fd, uint64_t offset, uint64_t size, int trouble_fd)
{
	uint64_t granule = granule_of(fd), start = offset & ~(granule - 1), end;
	void *base;
	int err;

	*map = (struct shared_map){ 0 };
	if (!size || offset > INT64_MAX - size)
		return -EINVAL;
	if (too_short(fd, offset + size))
		return -ENXIO;
	end = (offset + size + granule - 1) & ~(granule - 1);
	base = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
	if (base == MAP_FAILED)
		return -errno;
	madvise(base, end - start, MADV_DONTDUMP);
	err = guard_add(base, end - start, trouble_fd);
	if (err) {
		munmap(base, end - start);
		return err;
	}
	*map = (struct shared_map){ (uint8_t *)base + (offset - start), size, base, end - start };
	return 0;
}

void shared_map_close(struct shared_map *map)
{
	if (!map->base)
		return;
	guard_del(map->base);
	munmap(map->base, map->length);
	*map = (struct shared_map){ 0 };
}
