/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Is a page of this process there? The kernel is asked by system calls that touch memory and do nothing else:
 * rt_sigprocmask reads its set before it finds that `how` is nonsense, and FUTEX_WAKE_OP that adds 0 writes a word back
 * as it was. Both are some ten times cheaper than process_vm_readv. Where a system-call filter does not let us ask, the
 * page counts as there.
 *
 * CPU engines come here, so no vector registers.
 */
#include "memory/memory.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NO_SUCH_HOW = -1, SIGSET_SIZE = 8 };

/* A null set is no set to rt_sigprocmask, and it would succeed: nothing is there. */
bool page_is_readable(uintptr_t word)
{
	if (word < PAGE_SIZE)
		return false;
	return !syscall(SYS_rt_sigprocmask, NO_SUCH_HOW, word, NULL, SIGSET_SIZE) || errno != EFAULT;
}

bool page_is_writable(uintptr_t word)
{
	return syscall(SYS_futex, word, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0, word,
		       FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0)) >= 0 ||
	       errno != EFAULT;
}

static bool is_suspect(const struct mem_slot *slot, uint64_t page)
{
	return __atomic_load_n(&slot->suspect[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1;
}

bool mem_is_backed(const struct mem_slot *slot, uint64_t offset, uint64_t len, enum mem_access access)
{
	if (!slot->suspect || !len)
		return true;
	for (uint64_t page = offset / PAGE_SIZE; page <= (offset + len - 1) / PAGE_SIZE; page++) {
		uintptr_t hva = (uintptr_t)slot->hva + page * PAGE_SIZE;

		if (is_suspect(slot, page) && !(access == MEM_WRITE ? page_is_writable(hva) : page_is_readable(hva)))
			return false;
	}
	return true;
}
