/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A TAP's packets. Each packet is a read or a write of its own, so a burst is handed over as that many io_uring requests by one
 * system call. What that is worth depends on what the way into the kernel and back costs: little on most hosts, but the larger part of
 * a packet's cost under some hypervisors and sandboxes. A request has costs, too. So it is measured when a queue is opened. Where it is
 * little, only writes go by io_uring, in bursts of some size; the rest goes by read and write.
 *
 * Nothing outlives a call. A request says RWF_NOWAIT, so the kernel carries it out, or refuses it with EAGAIN, before
 * io_uring_enter() returns: the caller's buffers are its own again at once, and closing a queue finds nothing in flight. TAPs know
 * RWF_NOWAIT since Linux 6.4. Before, a request that finds no room (or no packet) would be kept waiting by the kernel; there only
 * writes, which as good as never wait, go by io_uring, and one that does is cancelled within the call.
 *
 * How many packets wait cannot be asked, and a request for one that is not there costs about as much as one that gets it. So receiving
 * reads one; if it comes, a burst of as many as came last time, or twice as many if all of them did. A packet may come between two requests
 * of a burst, so that the first finds none and the second does: then it is moved to where the caller expects it.
 *
 * Where io_uring is not allowed (seccomp, sysctl), from the beginning or from some time on, readv and writev do it all.
 */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/loop.h"
#include "net/tap_internal.h"

enum { NOT_DONE = -EAGAIN, TRIES = 100 };
/* A system call is dear or not; and the least burst that is then worth a ring. */
enum { DEAR_NS = 400, LEAST_IF_DEAR = 2, LEAST_IF_CHEAP = 16 };
#define CANCELLING UINT64_MAX /* user data of a request to cancel */

/* --- requests --- */

static void give_up_uring(struct tap_queue *q)
{
	if (q->has_uring)
		io_uring_queue_exit(&q->uring);
	q->has_uring = false;
}

/* Results that are there, to result[]. How many requests (not cancellations) are done by them. */
static unsigned reap(struct tap_queue *q, int *result)
{
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0, done = 0;

	io_uring_for_each_cqe(&q->uring, head, cqe) {
		seen++;
		if (cqe->user_data == CANCELLING)
			continue;
		result[cqe->user_data] = cqe->res == -ECANCELED ? NOT_DONE : cqe->res;
		done++;
	}
	io_uring_cq_advance(&q->uring, seen);
	return done;
}

/* Hand over what is prepared; results to result[]. How many are done; -errno: this ring is of no use any more. */
static int hand_over(struct tap_queue *q, int *result)
{
	unsigned done = 0;
	int err = 0;

	for (unsigned k = 0; k < TRIES && io_uring_sq_ready(&q->uring); k++) {
		err = io_uring_submit(&q->uring);
		if (err < 0 && err != -EINTR && err != -EAGAIN && err != -EBUSY)
			return err;
		done += reap(q, result);
	}
	return io_uring_sq_ready(&q->uring) ? -EBUSY : (int)done;
}

/* Some of n requests wait in the kernel: end them, however that comes out. pending[k]: result[k] is not there yet. */
static int cancel_waiting(struct tap_queue *q, int *result, unsigned n, unsigned waiting)
{
	for (unsigned k = 0; k < n; k++) {
		struct io_uring_sqe *sqe = result[k] == -EINPROGRESS ? io_uring_get_sqe(&q->uring) : NULL;

		if (sqe) {
			io_uring_prep_cancel64(sqe, k, 0);
			sqe->user_data = CANCELLING;
		}
	}
	while (waiting) {
		int err = io_uring_submit_and_wait(&q->uring, 1);

		if (err < 0 && err != -EINTR)
			return err;
		waiting -= reap(q, result);
	}
	return 0;
}

/* Carry out the n prepared requests, whose user data are 0 to n - 1. None is under way any more on return. */
static void carry_out(struct tap_queue *q, int *result, unsigned n)
{
	int done;

	for (unsigned k = 0; k < n; k++)
		result[k] = -EINPROGRESS;
	done = hand_over(q, result);
	if (done >= 0 && (unsigned)done < n)
		done = cancel_waiting(q, result, n, n - (unsigned)done);
	if (done < 0)
		give_up_uring(q);
	for (unsigned k = 0; k < n; k++)
		if (result[k] == -EINPROGRESS)
			result[k] = NOT_DONE;
}

