/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-user messages on a socket. Reading takes the header first and then exactly its payload, so nothing of the next
 * message is consumed and descriptors stay with the message they came with: a stream socket never joins two sendmsg()s
 * with descriptors in one read. Both directions keep no state beyond struct vhost_user_receiver.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "vhost/message.h"

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(VHOST_USER_MAX_FDS * sizeof(int))];
};

static uint64_t deadline_of(int timeout_ms)
{
	return timeout_ms < 0 ? UINT64_MAX : now_ns() + timeout_ms * 1000000ull;
}

/* 0: ready, or the peer is gone, which the next call will tell; -ETIMEDOUT. */
static int wait_for(int socket, short events, uint64_t deadline)
{
	struct pollfd p = { .fd = socket, .events = events };

	for (;;) {
		uint64_t now = now_ns();
		int ms = deadline == UINT64_MAX ? -1 : now >= deadline ? 0 : (int)((deadline - now + 999999) / 1000000);
		int n = poll(&p, 1, ms);

		if (n > 0)
			return 0;
		if (!n)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static void attach_fds(struct msghdr *header, union control *control, const int *fds, unsigned n)
{
	struct cmsghdr *cmsg;

	memset(control, 0, sizeof(*control));
	header->msg_control = control;
	header->msg_controllen = CMSG_SPACE(n * sizeof(int));
	cmsg = CMSG_FIRSTHDR(header);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, n * sizeof(int));
}

int vhost_user_send(int socket, const struct vhost_user_message *m, int timeout_ms)
{
	size_t total = VHOST_USER_HEADER_SIZE + m->size, sent = 0;
	uint64_t deadline = deadline_of(timeout_ms);

	if (m->size > VHOST_USER_MAX_PAYLOAD || m->n_fds > VHOST_USER_MAX_FDS)
		return -EMSGSIZE;
	while (sent < total) {
		struct iovec iov = { (char *)m + sent, total - sent };
		struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
		union control control;
		ssize_t n;
		int err;

		if (!sent && m->n_fds)
			attach_fds(&header, &control, m->fd, m->n_fds);
		n = sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0)
			sent += n;
		else if (errno == EAGAIN) {
			err = wait_for(socket, POLLOUT, deadline);
			if (err)
				return err;
		} else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

void vhost_user_close_fds(struct vhost_user_message *m)
{
	for (unsigned k = 0; k < m->n_fds; k++)
		if (m->fd[k] >= 0)
			close(m->fd[k]);
	m->n_fds = 0;
}

int vhost_user_take_fd(struct vhost_user_message *m, unsigned k)
{
	int fd = k < m->n_fds ? m->fd[k] : -1;

	if (fd >= 0)
		m->fd[k] = -1;
	return fd;
}

void vhost_user_receiver_reset(struct vhost_user_receiver *r)
{
	if (r->filled)
		vhost_user_close_fds(&r->message);
	r->filled = 0;
}

/* Keep what came as SCM_RIGHTS; false: more than a message may have (then the surplus is closed already). */
static bool keep_fds(struct vhost_user_message *m, struct msghdr *header)
{
	bool fits = !(header->msg_flags & MSG_CTRUNC);

	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		unsigned n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (unsigned k = 0; k < n; k++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + k * sizeof(int), sizeof(fd));
			if (m->n_fds < VHOST_USER_MAX_FDS) {
				m->fd[m->n_fds++] = fd;
			} else {
				close(fd);
				fits = false;
			}
		}
	}
	return fits;
}

/* One read into [filled, end) of the message: bytes read, 0: none now, -errno. */
static ssize_t read_some(int socket, struct vhost_user_receiver *r, size_t end)
{
	struct iovec iov = { (char *)&r->message + r->filled, end - r->filled };
	union control control;
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n)
		return -ECONNRESET;
	if (!r->filled)
		r->message.n_fds = 0;
	r->filled += n;
	return keep_fds(&r->message, &header) ? n : -EMSGSIZE;
}

static int fail(struct vhost_user_receiver *r, int err)
{
	vhost_user_receiver_reset(r);
	return err;
}

int vhost_user_receive(int socket, struct vhost_user_receiver *r)
{
	size_t end = VHOST_USER_HEADER_SIZE;
	ssize_t n;

	for (;;) {
		if (r->filled >= VHOST_USER_HEADER_SIZE) {
			if (r->message.size > VHOST_USER_MAX_PAYLOAD)
				return fail(r, -EMSGSIZE);
			end = VHOST_USER_HEADER_SIZE + r->message.size;
		}
		if (r->filled >= VHOST_USER_HEADER_SIZE && r->filled == end) {
			/* What a short payload leaves out reads as zero, not as the message before. */
			memset(r->message.bytes + r->message.size, 0, VHOST_USER_MAX_PAYLOAD - r->message.size);
			r->filled = 0;
			return 1;
		}
		n = read_some(socket, r, end);
		if (n < 0)
			return fail(r, n);
		if (!n)
			return 0;
	}
}

int vhost_user_receive_wait(int socket, struct vhost_user_receiver *r, int timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);

	for (;;) {
		int got = vhost_user_receive(socket, r);

		if (got)
			return got;
		got = wait_for(socket, POLLIN, deadline);
		if (got)
			return got;
	}
}
