/* SPDX-License-Identifier: BSD-2-Clause */
/* The PCI bus as a driver sees it: configuration by both ways, BARs that are sized and moved, INTx, MSI-X, reset. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "bus/pci.h"
#include "device_wires.h"

#define ECAM	0xe0000000ull
#define WINDOW	0xc0000000ull
#define WINDOW64 0x1000000000ull

struct board {
	struct bus *bus;
	struct pci_bus *pci;
	struct pci_device *device;
	struct test_wire intx[PCI_INTX], reset;
	uint64_t msi_address;
	uint32_t msi_data;
	unsigned n_msi;
	uint64_t reg_value, moved_to;
};

static uint64_t reg_read(void *opaque, uint64_t offset, unsigned size)
{
	return ((struct board *)opaque)->reg_value + offset;
}

static void reg_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	((struct board *)opaque)->reg_value = value;
}

static const struct bus_ops reg_ops = {reg_read, reg_write};

static void got_msi(void *opaque, uint64_t address, uint32_t data)
{
	struct board *b = opaque;

	b->msi_address = address;
	b->msi_data = data;
	b->n_msi++;
}

static void bar_moved(void *opaque, unsigned bar, uint64_t address)
{
	if (bar == 0)
		((struct board *)opaque)->moved_to = address;
}

static int set_up(void **state)
{
	static struct board b;
	struct pci_bus_config config = {
		.ecam_base = ECAM, .io = {0x1000, 0xf000}, .mmio32 = {WINDOW, 1 << 28}, .mmio64 = {WINDOW64, 1ull << 36},
		.msi = got_msi, .msi_opaque = &b,
	};
	const struct pci_id id = {.vendor = 0x1af4, .device = 0x1042, .class_code = 0x010000, .revision = 1};

	b = (struct board){0};
	for (unsigned k = 0; k < PCI_INTX; k++)
		config.intx[k] = wire_to(&b.intx[k]);
	config.reset = wire_to(&b.reset);
	assert_int_equal(bus_new(&b.bus), 0);
	config.bus = b.bus;
	assert_int_equal(pci_bus_new(&b.pci, &config), 0);
	assert_int_equal(pci_device_new(b.pci, &id, "test", &b.device), 0);
	assert_int_equal(pci_add_bar(b.device, 0, PCI_BAR_MEM64, 0x4000, &reg_ops, &b), 0);
	assert_int_equal(pci_add_bar(b.device, 2, PCI_BAR_IO, 64, &reg_ops, &b), 0);
	assert_int_equal(pci_add_msix(b.device, 4, 3, NULL), 0);
	pci_on_bar_moved(b.device, bar_moved, &b);
	*state = &b;
	return 0;
}

static int tear_down(void **state)
{
	struct board *b = *state;

	pci_bus_free(b->pci);
	bus_free(b->bus);
	return 0;
}

static uint32_t load(struct board *b, enum bus_space space, uint64_t address, unsigned size)
{
	uint32_t value = 0;

	bus_access(b->bus, space, address, size, false, &value);
	return value;
}

static void store(struct board *b, enum bus_space space, uint64_t address, unsigned size, uint32_t value)
{
	bus_access(b->bus, space, address, size, true, &value);
}

static uint32_t config_load(struct board *b, unsigned slot, unsigned reg, unsigned size)
{
	return load(b, BUS_MMIO, ECAM + (slot << 15) + reg, size);
}

static void config_store(struct board *b, unsigned slot, unsigned reg, unsigned size, uint32_t value)
{
	store(b, BUS_MMIO, ECAM + (slot << 15) + reg, size, value);
}

static void both_ways_in(void **state)
{
	struct board *b = *state;

	assert_int_equal(config_load(b, 0, 0, 4), 0x00081b36);
	assert_int_equal(config_load(b, 1, 0, 4), 0x10421af4);
	assert_int_equal(config_load(b, 1, 8, 4), 0x01000001);
	assert_int_equal(config_load(b, 2, 0, 4), UINT32_MAX);
	assert_int_equal(load(b, BUS_MMIO, ECAM + (1 << 15) + (1 << 12), 4), UINT32_MAX); /* function 1 */
	assert_int_equal(config_load(b, 1, 0x100, 4), 0);				    /* no extended capability */
	store(b, BUS_PIO, 0xcf8, 4, 1u << 31 | 1 << 11);
	assert_int_equal(load(b, BUS_PIO, 0xcfc, 4), 0x10421af4);
	assert_int_equal(load(b, BUS_PIO, 0xcfe, 2), 0x1042);
	assert_int_equal(load(b, BUS_PIO, 0xcf8, 4), 1u << 31 | 1 << 11);
	store(b, BUS_PIO, 0xcf8, 4, 1u << 31 | 1 << 16);
	assert_int_equal(load(b, BUS_PIO, 0xcfc, 4), UINT32_MAX); /* another bus */
	config_store(b, 1, 0, 4, 0);
	assert_int_equal(config_load(b, 1, 0, 4), 0x10421af4); /* read-only */
}

