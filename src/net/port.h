/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A network attachment: where frames come from and go to. A VM's network card talks to one port; a switch is many ports
 * and a table.
 *
 * Every packet carries a struct virtio_net_hdr_v1 in front of the frame, in both directions, so that checksum and
 * segmentation offloads pass through a port unchanged or are done in it. What a port cannot do it does not offer.
 *
 * Threads: a queue's calls come from one thread at a time; different queues may be used by different threads.
 */
#ifndef GUISE_NET_PORT_H
#define GUISE_NET_PORT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum { PORT_HEADER = sizeof(struct virtio_net_hdr_v1), PORT_MAX_PACKET = PORT_HEADER + 65536 + 14 };

struct port_packet {
	const struct iovec *iov; /* the header first; framed as the caller likes */
	unsigned n_iov;
	uint32_t bytes; /* send: of the packet; receive: room in iov, then what was put there */
};

/* Offloads: what may be left undone in a packet that is sent to the port, or that it hands out. */
enum { PORT_CSUM = 1, PORT_TSO4 = 2, PORT_TSO6 = 4, PORT_ECN = 8, PORT_UFO = 16, PORT_USO = 32 };

struct port;

struct port_ops {
	const char *kind; /* "user", "tap", ... */
	/* Send up to n packets; how many were taken (dropped ones too), or -errno. Does not block. */
	int (*send)(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n);
	/* Fill up to n packets; how many were filled, 0: none waiting. Does not block. A packet that does not fit is dropped. */
	int (*receive)(struct port *port, unsigned queue, struct port_packet *packets, unsigned n);
	int (*receive_fd)(struct port *port, unsigned queue); /* readable while packets wait; the port's */
	/* The reader accepts these offloads in what it receives. Returns 0/-errno. NULL: nothing to set. */
	int (*set_receive_offloads)(struct port *port, unsigned offloads);
	/* Use the first n queues only. NULL: nothing to set. */
	int (*set_queues)(struct port *port, unsigned n);
	void (*close)(struct port *port);
};

struct port_counters {
	uint64_t tx_packets, tx_bytes, tx_dropped, rx_packets, rx_bytes, rx_dropped;
};

struct port {
	const struct port_ops *ops;
	unsigned n_queues;
	unsigned send_offloads, receive_offloads; /* PORT_*: what it can take and give */
	uint16_t mtu;
	struct port_counters counters;
};

/*
 * User-mode NAT (libslirp), rootless: the guest gets 10.0.2.15 by DHCP, gateway 10.0.2.2, DNS 10.0.2.3. `forwards`:
 * n strings "tcp:8080:80" or "udp:HOSTADDR:5353:53", listened to on the host (127.0.0.1 unless an address is given).
 * owner names the port's thread. 0/-errno with a sentence in why.
 */
int port_user_open(const char *owner, const char *const *forwards, unsigned n, struct port **port, char *why, unsigned why_size);

/* An existing or new TAP interface with vnet headers and up to n_queues queues. 0/-errno with a sentence in why. */
int port_tap_open(const char *name, unsigned n_queues, struct port **port, char *why, unsigned why_size);

#endif
