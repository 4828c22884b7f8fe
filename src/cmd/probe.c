/* SPDX-License-Identifier: BSD-2-Clause */
/* guise probe: tests another program's vhost-user socket. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"
#include "probe/probe.h"

static const char *const test_names[] = {"conformance", "hostile", "rate", "latency", "all", NULL};
enum { ALL = 4 }; /* place in test_names */
static const char *const ring_names[] = {"both", "split", "packed", NULL};
static const char *const type_names[] = {"net", "blk", NULL};

struct arguments {
	bool help, server, json, verbose, thorough, write, strict, list, trace;
	unsigned test, ring, type, queues, timeout, seconds;
	const char *only, *skip, *run;
};

static const char usage[] =
    "Usage: guise probe front PATH [OPTION...]\n"
    "       guise probe back PATH [OPTION...]\n\n"
    "front: play a front end against the vhost-user back end at the socket PATH.\n"
    "back:  play a back end for the vhost-user front end at the socket PATH, mostly with --server.\n"
    "Reports what the other side does right and wrong.\n\n";

static void print_help(const struct option_def *table)
{
	fputs(usage, stdout);
	options_help(stdout, table);
	puts("\nThe exit status is 0 if every test that applied passed, 1 if one failed or could not run, 2 "
	     "for a wrong command line.");
}

static int run_tests(bool front, const char *path, const struct arguments *a)
{
	const struct probe_options options = {
	    .path = path,
	    .command = a->run,
	    .server = a->server,
	    .device = a->type ? PROBE_BLK : PROBE_NET,
	    .tests = a->test == ALL ? PROBE_ALL : 1u << a->test,
	    .rings = a->ring ? a->ring : PROBE_SPLIT | PROBE_PACKED,
	    .queues = a->queues,
	    .timeout_ms = a->timeout * 1000,
	    .seconds = a->seconds,
	    .only = a->only,
	    .skip = a->skip,
	    .trace = a->trace ? stderr : NULL,
	    .thorough = a->thorough,
	    .may_write = a->write,
	};
	struct report report;
	bool good;
	int err;

	report_init(&report, a->json ? NULL : stdout, a->verbose);
	err = front ? probe_front(&options, &report) : probe_back(&options, &report);
	if (!err && a->json)
		report_json(&report, stdout);
	else if (!err)
		report_summary(&report, stdout);
	good = !err && report_is_good(&report, a->strict);
	report_deinit(&report);
	if (err)
		fprintf(stderr, "guise probe: %s: %s\n", path, strerror(-err));
	return good ? STATUS_OK : STATUS_FAILED;
}

int cmd_probe(int argc, char **argv)
{
	struct arguments a = { .queues = 2, .timeout = 5, .seconds = 2, .test = ALL };
	const struct option_def table[] = {
		{ .name = "server", .kind = OPTION_FLAG, .value = &a.server,
		  .help = "listen at PATH instead of connecting to it" },
		{ .name = "type", .kind = OPTION_CHOICE, .value = &a.type, .arg = "TYPE", .choices = type_names,
		  .help = "the device: net (default) or blk" },
		{ .name = "test", .kind = OPTION_CHOICE, .value = &a.test, .arg = "WHICH", .choices = test_names,
		  .help = "conformance, hostile, rate, latency or all (default)" },
		{ .name = "ring", .kind = OPTION_CHOICE, .value = &a.ring, .arg = "FORMAT", .choices = ring_names,
		  .help = "split, packed or both (default)" },
		{ .name = "queues", .kind = OPTION_UINT, .value = &a.queues, .arg = "N", .min = 1, .max = 4,
		  .help = "queue pairs (net) or queues (blk) to try at most (default 2)" },
		{ .name = "seconds", .kind = OPTION_UINT, .value = &a.seconds, .arg = "S", .min = 1, .max = 3600,
		  .help = "seconds for each measurement (default 2)" },
		{ .name = "timeout", .kind = OPTION_UINT, .value = &a.timeout, .arg = "S", .min = 1, .max = 3600,
		  .help = "seconds to wait for an answer (default 5)" },
		{ .name = "run", .kind = OPTION_STRING, .value = &a.run, .arg = "COMMAND",
		  .help = "start the target by this shell command, and again when it crashed" },
		{ .name = "only", .kind = OPTION_STRING, .value = &a.only, .arg = "TEXT",
		  .help = "only tests with TEXT in their name" },
		{ .name = "skip", .kind = OPTION_STRING, .value = &a.skip, .arg = "TEXT",
		  .help = "leave out tests with TEXT in their name" },
		{ .name = "thorough", .kind = OPTION_FLAG, .value = &a.thorough,
		  .help = "every order of messages, not a sample" },
		{ .name = "write", .kind = OPTION_FLAG, .value = &a.write,
		  .help = "blk: sectors of the disk may be overwritten" },
		{ .name = "strict", .kind = OPTION_FLAG, .value = &a.strict, .help = "a warning counts as a failure" },
		{ .name = "json", .kind = OPTION_FLAG, .value = &a.json, .help = "the report as one JSON document" },
		{ .name = "verbose", .kind = OPTION_FLAG, .value = &a.verbose, .help = "rule and messages of every test" },
		{ .name = "trace", .kind = OPTION_FLAG, .value = &a.trace,
		  .help = "every message, decoded, on standard error as it goes or comes" },
		{ .name = "list", .kind = OPTION_FLAG, .value = &a.list, .help = "print every test's name and purpose" },
		{ .name = "help", .kind = OPTION_FLAG, .value = &a.help, .help = "this text" },
		{ 0 },
	};
	char error[128];
	bool front, back;
	int words = options_parse(table, argc, argv, error, sizeof(error));

	if (words < 0)
		return usage_error("probe", error);
	if (a.help) {
		print_help(table);
		return STATUS_OK;
	}
	signal(SIGPIPE, SIG_IGN);
	front = words > 0 && !strcmp(argv[1], "front");
	back = words > 0 && !strcmp(argv[1], "back");
	if (a.list && words == 1 && (front || back)) {
		front ? probe_list_front(stdout) : probe_list_back(stdout);
		return STATUS_OK;
	}
	if (words != 2 || (!front && !back))
		return usage_error("probe", "'front PATH' or 'back PATH' is needed");
	return run_tests(front, argv[2], &a);
}
