/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Measurements: how many frames a back end takes per second, how many requests a disk serves, and how long
 * one of them takes. The probe keeps the ring full (rate) or has one request at a time (latency) for the time
 * that was asked for.
 *
 * Both ends run on this machine, so the figures say as much of it and of what else it does as of the target:
 * compare them only with figures of the same minute. Rates look at the used ring without sleeping; latencies
 * wait for the notification, as a guest does.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "base/loop.h"
#include "probe/front.h"
#include "probe/work.h"

enum {
	BURST = 32,
	RATE_RING = 256,
	NET_HEADER = 12,
	STRIDE = 2048,
	DEPTH = 32,
	BLOCK = 4096,
	SAMPLES_MAX = 1 << 18
};

static uint64_t end_of(const struct probe *p)
{
	return now_ns() + p->options->seconds * 1000000000ull;
}

/* --- frames --- */

/* One frame of this size in each place of a ring; every request sends one of them. */
static int lay_out_frames(struct probe *p, uint32_t size, struct virtq_segment *segment)
{
	gpa_t gpa = guest_alloc(&p->guest, GUEST_HIGH, (uint64_t)STRIDE * RATE_RING, 4096);

	if (!gpa)
		return fail(p, "the probe has no memory for frames");
	for (unsigned k = 0; k < RATE_RING + BURST; k++) { /* a burst may begin at the last place */
		uint8_t *at = guest_at(&p->guest, gpa + k % RATE_RING * STRIDE, STRIDE);

		memset(at, 0, NET_HEADER);
		memset(at + NET_HEADER, 0xff, 6); /* broadcast, locally administered, local experimental */
		memcpy(at + NET_HEADER + 6, "\x02guise\x88\xb5", 8);
		segment[k] = (struct virtq_segment){gpa + k % RATE_RING * STRIDE, NET_HEADER + size};
	}
	return 0;
}

/* Send for as long as was asked. The number of frames that came back; 0 with the verdict. */
static uint64_t send_frames(struct probe *p, const struct virtq_segment *segment, uint64_t *ns)
{
	struct virtq_driver *d = &p->queue[1].driver;
	uint64_t start = now_ns(), end = end_of(p), sent = 0, done = 0, last = start;
	void *tokens[BURST];
	uint32_t written[BURST];

	for (unsigned k = 0; k < BURST; k++)
		tokens[k] = d;
	virtq_driver_disable_calls(d);
	for (uint64_t now = start; now < end || done < sent; now = now_ns()) {
		void *back[BURST];
		unsigned n;

		while (now < end &&
		       (n = virtq_driver_add_burst(d, &segment[sent % RATE_RING], tokens, BURST, false)))
			sent += n;
		if (virtq_driver_should_kick(d))
			eventfd_write(p->queue[1].kick_fd, 1);
		n = virtq_driver_take_burst(d, back, written, BURST);
		done += n;
		last = n ? now : last;
		if (d->error) {
			fail(p, "queue 1: the used ring is wrong: %s", virtq_error_name(d->error));
			return 0;
		}
		if (now - last > p->options->timeout_ms * 1000000ull) {
			fail(p, "queue 1: %llu of %llu frames came back, then nothing for %u ms",
			     (unsigned long long)done, (unsigned long long)sent, p->options->timeout_ms);
			return 0;
		}
	}
	*ns = now_ns() - start;
	return done;
}

static void frames(struct probe *p, unsigned size)
{
	struct virtq_segment segment[RATE_RING + BURST];
	uint64_t done, ns;

	p->ring_size = RATE_RING;
	if (!(p->offered >> VIRTIO_F_VERSION_1 & 1)) {
		not_applicable(p, "the target does not offer VERSION_1");
		return;
	}
	if (session_open(p) || work_pair(p, 0) || lay_out_frames(p, size, segment))
		return;
	done = send_frames(p, segment, &ns);
	if (!done)
		return;
	add_figure(p, "frames_per_second", (double)done * 1e9 / (double)ns);
	add_figure(p, "ns_per_frame", (double)ns / (double)done);
	remark(p, "%.3f million frames/s, %.1f ns each, %u bytes, bursts of %u",
	       (double)done * 1e3 / (double)ns, (double)ns / (double)done, size, BURST);
}

