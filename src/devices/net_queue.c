/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-net's data path (virtio 1.3, 5.1.6): chains to port packets and back. The driver's virtio_net_hdr is the port's
 * own header, so a packet's memory goes to the port as it is: no copy here.
 *
 * Receiving with mergeable buffers: the packet's length is known only after it was read, so as many chains are popped as
 * hold the largest packet, and those that stayed empty are given back to the ring.
 */
#include <linux/virtio_net.h>
#include <stddef.h>
#include <string.h>

#include "devices/net_internal.h"

struct receive_batch {
	struct virtq_chain chain[NET_SEGMENTS / 2];
	unsigned n_chains, n_iov;
	uint32_t room;
};

/* Pop chains until the largest packet fits. 1: enough; 0: too few buffers (given back), a kick will tell of more; -EPROTO. */
static int gather(struct net_pair *pair, struct receive_batch *b)
{
	struct virtq *ring = &pair->rx->ring;
	int popped = 1;

	b->n_chains = b->n_iov = 0;
	b->room = 0;
	while (b->room < pair->net->room && b->n_chains < NET_SEGMENTS / 2) {
		struct virtq_chain *c = &b->chain[b->n_chains];

		c->iov = &pair->iov[b->n_iov];
		c->capacity = NET_SEGMENTS - b->n_iov;
		do /* a wish for kicks must be for the first chain that is missing, not for one that is there and too little */
			popped = virtq_pop(ring, c);
		while (!popped && virtq_enable_kicks(ring));
		if (popped <= 0)
			break;
		b->n_chains++;
		b->n_iov += c->readable + c->writable;
		b->room += (uint32_t)c->writable_bytes;
		if (!pair->net->mergeable)
			return 1; /* the driver must give whole buffers; what is too small drops its packet */
	}
	if (b->room >= pair->net->room)
		return 1;
	while (b->n_chains)
		virtq_unpop(ring, &b->chain[--b->n_chains]);
	return popped < 0 ? popped : 0;
}

/* First bytes of what was received, behind the header. */
static void copy_out(const struct iovec *iov, unsigned n, size_t skip, void *out, size_t bytes)
{
	memset(out, 0, bytes);
	for (unsigned k = 0; k < n && bytes; k++) {
		size_t from = skip < iov[k].iov_len ? skip : iov[k].iov_len, part = iov[k].iov_len - from;

		skip -= from;
		part = part < bytes ? part : bytes;
		memcpy(out, (uint8_t *)iov[k].iov_base + from, part);
		out = (uint8_t *)out + part;
		bytes -= part;
	}
}

static void store_num_buffers(const struct iovec *iov, uint16_t count)
{
	size_t at = offsetof(struct virtio_net_hdr_v1, num_buffers);
	uint8_t bytes[2] = { (uint8_t)count, (uint8_t)(count >> 8) };

	for (unsigned b = 0; b < 2; b++, at++) {
		while (at >= iov->iov_len)
			at -= iov++->iov_len;
		((uint8_t *)iov->iov_base)[at] = bytes[b];
	}
}

/* Return the chains that a packet of `bytes` fills; the others go back. */
static void deliver(struct net_pair *pair, struct receive_batch *b, uint32_t bytes)
{
	unsigned used = 0;
	uint32_t left = bytes;

	for (; used < b->n_chains && (left || !used); used++) {
		uint32_t part = (uint32_t)b->chain[used].writable_bytes;

		left -= part < left ? part : left;
	}
	while (b->n_chains > used)
		virtq_unpop(&pair->rx->ring, &b->chain[--b->n_chains]);
	store_num_buffers(b->chain[0].iov + b->chain[0].readable, (uint16_t)used);
	for (unsigned k = 0; k < used; k++) {
		uint32_t part = (uint32_t)b->chain[k].writable_bytes;

		part = part < bytes ? part : bytes;
		virtio_push(pair->rx, &b->chain[k], part);
		bytes -= part;
	}
}

