/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-vsock driven without a guest: connections both ways, credit, ends, refusals, and a driver that lies. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_vsock.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "devices/vsock.h"
#include "driver.h"

enum { RX, TX, EVENT, N_QUEUES, SIZE = 64, CID = 7, ROOM = 4096, HEADER = sizeof(struct virtio_vsock_hdr) };
enum { RX_BUFFERS = TEST_DATA, TX_BUFFER = TEST_DATA + 0x100000, CREDIT = 256 << 10 };

struct fixture {
	struct test_driver driver;
	struct vsock *vsock;
	char dir[32], path[64];
	uint16_t type;			 /* of the connections */
	uint32_t peer_buffer, forwarded; /* what we tell in our headers */
};

static void set_up(struct fixture *f)
{
	struct vsock_config config = {.owner = "test", .cid = CID};
	char why[200];

	memset(f, 0, sizeof(*f));
	driver_memory(&f->driver);
	strcpy(f->dir, "/tmp/guise-vsock-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/v", f->dir);
	config.path = f->path;
	f->type = VIRTIO_VSOCK_TYPE_STREAM;
	f->peer_buffer = 1 << 20;
	assert_int_equal(vsock_new(&f->driver.dma, &config, &f->vsock, why, sizeof(why)), 0);
}

static void tear_down(struct fixture *f)
{
	driver_reset(&f->driver);
	vsock_free(f->vsock);
	driver_end(&f->driver);
	rmdir(f->dir);
}

static void give_buffer(struct fixture *f, uint8_t *buffer)
{
	struct virtq_segment seg[2] = {{(gpa_t)(buffer - f->driver.ram), HEADER}, {(gpa_t)(buffer - f->driver.ram) + HEADER, ROOM}};

	driver_send(&f->driver, RX, seg, 0, 2, buffer);
}

static void start(struct fixture *f, uint64_t features, unsigned buffers)
{
	driver_start(&f->driver, vsock_device(f->vsock), features, N_QUEUES, SIZE);
	for (unsigned k = 0; k < buffers; k++)
		give_buffer(f, f->driver.ram + RX_BUFFERS + 8192 * k);
}

static void set_patience(int fd)
{
	struct timeval patience = {.tv_sec = 60};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

static int socket_type(const struct fixture *f)
{
	return f->type == VIRTIO_VSOCK_TYPE_STREAM ? SOCK_STREAM : SOCK_SEQPACKET;
}

static int connect_host_socket(const struct fixture *f)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, socket_type(f), 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s%s", f->path,
		 f->type == VIRTIO_VSOCK_TYPE_STREAM ? "" : ".seqpacket");
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	set_patience(fd);
	return fd;
}