static void prepare(struct tap_queue *q, unsigned k, const struct port_packet *packet, bool is_write)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->uring); /* there are TAP_BURST of them */

	if (packet->n_iov == 1)
		io_uring_prep_rw(is_write ? IORING_OP_WRITE : IORING_OP_READ, sqe, q->fd, packet->iov->iov_base,
				 (unsigned)packet->iov->iov_len, 0);
	else
		io_uring_prep_rw(is_write ? IORING_OP_WRITEV : IORING_OP_READV, sqe, q->fd, packet->iov, packet->n_iov, 0);
	sqe->rw_flags = q->is_immediate ? RWF_NOWAIT : 0;
	sqe->user_data = k;
}

/* --- what came of a packet --- */

/* The interface was deleted: no call on this file will ever succeed again. */
static bool is_deleted(struct tap *tap, int result)
{
	if (result != -EBADFD)
		return false;
	port_fail(&tap->port, -ENODEV, "the interface was deleted");
	return true;
}

static void count_sent(struct tap *tap, struct tap_queue *q, int result)
{
	if (result >= PORT_HEADER) {
		port_count(&q->counters.tx_packets, 1);
		port_count(&q->counters.tx_bytes, (uint64_t)result - PORT_HEADER);
	} else { /* interface down, malformed offload header...: the packet is lost, as on a wire */
		port_count(&q->counters.tx_dropped, 1);
		is_deleted(tap, result);
	}
}

static void count_received(struct tap_queue *q, uint32_t bytes)
{
	port_count(&q->counters.rx_packets, 1);
	port_count(&q->counters.rx_bytes, bytes - PORT_HEADER);
}

/* --- sending --- */

static unsigned write_one(struct tap *tap, struct tap_queue *q, const struct port_packet *packet)
{
	ssize_t sent = packet->n_iov == 1 ? write(q->fd, packet->iov->iov_base, packet->iov->iov_len)
					  : writev(q->fd, packet->iov, (int)packet->n_iov);

	if (sent < 0 && errno == EAGAIN)
		return 0;
	count_sent(tap, q, sent < 0 ? -errno : (int)sent);
	return 1;
}

/* How many were taken, from the first on. One that found no room while a later one did is lost. */
static unsigned write_burst(struct tap *tap, struct tap_queue *q, const struct port_packet *packets, unsigned n)
{
	int result[TAP_BURST];

	for (unsigned k = 0; k < n; k++)
		prepare(q, k, &packets[k], true);
	carry_out(q, result, n);
	while (n && result[n - 1] == NOT_DONE)
		n--;
	for (unsigned k = 0; k < n; k++)
		count_sent(tap, q, result[k]);
	return n;
}

int tap_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n)
{
	struct tap *tap = (struct tap *)port;
	struct tap_queue *q = &tap->queue[queue];
	unsigned done = 0, part, taken;

	for (; done < n; done += taken) {
		bool has_uring = q->has_uring;

		if (has_uring && n - done >= q->least) {
			part = n - done < TAP_BURST ? n - done : TAP_BURST;
			taken = write_burst(tap, q, packets + done, part);
		} else {
			part = 1;
			taken = write_one(tap, q, &packets[done]);
		}
		if (taken < part && has_uring == q->has_uring) /* else it was given up just now: the rest goes without */
			return (int)(done + taken);
	}
	return (int)done;
}

/* --- receiving --- */

/* Copy the bytes of a packet that was read to where another one was to be. false: it does not fit there. */
static bool move(const struct port_packet *from, uint32_t bytes, const struct port_packet *to)
{
	const struct iovec *in = from->iov, *out = to->iov;
	size_t in_at = 0, out_at = 0, part;

	for (; bytes; bytes -= (uint32_t)part, in_at += part, out_at += part) {
		for (; in_at == in->iov_len; in_at = 0)
			in++;
		for (; out < to->iov + to->n_iov && out_at == out->iov_len; out_at = 0)
			out++;
		if (out == to->iov + to->n_iov)
			return false;
		part = in->iov_len - in_at < out->iov_len - out_at ? in->iov_len - in_at : out->iov_len - out_at;
		part = part < bytes ? part : bytes;
		memcpy((uint8_t *)out->iov_base + out_at, (uint8_t *)in->iov_base + in_at, part);
	}
	return true;
}

