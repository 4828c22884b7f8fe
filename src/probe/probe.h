/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guise probe: tests any vhost-user back end by playing a front end, with a little memory and rings of its
 * own; and any front end by playing a back end.
 *
 * Blocks until done; one at a time per process. Nothing is printed but through the report and the trace.
 */
#ifndef GUISE_PROBE_PROBE_H
#define GUISE_PROBE_PROBE_H

#include <stdbool.h>
#include <stdio.h>

#include "probe/report.h"

enum probe_device { PROBE_NET = 1, PROBE_BLK = 2 }; /* virtio device ids */
enum { PROBE_CONFORMANCE = 1, PROBE_HOSTILE = 2, PROBE_RATE = 4, PROBE_LATENCY = 8, PROBE_ALL = 15 };
enum { PROBE_SPLIT = 1, PROBE_PACKED = 2 };

struct probe_options {
	const char *path;    /* the socket */
	const char *command; /* starts the target, again after a crash; NULL: it runs already */
	bool server;	     /* listen there instead of connecting */
	enum probe_device device;
	unsigned tests;	     /* PROBE_CONFORMANCE ... */
	unsigned rings;	     /* PROBE_SPLIT | PROBE_PACKED */
	unsigned queues;     /* queue pairs (net) or queues (blk) to try at most */
	unsigned seconds;    /* of each measurement */
	unsigned timeout_ms; /* the longest wait for an answer */
	const char *only;    /* run the tests with this in their name; NULL: all */
	const char *skip;    /* run none with this in their name; NULL: skip none */
	FILE *trace;	     /* every message, as it goes or comes; NULL: none */
	bool thorough;	     /* every order of messages instead of a sample */
	bool may_write;	     /* blk: the disk's contents may be overwritten */
};

/* Run what options ask for and put the findings into the report. 0; -errno if nothing could be tried at all.
 */
int probe_front(const struct probe_options *options, struct report *report);

/* The same against a front end, which is to come to the socket (server) or listens there. */
int probe_back(const struct probe_options *options, struct report *report);

/* Print the name and purpose of every test. */
void probe_list_front(FILE *out);
void probe_list_back(FILE *out);

#endif
