/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A network card whose packets a vhost-user back end or the kernel moves (virtio 1.3, 5.1). The queue pairs
 * are handed over, the control queue and the configuration space stay here: MAC address, MTU, link state,
 * announcements, the number of active pairs.
 *
 * Without a back end the card has no carrier. When one comes again, a driver that can announce itself is
 * asked to; for others the back end is (RARP). Receive filtering (CTRL_RX) is accepted and left to the
 * driver, which gets everything: the back end has no message for it.
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "devices/net_internal.h"
#include "devices/vhost_internal.h"

struct vhost_net {
	struct served served;
	pthread_mutex_t lock;		 /* leaf lock */
	struct virtio_net_config config; /* protected by lock */
	unsigned n_pairs;
	struct loop_source *control; /* NULL: the control queue is not in use */
};

/* For the back end to have or not. */
static const uint64_t net_features =
	1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_MTU |
	1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_ECN |
	1ull << VIRTIO_NET_F_GUEST_UFO | 1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_HOST_TSO6 |
	1ull << VIRTIO_NET_F_HOST_ECN | 1ull << VIRTIO_NET_F_HOST_UFO | 1ull << VIRTIO_NET_F_MRG_RXBUF |
	1ull << VIRTIO_NET_F_MQ | 1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_CTRL_RX |
	1ull << VIRTIO_NET_F_CTRL_MAC_ADDR | 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE;

/* Ours, whatever the back end says. */
static const uint64_t own_features = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS |
				     1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_CTRL_RX |
				     1ull << VIRTIO_NET_F_CTRL_MAC_ADDR | 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE;

static struct vhost_net *net_of(void *opaque)
{
	return opaque;
}

/* --- the control queue --- */

static void set_mac(struct vhost_net *net, const uint8_t *mac)
{
	pthread_mutex_lock(&net->lock);
	memcpy(net->config.mac, mac, 6);
	pthread_mutex_unlock(&net->lock);
}

static void change_status(struct vhost_net *net, uint16_t set, uint16_t clear)
{
	pthread_mutex_lock(&net->lock);
	net->config.status = (uint16_t)((net->config.status & ~clear) | set);
	pthread_mutex_unlock(&net->lock);
}

static bool set_pairs(struct vhost_net *net, uint8_t command, const uint8_t *data, size_t bytes)
{
	unsigned pairs = bytes == 2 ? data[0] | data[1] << 8 : 0;

	if (command != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !pairs || pairs > net->n_pairs ||
	    !virtio_has(&net->served.device, VIRTIO_NET_F_MQ))
		return false;
	for (unsigned k = 0; k < 2 * net->n_pairs; k++)
		if (net->served.device.queue[k].enabled &&
		    vhost_link_enable(net->served.link, k, k < 2 * pairs) == -EIO)
			return false;
	return true;
}

static bool obey(void *opaque, const uint8_t *command, size_t bytes)
{
	struct vhost_net *net = opaque;

	if (bytes < 2)
		return false;
	switch (command[0]) {
	case VIRTIO_NET_CTRL_RX:
		return command[1] <= VIRTIO_NET_CTRL_RX_ALLMULTI && bytes == 3;
	case VIRTIO_NET_CTRL_MAC:
		if (command[1] == VIRTIO_NET_CTRL_MAC_ADDR_SET && bytes == 8)
			set_mac(net, command + 2);
		return command[1] == VIRTIO_NET_CTRL_MAC_TABLE_SET || bytes == 8;
	case VIRTIO_NET_CTRL_MQ:
		return set_pairs(net, command[1], command + 2, bytes - 2);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		change_status(net, 0, VIRTIO_NET_S_ANNOUNCE);
		return command[1] == VIRTIO_NET_CTRL_ANNOUNCE_ACK;
	}
	return false;
}

static void control_kicked(void *opaque, uint32_t events)
{
	struct virtio_queue *q = opaque;
	eventfd_t count;

	eventfd_read(q->kick_fd, &count);
	net_control_serve(q, obey, q->device->opaque);
}

/* Behind the last pair that is there: with MQ all of them, else one (5.1.2). */
static unsigned control_index(const struct vhost_net *net)
{
	return virtio_has(&net->served.device, VIRTIO_NET_F_MQ) ? 2 * net->n_pairs : 2;
}

/* --- start and stop --- */

static void stop(void *opaque)
{
	struct vhost_net *net = net_of(opaque);

	loop_del(net->control);
	net->control = NULL;
	loop_sync(net->served.loop); /* then the control queue is left alone */
	served_halt(&net->served);
}

static int start(void *opaque)
{
	struct vhost_net *net = net_of(opaque);
	struct served *s = &net->served;
	unsigned control = control_index(net);
	int err;

	for (unsigned k = 0; k < s->device.n_queues; k++)
		s->is_ours[k] = k >= control;
	for (unsigned k = 2; k < 2 * net->n_pairs; k++) /* until the driver says how many pairs it uses */
		vhost_link_enable(s->link, k, false);
	err = served_start(s);
	if (!err && s->device.queue[control].enabled) {
		struct virtio_queue *q = &s->device.queue[control];

		err = loop_add(s->loop, q->kick_fd, EPOLLIN, control_kicked, q, &net->control);
		if (err)
			served_halt(s);
	}
	return err;
}

/* --- configuration and link --- */

static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	struct vhost_net *net = net_of(opaque);

	pthread_mutex_lock(&net->lock);
	memcpy(data, (uint8_t *)&net->config + offset, size);
	pthread_mutex_unlock(&net->lock);
}

