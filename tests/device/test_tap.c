/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TAP ports on the kernel's own TAP interfaces, in a network namespace of the test's: by io_uring, as on kernels that let only writes go
 * by it, and by read and write. What the port sends is seen by a packet socket on the interface; what that sends, the port receives.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "net/port.h"
#include "tap_peer.h"

enum { BURST = 64, MODES = 4 };
static const char *const mode_names[MODES] = { "auto", "io_uring", "io_uring writes", "read and write" };

static struct port *open_tap(enum tap_calls calls, unsigned queues)
{
	struct port *port;
	char why[200] = "";

	if (port_tap_open(PEER_TAP, queues, calls, &port, why, sizeof(why)))
		fail_msg("%s: %s", mode_names[calls], why);
	peer_up(true);
	return port;
}

static void fill(uint8_t *data, uint32_t number)
{
	memset(data, 0, PORT_HEADER);
	peer_fill(data + PORT_HEADER, number);
}

/* Send packets `first` on by the port's own buffers. How many were taken. */
static unsigned submit(struct port *port, uint32_t first, unsigned n)
{
	struct port_buffer b[BURST];
	unsigned taken;

	assert_int_equal(port_lend(port, 0, b, n), n);
	for (unsigned k = 0; k < n; k++) {
		fill(b[k].data, first + k);
		b[k].bytes = PORT_HEADER + peer_size(first + k);
	}
	taken = port_submit(port, 0, b, n);
	port_give_back(port, 0, b + taken, n - taken);
	return taken;
}

/* The same from the caller's memory, in three pieces. */
static unsigned send_pieces(struct port *port, uint32_t first, unsigned n)
{
	static uint8_t data[BURST][PORT_HEADER + PEER_MOST];
	struct port_packet packet[BURST];
	struct iovec iov[BURST][3];

	for (unsigned k = 0; k < n; k++) {
		uint32_t bytes = PORT_HEADER + peer_size(first + k);

		fill(data[k], first + k);
		iov[k][0] = (struct iovec){ data[k], PORT_HEADER };
		iov[k][1] = (struct iovec){ data[k] + PORT_HEADER, 20 };
		iov[k][2] = (struct iovec){ data[k] + PORT_HEADER + 20, bytes - PORT_HEADER - 20 };
		packet[k] = (struct port_packet){ iov[k], 3, bytes };
	}
	return (unsigned)port_send(port, 0, packet, n);
}

static void sends(void **state)
{
	static const unsigned counts[] = { 1, 2, 3, 31, 32, 63, 64 };

	for (unsigned mode = 0; mode < MODES; mode++) {
		struct port *port = open_tap(mode, 1);
		uint32_t number = 0, seen = 0;
		struct port_counters c;

		for (unsigned round = 0; round < 200; round++) {
			unsigned n = counts[round % (sizeof(counts) / sizeof(counts[0]))];

			assert_int_equal((round % 2 ? submit : send_pieces)(port, number, n), n);
			number += n;
			while (seen < number)
				assert_int_equal(peer_receive(), seen++);
		}
		port_get_counters(port, &c);
		assert_int_equal(c.tx_packets, number);
		assert_int_equal(c.tx_dropped, 0);
		port_close(port);
	}
}

/* Receive what there is into iovecs that split packets at different places. Returns how many, all of them as expected from *next on. */
static unsigned receive_pieces(struct port *port, unsigned n, uint32_t *next)
{
	static uint8_t data[BURST][PORT_HEADER + PEER_MOST];
	struct port_packet packet[BURST];
	struct iovec iov[BURST][2];
	int got;

	for (unsigned k = 0; k < n; k++) {
		size_t split = 1 + (k * 37 + *next) % (PORT_HEADER + PEER_LEAST);

		iov[k][0] = (struct iovec){ data[k], split };
		iov[k][1] = (struct iovec){ data[k] + split, sizeof(data[k]) - split };
		packet[k] = (struct port_packet){ iov[k], 2, sizeof(data[k]) };
	}
	got = port_receive(port, 0, packet, n);
	assert_true(got >= 0);
	for (int k = 0; k < got; k++)
		if (peer_check(data[k] + PORT_HEADER, packet[k].bytes - PORT_HEADER, *next))
			++*next;
	return (unsigned)got;
}

static unsigned collect(struct port *port, unsigned n, uint32_t *next)
{
	struct port_buffer b[BURST];
	unsigned got = port_collect(port, 0, b, n);

	for (unsigned k = 0; k < got; k++)
		if (peer_check(b[k].data + PORT_HEADER, b[k].bytes - PORT_HEADER, *next))
			++*next;
	port_give_back(port, 0, b, got);
	return got;
}

