/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine's memory map, port map and interrupts. Everything that names an address includes this: ACPI tables,
 * boot loader, device creation. RAM fills [0, LOW_RAM_END) and continues at 4 GiB; the hole in between is for devices.
 *
 *   0         1M                   3G        3.5G  F0000000     FEC00000         4G
 *   |low RAM  |RAM ...             |PCI 32bit|ECAM |virtio-mmio |I/O APIC, APIC  |RAM ...        |PCI 64bit
 */
#ifndef GUISE_MACHINE_LAYOUT_H
#define GUISE_MACHINE_LAYOUT_H

#include <stdint.h>

#define LOW_RAM_END	 0xc0000000ull
#define HIGH_RAM_BASE	 0x100000000ull
#define PCI_MMIO32_BASE	 0xc0000000ull
#define PCI_MMIO32_SIZE	 0x20000000ull
#define PCI_ECAM_BASE	 0xe0000000ull
#define VIRTIO_MMIO_BASE 0xf0000000ull /* a page per device */
#define IOAPIC_BASE	 0xfec00000ull
#define LAPIC_BASE	 0xfee00000ull
#define KVM_IDENTITY_MAP 0xfffbc000ull /* one page and three pages that KVM wants on some Intel hosts */
#define KVM_TSS		 0xfffbd000ull
#define PCI_MMIO64_SIZE	 0x1000000000ull /* above RAM, aligned to its size */

/* Low memory at start: who puts what where. */
enum {
	GDT_GPA = 0x500,
	PVH_START_INFO_GPA = 0x6000,
	BOOT_PARAMS_GPA = 0x7000,
	BOOT_STACK_GPA = 0x8ff0,
	PAGE_TABLES_GPA = 0x9000, /* six pages */
	CMDLINE_GPA = 0x20000,
	CMDLINE_MAX = 0x10000,
	LOW_RAM_USABLE = 0x9fc00, /* the rest up to 640K belonged to the BIOS */
	ACPI_GPA = 0xe0000,	  /* found there by old systems' search for "RSD PTR " */
	ACPI_MAX = 0x20000,
	ONE_MIB = 0x100000
};

/* Ports */
enum {
	PORT_I8042 = 0x60, PORT_RTC = 0x70, PORT_A20 = 0x92, PORT_DEBUG_EXIT = 0xf4, PORT_COM1 = 0x3f8,
	PORT_PVPANIC = 0x505, PORT_ACPI_PM = 0x600, PORT_PCI_CONFIG = 0xcf8, PORT_RESET = 0xcf9,
	PCI_IO_BASE = 0x1000, PCI_IO_SIZE = 0xf000
};

/* Interrupts (GSIs); the first sixteen are the ISA interrupts. */
enum { IRQ_KEYBOARD = 1, IRQ_COM1 = 4, IRQ_RTC = 8, IRQ_SCI = 9, IRQ_PCI = 16 /* four of them */ };

enum { VIRTIO_MMIO_MAX = 64 };
/* Interrupts of virtio-mmio devices, one each while they last: ISA interrupts that nobody has, then the I/O APIC's last. */
static const uint8_t irq_virtio_mmio[] = {5, 6, 7, 10, 11, 12, 14, 15, 20, 21, 22, 23};
enum { N_IRQ_VIRTIO_MMIO = sizeof(irq_virtio_mmio) };
static inline unsigned irq_of_virtio_mmio(unsigned index)
{
	return irq_virtio_mmio[index % N_IRQ_VIRTIO_MMIO];
}

#endif
