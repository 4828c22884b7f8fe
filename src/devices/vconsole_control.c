/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-console's control queues (virtio 1.3, 5.3.6.2). What the driver must be told is kept as a set of bits per
 * port, not as a list of messages: a driver that gives no buffers makes nothing grow, and a message that was
 * overtaken by a newer state is sent once, with that state.
 */
#include <string.h>

#include "base/log.h"
#include "devices/vconsole_internal.h"

/* The message for the lowest bit of port->tell, with what belongs to it behind. Returns its bytes. */
static size_t make_message(struct vconsole_port *p, uint8_t *out, size_t size, unsigned *bit)
{
	static const uint16_t event_of[] = {
		VIRTIO_CONSOLE_PORT_ADD, VIRTIO_CONSOLE_PORT_NAME, VIRTIO_CONSOLE_CONSOLE_PORT, VIRTIO_CONSOLE_RESIZE, VIRTIO_CONSOLE_PORT_OPEN,
	};
	unsigned index = (unsigned)__builtin_ctz(p->tell);
	struct virtio_console_control message = { .id = p->id, .event = event_of[index], .value = 1 };
	size_t bytes = sizeof(message);

	*bit = 1u << index;
	if (*bit == TELL_OPEN)
		message.value = console_is_open(p->config.console);
	memcpy(out, &message, sizeof(message));
	if (*bit == TELL_NAME) {
		size_t length = strlen(p->config.name);

		length = length < size - bytes ? length : size - bytes;
		memcpy(out + bytes, p->config.name, length);
		bytes += length;
	} else if (*bit == TELL_RESIZE) {
		uint16_t both[2] = { atomic_load(&p->device->columns), atomic_load(&p->device->rows) };

		memcpy(out + bytes, both, sizeof(both));
		bytes += sizeof(both);
	}
	return bytes;
}

static uint32_t scatter(const struct virtq_chain *chain, const uint8_t *from, size_t bytes)
{
	size_t done = 0;

	for (unsigned k = 0; k < chain->writable && done < bytes; k++) {
		const struct iovec *iov = &chain->iov[chain->readable + k];
		size_t part = iov->iov_len < bytes - done ? iov->iov_len : bytes - done;

		memcpy(iov->iov_base, from + done, part);
		done += part;
	}
	return (uint32_t)done;
}

static struct vconsole_port *next_to_tell(struct vconsole *v)
{
	for (unsigned k = 0; k < v->n_ports; k++)
		if (v->port[k].tell && !(v->port[k].tell & TELL_REMOVE))
			return &v->port[k];
	return NULL;
}

void vconsole_flush_control(struct vconsole *v)
{
	struct iovec iov[VCONSOLE_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = VCONSOLE_SEGMENTS };
	struct virtq *ring = &v->control_rx->ring;
	struct vconsole_port *p;

	if (!v->multiport || !v->control_rx->enabled)
		return;
	virtq_disable_kicks(ring);
	while ((p = next_to_tell(v))) {
		uint8_t message[256];
		unsigned bit;
		size_t bytes;
		int popped = virtq_pop(ring, &chain);

		if (popped < 0)
			virtio_queue_failed(v->control_rx);
		if (popped < 0 || (!popped && !virtq_enable_kicks(ring)))
			break;
		if (!popped)
			continue;
		bytes = make_message(p, message, sizeof(message), &bit);
		p->tell &= ~bit;
		virtio_push(v->control_rx, &chain, scatter(&chain, message, bytes));
	}
	virtio_call(v->control_rx);
}

void vconsole_tell(struct vconsole_port *port, unsigned what)
{
	if (!port->is_known) /* it will hear of the state when it is ready */
		return;
	port->tell |= what;
	vconsole_flush_control(port->device);
}

static void port_ready(struct vconsole_port *p, bool ok)
{
	if (p->tell & TELL_REMOVE)
		return;
	if (!ok) {
		log_warn("console: the driver could not add port %u", p->id);
		p->tell = TELL_REMOVE;
		return;
	}
	p->is_known = true;
	p->tell |= TELL_OPEN | (p->config.name ? TELL_NAME : 0) | (p->config.is_terminal ? TELL_CONSOLE : 0);
	if (p->config.is_terminal && atomic_load(&p->device->columns))
		p->tell |= TELL_RESIZE;
}

static void obey(struct vconsole *v, const struct virtio_console_control *message)
{
	if (message->event == VIRTIO_CONSOLE_DEVICE_READY) {
		for (unsigned k = 0; message->value == 1 && k < v->n_ports; k++)
			v->port[k].tell |= TELL_ADD;
		return;
	}
	if (message->id >= v->n_ports)
		return;
	if (message->event == VIRTIO_CONSOLE_PORT_READY) {
		port_ready(&v->port[message->id], message->value == 1); /* 0: it could not (5.3.6.2) */
	} else if (message->event == VIRTIO_CONSOLE_PORT_OPEN) {
		v->port[message->id].guest_is_open = message->value;
		console_resume_input(v->port[message->id].config.console);
	}
}

void vconsole_serve_control(struct vconsole *v)
{
	struct iovec iov[VCONSOLE_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = VCONSOLE_SEGMENTS };
	struct virtio_queue *queue = v->control_tx;
	int popped;

	do {
		virtq_disable_kicks(&queue->ring);
		while ((popped = virtq_pop(&queue->ring, &chain)) > 0) {
			struct virtio_console_control message;
			size_t got = 0;

			for (unsigned k = 0; k < chain.readable && got < sizeof(message); k++) {
				size_t part = iov[k].iov_len < sizeof(message) - got ? iov[k].iov_len : sizeof(message) - got;

				memcpy((uint8_t *)&message + got, iov[k].iov_base, part);
				got += part;
			}
			virtio_push(queue, &chain, 0);
			if (got == sizeof(message))
				obey(v, &message);
		}
	} while (!popped && virtq_enable_kicks(&queue->ring));
	if (popped < 0)
		virtio_queue_failed(queue);
	virtio_call(queue);
	vconsole_flush_control(v);
}
