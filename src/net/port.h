/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is behind a port (guise/port.h has what its users see): the seam for kinds of ports, and the kinds of this folder. virtio_user/
 * has those that are made of virtqueues.
 */
#ifndef GUISE_NET_PORT_H
#define GUISE_NET_PORT_H

#include <guise/port.h>

struct port_pool;

enum { PORT_MAX_QUEUES = 64 };

/* What a kind of port does. The calls are those of guise/port.h, which says more; NULL where it has nothing to do. */
struct port_ops {
	const char *kind; /* "user", "tap", ... */
	int (*send)(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n);
	int (*receive)(struct port *port, unsigned queue, struct port_packet *packets, unsigned n);
	int (*receive_fd)(struct port *port, unsigned queue); /* readable while packets wait; the port's */
	/* The reader accepts these offloads in what it receives. Returns 0/-errno. NULL: nothing to set. */
	int (*set_receive_offloads)(struct port *port, unsigned offloads);
	/* Use the first n queues only. NULL: nothing to set. */
	int (*set_queues)(struct port *port, unsigned n);
	void (*close)(struct port *port);
	const struct port_burst_ops *burst; /* NULL: buffers of port.pool, copied by send and receive */
	void (*set_polling)(struct port *port, bool on);
	bool (*is_up)(const struct port *port);		/* NULL: always */
	int (*wait)(struct port *port, int timeout_ms); /* NULL: it is up */
	/* NULL: port.counters is all */
	void (*counters)(const struct port *port, struct port_counters *counters);
};

/* Ports that have buffers of their own: all four, none NULL. */
struct port_burst_ops {
	unsigned (*lend)(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n);
	unsigned (*submit)(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n);
	unsigned (*collect)(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n);
	void (*give_back)(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n);
};

struct port {
	const struct port_ops *ops;
	const char *name;		/* for messages; the port's */
	unsigned n_queues;
	unsigned send_offloads, receive_offloads; /* PORT_*: what it can take and give */
	uint16_t mtu;
	int error;			/* atomic; port_error() */
	struct port_counters counters;
	struct port_pool *pool[PORT_MAX_QUEUES]; /* made when first lent from; port_pool.c */
};

/* Count: one thread writes a counter, any may read it. */
static inline void port_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline void port_counters_add(struct port_counters *sum, const struct port_counters *c)
{
	sum->tx_packets += __atomic_load_n(&c->tx_packets, __ATOMIC_RELAXED);
	sum->tx_bytes += __atomic_load_n(&c->tx_bytes, __ATOMIC_RELAXED);
	sum->tx_dropped += __atomic_load_n(&c->tx_dropped, __ATOMIC_RELAXED);
	sum->rx_packets += __atomic_load_n(&c->rx_packets, __ATOMIC_RELAXED);
	sum->rx_bytes += __atomic_load_n(&c->rx_bytes, __ATOMIC_RELAXED);
	sum->rx_dropped += __atomic_load_n(&c->rx_dropped, __ATOMIC_RELAXED);
}

/* The port will never work again, err (-errno) and `why` being the reason: port_error() is it, and it is logged, once. Any thread. */
void port_fail(struct port *port, int err, const char *why);

/*
 * User-mode NAT (libslirp), rootless: the guest gets 10.0.2.15 by DHCP, gateway 10.0.2.2, DNS 10.0.2.3. `forwards`:
 * n strings "tcp:8080:80" or "udp:HOSTADDR:5353:53", listened to on the host (127.0.0.1 unless an address is given).
 * owner names the port's thread. 0/-errno with a sentence in why.
 */
int port_user_open(const char *owner, const char *const *forwards, unsigned n, struct port **port, char *why, unsigned why_size);

/*
 * By what calls a TAP's packets move: as is best here, or io_uring wherever the kernel allows, or for writes only (all that it is good for
 * before Linux 6.4), or never.
 */
enum tap_calls { TAP_AUTO, TAP_URING, TAP_URING_WRITES, TAP_PLAIN };

/*
 * An existing or new TAP interface with vnet headers and n_queues queues, 1 to 16. 0/-errno with a sentence in why. Its
 * port_receive_fd() is the queue's file itself, which the kernel's vhost wants: who hands it there needs TAP_PLAIN only.
 */
int port_tap_open(const char *name, unsigned n_queues, enum tap_calls calls, struct port **port, char *why, unsigned why_size);

/* Buffers for ports that have none (port_pool.c): what port_lend() and the others do for them. */
unsigned port_pool_lend(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n);
unsigned port_pool_submit(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n);
unsigned port_pool_collect(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n);
void port_pool_give_back(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n);
void port_pool_free(struct port *port);

#endif
