/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Configuration space: every access, by ECAM or by ports, ends in config_read() or config_write() on one function's
 * 256 bytes. Extended space (100h to FFFh) is there and empty. Absent functions read as all ones.
 *
 * Port CF9h, the reset control register, lies inside the four ports of the address register: only 32-bit accesses
 * to CF8h are configuration, a byte to CF9h with bit 2 going from 0 to 1 resets the machine.
 */
#include <string.h>

#include "base/bytes.h"
#include "bus/pci_internal.h"

enum { PORT_ADDRESS = 0, PORT_RESET = 1, PORT_DATA = 4 };
enum { RESET_CPU = 4 };
#define ADDRESS_ENABLE (1u << 31)

static bool overlaps(unsigned a, unsigned a_size, unsigned b, unsigned b_size)
{
	return a < b + b_size && b < a + a_size;
}

static struct pci_device *device_at(struct pci_bus *pci, unsigned bus_nr, unsigned devfn)
{
	return bus_nr == 0 && devfn % 8 == 0 ? pci->slot[devfn / 8] : NULL;
}

static uint32_t config_read(struct pci_device *d, unsigned reg, unsigned size)
{
	uint32_t value = 0;

	if (!d)
		return UINT32_MAX;
	if (reg + size > PCI_CONFIG_SIZE)
		return 0;
	memcpy(&value, d->config + reg, size);
	if (d->hook.read && overlaps(reg, size, d->hook_offset, d->hook_size))
		value = d->hook.read(d->hook.opaque, reg, size, value);
	return value;
}

/* What a change of the header or of a capability means to the rest. */
static void config_changed(struct pci_device *d, unsigned reg, unsigned size)
{
	if (overlaps(reg, size, PCI_COMMAND, 2) || overlaps(reg, size, PCI_BAR0, 4 * PCI_BARS)) {
		pci_update_mappings(d);
		pci_update_intx(d);
	}
	if (d->msix && overlaps(reg, size, d->msix_cap + 2, 2))
		msix_control_written(d);
	if (d->hook.written && overlaps(reg, size, d->hook_offset, d->hook_size))
		d->hook.written(d->hook.opaque, reg, size);
}

static void config_write(struct pci_device *d, unsigned reg, unsigned size, uint32_t value)
{
	if (!d || reg + size > PCI_CONFIG_SIZE)
		return;
	for (unsigned k = 0; k < size; k++) {
		uint8_t mask = d->writable[reg + k], byte = value >> 8 * k;

		d->config[reg + k] = (d->config[reg + k] & ~mask) | (byte & mask);
	}
	config_changed(d, reg, size);
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *pci = opaque;
	unsigned reg = offset & 0xfff;
	uint64_t value;

	pthread_mutex_lock(&pci->lock);
	if (size == 8)
		value = config_read(device_at(pci, offset >> 20, (offset >> 12) & 0xff), reg, 4) |
			(uint64_t)config_read(device_at(pci, offset >> 20, (offset >> 12) & 0xff), reg + 4, 4) << 32;
	else
		value = config_read(device_at(pci, offset >> 20, (offset >> 12) & 0xff), reg, size);
	pthread_mutex_unlock(&pci->lock);
	return value;
}

static void ecam_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *pci = opaque;
	struct pci_device *d = device_at(pci, offset >> 20, (offset >> 12) & 0xff);
	unsigned reg = offset & 0xfff;

	pthread_mutex_lock(&pci->lock);
	config_write(d, reg, size < 4 ? size : 4, value);
	if (size == 8)
		config_write(d, reg + 4, 4, value >> 32);
	pthread_mutex_unlock(&pci->lock);
}

const struct bus_ops pci_ecam_ops = {ecam_read, ecam_write};

static struct pci_device *addressed(struct pci_bus *pci)
{
	uint32_t address = pci->config_address;

	return address & ADDRESS_ENABLE ? device_at(pci, (address >> 16) & 0xff, (address >> 8) & 0xff) : NULL;
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *pci = opaque;
	uint64_t value = UINT64_MAX;

	pthread_mutex_lock(&pci->lock);
	if (offset >= PORT_DATA)
		value = config_read(addressed(pci), (pci->config_address & 0xfc) + (offset - PORT_DATA), size);
	else if (offset == PORT_ADDRESS && size == 4)
		value = pci->config_address;
	else if (offset == PORT_RESET && size == 1)
		value = pci->reset_control;
	pthread_mutex_unlock(&pci->lock);
	return value;
}

static void write_reset_control(struct pci_bus *pci, uint8_t value)
{
	bool rises = value & ~pci->reset_control & RESET_CPU;

	pci->reset_control = value & ~1;
	if (rises)
		irq_set(&pci->config.reset, 1);
}

static void ports_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *pci = opaque;

	pthread_mutex_lock(&pci->lock);
	if (offset >= PORT_DATA)
		config_write(addressed(pci), (pci->config_address & 0xfc) + (offset - PORT_DATA), size, value);
	else if (offset == PORT_ADDRESS && size == 4)
		pci->config_address = value & (ADDRESS_ENABLE | 0xfffffc);
	else if (offset == PORT_RESET && size == 1)
		write_reset_control(pci, value);
	pthread_mutex_unlock(&pci->lock);
}

const struct bus_ops pci_ports_ops = {ports_read, ports_write};
