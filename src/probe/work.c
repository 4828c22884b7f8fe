/* SPDX-License-Identifier: BSD-2-Clause */
#include "probe/work.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "base/loop.h"

enum { HALF = SLOT_BYTES / 2, FRAME_BYTES = 60, SECTOR = 512, FILL = 0xa5, SECTORS_READ = 8 };

unsigned work_queue(unsigned pair, const struct probe *p)
{
	return p->options->device == PROBE_NET ? 2 * pair + 1 : pair;
}

/* --- making requests --- */

/* Cut `size` bytes at gpa into segments, each followed by a guard. Returns how many; 0: too many. */
static unsigned cut_up(struct virtq_segment *segment, unsigned room, gpa_t gpa, uint32_t size, uint32_t cut)
{
	unsigned n = 0;

	for (uint32_t at = 0; at < size; n++) {
		uint32_t len = size - at < cut ? size - at : cut;

		if (n == room)
			return 0;
		segment[n] = (struct virtq_segment){gpa, len};
		gpa += len + WORK_GUARD;
		at += len;
	}
	return n;
}

/* Copy between bytes and segments, in either direction. */
static void spread(struct probe *p, const struct virtq_segment *segment, unsigned n, void *bytes,
		   bool into_guest)
{
	for (unsigned k = 0; k < n; k++) {
		uint8_t *at = guest_at(&p->guest, segment[k].gpa, segment[k].len);

		memcpy(into_guest ? at : bytes, into_guest ? bytes : at, segment[k].len);
		bytes = (uint8_t *)bytes + segment[k].len;
	}
}

static uint32_t net_header_bytes(const struct probe *p)
{
	bool whole = has(p, VIRTIO_F_VERSION_1) || has(p, VIRTIO_NET_F_MRG_RXBUF);

	return whole ? sizeof(struct virtio_net_hdr_mrg_rxbuf) : sizeof(struct virtio_net_hdr);
}

/* An ARP request for a user-mode network's router, or the same bytes under the local experimental EtherType.
 */
static uint32_t make_frame(const struct probe *p, uint8_t *bytes, bool arp)
{
	static const uint8_t frame[FRAME_BYTES] = {
	    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x67, 0x75, 0x69, 0x73, 0x65, 0x08, 0x06,
	    0,	  1,	0x08, 0,    6,	  4,	0,    1,    0x02, 0x67, 0x75, 0x69, 0x73, 0x65,
	    10,	  0,	2,    15,   0,	  0,	0,    0,    0,	  0,	10,   0,    2,	  2,
	};
	uint32_t header = net_header_bytes(p);

	memset(bytes, 0, header);
	memcpy(bytes + header, frame, sizeof(frame));
	if (!arp) {
		bytes[header + 12] = 0x88;
		bytes[header + 13] = 0xb5;
	}
	return header + FRAME_BYTES;
}

static uint32_t make_blk_header(uint8_t *bytes, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr header = {.type = type, .sector = sector};

	memcpy(bytes, &header, sizeof(header));
	return sizeof(header);
}

/* The request's readable bytes, and how many it wants written. */
static uint32_t make_request(struct probe *p, struct request *r, uint8_t *bytes)
{
	uint32_t header;

	r->writable_bytes = 0;
	switch (r->kind) {
	case REQUEST_TX:
	case REQUEST_ARP:
		return make_frame(p, bytes, r->kind == REQUEST_ARP);
	case REQUEST_RX:
		r->writable_bytes = HALF - WORK_GUARD;
		return 0;
	case REQUEST_ID:
		r->writable_bytes = VIRTIO_BLK_ID_BYTES + 1;
		return make_blk_header(bytes, VIRTIO_BLK_T_GET_ID, 0);
	case REQUEST_WRITE:
		r->writable_bytes = 1;
		header = make_blk_header(bytes, VIRTIO_BLK_T_OUT, r->sector);
		for (unsigned k = 0; k < SECTOR; k++)
			bytes[header + k] = (uint8_t)(p->seed = p->seed * 1664525 + 1013904223);
		memcpy(p->sector[r->sector], bytes + header, SECTOR);
		p->sector_known[r->sector] = true;
		return header + SECTOR;
	default:
		r->writable_bytes = SECTOR + 1;
		return make_blk_header(bytes, VIRTIO_BLK_T_IN, r->sector);
	}
}

