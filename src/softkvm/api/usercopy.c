/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel copies for us: process_vm_readv and _writev on our own process answer EFAULT for addresses that are not
 * mapped so. A process may always do this to itself; where a system-call filter forbids it, the caller shares our
 * address space anyway and is believed.
 */
#include "softkvm/api/usercopy.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

typedef ssize_t vm_copy(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long);

static int copy(vm_copy *kernel_copy, void *mine, uintptr_t user, size_t size, int *refused)
{
	struct iovec local = {mine, size}, remote = {(void *)user, size};
	ssize_t n;

	*refused = 0;
	if (!size)
		return 0;
	if (user + size < user)
		return -EFAULT;
	n = kernel_copy(getpid(), &local, 1, &remote, 1, 0);
	if (n == (ssize_t)size)
		return 0;
	*refused = n < 0 && (errno == ENOSYS || errno == EPERM);
	return -EFAULT;
}

int copy_in(void *to, uintptr_t from_user, size_t size)
{
	int refused, err = copy(process_vm_readv, to, from_user, size, &refused);

	if (!refused)
		return err;
	memcpy(to, (const void *)from_user, size);
	return 0;
}

int copy_out(uintptr_t to_user, const void *from, size_t size)
{
	int refused, err = copy(process_vm_writev, (void *)(uintptr_t)from, to_user, size, &refused);

	if (!refused)
		return err;
	memcpy((void *)to_user, from, size);
	return 0;
}
