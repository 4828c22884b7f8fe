/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Input and output in a guest, one measurement per call; the same program is the other end of the streams on the host.
 *
 *	io read DEVICE DEPTH SECONDS	random 4 KiB reads, O_DIRECT, DEPTH of them in flight (Linux AIO)
 *	io send ADDRESS PORT SECONDS	a TCP stream to `io serve`; the figure is what that has received
 *	io take ADDRESS PORT SECONDS	a TCP stream from it
 *	io serve PORT			the other end, for ever
 *
 * Prints "IO KIND COUNT SECONDS": reads, or bytes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MAX_DEPTH = 256, CHUNK = 128 << 10 };

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void print(const char *kind, uint64_t count, double elapsed)
{
	printf("IO %s %llu %.6f\n", kind, (unsigned long long)count, elapsed);
}

/* --- reads --- */

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void prepare(struct iocb *cb, int fd, uint8_t *buffer, uint64_t blocks, uint64_t *state)
{
	memset(cb, 0, sizeof(*cb));
	cb->aio_fildes = (uint32_t)fd;
	cb->aio_lio_opcode = IOCB_CMD_PREAD;
	cb->aio_buf = (uintptr_t)buffer;
	cb->aio_nbytes = BLOCK;
	cb->aio_offset = (int64_t)(next_random(state) % blocks * BLOCK);
	cb->aio_data = (uintptr_t)cb;
}

static void read_blocks(const char *device, unsigned depth, double limit)
{
	static struct iocb cb[MAX_DEPTH];
	struct iocb *one[MAX_DEPTH];
	struct io_event event[MAX_DEPTH];
	aio_context_t context = 0;
	uint64_t size, done = 0, state = 88172645463325252ull;
	uint8_t *buffers = aligned_alloc(BLOCK, (size_t)MAX_DEPTH * BLOCK);
	int fd = open(device, O_RDONLY | O_DIRECT);
	double start, now;

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) || syscall(SYS_io_setup, depth, &context))
		die(device);
	start = now = seconds();
	for (unsigned k = 0; k < depth; k++) {
		prepare(&cb[k], fd, buffers + (size_t)k * BLOCK, size / BLOCK, &state);
		one[k] = &cb[k];
	}
	if (syscall(SYS_io_submit, context, depth, one) != depth)
		die("io_submit");
	while (now - start < limit) {
		long n = syscall(SYS_io_getevents, context, 1L, (long)depth, event, NULL);

		for (long k = 0; k < n; k++) {
			struct iocb *c = (struct iocb *)(uintptr_t)event[k].data;

			if (event[k].res != BLOCK)
				die("read");
			prepare(c, fd, buffers + (size_t)(c - cb) * BLOCK, size / BLOCK, &state);
			one[k] = c;
		}
		if (n > 0 && syscall(SYS_io_submit, context, n, one) != n)
			die("io_submit");
		done += (uint64_t)n;
		now = seconds();
	}
	print("read", done, now - start);
}

/* --- streams --- */

static int connect_to(const char *address, const char *port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || connect(fd, (void *)&to, sizeof(to)))
		die(address);
	return fd;
}

static void send_stream(int fd, double limit)
{
	static uint8_t chunk[CHUNK];
	double start = seconds();

	while (seconds() - start < limit)
		if (send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL) <= 0)
			return;
	shutdown(fd, SHUT_WR);
}

static uint64_t take_stream(int fd)
{
	static uint8_t chunk[CHUNK];
	uint64_t total = 0;
	ssize_t n;

	while ((n = recv(fd, chunk, sizeof(chunk), 0)) > 0)
		total += (uint64_t)n;
	return total;
}

/* One request per connection: 's' and the sender's stream, answered by its length; or 't' and the seconds wanted. */
static void serve_one(int fd)
{
	struct {
		char kind;
		uint8_t limit;
	} request;
	uint64_t total;

	if (recv(fd, &request, sizeof(request), MSG_WAITALL) != sizeof(request))
		return;
	if (request.kind == 't') {
		send_stream(fd, request.limit);
		take_stream(fd);
		return;
	}
	total = take_stream(fd);
	send(fd, &total, sizeof(total), MSG_NOSIGNAL);
}

static void serve(const char *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (void *)&at, sizeof(at)) || listen(listener, 8))
		die("listen");
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		serve_one(fd);
		close(fd);
	}
}

static void stream(const char *kind, const char *address, const char *port, double limit)
{
	char request[2] = { kind[0], (char)limit };
	int fd = connect_to(address, port);
	double start = seconds();
	uint64_t total = 0;

	send(fd, request, sizeof(request), 0);
	if (kind[0] == 's') {
		send_stream(fd, limit);
		if (recv(fd, &total, sizeof(total), MSG_WAITALL) != sizeof(total))
			die("answer");
	} else {
		total = take_stream(fd);
	}
	print(kind, total, seconds() - start);
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "read") && atoi(argv[3]) > 0 && atoi(argv[3]) <= MAX_DEPTH)
		read_blocks(argv[2], (unsigned)atoi(argv[3]), atof(argv[4]));
	else if (argc == 5 && (!strcmp(argv[1], "send") || !strcmp(argv[1], "take")))
		stream(argv[1], argv[2], argv[3], atof(argv[4]));
	else if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(argv[2]);
	else
		return 2;
	return 0;
}
