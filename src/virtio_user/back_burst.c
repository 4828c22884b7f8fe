/* SPDX-License-Identifier: BSD-2-Clause */
/* A back port's packets: descriptor chains to packets in the caller's memory and back, by bursts. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>

#include "virtio_user/back_internal.h"

enum { BURST = 64, LONGEST = 256, POOL = 512, OWED_MOST = 8 };

static struct back_queue *queue_of(struct port *port, unsigned queue)
{
	return &((struct back *)((char *)port - offsetof(struct back, port)))->queue[queue];
}

/* Copy `bytes` from one list of pieces to another. Both are long enough. */
static void copy_pieces(const struct iovec *to, const struct iovec *from, uint64_t bytes)
{
	size_t to_at = 0, from_at = 0;

	if (to->iov_len >= bytes && from->iov_len >= bytes) {
		memcpy(to->iov_base, from->iov_base, bytes);
		return;
	}
	while (bytes) {
		size_t part = to->iov_len - to_at, other = from->iov_len - from_at;

		part = part < other ? part : other;
		part = part < bytes ? part : bytes;
		memcpy((uint8_t *)to->iov_base + to_at, (uint8_t *)from->iov_base + from_at, part);
		bytes -= part;
		to_at += part;
		from_at += part;
		if (to_at == to->iov_len) {
			to++;
			to_at = 0;
		}
		if (from_at == from->iov_len) {
			from++;
			from_at = 0;
		}
	}
}

static void settle(struct back_ring *r)
{
	r->owed = 0;
	if (virtq_should_call(&r->q))
		vhost_backend_call(r->ring);
}

/*
 * After chains were pushed: the dirty log, the driver's call, and the log of a broken ring. To look at the driver's wish for calls
 * the processor first waits until all stores have reached the other one; where the user comes again at once that is put off until
 * nothing is to be done, or OWED_MOST times.
 */
static void finish(struct back *b, struct back_ring *r, const struct virtq_chain *chains, const uint32_t *written, unsigned n)
{
	for (unsigned k = 0; k < n && r->logs; k++)
		vhost_backend_written(r->ring, &chains[k], written ? written[k] : 0);
	if (n && (++r->owed >= OWED_MOST || !atomic_load_explicit(&b->polling, memory_order_relaxed)))
		settle(r);
	if (r->q.error && !r->reported) {
		r->reported = true;
		vhost_backend_ring_failed(r->ring, &r->q);
	}
}

static void settle_all(struct back_queue *q)
{
	if (q->from.running && q->from.owed)
		settle(&q->from);
	if (q->to.running && q->to.owed)
		settle(&q->to);
}

/* --- receiving --- */

/* One chain to one packet. false: nonsense, or it does not fit. */
static inline bool take_out(const struct virtq_chain *chain, struct port_packet *packet)
{
	if (chain->readable_bytes < PORT_HEADER || chain->readable_bytes > packet->bytes)
		return false;
	copy_pieces(packet->iov, chain->iov, chain->readable_bytes);
	packet->bytes = (uint32_t)chain->readable_bytes;
	return true;
}

static unsigned receive_burst(struct back *b, struct back_queue *q, struct port_packet *packets, unsigned n, int *popped)
{
	struct virtq_chain chain[BURST];
	struct iovec iov[POOL];
	bool enabled = atomic_load_explicit(&q->from.ring->enabled, memory_order_relaxed); /* if not, drain */
	unsigned filled = 0;
	uint64_t bytes = 0;

	*popped = virtq_pop_burst(&q->from.q, chain, n < BURST ? n : BURST, iov, POOL, LONGEST);
	for (int k = 0; k < *popped; k++) {
		if (enabled && take_out(&chain[k], &packets[filled]))
			bytes += packets[filled++].bytes - PORT_HEADER;
		else
			port_count(&q->counters.rx_dropped, 1);
	}
	if (*popped > 0)
		virtq_push_burst(&q->from.q, chain, NULL, (unsigned)*popped);
	finish(b, &q->from, chain, NULL, *popped > 0 ? (unsigned)*popped : 0);
	port_count(&q->counters.rx_packets, filled);
	port_count(&q->counters.rx_bytes, bytes);
	return filled;
}

/* Nothing was there: ask for kicks. true: look again, something came before we asked. */
static bool arm(struct back_queue *q)
{
	eventfd_t count;

	eventfd_read(q->start_fd, &count);
	if (q->from.ring->kick_fd >= 0)
		eventfd_read(q->from.ring->kick_fd, &count);
	q->kicks_wanted = true;
	return virtq_enable_kicks(&q->from.q);
}

int back_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n)
{
	struct back *b = (struct back *)((char *)port - offsetof(struct back, port));
	struct back_queue *q = queue_of(port, queue);
	bool polling = atomic_load_explicit(&b->polling, memory_order_relaxed);
	unsigned filled = 0;
	int popped = 1;

	pthread_mutex_lock(&q->lock);
	if (!q->from.running) {
		eventfd_t count;

		if (!polling)
			eventfd_read(q->start_fd, &count); /* start_ring() writes it */
		pthread_mutex_unlock(&q->lock);
		return 0;
	}
	while (!filled && popped > 0) {
		filled = receive_burst(b, q, packets, n, &popped);
		if (!popped && !polling && arm(q))
			popped = 1;
	}
	if (!filled)
		settle_all(q);
	if (filled && q->kicks_wanted) {
		q->kicks_wanted = false;
		virtq_disable_kicks(&q->from.q);
	}
	pthread_mutex_unlock(&q->lock);
	return (int)filled;
}

