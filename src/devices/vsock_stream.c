/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One vsock connection: a Unix socket on one side, packets on the other (virtio 1.3, 5.10.6).
 *
 *	GREETING -> ASKED -> OPEN		the host program connects
 *	OPEN					the guest connects: the host program's socket is there already
 *	any -> DEAD -> gone			a RESET is sent, or one comes
 *
 * Credit: a side may send as much as the other's buffer has room for. We give VSOCK_BUFFER bytes and count as forwarded
 * what the host program's socket has taken; what it has not waits in a ring of that size. Towards the guest we read from
 * the socket no more than the guest's credit, straight into its buffer, so nothing waits here.
 *
 * Ends: bytes end when read() says so, and the guest is told by SHUTDOWN; a guest's SHUTDOWN for sending becomes
 * shutdown(SHUT_WR) behind the last byte. After a SHUTDOWN both ways, RESET is the answer that ends the stream
 * (5.10.6.5): ours when all bytes have gone, the guest's within VSOCK_FAREWELL_NS.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/vsock_internal.h"

/* --- the table --- */

static struct vsock_stream **bucket_of(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	return &v->bucket[(host_port * 2654435761u ^ guest_port * 2246822519u) >> 24 & (VSOCK_BUCKETS - 1)];
}

struct vsock_stream *vsock_stream_find(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_stream *s = *bucket_of(v, host_port, guest_port);

	while (s && (s->host_port != host_port || s->guest_port != guest_port))
		s = s->bucket_next;
	return s;
}

void vsock_stream_name(struct vsock_stream *s, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_stream **bucket = bucket_of(s->vsock, host_port, guest_port);

	s->host_port = host_port;
	s->guest_port = guest_port;
	s->bucket_next = *bucket;
	*bucket = s;
}

static void unname(struct vsock_stream *s)
{
	struct vsock_stream **link = bucket_of(s->vsock, s->host_port, s->guest_port);

	while (*link && *link != s)
		link = &(*link)->bucket_next;
	if (*link)
		*link = s->bucket_next;
}

struct vsock_stream *vsock_stream_new(struct vsock *v, uint16_t type, int fd)
{
	struct vsock_stream *s = v->n_streams < VSOCK_MAX_STREAMS ? calloc(1, sizeof(*s)) : NULL;
	const int buffer = VSOCK_BUFFER;

	if (!s) {
		close(fd);
		return NULL;
	}
	s->vsock = v;
	s->type = type;
	s->fd = fd;
	if (type == VIRTIO_VSOCK_TYPE_SEQPACKET) /* or the longest messages would not go */
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	s->next = v->streams;
	if (s->next)
		s->next->previous = s;
	v->streams = s;
	v->n_streams++;
	return s;
}

static void close_host(struct vsock_stream *s)
{
	loop_del(s->source);
	s->source = NULL;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	free(s->buffer);
	s->buffer = NULL;
	s->buffer_used = 0;
	vsock_message_deinit(s);
}

void vsock_stream_free(struct vsock_stream *s)
{
	struct vsock *v = s->vsock;

	close_host(s);
	vsock_unready(s);
	if (s->state != VSOCK_GREETING)
		unname(s);
	if (s->previous)
		s->previous->next = s->next;
	else
		v->streams = s->next;
	if (s->next)
		s->next->previous = s->previous;
	v->n_streams--;
	free(s);
	vsock_host_accept_again(v);
}

void vsock_stream_kill(struct vsock_stream *s)
{
	if (s->state == VSOCK_GREETING) {
		vsock_stream_free(s);
		return;
	}
	close_host(s);
	s->state = VSOCK_DEAD;
	s->send = SEND_RESET;
	s->deadline_ns = 0;
	vsock_ready(s);
}

/* --- what there is to do --- */

uint32_t vsock_stream_credit(const struct vsock_stream *s)
{
	uint32_t outstanding = s->sent - s->peer_forwarded;

	return outstanding < s->peer_buffer ? s->peer_buffer - outstanding : 0;
}

