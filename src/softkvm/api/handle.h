/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside api/: what a handle is, and the form of an ioctl's handler. Dispatch: ioctl.c.
 */
#ifndef GUISE_SOFTKVM_API_HANDLE_H
#define GUISE_SOFTKVM_API_HANDLE_H

#include <stdbool.h>

#include "softkvm/api/softkvm.h"
#include "softkvm/vm.h"

/* KVM_X86_GET_MCE_CAP_SUPPORTED: MCG_CTL_P, MCG_SER_P */
#define MCG_CAP_SUPPORTED (1ull << 8 | 1ull << 24)

/* What KVM_SET_GUEST_DEBUG takes. */
enum {
	GUESTDBG_OFFERED = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP |
			   KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP |
			   KVM_GUESTDBG_BLOCKIRQ
};

enum handle_kind { HANDLE_SYSTEM = 1, HANDLE_VM = 2, HANDLE_VCPU = 4 }; /* bits: a row may serve several */

struct softkvm {
	enum handle_kind kind;
	const struct engine *engine; /* system: what its VMs will run on */
	struct vm *vm;		     /* VM, vCPU; holds a reference */
	struct vcpu *vcpu;	     /* vCPU */
};

/* What only api/ knows of a vCPU. */
struct vcpu_api {
	pthread_mutex_t lock; /* one ioctl at a time; held for the whole of KVM_RUN. Before vm->lock. */
	int run_fd;	      /* memfd of the first two pages of the run area */
	struct run_mask *run_mask; /* KVM_SET_SIGNAL_MASK; NULL: none */
	uint32_t tsc_khz;
	struct stats_file *stats; /* KVM_GET_STATS_FD, or NULL */
	bool has_run;	      /* CPUID may not change any more */
};

enum { RUN_AREA_PAGES = 3, RUN_PIO_PAGE = 1, RUN_RING_PAGE = 2 };

/*
 * An ioctl's work. data: the argument's struct, already copied in (rows with ARG_IN) or to be filled (ARG_OUT), of
 * the size that the request's number says; arg: the raw argument. Locks are already held: see ioctl.c.
 */
typedef long ioctl_handler(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child);

struct ioctl_row {
	unsigned long request;
	const char *name;
	unsigned kinds;	 /* enum handle_kind bits */
	unsigned flags;
	ioctl_handler *handler;
};

enum {
	ARG_IN = 1,   /* copy _IOC_SIZE bytes in before */
	ARG_OUT = 2,  /* copy them out after success */
	LOCK_VM = 4,  /* hold vm->lock */
	ARG_ZERO = 8  /* the argument must be 0: -EINVAL */
};

/* One table per kind of file descriptor; each ends with an all-zero row. */
extern const struct ioctl_row system_ioctls[], vm_ioctls[], vcpu_ioctls[], state_ioctls[];

/* --- api/ internals, by file --- */
long check_extension(struct vm *vm, unsigned long cap);			/* capability.c; vm NULL: system */
int vm_create(const struct engine *engine, struct vm **vm);		/* vm.c */
void vm_get(struct vm *vm);
void vm_put(struct vm *vm);						/* frees with the last reference */
int vcpu_create(struct vm *vm, uint32_t id, struct vcpu **vcpu);	/* vcpu.c; vm->lock held */
void vcpu_destroy(struct vcpu *v);
ioctl_handler get_vcpu_stats_fd, get_vm_stats_fd;			/* stats.c */
struct stats_file;
void stats_file_free(struct stats_file *file);				/* NULL: nothing */
ioctl_handler set_msr_filter;						/* msr_filter.c */
struct msr_filter;
void msr_filter_free(struct msr_filter *filter);			/* NULL: nothing */
int sync_regs_in(struct softkvm *h);					/* sync_regs.c: before KVM_RUN; 0/-EINVAL */
void sync_regs_out(struct softkvm *h);					/* ... and after it */
long memory_region_set(struct vm *vm, const struct kvm_userspace_memory_region *region); /* slots.c */
void memory_regions_free(struct vm *vm); /* the vCPUs are gone */
long dirty_log_get(struct vm *vm, const struct kvm_dirty_log *log);
long dirty_log_clear(struct vm *vm, const struct kvm_clear_dirty_log *log);

#endif
