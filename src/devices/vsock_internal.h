/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to vsock*.c. All of it belongs to the device's loop thread, unless it says otherwise. */
#ifndef GUISE_DEVICES_VSOCK_INTERNAL_H
#define GUISE_DEVICES_VSOCK_INTERNAL_H

#include <linux/virtio_vsock.h>
#include <sys/uio.h>

#include "base/loop.h"
#include "devices/vsock.h"

enum {
	VSOCK_HOST_CID = 2, VSOCK_HEADER = sizeof(struct virtio_vsock_hdr), VSOCK_BUFFER = 256 << 10, VSOCK_MAX_PAYLOAD = 64 << 10,
	VSOCK_MAX_STREAMS = 1024, VSOCK_BUCKETS = 256, VSOCK_MAX_RESETS = 128, VSOCK_SEGMENTS = 64
};
#define VSOCK_PATIENCE_NS 10000000000ull  /* for a handshake's next step */
#define VSOCK_FAREWELL_NS 120000000000ull /* for a guest's RESET when all has been said; its program may still be reading */

/* Packets that a stream has still to send, lowest first. */
enum {
	SEND_REQUEST = 1, SEND_RESPONSE = 2, SEND_RESET = 4, SEND_CREDIT_UPDATE = 8, SEND_CREDIT_REQUEST = 16, SEND_SHUTDOWN = 32
};

enum vsock_state {
	VSOCK_GREETING, /* a host program connected and has not said CONNECT yet: no ports, not in the table */
	VSOCK_ASKED,	/* the guest was sent a REQUEST */
	VSOCK_OPEN,
	VSOCK_DEAD	/* only a RESET is left to be sent */
};

struct vsock_stream {
	struct vsock *vsock;
	struct vsock_stream *next, *previous; /* all streams */
	struct vsock_stream *bucket_next;
	struct vsock_stream *ready_next;
	bool is_ready;	 /* in the ready list */
	enum vsock_state state;
	uint32_t host_port, guest_port;
	uint64_t deadline_ns; /* 0: none */

	int fd;				/* -1: closed */
	struct loop_source *source;	/* NULL: not watched */
	bool hung_up;			/* the host program is gone; fd is not watched any more */
	bool may_read;			/* the last we know is that fd has bytes, or its end */
	unsigned send;			/* SEND_* */
	bool host_ended, host_deaf;	/* the host program sends no more; takes no more */
	bool guest_ended, guest_deaf;	/* the guest likewise, by its SHUTDOWN */
	unsigned told_shutdown;		/* VIRTIO_VSOCK_SHUTDOWN_* that the guest knows */
	char line[32];			/* GREETING */
	unsigned line_used;

	/* guest to host: bytes that the host program has not taken yet, in a ring of VSOCK_BUFFER bytes or NULL */
	uint8_t *buffer;
	uint32_t buffer_head, buffer_used;
	uint32_t received, forwarded, told_forwarded; /* running counts, modulo 2^32 */
	/* host to guest */
	uint32_t sent, peer_forwarded, peer_buffer;
	bool credit_asked;
};

struct vsock_ports {
	uint32_t host, guest;
};

struct vsock {
	struct virtio_device device;
	uint32_t cid;
	char *path;
	struct loop *loop;
	pthread_t thread;
	bool has_thread;
	_Atomic bool running;
	int listen_fd;
	struct loop_source *listener, *sweep, *rx_kick, *tx_kick, *event_kick;
	_Atomic bool listener_paused;
	struct vsock_stream *streams, *bucket[VSOCK_BUCKETS];
	unsigned n_streams;
	struct vsock_stream *ready_head, *ready_tail;
	struct vsock_ports reset[VSOCK_MAX_RESETS]; /* for packets that belong to no stream */
	unsigned n_resets;
	uint32_t next_host_port;
};

/* vsock_stream.c */
struct vsock_stream *vsock_stream_new(struct vsock *v, int fd); /* NULL: no room, fd is closed; state GREETING */
void vsock_stream_free(struct vsock_stream *s);
struct vsock_stream *vsock_stream_find(struct vsock *v, uint32_t host_port, uint32_t guest_port);
void vsock_stream_name(struct vsock_stream *s, uint32_t host_port, uint32_t guest_port); /* into the table */
/* A packet of the guest for it; payload: what is behind the header, n segments. */
void vsock_stream_take(struct vsock_stream *s, const struct virtio_vsock_hdr *header, struct iovec *payload, unsigned n);
/*
 * Make its next packet: header, and payload straight into the driver's buffer of `room` bytes behind the header. false:
 * it has nothing to send now. *done: the stream has sent its last.
 */
bool vsock_stream_make(struct vsock_stream *s, struct virtio_vsock_hdr *header, const struct iovec *room, unsigned n, bool *done);
bool vsock_stream_has_more(const struct vsock_stream *s);
void vsock_stream_events(void *stream, uint32_t events); /* its fd's */
void vsock_stream_watch(struct vsock_stream *s);	 /* for what its fd has to be watched for */
void vsock_stream_kill(struct vsock_stream *s);		 /* RESET to the guest, the host's end is closed */

/* vsock_host.c */
int vsock_host_listen(struct vsock *v, char *why, size_t why_size);
void vsock_host_greet(struct vsock_stream *s); /* read the CONNECT line */
void vsock_host_accept_again(struct vsock *v); /* there is room for a stream again */
/* The guest wants to connect to a port of the host: an answer is queued. */
void vsock_host_request(struct vsock *v, const struct virtio_vsock_hdr *header);

/* vsock.c */
void vsock_ready(struct vsock_stream *s);	  /* it has something to send */
void vsock_unready(struct vsock_stream *s);
void vsock_pump(struct vsock *v);		  /* send what can be sent */
void vsock_refuse(struct vsock *v, uint32_t host_port, uint32_t guest_port); /* RESET for no stream */
void vsock_sweep_later(struct vsock *v);		  /* look at deadlines and at a paused listener within a second */
void vsock_expect_by(struct vsock_stream *s, uint64_t patience_ns); /* 0: for ever */

#endif
