/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs one boot-sector image on any engine behind kvm/kvm.h.
 *
 *	metal-run ENGINE[,ENGINE2] IMAGE.bin [CPUS]
 *
 * The machine is as small as can be: 32 MiB of RAM at 0, the contract's own interrupt controllers and PIT,
 *and the devices that the images use, which QEMU offers too (isa-debugcon, isa-debug-exit, pc-testdev):
 *console port 0xe9, exit port 0xf4, a four-byte latch at 0xe0, interrupt lines at 0x2000, 64 KiB of device
 *memory at 0xff000000. vCPU 0 starts at 0:7c00 in real mode, the others wait for SIPI. Each vCPU has a
 *thread.
 *
 * With two engines (which may be the same one) the machine moves every millisecond or so: all state is read
 *out of its VM and vCPUs and set in new ones of the other engine, as a snapshot or a migration does. The
 *image must not notice.
 *
 * Exit status: 0 the image passed, 1 it failed, 2 the machine could not run it, 77 the engine is not there.
 *An image whose name holds "shutdown" passes by a triple fault.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runner.h"

enum { MIN_SLICE_US = 20, MAX_SLICE_US = 1500, MAX_MOVES = 150 };

static int engine_by_name(const char *name)
{
	static const struct {
		const char *name;
		enum kvm_engine engine;
	} engines[] = {
	    {"kvm", KVM_ENGINE_KERNEL},		 {"interpret", KVM_ENGINE_INTERPRET},
	    {"translate", KVM_ENGINE_TRANSLATE}, {"verify", KVM_ENGINE_VERIFY},
	    {"auto", KVM_ENGINE_AUTO},
	};

	for (unsigned i = 0; i < sizeof(engines) / sizeof(engines[0]); i++)
		if (!strcmp(name, engines[i].name))
			return (int)engines[i].engine;
	return -1;
}

static int run_moving(struct metal *m, struct kvm *const kvm[2])
{
	unsigned moves = 0, seed = 1;
	int status = -1;

	while (status < 0) {
		const char *what = "";
		unsigned slice = MIN_SLICE_US + (unsigned)rand_r(&seed) % (MAX_SLICE_US - MIN_SLICE_US);
		int err;

		status = metal_run(m, moves < MAX_MOVES ? slice : 0);
		if (status >= 0)
			break;
		err = metal_move(m, kvm[++moves & 1], &what);
		if (err < 0) {
			printf("FAIL move %u: %s: %s\n", moves, what, strerror(-err));
			return 2;
		}
	}
	printf("%u moves\n", moves);
	return status;
}

/* The engines of "a" or "a,b": how many, or -1. */
static int open_engines(char *names, struct kvm *kvm[2])
{
	const char *why = "";
	int count = 0;

	for (char *name = strtok(names, ","); name && count < 2; name = strtok(NULL, ",")) {
		int engine = engine_by_name(name);

		if (engine < 0)
			return -1;
		if (kvm_open((enum kvm_engine)engine, &kvm[count], &why) < 0) {
			printf("SKIP: %s: %s\n", name, why);
			exit(77);
		}
		count++;
	}
	return count;
}

int main(int argc, char **argv)
{
	struct metal m = {
	    .lock = PTHREAD_MUTEX_INITIALIZER, .status = -1, .cpus = argc > 3 ? (unsigned)atoi(argv[3]) : 1};
	struct kvm *kvm[2] = {NULL, NULL};
	int engines = argc > 2 ? open_engines(argv[1], kvm) : -1;
	int err;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (engines < 1 || !m.cpus || m.cpus > MAX_CPUS) {
		fprintf(stderr,
			"usage: metal-run kvm|interpret|translate|verify[,ENGINE] IMAGE.bin [CPUS]\n");
		return 2;
	}
	m.kvm = kvm[0];
	m.expect_shutdown = strstr(argv[2], "shutdown") != NULL;
	m.ram =
	    mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	err = m.ram == MAP_FAILED ? -ENOMEM : metal_load(&m, argv[2]);
	if (err >= 0)
		err = metal_build(&m);
	if (err >= 0)
		err = metal_start(&m);
	if (err < 0) {
		printf("FAIL cannot build the machine for %s: %s\n", argv[2], strerror(-err));
		return 2;
	}
	err = engines == 2 ? run_moving(&m, kvm) : metal_run(&m, 0);
	metal_free(&m);
	for (int i = 0; i < engines; i++)
		kvm_close(kvm[i]);
	munmap(m.ram, RAM_SIZE);
	return err;
}
