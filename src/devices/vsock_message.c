/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SEQPACKET (virtio 1.3, 5.10.6.6.1): messages with their boundaries, over a Unix socket of that type. A message
 * comes and goes in packets, the last of which has SEQ_EOM; the socket takes and gives messages whole.
 *
 * Guest to host: parts wait in the stream's buffer until their message is whole; the lengths of whole messages that the
 * host program has not taken stand beside it. Credit bounds the bytes, VSOCK_MAX_MESSAGES their number, beyond
 * which the connection is reset; a message can be as long as our credit.
 *
 * Host to guest: a message that fits is read straight into the driver's buffer, another one is kept and sent in parts.
 * What is longer than the guest's whole buffer would never arrive (its reader waits for the end), so it resets the
 * connection.
 *
 * Not passed on: empty messages, which readers would take for the end, and SEQ_EOR, because Unix sockets have no such mark.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "devices/vsock_internal.h"

/* --- guest to host --- */

static bool make_room(struct vsock_stream *s)
{
	if (!s->buffer) {
		s->buffer = malloc(VSOCK_BUFFER);
		s->buffer_head = 0;
	}
	if (!s->length) {
		s->length = malloc(VSOCK_MAX_MESSAGES * sizeof(*s->length));
		s->length_head = 0;
	}
	return s->buffer && s->length;
}

void vsock_message_forget(struct vsock_stream *s)
{
	free(s->length);
	s->length = NULL;
	s->n_messages = s->partial = 0;
}

void vsock_message_deinit(struct vsock_stream *s)
{
	vsock_message_forget(s);
	free(s->message);
	s->message = NULL;
}

void vsock_message_flush(struct vsock_stream *s)
{
	while (s->n_messages) {
		uint32_t len = s->length[s->length_head], behind = VSOCK_BUFFER - s->buffer_head;
		uint32_t first = behind < len ? behind : len;
		struct iovec iov[2] = { { s->buffer + s->buffer_head, first }, { s->buffer, len - first } };
		ssize_t taken = vsock_stream_give(s, iov, len > first ? 2 : 1);

		if (taken < 0)
			vsock_stream_deaf(s);
		if (taken <= 0)
			return;
		s->buffer_head = (s->buffer_head + len) % VSOCK_BUFFER;
		s->buffer_used -= len;
		s->forwarded += len;
		s->length_head = (s->length_head + 1) % VSOCK_MAX_MESSAGES;
		s->n_messages--;
	}
	if (s->buffer_used)
		return;
	free(s->buffer);
	s->buffer = NULL;
	vsock_message_forget(s);
}

/* The bytes are in the buffer: is it a message now? false: there are too many. */
static bool end_message(struct vsock_stream *s)
{
	if (!s->partial)
		return true;
	if (s->n_messages == VSOCK_MAX_MESSAGES)
		return false;
	s->length[(s->length_head + s->n_messages++) % VSOCK_MAX_MESSAGES] = s->partial;
	s->partial = 0;
	vsock_message_flush(s);
	return true;
}

bool vsock_message_take(struct vsock_stream *s, uint32_t flags, uint32_t len, struct iovec *payload, unsigned n)
{
	bool ends = flags & VIRTIO_VSOCK_SEQ_EOM;
	ssize_t taken = 0;

	if (ends && len && !s->buffer_used) {
		taken = vsock_stream_give(s, payload, n);
		if (taken > 0) {
			s->forwarded += len;
			return true;
		}
	}
	if (taken < 0 || (len && !make_room(s))) {
		vsock_stream_deaf(s);
		s->forwarded += len;
		return true;
	}
	vsock_stream_keep(s, payload, n, 0);
	s->partial += len;
	return !ends || end_message(s);
}

/* --- host to guest --- */

/* A read of nothing: the end, or an empty message? */
static bool is_end(const struct vsock_stream *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLRDHUP };
	int waiting = 0;

	return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR) &&
	       (ioctl(s->fd, FIONREAD, &waiting) || !waiting);
}

/* The length of the next message; 0: nothing now, or there was an empty one; what has changed is known then. */
static size_t next_length(struct vsock_stream *s)
{
	ssize_t len = recv(s->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);

	if (len > 0 && len <= VSOCK_BUFFER && (uint64_t)len <= s->peer_buffer)
		return (size_t)len;
	if (len > 0)
		vsock_stream_kill(s);
	else if (len < 0 || is_end(s))
		vsock_stream_read_nothing(s, len);
	else if (recv(s->fd, NULL, 0, MSG_DONTWAIT) < 0)
		vsock_stream_read_nothing(s, -1);
	return 0;
}

/* All of it, into the driver's buffer. */
static uint32_t read_into(struct vsock_stream *s, const struct iovec *room, unsigned n)
{
	struct msghdr message = { .msg_iov = (struct iovec *)room, .msg_iovlen = n };
	ssize_t got = recvmsg(s->fd, &message, MSG_DONTWAIT);

	return got > 0 ? (uint32_t)got : 0;
}

static bool read_whole(struct vsock_stream *s, size_t len)
{
	s->message = malloc(len);
	if (!s->message || recv(s->fd, s->message, len, MSG_DONTWAIT) != (ssize_t)len) {
		vsock_stream_kill(s);
		return false;
	}
	s->message_size = (uint32_t)len;
	s->message_sent = 0;
	return true;
}

/* As much of the kept message as there is room for. */
static uint32_t next_part(struct vsock_stream *s, const struct iovec *room, unsigned n, uint32_t limit)
{
	uint32_t left = s->message_size - s->message_sent, done = 0;

	if (left > limit)
		left = limit;
	for (unsigned k = 0; k < n && done < left; k++) {
		uint32_t part = room[k].iov_len < left - done ? (uint32_t)room[k].iov_len : left - done;

		memcpy(room[k].iov_base, s->message + s->message_sent + done, part);
		done += part;
	}
	s->message_sent += done;
	return done;
}

uint32_t vsock_message_make(struct vsock_stream *s, const struct iovec *room, unsigned n, uint32_t limit, uint32_t *flags)
{
	uint64_t space = 0;
	uint32_t done;

	for (unsigned k = 0; k < n; k++)
		space += room[k].iov_len;
	if (limit > space)
		limit = (uint32_t)space;
	if (!s->message) {
		size_t len = next_length(s);

		if (!len)
			return 0;
		if (len > limit && !read_whole(s, len))
			return 0;
	}
	done = s->message ? next_part(s, room, n, limit) : read_into(s, room, n);
	s->sent += done;
	if (!s->message || s->message_sent == s->message_size) {
		*flags = done ? VIRTIO_VSOCK_SEQ_EOM : 0;
		free(s->message);
		s->message = NULL;
	}
	return done;
}