static void receives(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		struct port *port = open_tap(mode, 1);
		uint32_t sent = 0, next = 0;
		struct port_counters c;

		for (unsigned round = 0; round < 300; round++) {
			unsigned n = 1 + round * 7 % 100, burst = 1 + round * 5 % BURST;

			while (n--)
				peer_send(sent++);
			while ((round % 2 ? collect : receive_pieces)(port, burst, &next))
				;
			assert_int_equal(next, sent);
		}
		port_get_counters(port, &c);
		assert_true(c.rx_packets >= sent);
		assert_int_equal(c.rx_dropped, 0);
		port_close(port);
	}
}

/* While packets come, a request of a burst may find none and a later one does: order and contents stay. */
static void receives_while_they_come(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		struct port *port = open_tap(mode, 1);
		uint32_t next = 0;

		peer_send_many(20000);
		while (next < 20000) {
			(next / 1000 % 2 ? collect : receive_pieces)(port, BURST, &next);
			peer_arrived(next);
		}
		peer_wait();
		port_close(port);
	}
}

/* A page that is not there until the kernel looks for it. Then a packet comes; then the page does. */
struct late_page {
	int fd;
	uint8_t *page, *contents;
};

static void *bring(void *opaque)
{
	struct late_page *late = opaque;
	struct uffd_msg message;
	struct uffdio_copy copy = { .dst = (uintptr_t)late->page, .src = (uintptr_t)late->contents, .len = 4096 };

	assert_int_equal(read(late->fd, &message, sizeof(message)), sizeof(message));
	peer_send(1);
	assert_int_equal(ioctl(late->fd, UFFDIO_COPY, &copy), 0);
	return NULL;
}

static bool make_late(struct late_page *late)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register area = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	late->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (late->fd < 0)
		return false;
	late->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	late->contents = calloc(1, 4096);
	area.range.start = (uintptr_t)late->page;
	area.range.len = 4096;
	assert_int_equal(ioctl(late->fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(late->fd, UFFDIO_REGISTER, &area), 0);
	return true;
}

/* One request of a burst finds nothing, and the next one a packet that came between them: it is where the caller looks for it. */
static void comes_between_two_reads(void **state)
{
	static uint8_t data[4][PORT_HEADER + PEER_MOST];
	struct port *port = open_tap(TAP_URING, 1);
	struct port_packet packet[4];
	struct iovec iov[4][2];
	struct late_page late;
	pthread_t thread;
	int got;

	if (!make_late(&late)) {
		port_close(port);
		skip();
	}
	for (unsigned k = 0; k < 4; k++) {
		iov[k][0] = (struct iovec){ data[k], 30 + k };
		iov[k][1] = (struct iovec){ data[k] + 30 + k, sizeof(data[k]) - 30 - k };
		packet[k] = (struct port_packet){ iov[k], 2, sizeof(data[k]) };
	}
	memcpy(late.contents, iov[2], sizeof(iov[2]));
	packet[2].iov = (struct iovec *)late.page;
	assert_int_equal(pthread_create(&thread, NULL, bring, &late), 0);
	peer_send(0);
	got = port_receive(port, 0, packet, 4);
	assert_true(*(volatile uint8_t *)late.page || true); /* a kernel that does not know RWF_NOWAIT has not looked there */
	pthread_join(thread, NULL);
	if (got == 1)
		got += port_receive(port, 0, packet + 1, 1);
	assert_int_equal(got, 2);
	for (uint32_t k = 0; k < 2; k++)
		assert_true(peer_check(data[k] + PORT_HEADER, packet[k].bytes - PORT_HEADER, k));
	port_close(port);
	close(late.fd);
	munmap(late.page, 4096);
	free(late.contents);
}

/* Some packets of a burst are refused, by what their headers say: lost, counted, and the others are not. */
static void some_are_refused(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		struct port *port = open_tap(mode, 1);
		struct port_counters c;

		for (uint32_t round = 0; round < 50; round++) {
			struct port_buffer b[BURST];

			assert_int_equal(port_lend(port, 0, b, BURST), BURST);
			for (uint32_t k = 0; k < BURST; k++) {
				fill(b[k].data, k);
				b[k].bytes = PORT_HEADER + peer_size(k);
				if (k % 3 == round % 3)
					((struct virtio_net_hdr_v1 *)b[k].data)->gso_type = 0x7f;
				if (k % 3 == round % 3 && k % 2)
					b[k].bytes = 5; /* not even a header */
			}
			assert_int_equal(port_submit(port, 0, b, BURST), BURST);
			for (uint32_t k = 0; k < BURST; k++)
				if (k % 3 != round % 3)
					assert_int_equal(peer_receive(), k);
			port_get_counters(port, &c);
			assert_int_equal(c.tx_dropped + c.tx_packets, (round + 1) * BURST);
		}
		assert_int_equal(c.tx_dropped, 17 * 22 + 17 * 21 + 16 * 21);
		port_close(port);
	}
}

