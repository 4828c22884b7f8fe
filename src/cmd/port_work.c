/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packets through ports: made, counted, checked, sent back, answered, passed on. A thread does nothing else for its queue, by bursts
 * through the port's own buffers. Without --poll it sleeps on the port's descriptor whenever there is nothing to do.
 */
#include "cmd/port_work.h"

#include <poll.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "base/loop.h"
#include "cmd/port_frames.h"

const char *const work_mode_names[] = { "sink", "send", "exchange", "reflect", "echo", "forward", NULL };

enum { SLEEP_MS = 50, SHORT_NS = 20000, QUIET_NS = 2000000000 };

/* n packets went through: rates are taken from windows, so that a thread that did not run for a while spoils few of them. */
static void count(struct work_queue *w, unsigned n)
{
	uint64_t now;

	w->window_packets += n;
	if (++w->calls % 16)
		return;
	now = now_ns();
	if (now - w->window_start < WINDOW_NS)
		return;
	if (w->window_start && w->n_windows < WINDOWS_MAX)
		w->window[w->n_windows++] = (float)((double)w->window_packets * 1e9 / (double)(now - w->window_start));
	w->window_start = now;
	w->window_packets = 0;
}

static void short_sleep(void)
{
	nanosleep(&(struct timespec){ 0, SHORT_NS }, NULL);
}

/* --- sending --- */

/* The first bytes of every frame, with the virtio header in front; the rest is what the buffer holds, unless contents are checked. */
static void make_template(struct work_queue *w)
{
	static const uint8_t to[6] = { 2, 0, 0, 0, 0, 1 };

	memset(w->template, 0, sizeof(w->template));
	frame_headers(w->template + PORT_HEADER, w->work->bytes, w->work->mac, to);
	frame_number(w->template + PORT_HEADER, 0);
}

static inline void make(struct work_queue *w, struct port_buffer *b)
{
	memcpy(b->data, w->template, sizeof(w->template));
	if (w->work->check)
		frame_fill(b->data + PORT_HEADER, w->work->bytes, w->next_number);
	else
		memcpy(b->data + PORT_HEADER + FRAME_HEADERS, &w->next_number, sizeof(w->next_number));
	w->next_number++;
	b->bytes = PORT_HEADER + w->work->bytes;
}

/* How many packets may be sent now, by the rate that is asked for. */
static unsigned allowance(struct work_queue *w, uint64_t start)
{
	struct work *work = w->work;
	uint64_t due = work->burst + w->sent;

	if (work->rate > 0)
		due = (uint64_t)((double)(now_ns() - start) * 1e-9 * work->rate);
	if (work->count && due > work->count)
		due = work->count;
	if (due <= w->sent)
		return 0;
	return due - w->sent < work->burst ? (unsigned)(due - w->sent) : work->burst;
}

/* One burst. How many packets went. */
static unsigned send_burst(struct work_queue *w, uint64_t start)
{
	struct port *port = w->work->port[0];
	struct port_buffer buffer[WORK_BURST];
	unsigned want = port_is_up(port) ? allowance(w, start) : 0, lent, sent;

	if (!want) {
		port_submit(port, w->queue, NULL, 0);
		return 0;
	}
	lent = port_lend(port, w->queue, buffer, want);
	for (unsigned k = 0; k < lent; k++)
		make(w, &buffer[k]);
	sent = lent ? port_submit(port, w->queue, buffer, lent) : 0;
	if (sent < lent) {
		port_give_back(port, w->queue, buffer + sent, lent - sent);
		w->next_number -= lent - sent;
	}
	__atomic_store_n(&w->sent, w->sent + (sent), __ATOMIC_RELAXED);
	return sent;
}

/* --- receiving --- */

