/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Buffers for ports that copy: a stack of them per queue, in private memory, each big enough for any packet of the port. The last one
 * that came back is lent first, for it is still in the cache.
 */
#include <stdlib.h>
#include <string.h>

#include "net/port.h"

enum { COUNT = 128, BURST = 64 };

struct port_pool {
	uint32_t room;
	unsigned count;
	uint8_t *free_one[COUNT];
	uint8_t memory[] __attribute__((aligned(64)));
};

static uint32_t room_for(const struct port *port)
{
	uint32_t frame = (port_receive_offloads(port) | port_send_offloads(port)) & ~PORT_CSUM ? 65536 : port->mtu;

	return ((PORT_HEADER + frame + 18 + 63) / 64 | 1) * 64; /* an odd number of lines spreads buffers over the cache */
}

/* The queue's pool; NULL: no memory. */
static struct port_pool *pool_of(struct port *port, unsigned queue)
{
	struct port_pool *pool;
	uint32_t room;

	if (port->pool[queue])
		return port->pool[queue];
	room = room_for(port);
	pool = aligned_alloc(64, (sizeof(*pool) + 63) / 64 * 64 + (size_t)room * COUNT);
	if (!pool)
		return NULL;
	pool->room = room;
	pool->count = COUNT;
	for (unsigned k = 0; k < COUNT; k++)
		pool->free_one[k] = pool->memory + (size_t)room * k;
	return port->pool[queue] = pool;
}

void port_pool_free(struct port *port)
{
	for (unsigned k = 0; k < PORT_MAX_QUEUES; k++)
		free(port->pool[k]);
}

unsigned port_pool_lend(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n)
{
	struct port_pool *pool = pool_of(port, queue);
	unsigned k;

	for (k = 0; pool && k < n && pool->count; k++)
		buffers[k] = (struct port_buffer){ .data = pool->free_one[--pool->count], .room = pool->room };
	return k;
}

void port_pool_give_back(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n)
{
	struct port_pool *pool = pool_of(port, queue);

	while (pool && n && pool->count < COUNT)
		pool->free_one[pool->count++] = buffers[--n].data;
}

unsigned port_pool_submit(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n)
{
	unsigned done = 0;

	if (!n)
		port->ops->send(port, queue, NULL, 0);
	while (done < n) {
		struct port_packet packet[BURST];
		struct iovec iov[BURST];
		unsigned n_packets = 0, n_iov = 0, last[BURST];
		int sent;

		/* Whole packets only. */
		for (unsigned k = done; k < n && n_iov < BURST; k++) {
			iov[n_iov] = (struct iovec){ buffers[k].data, buffers[k].bytes };
			if (n_iov == 0 || !buffers[k - 1].more)
				packet[n_packets] = (struct port_packet){ &iov[n_iov], 0, 0 };
			packet[n_packets].n_iov++;
			packet[n_packets].bytes += buffers[k].bytes;
			n_iov++;
			if (!buffers[k].more)
				last[n_packets++] = k + 1;
		}
		sent = n_packets ? port->ops->send(port, queue, packet, n_packets) : 0;
		if (sent <= 0)
			break;
		port_pool_give_back(port, queue, buffers + done, last[sent - 1] - done);
		done = last[sent - 1];
		if ((unsigned)sent < n_packets)
			break;
	}
	return done;
}

unsigned port_pool_collect(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n)
{
	struct port_packet packet[BURST];
	struct iovec iov[BURST];
	unsigned lent = port_pool_lend(port, queue, buffers, n < BURST ? n : BURST);
	int got;

	for (unsigned k = 0; k < lent; k++) {
		iov[k] = (struct iovec){ buffers[k].data, buffers[k].room };
		packet[k] = (struct port_packet){ &iov[k], 1, buffers[k].room };
	}
	got = lent ? port->ops->receive(port, queue, packet, lent) : 0;
	if (got < 0)
		got = 0;
	port_pool_give_back(port, queue, buffers + got, lent - (unsigned)got);
	for (int k = 0; k < got; k++)
		buffers[k].bytes = packet[k].bytes;
	return (unsigned)got;
}