/* As drivers lay requests out: a frame whole; a disk's header, data and status each by itself. */
static unsigned cut_as_usual(const struct request *r, struct virtq_segment *segment, unsigned room, gpa_t gpa,
			     uint32_t size, bool readable)
{
	uint32_t first = readable ? sizeof(struct virtio_blk_outhdr) : size - 1;
	unsigned n;

	if (r->kind == REQUEST_TX || r->kind == REQUEST_ARP || r->kind == REQUEST_RX || size <= first ||
	    !first)
		return cut_up(segment, room, gpa, size, size ? size : 1);
	n = cut_up(segment, room, gpa, first, first);
	return n + cut_up(segment + n, room - n, gpa + first + WORK_GUARD, size - first, size);
}

static struct request *free_request(struct probe_queue *q)
{
	for (unsigned k = 0; k < SLOTS; k++)
		if (!q->request[k].busy)
			return &q->request[k];
	return NULL;
}

static const uint32_t room = sizeof(((struct request *)0)->segment) / sizeof(struct virtq_segment);

static int lay_out(struct probe *p, struct request *r, unsigned cut)
{
	uint8_t bytes[HALF] = {0};
	uint32_t size = make_request(p, r, bytes),
		 limit = (HALF - WORK_GUARD) / (cut ? cut + WORK_GUARD : 1) * (cut ? cut : 1);

	if (size > limit || r->writable_bytes > HALF)
		return fail(p, "the probe cannot cut %u bytes into pieces of %u", size, cut);
	if (cut) {
		uint32_t piece = cut; /* larger for what is written, until it fits */

		if (r->kind == REQUEST_RX && limit < r->writable_bytes)
			r->writable_bytes = limit;
		while (r->writable_bytes / piece * (piece + WORK_GUARD) > HALF - 2 * WORK_GUARD ||
		       r->writable_bytes / piece > room / 2)
			piece *= 2;
		r->n_readable = cut_up(r->segment, room, r->gpa, size, cut);
		r->n_writable = cut_up(r->segment + r->n_readable, room - r->n_readable, r->gpa + HALF,
				       r->writable_bytes, piece);
	} else {
		r->n_readable = cut_as_usual(r, r->segment, room, r->gpa, size, true);
		r->n_writable = cut_as_usual(r, r->segment + r->n_readable, room - r->n_readable,
					     r->gpa + HALF, r->writable_bytes, false);
	}
	if (!(r->n_readable + r->n_writable))
		return fail(p, "the probe cannot cut a request into pieces of %u", cut);
	memset(guest_at(&p->guest, r->gpa, SLOT_BYTES), FILL, SLOT_BYTES);
	spread(p, r->segment, r->n_readable, bytes, true);
	return 0;
}

/* The driver wrote to these parts of its rings: that is no change by the device. */
static void driver_wrote(struct probe *p, const struct probe_queue *q)
{
	struct virtq_layout bytes = virtq_layout(q->config.size, q->config.options);

	if (!p->watching)
		return;
	guest_allow(&p->guest, q->config.driver, bytes.driver);
	guest_allow(&p->guest, q->config.desc, bytes.desc);
	if (q->driver.indirect)
		guest_allow(&p->guest, q->driver.indirect_gpa,
			    16ull * q->driver.indirect_entries * q->driver.size);
}

int work_submit(struct probe *p, unsigned queue, enum request_kind kind, unsigned cut)
{
	struct probe_queue *q = &p->queue[queue];
	struct request *r = free_request(q);
	int err;

	if (!r)
		return fail(p, "the probe has no request free: the target keeps them");
	r->kind = kind;
	r->sector = q->driver.counters.chains % SECTORS_READ;
	if (lay_out(p, r, cut))
		return -1;
	if (p->watching)
		guest_allow(&p->guest, r->gpa, SLOT_BYTES);
	err = virtq_driver_add(&q->driver, r->segment, r->n_readable, r->n_writable, r);
	if (err)
		return fail(p, "queue %u: no room for a request of %u segments: %s", queue,
			    r->n_readable + r->n_writable,
			    q->driver.error ? virtq_error_name(q->driver.error)
					    : "the target keeps too many");
	driver_wrote(p, q);
	r->busy = true;
	return 0;
}

