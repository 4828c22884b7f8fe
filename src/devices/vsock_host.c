/* SPDX-License-Identifier: BSD-2-Clause */
/* The host's side of virtio-vsock: who connects to PATH and says CONNECT, and connections to PATH_N for the guest. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/options.h"
#include "devices/vsock_internal.h"
#include "vhost/socket.h"

enum { FIRST_HOST_PORT = 1u << 30, ACCEPTS = 16 };

/* All of them: what they run out of is the same. */
static void pause_listeners(struct vsock *v)
{
	for (unsigned k = 0; k < VSOCK_LISTENERS; k++)
		loop_set_events(v->listener[k].source, 0);
	v->listener_paused = true;
	vsock_sweep_later(v);
}

void vsock_host_accept_again(struct vsock *v)
{
	if (v->listener_paused && v->n_streams < VSOCK_MAX_STREAMS) {
		v->listener_paused = false;
		for (unsigned k = 0; k < VSOCK_LISTENERS; k++)
			loop_set_events(v->listener[k].source, EPOLLIN);
	}
}

static void accept_clients(void *opaque, uint32_t events)
{
	struct vsock_listener *l = opaque;
	struct vsock *v = l->vsock;

	for (unsigned k = 0; k < ACCEPTS; k++) {
		struct vsock_stream *s;
		int fd;

		if (atomic_load(&v->running) && v->n_streams == VSOCK_MAX_STREAMS) {
			pause_listeners(v); /* the others wait in the backlog */
			return;
		}
		fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
				pause_listeners(v);
			return;
		}
		if (!atomic_load(&v->running)) {
			close(fd); /* the guest has no driver */
			continue;
		}
		s = vsock_stream_new(v, l->type, fd);
		if (s) {
			vsock_expect_by(s, VSOCK_PATIENCE_NS);
			vsock_stream_watch(s);
		}
	}
}

static int socket_type(uint16_t type)
{
	return type == VIRTIO_VSOCK_TYPE_STREAM ? SOCK_STREAM : SOCK_SEQPACKET;
}

int vsock_host_listen(struct vsock *v, char *why, size_t why_size)
{
	static const char *const suffix[VSOCK_LISTENERS] = { "", ".seqpacket" };
	int err = 0;

	for (unsigned k = 0; k < VSOCK_LISTENERS && !err; k++) {
		struct vsock_listener *l = &v->listener[k];

		l->vsock = v;
		l->type = k ? VIRTIO_VSOCK_TYPE_SEQPACKET : VIRTIO_VSOCK_TYPE_STREAM;
		if (asprintf(&l->path, "%s%s", v->path, suffix[k]) < 0) {
			l->path = NULL;
			return -ENOMEM;
		}
		err = vhost_socket_listen_as(socket_type(l->type), l->path, -1, &l->fd, why, why_size);
		if (!err)
			err = loop_add(v->loop, l->fd, EPOLLIN, accept_clients, l, &l->source);
	}
	return err;
}

void vsock_host_close(struct vsock *v)
{
	for (unsigned k = 0; k < VSOCK_LISTENERS; k++) {
		struct vsock_listener *l = &v->listener[k];

		if (l->fd >= 0) {
			close(l->fd);
			unlink(l->path);
		}
		free(l->path);
	}
}

/* --- CONNECT --- */

/* A free port of the host's for a connection to that port of the guest's. */
static uint32_t choose_port(struct vsock *v, uint32_t guest_port)
{
	do {
		if (++v->next_host_port < FIRST_HOST_PORT || v->next_host_port == UINT32_MAX)
			v->next_host_port = FIRST_HOST_PORT;
	} while (vsock_stream_find(v, v->next_host_port, guest_port));
	return v->next_host_port;
}

static bool parse_connect(char *line, uint32_t *port)
{
	uint64_t n;
	size_t size = strlen(line);

	if (size && line[size - 1] == '\r')
		line[size - 1] = 0;
	if (strncmp(line, "CONNECT ", 8) || parse_uint(line + 8, &n) || n > UINT32_MAX)
		return false;
	*port = (uint32_t)n;
	return true;
}

/* More of the line, and not a byte of what follows it. 1: whole; 0: not yet; -1: never. As a message it stands alone. */
static int read_line(struct vsock_stream *s)
{
	char *at = s->line + s->line_used, *end;
	ssize_t got = recv(s->fd, at, sizeof(s->line) - s->line_used, MSG_PEEK | MSG_DONTWAIT);
	size_t take;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0)
		return -1;
	end = memchr(at, '\n', (size_t)got);
	take = end ? (size_t)(end - at) + 1 : (size_t)got;
	if (s->type == VIRTIO_VSOCK_TYPE_SEQPACKET && (!end || take != (size_t)got))
		return -1;
	if (recv(s->fd, at, take, MSG_DONTWAIT) != (ssize_t)take)
		return -1;
	s->line_used += (unsigned)take;
	if (end)
		*end = 0;
	return end ? 1 : s->line_used == sizeof(s->line) ? -1 : 0;
}

void vsock_host_greet(struct vsock_stream *s)
{
	uint32_t port;
	int got = read_line(s);

	if (!got)
		return;
	if (got < 0 || !parse_connect(s->line, &port) ||
	    (s->type == VIRTIO_VSOCK_TYPE_SEQPACKET && !virtio_has(&s->vsock->device, VIRTIO_VSOCK_F_SEQPACKET))) {
		vsock_stream_free(s);
		return;
	}
	vsock_stream_name(s, choose_port(s->vsock, port), port);
	s->state = VSOCK_ASKED;
	s->send = SEND_REQUEST;
	vsock_expect_by(s, VSOCK_PATIENCE_NS);
	vsock_ready(s);
	vsock_stream_watch(s);
}

/* --- the guest connects --- */

void vsock_host_request(struct vsock *v, const struct virtio_vsock_hdr *header)
{
	size_t size = strlen(v->path) + 16;
	char path[size], why[256];
	struct vsock_stream *s;
	int fd, err;

	snprintf(path, size, "%s_%u", v->path, (unsigned)header->dst_port);
	err = vhost_socket_connect_as(socket_type(header->type), path, &fd, why, sizeof(why));
	s = err ? NULL : vsock_stream_new(v, header->type, fd);
	if (!s) {
		log_debug("vsock: the guest's connection to port %u: %s", (unsigned)header->dst_port, err ? why : "too many");
		vsock_refuse(v, header);
		return;
	}
	vsock_stream_name(s, header->dst_port, header->src_port);
	s->state = VSOCK_OPEN;
	s->peer_buffer = header->buf_alloc;
	s->peer_forwarded = header->fwd_cnt;
	s->send = SEND_RESPONSE;
	vsock_ready(s);
	vsock_stream_watch(s);
}
