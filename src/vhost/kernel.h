/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queues served by the host kernel: /dev/vhost-net moves packets between a driver's rings and a TAP,
 * /dev/vhost-vsock joins the guest to the host's AF_VSOCK. Both need the kernel's modules; the session is
 * that of ops.h.
 */
#ifndef GUISE_VHOST_KERNEL_H
#define GUISE_VHOST_KERNEL_H

#include "net/port.h"
#include "vhost/ops.h"

/*
 * Network: receiveq and transmitq of pair p are rings 2p and 2p + 1, p < n_pairs, each pair with the TAP
 * queue of that number and a kernel thread. tap is a TAP port (port_tap_open) with at least n_pairs queues;
 * on success it belongs to the result and is closed with it. 0/-errno with a sentence in why.
 */
int vhost_net_open(struct port *tap, unsigned n_pairs, struct vhost **v, char *why, unsigned why_size);

/* Sockets: the guest's address is cid (3..2^32-2); rings 0 (receive) and 1 (transmit). 0/-errno with a
 * sentence in why. */
int vhost_vsock_open(uint64_t cid, struct vhost **v, char *why, unsigned why_size);

#endif
