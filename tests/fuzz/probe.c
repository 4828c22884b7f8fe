/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What guise probe takes from its peers. The input is what a front end sends to the probe as a back end, with
 * a piece of memory as descriptor where the first byte's bits say so; then the same bytes are a back end's
 * answers to the probe as a front end.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe/back.h"

enum { MEMORY = 1 << 16, MESSAGES = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct probe_options options = {
    .path = "none",
    .device = PROBE_NET,
    .rings = PROBE_SPLIT | PROBE_PACKED,
    .queues = 1,
    .timeout_ms = 1,
};

/* The input as messages: request and size byte by byte, so that headers are mostly right. */
static void send_messages(int fd, int memory_fd, const uint8_t *data, size_t size)
{
	struct vhost_user_message m;

	for (unsigned n = 0; n < MESSAGES && size >= 2; n++) {
		unsigned has_fd = data[1] >> 7;
		size_t part = data[1] & 63;

		vhost_user_request_init(&m, VHOST_USER_FRONT_END, data[0] & 63);
		m.flags |= data[1] & 64 ? VHOST_USER_NEED_REPLY : 0;
		m.flags |= data[0] & 64 ? VHOST_USER_REPLY : 0;
		m.size = data[0] & 128 ? (uint32_t)part : m.size;
		data += 2;
		size -= 2;
		part = part < size ? part : size;
		memcpy(m.bytes, data, part);
		data += part;
		size -= part;
		m.n_fds = has_fd;
		m.fd[0] = memory_fd;
		if (vhost_user_send(fd, &m, 0))
			break;
	}
}

static void as_back_end(struct back *b, int memory_fd, const uint8_t *data, size_t size)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
		return;
	b->p.link.fd = pair[0];
	b->p.link.from_back_end = true;
	send_messages(pair[1], memory_fd, data, size);
	shutdown(pair[1], SHUT_WR);
	back_defaults(b);
	back_serve(b, NULL, 20);
	back_close(b);
	close(pair[1]);
}

static void as_front_end(struct probe *p, int memory_fd, const uint8_t *data, size_t size)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
		return;
	p->link.fd = pair[0];
	p->link.from_back_end = false;
	send_messages(pair[1], memory_fd, data, size);
	shutdown(pair[1], SHUT_WR);
	p->verdict = (struct verdict){0};
	session_defaults(p, false);
	if (!session_negotiate(p) && !session_features(p))
		barrier(p);
	link_close(&p->link);
	close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct back *b;
	static int memory_fd;

	if (!b) {
		b = calloc(1, sizeof(*b));
		if (!b)
			return 0;
		b->p.options = &options;
		b->channel_fd = -1;
		b->p.link = (struct link){.fd = -1, .listen_fd = -1, .path = "none", .timeout_ms = 1};
		b->disk = calloc(1, BACK_DISK_BYTES);
		memory_init(&b->memory);
		for (unsigned k = 0; k < BACK_RINGS; k++)
			b->ring[k] = (struct back_ring){.kick_fd = -1, .call_fd = -1, .err_fd = -1};
		memory_fd = memfd_create("fuzz", MFD_CLOEXEC);
		if (!b->disk || ftruncate(memory_fd, MEMORY))
			abort();
	}
	as_back_end(b, memory_fd, data, size);
	as_front_end(&b->p, memory_fd, data, size);
	return 0;
}
