/* SPDX-License-Identifier: BSD-2-Clause */
/* Threads with names that show in ps, top and gdb: "NAME/role". */
#ifndef GUISE_BASE_THREAD_H
#define GUISE_BASE_THREAD_H

#include <pthread.h>

/*
 * Start fn(arg) on a thread that blocks every signal except the synchronous ones (the main thread takes the others).
 * The kernel keeps 15 characters of the name: of "owner/role" the owner is cut, never the role. 0/-errno.
 */
int thread_start(pthread_t *thread, const char *owner, const char *role, void *(*fn)(void *), void *arg);

#endif