/* A packet of several buffers is checked by its first, for these frames are made to fit one. */
static void look_at(struct work_queue *w, const struct port_buffer *b)
{
	uint64_t number;

	if (!w->work->check)
		return;
	if (b->bytes < PORT_HEADER || !frame_check(b->data + PORT_HEADER, b->bytes - PORT_HEADER, &number)) {
		w->damaged++;
		return;
	}
	w->checked++;
	w->out_of_order += number < w->expected;
	w->expected = number + 1;
}

/* What a packet left undone, and what its header says only to who receives it. */
static void look_at_header(struct work_queue *w, uint8_t *data)
{
	struct virtio_net_hdr_v1 header;

	memcpy(&header, data, sizeof(header));
	w->unfinished_checksums += header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	w->unsegmented += header.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	header.num_buffers = 0;
	memcpy(data, &header, sizeof(header));
}

static unsigned sink_burst(struct work_queue *w)
{
	struct port_buffer buffer[WORK_BURST];
	unsigned got = port_collect(w->work->port[0], w->queue, buffer, w->work->burst), packets = 0;

	for (unsigned k = 0; k < got; k++) {
		if (k == 0 || !buffer[k - 1].more) {
			look_at(w, &buffer[k]);
			if (w->work->offloads && buffer[k].bytes >= PORT_HEADER)
				look_at_header(w, buffer[k].data);
			packets++;
		}
	}
	port_give_back(w->work->port[0], w->queue, buffer, got);
	__atomic_store_n(&w->received, w->received + (packets), __ATOMIC_RELAXED);
	return packets;
}

static unsigned pieces_of(const struct port_buffer *b, unsigned n)
{
	unsigned count = 1;

	while (count < n && b[count - 1].more)
		count++;
	return count;
}

/* A packet's pieces to lent buffers, which may be of another size. How many of these; 0: they are too few. */
static unsigned copy_pieces(const struct port_buffer *in, unsigned pieces, struct port_buffer *out, unsigned lent)
{
	unsigned filled = 0;

	if (!lent)
		return 0;
	out[0].bytes = 0;
	for (unsigned k = 0; k < pieces; k++) {
		uint32_t at = 0, part;

		for (; at < in[k].bytes; at += part) {
			if (out[filled].bytes == out[filled].room) {
				out[filled++].more = true;
				if (filled == lent)
					return 0;
				out[filled].bytes = 0;
			}
			part = out[filled].room - out[filled].bytes;
			part = part < in[k].bytes - at ? part : in[k].bytes - at;
			memcpy(out[filled].data + out[filled].bytes, in[k].data + at, part);
			out[filled].bytes += part;
		}
	}
	out[filled++].more = false;
	return filled;
}

/* Lent buffers that are filled with packets, on their way to a port. */
struct outgoing {
	struct port *port;
	struct port_buffer buffer[WORK_BURST + PORT_MAX_PIECES];
	unsigned filled, lent, packets;
};

static void flush(struct work_queue *w, struct outgoing *o)
{
	unsigned sent = o->filled ? port_submit(o->port, w->queue, o->buffer, o->filled) : 0;

	if (sent < o->lent)
		port_give_back(o->port, w->queue, o->buffer + sent, o->lent - sent);
	__atomic_store_n(&w->sent, w->sent + o->packets, __ATOMIC_RELAXED);
	o->filled = o->lent = o->packets = 0;
}

/* One packet, changed by `change` (may be NULL; false: not passed on). Without room it is lost. */
static void pass_one(struct work_queue *w, const struct port_buffer *in, unsigned pieces, struct outgoing *o,
		     bool (*change)(struct work *, struct port_buffer *))
{
	struct port_buffer *out = &o->buffer[o->filled];
	unsigned count = copy_pieces(in, pieces, out, o->lent - o->filled);

	if (!count) { /* small buffers for a large packet, perhaps */
		flush(w, o);
		out = o->buffer;
		o->lent = port_lend(o->port, w->queue, out, PORT_MAX_PIECES);
		count = copy_pieces(in, pieces, out, o->lent);
	}
	if (count)
		look_at_header(w, out->data);
	if (count && (!change || change(w->work, out))) {
		o->filled += count;
		o->packets++;
	}
}

