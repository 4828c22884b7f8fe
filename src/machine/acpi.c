/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RSDP → XSDT → FADT (→ FACS, DSDT), MADT, MCFG. The tables are laid out one after the other in a buffer that is then
 * written to guest memory whole; a table's place in the buffer gives its address.
 *
 * The fixed hardware is devices/acpi_pm.c (always in ACPI mode, so no SMI command) and port CF9h for the reset
 * register. The 8042's presence bit stays off although the device is there: it exists to be reset through, and
 * systems that believe in it spend time looking for a keyboard.
 */
#include "machine/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "bus/pci.h"
#include "devices/acpi_pm.h"
#include "devices/fw_cfg.h"
#include "machine/aml.h"
#include "machine/layout.h"
#include "virtio/mmio.h"

enum { HEADER_SIZE = 36, RSDP_SIZE = 36, FADT_SIZE = 276, FACS_SIZE = 64 };
enum { ENABLED = 1, ISO_LEVEL_HIGH = 0xd, ALL_CPUS = 0xff, LINT1 = 1 };

struct tables {
	uint8_t *bytes;
	size_t used;
	bool overflow;
	uint64_t entry[8]; /* what XSDT lists */
	unsigned n_entries;
};

/* Room for a table, zeroed, aligned to 64 bytes (FACS needs that). */
static uint8_t *take(struct tables *t, size_t size, uint64_t *gpa)
{
	static uint8_t nowhere[4096];
	size_t at = align_up(t->used, 64);

	if (size > sizeof(nowhere) || at + size > ACPI_MAX) {
		t->overflow = true;
		return nowhere;
	}
	t->used = at + size;
	*gpa = ACPI_GPA + at;
	return t->bytes + at;
}

static void fill_header(uint8_t *table, const char *signature, uint32_t size, uint8_t revision)
{
	memcpy(table, signature, 4);
	put_le32(table + 4, size);
	table[8] = revision;
	memcpy(table + 10, "GUISE ", 6);
	memcpy(table + 16, "GUISEVM ", 8);
	put_le32(table + 24, 1);
	memcpy(table + 28, "GUIS", 4);
	put_le32(table + 32, 1);
	table[9] = 0;
	table[9] = checksum8(table, size);
}

/* --- DSDT --- */

static void add_isa_device(struct aml *a, const char *name, const char *hid, uint16_t port, uint8_t n_ports, int irq)
{
	size_t device = aml_device(a, name), resources;

	aml_name(a, "_HID");
	if (!strncmp(hid, "PNP", 3))
		aml_eisa_id(a, hid);
	else
		aml_string(a, hid);
	aml_name(a, "_STA");
	aml_int(a, 0xf);
	aml_name(a, "_CRS");
	resources = aml_resources(a);
	aml_io(a, port, n_ports);
	if (irq >= 0)
		aml_irq(a, irq);
	aml_close_resources(a, resources);
	aml_close(a, device);
}

/* Which GSI pin A of each slot is wired to. */
static void add_interrupt_routing(struct aml *a)
{
	size_t table, row;

	aml_name(a, "_PRT");
	table = aml_package(a, PCI_SLOTS);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		row = aml_package(a, 4);
		aml_int(a, slot << 16 | 0xffff);
		aml_int(a, 0);
		aml_int(a, 0);
		aml_int(a, IRQ_PCI + slot % PCI_INTX);
		aml_close(a, row);
	}
	aml_close(a, table);
}

static void add_pci_root(struct aml *a, const struct acpi_config *config)
{
	size_t device = aml_device(a, "PCI0"), resources;

	aml_name(a, "_HID");
	aml_eisa_id(a, "PNP0A08");
	aml_name(a, "_CID");
	aml_eisa_id(a, "PNP0A03");
	aml_name(a, "_SEG");
	aml_int(a, 0);
	aml_name(a, "_BBN");
	aml_int(a, 0);
	aml_name(a, "_UID");
	aml_int(a, 0);
	aml_name(a, "_CRS");
	resources = aml_resources(a);
	aml_bus_range(a, 0, 0);
	aml_io(a, PORT_PCI_CONFIG, 8);
	aml_io_window(a, PCI_IO_BASE, PCI_IO_SIZE);
	aml_memory_window(a, PCI_MMIO32_BASE, PCI_MMIO32_SIZE);
	if (config->pci_mmio64_size)
		aml_memory_window(a, config->pci_mmio64_base, config->pci_mmio64_size);
	aml_close_resources(a, resources);
	add_interrupt_routing(a);
	aml_close(a, device);
}