static bool wants_host_bytes(const struct vsock_stream *s)
{
	return s->state == VSOCK_OPEN && !s->host_ended && !s->guest_deaf;
}

static bool is_messages(const struct vsock_stream *s)
{
	return s->type == VIRTIO_VSOCK_TYPE_SEQPACKET;
}

/* Is there something for the host's socket to take? The beginning of a message is not. */
static bool has_backlog(const struct vsock_stream *s)
{
	return is_messages(s) ? s->n_messages : s->buffer_used;
}

bool vsock_stream_has_more(const struct vsock_stream *s)
{
	return s->send || ((s->may_read || s->message) && wants_host_bytes(s) && (vsock_stream_credit(s) || !s->credit_asked));
}

void vsock_stream_watch(struct vsock_stream *s)
{
	uint32_t events = (s->state == VSOCK_GREETING || (wants_host_bytes(s) && !s->may_read) ? EPOLLIN : 0) |
			  (has_backlog(s) ? EPOLLOUT : 0);

	if (s->fd < 0 || s->hung_up)
		return;
	if (s->source)
		loop_set_events(s->source, events);
	else if (loop_add(s->vsock->loop, s->fd, events, vsock_stream_events, s, &s->source))
		vsock_stream_kill(s);
}

void vsock_stream_deaf(struct vsock_stream *s)
{
	s->host_deaf = true;
	s->forwarded += s->buffer_used;
	s->buffer_used = 0;
	free(s->buffer);
	s->buffer = NULL;
	vsock_message_forget(s);
}

/* After anything changed: ends that are due, news for the guest, what to watch for. The stream may be DEAD afterwards. */
static void settle(struct vsock_stream *s)
{
	unsigned shutdown_flags = (s->host_deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0) | (s->host_ended ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0);

	if (s->state == VSOCK_OPEN && s->guest_ended && !has_backlog(s)) {
		if (s->guest_deaf) {
			vsock_stream_kill(s);
			return;
		}
		shutdown(s->fd, SHUT_WR);
	}
	if (s->state == VSOCK_OPEN && shutdown_flags & ~s->told_shutdown)
		s->send |= SEND_SHUTDOWN;
	/* The guest thinks that less than half of our buffer is free, and it is not so. */
	if (s->received - s->told_forwarded > VSOCK_BUFFER / 2 && s->forwarded != s->told_forwarded)
		s->send |= SEND_CREDIT_UPDATE;
	if (vsock_stream_has_more(s))
		vsock_ready(s);
	vsock_stream_watch(s);
}

/* --- guest to host --- */

void vsock_stream_keep(struct vsock_stream *s, const struct iovec *iov, unsigned n, size_t skip)
{
	for (unsigned k = 0; k < n; k++) {
		size_t from = skip < iov[k].iov_len ? skip : iov[k].iov_len;

		skip -= from;
		while (from < iov[k].iov_len) {
			uint32_t at = (s->buffer_head + s->buffer_used) % VSOCK_BUFFER;
			size_t part = iov[k].iov_len - from < VSOCK_BUFFER - at ? iov[k].iov_len - from : VSOCK_BUFFER - at;

			memcpy(s->buffer + at, (uint8_t *)iov[k].iov_base + from, part);
			s->buffer_used += (uint32_t)part;
			from += part;
		}
	}
}

ssize_t vsock_stream_give(struct vsock_stream *s, struct iovec *iov, unsigned n)
{
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = n };
	ssize_t taken = sendmsg(s->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

	return taken >= 0 ? taken : errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ENOMEM ? 0 : -1;
}

static void take_bytes(struct vsock_stream *s, uint32_t len, struct iovec *payload, unsigned n)
{
	ssize_t taken = 0;

	s->received += len;
	if (!len)
		return;
	if (!s->host_deaf && !s->buffer_used)
		taken = vsock_stream_give(s, payload, n);
	if (taken < 0)
		vsock_stream_deaf(s);
	if (!s->host_deaf && taken < (ssize_t)len && !s->buffer) {
		s->buffer = malloc(VSOCK_BUFFER);
		s->buffer_head = 0;
		if (!s->buffer)
			vsock_stream_deaf(s);
	}
	if (s->host_deaf) {
		s->forwarded += len;
		return;
	}
	s->forwarded += (uint32_t)taken;
	if (taken < (ssize_t)len)
		vsock_stream_keep(s, payload, n, (size_t)taken);
}

