/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing ACPI Machine Language (ACPI 6.4, chapter 20) into a buffer. Objects that contain others are opened and
 * closed; closing fills in the length. An overfull buffer sets `overflow` and drops the rest.
 */
#ifndef GUISE_MACHINE_AML_H
#define GUISE_MACHINE_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *bytes;
	size_t size, used;
	bool overflow;
};

/* Containers: each returns a mark for aml_close(). */
size_t aml_scope(struct aml *a, const char *name);
size_t aml_device(struct aml *a, const char *name);
size_t aml_package(struct aml *a, unsigned n_elements);
void aml_close(struct aml *a, size_t mark);

void aml_name(struct aml *a, const char *name); /* Name (name, ...): the object follows */
void aml_int(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0A08" */

/* A resource template (6.4): open after aml_name("_CRS"), add descriptors, close. */
size_t aml_resources(struct aml *a);
void aml_close_resources(struct aml *a, size_t mark);
void aml_io(struct aml *a, uint16_t base, uint8_t size);
void aml_irq(struct aml *a, unsigned irq); /* edge, active high: an ISA interrupt */
void aml_level_irq(struct aml *a, unsigned gsi); /* level, active high, shared: any GSI */
void aml_bus_range(struct aml *a, uint16_t first, uint16_t last);
void aml_io_window(struct aml *a, uint16_t base, uint32_t size);
void aml_memory_window(struct aml *a, uint64_t base, uint64_t size); /* for BARs of either kind */
void aml_memory_fixed(struct aml *a, uint32_t base, uint32_t size);

#endif
