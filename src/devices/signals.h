/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two ports by which guests tell the host something: isa-debug-exit (test programs end the run with a code) and
 * pvpanic (an operating system says that it crashed). Both report through a call on the vCPU's thread.
 */
#ifndef GUISE_DEVICES_SIGNALS_H
#define GUISE_DEVICES_SIGNALS_H

#include "bus/bus.h"

enum { PVPANIC_PANICKED = 1, PVPANIC_CRASH_LOADED = 2 };

struct signal_port {
	void (*told)(void *opaque, uint32_t value);
	void *opaque;
};

extern const struct bus_ops debug_exit_ops; /* 4 ports; opaque is a struct signal_port; told(value written) */
extern const struct bus_ops pvpanic_ops;    /* 1 port; likewise; told(PVPANIC_* bits) */

#endif
