/* SPDX-License-Identifier: BSD-2-Clause */
/* The calls of guise/port.h, passed on to the kind of port. */
#include "base/log.h"
#include "net/port.h"

void port_close(struct port *port)
{
	if (!port)
		return;
	port_pool_free(port);
	port->ops->close(port);
}

const char *port_kind(const struct port *port)
{
	return port->ops->kind;
}

unsigned port_queues(const struct port *port)
{
	return __atomic_load_n(&port->n_queues, __ATOMIC_RELAXED);
}

uint16_t port_mtu(const struct port *port)
{
	return port->mtu;
}

unsigned port_send_offloads(const struct port *port)
{
	return __atomic_load_n(&port->send_offloads, __ATOMIC_RELAXED);
}

unsigned port_receive_offloads(const struct port *port)
{
	return __atomic_load_n(&port->receive_offloads, __ATOMIC_RELAXED);
}

bool port_is_up(const struct port *port)
{
	return !port_error(port) && (!port->ops->is_up || port->ops->is_up(port));
}

int port_error(const struct port *port)
{
	return __atomic_load_n(&port->error, __ATOMIC_RELAXED);
}

void port_fail(struct port *port, int err, const char *why)
{
	int none = 0;

	if (__atomic_compare_exchange_n(&port->error, &none, err, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		log_error("%s: %s: nothing passes any more", port->name ? port->name : port_kind(port), why);
}

int port_wait(struct port *port, int timeout_ms)
{
	return port->ops->wait ? port->ops->wait(port, timeout_ms) : 0;
}

void port_get_counters(const struct port *port, struct port_counters *counters)
{
	*counters = port->counters;
	if (port->ops->counters)
		port->ops->counters(port, counters);
}

int port_set_receive_offloads(struct port *port, unsigned offloads)
{
	return port->ops->set_receive_offloads ? port->ops->set_receive_offloads(port, offloads) : 0;
}

int port_set_queues(struct port *port, unsigned n)
{
	return port->ops->set_queues ? port->ops->set_queues(port, n) : 0;
}

void port_set_polling(struct port *port, bool on)
{
	if (port->ops->set_polling)
		port->ops->set_polling(port, on);
}

int port_receive_fd(struct port *port, unsigned queue)
{
	return port->ops->receive_fd(port, queue);
}

int port_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n)
{
	return port->ops->send(port, queue, packets, n);
}

int port_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n)
{
	return port->ops->receive(port, queue, packets, n);
}

unsigned port_lend(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n)
{
	return (port->ops->burst ? port->ops->burst->lend : port_pool_lend)(port, queue, buffers, n);
}

unsigned port_submit(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n)
{
	return (port->ops->burst ? port->ops->burst->submit : port_pool_submit)(port, queue, buffers, n);
}

unsigned port_collect(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n)
{
	return (port->ops->burst ? port->ops->burst->collect : port_pool_collect)(port, queue, buffers, n);
}

void port_give_back(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n)
{
	(port->ops->burst ? port->ops->burst->give_back : port_pool_give_back)(port, queue, buffers, n);
}
