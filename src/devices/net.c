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

enum { NET_F_GUEST_USO4 = 54, NET_F_GUEST_USO6 = 55, NET_F_HOST_USO = 56 }; /* 5.1.3; newer than the kernel's headers */

static const struct {
	unsigned offload, host_bit, guest_bit;
} offload_bits[] = {
	{ PORT_CSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM },
	{ PORT_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4 },
	{ PORT_TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6 },
	{ PORT_ECN, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN },
	{ PORT_UFO, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO },
	{ PORT_USO, NET_F_HOST_USO, NET_F_GUEST_USO4 },
	{ PORT_USO, NET_F_HOST_USO, NET_F_GUEST_USO6 },
};
enum { N_OFFLOADS = sizeof(offload_bits) / sizeof(offload_bits[0]) };

unsigned net_guest_offloads(uint64_t features)
{
	unsigned offloads = 0;

	for (unsigned k = 0; k < N_OFFLOADS; k++)
		if (features >> offload_bits[k].guest_bit & 1)
			offloads |= offload_bits[k].offload;
	/* A port has UDP segments of both IP versions or of none. */
	if (!(features >> NET_F_GUEST_USO4 & features >> NET_F_GUEST_USO6 & 1))
		offloads &= ~(unsigned)PORT_USO;
	return offloads;
}

/* --- a pair's thread --- */

static void choose_port_events(struct net_pair *p)
{
	bool rx = p->rx_on && !p->rx_starved, tx = p->tx_on && p->tx_blocked;

	if (!p->port_source) /* lost_port() */
		return;
	loop_set_events(p->port_source, (rx ? EPOLLIN : 0) | (tx ? EPOLLOUT : 0));
}

/* The port is gone for good (a TAP whose interface was deleted), which would be told for ever. The driver sees a link that is down. */
static void lost_port(struct net_pair *p)
{
	struct net *net = p->net;

	loop_del(p->port_source);
	p->port_source = NULL;
	port_fail(net->port, -ENODEV, "what it was attached to is gone");
	__atomic_and_fetch(&net->config.status, (uint16_t)~VIRTIO_NET_S_LINK_UP, __ATOMIC_RELAXED);
	virtio_config_changed(&net->device);
}

static void port_ready(void *opaque, uint32_t events)
{
	struct net_pair *p = opaque;

	if (events & EPOLLERR) {
		lost_port(p);
		return;
	}
	if (events & EPOLLIN && p->rx_on)
		net_serve_receive(p);
	if (events & EPOLLOUT && p->tx_on)
		net_serve_transmit(p);
	choose_port_events(p);
}

static void receive_kicked(void *opaque, uint32_t events)
{
	struct net_pair *p = opaque;
	eventfd_t count;

	eventfd_read(p->rx->kick_fd, &count);
	if (p->rx_on)
		net_serve_receive(p);
	choose_port_events(p);
}

static void transmit_kicked(void *opaque, uint32_t events)
{
	struct net_pair *p = opaque;
	eventfd_t count;

	eventfd_read(p->tx->kick_fd, &count);
	if (p->tx_on)
		net_serve_transmit(p);
	choose_port_events(p);
}

/* A driver that takes the control queue but not MQ knows one pair: its control queue is number 2 (virtio 1.3, 5.1.2). */
static bool has_one_pair(const struct net *net)
{
	return virtio_has(&net->device, VIRTIO_NET_F_CTRL_VQ) && !virtio_has(&net->device, VIRTIO_NET_F_MQ);
}

static unsigned control_index(const struct net *net)
{
	return has_one_pair(net) ? 2 : net->device.n_queues - 1;
}

static struct virtio_queue *control_queue(struct net *net)
{
	return &net->device.queue[control_index(net)];
}

static void control_kicked(void *opaque, uint32_t events)
{
	struct net *net = opaque;
	eventfd_t count;

	eventfd_read(control_queue(net)->kick_fd, &count);
	if (net->control_on)
		net_serve_control(net, control_queue(net));
}

static void *serve_pair(void *opaque)
{
	struct net_pair *p = opaque;

	loop_run(p->loop);
	return NULL;
}

/* A pair's thread runs while any of its queues is started. */
static void release_pair(struct net_pair *p)
{
	if (--p->users)
		return;
	loop_stop(p->loop);
	pthread_join(p->thread, NULL);
	loop_free(p->loop);
	p->loop = NULL;
}

static int hold_pair(struct net_pair *p)
{
	struct net *net = p->net;
	int err;

	if (p->users++)
		return 0;
	p->rx_starved = p->tx_blocked = false;
	err = loop_new(&p->loop);
	if (!err)
		err = loop_add(p->loop, net->port->ops->receive_fd(net->port, p->index), 0, port_ready, p, &p->port_source);
	if (!err)
		err = thread_start(&p->thread, net->owner, "net", serve_pair, p);
	if (err) {
		loop_free(p->loop);
		p->loop = NULL;
		p->users--;
	}
	return err;
}

/* Which queue: its pair, its switch, its source and its function. */
struct net_queue {
	struct net_pair *pair;
	_Atomic bool *on;
	struct loop_source **source;
	loop_fn *kicked;
	void *opaque;
};

