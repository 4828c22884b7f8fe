/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest writes that need no exit: ioeventfds (KVM_IOEVENTFD) and coalesced zones (KVM_REGISTER_COALESCED_MMIO).
 */
#ifndef GUISE_SOFTKVM_API_IOBUS_H
#define GUISE_SOFTKVM_API_IOBUS_H

#include <linux/kvm.h>
#include "softkvm/vm.h"

/* vCPU thread: true if the write is done with (eventfd signalled or put into the ring), false: it needs an exit. */
bool iobus_write(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data);

/* --- api/ only; vm->lock held --- */
int iobus_new(struct vm *vm);
void iobus_free(struct vm *vm);
int iobus_ioeventfd(struct vm *vm, const struct kvm_ioeventfd *args);
int iobus_coalesce(struct vm *vm, const struct kvm_coalesced_mmio_zone *zone, bool add);

#endif
