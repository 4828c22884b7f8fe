/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-balloon driven without a guest: memory really goes, nonsense takes nothing, statistics and the control socket. */
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <pthread.h>
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
#include "devices/balloon.h"
#include "driver.h"

enum { INFLATE, DEFLATE, STATS, REPORTING, SIZE = 64, PFNS = TEST_DATA, STAT_BUFFER = TEST_DATA + 0x10000, VICTIM = 0x400000 };
static const uint64_t all = 1ull << VIRTIO_BALLOON_F_STATS_VQ | 1ull << VIRTIO_BALLOON_F_REPORTING;

struct fixture {
	struct test_driver driver;
	struct loop *loop;
	struct balloon *balloon;
	struct balloon_socket *socket;
	pthread_t thread;
	char path[64];
};

static void *run(void *loop)
{
	loop_run(loop);
	return NULL;
}

static void set_up(struct fixture *f)
{
	char why[200];

	memset(f, 0, sizeof(*f));
	driver_memory(&f->driver);
	snprintf(f->path, sizeof(f->path), "/tmp/guise-balloon-%d", (int)getpid());
	assert_int_equal(loop_new(&f->loop), 0);
	assert_int_equal(balloon_new(f->loop, &f->driver.dma, TEST_RAM, &f->balloon), 0);
	assert_int_equal(balloon_socket_new(f->loop, f->balloon, f->path, &f->socket, why, sizeof(why)), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, run, f->loop), 0);
	memset(f->driver.ram + VICTIM, 0x77, 0x200000);
}

static void tear_down(struct fixture *f)
{
	driver_reset(&f->driver);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	balloon_socket_free(f->socket);
	balloon_free(f->balloon);
	loop_free(f->loop);
	driver_end(&f->driver);
}

static void send_pfns(struct fixture *f, unsigned queue, const uint32_t *pfn, unsigned count)
{
	uint32_t bytes = 4 * count, written;
	struct virtq_segment seg[3] = {{PFNS, 3}, {PFNS + 3, 6}, {PFNS + 9, bytes - 9}}; /* framing must not matter */
	struct virtq_segment one = {PFNS, bytes};

	memcpy(f->driver.ram + PFNS, pfn, bytes);
	driver_send(&f->driver, queue, bytes > 9 ? seg : &one, bytes > 9 ? 3 : 1, 0, f);
	assert_ptr_equal(driver_wait(&f->driver, queue, &written), f);
	assert_int_equal(written, 0);
}

static void expect_pages(struct fixture *f, unsigned first, unsigned count, uint8_t value)
{
	for (uint32_t k = 0; k < count * 4096u; k++)
		if (f->driver.ram[VICTIM + first * 4096u + k] != value)
			fail_msg("page %u holds %02x, not %02x", first + k / 4096, f->driver.ram[VICTIM + first * 4096u + k], value);
}

static void inflates(void **state)
{
	const uint32_t v = VICTIM >> 12, pages[] = {v + 7, v + 3, v + 4, v + 5, v + 4, v + 100};
	const uint32_t nonsense[] = {0xffffffff, TEST_RAM >> 12, 0x80000000, (TEST_RAM >> 12) - 1, TEST_RAM >> 12};
	struct balloon_info info;
	struct fixture f;

	set_up(&f);
	for (unsigned round = 0; round < 4; round++) {
		if (round)
			driver_reset(&f.driver);
		memset(f.driver.ram + VICTIM, 0x77, 0x200000);
		driver_start(&f.driver, balloon_device(f.balloon), all | (round & 1 ? 1ull << VIRTIO_F_RING_PACKED : 0), 4, SIZE);
		send_pfns(&f, INFLATE, pages, 6);
		expect_pages(&f, 0, 3, 0x77);
		expect_pages(&f, 3, 3, 0);
		expect_pages(&f, 6, 1, 0x77);
		expect_pages(&f, 7, 1, 0);
		expect_pages(&f, 8, 92, 0x77);
		expect_pages(&f, 100, 1, 0);
		send_pfns(&f, DEFLATE, pages, 6);
		send_pfns(&f, INFLATE, nonsense, 5);
		expect_pages(&f, 101, 300, 0x77);
	}
	driver_reset(&f.driver);
	balloon_get_info(f.balloon, &info);
	assert_true(info.inflated >= 4 * 5 * 4096);
	tear_down(&f);
}

static void takes_reported_pages(void **state)
{
	struct virtq_segment seg[2] = {{VICTIM + 0x1000, 0x3000}, {VICTIM + 0x10800, 0x2000}}; /* the second: one whole page */
	struct fixture f;
	uint32_t written;

	set_up(&f);
	for (unsigned queue = REPORTING; queue <= REPORTING + 1; queue++) { /* as Linux and as the specification number it */
		memset(f.driver.ram + VICTIM, 0x77, 0x200000);
		driver_start(&f.driver, balloon_device(f.balloon), all, queue + 1, SIZE);
		driver_send(&f.driver, queue, seg, 0, 2, &f);
		assert_ptr_equal(driver_wait(&f.driver, queue, &written), &f);
		expect_pages(&f, 0, 1, 0x77);
		expect_pages(&f, 1, 3, 0);
		expect_pages(&f, 4, 13, 0x77);
		expect_pages(&f, 17, 1, 0);
		expect_pages(&f, 18, 2, 0x77);
		driver_reset(&f.driver);
	}
	driver_start(&f.driver, balloon_device(f.balloon), 0, 4, SIZE);
	memset(f.driver.ram + VICTIM, 0x77, 0x200000);
	driver_send(&f.driver, REPORTING, seg, 0, 2, &f); /* not negotiated: not taken */
	assert_ptr_equal(driver_wait(&f.driver, REPORTING, &written), &f);
	expect_pages(&f, 0, 20, 0x77);
	tear_down(&f);
}

