/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A network attachment: where frames come from and go to, in bursts. A VM's network card talks to one port; a switch is many
 * ports and a table; a program or container opens one to drive a virtqueue itself, or to serve one.
 *
 * Every packet carries a struct virtio_net_hdr_v1 in front of the frame, in both directions, so that checksum and
 * segmentation offloads pass through a port unchanged or are done in it. What a port cannot do it does not offer.
 *
 * There are two ways to move packets, and they mix. port_send() and port_receive() copy from and to the caller's memory.
 * port_lend(), port_submit(), port_collect() and port_give_back() pass the port's own buffers, which for a virtio_user port
 * are the very memory that the device reads and writes: nothing is copied on this side.
 *
 * Waiting: port_receive_fd() is readable when packets may have come, once a receive or collect has found none. A port whose
 * user asks again and again does better without: port_set_polling().
 *
 * Threads: a queue's calls come from one thread at a time; different queues may be used by different threads. What has no
 * queue argument may be called from any thread, but not at the same time as port_close().
 */
#ifndef GUISE_PORT_H
#define GUISE_PORT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { PORT_HEADER = sizeof(struct virtio_net_hdr_v1), PORT_MAX_PACKET = PORT_HEADER + 65536 + 14 };

/* Most buffers that one packet is spread over by port_collect(): ask for at least as many. */
enum { PORT_MAX_PIECES = 40 };

struct port;

/* A packet in the caller's memory. */
struct port_packet {
	const struct iovec *iov; /* the header first; framed as the caller likes */
	unsigned n_iov;
	uint32_t bytes; /* send: of the packet; receive: room in iov, then what was put there */
};

/* A packet, or a piece of one, in a buffer of the port. */
struct port_buffer {
	uint8_t *data;	/* the header, then the frame; a further piece: frame only */
	uint32_t bytes; /* that count */
	uint32_t room;	/* that the buffer has */
	bool more;	/* the packet goes on in the next buffer of the array */
};

/* Offloads: what may be left undone in a packet that is sent to the port, or that it hands out. */
enum { PORT_CSUM = 1, PORT_TSO4 = 2, PORT_TSO6 = 4, PORT_ECN = 8, PORT_UFO = 16, PORT_USO = 32 };

struct port_counters {
	uint64_t tx_packets, tx_bytes, tx_dropped, rx_packets, rx_bytes, rx_dropped;
};

/*
 * Open a port by its description:
 *
 *	vhost-user:PATH[,server][,queues=N][,packed][,size=N][,mtu=N][,mac=M]	drive the virtqueues of a vhost-user back end
 *	vhost-user:PATH,back[,client][,queues=N][,size=N][,mtu=N]	be the back end of a vhost-user front end (a VM, a container)
 *	vhost-kernel:/dev/vhost-net,iface=TAP[,queues=N][,packed][,size=N]	drive the host kernel's vhost with a TAP interface
 *	tap:NAME[,queues=N][,no-io-uring]	a TAP interface, without vhost
 *	user[,fwd=tcp:8080:80]...	user-mode NAT
 *
 * owner names the port's threads and begins its messages. A vhost-user port is opened whether its other side is there or
 * not, and finds it again whenever it went away: see port_wait(). 0, or -errno with a sentence in why (of why_size bytes).
 */
int port_open(const char *owner, const char *description, struct port **port, char *why, size_t why_size);
void port_close(struct port *port);

const char *port_kind(const struct port *port);
unsigned port_queues(const struct port *port);	/* pairs of a receiving and a sending queue */
uint16_t port_mtu(const struct port *port);	/* bytes */
unsigned port_send_offloads(const struct port *port);	 /* PORT_*: what it can take; known when the link is up */
unsigned port_receive_offloads(const struct port *port); /* PORT_*: what it can give */
bool port_is_up(const struct port *port);
/* -errno once the port is broken for good and will not come up again (-ENODEV: its interface was deleted); else 0. */
int port_error(const struct port *port);
/* Wait until the link is up. 0, -ETIMEDOUT. timeout_ms -1: for ever. */
int port_wait(struct port *port, int timeout_ms);
/* Sums over all queues; not a snapshot. */
void port_get_counters(const struct port *port, struct port_counters *counters);

/* The user accepts these offloads in what it receives; the rings may start anew. 0/-errno. Not while queues are in use. */
int port_set_receive_offloads(struct port *port, unsigned offloads);
/*
 * Use the first n queues only, 1 to port_queues(): what comes afterwards comes on these, also when the other side or the rings have begun
 * anew; what came before waits in its queue. At first all are used. 0; -EINVAL: not so many; -errno. Not while the others are in use.
 */
int port_set_queues(struct port *port, unsigned n);
/*
 * on: the user looks for packets all the time, so port_receive_fd() may stay silent, and what was sent may be announced by a
 * later call for its queue: who stops sending calls port_submit() with n = 0 once. Not while queues are in use.
 */
void port_set_polling(struct port *port, bool on);
/* Readable while, or after, packets came; reading from it is the port's business. A descriptor of the port's. */
int port_receive_fd(struct port *port, unsigned queue);

/* Send up to n packets; how many were taken (dropped ones too), or -errno. Does not block. */
int port_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n);
/* Fill up to n packets; how many were filled, 0: none waiting. Does not block. A packet that does not fit is dropped. */
int port_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n);

/* Up to n empty buffers to fill and submit, or to give back. How many there were. */
unsigned port_lend(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n);
/* Send what is in n lent buffers. How many of them were taken, from the first on; the others stay lent. */
unsigned port_submit(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n);
/* Received packets, in up to n buffers that are lent until they are given back. How many buffers; 0: none waiting. */
unsigned port_collect(struct port *port, unsigned queue, struct port_buffer *buffers, unsigned n);
/* Buffers of this queue, from port_lend() (unused) or port_collect(), go back. */
void port_give_back(struct port *port, unsigned queue, const struct port_buffer *buffers, unsigned n);

#ifdef __cplusplus
}
#endif
#endif
