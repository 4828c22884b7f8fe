/* SPDX-License-Identifier: BSD-2-Clause */
/* What device tests hold in place of a machine: a wire that remembers its level and counts its rises. */
#ifndef GUISE_TESTS_DEVICE_WIRES_H
#define GUISE_TESTS_DEVICE_WIRES_H

#include "bus/bus.h"

struct test_wire {
	int level;
	unsigned rises;
};

static void test_wire_set(void *opaque, unsigned line, int level)
{
	struct test_wire *wire = opaque;

	if (level && !wire->level)
		wire[0].rises++;
	wire->level = level;
}

static inline struct irq_wire wire_to(struct test_wire *wire)
{
	return (struct irq_wire){test_wire_set, wire, 0};
}

#endif