void work_kick(struct probe *p, unsigned queue)
{
	struct probe_queue *q = &p->queue[queue];

	transcript_work(&p->link.transcript, queue);
	if (virtq_driver_should_kick(&q->driver))
		eventfd_write(q->kick_fd, 1);
}

/* --- what comes back --- */

static int check_blk(struct probe *p, unsigned queue, const struct request *r, uint32_t written)
{
	uint8_t bytes[HALF], status;

	spread(p, r->segment + r->n_readable, r->n_writable, bytes, false);
	status = bytes[r->writable_bytes - 1];
	if (status != VIRTIO_BLK_S_OK && !(r->kind == REQUEST_ID && status == VIRTIO_BLK_S_UNSUPP))
		return fail(p, "queue %u: request of type %u for sector %llu ended with status 0x%x", queue,
			    r->kind, (unsigned long long)r->sector, status);
	if (r->kind != REQUEST_READ)
		return 0;
	if (written < SECTOR + 1)
		return fail(p, "queue %u: a read of 512 bytes with its status says that %u were written",
			    queue, written);
	if (p->sector_known[r->sector] && memcmp(p->sector[r->sector], bytes, SECTOR))
		return fail(p, "queue %u: sector %llu reads differently than before", queue,
			    (unsigned long long)r->sector);
	memcpy(p->sector[r->sector], bytes, SECTOR);
	p->sector_known[r->sector] = true;
	return 0;
}

static int check_request(struct probe *p, unsigned queue, const struct request *r, uint32_t written)
{
	struct probe_queue *q = &p->queue[queue];

	if (r->kind == REQUEST_TX || r->kind == REQUEST_ARP)
		return 0; /* the driver half saw that nothing counts as written */
	if (r->kind != REQUEST_RX)
		return check_blk(p, queue, r, written);
	if (written < net_header_bytes(p) + 14)
		return fail(p, "queue %u: a received frame of %u bytes, header included", queue, written);
	q->received = written;
	return 0;
}

int work_take(struct probe *p, unsigned queue)
{
	struct probe_queue *q = &p->queue[queue];
	struct request *r;
	uint32_t written;
	int n = 0;

	while ((r = virtq_driver_take(&q->driver, &written))) {
		r->busy = false;
		q->done++;
		n++;
		if (check_request(p, queue, r, written))
			return -1;
	}
	if (q->driver.error)
		return fail(p, "queue %u: the used ring is wrong: %s", queue,
			    virtq_error_name(q->driver.error));
	return n;
}

static int no_progress(struct probe *p, unsigned queue, unsigned got, unsigned count)
{
	int late = work_take(p, queue);

	if (late < 0)
		return -1;
	if (late)
		return fail(p, "queue %u: a used buffer was there, but no notification came", queue);
	if (p->link.fd >= 0 && link_is_closed(&p->link, 0))
		return fail(p, "queue %u: the connection was closed with %u of %u requests back", queue, got,
			    count);
	return fail(p, "queue %u: %u of %u requests came back, then nothing for %u ms", queue, got, count,
		    p->options->timeout_ms);
}

/* Wait for a notification or until the deadline. false: none. */
static bool sleep_for_call(struct probe *p, struct probe_queue *q, unsigned ms)
{
	struct pollfd ready = {.fd = q->call_fd, .events = POLLIN};
	eventfd_t value;

	if (poll(&ready, 1, (int)ms) <= 0)
		return false;
	eventfd_read(q->call_fd, &value);
	return true;
}

int work_wait(struct probe *p, unsigned queue, unsigned count)
{
	struct probe_queue *q = &p->queue[queue];

	for (unsigned got = 0; got < count;) {
		int n = work_take(p, queue);

		if (n < 0)
			return -1;
		got += (unsigned)n;
		if (n || got >= count)
			continue;
		if (virtq_driver_enable_calls(&q->driver))
			continue;
		driver_wrote(p, q);
		if (!sleep_for_call(p, q, p->options->timeout_ms))
			return no_progress(p, queue, got, count);
	}
	return 0;
}

int work_poll(struct probe *p, unsigned queue, unsigned count)
{
	uint64_t deadline = now_ns() + p->options->timeout_ms * 1000000ull;

	for (unsigned got = 0; got < count;) {
		int n = work_take(p, queue);

		if (n < 0)
			return -1;
		got += (unsigned)n;
		if (!n && now_ns() > deadline)
			return fail(p, "queue %u: %u of %u requests came back, then nothing for %u ms", queue,
				    got, count, p->options->timeout_ms);
		if (!n)
			poll(NULL, 0, 1);
	}
	return 0;
}

