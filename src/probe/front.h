/* SPDX-License-Identifier: BSD-2-Clause */
/* The tests of a back end: tables of them, each in the file of its subject, run one by one in front.c. */
#ifndef GUISE_PROBE_FRONT_H
#define GUISE_PROBE_FRONT_H

#include "probe/session.h"

enum { ONCE = 0, EACH = PROBE_SPLIT | PROBE_PACKED };

struct front_test {
	const char *name;
	const char *what; /* what is tried, for people */
	const char *rule; /* where the specification says so */
	unsigned kind;	  /* PROBE_CONFORMANCE ... */
	unsigned rings;	  /* EACH, PROBE_SPLIT, PROBE_PACKED: with rings of that format; ONCE: whatever was
			     asked for */
	unsigned devices; /* PROBE_NET | PROBE_BLK; 0: both */
	/* Everything it opens is closed by the runner; the verdict is a pass unless it says otherwise. */
	void (*run)(struct probe *p, unsigned argument);
	unsigned argument;
};

/* Each ends with a row without a name. */
extern const struct front_test front_setup_tests[], front_restart_tests[], front_order_tests[],
    front_memory_tests[], front_device_tests[], front_inflight_tests[], front_ring_tests[],
    front_rate_tests[];
/* The same from tables of bad input: test k, or false behind the last. */
bool front_hostile_message_test(unsigned k, struct front_test *test);
bool front_hostile_memory_test(unsigned k, struct front_test *test);
bool front_hostile_ring_test(unsigned k, struct front_test *test);
bool front_hostile_request_test(unsigned k, struct front_test *test);

#endif
