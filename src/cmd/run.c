/* SPDX-License-Identifier: BSD-2-Clause */
/* guise run: build a machine from the command line, run it, turn its end into an exit status. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "cmd/attach.h"
#include "cmd/commands.h"
#include "machine/machine.h"

static struct machine *signalled; /* what SIGINT, SIGTERM and SIGHUP end */

static const char *const engine_names[] = {
	[KVM_ENGINE_AUTO] = "auto",
	[KVM_ENGINE_KERNEL] = "kvm",
	[KVM_ENGINE_INTERPRET] = "interpret",
	[KVM_ENGINE_TRANSLATE] = "translate",
	[KVM_ENGINE_VERIFY] = "verify",
	NULL,
};

static const char *const bus_names[] = {"pci", "mmio", NULL};

static struct {
	struct machine_config machine;
	unsigned engine, virtio;
	struct option_list disks, nets, ports;
	const char *balloon, *vsock, *rng;
	bool no_rng, help, verbose;
} options = {
	.machine = {.name = "vm", .cmdline = "console=ttyS0", .mem_size = 512ull << 20, .cpu_count = 1},
};

static const struct option_def table[] = {
	{.name = "kernel", .kind = OPTION_STRING, .value = &options.machine.kernel, .arg = "FILE",
	 .help = "Linux bzImage, or ELF kernel (vmlinux, PVH)"},
	{.name = "initrd", .kind = OPTION_STRING, .value = &options.machine.initrd, .arg = "FILE",
	 .help = "initial RAM disk"},
	{.name = "append", .kind = OPTION_STRING, .value = &options.machine.cmdline, .arg = "TEXT",
	 .help = "kernel command line (console=ttyS0)"},
	{.name = "mem", .kind = OPTION_SIZE, .value = &options.machine.mem_size, .arg = "SIZE",
	 .help = "guest memory, such as 512M or 2G (512M)"},
	{.name = "cpus", .kind = OPTION_UINT, .value = &options.machine.cpu_count, .arg = "N", .min = 1,
	 .max = MACHINE_MAX_CPUS, .help = "virtual CPUs (1)"},
	{.name = "engine", .kind = OPTION_CHOICE, .value = &options.engine, .arg = "ENGINE", .choices = engine_names,
	 .help = "auto, kvm, interpret, translate or verify (auto)"},
	{.name = "name", .kind = OPTION_STRING, .value = &options.machine.name, .arg = "NAME",
	 .help = "the machine's name, for threads and messages (vm)"},
	{.name = "console", .kind = OPTION_STRING, .value = &options.machine.console, .arg = "WHERE",
	 .help = "serial port: stdio, pty, unix:PATH, file:PATH or none"},
	{.name = "hvc", .kind = OPTION_STRING, .value = &options.machine.hvc, .arg = "WHERE",
	 .help = "virtio console (console=hvc0), at such a place"},
	{.name = "port", .kind = OPTION_LIST, .value = &options.ports, .arg = "NAME,WHERE",
	 .help = "named virtio port, at such a place"},
	{.name = "mem-path", .kind = OPTION_STRING, .value = &options.machine.mem_dir, .arg = "DIR",
	 .help = "keep guest memory in a file there (hugetlbfs)"},
	{.name = "populate", .kind = OPTION_FLAG, .value = &options.machine.populate,
	 .help = "give the guest all its memory before the start"},
	{.name = "disk", .kind = OPTION_LIST, .value = &options.disks, .arg = "FILE[,KEY...]",
	 .help = "virtio disk: raw image, block device or vhost-user=PATH (more below)"},
	{.name = "net", .kind = OPTION_LIST, .value = &options.nets, .arg = "KIND[,KEY...]",
	 .help = "virtio network card: user, tap=NAME, vhost=NAME, vhost-user=PATH or none (user)"},
	{.name = "balloon", .kind = OPTION_STRING, .value = &options.balloon, .arg = "MIB[,socket=PATH]",
	 .help = "virtio balloon that takes MIB from the guest"},
	{.name = "vsock", .kind = OPTION_STRING, .value = &options.vsock, .arg = "CID,PATH|vhost",
	 .help = "virtio sockets, on the host Unix sockets at PATH"},
	{.name = "virtio", .kind = OPTION_CHOICE, .value = &options.virtio, .arg = "BUS", .choices = bus_names,
	 .help = "where virtio devices are: pci or mmio (pci)"},
	{.name = "rng", .kind = OPTION_STRING, .value = &options.rng, .arg = "SOURCE[,rate=N]",
	 .help = "virtio randomness: random, none or a device (random)"},
	{.name = "no-rng", .kind = OPTION_FLAG, .value = &options.no_rng, .help = "leave out the virtio random number device"},
	{.name = "debug-exit", .kind = OPTION_FLAG, .value = &options.machine.debug_exit,
	 .help = "let the guest end the run through port 0xf4"},
	{.name = "verbose", .kind = OPTION_FLAG, .value = &options.verbose, .help = "say more on standard error"},
	{.name = "help", .kind = OPTION_FLAG, .value = &options.help, .help = "this text"},
	{0},
};

