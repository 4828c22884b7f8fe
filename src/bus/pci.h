/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One PCI Express root bus (PCI 3.0, PCI Express 4.0): configuration space through ECAM and through ports CF8h/CFCh,
 * base address registers that move ranges on the machine's bus, INTx wires, MSI-X.
 *
 * Devices are set up before the machine runs, in this order: pci_device_new, then BARs, capabilities, MSI-X. BARs get
 * addresses at once, as firmware would do; a guest may move them. After start-up configuration accesses come from
 * any vCPU; they take the bus's lock. Handlers of BARs are called without it.
 */
#ifndef GUISE_BUS_PCI_H
#define GUISE_BUS_PCI_H

#include "bus/bus.h"

enum { PCI_SLOTS = 32, PCI_CONFIG_SIZE = 256, PCI_FUNCTION_ECAM_SIZE = 4096, PCI_BARS = 6, PCI_INTX = 4 };
enum { PCI_ECAM_SIZE = 1 << 20 }; /* bus 0 */

/* Configuration header (PCI 3.0, 6.1). */
enum { PCI_VENDOR = 0, PCI_DEVICE = 2, PCI_COMMAND = 4, PCI_STATUS = 6, PCI_REVISION = 8, PCI_CLASS = 9,
       PCI_HEADER_TYPE = 0x0e, PCI_BAR0 = 0x10, PCI_SUBSYSTEM_VENDOR = 0x2c, PCI_SUBSYSTEM = 0x2e,
       PCI_CAPABILITIES = 0x34, PCI_INTERRUPT_LINE = 0x3c, PCI_INTERRUPT_PIN = 0x3d };
enum { PCI_COMMAND_IO = 1, PCI_COMMAND_MEMORY = 2, PCI_COMMAND_MASTER = 4, PCI_COMMAND_INTX_OFF = 1 << 10 };
enum { PCI_STATUS_INTX = 1 << 3, PCI_STATUS_CAPABILITIES = 1 << 4 };
enum { PCI_CAP_MSIX = 0x11, PCI_CAP_VENDOR = 0x09 };

struct pci_bus;
struct pci_device;
struct msix;

/* Addresses that BARs are given from; a window of size 0 is not offered. */
struct pci_window {
	uint64_t base, size;
};

struct pci_bus_config {
	struct bus *bus;
	uint64_t ecam_base;
	struct pci_window io, mmio32, mmio64;
	struct irq_wire intx[PCI_INTX]; /* wire of slot s, pin p (0..3): intx[(s + p) % 4] */
	struct irq_wire reset;		/* port CF9h */
	/* Deliver an MSI; any thread. */
	void (*msi)(void *opaque, uint64_t address, uint32_t data);
	void *msi_opaque;
};

/* Creates the bus with a host bridge in slot 0. 0/-errno. */
int pci_bus_new(struct pci_bus **pci, const struct pci_bus_config *config);
void pci_bus_free(struct pci_bus *pci); /* and its devices */

struct pci_id {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	uint8_t revision;
};

/* A device in the first free slot. 0; -ENOSPC: all slots taken; -ENOMEM. */
int pci_device_new(struct pci_bus *pci, const struct pci_id *id, const char *name, struct pci_device **device);
unsigned pci_device_slot(const struct pci_device *device);

enum pci_bar_kind { PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };
/* size: a power of two. A 64-bit BAR takes two registers. 0; -EINVAL; -ENOSPC: its window is full. */
int pci_add_bar(struct pci_device *device, unsigned bar, enum pci_bar_kind kind, uint64_t size,
		const struct bus_ops *ops, void *opaque);
/* Where the BAR is mapped now; 0 if it is not. */
uint64_t pci_bar_address(struct pci_device *device, unsigned bar);
/* Told when a BAR is mapped (address) or unmapped (0): for ioeventfds. With the bus's lock held. */
void pci_on_bar_moved(struct pci_device *device, void (*moved)(void *opaque, unsigned bar, uint64_t address),
		      void *opaque);

/* Add a capability of `size` bytes (header included); its offset, or -ENOSPC. The body is zero and read-only. */
int pci_add_capability(struct pci_device *device, uint8_t id, unsigned size);
/* The configuration bytes, to fill in before the machine runs; and which bits of them the guest may write. */
uint8_t *pci_config_bytes(struct pci_device *device);
void pci_set_writable(struct pci_device *device, unsigned offset, unsigned size, uint32_t mask);
/* Accesses to [offset, offset+size) of configuration space go to the device's functions, after the bytes were updated. */
struct pci_config_hook {
	uint32_t (*read)(void *opaque, unsigned offset, unsigned size, uint32_t value);
	void (*written)(void *opaque, unsigned offset, unsigned size);
	void *opaque;
};
void pci_hook_config(struct pci_device *device, unsigned offset, unsigned size, const struct pci_config_hook *hook);

void pci_use_intx(struct pci_device *device); /* before the machine runs: the device has pin A */
void pci_set_intx(struct pci_device *device, int level); /* pin A; any thread */

/*
 * MSI-X with n_vectors (1..2048) in memory BAR `bar` of its own. `changed` (may be NULL) hears of a vector's new
 * address, data and mask, for irqfd routing; called on vCPU threads.
 */
struct msix_listener {
	void (*changed)(void *opaque, unsigned vector, bool masked, uint64_t address, uint32_t data);
	void *opaque;
};
int pci_add_msix(struct pci_device *device, unsigned bar, unsigned n_vectors, const struct msix_listener *listener);
bool pci_msix_is_enabled(struct pci_device *device);
/* Interrupt by vector; kept pending while masked. Any thread. */
void pci_msix_notify(struct pci_device *device, unsigned vector);

#endif
