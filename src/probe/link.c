/* SPDX-License-Identifier: BSD-2-Clause */
#include "probe/link.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "vhost/frontend.h"
#include "vhost/socket.h"

/* --- what went over the socket --- */

void transcript_clear(struct transcript *t)
{
	t->next = t->count = 0;
}

void transcript_add(struct transcript *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(t->line[t->next], TRANSCRIPT_WIDTH, format, args);
	va_end(args);
	if (t->trace)
		fprintf(t->trace, "%11.6f %s\n", (double)(now_ns() - t->start_ns) / 1e9, t->line[t->next]);
	t->next = (t->next + 1) % TRANSCRIPT_LINES;
	t->count += t->count < TRANSCRIPT_LINES;
}

void transcript_heading(const struct transcript *t, const char *name)
{
	if (t->trace)
		fprintf(t->trace, "%s:\n", name);
}

void transcript_work(struct transcript *t, unsigned queue)
{
	char *last = t->line[(t->next + TRANSCRIPT_LINES - 1) % TRANSCRIPT_LINES];
	char text[32];
	unsigned times = 1;

	snprintf(text, sizeof(text), "- work on ring %u", queue);
	if (t->count && !strncmp(last, text, strlen(text))) {
		if (sscanf(last + strlen(text), ", %u times", &times) != 1)
			times = 1;
		snprintf(last, TRANSCRIPT_WIDTH, "%s, %u times", text, times + 1);
		return;
	}
	transcript_add(t, "%s", text);
}

void transcript_text(const struct transcript *t, char *text, size_t size)
{
	unsigned at = (t->next + TRANSCRIPT_LINES - t->count) % TRANSCRIPT_LINES;
	size_t used = 0;

	text[0] = 0;
	for (unsigned k = 0; k < t->count && used < size; k++, at = (at + 1) % TRANSCRIPT_LINES)
		used += (size_t)snprintf(text + used, size - used, "%s%s", k ? "\n" : "", t->line[at]);
}

static void record(struct link *link, const struct vhost_user_message *m, unsigned n_fds, bool sent)
{
	char text[TRANSCRIPT_WIDTH - 40], fds[24] = "";

	vhost_user_format(VHOST_USER_FRONT_END, m, link->from_back_end == sent, text, sizeof(text));
	if (n_fds != m->n_fds)
		snprintf(fds, sizeof(fds), ", %u descriptors", n_fds);
	transcript_add(&link->transcript, "%c %s%s%s", sent ? '>' : '<', text, fds,
		       m->flags & VHOST_USER_NEED_REPLY ? ", need_reply" : "");
}

/* --- the socket --- */

int link_init(struct link *link, const char *path, bool server, unsigned timeout_ms, char *why,
	      size_t why_size)
{
	*link = (struct link){
	    .fd = -1, .listen_fd = -1, .path = path, .server = server, .timeout_ms = timeout_ms};
	return server ? vhost_socket_listen(path, -1, &link->listen_fd, why, why_size) : 0;
}

void link_deinit(struct link *link)
{
	link_close(link);
	if (link->listen_fd >= 0) {
		close(link->listen_fd);
		unlink(link->path);
	}
	link->listen_fd = -1;
}

/* A server that is busy with its last peer, or not up again, refuses for a while. */
static int connect_within(struct link *link, uint64_t deadline)
{
	char why[256];

	for (;;) {
		int err = vhost_socket_connect(link->path, &link->fd, why, sizeof(why));

		if ((err != -ECONNREFUSED && err != -ENOENT && err != -EAGAIN) || now_ns() >= deadline) {
			link->fd = err ? -1 : link->fd;
			return err;
		}
		usleep(10000);
	}
}

