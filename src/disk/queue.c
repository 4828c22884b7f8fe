/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests through io_uring: one submission and completion ring per thread. The thread sleeps in
 * io_uring_submit_and_wait(): kicks are poll requests on eventfds in the same ring, so a busy disk costs one
 * system call for many requests and a sleeping one none.
 *
 * Requests that do not fit in the ring wait in the kernel's queue: liburing's submission queue is flushed whenever
 * it is full. Where io_uring is forbidden (some containers), the same calls are made one after another on the thread.
 */
#include "disk/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MAX_EVENTS = 72 };

struct event {
	int fd;
	void (*fn)(void *opaque);
	void *opaque;
	bool armed;
};

struct disk_queue {
	bool has_uring;
	struct io_uring uring;
	unsigned in_flight;
	struct event event[MAX_EVENTS];
	unsigned n_events;
};

int disk_queue_new(unsigned depth, struct disk_queue **out)
{
	struct disk_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return -ENOMEM;
	err = io_uring_queue_init(depth + MAX_EVENTS, &q->uring, 0);
	if (err && err != -EPERM && err != -ENOSYS) {
		free(q);
		return err;
	}
	q->has_uring = !err;
	*out = q;
	return 0;
}

void disk_queue_free(struct disk_queue *q)
{
	if (!q)
		return;
	if (q->has_uring)
		io_uring_queue_exit(&q->uring);
	free(q);
}

int disk_queue_add_event(struct disk_queue *q, int fd, void (*fn)(void *opaque), void *opaque)
{
	if (q->n_events == MAX_EVENTS)
		return -ENOSPC;
	q->event[q->n_events++] = (struct event){ .fd = fd, .fn = fn, .opaque = opaque };
	return 0;
}

unsigned disk_queue_in_flight(const struct disk_queue *q)
{
	return q->in_flight;
}

static struct io_uring_sqe *next_sqe(struct disk_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->uring);

	while (!sqe) {
		io_uring_submit(&q->uring);
		sqe = io_uring_get_sqe(&q->uring);
	}
	return sqe;
}

static int falloc_mode(const struct disk_request *r)
{
	return r->op == DISK_DISCARD || r->punch ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
}

static void prepare(struct disk_queue *q, struct disk_request *r)
{
	struct io_uring_sqe *sqe = next_sqe(q);

	switch (r->op) {
	case DISK_READ:
		io_uring_prep_readv(sqe, r->disk->fd, r->iov, r->n_iov, r->offset + r->moved);
		break;
	case DISK_WRITE:
		io_uring_prep_writev(sqe, r->disk->fd, r->iov, r->n_iov, r->offset + r->moved);
		break;
	case DISK_FLUSH:
		io_uring_prep_fsync(sqe, r->disk->fd, IORING_FSYNC_DATASYNC);
		break;
	default:
		io_uring_prep_fallocate(sqe, r->disk->fd, falloc_mode(r), (off_t)r->offset, (off_t)r->bytes);
		break;
	}
	io_uring_sqe_set_data(sqe, r);
}

static void finish(struct disk_request *r, int result)
{
	free(r->rest);
	r->rest = NULL;
	r->done(r, result);
}

static bool moves_data(const struct disk_request *r)
{
	return r->op == DISK_READ || r->op == DISK_WRITE;
}

/* Drop the first `bytes` of the request's vector, in a copy of it. */
static int drop_front(struct disk_request *r, uint64_t bytes)
{
	struct iovec *rest = r->rest;
	unsigned gone = 0;

	if (!rest) {
		rest = malloc(r->n_iov * sizeof(*rest));
		if (!rest)
			return -ENOMEM;
		memcpy(rest, r->iov, r->n_iov * sizeof(*rest));
		r->rest = rest;
	}
	while (gone < r->n_iov && bytes >= rest[gone].iov_len)
		bytes -= rest[gone++].iov_len;
	memmove(rest, rest + gone, (r->n_iov - gone) * sizeof(*rest));
	r->n_iov -= gone;
	rest[0].iov_base = (uint8_t *)rest[0].iov_base + bytes;
	rest[0].iov_len -= bytes;
	r->iov = rest;
	return 0;
}

