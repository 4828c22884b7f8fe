/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices from several threads at once: two "vCPUs" at their registers, a device thread that interrupts and sends
 * input, the event loop with its timers. What is checked is that the thread sanitizer has nothing to say and that
 * nothing hangs or is lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/thread.h"
#include "bus/pci.h"
#include "devices/acpi_pm.h"
#include "devices/i8042.h"
#include "devices/rtc.h"
#include "devices/serial.h"

enum { ROUNDS = 20000, N_VCPUS = 2 };
#define ECAM 0xe0000000ull

struct board {
	struct bus *bus;
	struct loop *loop;
	struct pci_bus *pci;
	struct pci_device *device;
	struct serial *serial;
	struct rtc *rtc;
	struct i8042 *i8042;
	struct acpi_pm *pm;
	_Atomic unsigned n_msi, n_sent, n_running;
};

struct vcpu {
	struct board *board;
	uint64_t random;
	pthread_t thread;
};

static void wire_set(void *opaque, unsigned line, int level)
{
}

static const struct irq_wire wire = {wire_set, NULL, 0};

static void count_msi(void *opaque, uint64_t address, uint32_t data)
{
	atomic_fetch_add(&((struct board *)opaque)->n_msi, 1);
}

static void count_sent(void *opaque, const void *bytes, size_t count)
{
	atomic_fetch_add(&((struct board *)opaque)->n_sent, count);
}

static uint64_t reg_read(void *opaque, uint64_t offset, unsigned size)
{
	return offset;
}

static void reg_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
}

static const struct bus_ops reg_ops = {reg_read, reg_write};

static void board_new(struct board *b)
{
	const struct pci_id id = {.vendor = 1};
	const struct serial_wire sink = {count_sent, NULL, b};
	struct pci_bus_config config = {.ecam_base = ECAM, .io = {0x1000, 0xf000}, .mmio32 = {0xc0000000, 1 << 28},
					.intx = {wire, wire, wire, wire}, .reset = wire, .msi = count_msi, .msi_opaque = b};

	assert_int_equal(bus_new(&b->bus) | loop_new(&b->loop), 0);
	config.bus = b->bus;
	assert_int_equal(pci_bus_new(&b->pci, &config), 0);
	assert_int_equal(pci_device_new(b->pci, &id, "test", &b->device), 0);
	assert_int_equal(pci_add_bar(b->device, 0, PCI_BAR_MEM32, 0x1000, &reg_ops, b), 0);
	assert_int_equal(pci_add_msix(b->device, 1, 4, NULL), 0);
	assert_int_equal(serial_new(&b->serial, &wire, &sink) | rtc_new(&b->rtc, b->loop, &wire), 0);
	assert_int_equal(i8042_new(&b->i8042, &wire, &wire) | acpi_pm_new(&b->pm, &wire, &wire), 0);
	bus_add(b->bus, BUS_PIO, 0x3f8, 8, &serial_ops, b->serial, "serial");
	bus_add(b->bus, BUS_PIO, 0x70, 2, &rtc_ops, b->rtc, "rtc");
	bus_add(b->bus, BUS_PIO, 0x60, 1, &i8042_data_ops, b->i8042, "kbd");
	bus_add(b->bus, BUS_PIO, 0x64, 1, &i8042_command_ops, b->i8042, "kbd");
	bus_add(b->bus, BUS_PIO, 0x600, ACPI_PM_SIZE, &acpi_pm_ops, b->pm, "pm");
}

static void board_free(struct board *b)
{
	acpi_pm_free(b->pm);
	i8042_free(b->i8042);
	rtc_free(b->rtc);
	serial_free(b->serial);
	pci_bus_free(b->pci);
	bus_free(b->bus);
	loop_free(b->loop);
}

static uint32_t next(struct vcpu *v)
{
	v->random = v->random * 6364136223846793005ull + 1442695040888963407ull;
	return v->random >> 33;
}

static void touch(struct vcpu *v)
{
	static const uint16_t ports[] = {0x3f8, 0x3f9, 0x3fa, 0x3fc, 0x3fd, 0x70, 0x71, 0x60, 0x64, 0x600, 0x602, 0xcfc};
	static const uint64_t mmio[] = {ECAM + 0x8004, ECAM + 0x8010, ECAM + 0x8042, 0xc0000000, 0xc0001000, 0xc000100c};
	struct bus *bus = v->board->bus;
	uint64_t data = next(v);

	if (next(v) % 2)
		bus_access(bus, BUS_PIO, ports[next(v) % 12], 1, next(v) % 2, &data);
	else
		bus_access(bus, BUS_MMIO, mmio[next(v) % 6], next(v) % 2 ? 4 : 2, next(v) % 2, &data);
	data = 'x';
	bus_access(bus, BUS_PIO, 0x3f8, 1, true, &data);
}

static void one_done(struct board *b)
{
	if (atomic_fetch_sub(&b->n_running, 1) == 1)
		loop_stop(b->loop);
}

static void *vcpu_main(void *opaque)
{
	struct vcpu *v = opaque;

	for (unsigned k = 0; k < ROUNDS; k++)
		touch(v);
	one_done(v->board);
	return NULL;
}

static void *device_main(void *opaque)
{
	struct board *b = opaque;

	for (unsigned k = 0; k < ROUNDS; k++) {
		pci_msix_notify(b->device, k % 5);
		pci_set_intx(b->device, k % 3 == 0);
		if (serial_room(b->serial))
			serial_receive(b->serial, (const uint8_t *)"!", 1);
		acpi_pm_press_power_button(b->pm);
	}
	one_done(b);
	return NULL;
}

static void all_at_once(void **state)
{
	struct board b = {.n_running = N_VCPUS + 1};
	struct vcpu vcpu[N_VCPUS];
	pthread_t device;

	board_new(&b);
	assert_int_equal(thread_start(&device, "test", "device", device_main, &b), 0);
	for (unsigned k = 0; k < N_VCPUS; k++) {
		vcpu[k] = (struct vcpu){.board = &b, .random = k + 1};
		assert_int_equal(thread_start(&vcpu[k].thread, "test", "vcpu", vcpu_main, &vcpu[k]), 0);
	}
	assert_int_equal(loop_run(b.loop), 0);
	pthread_join(device, NULL);
	for (unsigned k = 0; k < N_VCPUS; k++)
		pthread_join(vcpu[k].thread, NULL);
	assert_true(b.n_sent > 0);
	board_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(all_at_once)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
