/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM_IRQFD: an eventfd that raises a GSI when somebody writes it, from any process.
 */
#ifndef GUISE_SOFTKVM_API_IRQFD_H
#define GUISE_SOFTKVM_API_IRQFD_H

#include <linux/kvm.h>
#include "softkvm/vm.h"

/* Assign or deassign (KVM_IRQFD_FLAG_DEASSIGN). vm->lock held. 0/-errno. */
int irqfd_change(struct vm *vm, const struct kvm_irqfd *args);
/* Stops the thread; after it nothing is raised any more. */
void irqfd_free(struct vm *vm);

#endif
