/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net (virtio 1.3, 5.1) on a struct port. */
#ifndef GUISE_DEVICES_NET_H
#define GUISE_DEVICES_NET_H

#include "net/port.h"
#include "virtio/device.h"

struct net;

struct net_config {
	const char *owner; /* the VM's name, for the threads */
	uint8_t mac[6];
	uint16_t mtu;	   /* 68..65535; 0: the port's */
	unsigned n_pairs;  /* of receiveq and transmitq; 1..the port's n_queues */
};

/* port is the caller's and outlives the device. 0/-errno. */
int net_new(struct port *port, const struct dma *dma, const struct net_config *config, struct net **net);
void net_free(struct net *net);
/* The MTU that the driver reads, for a transport that is told one: 68 to the port's. 0; -EINVAL. */
int net_set_mtu(struct net *net, uint64_t mtu);
/* Tell the network where this address is: broadcast a RARP, from the first pair's thread, now or when it starts. Any thread. */
int net_announce(struct net *net, const uint8_t mac[6]);
struct virtio_device *net_device(struct net *net);

#endif
