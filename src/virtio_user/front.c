/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A front port: the driver of a network device that somebody else serves, without a virtual machine around it. The link
 * (vhost/link.h) finds the back end again whenever it went away; the rings then begin anew, with what was under way lost,
 * as it would be on a wire.
 *
 * Until the first back end has come nothing is known: no offloads, and the port is down. The rings are made then, on the
 * link's thread, with the features that both understand.
 *
 * Threads: queues' users, one per queue; the link's thread. A queue's lock is taken once per burst, by its user, and by the
 * link's thread to begin the queue's rings anew. Order: state_lock, the link's lock, a queue's lock.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "virtio_user/internal.h"

#define BIT(n) (1ull << (n))

enum { RX = 0, TX = 1, RINGS = 2, DEFAULT_SIZE = 256, ANSWER_MS = 10000 };

static const struct {
	unsigned offload, host_bit, guest_bit;
} offload_bits[] = {
	{ PORT_CSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM },
	{ PORT_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4 },
	{ PORT_TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6 },
	{ PORT_ECN, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN },
	{ PORT_UFO, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO },
};
enum { N_OFFLOADS = sizeof(offload_bits) / sizeof(offload_bits[0]), SEGMENTATION = PORT_TSO4 | PORT_TSO6 | PORT_ECN | PORT_UFO };

static struct front *front_of(const struct port *port)
{
	return (struct front *)((char *)(uintptr_t)port - offsetof(struct front, port));
}

/* All that this driver understands, as the configuration has it. */
static uint64_t understood(const struct virtio_user_config *c)
{
	uint64_t features = BIT(VIRTIO_F_VERSION_1) | (c->mtu > 1500 ? BIT(VIRTIO_NET_F_MTU) : 0);

	features |= c->packed ? BIT(VIRTIO_F_RING_PACKED) : 0;
	features |= c->no_in_order ? 0 : BIT(VIRTIO_F_IN_ORDER);
	features |= c->no_mergeable ? 0 : BIT(VIRTIO_NET_F_MRG_RXBUF);
	features |= c->no_event_index ? 0 : BIT(VIRTIO_RING_F_EVENT_IDX);
	features |= c->n_queues > 1 ? BIT(VIRTIO_NET_F_MQ) : 0;
	for (unsigned k = 0; k < N_OFFLOADS; k++)
		features |= BIT(offload_bits[k].host_bit) | BIT(offload_bits[k].guest_bit);
	return features;
}

/* Of what the back end offers, what is used: received offloads only if they are wanted, big packets only if they fit. */
static uint64_t choose(struct front *f, uint64_t offered)
{
	uint64_t features = offered;
	bool big_fits = offered & BIT(VIRTIO_NET_F_MRG_RXBUF) || f->room >= PORT_MAX_PACKET;

	for (unsigned k = 0; k < N_OFFLOADS; k++) {
		bool wanted = f->receive_offloads & offload_bits[k].offload;

		if (!wanted || (offload_bits[k].offload & SEGMENTATION && !big_fits))
			features &= ~BIT(offload_bits[k].guest_bit);
	}
	if (!(features & BIT(VIRTIO_NET_F_GUEST_CSUM)))
		for (unsigned k = 1; k < N_OFFLOADS; k++)
			features &= ~BIT(offload_bits[k].guest_bit);
	return features;
}

static unsigned offloads_in(uint64_t features, bool host)
{
	unsigned offloads = 0;

	for (unsigned k = 0; k < N_OFFLOADS; k++)
		if (features >> (host ? offload_bits[k].host_bit : offload_bits[k].guest_bit) & 1)
			offloads |= offload_bits[k].offload;
	return offloads;
}

/*
 * Have the first n_wanted of n pairs used. A machine's driver would say that on the control queue, which neither a vhost-user back end nor the
 * kernel's vhost has: for them a pair that is not used is one whose rings are disabled. Under state_lock. 0/-errno of the first that failed.
 */
static int enable_queues(struct front *f, unsigned n)
{
	int err = 0;

	for (unsigned k = 0; k < RINGS * n; k++) {
		int failed = vhost_link_enable(f->link, k, k < RINGS * f->n_wanted);

		err = err ? err : failed;
	}
	return err;
}