/* A part of a message, or of a stream. false: it breaks the rules. */
static bool take_payload(struct vsock_stream *s, const struct virtio_vsock_hdr *header, struct iovec *payload, unsigned n)
{
	if (s->guest_ended || header->len > VSOCK_BUFFER - (s->received - s->forwarded))
		return false; /* after its end, or beyond its credit */
	if (!is_messages(s)) {
		take_bytes(s, header->len, payload, n);
		return true;
	}
	s->received += header->len;
	if (s->host_deaf)
		s->forwarded += header->len;
	return s->host_deaf || vsock_message_take(s, header->flags, header->len, payload, n);
}

static void flush(struct vsock_stream *s)
{
	if (is_messages(s)) {
		vsock_message_flush(s);
		return;
	}
	while (s->buffer_used) {
		uint32_t first = VSOCK_BUFFER - s->buffer_head < s->buffer_used ? VSOCK_BUFFER - s->buffer_head : s->buffer_used;
		struct iovec iov[2] = { { s->buffer + s->buffer_head, first }, { s->buffer, s->buffer_used - first } };
		ssize_t taken = vsock_stream_give(s, iov, 2);

		if (taken < 0)
			vsock_stream_deaf(s);
		if (taken <= 0)
			return;
		s->buffer_head = (s->buffer_head + (uint32_t)taken) % VSOCK_BUFFER;
		s->buffer_used -= (uint32_t)taken;
		s->forwarded += (uint32_t)taken;
	}
	free(s->buffer);
	s->buffer = NULL;
}

/* Cut a vector off at `bytes`; returns its new length. */
static unsigned trim(struct iovec *iov, unsigned n, size_t bytes)
{
	unsigned k = 0;

	for (; k < n && bytes; k++) {
		if (iov[k].iov_len > bytes)
			iov[k].iov_len = bytes;
		bytes -= iov[k].iov_len;
	}
	return k;
}

/* The guest accepted: tell the host program, then it is a stream. */
static void opened(struct vsock_stream *s)
{
	char line[32];
	int size = snprintf(line, sizeof(line), "OK %u\n", s->host_port);

	s->state = VSOCK_OPEN;
	s->deadline_ns = 0;
	if (send(s->fd, line, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT) != size)
		vsock_stream_kill(s);
}

