/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Device access by the instruction being executed (implemented in interpret/io.c). What no memory slot backs
 * goes, in this order, to the interrupt controllers, to ioeventfds and coalesced zones, and out of KVM_RUN to
 * the user. In the last case the instruction leaves, and when KVM_RUN comes back it is executed again from
 * its start with the accesses done so far answered from v->mmio[]. vCPU thread only.
 */
#ifndef GUISE_SOFTKVM_IO_H
#define GUISE_SOFTKVM_IO_H

#include "softkvm/vcpu.h"

/*
 * One access of 1..64 bytes within one page, to anything that is not RAM (writes: nor a writable slot), in
 * pieces of at most 8 bytes as KVM does. Returns when it is complete, or leaves (vcpu_leave).
 */
void mmio_access(struct vcpu *v, gpa_t gpa, void *data, unsigned size, bool is_write);

/* One port access of 1, 2 or 4 bytes after the permission check. Returns when complete, or leaves. */
void pio_access(struct vcpu *v, uint16_t port, void *data, unsigned size, bool is_write);

#endif
