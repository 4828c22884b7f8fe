/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-console (virtio 1.3, 5.3): a terminal (hvc0) and named ports, byte streams between guest and host programs. */
#ifndef GUISE_DEVICES_VCONSOLE_H
#define GUISE_DEVICES_VCONSOLE_H

#include "base/console.h"
#include "base/loop.h"
#include "virtio/device.h"

enum { VCONSOLE_MAX_PORTS = 16 };

struct vconsole_port_config {
	const char *name;	 /* the guest sees it in /sys/class/virtio-ports; NULL: no name */
	struct console *console; /* the host's end; not owned, outlives the device */
	bool is_terminal;	 /* a console for the guest (hvc0), with a size; else a plain port */
};

struct vconsole_config {
	struct vconsole_port_config port[VCONSOLE_MAX_PORTS]; /* port 0 is the one that a driver without MULTIPORT has */
	unsigned n_ports;
	void (*quit)(void *opaque); /* Ctrl-A X; on the loop's thread */
	void *quit_opaque;
};

struct vconsole;

/* Served on the loop's thread, which is also the consoles'; the loop outlives the device. 0/-errno. */
int vconsole_new(struct loop *loop, const struct dma *dma, const struct vconsole_config *config, struct vconsole **vconsole);
void vconsole_free(struct vconsole *vconsole);
struct virtio_device *vconsole_device(struct vconsole *vconsole);

#endif
