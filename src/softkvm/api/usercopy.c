/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel is asked, page by page, whether the caller's memory is there (memory/probe.c); then it is plain memory.
 *
 * A caller that unmaps the memory during the call faults as it would by touching it itself.
 */
#include "softkvm/api/usercopy.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "memory/memory.h"

enum { WORD = 8 };

/* Ask for every page of [user, user+size), by an aligned word that the range touches. */
static int check(uintptr_t user, size_t size, bool (*is_good)(uintptr_t))
{
	uintptr_t last = user + size - 1;

	if (!size)
		return 0;
	if (last < user)
		return -EFAULT;
	for (uintptr_t at = user & ~(uintptr_t)(WORD - 1); at <= last; at = (at & PAGE_MASK) + PAGE_SIZE) {
		if (!is_good(at))
			return -EFAULT;
		if (at > UINTPTR_MAX - PAGE_SIZE)
			break;
	}
	return 0;
}

int copy_in(void *to, uintptr_t from_user, size_t size)
{
	int err = check(from_user, size, page_is_readable);

	if (!err)
		memcpy(to, (const void *)from_user, size);
	return err;
}

int copy_out(uintptr_t to_user, const void *from, size_t size)
{
	int err = check(to_user, size, page_is_writable);

	if (!err)
		memcpy((void *)to_user, from, size);
	return err;
}
