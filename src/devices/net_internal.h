/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to net*.c: the device's state. */
#ifndef GUISE_DEVICES_NET_INTERNAL_H
#define GUISE_DEVICES_NET_INTERNAL_H

#include <pthread.h>

#include "base/loop.h"
#include "devices/net.h"

enum { NET_QUEUE_SIZE = 256, NET_MAX_PAIRS = 16, NET_SEGMENTS = 512, NET_MAX_MACS = 64, NET_BURST = 64 };

/* What the driver wants to see (5.1.6.5.1). Protected by net.filter_lock. */
struct net_filter {
	bool promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
	uint8_t mac[6];
	uint8_t table[NET_MAX_MACS][6]; /* unicast and multicast addresses alike */
	unsigned n_macs;
	bool table_overflow;		/* more than fit: let everything through */
	bool vlan_filter;		/* CTRL_VLAN negotiated */
	uint64_t vlans[4096 / 64];
};

/* A receiveq and a transmitq with the thread that serves both (the first also serves the control queue). */
struct net_pair {
	struct net *net;
	unsigned index;
	struct virtio_queue *rx, *tx;
	struct loop *loop;
	struct loop_source *port_source, *rx_source, *tx_source;
	pthread_t thread;
	unsigned users;		     /* started queues; the transport's thread's */
	_Atomic bool rx_on, tx_on;   /* the queues are started */
	bool rx_starved, tx_blocked; /* waiting for receive buffers; for the port to take more */
	struct iovec iov[NET_SEGMENTS];
};

struct net {
	struct virtio_device device;
	struct port *port;
	const char *owner;
	struct virtio_net_config config;
	unsigned n_pairs;
	_Atomic bool control_on;
	struct loop_source *control_source;
	_Atomic unsigned active_pairs; /* set by the control queue */
	_Atomic bool announce;	       /* a RARP for announce_mac (protected by filter_lock) is to be sent */
	uint8_t announce_mac[6];
	bool mergeable;
	uint32_t room;		       /* bytes of receive buffer that any packet fits in, with what is negotiated */
	pthread_mutex_t filter_lock;   /* leaf lock */
	struct net_filter filter;
	struct net_pair pair[NET_MAX_PAIRS];
};

void net_serve_receive(struct net_pair *pair);
void net_serve_transmit(struct net_pair *pair);
void net_serve_control(struct net *net, struct virtio_queue *queue);
/* Serve a control queue: fn obeys one command (class, command, data), false: refused. */
typedef bool net_control_fn(void *opaque, const uint8_t *command, size_t bytes);
void net_control_serve(struct virtio_queue *queue, net_control_fn *fn, void *opaque);
void net_filter_reset(struct net *net);
/* Does the driver want a frame that starts with these 18 bytes? */
bool net_filter_passes(struct net *net, const uint8_t *frame);
/* What the driver accepts in received packets, as PORT_*, from feature bits. */
unsigned net_guest_offloads(uint64_t features);

#endif
