/* SPDX-License-Identifier: BSD-2-Clause */
/* The PC's keyboard controller (ports 60h and 64h) and system control port A (92h): reset, A20, a keyboard that answers. */
#ifndef GUISE_DEVICES_I8042_H
#define GUISE_DEVICES_I8042_H

#include "bus/bus.h"

struct i8042;

/* `reset` is pulled high to reset the machine; `irq` is interrupt 1. */
int i8042_new(struct i8042 **i8042, const struct irq_wire *irq, const struct irq_wire *reset);
void i8042_free(struct i8042 *i8042);
extern const struct bus_ops i8042_data_ops;    /* port 60h */
extern const struct bus_ops i8042_command_ops; /* port 64h */
extern const struct bus_ops i8042_port92_ops; /* port 92h */

#endif
