/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * User-mode NAT: libslirp's TCP/IP stack turns the guest's frames into sockets of this process.
 *
 * libslirp is one big unlocked state machine. All of it runs under `lock`: on the port's own thread, which polls the
 * sockets and the timers, and in send(), on the caller's. Frames for the guest go into a ring of copies that receive()
 * empties; when it is full the frame is dropped and TCP slows down.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "net/port.h"

enum { RING = 256, FRAME_MAX = 65550, MAX_POLL = 1024, SLICE_MS = 1000 };

struct frame {
	uint32_t bytes;
	uint8_t *data;
};

struct timer {
	struct timer *next;
	SlirpTimerCb fn;
	void *opaque;
	int64_t expires_ms; /* INT64_MAX: not set */
};

struct user {
	struct port port;
	Slirp *slirp;
	pthread_mutex_t lock;
	pthread_t thread;
	int wake_fd, ready_fd;
	bool stopping;
	/* protected by lock */
	struct frame ring[RING];
	unsigned head, count;
	struct timer *timers;
	struct pollfd poll[MAX_POLL];
	unsigned n_poll;
};

/* --- what libslirp asks of us, under the lock --- */

static ssize_t send_to_guest(const void *data, size_t bytes, void *opaque)
{
	struct user *u = opaque;
	struct frame *f = &u->ring[(u->head + u->count) % RING];

	if (u->count == RING || bytes > FRAME_MAX) {
		u->port.counters.rx_dropped++;
		return (ssize_t)bytes;
	}
	f->data = malloc(bytes);
	if (!f->data) {
		u->port.counters.rx_dropped++;
		return (ssize_t)bytes;
	}
	memcpy(f->data, data, bytes);
	f->bytes = (uint32_t)bytes;
	if (!u->count++)
		eventfd_write(u->ready_fd, 1);
	return (ssize_t)bytes;
}

static void guest_error(const char *message, void *opaque)
{
	/* a malformed packet of the guest: libslirp has dropped it */
}

static int64_t clock_ns(void *opaque)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void *timer_new(SlirpTimerCb fn, void *timer_opaque, void *opaque)
{
	struct user *u = opaque;
	struct timer *t = calloc(1, sizeof(*t));

	if (t) {
		*t = (struct timer){ u->timers, fn, timer_opaque, INT64_MAX };
		u->timers = t;
	}
	return t;
}

static void timer_free(void *timer, void *opaque)
{
	struct user *u = opaque;

	for (struct timer **link = &u->timers; *link; link = &(*link)->next)
		if (*link == timer) {
			*link = (*link)->next;
			break;
		}
	free(timer);
}

static void timer_mod(void *timer, int64_t expires_ms, void *opaque)
{
	struct user *u = opaque;

	if (timer)
		((struct timer *)timer)->expires_ms = expires_ms;
	eventfd_write(u->wake_fd, 1);
}

static void poll_fd_changed(int fd, void *opaque)
{
	/* the set of sockets is collected afresh on every round */
}

static void notify(void *opaque)
{
	eventfd_write(((struct user *)opaque)->wake_fd, 1);
}

static const SlirpCb callbacks = {
	.send_packet = send_to_guest,
	.guest_error = guest_error,
	.clock_get_ns = clock_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = poll_fd_changed,
	.unregister_poll_fd = poll_fd_changed,
	.notify = notify,
};

/* --- the thread --- */

static int add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;

	if (u->n_poll == MAX_POLL)
		return -1;
	u->poll[u->n_poll] = (struct pollfd){ .fd = fd };
	u->poll[u->n_poll].events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
					    (events & SLIRP_POLL_PRI ? POLLPRI : 0));
	return (int)u->n_poll++;
}