/* --- the socket --- */

static int connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 60};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void read_line(int fd, char *line, size_t size)
{
	size_t used = 0;

	do {
		assert_true(used + 1 < size);
		assert_int_equal(read(fd, line + used, 1), 1);
	} while (line[used++] != '\n');
	line[used] = 0;
}

static const char *ask(int fd, const char *question)
{
	static char line[4096];

	assert_int_equal(write(fd, question, strlen(question)), strlen(question));
	read_line(fd, line, sizeof(line));
	return line;
}

static void give_stats(struct fixture *f, uint64_t free_bytes)
{
	uint8_t *at = f->driver.ram + STAT_BUFFER;
	struct virtq_segment seg = {STAT_BUFFER, 30};

	put_le16(at, VIRTIO_BALLOON_S_MEMFREE);
	put_le64(at + 2, free_bytes);
	put_le16(at + 10, 0x7777); /* unknown: left out */
	put_le64(at + 12, 1);
	put_le16(at + 20, VIRTIO_BALLOON_S_MEMTOT);
	put_le64(at + 22, 1000);
	driver_send(&f->driver, STATS, &seg, 1, 0, f);
}

static void obeys_its_socket(void **state)
{
	struct fixture f;
	uint32_t written;
	uint8_t config[8];
	char line[4096];
	int fd;

	set_up(&f);
	driver_start(&f.driver, balloon_device(f.balloon), all, 4, SIZE);
	fd = connect_to(f.path);
	assert_non_null(strstr(ask(fd, "info\n"), "\"target_mib\":0,\"actual_mib\":0"));
	assert_non_null(strstr(ask(fd, "target 3\n"), "\"target_mib\":3"));
	virtio_read_config(balloon_device(f.balloon), 0, config, 8);
	assert_int_equal(get_le32(config), 3 << 8);
	put_le32(config, 2 << 8);
	virtio_write_config(balloon_device(f.balloon), 4, config, 4);
	assert_non_null(strstr(ask(fd, "info\n"), "\"actual_mib\":2"));
	assert_non_null(strstr(ask(fd, "target 9\n"), "error"));
	assert_non_null(strstr(ask(fd, "target -1\n"), "error"));
	assert_non_null(strstr(ask(fd, "target 17592186044416\n"), "error"));
	assert_non_null(strstr(ask(fd, "nonsense\n"), "error"));

	give_stats(&f, 500);
	assert_int_equal(write(fd, "stats\n", 6), 6); /* the buffer comes back, and is filled anew */
	assert_ptr_equal(driver_wait(&f.driver, STATS, &written), &f);
	give_stats(&f, 501);
	read_line(fd, line, sizeof(line));
	assert_non_null(strstr(line, "\"stats\":{\"free\":501,\"total\":1000}"));
	assert_int_equal(write(fd, "stats\n", 6), 6);
	assert_ptr_equal(driver_wait(&f.driver, STATS, &written), &f);
	read_line(fd, line, sizeof(line)); /* no new buffer: an error after a while */
	assert_non_null(strstr(line, "does not answer"));
	close(fd);
	tear_down(&f);
}

static void cuts_off_bad_clients(void **state)
{
	static const char flood[200] = {[0 ... 199] = 'x'};
	struct fixture f;
	char byte;
	int fd[20];

	set_up(&f);
	driver_start(&f.driver, balloon_device(f.balloon), 0, 4, SIZE);
	fd[0] = connect_to(f.path);
	assert_int_equal(send(fd[0], flood, sizeof(flood), MSG_NOSIGNAL), sizeof(flood));
	assert_true(read(fd[0], &byte, 1) <= 0);
	close(fd[0]);
	for (unsigned k = 0; k < 12; k++)
		fd[k] = connect_to(f.path);
	for (unsigned k = 0; k < 8; k++)
		assert_non_null(strstr(ask(fd[k], "info\n"), "target"));
	assert_non_null(strstr(ask(fd[0], "stats\n"), "error")); /* STATS_VQ was not negotiated */
	for (unsigned k = 0; k < 8; k++)
		close(fd[k]);
	for (unsigned k = 8; k < 12; k++) { /* they had to wait until there was room */
		assert_non_null(strstr(ask(fd[k], "info\n"), "target"));
		close(fd[k]);
	}
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inflates),
		cmocka_unit_test(takes_reported_pages),
		cmocka_unit_test(obeys_its_socket),
		cmocka_unit_test(cuts_off_bad_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
