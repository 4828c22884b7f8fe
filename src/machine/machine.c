/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine: built in the order of `steps`, taken down in the reverse. Each step is a function that makes one thing
 * and wires it up; devices know nothing of each other.
 *
 * Threads: one per vCPU, which serves its own device accesses, and the main thread, which runs the event loop:
 * console, timers, signals. Locks are the devices' own; the machine itself is not changed after machine_new().
 */
#include "machine/machine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "machine/internal.h"
#include "machine/layout.h"

static int fail(char *error, size_t size, int err, const char *what)
{
	snprintf(error, size, "%s: %s", what, strerror(-err));
	return err;
}

/* --- how it ends --- */

void machine_end(struct machine *m, enum machine_end end, int status, const char *format, ...)
{
	va_list args;

	if (atomic_flag_test_and_set(&m->end_claimed))
		return;
	m->result.end = end;
	m->result.status = status;
	va_start(args, format);
	vsnprintf(m->result.text, sizeof(m->result.text), format, args);
	va_end(args);
	atomic_store_explicit(&m->is_ended, true, memory_order_release); /* pairs with the vCPU threads' loads */
	loop_stop(m->loop);
}

static void reset_pulled(void *opaque, unsigned line, int level)
{
	if (level)
		machine_end(opaque, MACHINE_REBOOT, MACHINE_REBOOT, "the guest rebooted");
}

static void power_off_pulled(void *opaque, unsigned line, int level)
{
	if (level)
		machine_end(opaque, MACHINE_POWER_OFF, 0, "the guest powered off");
}

static void debug_exit_told(void *opaque, uint32_t value)
{
	machine_end(opaque, MACHINE_DEBUG_EXIT, (value << 1 | 1) & 0xff, "the guest ended the run with debug-exit value %u",
		    value);
}

static void panic_told(void *opaque, uint32_t events)
{
	if (events & PVPANIC_PANICKED)
		machine_end(opaque, MACHINE_PANIC, MACHINE_PANIC, "the guest's kernel panicked");
}

void machine_quit_typed(void *opaque)
{
	machine_end(opaque, MACHINE_QUIT, MACHINE_QUIT, "ended from the console");
}

void machine_quit(struct machine *m)
{
	atomic_store(&m->quit_asked, true);
	loop_stop(m->loop);
}

void machine_press_power_button(struct machine *m)
{
	acpi_pm_press_power_button(m->pm);
}

/* --- wires --- */

static void set_gsi(void *opaque, unsigned line, int level)
{
	struct machine *m = opaque;

	kvm_vm_irq_line(m->vm, line, level);
}

struct irq_wire machine_gsi(struct machine *m, unsigned line)
{
	return (struct irq_wire){set_gsi, m, line};
}

static struct irq_wire reset_wire(struct machine *m)
{
	return (struct irq_wire){reset_pulled, m, 0};
}

static void send_msi(void *opaque, uint64_t address, uint32_t data)
{
	struct machine *m = opaque;

	kvm_vm_signal_msi(m->vm, address, data);
}

static void memory_written(void *opaque, gpa_t gpa, uint64_t len)
{
	struct machine *m = opaque;

	kvm_vm_memory_written(m->vm, gpa, len);
}

/* --- the parts, in order --- */