static const struct virtio_type net_type = {
	.name = "vhost-net",
	.id = 1,
	.config_size = offsetof(struct virtio_net_config, speed),
	.start = start,
	.stop = stop,
	.read_config = read_config,
	.stop_queue = served_halt_queue,
	.start_queue = served_start_queue,
	.watch_calls = served_watch_calls,
};

static void tell(struct vhost_net *net)
{
	if (served_has_driver(&net->served))
		virtio_config_changed(&net->served.device);
}

/* Who tells the network, when a back end is there again: the driver, if it can; the back end; nobody without
 * a driver. */
enum announcer { NOBODY, THE_DRIVER, THE_BACK_END };

static enum announcer announcer_of(struct vhost_net *net)
{
	struct virtio_device *d = &net->served.device;
	enum announcer who = NOBODY;

	if (!served_has_driver(&net->served)) /* else a transport is there, and what the device was made of */
		return NOBODY;
	pthread_mutex_lock(&d->lock);
	if (d->started)
		who = virtio_has(d, VIRTIO_NET_F_GUEST_ANNOUNCE) ? THE_DRIVER : THE_BACK_END;
	pthread_mutex_unlock(&d->lock);
	return who;
}

static void announce_by_back_end(struct vhost_net *net)
{
	uint8_t mac[6];

	pthread_mutex_lock(&net->lock);
	memcpy(mac, net->config.mac, 6);
	pthread_mutex_unlock(&net->lock);
	vhost_link_announce(net->served.link, mac);
}

static void connected(void *opaque)
{
	struct vhost_net *net = net_of(opaque);
	enum announcer who = NOBODY;
	struct vhost_link_info info;

	vhost_link_info(net->served.link, &info);
	if (info.connections > 1)
		who = announcer_of(net);
	change_status(net, VIRTIO_NET_S_LINK_UP | (who == THE_DRIVER ? VIRTIO_NET_S_ANNOUNCE : 0), 0);
	tell(net);
	if (who == THE_BACK_END)
		announce_by_back_end(net);
}

static void disconnected(void *opaque)
{
	struct vhost_net *net = net_of(opaque);

	change_status(net, 0, VIRTIO_NET_S_LINK_UP);
	tell(net);
}

static const struct vhost_link_events events = {.connected = connected, .disconnected = disconnected};

static void net_free_served(struct served *s)
{
	pthread_mutex_destroy(&((struct vhost_net *)s)->lock);
	free(s);
}

/* --- set-up --- */

static int check_pairs(struct vhost_net *net, const struct served_config *config, char *why,
		       unsigned why_size)
{
	struct vhost_link_info info;

	vhost_link_info(net->served.link, &info);
	if (2 * net->n_pairs > info.max_rings && info.max_rings >= 2)
		snprintf(why, why_size, "%u queue pairs: the back end serves %u", net->n_pairs,
			 info.max_rings / 2);
	else if (net->n_pairs > 1 && !(info.features >> VIRTIO_NET_F_MQ & 1))
		snprintf(why, why_size, "%u queue pairs: the back end does not offer VIRTIO_NET_F_MQ",
			 net->n_pairs);
	else
		return 0;
	return -EINVAL;
}

static int init(struct vhost_net *net, const struct served_config *config, const struct dma *dma)
{
	uint16_t sizes[2 * NET_MAX_PAIRS + 1];
	uint64_t own = own_features | (config->mtu ? 1ull << VIRTIO_NET_F_MTU : 0);
	int err;

	for (unsigned k = 0; k < 2 * net->n_pairs + 1; k++)
		sizes[k] = SERVED_QUEUE_SIZE;
	err = served_init(&net->served, &net_type, dma, own, sizes, 2 * net->n_pairs + 1);
	if (err)
		return err;
	if (!config->mtu)
		net->served.device.offered &= ~(1ull << VIRTIO_NET_F_MTU);
	if (net->n_pairs == 1)
		net->served.device.offered &= ~(1ull << VIRTIO_NET_F_MQ);
	return 0;
}

int vhost_net_new(const struct served_config *config, const struct dma *dma, struct served **served,
		  char *why, unsigned why_size)
{
	struct vhost_link_config link = {
		.device_id = 1,
		.features = net_features | served_ring_features(config),
		.n_rings = 2 * config->n_queues + 1,
		.mtu = config->mtu,
		.events = &events,
	};
	struct vhost_net *net = calloc(1, sizeof(*net));
	int err = !net ? -ENOMEM : !config->n_queues || config->n_queues > NET_MAX_PAIRS ? -EINVAL : 0;

	if (err) {
		snprintf(why, why_size, "%u queue pairs: %s", config->n_queues, strerror(-err));
		served_refuse(config);
		free(net);
		return err;
	}
	net->served.free = net_free_served;
	pthread_mutex_init(&net->lock, NULL);
	net->n_pairs = config->n_queues;
	net->config = (struct virtio_net_config){.max_virtqueue_pairs = (uint16_t)config->n_queues,
						 .mtu = config->mtu};
	net->config.status = config->kernel ? VIRTIO_NET_S_LINK_UP : 0;
	memcpy(net->config.mac, config->mac, 6);
	err = served_connect(&net->served, config, &link, why, why_size);
	if (!err)
		err = check_pairs(net, config, why, why_size);
	if (!err && (err = init(net, config, dma)))
		snprintf(why, why_size, "%s", strerror(-err));
	if (err) {
		served_free(&net->served);
		return err;
	}
	*served = &net->served;
	return 0;
}