/* One kernel result; true: the request is over. */
static bool advance(struct disk_request *r, int result, int *final)
{
	*final = result < 0 ? result : 0;
	if (result == -EINTR || result == -EAGAIN)
		return false;
	if (result == -EOPNOTSUPP && r->op == DISK_DISCARD)
		*final = 0; /* a hint */
	if (result == -EOPNOTSUPP && r->op == DISK_WRITE_ZEROES && !r->punch) {
		r->punch = true;
		return false;
	}
	if (result < 0 || !moves_data(r))
		return true;
	r->moved += (uint64_t)result;
	if (r->moved == r->bytes)
		return true;
	if (!result) { /* the file ended early: somebody truncated it */
		*final = -EIO;
		return true;
	}
	*final = drop_front(r, (uint64_t)result);
	return *final;
}

static int run_now(struct disk_request *r)
{
	int final;
	ssize_t n;

	do {
		switch (r->op) {
		case DISK_READ:
			n = preadv(r->disk->fd, r->iov, (int)r->n_iov, (off_t)(r->offset + r->moved));
			break;
		case DISK_WRITE:
			n = pwritev(r->disk->fd, r->iov, (int)r->n_iov, (off_t)(r->offset + r->moved));
			break;
		case DISK_FLUSH:
			n = fdatasync(r->disk->fd);
			break;
		default:
			n = fallocate(r->disk->fd, falloc_mode(r), (off_t)r->offset, (off_t)r->bytes);
			break;
		}
	} while (!advance(r, n < 0 ? -errno : (int)n, &final));
	return final;
}

static int check(const struct disk *disk, const struct disk_request *r)
{
	if (r->op == DISK_FLUSH)
		return 0;
	if (r->bytes > disk->info.size || r->offset > disk->info.size - r->bytes)
		return -EINVAL;
	return r->op != DISK_READ && disk->info.read_only ? -EROFS : 0;
}

void disk_submit(struct disk_queue *q, struct disk *disk, struct disk_request *r)
{
	int err = check(disk, r);

	r->disk = disk;
	r->moved = 0;
	r->rest = NULL;
	r->punch = false;
	if (err || (moves_data(r) && !r->bytes)) {
		finish(r, err);
	} else if (q->has_uring) {
		q->in_flight++;
		prepare(q, r);
	} else {
		finish(r, run_now(r));
	}
}

static void signalled(struct event *e)
{
	eventfd_t count;

	eventfd_read(e->fd, &count);
	e->fn(e->opaque);
}

static void complete(struct disk_queue *q, void *data, int result)
{
	struct event *e = data;
	struct disk_request *r = data;
	int final;

	if (e >= q->event && e < q->event + MAX_EVENTS) {
		e->armed = false;
		signalled(e);
	} else if (advance(r, result, &final)) {
		q->in_flight--;
		finish(r, final);
	} else {
		prepare(q, r);
	}
}

static int wait_by_poll(struct disk_queue *q)
{
	struct pollfd fds[MAX_EVENTS];

	for (unsigned k = 0; k < q->n_events; k++)
		fds[k] = (struct pollfd){ .fd = q->event[k].fd, .events = POLLIN };
	if (poll(fds, q->n_events, -1) < 0)
		return errno == EINTR ? 0 : -errno;
	for (unsigned k = 0; k < q->n_events; k++)
		if (fds[k].revents)
			signalled(&q->event[k]);
	return 0;
}

int disk_queue_wait(struct disk_queue *q)
{
	struct io_uring_cqe *cqe;
	int err;

	if (!q->has_uring)
		return wait_by_poll(q);
	for (unsigned k = 0; k < q->n_events; k++) {
		struct event *e = &q->event[k];

		if (!e->armed) {
			struct io_uring_sqe *sqe = next_sqe(q);

			io_uring_prep_poll_add(sqe, e->fd, POLLIN);
			io_uring_sqe_set_data(sqe, e);
			e->armed = true;
		}
	}
	err = io_uring_submit_and_wait(&q->uring, 1);
	if (err < 0 && err != -EINTR && err != -EBUSY)
		return err;
	while (!io_uring_peek_cqe(&q->uring, &cqe)) {
		void *data = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&q->uring, cqe);
		complete(q, data, result);
	}
	return 0;
}