static void print_help(void)
{
	puts("Usage: guise run --kernel FILE [OPTION...]\n\n"
	     "Runs a virtual machine until it powers off. Its serial port is the console;\n"
	     "on the terminal, Ctrl-A X ends the machine and Ctrl-A ? helps.\n");
	options_help(stdout, table);
	puts("\n--disk and --net may be given several times. Their keys:\n"
	     "  --disk FILE[,ro][,serial=TEXT][,queues=N][,bus=pci|mmio]\n"
	     "  --disk vhost-user=PATH[,server][,packed][,access-platform][,queues=N][,bus=...]\n"
	     "  --net user[,fwd=tcp|udp:[ADDRESS:]HOSTPORT:GUESTPORT]...[,mac=MAC][,mtu=N][,bus=...]\n"
	     "  --net tap=NAME[,queues=N][,mac=MAC][,mtu=N][,bus=...]\n"
	     "  --net vhost=NAME[,access-platform][,queues=N][,mac=MAC][,mtu=N][,bus=...]\n"
	     "  --net vhost-user=PATH[,server][,packed][,access-platform][,queues=N][,mac=MAC][,mtu=N][,bus=...]\n"
	     "vhost: a TAP served by the kernel (/dev/vhost-net). vhost-user: served by another program at\n"
	     "the Unix socket PATH, to which guise connects (server: where it listens); it may be restarted.");
	puts("\nExit status:\n"
	     "  0   the guest powered off\n"
	     "  1   the machine could not be started\n"
	     "  2   wrong command line\n"
	     "  10  the guest rebooted\n"
	     "  11  the guest's kernel panicked (as told by its pvpanic driver)\n"
	     "  12  triple fault\n"
	     "  13  the engine gave up\n"
	     "  14  ended from the console or by a signal\n"
	     "  (value << 1 | 1) after a write to the debug-exit port");
}

static void on_signal(int number)
{
	if (signalled)
		machine_quit(signalled);
}

/* A connection or a port of the guest costs a descriptor, and the usual soft limit is for programs that use select(). */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void catch_signals(struct machine *machine)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = machine ? on_signal : SIG_DFL};

	signalled = machine;
	for (unsigned k = 0; k < sizeof(signals) / sizeof(signals[0]); k++)
		sigaction(signals[k], &action, NULL);
}

static const char *check_options(int n_words, char **argv)
{
	static char text[128];

	if (n_words) {
		snprintf(text, sizeof(text), "unexpected word '%s'", argv[1]);
		return text;
	}
	if (!options.machine.kernel)
		return "--kernel is needed";
	if (options.machine.mem_size % 4096 || options.machine.mem_size < 4 << 20 || options.machine.mem_size > 1ull << 40)
		return "--mem must be from 4M to 1T";
	if (!options.machine.name[0] || strlen(options.machine.name) > 64 || strchr(options.machine.name, '/'))
		return "--name must be 1 to 64 characters without '/'";
	if (options.machine.hvc && options.machine.console && !strcmp(options.machine.hvc, "stdio") &&
	    !strcmp(options.machine.console, "stdio"))
		return "--hvc and --console cannot both be stdio";
	return NULL;
}

int cmd_run(int argc, char **argv)
{
	struct machine_result result;
	struct machine *machine;
	char error[400];
	const char *wrong;
	int n_words = options_parse(table, argc, argv, error, sizeof(error));

	if (n_words < 0)
		return usage_error("run", error);
	if (options.help) {
		print_help();
		return STATUS_OK;
	}
	wrong = check_options(n_words, argv);
	if (wrong)
		return usage_error("run", wrong);
	if (options.verbose)
		log_set_level(LOG_DEBUG);
	options.machine.engine = options.engine;
	if (!options.machine.console)
		options.machine.console = options.machine.hvc && !strcmp(options.machine.hvc, "stdio") ? "none" : "stdio";
	options.machine.rng = !options.no_rng;
	options.machine.virtio_bus = options.virtio ? MACHINE_BUS_MMIO : MACHINE_BUS_PCI;
	if (attach_disks(&options.machine, &options.disks, error, sizeof(error)) ||
	    attach_nets(&options.machine, &options.nets, error, sizeof(error)) ||
	    attach_ports(&options.machine, &options.ports, error, sizeof(error)) ||
	    attach_balloon(&options.machine, (char *)options.balloon, error, sizeof(error)) ||
	    attach_vsock(&options.machine, (char *)options.vsock, error, sizeof(error)) ||
	    attach_rng(&options.machine, (char *)options.rng, error, sizeof(error)))
		return usage_error("run", error);
	signal(SIGPIPE, SIG_IGN);
	raise_file_limit();
	if (machine_new(&options.machine, &machine, error, sizeof(error))) {
		log_error("%s", error);
		return MACHINE_REFUSED;
	}
	catch_signals(machine);
	machine_run(machine, &result);
	catch_signals(NULL);
	machine_free(machine);
	log_info("%s: %s", options.machine.name, result.text);
	return result.status;
}