/* --- sending --- */

struct send_batch {
	struct virtq_chain chain[BURST];
	uint32_t written[BURST];
	struct iovec iov[POOL];
	unsigned n_chains, used;
};

/* Where num_buffers of the packet at chain c lies is up to the driver's pieces. */
static void store_num_buffers(const struct iovec *iov, uint16_t count)
{
	size_t at = offsetof(struct virtio_net_hdr_v1, num_buffers);

	if (iov->iov_len >= PORT_HEADER) {
		memcpy((uint8_t *)iov->iov_base + at, &count, sizeof(count));
		return;
	}
	for (unsigned k = 0; k < 2; k++, at++) {
		while (at >= iov->iov_len)
			at -= iov++->iov_len;
		((uint8_t *)iov->iov_base)[at] = (uint8_t)(count >> 8 * k);
	}
}

/* How many chains from s->used on hold `bytes`; 0: not enough of them. */
static unsigned chains_for(const struct send_batch *s, uint32_t bytes, bool mergeable)
{
	uint64_t room = 0;

	for (unsigned k = s->used; k < s->n_chains; k++) {
		room += s->chain[k].writable_bytes;
		if (room >= bytes)
			return k - s->used + 1;
		if (!mergeable)
			return 0;
	}
	return 0;
}

static void put_in(struct send_batch *s, const struct port_packet *packet, unsigned count)
{
	const struct virtq_chain *first = &s->chain[s->used];
	struct iovec pieces[POOL];
	unsigned n = 0, left = packet->bytes;

	for (unsigned k = 0; k < count; k++) {
		const struct virtq_chain *c = &s->chain[s->used + k];
		uint32_t part = c->writable_bytes < left ? (uint32_t)c->writable_bytes : left;

		if (count > 1)
			memcpy(pieces + n, c->iov + c->readable, c->writable * sizeof(*pieces));
		n += c->writable;
		s->written[s->used + k] = part;
		left -= part;
	}
	copy_pieces(count > 1 ? pieces : first->iov + first->readable, packet->iov, packet->bytes);
	store_num_buffers(first->iov + first->readable, (uint16_t)count);
	s->used += count;
}

/* As many packets as there is room for in `want` chains. */
static unsigned send_burst(struct back *b, struct back_queue *q, const struct port_packet *packets, unsigned n, unsigned want)
{
	bool mergeable = atomic_load_explicit(&b->mergeable, memory_order_relaxed);
	unsigned taken = 0;
	struct send_batch s;
	uint64_t bytes = 0;
	int popped = virtq_pop_burst(&q->to.q, s.chain, want, s.iov, POOL, LONGEST);

	s.n_chains = popped > 0 ? (unsigned)popped : 0;
	s.used = 0;
	for (; taken < n && s.used < s.n_chains; taken++) {
		const struct port_packet *p = &packets[taken];
		unsigned count = p->bytes < PORT_HEADER ? 0 : chains_for(&s, p->bytes, mergeable);

		if (!count && mergeable && p->bytes >= PORT_HEADER && (s.used || want < BURST || s.n_chains < want))
			break; /* with more chains, now or later, it does */
		if (!count) { /* it fits into none that this driver gives */
			port_count(&q->counters.tx_dropped, 1);
			continue;
		}
		put_in(&s, p, count);
		bytes += p->bytes - PORT_HEADER;
		port_count(&q->counters.tx_packets, 1);
	}
	virtq_unpop_burst(&q->to.q, s.chain + s.used, s.n_chains - s.used);
	virtq_push_burst(&q->to.q, s.chain, s.written, s.used);
	finish(b, &q->to, s.chain, s.written, s.used);
	port_count(&q->counters.tx_bytes, bytes);
	return taken;
}

int back_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n)
{
	struct back *b = (struct back *)((char *)port - offsetof(struct back, port));
	struct back_queue *q = queue_of(port, queue);
	unsigned done = 0, step = 1;

	pthread_mutex_lock(&q->lock);
	if (!q->to.running || q->to.q.error || !atomic_load_explicit(&q->to.ring->enabled, memory_order_relaxed))
		step = 0;
	while (done < n && step) {
		step = send_burst(b, q, packets + done, n - done, n - done < BURST ? n - done : BURST);
		if (!step) /* the first one may need several chains */
			step = send_burst(b, q, packets + done, 1, BURST);
		done += step;
	}
	if (done < n || !n)
		settle_all(q);
	if (done < n && (!atomic_load_explicit(&b->polling, memory_order_relaxed) || !q->to.running)) {
		/* Nobody to send to, or too slow, and who does not poll is not told when there is room: lost, as on a wire. */
		port_count(&q->counters.tx_dropped, n - done);
		done = n;
	}
	pthread_mutex_unlock(&q->lock);
	return (int)done;
}
