/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Command-line options from a table. Both "--name value" and "--name=value" are taken; "--" ends options. The
 * same table prints the help, so the two cannot disagree.
 */
#ifndef GUISE_BASE_OPTIONS_H
#define GUISE_BASE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum option_kind {
	OPTION_FLAG,   /* bool *: set to true */
	OPTION_STRING, /* const char **: points into argv */
	OPTION_SIZE,   /* uint64_t *: bytes, with K, M, G, T (powers of 1024; a bare number counts as MiB) */
	OPTION_UINT,   /* unsigned *: in [min, max] */
	OPTION_CHOICE, /* unsigned *: index into `choices` */
	OPTION_LIST    /* struct option_list *: every time the option is given */
};

enum { OPTION_LIST_MAX = 16 };
struct option_list {
	const char *item[OPTION_LIST_MAX]; /* point into argv */
	unsigned count;
};

struct option_def {
	const char *name; /* without dashes; NULL ends the table */
	enum option_kind kind;
	void *value;
	const char *arg; /* what the help calls the argument */
	const char *help;
	const char *const *choices; /* OPTION_CHOICE: NULL-terminated */
	unsigned min, max;	    /* OPTION_UINT */
};

/*
 * Parse argv[1..argc). Words that are no options are moved to the front (argv[1..]) in order; returns their count,
 * or -EINVAL after writing what is wrong to `error`.
 */
int options_parse(const struct option_def *table, int argc, char **argv, char *error, size_t error_size);
void options_help(FILE *out, const struct option_def *table);

/* "512M" → bytes; 0/-EINVAL. A bare number counts in MiB. */
int parse_size(const char *text, uint64_t *bytes);
int parse_uint(const char *text, uint64_t *value); /* decimal or 0x; whole string; 0/-EINVAL */

#endif
