/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's ACPI tables (ACPI 6.4): what hardware there is, for an operating system that asks nobody else. */
#ifndef GUISE_MACHINE_ACPI_H
#define GUISE_MACHINE_ACPI_H

#include "memory/memory.h"

struct acpi_config {
	unsigned cpu_count;
	uint64_t pci_mmio64_base, pci_mmio64_size;
	bool has_pvpanic;
	unsigned n_virtio_mmio; /* devices, as layout.h places them */
};

/* Write all tables to [ACPI_GPA, ACPI_GPA + ACPI_MAX) and say where the root pointer is. 0; -ENOSPC; -EFAULT. */
int acpi_write(struct memory *mem, const struct acpi_config *config, uint64_t *rsdp_gpa);

#endif