static int get_revents(int index, void *opaque)
{
	struct user *u = opaque;
	short got = index < 0 ? 0 : u->poll[index].revents;

	return (got & POLLIN ? SLIRP_POLL_IN : 0) | (got & POLLOUT ? SLIRP_POLL_OUT : 0) | (got & POLLPRI ? SLIRP_POLL_PRI : 0) |
	       (got & POLLERR ? SLIRP_POLL_ERR : 0) | (got & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static void run_timers(struct user *u)
{
	int64_t now_ms = clock_ns(u) / 1000000;
	bool again;

	do { /* a timer's function may delete any timer */
		again = false;
		for (struct timer *t = u->timers; t && !again; t = t->next)
			if (t->expires_ms <= now_ms) {
				t->expires_ms = INT64_MAX;
				t->fn(t->opaque);
				again = true;
			}
	} while (again);
}

static uint32_t time_to_timer(struct user *u, uint32_t limit_ms)
{
	int64_t now_ms = clock_ns(u) / 1000000;

	for (struct timer *t = u->timers; t; t = t->next)
		if (t->expires_ms != INT64_MAX && t->expires_ms - now_ms < limit_ms)
			limit_ms = t->expires_ms <= now_ms ? 0 : (uint32_t)(t->expires_ms - now_ms);
	return limit_ms;
}

static void *serve(void *opaque)
{
	struct user *u = opaque;

	pthread_mutex_lock(&u->lock);
	while (!u->stopping) {
		uint32_t timeout_ms = SLICE_MS;
		eventfd_t count;
		int got;

		u->n_poll = 0;
		add_poll(u->wake_fd, SLIRP_POLL_IN, u);
		slirp_pollfds_fill(u->slirp, &timeout_ms, add_poll, u);
		timeout_ms = time_to_timer(u, timeout_ms);
		pthread_mutex_unlock(&u->lock);
		got = poll(u->poll, u->n_poll, (int)timeout_ms);
		pthread_mutex_lock(&u->lock);
		if (u->poll[0].revents)
			eventfd_read(u->wake_fd, &count);
		slirp_pollfds_poll(u->slirp, got < 0, get_revents, u);
		run_timers(u);
	}
	pthread_mutex_unlock(&u->lock);
	return NULL;
}

/* --- the port --- */

static int user_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n)
{
	struct user *u = (struct user *)port;
	uint8_t frame[FRAME_MAX];

	pthread_mutex_lock(&u->lock);
	for (unsigned k = 0; k < n; k++) {
		size_t skip = PORT_HEADER, length = 0;

		for (unsigned i = 0; i < packets[k].n_iov; i++) {
			const struct iovec *iov = &packets[k].iov[i];
			size_t from = skip < iov->iov_len ? skip : iov->iov_len, part = iov->iov_len - from;

			skip -= from;
			if (part > sizeof(frame) - length)
				part = sizeof(frame) - length;
			memcpy(frame + length, (uint8_t *)iov->iov_base + from, part);
			length += part;
		}
		slirp_input(u->slirp, frame, (int)length);
		port->counters.tx_packets++;
		port->counters.tx_bytes += length;
	}
	pthread_mutex_unlock(&u->lock);
	eventfd_write(u->wake_fd, 1); /* new sockets to poll */
	return (int)n;
}

/* Copy bytes into a vector from `offset` on; false: it is too small. */
static bool scatter(const struct port_packet *p, size_t offset, const void *data, size_t bytes)
{
	for (unsigned i = 0; i < p->n_iov && bytes; i++) {
		size_t size = p->iov[i].iov_len, part;

		if (offset >= size) {
			offset -= size;
			continue;
		}
		part = size - offset < bytes ? size - offset : bytes;
		memcpy((uint8_t *)p->iov[i].iov_base + offset, data, part);
		data = (const uint8_t *)data + part;
		bytes -= part;
		offset = 0;
	}
	return !bytes;
}

static int user_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n)
{
	struct user *u = (struct user *)port;
	struct virtio_net_hdr_v1 header = { .num_buffers = 1 };
	unsigned filled = 0;

	pthread_mutex_lock(&u->lock);
	while (filled < n && u->count) {
		struct frame *f = &u->ring[u->head];

		if (PORT_HEADER + f->bytes <= packets[filled].bytes && scatter(&packets[filled], 0, &header, sizeof(header)) &&
		    scatter(&packets[filled], PORT_HEADER, f->data, f->bytes)) {
			packets[filled++].bytes = PORT_HEADER + f->bytes;
			port->counters.rx_packets++;
			port->counters.rx_bytes += f->bytes;
		} else {
			port->counters.rx_dropped++;
		}
		free(f->data);
		u->head = (u->head + 1) % RING;
		u->count--;
	}
	if (!u->count) {
		eventfd_t count;

		eventfd_read(u->ready_fd, &count);
	}
	pthread_mutex_unlock(&u->lock);
	return (int)filled;
}

