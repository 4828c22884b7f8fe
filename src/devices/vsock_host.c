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

static void pause_listener(struct vsock *v)
{
	loop_set_events(v->listener, 0);
	v->listener_paused = true;
	vsock_sweep_later(v);
}

void vsock_host_accept_again(struct vsock *v)
{
	if (v->listener_paused && v->n_streams < VSOCK_MAX_STREAMS) {
		v->listener_paused = false;
		loop_set_events(v->listener, EPOLLIN);
	}
}

static void accept_clients(void *opaque, uint32_t events)
{
	struct vsock *v = opaque;

	for (unsigned k = 0; k < ACCEPTS; k++) {
		struct vsock_stream *s;
		int fd;

		if (atomic_load(&v->running) && v->n_streams == VSOCK_MAX_STREAMS) {
			pause_listener(v); /* the others wait in the backlog */
			return;
		}
		fd = accept4(v->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
				pause_listener(v);
			return;
		}
		if (!atomic_load(&v->running)) {
			close(fd); /* the guest has no driver */
			continue;
		}
		s = vsock_stream_new(v, fd);
		if (s) {
			vsock_expect_by(s, VSOCK_PATIENCE_NS);
			vsock_stream_watch(s);
		}
	}
}

int vsock_host_listen(struct vsock *v, char *why, size_t why_size)
{
	int err = vhost_socket_listen(v->path, -1, &v->listen_fd, why, why_size);

	return err ? err : loop_add(v->loop, v->listen_fd, EPOLLIN, accept_clients, v, &v->listener);
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

/* More of the line, and not a byte of what follows it. 1: whole; 0: not yet; -1: never. */
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
	if (got < 0 || !parse_connect(s->line, &port)) {
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
	err = vhost_socket_connect(path, &fd, why, sizeof(why));
	s = err ? NULL : vsock_stream_new(v, fd);
	if (!s) {
		log_debug("vsock: the guest's connection to port %u: %s", (unsigned)header->dst_port, err ? why : "too many");
		vsock_refuse(v, header->dst_port, header->src_port);
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
