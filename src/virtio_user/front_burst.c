/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A front port's packets. A sent buffer comes back when the device has used it, which is looked for only when buffers run
 * short; a received one goes into the ring again when its user gives it back. The device is never asked to call for sent
 * packets, and for received ones only when none were there and the user does not poll.
 *
 * What the device says is checked: lengths by the driver half, the number of buffers of a packet here. A ring that it broke stays dead
 * until the back end connects anew.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/prefetch.h"
#include "virtio_user/internal.h"

enum { OWED_MOST = 8 };

static struct front *front_of(struct port *port)
{
	return (struct front *)((char *)port - offsetof(struct front, port));
}

static void report(struct front *f, struct front_side *s, const char *what)
{
	if (!s->ring.error || s->reported)
		return;
	s->reported = true;
	log_warn("%s: %s queue quarantined until the back end connects anew: %s", f->owner, what, virtq_error_name(s->ring.error));
}

static void kick(struct front_side *s)
{
	s->owed = 0;
	if (virtq_driver_should_kick(&s->ring))
		eventfd_write(s->kick_fd, 1);
}

/*
 * To look at the device's wish the processor first waits until all that was stored has reached the other one, and much has just been
 * stored. Where the user comes again at once that is put off until nothing is to be done, or OWED_MOST times.
 */
static void kick_soon(struct front *f, struct front_side *s)
{
	if (!atomic_load_explicit(&f->polling, memory_order_relaxed) || ++s->owed >= OWED_MOST)
		kick(s);
}

static void settle(struct front_queue *q)
{
	if (q->tx.owed)
		kick(&q->tx);
	if (q->rx.owed)
		kick(&q->rx);
}

/* --- sending --- */

static void put_pieces(struct front *f, struct front_side *s, uintptr_t token)
{
	unsigned at = (unsigned)((size_t)((uint8_t *)(token & ~(uintptr_t)1) - s->buffers) / f->stride);

	for (; at != NO_BUFFER; at = s->next_piece[at])
		put_free(s, s->buffers + (size_t)at * f->stride);
}

/* Take back up to n packets' buffers that the device is done with. How many packets. */
static unsigned reclaim(struct front *f, struct front_queue *q, unsigned n)
{
	void *token[FRONT_BURST];
	uint32_t written[FRONT_BURST];
	unsigned got = virtq_driver_take_burst(&q->tx.ring, token, written, n < FRONT_BURST ? n : FRONT_BURST);

	for (unsigned k = 0; k < got; k++) {
		if ((uintptr_t)token[k] & 1)
			put_pieces(f, &q->tx, (uintptr_t)token[k]);
		else
			put_free(&q->tx, token[k]);
	}
	if (q->tx.ring.error)
		report(f, &q->tx, "transmit");
	return got;
}

static unsigned lend(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n)
{
	struct front *f = front_of(port);
	struct front_queue *q = &f->queue[queue];
	unsigned k;

	pthread_mutex_lock(&q->lock);
	while (q->tx.count < n && q->tx.ring.outstanding && reclaim(f, q, n))
		;
	if (q->tx.count < n)
		settle(q);
	n = n < q->tx.count ? n : q->tx.count;
	for (k = 0; k < n; k++) {
		uint8_t *data = get_free(&q->tx);

		prefetch_to_write(data); /* the device read it: it takes a while to get it back */
		prefetch_to_write(data + CACHE_LINE);
		buffers[k] = (struct port_buffer){ .data = data, .room = f->room };
	}
	pthread_mutex_unlock(&q->lock);
	return n;
}

/* Nobody is there to send to: the packets are lost, as on an unplugged wire. */
static void drop(struct front_queue *q, const struct port_buffer *buffers, unsigned n)
{
	for (unsigned k = 0; k < n; k++) {
		put_free(&q->tx, buffers[k].data);
		port_count(&q->counters.tx_dropped, !buffers[k].more);
	}
}

