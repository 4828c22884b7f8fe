/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to vconsole*.c: the device's state. */
#ifndef GUISE_DEVICES_VCONSOLE_INTERNAL_H
#define GUISE_DEVICES_VCONSOLE_INTERNAL_H

#include <linux/virtio_console.h>
#include <stdatomic.h>

#include "devices/vconsole.h"

enum { VCONSOLE_SEGMENTS = 64 };

/* What the guest has still to be told of a port, in this order. */
enum {
	TELL_ADD = 1, TELL_NAME = 2, TELL_CONSOLE = 4, TELL_RESIZE = 8, TELL_OPEN = 16,
	TELL_REMOVE = 32 /* refused by the driver: nothing more until the next start */
};

struct vconsole_port {
	struct vconsole *device;
	unsigned id;
	struct vconsole_port_config config;
	struct virtio_queue *rx, *tx; /* the driver's receiveq and transmitq */
	/* the loop thread's */
	struct loop_source *rx_kick, *tx_kick;
	unsigned tell; /* TELL_* */
	bool is_known; /* the driver has it: only then is it told of changes */
	bool guest_is_open;
	/* A transmitted chain that the console has taken only in part. */
	struct iovec tx_iov[VCONSOLE_SEGMENTS];
	struct virtq_chain tx_chain;
	bool tx_held;
	unsigned tx_segment;
	size_t tx_offset;
};

struct vconsole {
	struct virtio_device device;
	struct loop *loop;
	struct vconsole_config config;
	_Atomic bool running; /* between start() and stop() */
	bool multiport;
	_Atomic uint16_t columns, rows; /* of port 0's terminal */
	struct virtio_queue *control_rx, *control_tx;
	struct loop_source *control_rx_kick, *control_tx_kick;
	unsigned n_ports;
	struct vconsole_port port[VCONSOLE_MAX_PORTS];
};

/* Both are called on the loop's thread while the device runs. */
void vconsole_serve_control(struct vconsole *v); /* messages of the driver */
void vconsole_flush_control(struct vconsole *v); /* messages for the driver, as far as it has given buffers */
void vconsole_tell(struct vconsole_port *port, unsigned what);

#endif