/* 1: a packet was delivered or dropped; 0: none waits; -1: stop looking. */
static int receive_one(struct net_pair *pair)
{
	struct net *net = pair->net;
	struct receive_batch b;
	uint8_t start[18];
	int got = gather(pair, &b);

	if (got <= 0) {
		if (got < 0)
			virtio_queue_failed(pair->rx);
		pair->rx_starved = true;
		return -1;
	}
	for (;;) {
		/* Readable descriptors have no place in a receive buffer: skip them. */
		struct port_packet packet = { b.chain[0].iov + b.chain[0].readable, b.n_iov - b.chain[0].readable, b.room };

		got = b.room < PORT_HEADER ? 0 : net->port->ops->receive(net->port, pair->index, &packet, 1);
		if (got <= 0) {
			while (b.n_chains)
				virtq_unpop(&pair->rx->ring, &b.chain[--b.n_chains]);
			return 0;
		}
		copy_out(packet.iov, packet.n_iov, PORT_HEADER, start, sizeof(start));
		if (packet.bytes >= PORT_HEADER && net_filter_passes(net, start)) {
			deliver(pair, &b, packet.bytes);
			return 1;
		}
		net->port->counters.rx_dropped++;
	}
}

void net_serve_receive(struct net_pair *pair)
{
	struct virtq *ring = &pair->rx->ring;
	int more = 1;

	if (pair->rx->ring.error || atomic_load(&pair->rx->idle) || pair->index >= atomic_load(&pair->net->active_pairs)) {
		pair->rx_starved = true;
		return;
	}
	for (unsigned burst = 0; burst < NET_BURST && more > 0; burst++)
		more = receive_one(pair);
	if (more >= 0) {
		pair->rx_starved = false;
		virtq_disable_kicks(ring);
	}
	virtio_call(pair->rx);
}

static void transmit_burst(struct net_pair *pair, int *popped)
{
	struct virtq_chain chain[NET_BURST];
	struct port_packet packet[NET_BURST];
	struct virtq *ring = &pair->tx->ring;
	unsigned n = 0, n_iov = 0;
	int sent;

	while (n < NET_BURST && NET_SEGMENTS - n_iov >= 64) {
		chain[n].iov = &pair->iov[n_iov];
		chain[n].capacity = NET_SEGMENTS - n_iov;
		*popped = virtq_pop(ring, &chain[n]);
		if (*popped <= 0)
			break;
		packet[n] = (struct port_packet){ chain[n].iov, chain[n].readable, (uint32_t)chain[n].readable_bytes };
		n_iov += chain[n].readable + chain[n].writable;
		n++;
	}
	if (!n)
		return;
	if (atomic_load(&pair->tx->idle)) /* drained */
		sent = (int)n;
	else
		sent = pair->net->port->ops->send(pair->net->port, pair->index, packet, n);
	if (sent < 0)
		sent = (int)n; /* the port is broken: packets are lost, the guest goes on */
	while (n > (unsigned)sent) {
		virtq_unpop(ring, &chain[--n]);
		pair->tx_blocked = true;
	}
	for (unsigned k = 0; k < n; k++)
		virtio_push(pair->tx, &chain[k], 0);
}

/* RARP (RFC 903), a reverse request for the address itself: every bridge on the way learns where it is. */
static void send_announcement(struct net_pair *pair)
{
	uint8_t packet[PORT_HEADER + 60] = { 0 }, *frame = packet + PORT_HEADER;
	static const uint8_t fixed[] = { 0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03 };
	struct iovec iov = { packet, sizeof(packet) };
	struct port_packet p = { &iov, 1, sizeof(packet) };
	struct net *net = pair->net;

	memset(frame, 0xff, 6);
	memcpy(frame + 12, fixed, sizeof(fixed));
	pthread_mutex_lock(&net->filter_lock);
	memcpy(frame + 6, net->announce_mac, 6);
	memcpy(frame + 22, net->announce_mac, 6);
	memcpy(frame + 32, net->announce_mac, 6);
	pthread_mutex_unlock(&net->filter_lock);
	net->port->ops->send(net->port, pair->index, &p, 1);
}

void net_serve_transmit(struct net_pair *pair)
{
	struct virtq *ring = &pair->tx->ring;
	int popped = 1;

	if (!pair->index && atomic_exchange(&pair->net->announce, false))
		send_announcement(pair);
	pair->tx_blocked = false;
	do {
		virtq_disable_kicks(ring);
		do
			transmit_burst(pair, &popped);
		while (popped > 0 && !pair->tx_blocked);
		virtio_call(pair->tx);
	} while (!popped && !pair->tx_blocked && virtq_enable_kicks(ring));
	if (popped < 0)
		virtio_queue_failed(pair->tx);
}
