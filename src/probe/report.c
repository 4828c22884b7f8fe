/* SPDX-License-Identifier: BSD-2-Clause */
/* Findings are kept in order in one array and printed by the two writers below. */
#include "probe/report.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char *const outcome_names[OUTCOMES] = {
    [OUTCOME_PASS] = "pass",	   [OUTCOME_WARNING] = "warning",
    [OUTCOME_FAIL] = "fail",	   [OUTCOME_NOT_APPLICABLE] = "not applicable",
    [OUTCOME_NOT_RUN] = "not run",
};

const char *outcome_name(enum outcome outcome)
{
	return outcome_names[outcome];
}

void report_init(struct report *report, FILE *text, bool verbose)
{
	*report = (struct report){.text = text, .verbose = verbose};
}

void report_deinit(struct report *report)
{
	for (size_t k = 0; k < report->count; k++) {
		struct finding *f = &report->findings[k];

		free(f->group);
		free(f->name);
		free(f->ring);
		free(f->what);
		free(f->rule);
		free(f->detail);
		free(f->evidence);
	}
	free(report->findings);
	free(report->group);
	for (unsigned k = 0; k < report->n_facts; k++) {
		free(report->facts[k][0]);
		free(report->facts[k][1]);
	}
}

static char *copy(struct report *report, const char *text)
{
	char *own = strdup(text ? text : "");

	if (!own)
		report->out_of_memory = true;
	return own;
}

void report_fact(struct report *report, const char *name, const char *format, ...)
{
	char value[2048];
	va_list args;

	va_start(args, format);
	vsnprintf(value, sizeof(value), format, args);
	va_end(args);
	if (report->text)
		fprintf(report->text, "%-18s %s\n", name, value);
	if (report->n_facts < sizeof(report->facts) / sizeof(report->facts[0])) {
		report->facts[report->n_facts][0] = copy(report, name);
		report->facts[report->n_facts++][1] = copy(report, value);
	}
}

/* --- for people --- */

static const char *const marks[OUTCOMES] = {"pass", "warn", "FAIL", "n/a ", "----"};

static void print_indented(FILE *out, const char *lines)
{
	while (*lines) {
		size_t len = strcspn(lines, "\n");

		fprintf(out, "            %.*s\n", (int)len, lines);
		lines += len + (lines[len] == '\n');
	}
}

static void print_finding(struct report *report, const struct finding *f)
{
	char name[64];

	if (!report->group || strcmp(report->group, f->group)) {
		free(report->group);
		report->group = copy(report, f->group);
		fprintf(report->text, "\n%s\n", f->group);
	}
	snprintf(name, sizeof(name), "%s%s%s", f->name, *f->ring ? "/" : "", f->ring);
	fprintf(report->text, "  %s  %-34s %s\n", marks[f->outcome], name,
		*f->detail && f->outcome != OUTCOME_PASS ? f->detail : f->what);
	if (f->outcome == OUTCOME_PASS && *f->detail)
		fprintf(report->text, "          %s\n", f->detail);
	if (f->outcome == OUTCOME_FAIL || f->outcome == OUTCOME_WARNING || report->verbose)
		fprintf(report->text, "          tried: %s\n          rule:  %s\n", f->what, f->rule);
	if (*f->evidence && (f->outcome == OUTCOME_FAIL || report->verbose)) {
		fprintf(report->text, "          last messages (> sent, < received):\n");
		print_indented(report->text, f->evidence);
	}
	fflush(report->text);
}

void report_summary(const struct report *report, FILE *out)
{
	const unsigned *n = report->counts;

	fprintf(out, "\n%u passed, %u failed, %u warnings, %u not applicable", n[OUTCOME_PASS],
		n[OUTCOME_FAIL], n[OUTCOME_WARNING], n[OUTCOME_NOT_APPLICABLE]);
	if (n[OUTCOME_NOT_RUN])
		fprintf(out, ", %u not run", n[OUTCOME_NOT_RUN]);
	fputc('\n', out);
}

/* --- for machines --- */

static void print_string(FILE *out, const char *text)
{
	fputc('"', out);
	for (; text && *text; text++) {
		uint8_t c = (uint8_t)*text;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f) /* not ours to interpret: only ASCII comes from here */
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void print_field(FILE *out, const char *name, const char *value, const char *end)
{
	print_string(out, name);
	fputs(": ", out);
	print_string(out, value);
	fputs(end, out);
}

static void print_figures(FILE *out, const struct finding *f)
{
	for (unsigned k = 0; k < FIGURES_MAX && f->figure[k].name; k++) {
		fputs(k ? ", " : ", \"figures\": {", out);
		print_string(out, f->figure[k].name);
		fprintf(out, ": %.3f%s", f->figure[k].value,
			k + 1 < FIGURES_MAX && f->figure[k + 1].name ? "" : "}");
	}
}

void report_json(const struct report *report, FILE *out)
{
	fputs("{\n\"target\": {", out);
	for (unsigned k = 0; k < report->n_facts; k++)
		print_field(out, report->facts[k][0], report->facts[k][1],
			    k + 1 < report->n_facts ? ", " : "");
	fputs("},\n\"tests\": [", out);
	for (size_t k = 0; k < report->count; k++) {
		const struct finding *f = &report->findings[k];

		fputs(k ? ",\n  {" : "\n  {", out);
		print_field(out, "group", f->group, ", ");
		print_field(out, "name", f->name, ", ");
		print_field(out, "ring", f->ring, ", ");
		print_field(out, "outcome", outcome_names[f->outcome], ", ");
		print_field(out, "what", f->what, ", ");
		print_field(out, "rule", f->rule, ", ");
		print_field(out, "detail", f->detail, ", ");
		print_field(out, "evidence", f->evidence, "");
		print_figures(out, f);
		fputs("}", out);
	}
	fputs("\n],\n\"summary\": {", out);
	for (unsigned k = 0; k < OUTCOMES; k++)
		fprintf(out, "\"%s\": %u%s", outcome_names[k], report->counts[k],
			k + 1 < OUTCOMES ? ", " : "}\n}\n");
}

/* --- both --- */

void report_add(struct report *report, const struct finding *f)
{
	struct finding *grown = realloc(report->findings, (report->count + 1) * sizeof(*grown));

	report->counts[f->outcome]++;
	if (report->text)
		print_finding(report, f);
	if (!grown) {
		report->out_of_memory = true;
		return;
	}
	report->findings = grown;
	grown[report->count] = (struct finding){
	    .outcome = f->outcome,
	    .group = copy(report, f->group),
	    .name = copy(report, f->name),
	    .ring = copy(report, f->ring),
	    .what = copy(report, f->what),
	    .rule = copy(report, f->rule),
	    .detail = copy(report, f->detail),
	    .evidence = copy(report, f->evidence),
	};
	memcpy(grown[report->count++].figure, f->figure, sizeof(f->figure));
}

bool report_is_good(const struct report *report, bool strict)
{
	return !report->counts[OUTCOME_FAIL] && !report->counts[OUTCOME_NOT_RUN] &&
	       report->counts[OUTCOME_PASS] && !report->out_of_memory &&
	       !(strict && report->counts[OUTCOME_WARNING]);
}