/* Up to FRONT_BURST packets of one buffer each. */
static unsigned submit_single(struct front_queue *q, const struct port_buffer *buffers, unsigned n)
{
	struct virtq_segment segment[FRONT_BURST];
	void *token[FRONT_BURST];
	uint64_t bytes = 0;
	unsigned added;

	for (unsigned k = 0; k < n; k++) {
		token[k] = buffers[k].data;
		segment[k] = (struct virtq_segment){ (uintptr_t)token[k], buffers[k].bytes };
	}
	added = virtq_driver_add_burst(&q->tx.ring, segment, token, n, false);
	for (unsigned k = 0; k < added; k++)
		bytes += buffers[k].bytes - PORT_HEADER;
	port_count(&q->counters.tx_packets, added);
	port_count(&q->counters.tx_bytes, bytes);
	return added;
}

/* A packet of several buffers. How many; 0: no room. */
static unsigned submit_pieces(struct front *f, struct front_queue *q, const struct port_buffer *buffers, unsigned n)
{
	struct virtq_segment segment[PORT_MAX_PIECES];
	unsigned count = 0, at = 0;
	uint64_t bytes = 0;

	while (count < n && count < PORT_MAX_PIECES) {
		at = (unsigned)((size_t)(buffers[count].data - q->tx.buffers) / f->stride);
		segment[count] = (struct virtq_segment){ (uintptr_t)buffers[count].data, buffers[count].bytes };
		bytes += buffers[count].bytes;
		if (!buffers[count].more)
			break;
		count++;
		if (count < n)
			q->tx.next_piece[at] = (uint16_t)((size_t)(buffers[count].data - q->tx.buffers) / f->stride);
	}
	if (count == n || count == PORT_MAX_PIECES) /* its end is missing */
		return 0;
	q->tx.next_piece[at] = NO_BUFFER;
	count++;
	if (virtq_driver_add(&q->tx.ring, segment, count, 0, (void *)((uintptr_t)buffers[0].data | 1)))
		return 0;
	port_count(&q->counters.tx_packets, 1);
	port_count(&q->counters.tx_bytes, bytes - PORT_HEADER);
	return count;
}

/* From buffers[0] on, how many packets of one buffer follow each other, FRONT_BURST at most. */
static unsigned singles(const struct port_buffer *buffers, unsigned n)
{
	unsigned k = 0;

	while (k < n && k < FRONT_BURST && !buffers[k].more)
		k++;
	return k;
}

static unsigned submit(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n)
{
	struct front *f = front_of(port);
	struct front_queue *q = &f->queue[queue];
	unsigned done = 0, step = 1;

	pthread_mutex_lock(&q->lock);
	if (!atomic_load_explicit(&f->up, memory_order_relaxed) || q->tx.ring.error || queue >= f->port.n_queues) {
		drop(q, buffers, n);
		pthread_mutex_unlock(&q->lock);
		return n;
	}
	while (done < n && step) {
		unsigned alone = singles(buffers + done, n - done);

		step = alone ? submit_single(q, buffers + done, alone) : submit_pieces(f, q, buffers + done, n - done);
		done += step;
	}
	if (done)
		kick_soon(f, &q->tx);
	if (done < n || !n)
		settle(q);
	pthread_mutex_unlock(&q->lock);
	return done;
}

/* --- receiving --- */

static uint16_t num_buffers(const uint8_t *header)
{
	uint16_t count;

	memcpy(&count, header + offsetof(struct virtio_net_hdr_v1, num_buffers), sizeof(count));
	return count;
}

/* Put a used buffer back where the device finds it. */
static void repost(struct front *f, struct front_queue *q, void *buffer)
{
	put_free(&q->rx, buffer);
	front_refill(f, q);
	kick(&q->rx);
}

static void drop_pending(struct front *f, struct front_queue *q)
{
	while (q->n_pending)
		repost(f, q, q->pending[--q->n_pending].data);
	q->pieces_wanted = 0;
	port_count(&q->counters.rx_dropped, 1);
}

/*
 * One used buffer, as it came: a packet, or a piece of one. Returns how many buffers of a whole packet are in q->pending
 * now; 0: more must come, or it was nonsense and is dropped.
 */
static unsigned take_piece(struct front *f, struct front_queue *q, uint8_t *data, uint32_t bytes)
{
	if (!q->n_pending) {
		unsigned count = f->mergeable && bytes >= PORT_HEADER ? num_buffers(data) : 1;

		if (bytes < PORT_HEADER || !count || count > PORT_MAX_PIECES) {
			repost(f, q, data);
			port_count(&q->counters.rx_dropped, 1);
			return 0;
		}
		q->pieces_wanted = count;
	}
	q->pending[q->n_pending++] = (struct port_buffer){ data, bytes, f->room, q->n_pending < q->pieces_wanted };
	return q->n_pending == q->pieces_wanted ? q->n_pending : 0;
}