int link_open(struct link *link, unsigned timeout_ms)
{
	struct pollfd ready = {.fd = link->listen_fd, .events = POLLIN};

	link_close(link);
	transcript_add(&link->transcript, "- %s %s",
		       link->server ? "waiting for a connection at" : "connecting to", link->path);
	if (!link->server)
		return connect_within(link, now_ns() + timeout_ms * 1000000ull);
	if (poll(&ready, 1, (int)timeout_ms) <= 0)
		return -ETIMEDOUT;
	link->fd = accept4(link->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return link->fd < 0 ? -errno : 0;
}

void link_close(struct link *link)
{
	if (link->fd < 0)
		return;
	vhost_user_receiver_reset(&link->receiver);
	close(link->fd);
	link->fd = -1;
	transcript_add(&link->transcript, "- connection closed by the probe");
}

static int lost(struct link *link)
{
	transcript_add(&link->transcript, "- connection closed by the target");
	vhost_user_receiver_reset(&link->receiver);
	close(link->fd);
	link->fd = -1;
	return -ECONNRESET;
}

/* Wait until the socket is ready. 0, -ETIMEDOUT. */
static int wait_for(struct link *link, short events, uint64_t deadline)
{
	struct pollfd ready = {.fd = link->fd, .events = events};
	int64_t left = (int64_t)(deadline - now_ns()) / 1000000;

	return poll(&ready, 1, left > 0 ? (int)left : 0) > 0 ? 0 : -ETIMEDOUT;
}

/* Send all of data; descriptors go with the first byte. */
static int send_all(struct link *link, const uint8_t *data, size_t size, const int *fds, unsigned n_fds)
{
	char control[CMSG_SPACE(sizeof(int) * LINK_FDS_MAX)] = {0};
	uint64_t deadline = now_ns() + link->timeout_ms * 1000000ull;

	while (size) {
		struct iovec iov = {(void *)data, size};
		struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t done;

		if (n_fds) {
			struct cmsghdr *c;

			header.msg_control = control;
			header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
			c = CMSG_FIRSTHDR(&header);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
			memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
		}
		done = sendmsg(link->fd, &header, MSG_NOSIGNAL);
		if (done >= 0) {
			data += done;
			size -= (size_t)done;
			n_fds = 0;
		} else if (errno == EAGAIN) {
			if (wait_for(link, POLLOUT, deadline))
				return -ETIMEDOUT;
		} else if (errno != EINTR) {
			return lost(link);
		}
	}
	return 0;
}

int link_send_raw(struct link *link, const struct vhost_user_message *m, size_t len, const int *fds,
		  unsigned n_fds)
{
	if (link->fd < 0)
		return -ECONNRESET;
	record(link, m, n_fds, true);
	return send_all(link, (const uint8_t *)m, VHOST_USER_HEADER_SIZE + len, fds, n_fds);
}

int link_send(struct link *link, const struct vhost_user_message *m)
{
	return link_send_raw(link, m, m->size, m->fd, m->n_fds);
}

int link_send_bytes(struct link *link, const void *data, size_t size)
{
	if (link->fd < 0)
		return -ECONNRESET;
	transcript_add(&link->transcript, "> %zu raw bytes", size);
	return send_all(link, data, size, NULL, 0);
}

int link_receive(struct link *link, struct vhost_user_message *m, unsigned timeout_ms)
{
	struct vhost_user_receiver *in = &link->receiver;
	int got;

	if (link->fd < 0)
		return -ECONNRESET;
	got = vhost_user_receive_wait(link->fd, in, (int)timeout_ms);
	if (got == 1) {
		*m = in->message;
		record(link, m, m->n_fds, false);
		return 0;
	}
	if (got == -ETIMEDOUT)
		return in->filled ? -EPROTO : -ETIMEDOUT;
	lost(link);
	return got == -EMSGSIZE ? -EPROTO : -ECONNRESET;
}

bool link_is_closed(struct link *link, unsigned timeout_ms)
{
	uint64_t deadline = now_ns() + timeout_ms * 1000000ull;

	while (link->fd >= 0) {
		struct pollfd ready = {.fd = link->fd, .events = POLLRDHUP};
		int64_t left = (int64_t)(deadline - now_ns()) / 1000000;

		if (poll(&ready, 1, left > 0 ? (int)left : 0) > 0 &&
		    ready.revents & (POLLHUP | POLLRDHUP | POLLERR)) {
			lost(link);
			return true;
		}
		if (left <= 0)
			return false;
	}
	return true;
}
