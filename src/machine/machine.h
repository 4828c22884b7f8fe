/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PC around the vCPUs: machine_new() builds it and loads the kernel, machine_run() runs it to its end.
 */
#ifndef GUISE_MACHINE_MACHINE_H
#define GUISE_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"

enum { MACHINE_MAX_CPUS = 64 };

enum { MACHINE_MAX_DISKS = 16, MACHINE_MAX_NETS = 8, MACHINE_MAX_FORWARDS = 16, MACHINE_MAX_PORTS = 15 };

enum machine_bus { MACHINE_BUS_DEFAULT, MACHINE_BUS_PCI, MACHINE_BUS_MMIO }; /* where a virtio device is */

struct machine_disk { /* virtio-blk */
	const char *path, *serial; /* serial may be NULL */
	bool read_only;
	unsigned n_queues; /* 0: one per vCPU, at most 4 */
	enum machine_bus bus;
	bool vhost_user; /* path is a socket, of a back end that keeps the disk */
	bool server;	 /* vhost_user: listen there */
	bool packed;	 /* vhost_user: offer packed rings */
	bool access_platform; /* vhost_user: offer ACCESS_PLATFORM, which a disk of our own always does */
};

struct machine_net { /* virtio-net */
	enum { MACHINE_NET_USER, MACHINE_NET_TAP, MACHINE_NET_VHOST, MACHINE_NET_VHOST_USER } kind;
	const char *tap; /* interface, also of vhost */
	const char *socket; /* vhost_user */
	bool server, packed; /* vhost_user: listen there; vhost, vhost_user: offer packed rings */
	bool access_platform; /* vhost, vhost_user: offer ACCESS_PLATFORM, which a card of our own always does */
	const char *forward[MACHINE_MAX_FORWARDS];
	unsigned n_forwards;
	bool has_mac;
	uint8_t mac[6]; /* else derived from the machine's name */
	uint16_t mtu;	/* 0: 1500 */
	unsigned n_queues;
	enum machine_bus bus;
};

struct machine_port { /* a plain port of the virtio console */
	const char *name;
	const char *where; /* see base/console.h */
};

struct machine_balloon {
	bool present;
	uint64_t size;	    /* bytes to take from the guest at the start */
	const char *socket; /* path of a control socket, or NULL */
	enum machine_bus bus;
};

struct machine_vsock {
	uint32_t cid;	  /* 0: no such device */
	const char *path; /* see devices/vsock.h; NULL: the host kernel's (/dev/vhost-vsock) */
	enum machine_bus bus;
};

struct machine_config {
	const char *name; /* for threads, processes and messages */
	const char *kernel, *initrd, *cmdline; /* initrd and cmdline may be NULL */
	const char *console; /* see base/console.h */
	const char *mem_dir; /* hugetlbfs mount or other directory for guest RAM, or NULL for a memfd */
	uint64_t mem_size;   /* bytes */
	unsigned cpu_count;
	struct machine_disk disk[MACHINE_MAX_DISKS];
	unsigned n_disks;
	struct machine_net net[MACHINE_MAX_NETS];
	unsigned n_nets;
	const char *hvc; /* the virtio console's terminal; NULL: none */
	struct machine_port port[MACHINE_MAX_PORTS];
	unsigned n_ports; /* with none of both there is no virtio console */
	struct machine_balloon balloon;
	struct machine_vsock vsock;
	bool rng;
	const char *rng_source; /* a character device of the host, or NULL */
	uint64_t rng_rate;	/* bytes per second; 0: no limit */
	enum machine_bus virtio_bus; /* for devices that do not say */
	enum kvm_engine engine;
	bool populate;	 /* back all of guest RAM with pages before the start */
	bool debug_exit; /* isa-debug-exit at port F4h */
};

/* How a run ended. The values are the exit status of `guise run`; they are part of its interface. */
enum machine_end {
	MACHINE_POWER_OFF = 0,
	MACHINE_REFUSED = 1, /* never started */
	MACHINE_REBOOT = 10,
	MACHINE_PANIC = 11,
	MACHINE_TRIPLE_FAULT = 12,
	MACHINE_ENGINE_ERROR = 13, /* the engine gave up on the guest's state or on an instruction */
	MACHINE_QUIT = 14,	   /* Ctrl-A X, or a signal */
	MACHINE_DEBUG_EXIT = 15    /* the status is (value << 1 | 1) & FFh, as other VMMs have it */
};

struct machine_result {
	enum machine_end end;
	int status;	/* for exit() */
	char text[200]; /* one line: what happened */
};

struct machine;

/* 0/-errno; `error` says what is wrong in one line. Prints which engine it runs on. */
int machine_new(const struct machine_config *config, struct machine **machine, char *error, size_t error_size);
/* Run until the guest or somebody ends it. Call once, on the thread that called machine_new(). */
void machine_run(struct machine *machine, struct machine_result *result);
void machine_free(struct machine *machine);

/* End the run as if Ctrl-A X had been typed. Any thread, async-signal-safe. */
void machine_quit(struct machine *machine);
/* Press the power button. Any thread. */
void machine_press_power_button(struct machine *machine);

#endif
