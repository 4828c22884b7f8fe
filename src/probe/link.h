/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The probe's own end of a vhost-user socket. Unlike vhost/message.h, which sends what the specification
 * allows, this sends any bytes and any file descriptors, keeps what went over the socket for the report, and
 * waits no longer than it is told.
 *
 * A link that lost its peer stays lost until it is opened again; every call on it answers -ECONNRESET.
 */
#ifndef GUISE_PROBE_LINK_H
#define GUISE_PROBE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vhost/message.h"

enum { LINK_FDS_MAX = 16, TRANSCRIPT_LINES = 16, TRANSCRIPT_WIDTH = 320 };

struct transcript {
	char line[TRANSCRIPT_LINES][TRANSCRIPT_WIDTH];
	unsigned next, count;
	FILE *trace; /* every line goes here at once, too, with the seconds since start_ns; or NULL */
	uint64_t start_ns;
};
void transcript_clear(struct transcript *t);
void transcript_add(struct transcript *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line for the trace alone: what comes now. */
void transcript_heading(const struct transcript *t, const char *name);
/* Requests were made available on a queue: counted in the last line if that says the same; a trace has the first. */
void transcript_work(struct transcript *t, unsigned queue);
/* The lines, oldest first, one per line of text. */
void transcript_text(const struct transcript *t, char *text, size_t size);

struct link {
	int fd;	       /* -1: not connected */
	int listen_fd; /* server role: kept between connections; else -1 */
	const char *path;
	bool server;
	bool from_back_end; /* we are the back end: what we send are replies */
	unsigned timeout_ms;
	struct vhost_user_receiver receiver;
	struct transcript transcript;
};

/* path stays the caller's. Server role: listens from here on. 0; -errno with a sentence in why. */
int link_init(struct link *link, const char *path, bool server, unsigned timeout_ms, char *why,
	      size_t why_size);
void link_deinit(struct link *link);
/* Connect, or wait for the peer to connect. 0; -ETIMEDOUT; -errno. */
int link_open(struct link *link, unsigned timeout_ms);
void link_close(struct link *link);

/* Send a message as it should be. Its descriptors stay the caller's. 0; -ECONNRESET; -ETIMEDOUT: the peer
 * does not read. */
int link_send(struct link *link, const struct vhost_user_message *m);
/*
 * Send m's header as it stands, `len` bytes of payload whatever the header says, and these descriptors
 * instead of its own. len is at most VHOST_USER_MAX_PAYLOAD, n_fds at most LINK_FDS_MAX.
 */
int link_send_raw(struct link *link, const struct vhost_user_message *m, size_t len, const int *fds,
		  unsigned n_fds);
/* Any bytes, without descriptors. */
int link_send_bytes(struct link *link, const void *data, size_t size);
/* The next message; its descriptors are the caller's. 0; -ETIMEDOUT; -ECONNRESET: closed; -EPROTO: no whole
 * or no sane message. */
int link_receive(struct link *link, struct vhost_user_message *m, unsigned timeout_ms);
/* Has the peer closed the connection within so many ms? Reads nothing. */
bool link_is_closed(struct link *link, unsigned timeout_ms);

#endif
