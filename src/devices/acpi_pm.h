/* SPDX-License-Identifier: BSD-2-Clause */
/* ACPI's fixed power-management registers (ACPI 6.4, 4.8): PM1a event and control block, PM timer. */
#ifndef GUISE_DEVICES_ACPI_PM_H
#define GUISE_DEVICES_ACPI_PM_H

#include "bus/bus.h"

/* Offsets of the blocks in the range, and the sleep type that means "off": the ACPI tables say the same. */
enum { ACPI_PM1_EVENT = 0, ACPI_PM1_CONTROL = 4, ACPI_PM_TIMER = 8, ACPI_PM_SIZE = 12, ACPI_S5_TYPE = 5 };

struct acpi_pm;

/* `sci` is level-triggered; `power_off` is pulled high when the guest enters S5. */
int acpi_pm_new(struct acpi_pm **pm, const struct irq_wire *sci, const struct irq_wire *power_off);
void acpi_pm_free(struct acpi_pm *pm);
extern const struct bus_ops acpi_pm_ops; /* ACPI_PM_SIZE ports */

/* Press the power button: an operating system that listens shuts down. Any thread. */
void acpi_pm_press_power_button(struct acpi_pm *pm);

#endif
