/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine's address spaces for devices: ranges of I/O ports and of guest-physical addresses, each with a
 * handler; and interrupt wires. A device gets these at creation and knows neither the machine nor the CPU engine.
 */
#ifndef GUISE_BUS_BUS_H
#define GUISE_BUS_BUS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A device's registers. offset is from the range's start, size 1, 2, 4 or 8 and never over the range's end. Called
 * on vCPU threads without a lock held by the bus; a device that is touched from several threads locks itself.
 */
struct bus_ops {
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
	void (*write)(void *opaque, uint64_t offset, unsigned size, uint64_t value);
};

enum bus_space { BUS_PIO, BUS_MMIO };

struct bus; /* both spaces */

int bus_new(struct bus **bus);
void bus_free(struct bus *bus);
/* 0; -EEXIST: overlaps another range; -EINVAL; -ENOMEM. name is kept by pointer, for logs. */
int bus_add(struct bus *bus, enum bus_space space, uint64_t base, uint64_t size, const struct bus_ops *ops,
	    void *opaque, const char *name);
void bus_del(struct bus *bus, enum bus_space space, uint64_t base);
/* Serve one access; unclaimed reads give all ones. Returns false if nobody claimed it. Any thread. */
bool bus_access(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size, bool is_write, void *data);

/* An interrupt wire: level-triggered from the device's view; for edge lines, 1 then 0. */
struct irq_wire {
	void (*set)(void *opaque, unsigned line, int level);
	void *opaque;
	unsigned line;
};
static inline void irq_set(const struct irq_wire *irq, int level)
{
	if (irq->set)
		irq->set(irq->opaque, irq->line, level);
}

#endif
