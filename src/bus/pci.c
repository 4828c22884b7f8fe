/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bus and its devices: set-up, BARs, INTx.
 *
 * A BAR's register holds what the guest wrote, with the size's low bits forced to zero by the `writable` mask; that is
 * all there is to BAR sizing. Whenever the command register or a BAR changes, pci_update_mappings() compares where
 * each BAR should be with where it is and moves its range on the machine's bus. A guest that maps a BAR over
 * something else gets no mapping: the bus refuses overlaps.
 */
#include "bus/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "bus/pci_internal.h"

enum { BAR_IO = 1, BAR_64BIT = 4 };

static const struct pci_id host_bridge_id = {
	.vendor = 0x1b36, .device = 0x0008, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .class_code = 0x060000,
};

unsigned pci_device_slot(const struct pci_device *device)
{
	return device->slot;
}

uint8_t *pci_config_bytes(struct pci_device *device)
{
	return device->config;
}

void pci_set_writable(struct pci_device *device, unsigned offset, unsigned size, uint32_t mask)
{
	for (unsigned k = 0; k < size; k++)
		device->writable[offset + k] = mask >> 8 * k;
}

void pci_hook_config(struct pci_device *device, unsigned offset, unsigned size, const struct pci_config_hook *hook)
{
	device->hook = *hook;
	device->hook_offset = offset;
	device->hook_size = size;
}

void pci_on_bar_moved(struct pci_device *device, void (*moved)(void *opaque, unsigned bar, uint64_t address), void *opaque)
{
	device->bar_moved = moved;
	device->bar_moved_opaque = opaque;
}