/* --- latencies --- */

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void report_latency(struct probe *p, uint32_t *ns, unsigned n)
{
	static const struct {
		const char *name;
		double share;
	} points[] = {{"p50_ns", 0.5}, {"p90_ns", 0.9}, {"p99_ns", 0.99}, {"p99_9_ns", 0.999}};
	double value[4];

	qsort(ns, n, sizeof(*ns), by_value);
	for (unsigned k = 0; k < 4; k++) {
		value[k] = ns[(unsigned)(points[k].share * (n - 1))];
		add_figure(p, points[k].name, value[k]);
	}
	remark(p, "%u round trips: median %.1f us, 90 %% %.1f, 99 %% %.1f, 99.9 %% %.1f, longest %.1f", n,
	       value[0] / 1e3, value[1] / 1e3, value[2] / 1e3, value[3] / 1e3, ns[n - 1] / 1e3);
}

/* One thing at a time, for as long as was asked, each timed. */
static void time_each(struct probe *p, int (*once)(struct probe *p, void *opaque), void *opaque)
{
	uint32_t *ns = malloc(SAMPLES_MAX * sizeof(*ns));
	uint64_t end = end_of(p);
	unsigned n = 0;

	if (!ns) {
		fail(p, "the probe has no memory");
		return;
	}
	for (uint64_t start = now_ns(); start < end && n < SAMPLES_MAX; n++) {
		uint64_t now;

		if (once(p, opaque)) {
			free(ns);
			return;
		}
		now = now_ns();
		ns[n] = now - start > UINT32_MAX ? UINT32_MAX : (uint32_t)(now - start);
		start = now;
	}
	report_latency(p, ns, n);
	free(ns);
}

static int one_answer(struct probe *p, void *opaque)
{
	if (work_submit(p, 0, REQUEST_RX, 0))
		return -1;
	work_kick(p, 0);
	if (work_submit(p, 1, REQUEST_ARP, 0))
		return -1;
	work_kick(p, 1);
	return work_wait(p, 0, 1) || work_wait(p, 1, 1) ? -1 : 0;
}

static void answer_latency(struct probe *p, unsigned argument)
{
	if (!p->answers) {
		not_applicable(p, "no frames come from the target");
		return;
	}
	if (!session_open(p))
		time_each(p, one_answer, NULL);
}

/* --- disk --- */

/* Blocks that may be read: of the disk, if it says how large it is. */
static int count_blocks(struct probe *p, uint64_t *blocks)
{
	struct vhost_user_message m;

	*blocks = 1;
	if (!has_protocol(p, VHOST_USER_PROTOCOL_F_CONFIG))
		return 0;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_CONFIG);
	m.config.size = 8;
	m.size = 20;
	if (ask(p, &m))
		return -1;
	*blocks = m.size >= 20 ? get_le64(m.config.data) / (BLOCK / 512) : 1;
	return *blocks ? 0 : fail(p, "the disk has no block of %u bytes", BLOCK);
}

struct reader {
	gpa_t gpa; /* of request k: header at k * 2 blocks, status behind it, data in the second block */
	uint64_t blocks, reads;
	uint32_t seed;
};

static int submit_read(struct probe *p, struct reader *r, unsigned k)
{
	gpa_t at = r->gpa + 2ull * BLOCK * k;
	uint64_t random =
	    (uint64_t)(r->seed = r->seed * 1664525 + 1013904223) << 16 ^ r->reads * 0x9e3779b97f4a7c15ull;
	struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN,
					   .sector = random % r->blocks * (BLOCK / 512)};
	struct virtq_segment segment[3] = {{at, sizeof(header)}, {at + BLOCK, BLOCK}, {at + 64, 1}};
	uint8_t *place = guest_at(&p->guest, at, 2 * BLOCK);

	memcpy(place, &header, sizeof(header));
	place[64] = 0xff;
	return virtq_driver_add(&p->queue[0].driver, segment, 1, 2, place)
		   ? fail(p, "queue 0: no room for a read")
		   : 0;
}