/* What a read into packets[k] came to; the next whole packet's place is packets[filled]. 1: it is filled. */
static unsigned keep(struct tap *tap, struct tap_queue *q, struct port_packet *packets, unsigned k, unsigned filled, int result)
{
	if (result == NOT_DONE || result == -EINTR || is_deleted(tap, result))
		return 0;
	if (result < PORT_HEADER || (k != filled && !move(&packets[k], (uint32_t)result, &packets[filled]))) {
		port_count(&q->counters.rx_dropped, 1);
		return 0;
	}
	packets[filled].bytes = (uint32_t)result;
	count_received(q, (uint32_t)result);
	return 1;
}

/* 1: the packet is filled. *is_dry: there was none. */
static unsigned read_one(struct tap *tap, struct tap_queue *q, struct port_packet *packet, bool *is_dry)
{
	ssize_t got = packet->n_iov == 1 ? read(q->fd, packet->iov->iov_base, packet->iov->iov_len)
					 : readv(q->fd, packet->iov, (int)packet->n_iov);
	int result = got < 0 ? -errno : (int)got;

	*is_dry = result < 0;
	return keep(tap, q, packet, 0, 0, result);
}

/* The same for n packets, TAP_BURST at most. How many are filled. */
static unsigned read_burst(struct tap *tap, struct tap_queue *q, struct port_packet *packets, unsigned n)
{
	int result[TAP_BURST];
	unsigned filled = 0;

	for (unsigned k = 0; k < n; k++)
		prepare(q, k, &packets[k], false);
	carry_out(q, result, n);
	for (unsigned k = 0; k < n; k++)
		filled += keep(tap, q, packets, k, filled, result[k]);
	q->expected = filled < n ? filled : 2 * n < TAP_BURST ? 2 * n : TAP_BURST;
	return filled;
}

int tap_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n)
{
	struct tap *tap = (struct tap *)port;
	struct tap_queue *q = &tap->queue[queue];
	unsigned filled = 0, burst = 0;
	bool is_dry = false;

	for (unsigned asked = 0; asked < n && !is_dry && !burst; asked++) {
		unsigned more = q->expected < n - asked ? q->expected : n - asked;

		if (asked && more >= q->least && q->has_uring && q->reads_bursts)
			burst = more;
		if (burst)
			filled += read_burst(tap, q, packets + filled, burst);
		else
			filled += read_one(tap, q, &packets[filled], &is_dry);
	}
	if (!burst && filled)
		q->expected = filled < TAP_BURST ? filled : TAP_BURST;
	return filled || !port_error(port) ? (int)filled : port_error(port);
}

/* --- beginning and end --- */

/* A read of no bytes takes nothing from the queue and says whether the kernel knows the flag. */
static bool knows_nowait(struct tap_queue *q)
{
	struct iovec iov = { &iov, 0 };
	struct port_packet nothing = { &iov, 1, 0 };
	int result;

	q->is_immediate = true;
	prepare(q, 0, &nothing, false);
	carry_out(q, &result, 1);
	return q->has_uring && result == 0;
}

/* What one of the cheapest takes here, undisturbed. */
static uint64_t system_call_ns(void)
{
	enum { SAMPLES = 10, CALLS = 16 };
	uint64_t least = UINT64_MAX;

	for (unsigned k = 0; k < SAMPLES; k++) {
		uint64_t start = now_ns(), took;

		for (unsigned call = 0; call < CALLS; call++)
			syscall(SYS_getppid);
		took = now_ns() - start;
		least = took < least ? took : least;
	}
	return least / CALLS;
}

void tap_queue_init(struct tap_queue *q, enum tap_calls calls)
{
	q->expected = TAP_BURST / 2;
	q->least = calls == TAP_AUTO && system_call_ns() < DEAR_NS ? LEAST_IF_CHEAP : LEAST_IF_DEAR;
	q->has_uring = calls != TAP_PLAIN && !io_uring_queue_init(TAP_BURST, &q->uring, 0);
	if (q->has_uring)
		q->is_immediate = knows_nowait(q) && calls != TAP_URING_WRITES;
	q->reads_bursts = q->is_immediate && q->least == LEAST_IF_DEAR;
}

void tap_queue_deinit(struct tap_queue *q)
{
	give_up_uring(q);
	close(q->fd);
}
