/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A back port: the network device behind a vhost-user front end (a VM, a container, another front port). It copies: what the
 * driver sends is in private memory before anybody looks at it, and the driver has its buffer back by then. So a session may end
 * at any moment, and what is checked in a packet stays as it was.
 *
 * Threads: the back end's loop on a thread of its own starts and stops rings; queues' users move packets. A queue's lock
 * is taken once per burst by its user, and by the loop to start, stop and enable the queue's rings.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "virtio_user/back_internal.h"

#define BIT(n) (1ull << (n))

enum { RINGS = 2, RECEIVEQ = 0, TRANSMITQ = 1, DEFAULT_SIZE = 4096 };

static const struct {
	unsigned offload, host_bit, guest_bit;
} offload_bits[] = {
	{ PORT_CSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM },
	{ PORT_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4 },
	{ PORT_TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6 },
	{ PORT_ECN, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN },
	{ PORT_UFO, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO },
};
enum { N_OFFLOADS = sizeof(offload_bits) / sizeof(offload_bits[0]), ALL_OFFLOADS = PORT_CSUM | PORT_TSO4 | PORT_TSO6 | PORT_ECN | PORT_UFO };

static struct back *back_of(const struct port *port)
{
	return (struct back *)((char *)(uintptr_t)port - offsetof(struct back, port));
}

/* On offer: offloads that the driver may leave to us only if our user takes such packets. */
static uint64_t offered(const struct back *b)
{
	const struct back_port_config *c = &b->config;
	uint64_t features = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC);

	features |= c->no_packed ? 0 : BIT(VIRTIO_F_RING_PACKED);
	features |= c->no_in_order ? 0 : BIT(VIRTIO_F_IN_ORDER);
	features |= c->no_mergeable ? 0 : BIT(VIRTIO_NET_F_MRG_RXBUF);
	features |= c->no_event_index ? 0 : BIT(VIRTIO_RING_F_EVENT_IDX);
	features |= c->n_queues > 1 ? BIT(VIRTIO_NET_F_MQ) : 0;
	for (unsigned k = 0; k < N_OFFLOADS; k++) {
		features |= BIT(offload_bits[k].guest_bit);
		features |= b->receive_offloads & offload_bits[k].offload ? BIT(offload_bits[k].host_bit) : 0;
	}
	return features;
}

/* --- what the back end asks, on its loop's thread --- */

static struct back_ring *ring_of(struct back *b, const struct vhost_backend_ring *ring)
{
	struct back_queue *q = &b->queue[ring->index / RINGS];

	return ring->index % RINGS == TRANSMITQ ? &q->from : &q->to;
}

/* The first queue's rings say whether the link is up. */
static void tell_state(struct back *b)
{
	struct back_queue *q = &b->queue[0];
	bool up = q->from.running && q->to.running && atomic_load(&q->from.ring->enabled) && atomic_load(&q->to.ring->enabled);

	pthread_mutex_lock(&b->state_lock);
	atomic_store(&b->up, up);
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->state_lock);
}

static int set_features(void *opaque, uint64_t features)
{
	struct back *b = opaque;
	unsigned offloads = 0;

	if (!(features & BIT(VIRTIO_F_VERSION_1)))
		return -EINVAL; /* another header, and nobody needs it */
	for (unsigned k = 0; k < N_OFFLOADS; k++)
		offloads |= features & BIT(offload_bits[k].guest_bit) ? offload_bits[k].offload : 0;
	__atomic_store_n(&b->port.send_offloads, offloads, __ATOMIC_RELAXED);
	atomic_store(&b->mergeable, features >> VIRTIO_NET_F_MRG_RXBUF & 1);
	return 0;
}