static int user_receive_fd(struct port *port, unsigned queue)
{
	return ((struct user *)port)->ready_fd;
}

static void user_free(struct user *u)
{
	if (u->slirp)
		slirp_cleanup(u->slirp);
	while (u->count--) {
		free(u->ring[u->head].data);
		u->head = (u->head + 1) % RING;
	}
	while (u->timers)
		timer_free(u->timers, u);
	close(u->wake_fd);
	close(u->ready_fd);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

static void user_close(struct port *port)
{
	struct user *u = (struct user *)port;

	pthread_mutex_lock(&u->lock);
	u->stopping = true;
	pthread_mutex_unlock(&u->lock);
	eventfd_write(u->wake_fd, 1);
	pthread_join(u->thread, NULL);
	user_free(u);
}

static const struct port_ops user_ops = {
	.kind = "user",
	.send = user_send,
	.receive = user_receive,
	.receive_fd = user_receive_fd,
	.close = user_close,
};

/* "tcp:8080:80" or "tcp:0.0.0.0:8080:80". */
static int add_forward(struct user *u, const char *text, char *why, unsigned why_size)
{
	struct in_addr host = { htonl(INADDR_LOOPBACK) }, guest = { inet_addr("10.0.2.15") };
	char protocol[4], address[16] = "", rest;
	unsigned host_port, guest_port;
	bool ok = sscanf(text, "%3[a-z]:%u:%u%c", protocol, &host_port, &guest_port, &rest) == 3 ||
		  sscanf(text, "%3[a-z]:%15[0-9.]:%u:%u%c", protocol, address, &host_port, &guest_port, &rest) == 4;
	bool udp = ok && !strcmp(protocol, "udp");

	if (!ok || (!udp && strcmp(protocol, "tcp")) || (*address && !inet_aton(address, &host)) || !host_port ||
	    host_port > 65535 || !guest_port || guest_port > 65535) {
		snprintf(why, why_size, "forward '%s': give tcp|udp:[HOSTADDRESS:]HOSTPORT:GUESTPORT", text);
		return -EINVAL;
	}
	if (slirp_add_hostfwd(u->slirp, udp, host, (int)host_port, guest, (int)guest_port) < 0) {
		snprintf(why, why_size, "forward '%s': %s", text, strerror(errno));
		return -errno;
	}
	return 0;
}

int port_user_open(const char *owner, const char *const *forwards, unsigned n, struct port **out, char *why, unsigned why_size)
{
	SlirpConfig config = {
		.version = 1,
		.in_enabled = true,
		.vnetwork.s_addr = inet_addr("10.0.2.0"),
		.vnetmask.s_addr = inet_addr("255.255.255.0"),
		.vhost.s_addr = inet_addr("10.0.2.2"),
		.vdhcp_start.s_addr = inet_addr("10.0.2.15"),
		.vnameserver.s_addr = inet_addr("10.0.2.3"),
		.in6_enabled = true,
		.vprefix_len = 64,
	};
	struct user *u = calloc(1, sizeof(*u));
	int err = -ENOMEM;

	inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &config.vhost6);
	inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
	snprintf(why, why_size, "user network: out of memory");
	if (!u)
		return -ENOMEM;
	pthread_mutex_init(&u->lock, NULL);
	u->port = (struct port){ .ops = &user_ops, .n_queues = 1, .mtu = 1500 };
	u->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->slirp = slirp_new(&config, &callbacks, u);
	if (u->wake_fd < 0 || u->ready_fd < 0 || !u->slirp)
		goto fail;
	for (unsigned k = 0; k < n; k++) {
		err = add_forward(u, forwards[k], why, why_size);
		if (err)
			goto fail;
	}
	err = thread_start(&u->thread, owner, "net", serve, u);
	if (err)
		goto fail;
	*out = &u->port;
	return 0;
fail:
	user_free(u);
	return err;
}
