/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Testing a front end. It decides what happens, so the probe waits for it to come, lets it set up its rings,
 * and watches. What it does by itself is looked at in one session for each ring format; then come sessions in
 * which the probe offers less, answers slowly, ends at every message, answers wrongly or fills its rings with
 * nonsense.
 *
 * A front end lives if it comes back and sets up its rings again. Many do not come back by themselves; if the
 * probe started it (--run), it must be running still, and is started again for the next test.
 */
#include "probe/back.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "vhost/features.h"

enum { START_TIMES = 20, WORK_MS = 1000 }; /* a start may take so many times as long as an answer */

struct back_test {
	const char *name, *what, *rule;
	unsigned kind; /* PROBE_CONFORMANCE ... */
	bool rings;    /* it is about rings: the finding says of which format */
	unsigned devices;
	void (*run)(struct back *b, unsigned a, unsigned c);
	unsigned a, c;
};

/* --- watching --- */

static unsigned start_ms(const struct back *b)
{
	return START_TIMES * b->p.options->timeout_ms;
}

static void start_again(struct back *b)
{
	target_stop(&b->p.target);
	b->p.lost = target_start(&b->p.target) || link_open(&b->p.link, start_ms(b));
	b->is_starting = !b->p.lost;
	b->is_fresh = !b->p.lost; /* the next session takes this connection: some front ends make only one */
}

/*
 * A front end whose driver runs may insist on the features that it accepted once. So what offers fewer of
 * them needs one that starts anew; without a command to start it that cannot be had, and a refusal is no
 * fault.
 */
static int need_fewer(struct back *b)
{
	if (!b->p.target.command)
		return not_applicable(
		    &b->p, "it may insist on the features that it has: --run lets the probe start it anew");
	start_again(b);
	b->changed = true;
	return b->p.lost ? fail(&b->p, "it does not start again") : 0;
}

static const char *trouble(int err)
{
	return err == -ETIMEDOUT    ? "nothing more came"
	       : err == -ECONNRESET ? "the connection was closed"
				    : "what came was no message";
}

/* Wait until all rings run. 0, -1 with the verdict. */
static int set_up(struct back *b)
{
	unsigned ms = b->is_starting ? start_ms(b) : b->p.options->timeout_ms;
	int err;

	if (back_connect(b, ms))
		return -1;
	err = back_serve(b, back_is_set_up, ms + 60 * b->delay_ms);
	if (!err) {
		b->is_starting = false;
		return 0;
	}
	for (unsigned c = 0; c < COMPLAINTS; c++)
		if (b->complaint[c][0])
			return fail(&b->p, "its rings did not start: %s; %s", trouble(err), b->complaint[c]);
	return fail(&b->p, "its rings did not start: %s after %u messages", trouble(err), b->messages);
}

static int no_complaints(struct back *b)
{
	for (unsigned c = 0; c < COMPLAINTS; c++)
		if (b->complaint[c][0])
			return fail(&b->p, "%s", b->complaint[c]);
	return 0;
}

/* Set up, and serve for a while whatever comes; nothing may be wrong. */
static void session(struct back *b, unsigned a, unsigned c)
{
	int err;

	if (set_up(b))
		return;
	err = back_serve(b, back_has_worked_long, WORK_MS);
	if (err && err != -ETIMEDOUT) {
		fail(&b->p, "in a session like any other: %s", trouble(err));
		return;
	}
	if (!no_complaints(b) && !back_has_worked(b))
		warn(&b->p, "rings run, and nothing was sent, taken or asked for in %u ms", WORK_MS);
}

/* What the session complained about under this heading. */
static void watched(struct back *b, unsigned complaint, unsigned c)
{
	int err;

	if (set_up(b))
		return;
	err = back_serve(b, back_has_worked_long, WORK_MS);
	if (b->complaint[complaint][0])
		fail(&b->p, "%s", b->complaint[complaint]);
	else
		remark(&b->p, "%u messages, %s", b->messages,
		       err && err != -ETIMEDOUT ? "and it closed the connection" : "none was wrong");
}

static void without(struct back *b, unsigned a, unsigned c)
{
	if (need_fewer(b))
		return;
	if (a == 1)
		b->offered &= ~VHOST_USER_F_PROTOCOL_FEATURES_BIT;
	else if (a == 2) /* a disk's front end has no other way to its configuration than CONFIG */
		b->protocol_offered &= 1ull << VHOST_USER_PROTOCOL_F_CONFIG;
	else if (a == 3)
		b->protocol_offered &= ~(1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK);
	else
		b->offered = 1ull << VIRTIO_F_VERSION_1 | (b->offered & (1ull << VIRTIO_F_RING_PACKED)) |
			     VHOST_USER_F_PROTOCOL_FEATURES_BIT;
	session(b, 0, 0);
}