static int start_ring(void *opaque, struct vhost_backend_ring *ring)
{
	struct back *b = opaque;
	struct back_queue *q = &b->queue[ring->index / RINGS];
	struct back_ring *r = ring_of(b, ring);
	int err;

	pthread_mutex_lock(&q->lock);
	r->ring = ring;
	err = vhost_backend_open(ring, &r->q);
	r->running = !err;
	r->reported = false;
	r->owed = 0;
	r->logs = !err && vhost_backend_logs(ring);
	if (!err && r == &q->from) {
		q->kicks_wanted = false;
		if (ring->kick_fd >= 0)
			epoll_ctl(q->wake_fd, EPOLL_CTL_ADD, ring->kick_fd, &(struct epoll_event){ .events = EPOLLIN });
	}
	if (!err)
		virtq_disable_kicks(&r->q);
	pthread_mutex_unlock(&q->lock);
	if (!err && r == &q->from)
		eventfd_write(q->start_fd, 1); /* have a sleeping user look: chains may be there already */
	tell_state(b);
	return err;
}

static void stop_ring(void *opaque, struct vhost_backend_ring *ring)
{
	struct back *b = opaque;
	struct back_queue *q = &b->queue[ring->index / RINGS];
	struct back_ring *r = ring_of(b, ring);

	pthread_mutex_lock(&q->lock);
	if (r == &q->from && ring->kick_fd >= 0)
		epoll_ctl(q->wake_fd, EPOLL_CTL_DEL, ring->kick_fd, NULL);
	r->running = false;
	vhost_backend_close(ring, &r->q);
	pthread_mutex_unlock(&q->lock);
	tell_state(b);
}

static void enable_ring(void *opaque, struct vhost_backend_ring *ring)
{
	struct back *b = opaque;
	struct back_queue *q = &b->queue[ring->index / RINGS];

	pthread_mutex_lock(&q->lock); /* a burst that saw the ring as it was before is over */
	pthread_mutex_unlock(&q->lock);
	eventfd_write(q->start_fd, 1);
	tell_state(b);
}

static const struct vhost_backend_ops backend_ops = {
	.set_features = set_features,
	.start_ring = start_ring,
	.stop_ring = stop_ring,
	.enable_ring = enable_ring,
};

/* --- the thread --- */

static void *serve(void *opaque)
{
	loop_run(((struct back *)opaque)->loop);
	return NULL;
}

static int start_backend(struct back *b, char *why, size_t why_size)
{
	struct vhost_backend_config config = {
		.name = b->name,
		.device_id = VIRTIO_ID_NET,
		.features = offered(b),
		.n_rings = RINGS * b->n_made,
		.max_ring_size = b->config.queue_size,
		.memory = &b->mem,
		.socket = { .path = b->path, .fd = -1, .server = !b->config.client, .mode = -1 },
		.ops = &backend_ops,
		.opaque = b,
	};
	int err = vhost_backend_new(b->loop, &config, &b->backend, why, why_size);

	if (!err) {
		err = thread_start(&b->thread, b->name, "vhost", serve, b);
		b->is_running = !err;
	}
	return err;
}

static void stop_backend(struct back *b)
{
	if (b->is_running) {
		loop_stop(b->loop);
		pthread_join(b->thread, NULL);
		b->is_running = false;
	}
	vhost_backend_free(b->backend);
	b->backend = NULL;
}

/* --- the port's calls --- */

static int receive_fd(struct port *port, unsigned queue)
{
	return back_of(port)->queue[queue].wake_fd;
}

static bool is_up(const struct port *port)
{
	return atomic_load_explicit(&back_of(port)->up, memory_order_relaxed);
}

static int wait_up(struct port *port, int timeout_ms)
{
	struct back *b = back_of(port);
	struct timespec until;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000l;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&b->state_lock);
	while (!b->up && !err)
		err = timeout_ms < 0 ? pthread_cond_wait(&b->changed, &b->state_lock)
				     : pthread_cond_timedwait(&b->changed, &b->state_lock, &until);
	pthread_mutex_unlock(&b->state_lock);
	return -err;
}

static void set_polling(struct port *port, bool on)
{
	struct back *b = back_of(port);

	atomic_store(&b->polling, on);
	for (unsigned k = 0; k < b->n_made && on; k++) {
		struct back_queue *q = &b->queue[k];

		pthread_mutex_lock(&q->lock);
		if (q->from.running)
			virtq_disable_kicks(&q->from.q);
		q->kicks_wanted = false;
		pthread_mutex_unlock(&q->lock);
	}
}

