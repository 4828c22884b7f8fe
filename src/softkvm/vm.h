/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * softkvm's virtual machine: what its vCPUs share. Created by KVM_CREATE_VM (api/vm.c).
 */
#ifndef GUISE_SOFTKVM_VM_H
#define GUISE_SOFTKVM_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "memory/memory.h"
#include "softkvm/vcpu.h"

enum { VM_MAX_VCPUS = 64, VM_MAX_SLOTS = 509 };

struct engine; /* softkvm/engine.h */
struct irqchip;

struct vm {
	struct memory mem;		/* slots; writers hold `lock` and stop the vCPUs */
	const struct engine *engine;	/* interpreter, translator or verifier */
	struct vcpu *vcpu[VM_MAX_VCPUS];
	_Atomic unsigned vcpu_count;
	struct irqchip *irqchip;	/* irqchip/: PICs, I/O APIC, PIT, routing; NULL before KVM_CREATE_IRQCHIP */
	struct iobus *iobus;		/* api/: ioeventfds and coalesced MMIO zones */
	struct kvmclock *clock;		/* irqchip/kvmclock.c: VM-wide clock base */
	pthread_mutex_t lock;		/* ioctls that change the VM; taken before any lock of irqchip/ */
	pthread_mutex_t split_lock;	/* locked accesses that cross a page or line: one at a time */
	_Atomic int refs;		/* VM fd, vCPU fds */
};

#endif