static void fill_header(struct pci_device *d, const struct pci_id *id)
{
	put_le16(d->config + PCI_VENDOR, id->vendor);
	put_le16(d->config + PCI_DEVICE, id->device);
	put_le32(d->config + PCI_REVISION, id->class_code << 8 | id->revision);
	put_le16(d->config + PCI_SUBSYSTEM_VENDOR, id->subsystem_vendor);
	put_le16(d->config + PCI_SUBSYSTEM, id->subsystem);
	pci_set_writable(d, PCI_COMMAND, 2,
			 PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
	pci_set_writable(d, PCI_INTERRUPT_LINE, 1, 0xff);
	d->cap_end = 0x40;
}

int pci_device_new(struct pci_bus *pci, const struct pci_id *id, const char *name, struct pci_device **device)
{
	unsigned slot = 0;
	struct pci_device *d;

	while (slot < PCI_SLOTS && pci->slot[slot])
		slot++;
	if (slot == PCI_SLOTS)
		return -ENOSPC;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->pci = pci;
	d->name = name;
	d->slot = slot;
	fill_header(d, id);
	pci->slot[slot] = d;
	*device = d;
	return 0;
}

/* The next aligned address of a window for `size` bytes, or 0. Addresses are never given back. */
static uint64_t take(const struct pci_window *window, uint64_t *next, uint64_t size)
{
	uint64_t at = align_up(*next, size);

	if (at < window->base || at + size > window->base + window->size || at + size < at)
		return 0;
	*next = at + size;
	return at;
}

static uint64_t take_address(struct pci_bus *pci, enum pci_bar_kind kind, uint64_t size)
{
	uint64_t at = 0;

	if (kind == PCI_BAR_IO)
		return take(&pci->config.io, &pci->next_io, size);
	if (kind == PCI_BAR_MEM64 && pci->config.mmio64.size)
		at = take(&pci->config.mmio64, &pci->next_mmio64, size);
	return at ? at : take(&pci->config.mmio32, &pci->next_mmio32, size);
}

static uint32_t low_bits(enum pci_bar_kind kind)
{
	return kind == PCI_BAR_IO ? BAR_IO : kind == PCI_BAR_MEM64 ? BAR_64BIT : 0;
}

int pci_add_bar(struct pci_device *d, unsigned bar, enum pci_bar_kind kind, uint64_t size, const struct bus_ops *ops,
		void *opaque)
{
	unsigned reg = PCI_BAR0 + 4 * bar;
	uint64_t address;

	if (bar + (kind == PCI_BAR_MEM64) >= PCI_BARS || size & (size - 1) || size < (kind == PCI_BAR_IO ? 4 : 16))
		return -EINVAL;
	address = take_address(d->pci, kind, size);
	if (!address)
		return -ENOSPC;
	d->bar[bar] = (struct pci_bar){.kind = kind, .size = size, .ops = ops, .opaque = opaque};
	put_le32(d->config + reg, (uint32_t)address | low_bits(kind));
	pci_set_writable(d, reg, 4, ~(uint32_t)(size - 1));
	if (kind == PCI_BAR_MEM64) {
		put_le32(d->config + reg + 4, address >> 32);
		pci_set_writable(d, reg + 4, 4, ~(size - 1) >> 32);
	}
	return 0;
}

int pci_add_capability(struct pci_device *d, uint8_t id, unsigned size)
{
	unsigned at = d->cap_end;

	if (at + size > PCI_CONFIG_SIZE)
		return -ENOSPC;
	d->config[at] = id;
	d->config[d->cap_last ? d->cap_last + 1 : PCI_CAPABILITIES] = at;
	d->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	d->cap_last = at;
	d->cap_end = align_up(at + size, 4);
	return at;
}

/* Where the registers say that the BAR is, 0 if decoding is off. */
static uint64_t wanted_address(const struct pci_device *d, unsigned bar)
{
	const struct pci_bar *b = &d->bar[bar];
	uint16_t enable = b->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	uint64_t address = get_le32(d->config + PCI_BAR0 + 4 * bar);

	if (!(get_le16(d->config + PCI_COMMAND) & enable))
		return 0;
	if (b->kind == PCI_BAR_MEM64)
		address |= (uint64_t)get_le32(d->config + PCI_BAR0 + 4 * bar + 4) << 32;
	return address & ~(b->size - 1);
}

static void move_bar(struct pci_device *d, unsigned bar, uint64_t address)
{
	struct pci_bar *b = &d->bar[bar];
	enum bus_space space = b->kind == PCI_BAR_IO ? BUS_PIO : BUS_MMIO;

	if (b->mapped)
		bus_del(d->pci->config.bus, space, b->mapped);
	b->mapped = 0;
	if (address && !bus_add(d->pci->config.bus, space, address, b->size, b->ops, b->opaque, d->name))
		b->mapped = address;
	if (d->bar_moved)
		d->bar_moved(d->bar_moved_opaque, bar, b->mapped);
}

void pci_update_mappings(struct pci_device *d)
{
	for (unsigned bar = 0; bar < PCI_BARS; bar++) {
		uint64_t address;

		if (!d->bar[bar].size)
			continue;
		address = wanted_address(d, bar);
		if (address != d->bar[bar].mapped)
			move_bar(d, bar, address);
	}
}

uint64_t pci_bar_address(struct pci_device *d, unsigned bar)
{
	uint64_t address;

	pthread_mutex_lock(&d->pci->lock);
	address = d->bar[bar].mapped;
	pthread_mutex_unlock(&d->pci->lock);
	return address;
}

/* Pass the device's INTx state on to its wire, which others may share. */
void pci_update_intx(struct pci_device *d)
{
	bool wanted = (d->config[PCI_STATUS] & PCI_STATUS_INTX) &&
		      !(get_le16(d->config + PCI_COMMAND) & PCI_COMMAND_INTX_OFF);
	unsigned wire = d->slot % PCI_INTX;
	int *count = &d->pci->intx_count[wire];

	if (wanted == d->intx_level)
		return;
	d->intx_level = wanted;
	*count += wanted ? 1 : -1;
	irq_set(&d->pci->config.intx[wire], *count > 0);
}

void pci_use_intx(struct pci_device *d)
{
	d->config[PCI_INTERRUPT_PIN] = 1;
}

void pci_set_intx(struct pci_device *d, int level)
{
	pthread_mutex_lock(&d->pci->lock);
	if (level)
		d->config[PCI_STATUS] |= PCI_STATUS_INTX;
	else
		d->config[PCI_STATUS] &= ~PCI_STATUS_INTX;
	pci_update_intx(d);
	pthread_mutex_unlock(&d->pci->lock);
}

int pci_bus_new(struct pci_bus **out, const struct pci_bus_config *config)
{
	struct pci_bus *pci = calloc(1, sizeof(*pci));
	struct pci_device *bridge;
	int err;

	if (!pci)
		return -ENOMEM;
	pci->config = *config;
	pci->next_io = config->io.base;
	pci->next_mmio32 = config->mmio32.base;
	pci->next_mmio64 = config->mmio64.base;
	pthread_mutex_init(&pci->lock, NULL);
	err = pci_device_new(pci, &host_bridge_id, "pci-host", &bridge);
	if (!err)
		err = bus_add(config->bus, BUS_MMIO, config->ecam_base, PCI_ECAM_SIZE, &pci_ecam_ops, pci, "pci-ecam");
	if (!err)
		err = bus_add(config->bus, BUS_PIO, 0xcf8, 8, &pci_ports_ops, pci, "pci-config");
	if (err) {
		pci_bus_free(pci);
		return err;
	}
	*out = pci;
	return 0;
}

void pci_bus_free(struct pci_bus *pci)
{
	if (!pci)
		return;
	for (unsigned k = 0; k < PCI_SLOTS; k++) {
		if (pci->slot[k])
			msix_free(pci->slot[k]->msix);
		free(pci->slot[k]);
	}
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}
