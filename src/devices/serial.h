/* SPDX-License-Identifier: BSD-2-Clause */
/* A 16550A serial port (National Semiconductor PC16550D data sheet). */
#ifndef GUISE_DEVICES_SERIAL_H
#define GUISE_DEVICES_SERIAL_H

#include <stddef.h>

#include "bus/bus.h"

struct serial;

/* Where the transmitted bytes go, and who is told that received bytes have made room. Both on vCPU threads. */
struct serial_wire {
	void (*transmit)(void *opaque, const void *bytes, size_t count);
	void (*has_room)(void *opaque);
	void *opaque;
};

int serial_new(struct serial **serial, const struct irq_wire *irq, const struct serial_wire *wire);
void serial_free(struct serial *serial);
extern const struct bus_ops serial_ops; /* eight ports; opaque is the struct serial */

/* The other end sends: how much would be taken now, and the bytes (no more than that). Any thread. */
size_t serial_room(struct serial *serial);
void serial_receive(struct serial *serial, const uint8_t *bytes, size_t count);

#endif
