/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * softkvm's outer face: what /dev/kvm's file descriptors do, as calls. Handles stand for the three kinds of file
 * descriptor (system, VM, vCPU). Requests and structs are those of <linux/kvm.h>; results are 0 or positive, or
 * -errno. Any thread may call; KVM_RUN blocks its thread. Documentation/virt/kvm/api.rst is the specification.
 */
#ifndef GUISE_SOFTKVM_API_H
#define GUISE_SOFTKVM_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct softkvm; /* a handle: system, VM or vCPU */

/* As open("/dev/kvm"). engine: "translate", "interpret", "verify" or NULL for the default. 0/-errno. */
int softkvm_open(const char *engine, struct softkvm **system);
/*
 * As ioctl(2). KVM_CREATE_VM and KVM_CREATE_VCPU return 0 and put the new handle in *child (the caller owns it);
 * other requests ignore child. arg is the ioctl's third argument: a pointer or an integer.
 */
long softkvm_ioctl(struct softkvm *handle, unsigned long request, uintptr_t arg, struct softkvm **child);
/* The vCPU's kvm_run area (KVM_GET_VCPU_MMAP_SIZE bytes), shared, owned by the handle. NULL for other handles. */
void *softkvm_run_area(struct softkvm *vcpu);
/*
 * For callers that must mmap the run area themselves (preload): the memfd behind its first two pages, and the one
 * behind its last page, the coalesced ring that all vCPUs of a VM share. -errno for other handles.
 */
int softkvm_run_fd(struct softkvm *vcpu);
int softkvm_ring_fd(struct softkvm *vm_or_vcpu);
bool softkvm_is_system(const struct softkvm *handle);
/*
 * A signal came to the calling thread: if it is inside KVM_RUN that returns -EINTR soon. True: the thread blocks the signal
 * outside of KVM_RUN (KVM_SET_SIGNAL_MASK let it through), so it must not be handled but stay pending.
 * For preload's wrapper of handlers. Async-signal-safe.
 */
bool softkvm_signal_arrived(int number);
/*
 * The calling thread is about to call KVM_RUN: a signal that softkvm_signal_arrived() tells of from now on ends it, though it may
 * not have begun yet.
 */
void softkvm_run_follows(void);
/* Make a running KVM_RUN return -EINTR soon, as a signal would. Any thread, async-signal-safe. */
void softkvm_kick(struct softkvm *vcpu);
/* Guest RAM was written behind the vCPUs' backs (DMA): decoded code there is dropped. Any thread. */
void softkvm_memory_written(struct softkvm *vm, uint64_t gpa, uint64_t len);
/*
 * The memory of this VM's slots to come is shared memory of the caller's own, and may come in huge pages when the guest first touches
 * it. Any thread.
 */
void softkvm_use_huge_pages(struct softkvm *vm);
/*
 * [addr, addr+len) is about to be unmapped, or to get fewer rights. True: it is the memory of some VM's slot, whose vCPUs
 * now stand still; make the change, then call softkvm_mapping_end() with the same range on the same thread. False: nobody's.
 * Any thread; no ioctl may be made in between.
 */
bool softkvm_mapping_begin(void *addr, size_t len);
void softkvm_mapping_end(void *addr, size_t len);
/* Other contents are mapped at [addr, addr+len) since just now, with all rights. Any thread. */
void softkvm_mapping_replaced(void *addr, size_t len);
/* From now on look whether what a new slot points to is mapped. */
void softkvm_mapping_watch(void);
/* As close(2). A VM lives until its last vCPU handle is closed too. */
void softkvm_close(struct softkvm *handle);

#endif
