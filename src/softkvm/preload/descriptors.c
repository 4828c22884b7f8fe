/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table of descriptors: two levels, so that look-ups take no lock. Entries change under `lock`; a look-up reads one
 * pointer. Using a descriptor while another thread closes it is a race of the program's own making; in the kernel the
 * file would live on until the call returns, so a shared entry is freed only when its users are gone.
 */
#include "softkvm/preload/preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK = 1024, CHUNKS = 1024 }; /* descriptors 0 .. 2^20 - 1 */

struct shared {
	struct softkvm *handle;
	unsigned descriptors; /* protected by lock */
	pid_t owner;
};

static _Atomic(_Atomic(struct shared *) *) table[CHUNKS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The program's handlers may close descriptors: they wait. */
static void lock_table(void)
{
	handlers_hold();
	pthread_mutex_lock(&lock);
}

static void unlock_table(void)
{
	pthread_mutex_unlock(&lock);
	handlers_release();
}

static _Atomic(struct shared *) *entry(int fd, bool make)
{
	_Atomic(struct shared *) *chunk;

	if (fd < 0 || fd >= CHUNK * CHUNKS)
		return NULL;
	chunk = atomic_load_explicit(&table[fd / CHUNK], memory_order_acquire); /* pairs with the store below */
	if (!chunk && make) {
		chunk = calloc(CHUNK, sizeof(*chunk));
		if (chunk)
			atomic_store_explicit(&table[fd / CHUNK], chunk, memory_order_release);
	}
	return chunk ? &chunk[fd % CHUNK] : NULL;
}

/*
 * The process's number, which every request asks for. The word that keeps it is zero in a child after fork, however that was made,
 * and is shared after vfork, as the memory of a VM is. No system call, as filters of VMMs forbid what they do not make themselves.
 */
pid_t own_process(void)
{
	static _Atomic(_Atomic pid_t *) kept;
	_Atomic pid_t *word = atomic_load_explicit(&kept, memory_order_acquire), *none = NULL;
	pid_t pid;

	if (!word) {
		word = NEXT(mmap)(NULL, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (word == MAP_FAILED)
			return getpid();
		if (NEXT(madvise)(word, sysconf(_SC_PAGESIZE), MADV_WIPEONFORK) || !atomic_compare_exchange_strong(&kept, &none, word)) {
			NEXT(munmap)(word, sysconf(_SC_PAGESIZE));
			return getpid();
		}
	}
	pid = atomic_load_explicit(word, memory_order_relaxed);
	if (!pid) {
		pid = getpid();
		atomic_store_explicit(word, pid, memory_order_relaxed);
	}
	return pid;
}

static void put(struct shared *shared)
{
	if (--shared->descriptors)
		return;
	if (shared->owner == own_process())
		softkvm_close(shared->handle);
	free(shared);
}

int descriptor_add(int fd, struct softkvm *handle)
{
	struct shared *shared = malloc(sizeof(*shared));
	_Atomic(struct shared *) *e;

	lock_table();
	e = entry(fd, true);
	if (shared && e) {
		*shared = (struct shared){handle, 1, own_process()};
		atomic_store_explicit(e, shared, memory_order_release);
	}
	unlock_table();
	if (shared && e)
		return 0;
	free(shared);
	softkvm_close(handle);
	return -ENOMEM;
}

int descriptor_copy(int fd, int copy)
{
	_Atomic(struct shared *) *from, *to;
	struct shared *shared = NULL;
	int err = 0;

	lock_table();
	from = entry(fd, false);
	if (from)
		shared = *from;
	if (shared) {
		to = entry(copy, true);
		if (to) {
			shared->descriptors++;
			atomic_store_explicit(to, shared, memory_order_release);
		} else {
			err = -ENOMEM;
		}
	}
	unlock_table();
	return err;
}

static void drop_locked(int fd)
{
	_Atomic(struct shared *) *e = entry(fd, false);
	struct shared *shared = e ? atomic_exchange(e, NULL) : NULL;

	if (shared)
		put(shared);
}

void descriptor_drop(int fd)
{
	_Atomic(struct shared *) *e = entry(fd, false);

	if (!e || !atomic_load_explicit(e, memory_order_relaxed))
		return; /* nearly every close() of the program */
	lock_table();
	drop_locked(fd);
	unlock_table();
}

void descriptor_drop_range(unsigned first, unsigned last)
{
	if (last >= CHUNK * CHUNKS)
		last = CHUNK * CHUNKS - 1;
	for (unsigned long fd = first; fd <= last; fd++) {
		if (!table[fd / CHUNK]) {
			fd |= CHUNK - 1;
			continue;
		}
		descriptor_drop((int)fd);
	}
}

struct softkvm *descriptor_find(int fd, bool *foreign)
{
	_Atomic(struct shared *) *e = entry(fd, false);
	struct shared *shared = e ? atomic_load_explicit(e, memory_order_acquire) : NULL;

	if (!shared)
		return NULL;
	*foreign = shared->owner != own_process();
	return shared->handle;
}
