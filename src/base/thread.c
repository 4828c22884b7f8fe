/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/thread.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 16 };

static void name_thread(pthread_t thread, const char *owner, const char *role)
{
	char name[NAME_SIZE];
	int room = NAME_SIZE - 2 - (int)strlen(role);

	snprintf(name, sizeof(name), "%.*s/%s", room > 0 ? room : 0, owner, role);
	pthread_setname_np(thread, name);
}

int thread_start(pthread_t *thread, const char *owner, const char *role, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGTRAP);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* inherited by the new thread */
	err = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		name_thread(*thread, owner, role);
	return -err;
}
