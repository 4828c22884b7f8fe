/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of machine/ share of a machine. */
#ifndef GUISE_MACHINE_INTERNAL_H
#define GUISE_MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/console.h"
#include "base/loop.h"
#include "bus/bus.h"
#include "bus/dma.h"
#include "bus/pci.h"
#include "devices/acpi_pm.h"
#include "devices/balloon.h"
#include "devices/blk.h"
#include "devices/fw_cfg.h"
#include "devices/i8042.h"
#include "devices/net.h"
#include "devices/rng.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/signals.h"
#include "devices/vconsole.h"
#include "devices/vhost.h"
#include "devices/vsock.h"
#include "kvm/kvm.h"
#include "machine/boot.h"
#include "machine/machine.h"
#include "memory/memory.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

struct vcpu_thread {
	struct machine *machine;
	struct kvm_vcpu *vcpu;
	unsigned index;
	pthread_t thread;
	bool is_started;
	uint64_t exits; /* its own thread's count */
};

struct machine_transport { /* one of the two */
	struct virtio_pci *pci;
	struct virtio_mmio *mmio;
};

enum { MACHINE_MSI_ROUTES = 256 };
struct msi_route { /* an eventfd that the engine turns into an interrupt: msi.c */
	bool is_used;
	int fd;
	uint64_t address;
	uint32_t data;
};

struct machine_blk {
	struct disk *disk;
	struct blk *blk;
	struct served *served; /* instead, if somebody else keeps the disk */
	struct machine_transport transport;
};

struct machine_nic {
	struct port *port;
	struct net *net;
	struct served *served; /* instead of both, if somebody else moves the packets */
	struct machine_transport transport;
};

struct machine {
	struct machine_config config;
	struct kvm *kvm;
	struct kvm_vm *vm;
	struct loop *loop; /* the main thread's */
	struct bus *bus;
	struct dma dma;
	struct pci_bus *pci;

	struct memory mem;
	uint8_t *ram;
	int ram_fd;
	uint64_t low_ram, high_ram; /* bytes */
	uint64_t mmio64_base;

	struct console *console;
	struct serial *serial;
	struct rtc *rtc;
	struct i8042 *i8042;
	struct acpi_pm *pm;
	struct fw_cfg *fw_cfg;
	struct signal_port debug_exit, pvpanic;

	struct machine_blk blk[MACHINE_MAX_DISKS];
	struct machine_nic nic[MACHINE_MAX_NETS];
	struct console *port_console[MACHINE_MAX_PORTS + 1]; /* the terminal's first */
	struct vconsole *vconsole;
	struct machine_transport vconsole_transport;
	struct balloon *balloon;
	struct balloon_socket *balloon_socket;
	struct machine_transport balloon_transport;
	struct vsock *vsock;
	struct served *served_vsock; /* instead, the host kernel's */
	struct machine_transport vsock_transport;
	struct rng *rng;
	struct machine_transport rng_transport;
	unsigned n_virtio_mmio;
	char *long_cmdline; /* with what the machine adds */

	pthread_mutex_t msi_lock;
	struct msi_route msi_route[MACHINE_MSI_ROUTES]; /* protected by msi_lock */

	struct vcpu_thread cpu[MACHINE_MAX_CPUS];

	/* The end: the first to claim it writes the result, then publishes it by is_ended. */
	atomic_flag end_claimed;
	_Atomic bool is_ended;
	_Atomic bool quit_asked;
	struct machine_result result;
};

/* machine.c: end the run; later callers change nothing. Any thread but not in a signal handler. */
void machine_end(struct machine *m, enum machine_end end, int status, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* machine.c: the wire to an interrupt of the interrupt controllers. */
struct irq_wire machine_gsi(struct machine *m, unsigned line);

void machine_quit_typed(void *machine); /* Ctrl-A X */

/* virtio.c: disks, networks, rng. Freed after the vCPUs, before the buses and memory. */
int virtio_devices_new(struct machine *m, char *error, size_t error_size);
void virtio_devices_free(struct machine *m);
void virtio_consoles_flush(struct machine *m); /* the loop is not running */

int virtio_put_on_bus(struct machine *m, enum machine_bus bus, struct virtio_device *device, struct machine_transport *t);
void virtio_take_off_bus(struct machine_transport *t);

/* vhost.c: devices that somebody else serves. */
int vhost_add_disk(struct machine *m, unsigned index, char *error, size_t error_size);
int vhost_add_net(struct machine *m, unsigned index, const uint8_t mac[6], char *error, size_t error_size);
int vhost_add_vsock(struct machine *m, char *error, size_t error_size);
void vhost_del(struct served *served, struct machine_transport *t); /* NULL: nothing */

/* msi.c: calls of drivers that the engine delivers. */
struct virtio_calls machine_calls(struct machine *m);

/* load.c: kernel, initrd, command line and tables into memory; registers of vCPU 0. */
int machine_load(struct machine *m, char *error, size_t error_size);

/* vcpu.c */
int vcpus_new(struct machine *m, char *error, size_t error_size);
int vcpus_start(struct machine *m); /* 0/-errno */
void vcpus_stop(struct machine *m); /* wait until all their threads have ended */
void vcpus_free(struct machine *m);

#endif
