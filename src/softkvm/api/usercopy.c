/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel is asked, page by page, whether the caller's memory is there; then it is plain memory. Two system calls
 * touch memory and do nothing else: rt_sigprocmask reads its set before it finds that `how` is nonsense, and
 * FUTEX_WAKE_OP that adds 0 writes a word back as it was. Both are some ten times cheaper than process_vm_readv.
 *
 * A caller that unmaps the memory during the call faults as it would by touching it itself. Where a system-call filter
 * does not let us ask, the caller is believed.
 */
#include "softkvm/api/usercopy.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "x86/arch.h"

enum { NO_SUCH_HOW = -1, SIGSET_SIZE = 8, WORD = 8 };

/* A null set is no set to rt_sigprocmask, and it would succeed: nothing of the caller's is there. */
static bool is_readable(uintptr_t page)
{
	if (!page)
		return false;
	return !syscall(SYS_rt_sigprocmask, NO_SUCH_HOW, page, NULL, SIGSET_SIZE) || errno != EFAULT;
}

static bool is_writable(uintptr_t page)
{
	return syscall(SYS_futex, page, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0, page,
		       FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0)) >= 0 ||
	       errno != EFAULT;
}

/* Ask for every page of [user, user+size), by an aligned word that the range touches. */
static int check(uintptr_t user, size_t size, bool (*is_good)(uintptr_t))
{
	uintptr_t last = user + size - 1;

	if (!size)
		return 0;
	if (last < user)
		return -EFAULT;
	for (uintptr_t at = user & ~(uintptr_t)(WORD - 1); at <= last; at = (at & PAGE_MASK) + PAGE_SIZE) {
		if (!is_good(at ? at : WORD)) /* 0 would mean: no set at all */
			return -EFAULT;
		if (at > UINTPTR_MAX - PAGE_SIZE)
			break;
	}
	return 0;
}

int copy_in(void *to, uintptr_t from_user, size_t size)
{
	int err = check(from_user, size, is_readable);

	if (!err)
		memcpy(to, (const void *)from_user, size);
	return err;
}

int copy_out(uintptr_t to_user, const void *from, size_t size)
{
	int err = check(to_user, size, is_writable);

	if (!err)
		memcpy((void *)to_user, from, size);
	return err;
}