/* Deliver the whole packet in q->pending to out[]; 0: it does not fit there and is dropped. */
static unsigned deliver_pending(struct front *f, struct front_queue *q, struct port_buffer *out, unsigned room)
{
	unsigned count = q->n_pending;

	if (count > room) {
		drop_pending(f, q);
		return 0;
	}
	memcpy(out, q->pending, count * sizeof(*out));
	for (unsigned k = 0; k < count; k++)
		port_count(&q->counters.rx_bytes, out[k].bytes);
	port_count(&q->counters.rx_bytes, -(uint64_t)PORT_HEADER);
	port_count(&q->counters.rx_packets, 1);
	q->n_pending = q->pieces_wanted = 0;
	return count;
}

/*
 * Up to `want` used buffers to packets, which are as many at most; out has room for n buffers. *took: used buffers that were there.
 */
static unsigned take_used(struct front *f, struct front_queue *q, struct port_buffer *out, unsigned n, unsigned want, unsigned *took)
{
	void *token[FRONT_BURST];
	uint32_t written[FRONT_BURST];
	unsigned got, filled = 0;
	uint64_t bytes = 0;

	if (n <= q->n_pending)
		drop_pending(f, q);
	want = want < n - q->n_pending ? want : n - q->n_pending; /* what is whole then fits */
	got = virtq_driver_take_burst(&q->rx.ring, token, written, want < FRONT_BURST ? want : FRONT_BURST);
	*took = got;
	for (unsigned k = 0; k < got; k++)
		__builtin_prefetch(token[k]);
	for (unsigned k = 0; k < got; k++) {
		uint8_t *data = token[k];

		if (!q->n_pending && written[k] >= PORT_HEADER && (!f->mergeable || num_buffers(data) == 1)) {
			out[filled++] = (struct port_buffer){ data, written[k], f->room, false };
			bytes += written[k] - PORT_HEADER;
			port_count(&q->counters.rx_packets, 1);
		} else if (take_piece(f, q, data, written[k])) {
			filled += deliver_pending(f, q, out + filled, n - filled);
		}
	}
	port_count(&q->counters.rx_bytes, bytes);
	if (q->rx.ring.error)
		report(f, &q->rx, "receive");
	return filled;
}

static unsigned collect_used(struct front *f, struct front_queue *q, struct port_buffer *out, unsigned n, unsigned want)
{
	unsigned filled, took;

	do
		filled = take_used(f, q, out, n, want, &took);
	while (took && !filled);
	return filled;
}

/* Nothing was there. Ask to be told, and look once more: something may have come before we asked. */
static unsigned arm(struct front *f, struct front_queue *q, struct port_buffer *out, unsigned n, unsigned want)
{
	eventfd_t count;

	if (q->calls_wanted && eventfd_read(q->rx.call_fd, &count) && errno != EAGAIN)
		return 0;
	q->calls_wanted = true;
	return virtq_driver_enable_calls(&q->rx.ring) ? collect_used(f, q, out, n, want) : 0;
}

static unsigned collect_packets(struct port *port, unsigned queue, struct port_buffer *out, unsigned n, unsigned want)
{
	struct front *f = front_of(port);
	struct front_queue *q = &f->queue[queue];
	unsigned filled = 0;

	pthread_mutex_lock(&q->lock);
	if (q->rx.ring.state) {
		filled = collect_used(f, q, out, n, want);
		if (!filled && !atomic_load_explicit(&f->polling, memory_order_relaxed)) {
			filled = arm(f, q, out, n, want);
		} else if (filled && q->calls_wanted) {
			q->calls_wanted = false;
			virtq_driver_disable_calls(&q->rx.ring);
		}
		if (!filled)
			settle(q);
	}
	pthread_mutex_unlock(&q->lock);
	return filled;
}

static unsigned collect(struct port *port, unsigned queue, struct port_buffer *out, unsigned n)
{
	return n ? collect_packets(port, queue, out, n, n) : 0;
}

