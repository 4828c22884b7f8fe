/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int parse_uint(const char *text, uint64_t *value)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*value = strtoull(text, &end, 0);
	return errno || *end ? -EINVAL : 0;
}

int parse_size(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	uint64_t n;
	char *end;
	const char *unit;
	unsigned shift = 20;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit)
			return -EINVAL;
		shift = 10 * (unit - units + 1);
		end += 1;
		if (*end == 'i')
			end++;
		if (*end == 'B' || *end == 'b')
			end++;
	}
	if (*end || n > UINT64_MAX >> shift)
		return -EINVAL;
	*bytes = n << shift;
	return 0;
}

static const struct option_def *find(const struct option_def *table, const char *word, size_t len)
{
	for (; table->name; table++)
		if (strlen(table->name) == len && !strncmp(table->name, word, len))
			return table;
	return NULL;
}

static int set_choice(const struct option_def *def, const char *text, char *error, size_t size)
{
	int used;

	for (unsigned k = 0; def->choices[k]; k++) {
		if (!strcmp(def->choices[k], text)) {
			*(unsigned *)def->value = k;
			return 0;
		}
	}
	used = snprintf(error, size, "--%s: '%s' is none of", def->name, text);
	for (unsigned k = 0; def->choices[k] && used > 0 && (size_t)used < size; k++)
		used += snprintf(error + used, size - used, " %s", def->choices[k]);
	return -EINVAL;
}

static int add_to_list(const struct option_def *def, const char *text, char *error, size_t size)
{
	struct option_list *list = def->value;

	if (list->count == OPTION_LIST_MAX) {
		snprintf(error, size, "--%s: more than %d of them", def->name, OPTION_LIST_MAX);
		return -EINVAL;
	}
	list->item[list->count++] = text;
	return 0;
}

static int set_value(const struct option_def *def, const char *text, char *error, size_t size)
{
	uint64_t n;

	switch (def->kind) {
	case OPTION_FLAG:
		break;
	case OPTION_STRING:
		*(const char **)def->value = text;
		return 0;
	case OPTION_CHOICE:
		return set_choice(def, text, error, size);
	case OPTION_SIZE:
		if (!parse_size(text, def->value))
			return 0;
		snprintf(error, size, "--%s: '%s' is not a size such as 512M or 2G", def->name, text);
		return -EINVAL;
	case OPTION_LIST:
		return add_to_list(def, text, error, size);
	case OPTION_UINT:
		if (!parse_uint(text, &n) && n >= def->min && n <= def->max) {
			*(unsigned *)def->value = n;
			return 0;
		}
		snprintf(error, size, "--%s: '%s' is not a number from %u to %u", def->name, text, def->min, def->max);
		return -EINVAL;
	}
	return -EINVAL;
}

/* One option word, argv[*at]; may consume the next. */
static int parse_one(const struct option_def *table, int argc, char **argv, int *at, char *error, size_t size)
{
	const char *word = argv[*at] + 2, *equal = strchr(word, '=');
	size_t len = equal ? (size_t)(equal - word) : strlen(word);
	const struct option_def *def = find(table, word, len);

	if (!def) {
		snprintf(error, size, "unknown option --%.*s", (int)len, word);
		return -EINVAL;
	}
	if (def->kind == OPTION_FLAG) {
		if (equal) {
			snprintf(error, size, "--%s takes no value", def->name);
			return -EINVAL;
		}
		*(bool *)def->value = true;
		return 0;
	}
	if (equal)
		return set_value(def, equal + 1, error, size);
	if (*at + 1 >= argc) {
		snprintf(error, size, "--%s needs a value (%s)", def->name, def->arg);
		return -EINVAL;
	}
	return set_value(def, argv[++*at], error, size);
}

int options_parse(const struct option_def *table, int argc, char **argv, char *error, size_t error_size)
{
	int words = 0, at = 1;

	for (; at < argc && strcmp(argv[at], "--"); at++) {
		if (strncmp(argv[at], "--", 2)) {
			argv[1 + words++] = argv[at];
			continue;
		}
		if (parse_one(table, argc, argv, &at, error, error_size))
			return -EINVAL;
	}
	for (at++; at < argc; at++)
		argv[1 + words++] = argv[at];
	return words;
}

void options_help(FILE *out, const struct option_def *table)
{
	for (; table->name; table++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s", table->name, table->arg ? " " : "", table->arg ? table->arg : "");
		fprintf(out, "  %-28s %s\n", left, table->help);
	}
}