static void take_in_open(struct vsock_stream *s, const struct virtio_vsock_hdr *header, struct iovec *payload, unsigned n)
{
	switch (header->op) {
	case VIRTIO_VSOCK_OP_RW:
		if (!take_payload(s, header, payload, trim(payload, n, header->len)))
			vsock_stream_kill(s);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		s->send |= SEND_CREDIT_UPDATE;
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		s->guest_ended |= (header->flags & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0;
		s->guest_deaf |= (header->flags & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0;
		if (s->guest_deaf)
			shutdown(s->fd, SHUT_RD); /* the host program's writes fail from now on */
		break;
	default:
		vsock_stream_kill(s);
	}
}

void vsock_stream_take(struct vsock_stream *s, const struct virtio_vsock_hdr *header, struct iovec *payload, unsigned n)
{
	if (header->op == VIRTIO_VSOCK_OP_RST) {
		vsock_stream_free(s);
		return;
	}
	if (s->state == VSOCK_DEAD)
		return;
	s->peer_buffer = header->buf_alloc;
	s->peer_forwarded = header->fwd_cnt;
	if (vsock_stream_credit(s)) /* else asking again would only make the guest answer the same again */
		s->credit_asked = false;
	if (s->state == VSOCK_OPEN)
		take_in_open(s, header, payload, n);
	else if (header->op == VIRTIO_VSOCK_OP_RESPONSE)
		opened(s);
	else
		vsock_stream_kill(s);
	settle(s);
}

/* --- host to guest --- */

static void make_control(struct vsock_stream *s, struct virtio_vsock_hdr *header, bool *done)
{
	static const uint16_t op_of[] = {
		VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_CREDIT_UPDATE,
		VIRTIO_VSOCK_OP_CREDIT_REQUEST, VIRTIO_VSOCK_OP_SHUTDOWN,
	};
	unsigned index = (unsigned)__builtin_ctz(s->send);

	header->op = op_of[index];
	s->send &= s->send - 1;
	*done = header->op == VIRTIO_VSOCK_OP_RST;
	if (header->op != VIRTIO_VSOCK_OP_SHUTDOWN)
		return;
	s->told_shutdown = (s->host_deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0) | (s->host_ended ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0);
	header->flags = s->told_shutdown;
	if (s->host_deaf && s->host_ended)
		vsock_expect_by(s, VSOCK_FAREWELL_NS);
}

void vsock_stream_read_nothing(struct vsock_stream *s, ssize_t got)
{
	if (got < 0 && (errno == EAGAIN || errno == EINTR) && !s->hung_up) {
		s->may_read = false;
		vsock_stream_watch(s);
		return;
	}
	s->host_ended = true;
	s->host_deaf |= got < 0;
	s->send |= SEND_SHUTDOWN;
}

/* Read into the driver's buffer. How much; 0: nothing now; or what has changed is in s->send. */
static uint32_t make_data(struct vsock_stream *s, const struct iovec *room, unsigned n, uint32_t *flags)
{
	struct iovec iov[VSOCK_SEGMENTS];
	uint32_t limit = vsock_stream_credit(s) < VSOCK_MAX_PAYLOAD ? vsock_stream_credit(s) : VSOCK_MAX_PAYLOAD;
	struct msghdr message = { .msg_iov = iov };
	ssize_t got;

	if (!limit) {
		s->send |= SEND_CREDIT_REQUEST;
		s->credit_asked = true;
		return 0;
	}
	if (is_messages(s))
		return vsock_message_make(s, room, n, limit, flags);
	memcpy(iov, room, n * sizeof(*iov));
	message.msg_iovlen = trim(iov, n, limit);
	got = recvmsg(s->fd, &message, MSG_DONTWAIT);
	if (got > 0) {
		s->sent += (uint32_t)got;
		return (uint32_t)got;
	}
	vsock_stream_read_nothing(s, got);
	return 0;
}

bool vsock_stream_make(struct vsock_stream *s, struct virtio_vsock_hdr *header, const struct iovec *room, unsigned n, bool *done)
{
	uint32_t flags = 0;

	if (!s->send && (s->may_read || s->message) && wants_host_bytes(s)) {
		header->len = make_data(s, room, n, &flags);
		header->flags = flags;
		header->op = VIRTIO_VSOCK_OP_RW;
	}
	if (s->send)
		make_control(s, header, done);
	else if (!header->len)
		return false;
	header->type = s->type;
	header->src_port = s->host_port;
	header->dst_port = s->guest_port;
	header->buf_alloc = VSOCK_BUFFER;
	header->fwd_cnt = s->told_forwarded = s->forwarded;
	return true;
}

/* --- the socket's events --- */

static void host_hung_up(struct vsock_stream *s)
{
	loop_del(s->source); /* it would be reported for ever */
	s->source = NULL;
	s->hung_up = true;
	s->may_read = true; /* to the end */
	if (s->state != VSOCK_OPEN)
		vsock_stream_kill(s);
	else
		vsock_stream_deaf(s);
}

void vsock_stream_events(void *opaque, uint32_t events)
{
	struct vsock_stream *s = opaque;
	struct vsock *v = s->vsock;

	if (!atomic_load(&v->running))
		return;
	if (s->state == VSOCK_GREETING) {
		vsock_host_greet(s);
	} else {
		s->may_read |= (events & EPOLLIN) != 0;
		if (events & EPOLLOUT)
			flush(s);
		if (events & (EPOLLHUP | EPOLLERR))
			host_hung_up(s);
		settle(s);
	}
	vsock_pump(v);
}