int work_quiet(struct probe *p, unsigned queue, unsigned ms)
{
	poll(NULL, 0, (int)ms);
	return work_take(p, queue);
}

/* --- whole pieces of work --- */

int work_round(struct probe *p, unsigned pair, unsigned count, unsigned batch, unsigned cut)
{
	unsigned queue = work_queue(pair, p);
	bool net = p->options->device == PROBE_NET;

	while (count) {
		unsigned now = batch < count ? batch : count;

		for (unsigned k = 0; k < now; k++)
			if (work_submit(p, queue,
					net		  ? REQUEST_TX
					: (count + k) % 4 ? REQUEST_READ
							  : REQUEST_ID,
					cut))
				return -1;
		work_kick(p, queue);
		if (work_wait(p, queue, now))
			return -1;
		count -= now;
	}
	return 0;
}

int work_receive(struct probe *p, unsigned pair)
{
	unsigned rx = 2 * pair, tx = 2 * pair + 1;

	if (p->options->device != PROBE_NET)
		return 0;
	for (unsigned k = 0; k < 4; k++)
		if (p->queue[rx].driver.outstanding < 4 && work_submit(p, rx, REQUEST_RX, 0))
			return -1;
	work_kick(p, rx);
	if (!p->answers)
		return 0;
	if (work_submit(p, tx, REQUEST_ARP, 0))
		return -1;
	work_kick(p, tx);
	return work_wait(p, tx, 1) || work_wait(p, rx, 1) ? -1 : 0;
}

int work_pair(struct probe *p, unsigned pair)
{
	return work_round(p, pair, 4, 2, 0) || work_receive(p, pair) ? -1 : 0;
}

int work_prove_life(struct probe *p, char *why, size_t why_size)
{
	struct verdict verdict = p->verdict;
	uint64_t want = p->want, want_protocol = p->want_protocol;
	bool packed = p->packed, watching = p->watching;
	uint32_t base;
	int err;

	p->verdict = (struct verdict){0};
	p->watching = false;
	session_defaults(p, packed);
	err = session_open(p) || work_pair(p, 0);
	for (unsigned k = 0; !err && k < session_queues(p); k++)
		err = session_get_base(p, k, &base);
	session_close(p);
	snprintf(why, why_size, "%s", err ? p->verdict.text : "");
	p->verdict = verdict;
	p->want = want;
	p->want_protocol = want_protocol;
	p->watching = watching;
	return err ? -1 : 0;
}

/* --- nothing else is written --- */

void work_watch(struct probe *p)
{
	p->watching = true;
	guest_keep(&p->guest);
}

static void allow_device_writes(struct probe *p, const struct probe_queue *q)
{
	struct virtq_layout bytes = virtq_layout(q->config.size, q->config.options);

	guest_allow(&p->guest, q->config.device, bytes.device);
	if (p->packed)
		guest_allow(&p->guest, q->config.desc, bytes.desc);
	for (unsigned k = 0; k < SLOTS; k++) {
		const struct request *r = &q->request[k];

		for (unsigned s = r->n_readable; s < r->n_readable + r->n_writable; s++)
			guest_allow(&p->guest, r->segment[s].gpa, r->segment[s].len);
	}
}

/*
 * What the target writes to its rings between our look at them and the comparison, its wish for kicks above all, is no
 * buffer's either: look again. What it must not have written stays changed.
 */
enum { LOOKS = 5 };

int work_check_memory(struct probe *p)
{
	gpa_t changed = UINT64_MAX;

	for (unsigned look = 0; look < LOOKS; look++) {
		for (unsigned k = 0; k < PROBE_QUEUES_MAX; k++)
			if (p->queue[k].ready)
				allow_device_writes(p, &p->queue[k]);
		changed = guest_find_change(&p->guest);
		if (changed == UINT64_MAX)
			break;
	}
	if (changed != UINT64_MAX)
		return fail(p,
			    "the target wrote to guest memory at 0x%llx, which is no buffer for it to write",
			    (unsigned long long)changed);
	return 0;
}
