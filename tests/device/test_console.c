/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-console driven without a guest: streams both ways, the control dialogue, slow and absent clients, hostile messages. */
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
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

#include "devices/vconsole.h"
#include "driver.h"

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, N_QUEUES, SIZE = 64 };
enum { CONTROL = TEST_DATA, CONTROL_OUT = TEST_DATA + 0x10000, IN = TEST_DATA + 0x20000, OUT = TEST_DATA + 0x40000 };
static const uint64_t multiport = 1ull << VIRTIO_CONSOLE_F_MULTIPORT;

struct fixture {
	struct test_driver driver;
	struct loop *loop;
	struct console *console[2];
	struct vconsole *device;
	pthread_t thread;
	char dir[32], path[2][64];
};

static void *run(void *loop)
{
	loop_run(loop);
	return NULL;
}

static void set_up(struct fixture *f)
{
	struct vconsole_config config = {.n_ports = 2};
	char spec[80], error[200];

	memset(f, 0, sizeof(*f));
	driver_memory(&f->driver);
	strcpy(f->dir, "/tmp/guise-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(loop_new(&f->loop), 0);
	for (unsigned k = 0; k < 2; k++) {
		snprintf(f->path[k], sizeof(f->path[k]), "%s/%u", f->dir, k);
		snprintf(spec, sizeof(spec), "unix:%s", f->path[k]);
		assert_int_equal(console_open(spec, f->loop, &f->console[k], error, sizeof(error)), 0);
		config.port[k] = (struct vconsole_port_config){k ? "channel" : NULL, f->console[k], !k};
	}
	assert_int_equal(vconsole_new(f->loop, &f->driver.dma, &config, &f->device), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, run, f->loop), 0);
}

static void tear_down(struct fixture *f)
{
	driver_reset(&f->driver);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	vconsole_free(f->device);
	console_close(f->console[0]);
	console_close(f->console[1]);
	loop_free(f->loop);
	driver_end(&f->driver);
	rmdir(f->dir);
}

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

static void read_all(int fd, void *to, size_t count)
{
	while (count) {
		ssize_t n = read(fd, to, count);

		assert_true(n > 0);
		to = (uint8_t *)to + n;
		count -= (size_t)n;
	}
}

static void offer_control_buffers(struct fixture *f, unsigned count)
{
	for (unsigned k = 0; k < count; k++) {
		struct virtq_segment seg = {CONTROL + 256 * k, 256};

		driver_send(&f->driver, CONTROL_RX, &seg, 0, 1, f->driver.ram + CONTROL + 256 * k);
	}
}

static void say(struct fixture *f, uint32_t id, uint16_t event, uint16_t value)
{
	struct virtio_console_control message = {id, event, value};
	struct virtq_segment seg = {CONTROL_OUT, sizeof(message)};
	uint32_t written;

	memcpy(f->driver.ram + CONTROL_OUT, &message, sizeof(message));
	driver_send(&f->driver, CONTROL_TX, &seg, 1, 0, f);
	assert_ptr_equal(driver_wait(&f->driver, CONTROL_TX, &written), f);
}

/* The next message must be this one; its buffer goes back. Returns the bytes behind it. */
static const char *expect(struct fixture *f, uint32_t id, uint16_t event, uint16_t value, unsigned extra)
{
	struct virtio_console_control message;
	uint32_t written;
	uint8_t *buffer = driver_wait(&f->driver, CONTROL_RX, &written);
	struct virtq_segment seg = {(gpa_t)(buffer - f->driver.ram), 256};
	static char behind[256];

	assert_int_equal(written, sizeof(message) + extra);
	memcpy(&message, buffer, sizeof(message));
	memcpy(behind, buffer + sizeof(message), extra);
	assert_int_equal(message.id, id);
	assert_int_equal(message.event, event);
	assert_int_equal(message.value, value);
	driver_send(&f->driver, CONTROL_RX, &seg, 0, 1, buffer);
	return behind;
}