/* Make the rings and have them served. Under state_lock; features are known. */
static int start(struct front *f)
{
	struct vhost_region region = { (uintptr_t)f->hva, f->size, f->hva, f->fd, 0 };
	struct vhost_ring ring[RINGS * PORT_MAX_QUEUES];
	struct vhost_link_info info;
	unsigned n;
	int err = 0;

	vhost_link_info(f->link, &info);
	n = info.max_rings / RINGS < f->n_made ? info.max_rings / RINGS : f->n_made;
	if (!n || (f->config.packed && !(info.features & BIT(VIRTIO_F_RING_PACKED))))
		return -EOPNOTSUPP;
	enable_queues(f, n); /* what was wanted before a restart is forgotten by the link */
	f->features = choose(f, info.features);
	f->mergeable = f->features & BIT(VIRTIO_NET_F_MRG_RXBUF);
	__atomic_store_n(&f->port.n_queues, n, __ATOMIC_RELAXED);
	__atomic_store_n(&f->port.send_offloads, offloads_in(f->features, true), __ATOMIC_RELAXED);
	__atomic_store_n(&f->port.receive_offloads, offloads_in(info.features, false), __ATOMIC_RELAXED);
	for (unsigned k = 0; k < n && !err; k++) {
		struct front_queue *q = &f->queue[k];
		struct front_side *side[RINGS] = { &q->rx, &q->tx };

		pthread_mutex_lock(&q->lock);
		err = front_reset_queue(f, q);
		pthread_mutex_unlock(&q->lock);
		for (unsigned r = 0; r < RINGS; r++)
			ring[RINGS * k + r] = (struct vhost_ring){ side[r]->config, virtq_fresh_base(side[r]->config.options),
								   side[r]->kick_fd, side[r]->call_fd, -1 };
	}
	return err ? err : vhost_link_start(f->link, f->features, &region, 1, ring, RINGS * n);
}

static void set_up(struct front *f, bool up)
{
	pthread_mutex_lock(&f->state_lock);
	atomic_store(&f->up, up);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->state_lock);
}

/* --- the link's events, on its thread --- */

static void connected(void *opaque)
{
	struct front *f = opaque;
	int err = 0;

	pthread_mutex_lock(&f->state_lock);
	if (!f->started) {
		err = start(f);
		f->started = !err;
	}
	pthread_mutex_unlock(&f->state_lock);
	if (err)
		log_warn("%s: %s: this back end cannot be used: %s", f->owner, f->config.path ? f->config.path : "vhost", strerror(-err));
	else
		set_up(f, true);
}

static void disconnected(void *opaque)
{
	struct front *f = opaque;

	if (f->config.device) /* the kernel does not come back */
		__atomic_store_n(&f->port.error, -ENODEV, __ATOMIC_RELAXED);
	set_up(f, false);
}

/* The back end went without a word: nobody has the rings, so they begin anew. */
static uint32_t ring_base(void *opaque, unsigned index)
{
	struct front *f = opaque;
	struct front_queue *q = &f->queue[index / RINGS];

	/* Once for both rings: the receive ring is handed over first. */
	pthread_mutex_lock(&q->lock);
	if (index % RINGS == RX && front_reset_queue(f, q))
		log_error("%s: out of memory for rings", f->owner);
	pthread_mutex_unlock(&q->lock);
	return virtq_fresh_base(virtq_options(f->features));
}

static const struct vhost_link_events link_events = { connected, disconnected, NULL, ring_base };

/* --- the port's calls --- */

static int receive_fd(struct port *port, unsigned queue)
{
	return front_of(port)->queue[queue].rx.call_fd;
}

static bool is_up(const struct port *port)
{
	return atomic_load_explicit(&front_of(port)->up, memory_order_relaxed);
}

static int wait_up(struct port *port, int timeout_ms)
{
	struct front *f = front_of(port);
	struct timespec until;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000l;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&f->state_lock);
	while (!f->up && !err)
		err = timeout_ms < 0 ? pthread_cond_wait(&f->changed, &f->state_lock)
				     : pthread_cond_timedwait(&f->changed, &f->state_lock, &until);
	pthread_mutex_unlock(&f->state_lock);
	return -err;
}

static void set_polling(struct port *port, bool on)
{
	struct front *f = front_of(port);

	atomic_store(&f->polling, on);
	for (unsigned k = 0; k < f->n_made && on; k++) {
		struct front_queue *q = &f->queue[k];

		pthread_mutex_lock(&q->lock);
		if (q->rx.ring.state)
			virtq_driver_disable_calls(&q->rx.ring);
		q->calls_wanted = false;
		pthread_mutex_unlock(&q->lock);
	}
}

/* A negotiated feature changes only with the rings begun anew. */
static int set_receive_offloads(struct port *port, unsigned offloads)
{
	struct front *f = front_of(port);
	int err = 0;

	pthread_mutex_lock(&f->state_lock);
	if (offloads != f->receive_offloads) {
		f->receive_offloads = offloads;
		if (f->started) {
			vhost_link_stop(f->link, NULL);
			err = start(f);
			f->started = !err;
		}
	}
	pthread_mutex_unlock(&f->state_lock);
	return err;
}