static void bars_are_sized_and_moved(void **state)
{
	struct board *b = *state;

	assert_int_equal(config_load(b, 1, 0x10, 4), 4);
	assert_int_equal(config_load(b, 1, 0x14, 4), WINDOW64 >> 32);
	assert_int_equal(config_load(b, 1, 0x18, 4), 0x1001);
	config_store(b, 1, 0x10, 4, UINT32_MAX);
	config_store(b, 1, 0x14, 4, UINT32_MAX);
	assert_int_equal(config_load(b, 1, 0x10, 4), 0xffffc004);
	assert_int_equal(config_load(b, 1, 0x14, 4), UINT32_MAX);
	config_store(b, 1, 0x10, 4, 0xc1000000);
	config_store(b, 1, 0x14, 4, 0);
	assert_int_equal(pci_bar_address(b->device, 0), 0);
	config_store(b, 1, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
	assert_int_equal(pci_bar_address(b->device, 0), 0xc1000000);
	assert_int_equal(b->moved_to, 0xc1000000);
	store(b, BUS_MMIO, 0xc1000010, 4, 7);
	assert_int_equal(load(b, BUS_MMIO, 0xc1000010, 4), 7 + 0x10);
	assert_int_equal(load(b, BUS_PIO, 0x1004, 4), 7 + 4);
	config_store(b, 1, 0x10, 4, (uint32_t)ECAM); /* over something else: not mapped */
	assert_int_equal(b->moved_to, 0);
	assert_int_equal(load(b, BUS_MMIO, 0xc1000010, 4), UINT32_MAX);
	assert_int_equal(config_load(b, 0, 0, 2), 0x1b36);
	config_store(b, 1, 0x10, 4, 0xc2000000);
	assert_int_equal(load(b, BUS_MMIO, 0xc2000000, 4), 7);
	config_store(b, 1, 4, 2, 0);
	assert_int_equal(load(b, BUS_MMIO, 0xc2000000, 4), UINT32_MAX);
}

static void refuses_wrong_bars(void **state)
{
	struct board *b = *state;

	assert_int_equal(pci_add_bar(b->device, 5, PCI_BAR_MEM64, 0x1000, &reg_ops, b), -EINVAL);
	assert_int_equal(pci_add_bar(b->device, 5, PCI_BAR_MEM32, 0x1800, &reg_ops, b), -EINVAL);
	assert_int_equal(pci_add_bar(b->device, 5, PCI_BAR_MEM32, 1u << 31, &reg_ops, b), -ENOSPC);
	assert_int_equal(pci_add_msix(b->device, 5, 4, NULL), -EINVAL); /* it has one */
}

static void shared_intx(void **state)
{
	struct board *b = *state;
	const struct pci_id id = {.vendor = 1};
	struct pci_device *d = NULL;

	for (unsigned k = 0; k < 4; k++)
		assert_int_equal(pci_device_new(b->pci, &id, "other", &d), 0);
	assert_int_equal(pci_device_slot(d), 5); /* shares slot 1's wire */
	pci_set_intx(b->device, 1);
	pci_set_intx(d, 1);
	assert_int_equal(config_load(b, 1, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	assert_int_equal(b->intx[1].level, 1);
	pci_set_intx(b->device, 0);
	assert_int_equal(b->intx[1].level, 1);
	config_store(b, 5, 4, 2, PCI_COMMAND_INTX_OFF);
	assert_int_equal(b->intx[1].level, 0);
	config_store(b, 5, 4, 2, 0);
	assert_int_equal(b->intx[1].level, 1);
	pci_set_intx(d, 0);
	assert_int_equal(b->intx[1].level, 0);
	while (!pci_device_new(b->pci, &id, "other", &d))
		;
	assert_int_equal(pci_device_new(b->pci, &id, "other", &d), -ENOSPC);
}

static void msix_masks_and_sends(void **state)
{
	struct board *b = *state;
	unsigned cap = config_load(b, 1, PCI_CAPABILITIES, 1);
	uint64_t table;

	assert_int_equal(config_load(b, 1, cap, 1), PCI_CAP_MSIX);
	assert_int_equal(config_load(b, 1, cap + 2, 2), 2);
	assert_int_equal(config_load(b, 1, cap + 4, 4), 4);
	config_store(b, 1, 4, 2, PCI_COMMAND_MEMORY);
	table = pci_bar_address(b->device, 4);
	assert_int_not_equal(table, 0);
	pci_msix_notify(b->device, 1);
	assert_int_equal(b->n_msi, 0); /* off: nothing, not even pending */
	store(b, BUS_MMIO, table + 16, 4, 0xfee01000);
	store(b, BUS_MMIO, table + 24, 4, 0x4123);
	config_store(b, 1, cap + 2, 2, 0x8000);
	assert_true(pci_msix_is_enabled(b->device));
	assert_int_equal(b->n_msi, 0);
	pci_msix_notify(b->device, 1); /* vectors start masked */
	assert_int_equal(b->n_msi, 0);
	assert_int_equal(load(b, BUS_MMIO, table + 0x800, 4), 2);
	store(b, BUS_MMIO, table + 28, 4, 0);
	assert_int_equal(b->n_msi, 1);
	assert_int_equal(b->msi_address, 0xfee01000);
	assert_int_equal(b->msi_data, 0x4123);
	assert_int_equal(load(b, BUS_MMIO, table + 0x800, 4), 0);
	pci_msix_notify(b->device, 1);
	assert_int_equal(b->n_msi, 2);
	config_store(b, 1, cap + 2, 2, 0xc000); /* function mask */
	pci_msix_notify(b->device, 1);
	pci_msix_notify(b->device, 1);
	assert_int_equal(b->n_msi, 2);
	config_store(b, 1, cap + 2, 2, 0x8000);
	assert_int_equal(b->n_msi, 3); /* once */
	pci_msix_notify(b->device, 3);
	pci_msix_notify(b->device, 0xffff);
	assert_int_equal(b->n_msi, 3);
	store(b, BUS_MMIO, table + 2, 2, 0xffff); /* undefined accesses do nothing */
	assert_int_equal(load(b, BUS_MMIO, table, 4), 0);
	assert_int_equal(load(b, BUS_MMIO, table + 0xffc, 4), 0);
}

static void reset_register(void **state)
{
	struct board *b = *state;

	store(b, BUS_PIO, 0xcf9, 1, 2);
	assert_int_equal(b->reset.rises, 0);
	store(b, BUS_PIO, 0xcf9, 1, 6);
	assert_int_equal(b->reset.rises, 1);
	assert_int_equal(load(b, BUS_PIO, 0xcf9, 1), 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_ways_in, set_up, tear_down),
		cmocka_unit_test_setup_teardown(bars_are_sized_and_moved, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_wrong_bars, set_up, tear_down),
		cmocka_unit_test_setup_teardown(shared_intx, set_up, tear_down),
		cmocka_unit_test_setup_teardown(msix_masks_and_sends, set_up, tear_down),
		cmocka_unit_test_setup_teardown(reset_register, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