/* Too small for a header, too small for the frame: dropped, and what is behind it comes. */
static void does_not_fit(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		struct port *port = open_tap(mode, 1);
		uint8_t data[3][PORT_HEADER + PEER_MOST];
		struct iovec iov[3] = { { data[0], sizeof(data[0]) }, { data[1], 7 }, { data[2], sizeof(data[2]) } };
		struct port_packet packet[3] = { { &iov[0], 1, sizeof(data[0]) }, { &iov[1], 1, 7 }, { &iov[2], 1, sizeof(data[2]) } };
		struct port_counters c;
		uint32_t next = 0;
		int got;

		for (unsigned k = 0; k < 70; k++)
			peer_send(k);
		while (next < 64)
			collect(port, 4, &next); /* the next call asks for several at once */
		got = port_receive(port, 0, packet, 3);
		assert_int_equal(got, 1);
		assert_true(peer_check(data[0] + PORT_HEADER, packet[0].bytes - PORT_HEADER, 64));
		port_get_counters(port, &c);
		assert_true(c.rx_dropped > 0);
		for (next = 65 + (uint32_t)c.rx_dropped; next < 70;)
			assert_true(collect(port, BURST, &next));
		port_close(port);
	}
}

static void interface_down_and_up(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		struct port *port = open_tap(mode, 1);
		struct port_counters c;
		uint32_t next = 0;

		peer_up(false);
		assert_int_equal(submit(port, 0, BURST), BURST);
		assert_int_equal(collect(port, BURST, &next), 0);
		port_get_counters(port, &c);
		assert_int_equal(c.tx_dropped, BURST);
		assert_true(port_is_up(port)); /* it may come up again */
		peer_up(true);
		assert_int_equal(submit(port, 7, 1), 1);
		assert_int_equal(peer_receive(), 7);
		port_close(port);
	}
}

/*
 * The kernel takes no more for a while: who sends is told how many were taken, and none of the others goes. Packets are kept waiting on
 * their way by another processor that is to receive them (RPS), with room for one of them.
 */
static void no_room(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		struct port *port = open_tap(mode, 1);
		uint32_t number = 0, refused[2] = { 0 }, room = 1, seen = 0, last = 0;
		struct port_counters c;

		if (!peer_steer_to_processor_1()) {
			peer_anywhere();
			port_close(port);
			skip();
		}
		assert_int_equal(ioctl(port_receive_fd(port, 0), TUNSETSNDBUF, &room), 0);
		for (unsigned round = 0; round < 100000 && (refused[0] < 20 || refused[1] < 20); round++) {
			unsigned burst = round % 2 ? 32 : 4, taken = submit(port, number + 1, burst);

			number += taken;
			refused[round % 2] += taken < burst;
			for (uint32_t got; (got = peer_receive_now()) != PEER_NONE; last = got, seen++)
				assert_true(got > last && got <= number);
		}
		while (last < number && seen < number) {
			uint32_t got = peer_receive_soon();

			if (got == PEER_NONE)
				break; /* the last ones were lost and counted */
			assert_true(got > last && got <= number);
			last = got;
			seen++;
		}
		assert_true(refused[0] >= 20 && refused[1] >= 20);
		port_get_counters(port, &c);
		assert_int_equal(c.tx_packets + c.tx_dropped, number);
		assert_int_equal(c.tx_packets, seen);
		peer_anywhere();
		port_close(port);
	}
}

/* Sends and receives until the port says that it is broken. */
static void *keep_busy(void *opaque)
{
	struct port *port = opaque;
	struct port_buffer b[BURST];

	for (uint32_t number = 0; !port_error(port); number += BURST) {
		unsigned n = port_lend(port, 0, b, BURST);

		for (unsigned k = 0; k < n; k++) {
			fill(b[k].data, number + k);
			b[k].bytes = PORT_HEADER + peer_size(number + k);
		}
		n -= port_submit(port, 0, b, n);
		port_give_back(port, 0, b + BURST - n, n);
		port_give_back(port, 0, b, port_collect(port, 0, b, BURST));
	}
	return NULL;
}

