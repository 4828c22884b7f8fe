/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile guest at the devices: any sequence of port and memory accesses to a PCI bus with MSI-X, serial port, clock,
 * keyboard controller, ACPI registers and fw_cfg. Six bytes make one access: what, address, value.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "bus/pci.h"
#include "devices/acpi_pm.h"
#include "devices/fw_cfg.h"
#include "devices/i8042.h"
#include "devices/rtc.h"
#include "devices/serial.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t ram[16 * PAGE_SIZE] __attribute__((aligned(4096)));

struct board {
	struct bus *bus;
	struct loop *loop;
	struct pci_bus *pci;
	struct pci_device *device;
	struct serial *serial;
	struct rtc *rtc;
	struct i8042 *i8042;
	struct acpi_pm *pm;
	struct fw_cfg *fw_cfg;
	struct memory mem;
};

static void wire_set(void *opaque, unsigned line, int level)
{
}

static void send_msi(void *opaque, uint64_t address, uint32_t value)
{
}

static uint64_t reg_read(void *opaque, uint64_t offset, unsigned size)
{
	return offset;
}

static void reg_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
}

static const struct bus_ops reg_ops = {reg_read, reg_write};

static void must(int err)
{
	if (err)
		abort();
}

static void add_devices(struct board *b)
{
	const struct irq_wire wire = {wire_set, NULL, 0};
	const struct serial_wire none = {0};
	struct mem_slot slot = {.size = sizeof(ram), .hva = ram, .fd = -1};
	struct dma dma = {&b->mem, NULL, NULL};

	memory_init(&b->mem);
	must(memory_set_slot(&b->mem, &slot));
	must(serial_new(&b->serial, &wire, &none));
	must(rtc_new(&b->rtc, b->loop, &wire));
	must(i8042_new(&b->i8042, &wire, &wire));
	must(acpi_pm_new(&b->pm, &wire, &wire));
	must(fw_cfg_new(&b->fw_cfg, &dma));
	must(bus_add(b->bus, BUS_PIO, 0x3f8, 8, &serial_ops, b->serial, "serial"));
	must(bus_add(b->bus, BUS_PIO, 0x70, 2, &rtc_ops, b->rtc, "rtc"));
	must(bus_add(b->bus, BUS_PIO, 0x60, 1, &i8042_data_ops, b->i8042, "kbd"));
	must(bus_add(b->bus, BUS_PIO, 0x64, 1, &i8042_command_ops, b->i8042, "kbd"));
	must(bus_add(b->bus, BUS_PIO, 0x600, ACPI_PM_SIZE, &acpi_pm_ops, b->pm, "pm"));
	must(bus_add(b->bus, BUS_PIO, FW_CFG_BASE, FW_CFG_SIZE, &fw_cfg_ops, b->fw_cfg, "fw"));
}

static void add_pci(struct board *b)
{
	const struct irq_wire wire = {wire_set, NULL, 0};
	const struct pci_id id = {.vendor = 1};
	struct pci_bus_config config = {
		.bus = b->bus, .ecam_base = 0xe0000000, .io = {0x1000, 0xf000}, .mmio32 = {0xc0000000, 1 << 28},
		.mmio64 = {1ull << 36, 1ull << 36}, .intx = {wire, wire, wire, wire}, .reset = wire, .msi = send_msi,
	};

	must(pci_bus_new(&b->pci, &config));
	must(pci_device_new(b->pci, &id, "test", &b->device));
	must(pci_add_bar(b->device, 0, PCI_BAR_MEM64, 0x1000, &reg_ops, b));
	must(pci_add_bar(b->device, 2, PCI_BAR_IO, 32, &reg_ops, b));
	must(pci_add_msix(b->device, 4, 5, NULL));
}

static void tear_down(struct board *b)
{
	fw_cfg_free(b->fw_cfg);
	acpi_pm_free(b->pm);
	i8042_free(b->i8042);
	rtc_free(b->rtc);
	serial_free(b->serial);
	pci_bus_free(b->pci);
	bus_free(b->bus);
	loop_free(b->loop);
	memory_deinit(&b->mem);
}

/* Addresses where something is, chosen by two bytes. */
static void access_board(struct board *b, const uint8_t *in)
{
	static const uint64_t mmio[] = {0xe0008000, 0xe0000000, 0xc0000000, 1ull << 36, 0xe00ffff0, 0};
	static const uint16_t ports[] = {0x3f8, 0x70, 0x60, 0x600, 0x510, 0xcf8, 0x1000, 0};
	unsigned size = 1 << (in[0] & 3);
	uint64_t value = get_le32(in + 2) | (uint64_t)get_le32(in + 2) << 32;
	bool is_write = in[0] & 4;

	if (in[0] & 8)
		bus_access(b->bus, BUS_MMIO, mmio[(in[0] >> 4) % 6] + in[1], size, is_write, &value);
	else
		bus_access(b->bus, BUS_PIO, (uint16_t)(ports[(in[0] >> 4) % 8] + in[1] % 16), size > 4 ? 4 : size, is_write,
			   &value);
	pci_msix_notify(b->device, in[1] % 8);
	pci_set_intx(b->device, in[1] & 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b = {0};

	must(bus_new(&b.bus));
	must(loop_new(&b.loop));
	add_devices(&b);
	add_pci(&b);
	for (; size >= 6; data += 6, size -= 6)
		access_board(&b, data);
	tear_down(&b);
	return 0;
}
