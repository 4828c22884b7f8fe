/* SPDX-License-Identifier: BSD-2-Clause */
#include "probe/target.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the child, between fork and exec: system calls only. */
static void become(const char *command)
{
	int null = open("/dev/null", O_RDONLY);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	dup2(null, STDIN_FILENO);
	dup2(STDERR_FILENO, STDOUT_FILENO);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

int target_start(struct target *t)
{
	if (!t->command)
		return 0;
	t->pid = fork();
	if (t->pid < 0) {
		t->pid = 0;
		return -errno;
	}
	if (!t->pid)
		become(t->command);
	setpgid(t->pid, t->pid); /* here, too: whoever is first */
	return 0;
}

/* The shell may be gone before what it started: a listener that dies slowly would still take our next
 * connection. */
static void kill_group(pid_t group)
{
	for (unsigned ms = 0; ms < 2000 && !kill(-group, SIGKILL); ms += 5)
		usleep(5000);
}

bool target_has_ended(struct target *t, char *how, size_t size)
{
	int status;

	if (!t->pid || waitpid(t->pid, &status, WNOHANG) != t->pid)
		return false;
	kill_group(t->pid); /* what it may have left */
	t->pid = 0;
	if (WIFSIGNALED(status) || WEXITSTATUS(status) > 128) {
		int sig = WIFSIGNALED(status) ? WTERMSIG(status)
					      : WEXITSTATUS(status) - 128; /* as the shell tells it */

		snprintf(how, size, "was killed by signal %d (%s)", sig, strsignal(sig));
	} else {
		snprintf(how, size, "ended with status %d", WEXITSTATUS(status));
	}
	return true;
}

void target_stop(struct target *t)
{
	if (!t->pid)
		return;
	kill(-t->pid, SIGKILL);
	waitpid(t->pid, NULL, 0);
	kill_group(t->pid);
	t->pid = 0;
}
