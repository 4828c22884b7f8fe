/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a probe found: one line per test, for people as it happens, or one JSON document at the end. A test
 * that does not apply says so and why; it counts neither as passed nor as failed. A warning is what the
 * specification lets pass with a SHOULD.
 */
#ifndef GUISE_PROBE_REPORT_H
#define GUISE_PROBE_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum outcome {
	OUTCOME_PASS,
	OUTCOME_WARNING,
	OUTCOME_FAIL,
	OUTCOME_NOT_APPLICABLE,
	OUTCOME_NOT_RUN,
	OUTCOMES
};
const char *outcome_name(enum outcome outcome);

struct figure {
	const char *name; /* a constant, with its unit */
	double value;
};
enum { FIGURES_MAX = 6 };

struct finding {
	enum outcome outcome;
	char *group, *name, *ring; /* ring: "split", "packed" or "" */
	char *what;		   /* what was tried */
	char *rule;		   /* where the specification says so */
	char *detail;		   /* what came back; "" if there is nothing to add */
	char *evidence;		   /* the last messages of a failed test, one a line; "" if none */
	struct figure
	    figure[FIGURES_MAX]; /* what was measured, ended by one without a name if there are fewer */
};

struct report {
	FILE *text; /* where lines go as they come, or NULL */
	bool verbose;
	char *group; /* the last group whose heading was printed */
	struct finding *findings;
	size_t count;
	unsigned counts[OUTCOMES];
	char *facts[32][2]; /* name and value of what was learned about the target */
	unsigned n_facts;
	bool out_of_memory;
};

void report_init(struct report *report, FILE *text, bool verbose);
void report_deinit(struct report *report);
/* Something learned about the target: shown, and in the JSON document under "target". Copies both. */
void report_fact(struct report *report, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Copies everything; shows it at once if there is a text stream. */
void report_add(struct report *report, const struct finding *finding);
/* The closing line, or the whole JSON document. */
void report_summary(const struct report *report, FILE *out);
void report_json(const struct report *report, FILE *out);
/* Nothing failed, everything ran, and something passed. strict: and there was no warning. */
bool report_is_good(const struct report *report, bool strict);

#endif