/* Address space that no driver may take: the PCI configuration window. */
static void add_reserved(struct aml *a)
{
	size_t device = aml_device(a, "RSVD"), resources;

	aml_name(a, "_HID");
	aml_eisa_id(a, "PNP0C02");
	aml_name(a, "_CRS");
	resources = aml_resources(a);
	aml_memory_fixed(a, PCI_ECAM_BASE, PCI_ECAM_SIZE);
	aml_io(a, PORT_ACPI_PM, ACPI_PM_SIZE);
	aml_close_resources(a, resources);
	aml_close(a, device);
}

/* A virtio-mmio device, which no bus enumerates (the id is the one that Linux's driver knows). */
static void add_virtio_mmio(struct aml *a, unsigned index)
{
	const char name[5] = {'V', 'I', (char)('0' + index / 10), (char)('0' + index % 10), 0};
	size_t device = aml_device(a, name), resources;

	aml_name(a, "_HID");
	aml_string(a, "LNRO0005");
	aml_name(a, "_UID");
	aml_int(a, index);
	aml_name(a, "_STA");
	aml_int(a, 0xf);
	aml_name(a, "_CRS");
	resources = aml_resources(a);
	aml_memory_fixed(a, (uint32_t)(VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_SIZE), VIRTIO_MMIO_SIZE);
	aml_level_irq(a, irq_of_virtio_mmio(index));
	aml_close_resources(a, resources);
	aml_close(a, device);
}

static void add_s5(struct aml *a)
{
	size_t package;

	aml_name(a, "\\_S5");
	package = aml_package(a, 4);
	aml_int(a, ACPI_S5_TYPE);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_close(a, package);
}

static void fill_dsdt(struct aml *a, const struct acpi_config *config)
{
	size_t scope = aml_scope(a, "\\_SB");

	add_pci_root(a, config);
	add_reserved(a);
	add_isa_device(a, "COM1", "PNP0501", PORT_COM1, 8, IRQ_COM1);
	add_isa_device(a, "RTC", "PNP0B00", PORT_RTC, 2, IRQ_RTC);
	add_isa_device(a, "FWCF", "QEMU0002", FW_CFG_BASE, FW_CFG_SIZE, -1);
	if (config->has_pvpanic)
		add_isa_device(a, "PEVT", "QEMU0001", PORT_PVPANIC, 1, -1);
	for (unsigned k = 0; k < config->n_virtio_mmio; k++)
		add_virtio_mmio(a, k);
	aml_close(a, scope);
	add_s5(a);
}

static uint64_t add_dsdt(struct tables *t, const struct acpi_config *config)
{
	size_t at = align_up(t->used, 64);
	struct aml a = {.bytes = t->bytes + at, .size = ACPI_MAX - at, .used = HEADER_SIZE};

	fill_dsdt(&a, config);
	fill_header(a.bytes, "DSDT", a.used, 2);
	t->overflow |= a.overflow;
	t->used = at + a.used;
	return ACPI_GPA + at;
}

/* --- the others --- */

static uint64_t add_facs(struct tables *t)
{
	uint64_t gpa = 0;
	uint8_t *facs = take(t, FACS_SIZE, &gpa);

	memcpy(facs, "FACS", 4);
	put_le32(facs + 4, FACS_SIZE);
	facs[32] = 2; /* version */
	return gpa;
}

/* A generic address structure for a port (5.2.3.2). */
static void put_port(uint8_t *gas, uint16_t port, unsigned bits, unsigned access_size)
{
	gas[0] = 1;
	gas[1] = bits;
	gas[3] = access_size;
	put_le64(gas + 4, port);
}

/* Offsets as in table 5.9 of the specification. */
static void add_fadt(struct tables *t, uint64_t facs, uint64_t dsdt)
{
	enum { WBINVD = 1, PROC_C1 = 4, NO_SLEEP_BUTTON = 1 << 5, NO_FIXED_RTC = 1 << 6, TIMER_32BIT = 1 << 8,
	       RESET_SUPPORTED = 1 << 10, LEGACY_DEVICES = 1, NO_VGA = 4, NO_ASPM = 16 };
	uint64_t gpa = 0;
	uint8_t *f = take(t, FADT_SIZE, &gpa);

	put_le32(f + 36, facs);
	put_le32(f + 40, dsdt);
	put_le16(f + 46, IRQ_SCI);
	put_le32(f + 56, PORT_ACPI_PM + ACPI_PM1_EVENT);
	put_le32(f + 64, PORT_ACPI_PM + ACPI_PM1_CONTROL);
	put_le32(f + 76, PORT_ACPI_PM + ACPI_PM_TIMER);
	f[88] = 4;			/* PM1_EVT_LEN */
	f[89] = 2;			/* PM1_CNT_LEN */
	f[91] = 4;			/* PM_TMR_LEN */
	put_le16(f + 96, 0xfff);	/* C2 and C3 are not there */
	put_le16(f + 98, 0xfff);
	f[108] = 0x32;			/* the century's byte in CMOS */
	put_le16(f + 109, LEGACY_DEVICES | NO_VGA | NO_ASPM);
	put_le32(f + 112, WBINVD | PROC_C1 | NO_SLEEP_BUTTON | NO_FIXED_RTC | TIMER_32BIT | RESET_SUPPORTED);
	put_port(f + 116, PORT_RESET, 8, 1);
	f[128] = 6;			/* RESET_VALUE */
	f[131] = 4;			/* minor version: 6.4 */
	put_le64(f + 140, dsdt);
	put_port(f + 148, PORT_ACPI_PM + ACPI_PM1_EVENT, 32, 2);
	put_port(f + 172, PORT_ACPI_PM + ACPI_PM1_CONTROL, 16, 2);
	put_port(f + 208, PORT_ACPI_PM + ACPI_PM_TIMER, 32, 3);
	fill_header(f, "FACP", FADT_SIZE, 6);
	t->entry[t->n_entries++] = gpa;
}

