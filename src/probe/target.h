/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The program under test, when the probe is to start it: a shell command in a process group of its own,
 * started again after it died, so that one crash does not end the test of the rest, and so that its last
 * status is known.
 */
#ifndef GUISE_PROBE_TARGET_H
#define GUISE_PROBE_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct target {
	const char *command; /* NULL: somebody else runs it */
	pid_t pid;	     /* 0: not running */
};

/* 0/-errno. Its output goes to our standard error; it ends when we do. */
int target_start(struct target *t);
/* Has it ended? Then says how: "ended with status 1", "was killed by signal 11 (Segmentation fault)". */
bool target_has_ended(struct target *t, char *how, size_t size);
/* Kill it and all that it started. */
void target_stop(struct target *t);

#endif
