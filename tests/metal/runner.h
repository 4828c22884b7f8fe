/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine that boot-sector images run on: see runner.c. */
#ifndef METAL_RUNNER_H
#define METAL_RUNNER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"

enum { RAM_SIZE = 32 << 20, MAX_CPUS = 8, TESTDEV_SIZE = 0x10000 };

struct metal {
	struct kvm *kvm;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu[MAX_CPUS];
	unsigned cpus;
	uint8_t *ram;
	uint32_t latch;
	uint8_t device_memory[TESTDEV_SIZE];
	pthread_mutex_t lock; /* latch, device_memory, console */
	atomic_int status;    /* -1: running */
	atomic_bool pause;    /* the vCPU threads are to end, the machine is not */
	bool expect_shutdown;
};

/* VM, RAM slot, interrupt controllers, vCPUs with CPUID in m->kvm; the image is not started. 0/-errno */
int metal_build(struct metal *m);
void metal_free(struct metal *m);
int metal_load(struct metal *m, const char *path);
/* vCPU 0 at 0:7c00 in real mode. */
int metal_start(struct metal *m);
/* Runs all vCPUs, each in a thread, until the image is done, or for slice_us microseconds if that is not 0.
 * m->status */
int metal_run(struct metal *m, unsigned slice_us);

/* Moves a stopped machine into a new VM of `to`, as a migration would. 0/-errno, *what says where it failed.
 */
int metal_move(struct metal *m, struct kvm *to, const char **what);

#endif
