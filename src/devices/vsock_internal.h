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
	VSOCK_MAX_STREAMS = 1024, VSOCK_BUCKETS = 256, VSOCK_MAX_RESETS = 128, VSOCK_SEGMENTS = 64,
	VSOCK_MAX_MESSAGES = 16384 /* that wait for a host program, of one connection */
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
	uint16_t type; /* VIRTIO_VSOCK_TYPE_* */
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

	/* SEQPACKET, guest to host: of the bytes in buffer, the lengths of whole messages, in a ring or NULL; the rest is the
	 * beginning of another message */
	uint32_t *length;
	uint32_t length_head, n_messages, partial;
	/* SEQPACKET, host to guest: a message of which the guest has got but a part, or NULL */
	uint8_t *message;
	uint32_t message_size, message_sent;
};

struct vsock_ports {
	uint32_t host, guest;
	uint16_t type;
};

/* Where host programs connect. */
struct vsock_listener {
	struct vsock *vsock;
	uint16_t type;
	char *path;
	int fd; /* -1: not open */
	struct loop_source *source;
};
enum { VSOCK_LISTENERS = 2 };

struct vsock {
	struct virtio_device device;
	uint32_t cid;
	char *path;
	struct loop *loop;
	pthread_t thread;
	bool has_thread;
	_Atomic bool running;
	struct vsock_listener listener[VSOCK_LISTENERS];
	struct loop_source *sweep, *rx_kick, *tx_kick, *event_kick;
	_Atomic bool listener_paused;
	struct vsock_stream *streams, *bucket[VSOCK_BUCKETS];
	unsigned n_streams;
	struct vsock_stream *ready_head, *ready_tail;
	struct vsock_ports reset[VSOCK_MAX_RESETS]; /* for packets that belong to no stream */
	unsigned n_resets;
	uint32_t next_host_port;
};

/* vsock_stream.c */
struct vsock_stream *vsock_stream_new(struct vsock *v, uint16_t type, int fd); /* NULL: no room, fd is closed; state GREETING */
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

/* How much the socket took, messages whole or not at all; -1: it will never take anything. */
ssize_t vsock_stream_give(struct vsock_stream *s, struct iovec *iov, unsigned n);
void vsock_stream_keep(struct vsock_stream *s, const struct iovec *iov, unsigned n, size_t skip); /* into the buffer */
/* The host program will take no more: what waited for it is lost, and the guest hears of it. */
void vsock_stream_deaf(struct vsock_stream *s);
uint32_t vsock_stream_credit(const struct vsock_stream *s); /* bytes that the guest has room for */
/* The host's socket has nothing now, or it has ended: `got` and errno are of a read. */
void vsock_stream_read_nothing(struct vsock_stream *s, ssize_t got);

/* vsock_message.c: what is different for SEQPACKET */
/* A packet of the guest: part of a message. false: it breaks the rules. */
bool vsock_message_take(struct vsock_stream *s, uint32_t flags, uint32_t len, struct iovec *payload, unsigned n);
void vsock_message_flush(struct vsock_stream *s); /* what the host program takes of the whole ones */
/*
 * The next part of a message into the driver's buffer, `limit` bytes at most: how much, and *flags of it. 0: nothing now; or what
 * has changed is in s->send.
 */
uint32_t vsock_message_make(struct vsock_stream *s, const struct iovec *room, unsigned n, uint32_t limit, uint32_t *flags);
void vsock_message_forget(struct vsock_stream *s); /* of the guest's messages */
void vsock_message_deinit(struct vsock_stream *s);

/* vsock_host.c */
int vsock_host_listen(struct vsock *v, char *why, size_t why_size);
void vsock_host_close(struct vsock *v);
void vsock_host_greet(struct vsock_stream *s); /* read the CONNECT line */
void vsock_host_accept_again(struct vsock *v); /* there is room for a stream again */
/* The guest wants to connect to a port of the host: an answer is queued. */
void vsock_host_request(struct vsock *v, const struct virtio_vsock_hdr *header);

/* vsock.c */
void vsock_ready(struct vsock_stream *s);	  /* it has something to send */
void vsock_unready(struct vsock_stream *s);
void vsock_pump(struct vsock *v);		  /* send what can be sent */
void vsock_refuse(struct vsock *v, const struct virtio_vsock_hdr *header); /* RESET for no stream, in answer to this */
void vsock_sweep_later(struct vsock *v);		  /* look at deadlines and at a paused listener within a second */
void vsock_expect_by(struct vsock_stream *s, uint64_t patience_ns); /* 0: for ever */

#endif