static void bring_up(struct fixture *f, uint64_t features)
{
	driver_start(&f->driver, vconsole_device(f->device), features | multiport, N_QUEUES, SIZE);
	offer_control_buffers(f, 16);
	say(f, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	expect(f, 0, VIRTIO_CONSOLE_PORT_ADD, 1, 0);
	expect(f, 1, VIRTIO_CONSOLE_PORT_ADD, 1, 0);
}

static void talks_on_the_control_queues(void **state)
{
	struct fixture f;
	int client;

	set_up(&f);
	for (unsigned round = 0; round < 4; round++) {
		if (round)
			driver_reset(&f.driver);
		bring_up(&f, round & 1 ? 1ull << VIRTIO_F_RING_PACKED : 1ull << VIRTIO_RING_F_EVENT_IDX);
		say(&f, 0, VIRTIO_CONSOLE_PORT_READY, 1);
		expect(&f, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, 0);
		expect(&f, 0, VIRTIO_CONSOLE_PORT_OPEN, 0, 0);
		say(&f, 1, VIRTIO_CONSOLE_PORT_READY, 1);
		assert_memory_equal(expect(&f, 1, VIRTIO_CONSOLE_PORT_NAME, 1, 7), "channel", 7);
		expect(&f, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, 0);
		client = connect_to(f.path[1]);
		expect(&f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, 0);
		close(client);
		say(&f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1); /* now its input is read, and the end is seen */
		expect(&f, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, 0);
	}
	tear_down(&f);
}

static void send_out(struct fixture *f, unsigned queue, const uint8_t *bytes, uint32_t count)
{
	struct virtq_segment seg[2] = {{OUT, count / 3}, {OUT + count / 3, count - count / 3}};
	uint32_t written;

	memcpy(f->driver.ram + OUT, bytes, count);
	driver_send(&f->driver, queue, seg, 2, 0, f);
	assert_ptr_equal(driver_wait(&f->driver, queue, &written), f);
}

static void carries_bytes(void **state)
{
	static uint8_t sent[100000], got[100000];
	struct virtq_segment seg = {IN, 1000};
	struct fixture f;
	uint32_t written;
	int client;

	set_up(&f);
	for (unsigned k = 0; k < sizeof(sent); k++)
		sent[k] = (uint8_t)(k * 7 + (k >> 8));
	client = connect_to(f.path[0]);
	driver_start(&f.driver, vconsole_device(f.device), 0, 2, SIZE); /* a driver of one port */
	for (unsigned k = 0; k < 10; k++) {
		send_out(&f, TX0, sent + 10000 * k, 10000);
		read_all(client, got + 10000 * k, 10000);
	}
	assert_memory_equal(got, sent, sizeof(sent));
	assert_int_equal(write(client, sent, 50000), 50000);
	for (size_t done = 0; done < 50000; done += written) {
		driver_send(&f.driver, RX0, &seg, 0, 1, &f);
		assert_ptr_equal(driver_wait(&f.driver, RX0, &written), &f);
		assert_in_range(written, 1, 1000);
		assert_memory_equal(f.driver.ram + IN, sent + done, written);
	}
	close(client);
	tear_down(&f);
}

/* The client reads nothing for a while: the driver's chains wait, and no byte is lost. */
static void waits_for_a_slow_client(void **state)
{
	enum { CHUNK = 60000, CHUNKS = 40 };
	static uint8_t got[CHUNK];
	struct virtq_segment seg = {OUT, CHUNK};
	struct fixture f;
	uint32_t written;
	int client;

	set_up(&f);
	bring_up(&f, 0);
	client = connect_to(f.path[1]);
	memset(f.driver.ram + OUT, 0x5a, CHUNK);
	for (unsigned k = 0; k < CHUNKS; k++)
		driver_send(&f.driver, TX1, &seg, 1, 0, &f);
	for (unsigned k = 0; k < CHUNKS; k++) {
		memset(got, 0, CHUNK);
		read_all(client, got, CHUNK);
		for (unsigned b = 0; b < CHUNK; b++)
			assert_int_equal(got[b], 0x5a);
	}
	for (unsigned k = 0; k < CHUNKS; k++)
		assert_ptr_equal(driver_wait(&f.driver, TX1, &written), &f);
	for (unsigned k = 0; k < CHUNKS; k++) /* reset while chains are held; and a client that leaves */
		driver_send(&f.driver, TX1, &seg, 1, 0, &f);
	driver_reset(&f.driver);
	close(client);
	bring_up(&f, 0);
	for (unsigned k = 0; k < CHUNKS; k++)
		driver_send(&f.driver, TX1, &seg, 1, 0, &f);
	for (unsigned k = 0; k < CHUNKS; k++)
		assert_ptr_equal(driver_wait(&f.driver, TX1, &written), &f);
	tear_down(&f);
}

static void survives_hostile_messages(void **state)
{
	struct virtq_segment tiny = {CONTROL_OUT, 3}, odd = {CONTROL, 2};
	struct fixture f;
	uint32_t written, config[3];
	uint64_t seed = 88172645463325252ull;

	set_up(&f);
	driver_start(&f.driver, vconsole_device(f.device), multiport, N_QUEUES, SIZE);
	for (unsigned k = 0; k < 3000; k++) { /* no control buffers offered: nothing may pile up */
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		say(&f, seed & 3 ? (uint32_t)seed & 3 : (uint32_t)seed, (uint16_t)(seed >> 32 & 15), (uint16_t)(seed >> 40 & 1));
	}
	driver_send(&f.driver, CONTROL_TX, &tiny, 1, 0, &f);
	assert_ptr_equal(driver_wait(&f.driver, CONTROL_TX, &written), &f);
	driver_send(&f.driver, CONTROL_TX, &odd, 0, 1, &f); /* nothing to read in it */
	assert_ptr_equal(driver_wait(&f.driver, CONTROL_TX, &written), &f);
	say(&f, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	driver_send(&f.driver, CONTROL_RX, &odd, 0, 1, &f); /* too small: cut off */
	assert_ptr_equal(driver_wait(&f.driver, CONTROL_RX, &written), &f);
	assert_int_equal(written, 2);
	virtio_write_config(vconsole_device(f.device), 8, "!", 4);
	virtio_write_config(vconsole_device(f.device), 10, "!!!!!!!!", 8);
	virtio_read_config(vconsole_device(f.device), 0, config, sizeof(config));
	assert_int_equal(config[1], 2);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(talks_on_the_control_queues),
		cmocka_unit_test(carries_bytes),
		cmocka_unit_test(waits_for_a_slow_client),
		cmocka_unit_test(survives_hostile_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
