/* SPDX-License-Identifier: BSD-2-Clause */
#include "softkvm/api/eventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_eventfd(int fd)
{
	char path[64], target[64] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (readlink(path, target, sizeof(target) - 1) < 0)
		return true; /* no /proc: believe the caller */
	return !strcmp(target, "anon_inode:[eventfd]");
}

int eventfd_hold(int fd)
{
	int copy;

	if (fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	if (!is_eventfd(fd))
		return -EINVAL;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return copy < 0 ? -errno : copy;
}

/* The kernel's number of the eventfd, where kcmp(2) is not to be had; -1: not told. */
static long eventfd_number(int fd)
{
	char path[64], line[128];
	long number = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "eventfd-id: %ld", &number) == 1)
			break;
	fclose(f);
	return number;
}

bool eventfd_is_same(int a, int b)
{
	long order = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);

	if (order >= 0)
		return order == 0;
	return errno != EBADF && eventfd_number(a) >= 0 && eventfd_number(a) == eventfd_number(b);
}
