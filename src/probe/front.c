/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Testing a back end. First contact learns what the target offers and whether frames come back from it; then
 * every test runs on a connection of its own. After each hostile test, and after any that failed, a whole new
 * session must work: the proof that the target lives. When even a connection cannot be had any more, the
 * tests that are left are reported as not run.
 */
#include "probe/front.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "probe/work.h"
#include "vhost/features.h"

static const struct {
	const char *group;
	const struct front_test *tests;
	bool (*test)(unsigned k, struct front_test *test);
} groups[] = {
    {"conformance: setting up", front_setup_tests, NULL},
    {"conformance: orders of messages", front_order_tests, NULL},
    {"conformance: memory", front_memory_tests, NULL},
    {"conformance: the device", front_device_tests, NULL},
    {"conformance: requests in flight", front_inflight_tests, NULL},
    {"conformance: rings", front_ring_tests, NULL},
    {"conformance: restarting", front_restart_tests, NULL},
    {"hostile: messages", NULL, front_hostile_message_test},
    {"hostile: memory", NULL, front_hostile_memory_test},
    {"hostile: rings", NULL, front_hostile_ring_test},
    {"hostile: requests", NULL, front_hostile_request_test},
    {"measurements", front_rate_tests, NULL},
};
enum { N_GROUPS = sizeof(groups) / sizeof(groups[0]), START_MS = 30000, START_STEP_MS = 250 };

/* Test k of a group; false: there is none. */
static bool test_of(unsigned group, unsigned k, struct front_test *test)
{
	if (groups[group].test)
		return groups[group].test(k, test);
	*test = groups[group].tests[k];
	return test->name;
}

static void add(struct probe *p, const char *group, const struct front_test *test, const char *ring,
		const char *evidence)
{
	struct finding finding = {
	    .outcome = p->verdict.outcome,
	    .group = (char *)group,
	    .name = (char *)test->name,
	    .ring = (char *)ring,
	    .what = (char *)test->what,
	    .rule = (char *)test->rule,
	    .detail = p->verdict.text,
	    .evidence = (char *)evidence,
	};

	memcpy(finding.figure, p->verdict.figure, sizeof(finding.figure));
	report_add(p->report, &finding);
}

/* A connection that answers is all that a target needs to be tried further. */
static bool is_reachable(struct probe *p)
{
	struct verdict verdict = p->verdict;
	bool reachable;

	p->verdict = (struct verdict){0};
	reachable = !session_connect(p) && !barrier(p);
	session_close(p);
	p->verdict = verdict;
	return reachable;
}

/* Start the target, if that is for us to do, and wait until it is there. */
static int bring_up(struct probe *p)
{
	int err = target_start(&p->target);
	char how[128];

	if (err || !p->target.command)
		return err;
	for (unsigned ms = 0; ms < START_MS; ms += START_STEP_MS) {
		err = link_open(&p->link, START_STEP_MS);
		link_close(&p->link);
		if (!err)
			return 0;
		if (target_has_ended(&p->target, how, sizeof(how))) {
			transcript_add(&p->link.transcript, "- the target %s", how);
			return -ECHILD;
		}
	}
	return err;
}

static void blame(struct probe *p, const char *what, const char *why)
{
	char before[sizeof(p->verdict.text)];

	memcpy(before, p->verdict.text, sizeof(before));
	p->verdict.outcome = OUTCOME_FAIL;
	snprintf(p->verdict.text, sizeof(p->verdict.text), "%.190s%s%.60s%s", before, *before ? "; " : "", what,
		 why);
}

/* Its command is known: what became of it? Start it again if it is not to be reached. */
static void revive(struct probe *p)
{
	char how[128];

	p->lost = true;
	if (!p->target.command)
		return;
	for (unsigned ms = 0; ms < 500 && p->target.pid; ms += 20) { /* a core dump takes a while */
		if (target_has_ended(&p->target, how, sizeof(how)))
			blame(p, "it ", how);
		poll(NULL, 0, 20);
	}
	target_stop(&p->target);
	p->lost = bring_up(p) || !is_reachable(p);
}

/* After something went wrong, or was meant to: is the target there? */
static void look_after(struct probe *p)
{
	char why[256];

	if (target_has_ended(&p->target, why, sizeof(why))) {
		blame(p, "it ", why);
		revive(p);
		return;
	}
	if (!work_prove_life(p, why, sizeof(why)))
		return;
	if (!p->target.pid && is_reachable(p)) {
		blame(p, "afterwards no session works: ", why);
		return;
	}
	blame(p, "afterwards no session works, the target is gone or hangs: ", why);
	revive(p);
}

static void run_one(struct probe *p, const char *group, const struct front_test *test, bool packed)
{
	char evidence[TRANSCRIPT_LINES * TRANSCRIPT_WIDTH];

	p->verdict = (struct verdict){0};
	p->watching = false;
	p->seed = 1;
	if (p->lost) {
		p->verdict = (struct verdict){.outcome = OUTCOME_NOT_RUN, .text = "the target is gone"};
		add(p, group, test, test->rings ? packed ? "packed" : "split" : "", "");
		return;
	}
	session_defaults(p, packed);
	transcript_clear(&p->link.transcript);
	transcript_heading(&p->link.transcript, test->name);
	if (!packed || !need_feature(p, VIRTIO_F_RING_PACKED, "RING_PACKED"))
		test->run(p, test->argument);
	session_close(p);
	transcript_text(&p->link.transcript, evidence, sizeof(evidence));
	if (p->verdict.outcome == OUTCOME_FAIL ||
	    (test->kind == PROBE_HOSTILE && p->verdict.outcome != OUTCOME_NOT_APPLICABLE))
		look_after(p);
	add(p, group, test, test->rings ? packed ? "packed" : "split" : "", evidence);
}