static void with_slots(struct back *b, unsigned a, unsigned c)
{
	b->protocol_offered |= 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
			       1ull << VHOST_USER_PROTOCOL_F_LOG_SHMFD |
			       1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE;
	session(b, 0, 0);
}

static void slowly(struct back *b, unsigned ms, unsigned in_pieces)
{
	b->delay_ms = ms;
	b->in_pieces = in_pieces;
	session(b, 0, 0);
}

/* The back end ends and comes again: does the front end, too, and do its rings go on? */
static void comes_back(struct back *b, unsigned a, unsigned c)
{
	for (unsigned n = 0; n < 3; n++) { /* the last connection is for the runner, who looks after it */
		session(b, 0, 0);
		if (b->p.verdict.outcome == OUTCOME_FAIL)
			return;
		back_close(b);
		b->is_fresh = !link_open(&b->p.link, b->p.options->timeout_ms);
		if (b->is_fresh)
			continue;
		warn(&b->p, "it does not come back by itself after its back end ended");
		return;
	}
}

/* --- wrong on purpose --- */

static bool is_ring_fault(enum fault fault)
{
	return fault >= FAULT_USED_ID && fault <= FAULT_HEADER;
}

/* Nothing happens on its rings: perhaps its driver gave them up for broken in a test before. With a new one, then. */
static int with_new_driver(struct back *b)
{
	back_close(b);
	start_again(b);
	return b->p.lost ? fail(&b->p, "it does not start again") : set_up(b);
}

/* The front end may take it, complain, close or come anew: the runner looks whether it lives. */
static void provoke(struct back *b, enum fault fault, unsigned request)
{
	int err;

	b->fault = fault;
	b->fault_request = request;
	if (back_connect(b, b->p.options->timeout_ms))
		return;
	err = back_serve(b, NULL, fault == FAULT_SILENT ? b->p.options->timeout_ms : WORK_MS / 2);
	if (!b->fault_done && is_ring_fault(fault) && b->p.target.command) {
		if (with_new_driver(b))
			return;
		err = back_serve(b, NULL, WORK_MS / 2);
	}
	if (!b->fault_done)
		not_applicable(&b->p, request ? "it did not send %s" : "there was no occasion",
			       vhost_user_name(VHOST_USER_FRONT_END, request));
	else
		remark(&b->p, err == -ETIMEDOUT ? "it goes on" : "it ends the session");
}

static void wrong(struct back *b, unsigned fault, unsigned request)
{
	provoke(b, (enum fault)fault, request);
}

/* The end at every message of setting up. */
static void ends_early(struct back *b, unsigned last, unsigned c)
{
	b->fault = FAULT_CLOSE;
	b->fault_after = last;
	if (back_connect(b, b->p.options->timeout_ms))
		return;
	back_serve(b, NULL, WORK_MS / 2);
	if (!b->fault_done)
		not_applicable(&b->p, "it sends no more than %u messages", b->messages);
}

