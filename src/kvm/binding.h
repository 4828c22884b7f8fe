/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to kvm/: the two ways to reach a KVM. A handle stands for one of the file descriptors of the contract
 * (system, VM, vCPU); everything typed in calls.c goes through these few functions.
 */
#ifndef GUISE_KVM_BINDING_H
#define GUISE_KVM_BINDING_H

#include <pthread.h>
#include <stdatomic.h>

#include "kvm/kvm.h"

struct softkvm;

union kvm_handle {
	int fd;		      /* kernel */
	struct softkvm *soft; /* softkvm */
};

struct kvm_binding {
	/* As ioctl(2): >= 0 or -errno. For KVM_CREATE_VM and KVM_CREATE_VCPU the new handle goes to *child. */
	long (*ioctl)(union kvm_handle handle, unsigned long request, void *arg, union kvm_handle *child);
	struct kvm_run *(*map_run_area)(union kvm_handle vcpu, size_t size); /* NULL: no memory */
	void (*unmap_run_area)(struct kvm_run *run, size_t size);
	int (*run)(struct kvm_vcpu *vcpu); /* KVM_RUN: 0 or -errno */
	void (*kick)(struct kvm_vcpu *vcpu); /* any thread */
	void (*memory_written)(union kvm_handle vm, uint64_t gpa, uint64_t len);
	void (*close)(union kvm_handle handle);
};

extern const struct kvm_binding kvm_binding_kernel, kvm_binding_soft;

struct kvm {
	const struct kvm_binding *binding;
	union kvm_handle handle;
	const char *name; /* "kvm", "interpret", ... */
	char why[160];
};

struct kvm_vm {
	struct kvm *kvm;
	union kvm_handle handle;
};

struct kvm_vcpu {
	const struct kvm_binding *binding;
	union kvm_handle handle;
	struct kvm_run *run;
	size_t run_size;
	_Atomic int tid;	  /* kernel binding: thread inside kvm_vcpu_run(), 0: none */
};

/* Open one binding. 0, or -errno with one line of what is missing in why. */
int kvm_kernel_open(union kvm_handle *handle, char *why, size_t why_size);
int kvm_soft_open(const char *engine, union kvm_handle *handle);

#endif
