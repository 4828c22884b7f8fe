/* SPDX-License-Identifier: BSD-2-Clause */
#include "devices/signals.h"

static uint64_t debug_exit_read(void *opaque, uint64_t offset, unsigned size)
{
	return 0;
}

static void debug_exit_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct signal_port *port = opaque;

	port->told(port->opaque, value);
}

const struct bus_ops debug_exit_ops = {debug_exit_read, debug_exit_write};

static uint64_t pvpanic_read(void *opaque, uint64_t offset, unsigned size)
{
	return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED; /* the events that can be told */
}

static void pvpanic_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct signal_port *port = opaque;

	port->told(port->opaque, value & (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED));
}

const struct bus_ops pvpanic_ops = {pvpanic_read, pvpanic_write};
