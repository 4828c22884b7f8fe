/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading and writing the caller's memory at an address that may be bad, as the kernel does: -EFAULT, never SIGSEGV.
 */
#ifndef GUISE_SOFTKVM_API_USERCOPY_H
#define GUISE_SOFTKVM_API_USERCOPY_H

#include <stddef.h>
#include <stdint.h>

/* 0 or -EFAULT (a prefix may have been copied). Any thread. */
int copy_in(void *to, uintptr_t from_user, size_t size);
int copy_out(uintptr_t to_user, const void *from, size_t size);

#endif