/* Packets of `from` to `to`. */
static unsigned pass(struct work_queue *w, struct port *from, struct port *to, bool (*change)(struct work *, struct port_buffer *))
{
	struct port_buffer in[WORK_BURST];
	struct outgoing o; /* large: begun only with packets there */
	unsigned got = port_collect(from, w->queue, in, w->work->burst), packets = 0, pieces;

	if (!got)
		return 0;
	o.port = to;
	o.filled = o.packets = 0;
	o.lent = port_lend(to, w->queue, o.buffer, got);
	for (unsigned k = 0; k < got; k += pieces, packets++) {
		pieces = pieces_of(in + k, got - k);
		pass_one(w, in + k, pieces, &o, change);
	}
	flush(w, &o);
	port_give_back(from, w->queue, in, got);
	__atomic_store_n(&w->received, w->received + packets, __ATOMIC_RELAXED);
	return got;
}

static bool swap(struct work *work, struct port_buffer *b)
{
	if (b->bytes >= PORT_HEADER + 14)
		frame_swap_macs(b->data + PORT_HEADER);
	return true;
}

static bool answer(struct work *work, struct port_buffer *b)
{
	bool is_answered = !b->more && b->bytes > PORT_HEADER && frame_answer(b->data + PORT_HEADER, b->bytes - PORT_HEADER, work->mac);

	memset(b->data, 0, PORT_HEADER); /* checksums are whole */
	return is_answered;
}

/* --- the thread --- */

static void wait_for_packets(struct work_queue *w)
{
	struct work *work = w->work;
	unsigned n_ports = work->mode == WORK_FORWARD ? 2 : 1;
	struct pollfd fds[2];

	if (work->mode == WORK_SEND || work->mode == WORK_EXCHANGE) {
		short_sleep();
		return;
	}
	for (unsigned k = 0; k < n_ports; k++)
		fds[k] = (struct pollfd){ port_receive_fd(work->port[k], w->queue), POLLIN, 0 };
	poll(fds, n_ports, SLEEP_MS);
}

static unsigned step(struct work_queue *w, uint64_t start)
{
	struct work *work = w->work;
	unsigned did = 0;

	switch (work->mode) {
	case WORK_SEND:
		return send_burst(w, start);
	case WORK_EXCHANGE:
		did = sink_burst(w);
		send_burst(w, start);
		return did;
	case WORK_REFLECT:
		return pass(w, work->port[0], work->port[0], swap);
	case WORK_ECHO:
		return pass(w, work->port[0], work->port[0], answer);
	case WORK_FORWARD:
		did = pass(w, work->port[0], work->port[1], NULL);
		return did + pass(w, work->port[1], work->port[0], NULL);
	default:
		return sink_burst(w);
	}
}

/* Of packets that were exchanged some may be lost: when none has come for a while, none will. */
static bool is_done(struct work_queue *w)
{
	const struct work *work = w->work;
	uint64_t so_far = work->mode == WORK_SEND ? w->sent : w->received;

	if (!work->count || so_far >= work->count)
		return work->count;
	if (work->mode != WORK_EXCHANGE || w->sent < work->count)
		return false;
	if (w->received != w->received_before) {
		w->received_before = w->received;
		w->quiet_since = now_ns();
	}
	return now_ns() - w->quiet_since > QUIET_NS;
}

void *work_run(void *arg)
{
	struct work_queue *w = arg;
	uint64_t start = now_ns();
	cpu_set_t set;

	make_template(w);

	if (w->work->cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET((unsigned)w->work->cpu + w->queue, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	while (!atomic_load_explicit(&w->work->stop, memory_order_relaxed)) {
		unsigned did = step(w, start);

		if (did)
			count(w, did);
		else if (is_done(w))
			atomic_store(&w->done, true), short_sleep();
		else if (!w->work->polling)
			wait_for_packets(w);
	}
	return NULL;
}