/* Those that came back are checked and submitted again while there is time. The count, -1. */
static int turn_around(struct probe *p, struct reader *r, bool again)
{
	struct virtq_driver *d = &p->queue[0].driver;
	uint32_t written;
	uint8_t *place;
	int n = 0;

	for (; (place = virtq_driver_take(d, &written)); n++) {
		if (place[64])
			return fail(p, "queue 0: a read ended with status %u", place[64]);
		r->reads++;
		if (again &&
		    submit_read(
			p, r, (unsigned)((place - (uint8_t *)guest_at(&p->guest, r->gpa, 1)) / (2 * BLOCK))))
			return -1;
	}
	return d->error ? fail(p, "queue 0: the used ring is wrong: %s", virtq_error_name(d->error)) : n;
}

static void read_rate(struct probe *p, unsigned depth)
{
	struct probe_queue *q = &p->queue[0];
	struct reader r = {.seed = 1};
	uint64_t start, end, last;

	p->ring_size = RATE_RING;
	if (session_open(p) || count_blocks(p, &r.blocks))
		return;
	r.gpa = guest_alloc(&p->guest, GUEST_HIGH, 2ull * BLOCK * depth, BLOCK);
	for (unsigned k = 0; k < depth; k++)
		if (submit_read(p, &r, k))
			return;
	start = last = now_ns();
	end = end_of(p);
	for (uint64_t now = start; now < end || q->driver.outstanding; now = now_ns()) {
		int n;

		work_kick(p, 0);
		n = turn_around(p, &r, now < end);
		if (n < 0)
			return;
		last = n ? now : last;
		if (now - last > p->options->timeout_ms * 1000000ull) {
			fail(p, "queue 0: %llu reads came back, then nothing for %u ms",
			     (unsigned long long)r.reads, p->options->timeout_ms);
			return;
		}
		if (!n && !virtq_driver_enable_calls(&q->driver) &&
		    poll(&(struct pollfd){.fd = q->call_fd, .events = POLLIN}, 1,
			 (int)p->options->timeout_ms) > 0)
			eventfd_read(q->call_fd, &(eventfd_t){0});
	}
	add_figure(p, "reads_per_second", (double)r.reads * 1e9 / (double)(now_ns() - start));
	remark(p, "%.0f reads/s of 4 KiB at random places, %u at a time",
	       (double)r.reads * 1e9 / (double)(now_ns() - start), depth);
}

static int one_read(struct probe *p, void *opaque)
{
	struct reader *r = opaque;
	struct probe_queue *q = &p->queue[0];

	if (submit_read(p, r, 0))
		return -1;
	work_kick(p, 0);
	for (;;) {
		int got = turn_around(p, r, false);

		if (got)
			return got < 0 ? -1 : 0;
		if (virtq_driver_enable_calls(&q->driver))
			continue;
		if (poll(&(struct pollfd){.fd = q->call_fd, .events = POLLIN}, 1,
			 (int)p->options->timeout_ms) <= 0)
			return fail(p, "queue 0: a read did not come back within %u ms",
				    p->options->timeout_ms);
		eventfd_read(q->call_fd, &(eventfd_t){0});
	}
}

static void read_latency(struct probe *p, unsigned argument)
{
	struct reader r = {.seed = 1};

	if (session_open(p) || count_blocks(p, &r.blocks))
		return;
	r.gpa = guest_alloc(&p->guest, GUEST_HIGH, 2 * BLOCK, BLOCK);
	time_each(p, one_read, &r);
}

#define RULE "none: a measurement"
/* clang-format off */
const struct front_test front_rate_tests[] = {
	{ "rate-64", "frames of 64 bytes, as many as the target takes", RULE, PROBE_RATE, EACH, PROBE_NET, frames, 64 },
	{ "rate-1500", "frames of 1500 bytes", RULE, PROBE_RATE, EACH, PROBE_NET, frames, 1500 },
	{ "latency-answer", "an ARP request and its answer, one at a time", RULE, PROBE_LATENCY, EACH, PROBE_NET, answer_latency, 0 },
	{ "rate-read-4k", "random reads of 4 KiB, 32 at a time", RULE, PROBE_RATE, EACH, PROBE_BLK, read_rate, DEPTH },
	{ "latency-read-4k", "random reads of 4 KiB, one at a time", RULE, PROBE_LATENCY, EACH, PROBE_BLK, read_latency, 0 },
	{ 0 },
};
/* clang-format on */
