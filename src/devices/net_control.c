/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-net's control queue (virtio 1.3, 5.1.6.5): receive filtering by mode, address and VLAN; the number of active
 * queue pairs; receive offloads; announce. A command is copied out of guest memory once, then parsed.
 */
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "devices/net_internal.h"

enum { MAX_COMMAND = 2 + 2 * (4 + 6 * 512), CONTROL_SEGMENTS = 64 };

void net_filter_reset(struct net *net)
{
	pthread_mutex_lock(&net->filter_lock);
	/* Until the driver says otherwise it sees everything: one without CTRL_RX could not ask (5.1.6.5.1). */
	net->filter = (struct net_filter){ .promiscuous = true };
	memcpy(net->filter.mac, net->config.mac, 6);
	net->filter.vlan_filter = virtio_has(&net->device, VIRTIO_NET_F_CTRL_VLAN);
	pthread_mutex_unlock(&net->filter_lock);
}

static bool in_table(const struct net_filter *f, const uint8_t *mac)
{
	for (unsigned k = 0; k < f->n_macs; k++)
		if (!memcmp(f->table[k], mac, 6))
			return true;
	return f->table_overflow;
}

static bool address_passes(const struct net_filter *f, const uint8_t *mac)
{
	static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (f->promiscuous)
		return true;
	if (!memcmp(mac, broadcast, 6))
		return !f->no_broadcast;
	if (mac[0] & 1)
		return !f->no_multicast && (f->all_multicast || in_table(f, mac));
	return !f->no_unicast && (f->all_unicast || !memcmp(mac, f->mac, 6) || in_table(f, mac));
}

bool net_filter_passes(struct net *net, const uint8_t *frame)
{
	const struct net_filter *f = &net->filter;
	bool tagged = frame[12] == 0x81 && frame[13] == 0x00, passes;
	unsigned vlan = (frame[14] & 0x0f) << 8 | frame[15];

	pthread_mutex_lock(&net->filter_lock);
	passes = address_passes(f, frame) && (!tagged || !f->vlan_filter || f->vlans[vlan / 64] >> vlan % 64 & 1);
	pthread_mutex_unlock(&net->filter_lock);
	return passes;
}

static bool set_mode(struct net_filter *f, uint8_t command, const uint8_t *data, size_t bytes)
{
	bool *const mode[] = {
		[VIRTIO_NET_CTRL_RX_PROMISC] = &f->promiscuous,	  [VIRTIO_NET_CTRL_RX_ALLMULTI] = &f->all_multicast,
		[VIRTIO_NET_CTRL_RX_ALLUNI] = &f->all_unicast,	  [VIRTIO_NET_CTRL_RX_NOMULTI] = &f->no_multicast,
		[VIRTIO_NET_CTRL_RX_NOUNI] = &f->no_unicast,	  [VIRTIO_NET_CTRL_RX_NOBCAST] = &f->no_broadcast,
	};

	if (command >= sizeof(mode) / sizeof(mode[0]) || bytes != 1)
		return false;
	*mode[command] = data[0];
	return true;
}

/* Two tables, unicast then multicast, each a 32-bit count and its addresses. */
static bool set_table(struct net_filter *f, const uint8_t *data, size_t bytes)
{
	uint8_t table[NET_MAX_MACS][6];
	unsigned n = 0;
	bool overflow = false;

	for (unsigned part = 0; part < 2; part++) {
		uint32_t count;

		if (bytes < 4)
			return false;
		count = get_le32(data);
		data += 4;
		bytes -= 4;
		if (count > bytes / 6)
			return false;
		for (uint32_t k = 0; k < count; k++, data += 6, bytes -= 6) {
			if (n == NET_MAX_MACS)
				overflow = true;
			else
				memcpy(table[n++], data, 6);
		}
	}
	if (bytes)
		return false;
	memcpy(f->table, table, 6 * n);
	f->n_macs = n;
	f->table_overflow = overflow;
	return true;
}

static bool set_mac(struct net *net, uint8_t command, const uint8_t *data, size_t bytes)
{
	if (command == VIRTIO_NET_CTRL_MAC_TABLE_SET)
		return set_table(&net->filter, data, bytes);
	if (command != VIRTIO_NET_CTRL_MAC_ADDR_SET || bytes != 6)
		return false;
	memcpy(net->filter.mac, data, 6);
	memcpy(net->config.mac, data, 6);
	return true;
}

