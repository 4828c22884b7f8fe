/* SPDX-License-Identifier: BSD-2-Clause */
/* What pci.c, pci_config.c and pci_msix.c share. */
#ifndef GUISE_BUS_PCI_INTERNAL_H
#define GUISE_BUS_PCI_INTERNAL_H

#include <pthread.h>

#include "bus/pci.h"

struct pci_bar {
	enum pci_bar_kind kind;
	uint64_t size;	 /* 0: not there */
	uint64_t mapped; /* address on the bus now, 0: unmapped */
	const struct bus_ops *ops;
	void *opaque;
};

struct pci_device {
	struct pci_bus *pci;
	const char *name;
	unsigned slot;
	/* protected by pci->lock once the machine runs */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* bits that a write changes */
	struct pci_bar bar[PCI_BARS];
	unsigned cap_end, cap_last; /* first free byte; offset of the newest capability */
	int intx_level;
	/* fixed at set-up */
	void (*bar_moved)(void *opaque, unsigned bar, uint64_t address);
	void *bar_moved_opaque;
	struct pci_config_hook hook;
	unsigned hook_offset, hook_size;
	struct msix *msix;
	unsigned msix_cap;
};

struct pci_bus {
	struct pci_bus_config config;
	uint64_t next_io, next_mmio32, next_mmio64; /* set-up only */
	pthread_mutex_t lock; /* taken before any lock of a device or of the bus */
	struct pci_device *slot[PCI_SLOTS];
	uint32_t config_address; /* port CF8h */
	uint8_t reset_control;	 /* port CF9h */
	int intx_count[PCI_INTX]; /* devices that hold the wire high */
};

/* pci_config.c: the two ways into configuration space */
extern const struct bus_ops pci_ecam_ops, pci_ports_ops;
/* pci.c: after command or a BAR was written; lock held */
void pci_update_mappings(struct pci_device *device);
void pci_update_intx(struct pci_device *device);
/* pci_msix.c */
void msix_control_written(struct pci_device *device);
void msix_free(struct msix *msix);

#endif