/* The front end learns of it by a new session. */
static int set_receive_offloads(struct port *port, unsigned offloads)
{
	struct back *b = back_of(port);
	char why[200];

	if (offloads == b->receive_offloads)
		return 0;
	b->receive_offloads = offloads;
	stop_backend(b);
	return start_backend(b, why, sizeof(why));
}

static void counters(const struct port *port, struct port_counters *sum)
{
	const struct back *b = back_of(port);

	for (unsigned k = 0; k < b->n_made; k++)
		port_counters_add(sum, &b->queue[k].counters);
}

static void back_close(struct port *port)
{
	struct back *b = back_of(port);

	stop_backend(b);
	loop_free(b->loop);
	for (unsigned k = 0; k < b->n_made; k++) {
		pthread_mutex_destroy(&b->queue[k].lock);
		if (b->queue[k].wake_fd >= 0)
			close(b->queue[k].wake_fd);
		if (b->queue[k].start_fd >= 0)
			close(b->queue[k].start_fd);
	}
	memory_deinit(&b->mem);
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->state_lock);
	free(b->queue);
	free(b->path);
	free(b->name);
	free(b);
}

static const struct port_ops back_ops = {
	.kind = "vhost-user back end",
	.send = back_send,
	.receive = back_receive,
	.receive_fd = receive_fd,
	.set_receive_offloads = set_receive_offloads,
	.close = back_close,
	.set_polling = set_polling,
	.is_up = is_up,
	.wait = wait_up,
	.counters = counters,
};

static int make_queues(struct back *b)
{
	b->queue = aligned_alloc(128, b->config.n_queues * sizeof(*b->queue));
	if (!b->queue)
		return -ENOMEM;
	for (; b->n_made < b->config.n_queues; b->n_made++) {
		struct back_queue *q = &b->queue[b->n_made];

		*q = (struct back_queue){ .wake_fd = epoll_create1(EPOLL_CLOEXEC), .start_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
		pthread_mutex_init(&q->lock, NULL);
		if (epoll_ctl(q->wake_fd, EPOLL_CTL_ADD, q->start_fd, &(struct epoll_event){ .events = EPOLLIN })) {
			b->n_made++;
			return -errno;
		}
	}
	return 0;
}

static struct back *back_new(const struct back_port_config *config)
{
	struct back *b = calloc(1, sizeof(*b));
	pthread_condattr_t attributes;

	if (!b)
		return NULL;
	b->config = *config;
	b->config.queue_size = config->queue_size ? config->queue_size : DEFAULT_SIZE;
	b->config.mtu = config->mtu ? config->mtu : 1500;
	b->path = strdup(config->path);
	b->name = strdup(config->owner);
	b->port = (struct port){ .ops = &back_ops, .n_queues = config->n_queues, .mtu = b->config.mtu, .receive_offloads = ALL_OFFLOADS };
	memory_init(&b->mem);
	pthread_mutex_init(&b->state_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&b->changed, &attributes);
	return b;
}

int port_back_open(const struct back_port_config *config, struct port **port, char *why, size_t why_size)
{
	struct back *b;
	int err;

	if (!config->n_queues || config->n_queues > PORT_MAX_QUEUES || (config->mtu && config->mtu < 68)) {
		snprintf(why, why_size, "1 to %d queues and an MTU of at least 68, please", PORT_MAX_QUEUES);
		return -EINVAL;
	}
	b = back_new(config);
	if (!b)
		return -ENOMEM;
	err = make_queues(b);
	if (!err)
		err = loop_new(&b->loop);
	if (err)
		snprintf(why, why_size, "no resources for a back end: %s", strerror(-err));
	else
		err = start_backend(b, why, why_size);
	if (err) {
		back_close(&b->port);
		return err;
	}
	*port = &b->port;
	return 0;
}