static bool is_of(const struct front *f, const struct front_side *s, const uint8_t *data)
{
	return (size_t)(data - s->buffers) < (size_t)s->config.size * f->stride;
}

static void give_back(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n)
{
	struct front *f = front_of(port);
	struct front_queue *q = &f->queue[queue];

	pthread_mutex_lock(&q->lock);
	for (unsigned k = 0; k < n; k++) {
		if (is_of(f, &q->rx, buffers[k].data))
			put_free(&q->rx, buffers[k].data);
		else
			put_free(&q->tx, buffers[k].data);
	}
	if (q->rx.ring.state && q->rx.count) {
		front_refill(f, q);
		kick_soon(f, &q->rx);
	}
	pthread_mutex_unlock(&q->lock);
}

const struct port_burst_ops front_burst_ops = { lend, submit, collect, give_back };

/* --- copying --- */

struct cursor {
	const struct iovec *iov;
	unsigned left;
	size_t offset;
};

/* Copy up to len bytes between the caller's pieces and a buffer. How many. */
static uint32_t copy_some(struct cursor *c, uint8_t *data, uint32_t len, bool out)
{
	uint32_t done = 0;

	while (done < len && c->left) {
		size_t part = c->iov->iov_len - c->offset;
		uint8_t *theirs = (uint8_t *)c->iov->iov_base + c->offset;

		part = part < len - done ? part : len - done;
		memcpy(out ? theirs : data + done, out ? data + done : theirs, part);
		done += (uint32_t)part;
		c->offset += part;
		if (c->offset == c->iov->iov_len) {
			c->iov++;
			c->left--;
			c->offset = 0;
		}
	}
	return done;
}

/* One packet of the caller's into lent buffers. 1: sent; 0: no room now. */
static int send_one(struct port *port, unsigned queue, const struct port_packet *packet)
{
	struct front *f = front_of(port);
	struct port_buffer buffer[PORT_MAX_PIECES];
	struct cursor c = { packet->iov, packet->n_iov, 0 };
	unsigned want = (packet->bytes + f->room - 1) / f->room, lent;

	if (packet->bytes < PORT_HEADER || want > PORT_MAX_PIECES) {
		port_count(&f->queue[queue].counters.tx_dropped, 1);
		return 1;
	}
	lent = lend(port, queue, buffer, want);
	for (unsigned k = 0; k < lent && lent == want; k++) {
		buffer[k].bytes = copy_some(&c, buffer[k].data, f->room, false);
		buffer[k].more = k + 1 < want;
	}
	if (lent == want && submit(port, queue, buffer, want) == want)
		return 1;
	give_back(port, queue, buffer, lent);
	return 0;
}

int front_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n)
{
	struct front *f = front_of(port);
	unsigned done = 0;

	while (done < n && send_one(port, queue, &packets[done]))
		done++;
	if (done < n && !atomic_load_explicit(&f->polling, memory_order_relaxed)) {
		/* Who does not poll is not told when there is room again: the rest is lost, as on a wire that is too slow. */
		port_count(&f->queue[queue].counters.tx_dropped, n - done);
		done = n;
	}
	return (int)done;
}

/* The packet that begins at buffers[0] to the caller; how many buffers it has. */
static unsigned copy_out(struct front_queue *q, const struct port_buffer *buffers, struct port_packet *packet, bool *fits)
{
	struct cursor c = { packet->iov, packet->n_iov, 0 };
	uint32_t bytes = 0, copied = 0;
	unsigned k = 0;

	do {
		copied += copy_some(&c, buffers[k].data, buffers[k].bytes, true);
		bytes += buffers[k].bytes;
	} while (buffers[k++].more);
	*fits = copied == bytes;
	packet->bytes = copied;
	port_count(&q->counters.rx_dropped, !*fits);
	return k;
}

int front_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n)
{
	struct front_queue *q = &front_of(port)->queue[queue];
	struct port_buffer buffer[FRONT_BURST];
	unsigned filled = 0, got;

	do {
		got = collect_packets(port, queue, buffer, FRONT_BURST, n - filled);
		for (unsigned k = 0; k < got;) {
			bool fits;

			k += copy_out(q, &buffer[k], &packets[filled], &fits);
			filled += fits;
		}
		give_back(port, queue, buffer, got);
	} while (got && filled < n);
	return (int)filled;
}