static int set_queues(struct port *port, unsigned n)
{
	struct front *f = front_of(port);
	int err = -EINVAL;

	pthread_mutex_lock(&f->state_lock);
	if (n && n <= port_queues(port)) {
		f->n_wanted = n;
		err = enable_queues(f, port_queues(port));
	}
	pthread_mutex_unlock(&f->state_lock);
	return err;
}

static void counters(const struct port *port, struct port_counters *sum)
{
	const struct front *f = front_of(port);

	for (unsigned k = 0; k < f->n_made; k++)
		port_counters_add(sum, &f->queue[k].counters);
}

static void front_free(struct front *f)
{
	vhost_link_free(f->link);
	front_free_memory(f);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->state_lock);
	free(f->owner_copy);
	free(f->path_copy);
	free(f);
}

static void front_close(struct port *port)
{
	struct front *f = front_of(port);

	vhost_link_stop(f->link, NULL);
	front_free(f);
}

static const struct port_ops front_ops = {
	.kind = "virtio-user",
	.send = front_send,
	.receive = front_receive,
	.receive_fd = receive_fd,
	.set_receive_offloads = set_receive_offloads,
	.set_queues = set_queues,
	.close = front_close,
	.burst = &front_burst_ops,
	.set_polling = set_polling,
	.is_up = is_up,
	.wait = wait_up,
	.counters = counters,
};

static struct front *front_new(const struct virtio_user_config *config)
{
	struct front *f = calloc(1, sizeof(*f));
	pthread_condattr_t attributes;

	if (!f)
		return NULL;
	f->config = *config;
	f->owner = f->owner_copy = strdup(config->owner);
	f->config.path = f->path_copy = config->path ? strdup(config->path) : NULL;
	f->config.queue_size = config->queue_size ? config->queue_size : DEFAULT_SIZE;
	f->config.mtu = config->mtu ? config->mtu : 1500;
	f->fd = -1;
	f->n_wanted = config->n_queues;
	f->port = (struct port){ .ops = &front_ops, .n_queues = config->n_queues, .mtu = f->config.mtu };
	memory_init(&f->mem);
	pthread_mutex_init(&f->state_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &attributes);
	return f;
}

static int open_link(struct front *f, char *why, size_t why_size)
{
	int err;
	struct vhost_link_config link = {
		.device_id = VIRTIO_ID_NET,
		.owner = f->owner,
		.path = f->config.path,
		.server = f->config.server,
		.device = f->config.device,
		.features = understood(&f->config),
		.required = BIT(VIRTIO_F_VERSION_1) | (f->config.packed ? BIT(VIRTIO_F_RING_PACKED) : 0),
		.n_rings = RINGS * f->config.n_queues,
		.ring_size = f->config.queue_size,
		.has_mac = f->config.has_mac,
		.mtu = f->config.mtu,
		.timeout_ms = ANSWER_MS,
		.events = &link_events,
		.opaque = f,
	};

	memcpy(link.mac, f->config.mac, sizeof(link.mac));
	pthread_mutex_lock(&f->state_lock); /* connected() may come before f->link is set: it waits for this */
	err = vhost_link_new(&link, &f->link, why, (unsigned)why_size);
	pthread_mutex_unlock(&f->state_lock);
	return err;
}

static void close_device(const struct virtio_user_config *config)
{
	if (config->device)
		config->device->ops->close(config->device);
}

int port_virtio_user_open(const struct virtio_user_config *config, struct port **port, char *why, size_t why_size)
{
	uint32_t size = config->queue_size ? config->queue_size : DEFAULT_SIZE;
	struct front *f;
	int err;

	if (!config->n_queues || config->n_queues > PORT_MAX_QUEUES || size < 2 || size > VIRTQ_MAX_SIZE || size & (size - 1) ||
	    (config->mtu && config->mtu < 68)) {
		snprintf(why, why_size, "1 to %d queues of a power of two of entries, 2 to %d, and an MTU of at least 68, please",
			 PORT_MAX_QUEUES, VIRTQ_MAX_SIZE);
		close_device(config);
		return -EINVAL;
	}
	f = front_new(config);
	err = f ? front_make_memory(f) : -ENOMEM;
	if (err) {
		snprintf(why, why_size, "no memory for rings and buffers: %s", strerror(-err));
		close_device(config);
		if (!f)
			return err;
	} else {
		err = open_link(f, why, why_size); /* from here on the device is the link's */
	}
	if (!err && config->device)
		connected(f); /* it is there, so nobody says that it came */
	if (err) {
		front_free(f);
		return err;
	}
	*port = &f->port;
	return 0;
}