static int listen_at(struct fixture *f, unsigned port, char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, socket_type(f), 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", f->path, port);
	strcpy(path, addr.sun_path);
	assert_int_equal(bind(fd, (void *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 100), 0);
	return fd;
}

static void write_all(int fd, const void *bytes, size_t count)
{
	assert_int_equal(send(fd, bytes, count, MSG_NOSIGNAL), count);
}

static void read_all(int fd, void *to, size_t count)
{
	while (count) {
		ssize_t n = read(fd, to, count);

		assert_true(n > 0);
		to = (uint8_t *)to + n;
		count -= (size_t)n;
	}
}

/* The next packet for us; its buffer goes back at once, its payload to `data` (ROOM bytes). */
static struct virtio_vsock_hdr next(struct fixture *f, uint8_t *data)
{
	struct virtio_vsock_hdr h;
	uint32_t written;
	uint8_t *buffer = driver_wait(&f->driver, RX, &written);

	assert_true(written >= HEADER);
	memcpy(&h, buffer, HEADER);
	assert_int_equal(written, HEADER + h.len);
	assert_int_equal(h.src_cid, 2);
	assert_int_equal(h.dst_cid, CID);
	if (h.op != VIRTIO_VSOCK_OP_RST) /* which may be for another connection */
		assert_int_equal(h.type, f->type);
	if (h.op != VIRTIO_VSOCK_OP_RST)
		assert_int_equal(h.buf_alloc, CREDIT);
	if (data)
		memcpy(data, buffer + HEADER, h.len);
	give_buffer(f, buffer);
	return h;
}

static struct virtio_vsock_hdr expect(struct fixture *f, uint16_t op)
{
	struct virtio_vsock_hdr h = next(f, NULL);

	assert_int_equal(h.op, op);
	return h;
}

static void send_header(struct fixture *f, const struct virtio_vsock_hdr *h, const void *data, uint32_t bytes)
{
	struct virtq_segment seg[3] = {{TX_BUFFER, 20}, {TX_BUFFER + 20, HEADER - 20}, {TX_BUFFER + HEADER, bytes}};
	uint32_t written;

	memcpy(f->driver.ram + TX_BUFFER, h, HEADER);
	if (bytes)
		memcpy(f->driver.ram + TX_BUFFER + HEADER, data, bytes);
	driver_send(&f->driver, TX, seg, bytes ? 3 : 2, 0, f);
	assert_ptr_equal(driver_wait(&f->driver, TX, &written), f);
}

static void say(struct fixture *f, uint32_t guest_port, uint32_t host_port, uint16_t op, uint32_t flags, const void *data, uint32_t len)
{
	struct virtio_vsock_hdr h = {.src_cid = CID, .dst_cid = 2, .src_port = guest_port, .dst_port = host_port, .len = len,
				     .type = f->type, .op = op, .flags = flags,
				     .buf_alloc = f->peer_buffer, .fwd_cnt = f->forwarded};

	send_header(f, &h, data, len);
}

/* A host program connects to the guest's port; returns its socket and the port that it has. */
static int connect_host(struct fixture *f, uint32_t port, uint32_t *host_port)
{
	char line[64];
	int fd = connect_host_socket(f);
	struct virtio_vsock_hdr h;
	unsigned got = 0;

	snprintf(line, sizeof(line), "CONNECT %u\n", port);
	if (f->type == VIRTIO_VSOCK_TYPE_STREAM) { /* in two parts */
		write_all(fd, line, 3);
		write_all(fd, line + 3, strlen(line) - 3);
	} else {
		write_all(fd, line, strlen(line));
	}
	h = expect(f, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, port);
	*host_port = h.src_port;
	say(f, port, h.src_port, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	if (f->type == VIRTIO_VSOCK_TYPE_SEQPACKET)
		assert_true(recv(fd, line, sizeof(line), 0) > 4);
	else
		do
			read_all(fd, line + got, 1);
		while (line[got++] != '\n');
	assert_int_equal(atoi(line + 3), h.src_port);
	return fd;
}

static void host_connects(void **state)
{
	static uint8_t sent[300000], got[300000], data[ROOM];
	struct fixture f;

	set_up(&f);
	for (unsigned k = 0; k < sizeof(sent); k++)
		sent[k] = (uint8_t)(k * 31 + (k >> 9));
	for (unsigned round = 0; round < 3; round++) {
		struct virtio_vsock_hdr h;
		uint32_t host_port, done = 0;
		int fd;

		if (round)
			driver_reset(&f.driver);
		f.forwarded = 0;
		start(&f, round & 1 ? 1ull << VIRTIO_F_RING_PACKED | 1ull << VIRTIO_RING_F_EVENT_IDX : 0, 16);
		fd = connect_host(&f, 1000 + round, &host_port);
		write_all(fd, sent, 100000);
		while (done < 100000) {
			h = next(&f, data);
			assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
			assert_memory_equal(data, sent + done, h.len);
			done += h.len;
		}
		for (done = 0; done < sizeof(sent); done += 50000) {
			say(&f, 1000 + round, host_port, VIRTIO_VSOCK_OP_RW, 0, sent + done, 50000);
			read_all(fd, got + done, 50000);
		}
		assert_memory_equal(got, sent, sizeof(sent));
		expect(&f, VIRTIO_VSOCK_OP_CREDIT_UPDATE); /* at half of the buffer; the second one was in time, too */
		expect(&f, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		shutdown(fd, SHUT_WR);
		assert_int_equal(expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN).flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
		say(&f, 1000 + round, host_port, VIRTIO_VSOCK_OP_RW, 0, "bye", 3);
		say(&f, 1000 + round, host_port, VIRTIO_VSOCK_OP_SHUTDOWN, 3, NULL, 0);
		read_all(fd, got, 3);
		assert_int_equal(read(fd, got, 1), 0);
		expect(&f, VIRTIO_VSOCK_OP_RST);
		close(fd);
	}
	tear_down(&f);
}

static void guest_connects(void **state)
{
	char path[120], bytes[8];
	struct fixture f;
	int listener, fd;

	set_up(&f);
	start(&f, 0, 16);
	listener = listen_at(&f, 77, path);
	for (unsigned k = 0; k < 50; k++) {
		say(&f, 500 + k, 77, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
		fd = accept(listener, NULL, NULL);
		assert_true(fd >= 0);
		expect(&f, VIRTIO_VSOCK_OP_RESPONSE);
		say(&f, 500 + k, 77, VIRTIO_VSOCK_OP_RW, 0, "hello", 5);
		read_all(fd, bytes, 5);
		write_all(fd, "answer", 6);
		assert_int_equal(expect(&f, VIRTIO_VSOCK_OP_RW).len, 6);
		close(fd); /* all at once: the guest is told so, and agrees */
		while (expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN).flags != 3)
			;
		say(&f, 500 + k, 77, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	}
	say(&f, 600, 78, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0); /* nobody listens there */
	assert_int_equal(expect(&f, VIRTIO_VSOCK_OP_RST).dst_port, 600);
	close(listener);
	unlink(path);
	tear_down(&f);
}

/* The host program does not read: the guest may send what it has credit for, and not a byte more. */
static void credit_is_kept(void **state)
{
	static uint8_t data[50000], got[CREDIT];
	struct fixture f;
	uint32_t host_port, total = 0, seen;
	int fd;

	set_up(&f);
	start(&f, 0, 16);
	memset(data, 0x3c, sizeof(data));
	fd = connect_host(&f, 9, &host_port);
	for (;;) { /* fill the socket and then our buffer, by what the device says it has room for */
		struct virtio_vsock_hdr h;
		uint32_t room;

		say(&f, 9, host_port, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, NULL, 0);
		do
			h = expect(&f, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		while (driver_pending(&f.driver, RX));
		room = CREDIT - (total - h.fwd_cnt);
		if (!room)
			break;
		room = room < sizeof(data) ? room : sizeof(data);
		say(&f, 9, host_port, VIRTIO_VSOCK_OP_RW, 0, data, room);
		total += room;
	}
	for (seen = 0; seen < total;) { /* it reads at last: everything is there */
		uint32_t part = total - seen < sizeof(got) ? total - seen : sizeof(got);

		read_all(fd, got, part);
		for (uint32_t k = 0; k < part; k++)
			assert_int_equal(got[k], 0x3c);
		seen += part;
	}
	close(fd);
	driver_reset(&f.driver);

	start(&f, 0, 16); /* and now beyond it: reset */
	fd = connect_host(&f, 10, &host_port);
	for (;;) {
		struct virtio_vsock_hdr h;

		say(&f, 10, host_port, VIRTIO_VSOCK_OP_RW, 0, data, sizeof(data));
		if (!driver_pending(&f.driver, RX))
			continue;
		h = next(&f, NULL);
		if (h.op == VIRTIO_VSOCK_OP_RST)
			break;
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	}
	close(fd);
	tear_down(&f);
}

/* We give no credit: nothing may come but one question for it. */
static void respects_the_guests_credit(void **state)
{
	uint8_t data[ROOM];
	struct fixture f;
	uint32_t host_port;
	int fd;

	set_up(&f);
	f.peer_buffer = 10;
	start(&f, 0, 16);
	fd = connect_host(&f, 9, &host_port);
	write_all(fd, "0123456789abcdef", 16);
	assert_int_equal(next(&f, data).len, 10);
	assert_memory_equal(data, "0123456789", 10);
	expect(&f, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	say(&f, 9, host_port, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0); /* still none: not asked again */
	f.forwarded = 0x80000000;					     /* nonsense: none */
	say(&f, 9, host_port, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	f.forwarded = 10;
	say(&f, 9, host_port, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	assert_int_equal(next(&f, data).len, 6);
	assert_memory_equal(data, "abcdef", 6);
	close(fd);
	tear_down(&f);
}

static void refuses_nonsense(void **state)
{
	struct virtio_vsock_hdr h = {.src_cid = CID, .dst_cid = 2, .src_port = 1, .dst_port = 2, .type = 1, .op = VIRTIO_VSOCK_OP_RW};
	struct virtq_segment tiny = {TX_BUFFER, 10};
	struct fixture f;
	uint32_t host_port, written;
	char byte;
	int fd;

	set_up(&f);
	fd = connect_host_socket(&f); /* no driver yet: closed at once */
	assert_true(read(fd, &byte, 1) <= 0);
	close(fd);
	start(&f, 0, 16);
	for (unsigned op = 2; op < 9; op++) { /* for no stream: refused, but for RST */
		h.op = (uint16_t)op;
		send_header(&f, &h, NULL, 0);
		if (op != VIRTIO_VSOCK_OP_RST)
			expect(&f, VIRTIO_VSOCK_OP_RST);
	}
	h.op = VIRTIO_VSOCK_OP_REQUEST;
	h.type = 2; /* SEQPACKET was not accepted */
	send_header(&f, &h, NULL, 0);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	h.type = 1;
	h.dst_cid = 1;
	send_header(&f, &h, NULL, 0);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	h.src_cid = CID + 1; /* in another's name; then longer than it is; then no header: no answer to any */
	send_header(&f, &h, NULL, 0);
	h.src_cid = CID;
	h.len = 100;
	send_header(&f, &h, "x", 1);
	driver_send(&f.driver, TX, &tiny, 1, 0, &f);
	assert_ptr_equal(driver_wait(&f.driver, TX, &written), &f);

	for (unsigned k = 0; k < 4; k++) { /* what may not come in an open stream */
		static const uint16_t op[] = {VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, 99, VIRTIO_VSOCK_OP_INVALID};

		fd = connect_host(&f, 10 + k, &host_port);
		say(&f, 10 + k, host_port, op[k], 0, NULL, 0);
		expect(&f, VIRTIO_VSOCK_OP_RST);
		assert_int_equal(read(fd, &byte, 1), 0);
		close(fd);
	}
	fd = connect_host_socket(&f);
	write_all(fd, "HELLO\n", 6);
	assert_true(read(fd, &byte, 1) <= 0);
	close(fd);
	fd = connect_host_socket(&f);
	write_all(fd, "CONNECT 99999999999999999999999999999999\n", 41);
	assert_true(read(fd, &byte, 1) <= 0);
	close(fd);
	fd = connect_host_socket(&f); /* and the device is as good as ever */
	close(fd);
	fd = connect_host(&f, 5, &host_port);
	close(fd);
	tear_down(&f);
}

/* Many at once, no receive buffers for a while, and a reset in the middle of it. */
static void holds_many(void **state)
{
	enum { MANY = 200 };
	static int fd[MANY];
	static uint32_t guest_port[MANY], host_port[MANY];
	struct fixture f;
	char line[32];

	set_up(&f);
	start(&f, 0, 0);
	for (unsigned k = 0; k < MANY; k++) {
		fd[k] = connect_host_socket(&f);
		snprintf(line, sizeof(line), "CONNECT %u\n", 2000 + k);
		write_all(fd[k], line, strlen(line));
	}
	for (unsigned k = 0; k < 500; k++) /* more refusals than are kept */
		say(&f, k, k, VIRTIO_VSOCK_OP_RW, 0, NULL, 0);
	for (unsigned k = 0; k < 16; k++)
		give_buffer(&f, f.driver.ram + RX_BUFFERS + 8192 * k);
	for (unsigned k = 0; k < MANY;) {
		struct virtio_vsock_hdr h = next(&f, NULL);

		if (h.op == VIRTIO_VSOCK_OP_RST)
			continue;
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_REQUEST);
		guest_port[k] = h.dst_port;
		host_port[k++] = h.src_port;
	}
	for (unsigned k = 0; k < MANY; k++)
		say(&f, guest_port[k], host_port[k], VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	for (unsigned k = 0; k < MANY; k++) {
		read_all(fd[k], line, 3);
		assert_memory_equal(line, "OK ", 3);
	}
	driver_reset(&f.driver);
	for (unsigned k = 0; k < MANY; k++) {
		while (read(fd[k], line, 1) > 0)
			;
		close(fd[k]);
	}
	start(&f, 0, 16);
	fd[0] = connect_host(&f, 5, host_port);
	close(fd[0]);
	tear_down(&f);
}

/* --- SEQPACKET --- */

enum { SEQPACKET = 1 << VIRTIO_VSOCK_F_SEQPACKET, EOM = VIRTIO_VSOCK_SEQ_EOM };

static void set_up_messages(struct fixture *f)
{
	set_up(f);
	f->type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	start(f, SEQPACKET, 16);
}

/* A message of the host program, as it comes to the driver. */
static void expect_message(struct fixture *f, const uint8_t *wanted, uint32_t len)
{
	uint8_t data[ROOM];
	struct virtio_vsock_hdr h;
	uint32_t done = 0;

	do {
		h = next(f, data);
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
		assert_true(h.len && h.len <= len - done);
		assert_memory_equal(data, wanted + done, h.len);
		done += h.len;
		assert_int_equal(h.flags, done == len ? EOM : 0);
	} while (done < len);
}

static void messages_both_ways(void **state)
{
	static const uint32_t length[] = {1, 5, ROOM, ROOM + 1, 3, 60000, 2};
	static uint8_t sent[60000], got[60001];
	struct fixture f;
	uint32_t port;
	int fd;

	set_up_messages(&f);
	for (unsigned k = 0; k < sizeof(sent); k++)
		sent[k] = (uint8_t)(k * 31 + (k >> 9));
	fd = connect_host(&f, 9, &port);
	for (unsigned k = 0; k < sizeof(length) / sizeof(length[0]); k++) {
		write_all(fd, sent + k, length[k] - (k == 5 ? k : 0));
		if (k == 2)
			write_all(fd, sent, 0); /* an empty one is left out */
	}
	for (unsigned k = 0; k < sizeof(length) / sizeof(length[0]); k++)
		expect_message(&f, sent + k, length[k] - (k == 5 ? k : 0));
	for (unsigned k = 0; k < 50; k++) { /* in parts, and many before the host program reads */
		say(&f, 9, port, VIRTIO_VSOCK_OP_RW, 0, sent, k);
		say(&f, 9, port, VIRTIO_VSOCK_OP_RW, 0, sent + k, 1000);
		say(&f, 9, port, VIRTIO_VSOCK_OP_RW, EOM | VIRTIO_VSOCK_SEQ_EOR, sent + k + 1000, 7);
		say(&f, 9, port, VIRTIO_VSOCK_OP_RW, EOM, sent, 0); /* empty */
		say(&f, 9, port, VIRTIO_VSOCK_OP_RW, EOM, sent, k + 1);
	}
	for (unsigned k = 0; k < 50; k++) {
		assert_int_equal(recv(fd, got, sizeof(got), 0), k + 1007);
		assert_memory_equal(got, sent, k + 1007);
		assert_int_equal(recv(fd, got, sizeof(got), 0), k + 1);
	}
	shutdown(fd, SHUT_WR);
	assert_int_equal(expect(&f, VIRTIO_VSOCK_OP_SHUTDOWN).flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	say(&f, 9, port, VIRTIO_VSOCK_OP_RW, EOM, "bye", 3);
	say(&f, 9, port, VIRTIO_VSOCK_OP_RW, 0, "half of", 7); /* is lost with the end */
	say(&f, 9, port, VIRTIO_VSOCK_OP_SHUTDOWN, 3, NULL, 0);
	assert_int_equal(recv(fd, got, sizeof(got), 0), 3);
	assert_int_equal(recv(fd, got, sizeof(got), 0), 0);
	expect(&f, VIRTIO_VSOCK_OP_RST);
	close(fd);
	tear_down(&f);
}

/* With little credit messages come in parts; the longest possible one goes to the host program in one piece. */
static void messages_keep_to_credit(void **state)
{
	static uint8_t data[CREDIT], got[CREDIT + 1];
	struct fixture f;
	struct virtio_vsock_hdr h;
	uint32_t port;
	int fd;

	set_up_messages(&f);
	f.peer_buffer = 10;
	fd = connect_host(&f, 9, &port);
	write_all(fd, "0123456", 7);
	write_all(fd, "abcdefgh", 8);
	assert_int_equal(next(&f, data).flags, EOM);
	h = next(&f, data);
	assert_int_equal(h.len, 3);
	assert_int_equal(h.flags, 0);
	expect(&f, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	f.forwarded = 10;
	say(&f, 9, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	h = next(&f, data);
	assert_int_equal(h.len, 5);
	assert_int_equal(h.flags, EOM);
	assert_memory_equal(data, "defgh", 5);
	for (unsigned k = 0; k < CREDIT; k++)
		data[k] = (uint8_t)(k * 7 + (k >> 8));
	for (unsigned k = 0; k < CREDIT; k += 32768)
		say(&f, 9, port, VIRTIO_VSOCK_OP_RW, k + 32768 == CREDIT ? EOM : 0, data + k, 32768);
	assert_int_equal(recv(fd, got, sizeof(got), 0), CREDIT);
	assert_memory_equal(got, data, CREDIT);
	expect(&f, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	write_all(fd, data, 11); /* the guest could never have room for it */
	expect(&f, VIRTIO_VSOCK_OP_RST);
	assert_true(recv(fd, got, 1, 0) <= 0);
	close(fd);
	tear_down(&f);
}

/* Reset, for that port and perhaps again for what was sent after it, and the host program sees an end. */
static void expect_reset(struct fixture *f, int fd, uint32_t port)
{
	static uint8_t got[CREDIT];
	unsigned resets = 0;

	say(f, 4242, 4242, VIRTIO_VSOCK_OP_RW, 0, NULL, 0); /* the last that is refused */
	while (expect(f, VIRTIO_VSOCK_OP_RST).dst_port == port)
		resets++;
	assert_true(resets);
	while (recv(fd, got, sizeof(got), 0) > 0)
		;
	close(fd);
}

static void refuses_wrong_messages(void **state)
{
	static uint8_t data[50000];
	char path[120];
	struct fixture f;
	uint32_t port;
	int fd, listener;

	set_up_messages(&f);
	fd = connect_host(&f, 9, &port);
	f.type = VIRTIO_VSOCK_TYPE_STREAM; /* the other type, for a connection that there is */
	say(&f, 9, port, VIRTIO_VSOCK_OP_RW, 0, data, 10);
	assert_int_equal(expect(&f, VIRTIO_VSOCK_OP_RST).type, VIRTIO_VSOCK_TYPE_STREAM);
	f.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	for (unsigned k = 0; k < 7; k++) /* one without end, beyond our credit */
		say(&f, 9, port, VIRTIO_VSOCK_OP_RW, 0, data, sizeof(data));
	expect_reset(&f, fd, 9);
	fd = connect_host(&f, 10, &port);
	for (unsigned k = 0; !driver_pending(&f.driver, RX); k++) { /* more than we keep, of one byte each */
		say(&f, 10, port, VIRTIO_VSOCK_OP_RW, EOM, data, 1);
		assert_true(k < 100000);
	}
	expect_reset(&f, fd, 10);
	fd = connect_host_socket(&f);
	write_all(fd, "CONNECT 9\nand more", 18);
	assert_true(recv(fd, data, 1, 0) <= 0);
	close(fd);
	f.type = VIRTIO_VSOCK_TYPE_STREAM;
	listener = listen_at(&f, 77, path);
	f.type = VIRTIO_VSOCK_TYPE_SEQPACKET; /* to a listener of streams */
	say(&f, 11, 77, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
	assert_int_equal(expect(&f, VIRTIO_VSOCK_OP_RST).dst_port, 11);
	close(listener);
	unlink(path);
	listener = listen_at(&f, 77, path);
	say(&f, 11, 77, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
	expect(&f, VIRTIO_VSOCK_OP_RESPONSE);
	close(listener);
	unlink(path);
	driver_reset(&f.driver); /* a driver that does not know of it */
	start(&f, 0, 16);
	fd = connect_host_socket(&f);
	write_all(fd, "CONNECT 9\n", 10);
	assert_true(recv(fd, data, 1, 0) <= 0);
	close(fd);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_connects),	      cmocka_unit_test(guest_connects),	  cmocka_unit_test(credit_is_kept),
		cmocka_unit_test(respects_the_guests_credit), cmocka_unit_test(refuses_nonsense), cmocka_unit_test(holds_many),
		cmocka_unit_test(messages_both_ways),	      cmocka_unit_test(messages_keep_to_credit),
		cmocka_unit_test(refuses_wrong_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