static bool is_wanted(const struct probe *p, const struct front_test *test)
{
	const struct probe_options *o = p->options;

	if (!(test->kind & o->tests) || (test->devices && !(test->devices & o->device)))
		return false;
	return (!o->only || strstr(test->name, o->only)) && !(o->skip && strstr(test->name, o->skip));
}

static void run_test(struct probe *p, const char *group, const struct front_test *test)
{
	bool only_packed = p->options->rings == PROBE_PACKED;

	if (test->rings == ONCE) {
		run_one(p, group, test, only_packed && p->offered >> VIRTIO_F_RING_PACKED & 1);
		return;
	}
	if (p->options->rings & test->rings & PROBE_SPLIT)
		run_one(p, group, test, false);
	if (p->options->rings & test->rings & PROBE_PACKED)
		run_one(p, group, test, true);
}

static void run_all(struct probe *p)
{
	struct front_test test;

	for (unsigned g = 0; g < N_GROUPS; g++)
		for (unsigned k = 0; test_of(g, k, &test); k++)
			if (is_wanted(p, &test))
				run_test(p, groups[g].group, &test);
}

/* --- first contact --- */

static int learn_features(struct probe *p)
{
	char names[1024];

	if (session_connect(p) || ask_u64(p, VHOST_USER_GET_FEATURES, &p->offered))
		return -1;
	vhost_features_format(p->options->device, p->offered, names, sizeof(names));
	report_fact(p->report, "features", "0x%llx: %s", (unsigned long long)p->offered, names);
	if (!(p->offered & VHOST_USER_F_PROTOCOL_FEATURES_BIT)) {
		report_fact(p->report, "protocol features", "none: PROTOCOL_FEATURES is not offered");
		return 0;
	}
	if (ask_u64(p, VHOST_USER_GET_PROTOCOL_FEATURES, &p->protocol_offered))
		return -1;
	vhost_user_protocol_features_format(p->protocol_offered, names, sizeof(names));
	report_fact(p->report, "protocol features", "0x%llx: %s", (unsigned long long)p->protocol_offered,
		    names);
	if (!(p->protocol_offered >> VHOST_USER_PROTOCOL_F_MQ & 1))
		return 0;
	if (tell_u64(p, VHOST_USER_SET_PROTOCOL_FEATURES, 1ull << VHOST_USER_PROTOCOL_F_MQ) ||
	    ask_u64(p, VHOST_USER_GET_QUEUE_NUM, &p->n_queues))
		return -1;
	report_fact(p->report, "queues", "%llu", (unsigned long long)p->n_queues);
	return 0;
}

/* net: does an ARP request, or any frame, bring one back? */
static int learn_answers(struct probe *p)
{
	int n = 0;

	if (p->options->device != PROBE_NET)
		return 0;
	if (session_open(p) || work_receive(p, 0) || work_submit(p, 1, REQUEST_ARP, 0))
		return -1;
	work_kick(p, 1);
	if (work_wait(p, 1, 1))
		return -1;
	for (unsigned ms = 0; ms < 1000 && !n; ms += 20)
		n = work_quiet(p, 0, 20);
	if (n < 0)
		return -1;
	p->answers = n > 0;
	report_fact(p->report, "frames",
		    p->answers ? "an ARP request was answered or came back: both directions are tried"
			       : "none come back: only sending is tried");
	return 0;
}

static int first_contact(struct probe *p)
{
	bool packed = p->options->rings == PROBE_PACKED;
	int err;

	session_defaults(p, packed);
	report_fact(p->report, "probe", "front end, against the %s back end at %s (%s)",
		    p->options->device == PROBE_NET ? "net" : "blk", p->options->path,
		    p->link.server ? "which connects to us" : "which listens");
	err = learn_features(p) || learn_answers(p) ? -1 : 0;
	session_close(p);
	return err;
}

/* The first contact failed: one finding that says how, with what was said. */
static void report_no_contact(struct probe *p)
{
	static const struct front_test contact = {
	    "first-contact",
	    "features are asked for, a session is set up, a request is served",
	    "vhost-user, Communication",
	    0,
	    ONCE,
	    0,
	    NULL,
	    0,
	};
	char evidence[TRANSCRIPT_LINES * TRANSCRIPT_WIDTH];

	p->verdict.outcome = OUTCOME_FAIL;
	transcript_text(&p->link.transcript, evidence, sizeof(evidence));
	add(p, "first contact", &contact, "", evidence);
}

int probe_front(const struct probe_options *options, struct report *report)
{
	struct probe *p = calloc(1, sizeof(*p));
	char why[256];
	int err;

	if (!p)
		return -ENOMEM;
	p->options = options;
	p->report = report;
	err = guest_init(&p->guest);
	if (err)
		goto out;
	err = link_init(&p->link, options->path, options->server, options->timeout_ms, why, sizeof(why));
	if (err) {
		log_error("%s", why);
		guest_deinit(&p->guest);
		goto out;
	}
	p->target.command = options->command;
	p->link.transcript.trace = options->trace;
	p->link.transcript.start_ns = now_ns();
	if (bring_up(p) ? fail(p, "the target does not start") : first_contact(p)) {
		report_no_contact(p);
		p->lost = !is_reachable(p);
	}
	if (!p->lost)
		run_all(p);
	target_stop(&p->target);
	session_close(p);
	link_deinit(&p->link);
	guest_deinit(&p->guest);
out:
	free(p);
	return err;
}

void probe_list_front(FILE *out)
{
	struct front_test test;

	for (unsigned g = 0; g < N_GROUPS; g++)
		for (unsigned k = 0; test_of(g, k, &test); k++)
			fprintf(out, "%-28s %s\n", test.name, test.what);
}