static void deleted_under_traffic(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		for (unsigned round = 0; round < 4; round++) {
			struct port *port = open_tap(mode, 1);
			uint8_t data[PORT_HEADER + PEER_MOST];
			struct iovec iov = { data, sizeof(data) };
			struct port_packet packet = { &iov, 1, sizeof(data) };
			struct port_counters before, after;
			pthread_t thread;

			assert_int_equal(pthread_create(&thread, NULL, keep_busy, port), 0);
			peer_send_many(300);
			usleep(round * 2000);
			peer_delete();
			pthread_join(thread, NULL); /* it ends: that is the test */
			peer_wait();
			assert_int_equal(port_error(port), -ENODEV);
			assert_false(port_is_up(port));
			assert_int_equal(port_receive(port, 0, &packet, 1), -ENODEV);
			port_get_counters(port, &before);
			assert_int_equal(submit(port, 0, BURST), BURST); /* lost, and all buffers are there */
			port_get_counters(port, &after);
			assert_int_equal(after.tx_dropped, before.tx_dropped + BURST);
			port_close(port);
		}
	}
}

/* Nothing of a port outlives it: its interface is gone with it, so the name is free at once. */
static void closes(void **state)
{
	for (unsigned mode = 0; mode < MODES; mode++) {
		for (unsigned round = 0; round < 8; round++) {
			struct port *port = open_tap(mode, 1);
			uint32_t next = 0;

			for (uint32_t k = 0; k < 40; k++)
				peer_send(k);
			submit(port, 0, BURST);
			collect(port, 7, &next);
			port_close(port);
			assert_false(peer_is_there());
		}
	}
}

/* Opening a queue takes nothing from it, whatever is found out about the kernel. */
static void opening_loses_nothing(void **state)
{
	struct port *first = open_tap(TAP_URING, 2), *second;
	uint32_t sent = 0, next;
	char why[200];

	peer_persist(port_receive_fd(first, 0));
	for (unsigned k = 0; k < 20; k++)
		peer_send(sent++);
	assert_int_equal(port_tap_open(PEER_TAP, 2, TAP_URING, &second, why, sizeof(why)), 0);
	port_close(second);
	for (next = 0; next < sent;)
		if (!collect(first, BURST, &next)) { /* the kernel steers this flow to the other queue */
			struct port_buffer b[BURST];
			unsigned got = port_collect(first, 1, b, BURST);

			for (unsigned k = 0; k < got; k++)
				if (peer_check(b[k].data + PORT_HEADER, b[k].bytes - PORT_HEADER, next))
					next++;
			port_give_back(first, 1, b, got);
			assert_true(got);
		}
	port_close(first);
	peer_delete();
}

/* --- where io_uring is not allowed --- */

/* From here on this process's system call `number` fails with EPERM. */
static void forbid(unsigned number)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void traffic(struct port *port, uint32_t *number)
{
	uint32_t next = *number;

	assert_int_equal(submit(port, *number, BURST), BURST);
	for (unsigned k = 0; k < BURST; k++)
		assert_int_equal(peer_receive(), *number + k);
	for (unsigned k = 0; k < BURST; k++)
		peer_send(*number + k);
	while (next < *number + BURST)
		collect(port, BURST, &next);
	*number += BURST;
}

/* In a process of its own, for a filter is for good. */
static void forbidden(void **state)
{
	static const unsigned calls[] = { SYS_io_uring_setup, SYS_io_uring_enter };

	for (unsigned from_the_beginning = 0; from_the_beginning < 2; from_the_beginning++)
		for (unsigned k = 0; k < 2; k++) {
			pid_t child = fork();
			int status;

			if (!child) {
				uint32_t number = 0;
				struct port *port;

				if (from_the_beginning)
					forbid(calls[k]);
				port = open_tap(TAP_URING, 1);
				traffic(port, &number);
				traffic(port, &number); /* bursts are asked for by now */
				if (!from_the_beginning)
					forbid(calls[k]);
				traffic(port, &number);
				traffic(port, &number);
				port_close(port);
				_exit(0);
			}
			assert_int_equal(waitpid(child, &status, 0), child);
			assert_int_equal(status, 0);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sends),	    cmocka_unit_test(receives),		cmocka_unit_test(receives_while_they_come),
		cmocka_unit_test(comes_between_two_reads),
		cmocka_unit_test(some_are_refused), cmocka_unit_test(does_not_fit),	cmocka_unit_test(interface_down_and_up),
		cmocka_unit_test(no_room),	    cmocka_unit_test(deleted_under_traffic), cmocka_unit_test(closes),
		cmocka_unit_test(opening_loses_nothing), cmocka_unit_test(forbidden),
	};
	const char *missing = peer_prepare();

	if (missing) {
		printf("SKIPPED: %s\n", missing);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
