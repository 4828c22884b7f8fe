/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PM1 status bits are set by events and cleared by writing ones; an enabled set bit holds SCI high. The machine is
 * always in ACPI mode (SCI_EN reads as one: the tables give no SMI command). The timer counts at 3.579545 MHz in 32
 * bits; its overflow interrupt is not modelled because it needs the carry of bit 31 only to count days, and the
 * flag for a 32-bit timer tells systems that they need not ask for it more than once in twenty minutes.
 */
#include "devices/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/loop.h"

enum { EVENT_STATUS = 0, EVENT_ENABLE = 2 };
enum { PM1_POWER_BUTTON = 1 << 8, PM1_ENABLE_BITS = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10 };
enum { CONTROL_SCI_EN = 1, CONTROL_TYPE_SHIFT = 10, CONTROL_SLP_EN = 1 << 13 };

struct acpi_pm {
	struct irq_wire sci, power_off;
	pthread_mutex_t lock; /* protects all below */
	uint16_t status, enable, control;
};

static void update_sci(struct acpi_pm *pm)
{
	irq_set(&pm->sci, (pm->status & pm->enable) != 0);
}

static uint32_t timer_now(void)
{
	return (unsigned __int128)now_ns() * 3579545 / 1000000000;
}

/* The block as 32-bit words, so that any access size can be cut from it. */
static uint32_t read_word(struct acpi_pm *pm, unsigned offset)
{
	switch (offset) {
	case ACPI_PM1_EVENT:
		return pm->status | (uint32_t)pm->enable << 16;
	case ACPI_PM1_CONTROL:
		return pm->control | CONTROL_SCI_EN;
	default:
		return timer_now();
	}
}

static uint64_t acpi_pm_read(void *opaque, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = opaque;
	uint32_t value;

	pthread_mutex_lock(&pm->lock);
	value = read_word(pm, offset & ~3u) >> (offset & 3) * 8;
	pthread_mutex_unlock(&pm->lock);
	return value;
}

static void write_control(struct acpi_pm *pm, uint16_t value)
{
	pm->control = value & ~CONTROL_SLP_EN; /* write-only bit */
	if ((value & CONTROL_SLP_EN) && ((value >> CONTROL_TYPE_SHIFT) & 7) == ACPI_S5_TYPE)
		irq_set(&pm->power_off, 1);
}

static void write_byte(struct acpi_pm *pm, unsigned offset, uint8_t value)
{
	unsigned shift = (offset & 1) * 8;
	uint16_t keep = 0xff00 >> shift, bits = value << shift;

	switch (offset & ~1u) {
	case ACPI_PM1_EVENT + EVENT_STATUS:
		pm->status &= ~bits;
		break;
	case ACPI_PM1_EVENT + EVENT_ENABLE:
		pm->enable = ((pm->enable & keep) | bits) & PM1_ENABLE_BITS;
		break;
	case ACPI_PM1_CONTROL:
		write_control(pm, (pm->control & keep) | bits);
		break;
	default:
		break; /* the timer is read-only */
	}
}

static void acpi_pm_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = opaque;

	pthread_mutex_lock(&pm->lock);
	for (unsigned k = 0; k < size; k++)
		write_byte(pm, offset + k, value >> 8 * k);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

const struct bus_ops acpi_pm_ops = {acpi_pm_read, acpi_pm_write};

void acpi_pm_press_power_button(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->status |= PM1_POWER_BUTTON;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

int acpi_pm_new(struct acpi_pm **out, const struct irq_wire *sci, const struct irq_wire *power_off)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return -ENOMEM;
	pm->sci = *sci;
	pm->power_off = *power_off;
	pthread_mutex_init(&pm->lock, NULL);
	*out = pm;
	return 0;
}

void acpi_pm_free(struct acpi_pm *pm)
{
	if (!pm)
		return;
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}