static bool set_vlan(struct net_filter *f, uint8_t command, const uint8_t *data, size_t bytes)
{
	unsigned vlan;

	if (bytes != 2 || (vlan = data[0] | data[1] << 8) > 4095)
		return false;
	if (command == VIRTIO_NET_CTRL_VLAN_ADD)
		f->vlans[vlan / 64] |= 1ull << vlan % 64;
	else if (command == VIRTIO_NET_CTRL_VLAN_DEL)
		f->vlans[vlan / 64] &= ~(1ull << vlan % 64);
	else
		return false;
	return true;
}

static bool set_pairs(struct net *net, uint8_t command, const uint8_t *data, size_t bytes)
{
	unsigned pairs;

	if (command != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || bytes != 2 || !virtio_has(&net->device, VIRTIO_NET_F_MQ))
		return false;
	pairs = data[0] | data[1] << 8;
	if (!pairs || pairs > net->n_pairs)
		return false;
	if (net->port->ops->set_queues && net->port->ops->set_queues(net->port, pairs))
		return false;
	atomic_store(&net->active_pairs, pairs);
	for (unsigned k = 0; k < pairs; k++) /* those that were idle look at their rings */
		eventfd_write(net->pair[k].rx->kick_fd, 1);
	return true;
}

static bool set_offloads(struct net *net, uint8_t command, const uint8_t *data, size_t bytes)
{
	uint64_t wanted;

	if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || bytes != 8 || !virtio_has(&net->device, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
		return false;
	wanted = get_le64(data);
	if (wanted & ~net->device.accepted)
		return false;
	return net->port->ops->set_receive_offloads &&
	       !net->port->ops->set_receive_offloads(net->port, net_guest_offloads(wanted));
}

static bool obey(void *opaque, const uint8_t *command, size_t bytes)
{
	struct net *net = opaque;
	const uint8_t *data = command + 2;
	bool ok;

	if (bytes < 2)
		return false;
	bytes -= 2;
	switch (command[0]) {
	case VIRTIO_NET_CTRL_MQ:
		return set_pairs(net, command[1], data, bytes);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return set_offloads(net, command[1], data, bytes);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		if (command[1] != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
			return false;
		__atomic_and_fetch(&net->config.status, (uint16_t)~VIRTIO_NET_S_ANNOUNCE, __ATOMIC_RELAXED);
		return true;
	}
	pthread_mutex_lock(&net->filter_lock);
	switch (command[0]) {
	case VIRTIO_NET_CTRL_RX:
		ok = set_mode(&net->filter, command[1], data, bytes);
		break;
	case VIRTIO_NET_CTRL_MAC:
		ok = set_mac(net, command[1], data, bytes);
		break;
	case VIRTIO_NET_CTRL_VLAN:
		ok = set_vlan(&net->filter, command[1], data, bytes);
		break;
	default:
		ok = false;
	}
	pthread_mutex_unlock(&net->filter_lock);
	return ok;
}

void net_control_serve(struct virtio_queue *queue, net_control_fn *fn, void *opaque)
{
	struct iovec iov[CONTROL_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = CONTROL_SEGMENTS };
	uint8_t command[MAX_COMMAND];
	int popped;

	do {
		virtq_disable_kicks(&queue->ring);
		while ((popped = virtq_pop(&queue->ring, &chain)) > 0) {
			size_t bytes = 0;

			for (unsigned k = 0; k < chain.readable; k++) {
				size_t part = iov[k].iov_len < sizeof(command) - bytes ? iov[k].iov_len : sizeof(command) - bytes;

				memcpy(command + bytes, iov[k].iov_base, part);
				bytes += part;
			}
			if (chain.writable)
				*(uint8_t *)iov[chain.readable].iov_base = chain.readable_bytes <= sizeof(command) && fn(opaque, command, bytes) ?
										   VIRTIO_NET_OK : VIRTIO_NET_ERR;
			virtio_push(queue, &chain, chain.writable ? 1 : 0);
		}
	} while (!popped && virtq_enable_kicks(&queue->ring));
	if (popped < 0)
		virtio_queue_failed(queue);
	virtio_call(queue);
}

void net_serve_control(struct net *net, struct virtio_queue *queue)
{
	net_control_serve(queue, obey, net);
}
