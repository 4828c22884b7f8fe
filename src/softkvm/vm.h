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

enum { VM_MAX_VCPUS = 64, VM_MAX_VCPU_ID = 255, VM_MAX_SLOTS = 509, ROUTING_MAX_GSI = 4096, MCE_BANKS = 32 };

struct engine; /* softkvm/engine.h */

/* What KVM_GET_STATS_FD tells of a VM. Under `lock`. */
struct vm_counts {
	uint64_t remote_tlb_flush; /* times that all vCPUs dropped soft TLBs */
};
struct irqchip;

struct vm {
	struct vm *next;		/* api/mapping.c's list */
	bool mapping_changes;		/* between softkvm_mapping_begin() and _end(), under `lock` */
	struct memory mem;		/* slots; writers hold `lock` and stop the vCPUs */
	const struct engine *engine;	/* interpreter, translator or verifier */
	void *engine_data;		/* the engine's own */
	struct vcpu *vcpu[VM_MAX_VCPUS];
	_Atomic unsigned vcpu_count;
	struct irqchip *irqchip;	/* irqchip/: PICs, I/O APIC, PIT, routing; NULL before KVM_CREATE_IRQCHIP */
	struct iobus *iobus;		/* api/: ioeventfds and coalesced MMIO zones */
	struct kvmclock *clock;		/* irqchip/kvmclock.c: VM-wide clock base */
	pthread_mutex_t lock;		/* ioctls that change the VM; taken before any lock of irqchip/ */
	pthread_mutex_t split_lock;	/* locked accesses that cross a page or line: one at a time */
	_Atomic int refs;		/* VM fd, vCPU fds */
	struct irqfds *irqfds;		/* api/irqfd.c, NULL until the first KVM_IRQFD */
	struct timers *timers;		/* irqchip/timer.c: the thread "guise-timer" */
	struct vm_counts own_counts, *counts; /* counts: own_counts, or in a file that the user reads */
	struct stats_file *stats;	/* api/stats.c: that file, or NULL */
	uint8_t *coalesced_ring;	/* api/iobus.c: one page, shared by all run areas */
	int coalesced_ring_fd;

	/* Set by ioctls under `lock` before the first vCPU runs, or constants of the VM. */
	uint32_t tsc_khz;		/* what new vCPUs get */
	uint32_t boot_cpu_id;
	uint32_t mmu_pages;		/* KVM_SET_NR_MMU_PAGES */
	uint32_t dirty_log_manual;	/* KVM_DIRTY_LOG_* of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	bool split_irqchip;		/* local APICs here, PIC and I/O APIC in user space */
	uint32_t split_gsi_count;	/* I/O APIC pins reserved for user space */
	bool x2apic_ids_32bit;		/* KVM_X2APIC_API_USE_32BIT_IDS */
	bool x2apic_no_broadcast_quirk; /* KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK */
	bool exception_payload;		/* KVM_CAP_EXCEPTION_PAYLOAD */
	bool triple_fault_event;	/* KVM_CAP_X86_TRIPLE_FAULT_EVENT */
	bool huge_pages;		/* softkvm_use_huge_pages() */
	uint32_t disabled_exits;	/* KVM_X86_DISABLE_EXITS_* */
	bool platform_info_hidden;	/* KVM_CAP_MSR_PLATFORM_INFO: not for the guest */
	uint32_t user_msr_reasons;	/* KVM_MSR_EXIT_REASON_*: leave for the user instead of #GP */
	uint32_t vcpu_id_limit;		/* KVM_CAP_MAX_VCPU_ID: vCPU ids are below; 0: not set */
	struct msr_filter *msr_filter;	/* KVM_X86_SET_MSR_FILTER or NULL; replaced while vCPUs stand still */
	uint64_t tss_addr, identity_map_addr;
};

#endif