static void all_features(struct back *b, unsigned a, unsigned c)
{
	if (need_fewer(b))
		return;
	b->offered = ~(1ull << VIRTIO_F_ACCESS_PLATFORM);
	b->protocol_offered = ~(1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
	if (!back_connect(b, b->p.options->timeout_ms))
		back_serve(b, NULL, WORK_MS / 2);
}

static void no_features(struct back *b, unsigned a, unsigned c)
{
	if (need_fewer(b))
		return;
	b->offered = 0;
	if (!back_connect(b, b->p.options->timeout_ms))
		back_serve(b, NULL, WORK_MS / 2);
}

#define C     PROBE_CONFORMANCE
#define H     PROBE_HOSTILE
#define M(id) VHOST_USER_##id
#define COMM  "vhost-user, Communication"
#define TRUST "the back end is not to be trusted"
/* clang-format off */
static const struct back_test tests[] = {
	{ "session", "it connects, sets up its rings, and serves and uses them", COMM, C, true, 0, session, 0, 0 },
	{ "messages", "sizes, flags and descriptors of its messages", "vhost-user, Message Specification", C, true, 0, watched, COMPLAINT_FORM, 0 },
	{ "negotiated-only", "no message and no need_reply that was not negotiated", "vhost-user, Protocol features", C, false, 0, watched, COMPLAINT_GATE, 0 },
	{ "offered-only", "no feature that was not offered", "vhost-user, VHOST_USER_SET_FEATURES", C, true, 0, watched, COMPLAINT_OFFER, 0 },
	{ "memory", "regions that can be mapped and do not overlap, inside their files", "vhost-user, Memory regions description", C, false, 0, watched, COMPLAINT_MEMORY, 0 },
	{ "rings", "sizes, alignment, places inside memory, all there before the kick descriptor", "virtio 1.3, 2.7 and 2.8; vhost-user, Ring states", C, true, 0, watched, COMPLAINT_RING, 0 },
	{ "chains", "every chain is whole, inside memory, of the right kind, large enough", "virtio 1.3, 2.7.5, 2.8.6, 5.1.6, 5.2.6", C, true, 0, watched, COMPLAINT_CHAIN, 0 },
	{ "kicks", "a kick when chains become available while kicks are wanted", "virtio 1.3, 2.7.10 and 2.8.10", C, true, 0, watched, COMPLAINT_KICK, 0 },
	{ "without-protocol-features", "bit 30 is not offered", COMM, C, true, PROBE_NET, without, 1, 0 },
	{ "empty-protocol-features", "no protocol feature is offered, but that a disk's front end cannot do without (CONFIG)", COMM, C, false, 0, without, 2, 0 },
	{ "without-reply-ack", "REPLY_ACK is not offered", "vhost-user, VHOST_USER_PROTOCOL_F_REPLY_ACK", C, false, 0, without, 3, 0 },
	{ "fewest-features", "VERSION_1 and nothing else of virtio", COMM, C, true, 0, without, 4, 0 },
	{ "with-memory-slots", "CONFIGURE_MEM_SLOTS, LOG_SHMFD and RESET_DEVICE are offered, too", "vhost-user, Protocol features", C, false, 0, with_slots, 0, 0 },
	{ "slow-answers", "every answer takes a tenth of a second", COMM, C, false, 0, slowly, 100, 0 },
	{ "answers-in-pieces", "every answer comes byte by byte", "vhost-user, Communication: a stream socket", C, false, 0, slowly, 0, 1 },
	{ "comes-back", "the back end ends three times, and comes again", "vhost-user, Communication: optional reconnection", C, true, 0, comes_back, 0, 0 },
	{ "reply-other-request", "the first answer is that to another message", TRUST, H, false, 0, wrong, FAULT_REQUEST, 0 },
	{ "reply-without-flag", "an answer without the reply flag", TRUST, H, false, 0, wrong, FAULT_FLAG, 0 },
	{ "reply-version-0", "an answer of version 0", TRUST, H, false, 0, wrong, FAULT_VERSION, 0 },
	{ "reply-short", "an answer of 4 bytes instead of 8", TRUST, H, false, 0, wrong, FAULT_SHORT, 0 },
	{ "reply-long", "an answer of 72 bytes instead of 8", TRUST, H, false, 0, wrong, FAULT_LONG, 0 },
	{ "reply-huge", "an answer of 2^32 - 1 bytes", TRUST, H, false, 0, wrong, FAULT_HUGE, 0 },
	{ "reply-descriptors", "an answer with eight descriptors", TRUST, H, false, 0, wrong, FAULT_FDS, 0 },
	{ "reply-half", "half an answer, then the end", TRUST, H, false, 0, wrong, FAULT_HALF, 0 },
	{ "reply-twice", "two answers to one message", TRUST, H, false, 0, wrong, FAULT_TWICE, 0 },
	{ "reply-never", "no answer", TRUST, H, false, 0, wrong, FAULT_SILENT, 0 },
	{ "refusal", "the first acknowledgement is a refusal", TRUST, H, false, 0, wrong, FAULT_NACK, 0 },
	{ "refusal-of-memory", "SET_MEM_TABLE is refused", TRUST, H, false, 0, wrong, FAULT_NACK, M(SET_MEM_TABLE) },
	{ "protocol-features-all", "all protocol features are offered", TRUST, H, false, 0, wrong, FAULT_VALUE, M(GET_PROTOCOL_FEATURES) },
	{ "queues-none", "GET_QUEUE_NUM says 0", TRUST, H, false, 0, wrong, FAULT_ZERO, M(GET_QUEUE_NUM) },
	{ "queues-huge", "GET_QUEUE_NUM says 2^64 - 1", TRUST, H, false, 0, wrong, FAULT_VALUE, M(GET_QUEUE_NUM) },
	{ "config-nonsense", "GET_CONFIG is answered with ones, offset and size, too", TRUST, H, false, PROBE_BLK, wrong, FAULT_VALUE, M(GET_CONFIG) },
	{ "config-short", "GET_CONFIG is answered too short", TRUST, H, false, PROBE_BLK, wrong, FAULT_SHORT, M(GET_CONFIG) },
	{ "config-long", "GET_CONFIG is answered too long", TRUST, H, false, PROBE_BLK, wrong, FAULT_LONG, M(GET_CONFIG) },
	{ "status-nonsense", "GET_STATUS says 2^64 - 1", TRUST, H, false, 0, wrong, FAULT_VALUE, M(GET_STATUS) },
	{ "ends-at-1", "the end at the first message", TRUST, H, false, 0, ends_early, 1, 0 },
	{ "ends-at-3", "the end at the third message", TRUST, H, false, 0, ends_early, 3, 0 },
	{ "ends-at-6", "the end at the sixth message", TRUST, H, false, 0, ends_early, 6, 0 },
	{ "ends-at-9", "the end at the ninth message", TRUST, H, false, 0, ends_early, 9, 0 },
	{ "ends-at-12", "the end at the twelfth message", TRUST, H, false, 0, ends_early, 12, 0 },
	{ "ends-at-16", "the end at the sixteenth message", TRUST, H, false, 0, ends_early, 16, 0 },
	{ "ends-at-20", "the end at the twentieth message", TRUST, H, false, 0, ends_early, 20, 0 },
	{ "used-id", "a used entry with an id behind the ring", TRUST, H, true, 0, wrong, FAULT_USED_ID, 0 },
	{ "used-index", "used entries that were never made available", TRUST, H, true, 0, wrong, FAULT_USED_INDEX, 0 },
	{ "used-length", "a used length of 4 GiB", TRUST, H, true, 0, wrong, FAULT_USED_LENGTH, 0 },
	{ "used-twice", "one chain used twice", TRUST, H, true, 0, wrong, FAULT_USED_TWICE, 0 },
	{ "frame-header", "received frames whose header is all ones", TRUST, H, true, PROBE_NET, wrong, FAULT_HEADER, 0 },
	{ "channel-nonsense", "nonsense on the back end's own channel", TRUST, H, false, 0, wrong, FAULT_CHANNEL, 0 },
	{ "features-all", "all bits are offered", TRUST, H, false, 0, all_features, 0, 0 },
	{ "features-none", "no bit is offered", TRUST, H, false, 0, no_features, 0, 0 },
};
/* clang-format on */
enum { N_TESTS = sizeof(tests) / sizeof(tests[0]) };

/* --- running them --- */

static void add(struct back *b, const struct back_test *test, const char *evidence)
{
	struct finding finding = {
	    .outcome = b->p.verdict.outcome,
	    .group = test->kind == PROBE_HOSTILE ? (char *)"hostile" : (char *)"conformance",
	    .name = (char *)test->name,
	    .ring = (char *)(!test->rings      ? ""
			     : b->takes_packed ? "packed"
					       : "split"),
	    .what = (char *)test->what,
	    .rule = (char *)test->rule,
	    .detail = b->p.verdict.text,
	    .evidence = (char *)evidence,
	};

	report_add(b->p.report, &finding);
}

static void blame(struct back *b, const char *what, const char *why)
{
	char before[sizeof(b->p.verdict.text)];

	memcpy(before, b->p.verdict.text, sizeof(before));
	b->p.verdict.outcome = OUTCOME_FAIL;
	snprintf(b->p.verdict.text, sizeof(b->p.verdict.text), "%.200s%s%s%s", before, *before ? "; " : "",
		 what, why);
}

/* Does it live: will it be served again, in a session like any other? */
static void look_after(struct back *b)
{
	struct verdict verdict = b->p.verdict;
	char how[256] = "";
	bool works;

	back_close(b);
	back_defaults(b);
	b->p.verdict = (struct verdict){0};
	works = !set_up(b);
	memcpy(how, b->p.verdict.text, sizeof(how) - 1);
	b->p.verdict = verdict;
	back_close(b);
	if (works)
		return;
	if (!b->p.target.command) {
		blame(b, "afterwards: ", how);
		b->p.lost = true;
		return;
	}
	if (target_has_ended(&b->p.target, how, sizeof(how)))
		strstr(how, "signal") ? blame(b, "it ", how) : remark(&b->p, "it %s", how);
	else if (b->p.verdict.outcome != OUTCOME_FAIL)
		remark(&b->p, "it lives, and does not come back by itself");
	start_again(b);
}

static void run_one(struct back *b, const struct back_test *test)
{
	char evidence[TRANSCRIPT_LINES * TRANSCRIPT_WIDTH], how[128];
	struct probe *p = &b->p;

	p->verdict = (struct verdict){0};
	if (p->lost) {
		p->verdict = (struct verdict){.outcome = OUTCOME_NOT_RUN, .text = "the target is gone"};
		add(b, test, "");
		return;
	}
	back_defaults(b);
	transcript_clear(&p->link.transcript);
	transcript_heading(&p->link.transcript, test->name);
	b->changed = false;
	test->run(b, test->a, test->c);
	back_close(b);
	transcript_text(&p->link.transcript, evidence, sizeof(evidence));
	if (b->changed && target_has_ended(&p->target, how, sizeof(how)) && strstr(how, "signal"))
		blame(b, "it ", how);
	if (b->changed)
		start_again(b); /* it would miss what it was offered before */
	else
		look_after(b);
	add(b, test, evidence);
}

static bool is_wanted(const struct back *b, const struct back_test *test)
{
	const struct probe_options *o = b->p.options;

	if (!(test->kind & o->tests) || (test->devices && !(test->devices & o->device)))
		return false;
	return (!o->only || strstr(test->name, o->only)) && !(o->skip && strstr(test->name, o->skip));
}

static void run_all(struct back *b)
{
	for (unsigned k = 0; k < N_TESTS; k++)
		if (is_wanted(b, &tests[k]))
			run_one(b, &tests[k]);
}

/* What it is: features that it accepts of everything. */
static void learn(struct back *b)
{
	char names[1024];

	report_fact(b->p.report, "probe", "back end, against the %s front end at %s (%s)",
		    b->p.options->device == PROBE_NET ? "net" : "blk", b->p.options->path,
		    b->p.link.server ? "which connects to us" : "which listens");
	back_defaults(b);
	if (set_up(b))
		return;
	vhost_features_format(b->p.options->device, b->features, names, sizeof(names));
	report_fact(b->p.report, "accepts", "0x%llx: %s", (unsigned long long)b->features, names);
	vhost_user_protocol_features_format(b->protocol, names, sizeof(names));
	report_fact(b->p.report, "protocol features", "0x%llx: %s", (unsigned long long)b->protocol, names);
	b->takes_packed = b->features >> VIRTIO_F_RING_PACKED & 1;
	report_fact(b->p.report, "rings", b->takes_packed ? "packed" : "split");
}

static void first_contact(struct back *b)
{
	static const struct back_test contact = {
	    "first-contact", "it connects and sets up its rings", COMM, C, false, 0, NULL, 0, 0,
	};
	char evidence[TRANSCRIPT_LINES * TRANSCRIPT_WIDTH];

	learn(b);
	back_close(b);
	if (b->p.verdict.outcome == OUTCOME_FAIL) {
		transcript_text(&b->p.link.transcript, evidence, sizeof(evidence));
		add(b, &contact, evidence);
		b->p.lost = true;
		return;
	}
	look_after(b);
}

int probe_back(const struct probe_options *options, struct report *report)
{
	struct back *b = calloc(1, sizeof(*b));
	char why[256];
	int err = -ENOMEM;

	if (!b)
		return -ENOMEM;
	b->p.options = options;
	b->p.report = report;
	b->channel_fd = -1;
	for (unsigned k = 0; k < BACK_RINGS; k++)
		b->ring[k] = (struct back_ring){.kick_fd = -1, .call_fd = -1, .err_fd = -1};
	b->disk = calloc(1, BACK_DISK_BYTES);
	if (!b->disk)
		goto out;
	memory_init(&b->memory);
	err = link_init(&b->p.link, options->path, options->server, options->timeout_ms, why, sizeof(why));
	if (err) {
		log_error("%s", why);
		goto out;
	}
	b->p.link.from_back_end = true;
	b->p.link.transcript.trace = options->trace;
	b->p.link.transcript.start_ns = now_ns();
	b->p.target.command = options->command;
	b->is_starting = options->command != NULL;
	err = target_start(&b->p.target);
	if (!err) {
		first_contact(b);
		if (!b->p.lost)
			run_all(b);
	}
	back_close(b);
	target_stop(&b->p.target);
	link_deinit(&b->p.link);
	memory_deinit(&b->memory);
out:
	free(b->disk);
	free(b);
	return err;
}

void probe_list_back(FILE *out)
{
	for (unsigned k = 0; k < N_TESTS; k++)
		fprintf(out, "%-28s %s\n", tests[k].name, tests[k].what);
}