static struct net_queue queue_of(struct net *net, unsigned index)
{
	struct net_pair *p = &net->pair[index / 2];

	if (index == control_index(net))
		return (struct net_queue){ &net->pair[0], &net->control_on, &net->control_source, control_kicked, net };
	if (index % 2)
		return (struct net_queue){ p, &p->tx_on, &p->tx_source, transmit_kicked, p };
	return (struct net_queue){ p, &p->rx_on, &p->rx_source, receive_kicked, p };
}

static void stop_queue(void *opaque, unsigned index)
{
	struct net_queue q = queue_of(opaque, index);

	if (index > control_index(opaque) || !*q.on)
		return;
	*q.on = false;
	loop_del(*q.source);
	loop_sync(q.pair->loop); /* a call that saw the switch on has ended */
	release_pair(q.pair);
}

static int start_queue(void *opaque, unsigned index)
{
	struct net *net = opaque;
	struct net_queue q = queue_of(net, index);
	int err;

	if (index > control_index(net))
		return 0; /* no queue of what was negotiated: it stays unserved */
	err = hold_pair(q.pair);
	if (err)
		return err;
	*q.on = true;
	err = loop_add(q.pair->loop, net->device.queue[index].kick_fd, EPOLLIN, q.kicked, q.opaque, q.source);
	if (err) {
		*q.on = false;
		loop_sync(q.pair->loop);
		release_pair(q.pair);
		return err;
	}
	eventfd_write(net->device.queue[index].kick_fd, 1); /* look at what is there already */
	return 0;
}

static void stop(void *opaque)
{
	struct net *net = opaque;

	for (unsigned k = 0; k < net->device.n_queues; k++)
		stop_queue(net, k);
}

static int start(void *opaque)
{
	struct net *net = opaque;
	unsigned offloads = net_guest_offloads(net->device.accepted), pairs;

	net->mergeable = virtio_has(&net->device, VIRTIO_NET_F_MRG_RXBUF);
	net->room = offloads & ~(unsigned)PORT_CSUM ? PORT_MAX_PACKET : PORT_HEADER + 18u + net->config.mtu;
	/* A driver without a control queue uses what it starts: then queues are as active as they are started and not idle. */
	pairs = virtio_has(&net->device, VIRTIO_NET_F_CTRL_VQ) ? 1 : net->n_pairs;
	if (net->port->ops->set_queues)
		net->port->ops->set_queues(net->port, 1);
	atomic_store(&net->active_pairs, pairs);
	net_filter_reset(net);
	if (net->port->ops->set_receive_offloads)
		net->port->ops->set_receive_offloads(net->port, offloads);
	for (unsigned k = 0; k < net->device.n_queues; k++) {
		int err = net->device.queue[k].enabled ? start_queue(net, k) : 0;

		if (err) {
			stop(net);
			return err;
		}
	}
	return 0;
}

/* The port spreads packets over the pairs up to the last that takes any. */
static void idle_changed(void *opaque, unsigned index)
{
	struct net *net = opaque;
	unsigned pairs = 1;

	for (unsigned k = 0; k < net->n_pairs; k++)
		if (net->pair[k].rx_on && !atomic_load(&net->pair[k].rx->idle))
			pairs = k + 1;
	if (net->port->ops->set_queues)
		net->port->ops->set_queues(net->port, pairs);
	eventfd_write(net->device.queue[index].kick_fd, 1);
}

/* --- configuration --- */

/* The status may change meanwhile, on a pair's thread. */
static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	const uint8_t *config = (const uint8_t *)&((struct net *)opaque)->config + offset;

	for (unsigned k = 0; k < size; k++)
		((uint8_t *)data)[k] = __atomic_load_n(&config[k], __ATOMIC_RELAXED);
}

static const struct virtio_type net_type = {
	.name = "net",
	.id = 1,
	.config_size = offsetof(struct virtio_net_config, speed),
	.start = start,
	.stop = stop,
	.read_config = read_config,
	.stop_queue = stop_queue,
	.start_queue = start_queue,
	.idle_changed = idle_changed,
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
	for (unsigned k = 0; k < net->n_pairs; k++) {
		net->pair[k].net = net;
		net->pair[k].index = k;
		net->pair[k].rx = &net->device.queue[2 * k];
		net->pair[k].tx = &net->device.queue[2 * k + 1];
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

int net_set_mtu(struct net *net, uint64_t mtu)
{
	if (mtu < 68 || mtu > 65535 || (net->port->mtu && mtu > net->port->mtu))
		return -EINVAL;
	net->config.mtu = (uint16_t)mtu;
	return 0;
}

int net_announce(struct net *net, const uint8_t mac[6])
{
	struct net_pair *p = &net->pair[0];

	pthread_mutex_lock(&net->filter_lock);
	memcpy(net->announce_mac, mac, 6);
	pthread_mutex_unlock(&net->filter_lock);
	atomic_store(&net->announce, true);
	if (p->tx_on)
		eventfd_write(p->tx->kick_fd, 1); /* its thread sends; if it is not started yet, when it is */
	return 0;
}

struct virtio_device *net_device(struct net *net)
{
	return &net->device;
}
