/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Eventfds that callers hand us. We keep our own duplicate, as the kernel keeps a reference: the caller may close its
 * descriptor and still name the eventfd later by another.
 */
#ifndef GUISE_SOFTKVM_API_EVENTFD_H
#define GUISE_SOFTKVM_API_EVENTFD_H

#include <stdbool.h>

/* A duplicate (close-on-exec) of fd: -EBADF, -EINVAL if it is no eventfd, -EMFILE. */
int eventfd_hold(int fd);
/* Do both name the same eventfd? */
bool eventfd_is_same(int a, int b);

#endif