static int make_vm(struct machine *m, char *error, size_t size)
{
	const char *why;
	uint64_t identity_map = KVM_IDENTITY_MAP;
	int err = kvm_open(m->config.engine, &m->kvm, &why);

	if (err) {
		snprintf(error, size, "no engine: %s", why);
		return err;
	}
	log_info("%s: engine %s", m->config.name, why);
	err = kvm_vm_new(m->kvm, &m->vm);
	if (!err && kvm_check_extension(m->kvm, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0)
		err = kvm_vm_ioctl(m->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	if (!err && kvm_check_extension(m->kvm, KVM_CAP_SET_TSS_ADDR) > 0)
		err = kvm_vm_ioctl(m->vm, KVM_SET_TSS_ADDR, (void *)KVM_TSS);
	if (!err)
		err = kvm_vm_create_irqchip(m->vm);
	if (!err)
		err = kvm_vm_create_pit(m->vm);
	return err ? fail(error, size, err, "making the VM") : 0;
}

static int add_ram(struct machine *m, uint32_t id, uint64_t gpa, uint64_t size, uint64_t offset)
{
	struct mem_slot slot = {.id = id, .gpa = gpa, .size = size, .hva = m->ram + offset, .fd = m->ram_fd,
				.fd_offset = offset};
	int err;

	if (!size)
		return 0;
	err = memory_set_slot(&m->mem, &slot);
	return err ? err : kvm_vm_set_memory(m->vm, id, 0, gpa, size, slot.hva);
}

static int make_memory(struct machine *m, char *error, size_t size)
{
	uint64_t total = m->config.mem_size;
	char name[64];
	int err;

	snprintf(name, sizeof(name), "guise-%s-ram", m->config.name);
	err = ram_alloc(name, total, m->config.mem_dir, m->config.populate, &m->ram, &m->ram_fd);
	if (err) {
		snprintf(error, size, "%llu MiB of guest memory: %s", (unsigned long long)total >> 20, strerror(-err));
		return err;
	}
	m->low_ram = total < LOW_RAM_END ? total : LOW_RAM_END;
	m->high_ram = total - m->low_ram;
	m->mmio64_base = align_up(HIGH_RAM_BASE + m->high_ram, PCI_MMIO64_SIZE);
	m->dma = (struct dma){&m->mem, memory_written, m};
	err = add_ram(m, 0, 0, m->low_ram, 0);
	if (!err)
		err = add_ram(m, 1, HIGH_RAM_BASE, m->high_ram, m->low_ram);
	return err ? fail(error, size, err, "memory slots") : 0;
}

static int make_bus(struct machine *m, char *error, size_t size)
{
	struct pci_bus_config config = {
		.ecam_base = PCI_ECAM_BASE,
		.io = {PCI_IO_BASE, PCI_IO_SIZE},
		.mmio32 = {PCI_MMIO32_BASE, PCI_MMIO32_SIZE},
		.mmio64 = {m->mmio64_base, PCI_MMIO64_SIZE},
		.reset = reset_wire(m),
		.msi = send_msi,
		.msi_opaque = m,
	};
	int err = bus_new(&m->bus);

	config.bus = m->bus;
	for (unsigned pin = 0; pin < PCI_INTX; pin++)
		config.intx[pin] = machine_gsi(m, IRQ_PCI + pin);
	if (!err)
		err = pci_bus_new(&m->pci, &config);
	return err ? fail(error, size, err, "the buses") : 0;
}

static void serial_transmit(void *opaque, const void *bytes, size_t count)
{
	console_write(((struct machine *)opaque)->console, bytes, count);
}

static void serial_has_room(void *opaque)
{
	console_resume_input(((struct machine *)opaque)->console);
}

static size_t console_room(void *opaque)
{
	return serial_room(((struct machine *)opaque)->serial);
}

static void console_receive(void *opaque, const uint8_t *bytes, size_t count)
{
	serial_receive(((struct machine *)opaque)->serial, bytes, count);
}

static int make_serial(struct machine *m, char *error, size_t size)
{
	struct serial_wire wire = {serial_transmit, serial_has_room, m};
	struct console_peer peer = {.room = console_room, .receive = console_receive, .quit = machine_quit_typed, .opaque = m};
	struct irq_wire irq = machine_gsi(m, IRQ_COM1);
	int err = console_open(m->config.console, m->loop, &m->console, error, size);

	if (err)
		return err;
	err = serial_new(&m->serial, &irq, &wire);
	if (!err)
		err = bus_add(m->bus, BUS_PIO, PORT_COM1, 8, &serial_ops, m->serial, "serial");
	if (err)
		return fail(error, size, err, "serial port");
	console_set_peer(m->console, &peer);
	return 0;
}

static int make_rtc(struct machine *m, char *error, size_t size)
{
	struct irq_wire irq = machine_gsi(m, IRQ_RTC);
	int err = rtc_new(&m->rtc, m->loop, &irq);

	if (!err)
		err = bus_add(m->bus, BUS_PIO, PORT_RTC, 2, &rtc_ops, m->rtc, "rtc");
	if (err)
		return fail(error, size, err, "clock");
	rtc_set_memory(m->rtc, m->low_ram, m->high_ram);
	return 0;
}

static int make_i8042(struct machine *m, char *error, size_t size)
{
	struct irq_wire irq = machine_gsi(m, IRQ_KEYBOARD), reset = reset_wire(m);
	int err = i8042_new(&m->i8042, &irq, &reset);

	/* Its two ports, without the port between them that belongs to the timer (61h). */
	if (!err)
		err = bus_add(m->bus, BUS_PIO, PORT_I8042, 1, &i8042_data_ops, m->i8042, "i8042");
	if (!err)
		err = bus_add(m->bus, BUS_PIO, PORT_I8042 + 4, 1, &i8042_command_ops, m->i8042, "i8042");
	if (!err)
		err = bus_add(m->bus, BUS_PIO, PORT_A20, 1, &i8042_port92_ops, m->i8042, "port92");
	return err ? fail(error, size, err, "keyboard controller") : 0;
}

static int make_acpi_pm(struct machine *m, char *error, size_t size)
{
	struct irq_wire sci = machine_gsi(m, IRQ_SCI), off = {power_off_pulled, m, 0};
	int err = acpi_pm_new(&m->pm, &sci, &off);

	if (!err)
		err = bus_add(m->bus, BUS_PIO, PORT_ACPI_PM, ACPI_PM_SIZE, &acpi_pm_ops, m->pm, "acpi-pm");
	return err ? fail(error, size, err, "power management") : 0;
}

static int make_fw_cfg(struct machine *m, char *error, size_t size)
{
	uint16_t cpu_count = m->config.cpu_count;
	int err = fw_cfg_new(&m->fw_cfg, &m->dma);

	if (!err)
		err = fw_cfg_add_item(m->fw_cfg, FW_CFG_CPU_COUNT, &cpu_count, sizeof(cpu_count));
	if (!err)
		err = bus_add(m->bus, BUS_PIO, FW_CFG_BASE, FW_CFG_SIZE, &fw_cfg_ops, m->fw_cfg, "fw-cfg");
	return err ? fail(error, size, err, "fw_cfg") : 0;
}

static int make_signal_ports(struct machine *m, char *error, size_t size)
{
	int err;

	m->pvpanic = (struct signal_port){panic_told, m};
	m->debug_exit = (struct signal_port){debug_exit_told, m};
	err = bus_add(m->bus, BUS_PIO, PORT_PVPANIC, 1, &pvpanic_ops, &m->pvpanic, "pvpanic");
	if (!err && m->config.debug_exit)
		err = bus_add(m->bus, BUS_PIO, PORT_DEBUG_EXIT, 4, &debug_exit_ops, &m->debug_exit, "debug-exit");
	return err ? fail(error, size, err, "exit ports") : 0;
}

static int make_loop(struct machine *m, char *error, size_t size)
{
	int err = loop_new(&m->loop);

	return err ? fail(error, size, err, "event loop") : 0;
}

static int (*const steps[])(struct machine *m, char *error, size_t size) = {
	make_loop,
	make_vm,	   /* the engine, interrupt controllers, timer */
	make_memory,	   /* RAM below and above the hole */
	make_bus,	   /* ports, MMIO, PCI with its host bridge */
	make_serial,	   /* and the console behind it */
	make_rtc,
	make_i8042,
	make_acpi_pm,
	make_fw_cfg,
	make_signal_ports, /* pvpanic, isa-debug-exit */
	virtio_devices_new, /* disks, networks, rng */
	vcpus_new,
	machine_load,	   /* ACPI tables, kernel, initrd, registers of the boot vCPU */
};

int machine_new(const struct machine_config *config, struct machine **machine, char *error, size_t error_size)
{
	struct machine *m = calloc(1, sizeof(*m));
	int err = m ? 0 : -ENOMEM;

	error[0] = 0;
	if (err)
		return fail(error, error_size, err, "machine");
	m->config = *config;
	m->ram_fd = -1;
	memory_init(&m->mem);
	pthread_mutex_init(&m->msi_lock, NULL);
	for (unsigned k = 0; !err && k < sizeof(steps) / sizeof(steps[0]); k++)
		err = steps[k](m, error, error_size);
	if (err) {
		machine_free(m);
		return err;
	}
	*machine = m;
	return 0;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	vcpus_free(m);
	virtio_devices_free(m);
	fw_cfg_free(m->fw_cfg);
	acpi_pm_free(m->pm);
	i8042_free(m->i8042);
	rtc_free(m->rtc);
	console_close(m->console);
	serial_free(m->serial);
	pci_bus_free(m->pci);
	bus_free(m->bus);
	kvm_vm_free(m->vm);
	kvm_close(m->kvm);
	memory_deinit(&m->mem);
	ram_free(m->ram, m->config.mem_size, m->ram_fd);
	loop_free(m->loop);
	free(m->long_cmdline);
	pthread_mutex_destroy(&m->msi_lock);
	free(m);
}

void machine_run(struct machine *m, struct machine_result *result)
{
	int err = vcpus_start(m);

	if (!err)
		err = loop_run(m->loop);
	if (err)
		machine_end(m, MACHINE_REFUSED, MACHINE_REFUSED, "cannot run: %s", strerror(-err));
	if (atomic_load(&m->quit_asked))
		machine_end(m, MACHINE_QUIT, MACHINE_QUIT, "ended by a signal");
	vcpus_stop(m);
	console_flush(m->console);
	virtio_consoles_flush(m);
	*result = m->result;
}