static uint8_t *put_local_apics(uint8_t *p, unsigned count)
{
	for (unsigned cpu = 0; cpu < count; cpu++, p += 8) {
		p[0] = 0;
		p[1] = 8;
		p[2] = p[3] = cpu; /* processor UID, APIC id */
		put_le32(p + 4, ENABLED);
	}
	return p;
}

static void add_madt(struct tables *t, const struct acpi_config *config)
{
	size_t size = HEADER_SIZE + 8 + 8 * config->cpu_count + 12 + 10 + 6;
	uint64_t gpa = 0;
	uint8_t *madt = take(t, size, &gpa), *p = madt + HEADER_SIZE;

	put_le32(p, LAPIC_BASE);
	put_le32(p + 4, 1); /* there are also two 8259s */
	p = put_local_apics(p + 8, config->cpu_count);
	p[0] = 1; /* I/O APIC, id 0, GSIs from 0 */
	p[1] = 12;
	put_le32(p + 4, IOAPIC_BASE);
	p += 12;
	p[0] = 2; /* the SCI is level-triggered, active high */
	p[1] = 10;
	p[3] = IRQ_SCI;
	put_le32(p + 4, IRQ_SCI);
	put_le16(p + 8, ISO_LEVEL_HIGH);
	p += 10;
	p[0] = 4; /* NMI comes in on LINT1 of all */
	p[1] = 6;
	p[2] = ALL_CPUS;
	p[5] = LINT1;
	fill_header(madt, "APIC", size, 5);
	t->entry[t->n_entries++] = gpa;
}

static void add_mcfg(struct tables *t)
{
	size_t size = HEADER_SIZE + 8 + 16;
	uint64_t gpa = 0;
	uint8_t *mcfg = take(t, size, &gpa);

	put_le64(mcfg + HEADER_SIZE + 8, PCI_ECAM_BASE); /* segment 0, buses 0 to 0 */
	fill_header(mcfg, "MCFG", size, 1);
	t->entry[t->n_entries++] = gpa;
}

static uint64_t add_xsdt(struct tables *t)
{
	size_t size = HEADER_SIZE + 8 * t->n_entries;
	uint64_t gpa = 0;
	uint8_t *xsdt = take(t, size, &gpa);

	for (unsigned k = 0; k < t->n_entries; k++)
		put_le64(xsdt + HEADER_SIZE + 8 * k, t->entry[k]);
	fill_header(xsdt, "XSDT", size, 1);
	return gpa;
}

static void fill_rsdp(uint8_t *rsdp, uint64_t xsdt)
{
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "GUISE ", 6);
	rsdp[15] = 2;
	put_le32(rsdp + 20, RSDP_SIZE);
	put_le64(rsdp + 24, xsdt);
	rsdp[8] = checksum8(rsdp, 20);
	rsdp[32] = checksum8(rsdp, RSDP_SIZE);
}

int acpi_write(struct memory *mem, const struct acpi_config *config, uint64_t *rsdp_gpa)
{
	struct tables t = {.bytes = calloc(1, ACPI_MAX)};
	uint8_t *rsdp;
	int err;

	if (!t.bytes)
		return -ENOMEM;
	rsdp = take(&t, RSDP_SIZE, rsdp_gpa);
	add_fadt(&t, add_facs(&t), add_dsdt(&t, config));
	add_madt(&t, config);
	add_mcfg(&t);
	fill_rsdp(rsdp, add_xsdt(&t));
	err = t.overflow ? -ENOSPC : mem_write(mem, ACPI_GPA, t.bytes, t.used);
	free(t.bytes);
	return err;
}
