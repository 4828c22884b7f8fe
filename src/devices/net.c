/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-net: queues, features and configuration. Each pair of queues has a thread with its own event loop: kicks of both
 * queues and the port's readiness. The data path is net_queue.c, the control queue net_control.c.
 *
 * What is offered follows from the port: offloads that it can take (send_offloads: the HOST_* bits) or give
 * (receive_offloads: the GUEST_* bits).
 */
#include "devices/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/thread.h"
#include "devices/net_internal.h"

static const struct {
	unsigned offload, host_bit, guest_bit;
} offload_bits[] = {
	{ PORT_CSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM },
	{ PORT_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4 },
	{ PORT_TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6 },
	{ PORT_ECN, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN },
	{ PORT_UFO, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO },
};
enum { N_OFFLOADS = sizeof(offload_bits) / sizeof(offload_bits[0]) };

unsigned net_guest_offloads(uint64_t features)
{
	unsigned offloads = 0;

	for (unsigned k = 0; k < N_OFFLOADS; k++)
		if (features >> offload_bits[k].guest_bit & 1)
			offloads |= offload_bits[k].offload;
	return offloads;
}

/* --- a pair's thread --- */

static void choose_port_events(struct net_pair *p)
{
	loop_set_events(p->port_source, (p->rx_starved ? 0 : EPOLLIN) | (p->tx_blocked ? EPOLLOUT : 0));
}

static void port_ready(void *opaque, uint32_t events)
{
	struct net_pair *p = opaque;

	if (events & EPOLLIN)
		net_serve_receive(p);
	if (events & EPOLLOUT)
		net_serve_transmit(p);
	choose_port_events(p);
}

static void receive_kicked(void *opaque, uint32_t events)
{
	struct net_pair *p = opaque;
	eventfd_t count;

	eventfd_read(p->rx->kick_fd, &count);
	net_serve_receive(p);
	choose_port_events(p);
}

static void transmit_kicked(void *opaque, uint32_t events)
{
	struct net_pair *p = opaque;
	eventfd_t count;

	eventfd_read(p->tx->kick_fd, &count);
	net_serve_transmit(p);
	choose_port_events(p);
}

static struct virtio_queue *control_queue(struct net *net)
{
	return &net->device.queue[net->device.n_queues - 1];
}

static void control_kicked(void *opaque, uint32_t events)
{
	struct net *net = opaque;
	eventfd_t count;

	eventfd_read(control_queue(net)->kick_fd, &count);
	net_serve_control(net, control_queue(net));
}

static void *serve_pair(void *opaque)
{
	struct net_pair *p = opaque;

	loop_run(p->loop);
	return NULL;
}

static void stop_pair(struct net_pair *p)
{
	if (p->running) {
		loop_stop(p->loop);
		pthread_join(p->thread, NULL);
	}
	loop_free(p->loop);
	p->loop = NULL;
	p->running = false;
}

static int start_pair(struct net *net, unsigned index)
{
	struct net_pair *p = &net->pair[index];
	struct loop_source *ignored;
	int err;

	p->net = net;
	p->index = index;
	p->rx = &net->device.queue[2 * index];
	p->tx = &net->device.queue[2 * index + 1];
	p->rx_starved = p->tx_blocked = false;
	if (!p->rx->enabled || !p->tx->enabled)
		return 0;
	err = loop_new(&p->loop);
	if (err)
		return err;
	if ((err = loop_add(p->loop, net->port->ops->receive_fd(net->port, index), EPOLLIN, port_ready, p, &p->port_source)) ||
	    (err = loop_add(p->loop, p->rx->kick_fd, EPOLLIN, receive_kicked, p, &ignored)) ||
	    (err = loop_add(p->loop, p->tx->kick_fd, EPOLLIN, transmit_kicked, p, &ignored)))
		return err;
	if (!index && control_queue(net)->enabled &&
	    (err = loop_add(p->loop, control_queue(net)->kick_fd, EPOLLIN, control_kicked, net, &ignored)))
		return err;
	err = thread_start(&p->thread, net->owner, "net", serve_pair, p);
	p->running = !err;
	return err;
}

static void stop(void *opaque)
{
	struct net *net = opaque;

	for (unsigned k = 0; k < net->n_pairs; k++)
		stop_pair(&net->pair[k]);
}

static int start(void *opaque)
{
	struct net *net = opaque;
	unsigned offloads = net_guest_offloads(net->device.accepted);

	net->mergeable = virtio_has(&net->device, VIRTIO_NET_F_MRG_RXBUF);
	net->room = offloads & ~(unsigned)PORT_CSUM ? PORT_MAX_PACKET : PORT_HEADER + 18u + net->config.mtu;
	if (net->port->ops->set_queues)
		net->port->ops->set_queues(net->port, 1);
	atomic_store(&net->active_pairs, 1);
	net_filter_reset(net);
	if (net->port->ops->set_receive_offloads)
		net->port->ops->set_receive_offloads(net->port, offloads);
	for (unsigned k = 0; k < net->n_pairs; k++) {
		int err = start_pair(net, k);

		if (err) {
			stop(net);
			return err;
		}
	}
	return 0;
}

/* --- configuration --- */

static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	memcpy(data, (uint8_t *)&((struct net *)opaque)->config + offset, size);
}

static const struct virtio_type net_type = {
	.name = "net",
	.id = 1,
	.config_size = offsetof(struct virtio_net_config, speed),
	.start = start,
	.stop = stop,
	.read_config = read_config,
};

static uint64_t features_of(const struct net *net)
{
	uint64_t f = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_MTU | 1ull << VIRTIO_NET_F_STATUS | 1ull << VIRTIO_NET_F_MRG_RXBUF |
		     1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_CTRL_RX | 1ull << VIRTIO_NET_F_CTRL_RX_EXTRA |
		     1ull << VIRTIO_NET_F_CTRL_VLAN | 1ull << VIRTIO_NET_F_CTRL_MAC_ADDR | 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE;

	if (net->n_pairs > 1)
		f |= 1ull << VIRTIO_NET_F_MQ;
	for (unsigned k = 0; k < N_OFFLOADS; k++) {
		f |= net->port->send_offloads & offload_bits[k].offload ? 1ull << offload_bits[k].host_bit : 0;
		f |= net->port->receive_offloads & offload_bits[k].offload ? 1ull << offload_bits[k].guest_bit : 0;
	}
	if (net->port->receive_offloads)
		f |= 1ull << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
	return f;
}

int net_new(struct port *port, const struct dma *dma, const struct net_config *config, struct net **out)
{
	uint16_t sizes[2 * NET_MAX_PAIRS + 1], mtu = config->mtu ? config->mtu : port->mtu;
	struct net *net;
	int err;

	if (!config->n_pairs || config->n_pairs > NET_MAX_PAIRS || config->n_pairs > port->n_queues || mtu < 68)
		return -EINVAL;
	net = calloc(1, sizeof(*net));
	if (!net)
		return -ENOMEM;
	net->port = port;
	net->owner = config->owner;
	net->n_pairs = config->n_pairs;
	net->config = (struct virtio_net_config){ .status = VIRTIO_NET_S_LINK_UP, .max_virtqueue_pairs = (uint16_t)config->n_pairs, .mtu = mtu };
	memcpy(net->config.mac, config->mac, 6);
	pthread_mutex_init(&net->filter_lock, NULL);
	for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
		sizes[k] = NET_QUEUE_SIZE;
	err = virtio_device_init(&net->device, &net_type, net, dma, features_of(net), sizes, 2 * config->n_pairs + 1);
	if (err) {
		free(net);
		return err;
	}
	*out = net;
	return 0;
}

void net_free(struct net *net)
{
	if (!net)
		return;
	virtio_device_deinit(&net->device);
	pthread_mutex_destroy(&net->filter_lock);
	free(net);
}

struct virtio_device *net_device(struct net *net)
{
	return &net->device;
}
