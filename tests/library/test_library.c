/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libguise as others see it: this is compiled against its public headers alone and linked with the shared library. A front port
 * and a back port talk to each other; a virtqueue's two halves exchange a chain; a vhost-user message has its name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <guise/memory.h>
#include <guise/port.h>
#include <guise/vhost_user.h>
#include <guise/virtq.h>

enum { PACKETS = 20000, FRAME = 200, RAM = 1 << 16 };

static struct port *open_port(const char *format, const char *path)
{
	char description[200], why[200] = "";
	struct port *port;

	snprintf(description, sizeof(description), format, path);
	if (port_open("test", description, &port, why, sizeof(why)))
		fail_msg("%s: %s", description, why);
	return port;
}

static void fill(struct port_buffer *b, uint32_t number)
{
	memset(b->data, 0, PORT_HEADER);
	memset(b->data + PORT_HEADER, (int)(number % 251), FRAME);
	memcpy(b->data + PORT_HEADER, &number, sizeof(number));
	b->bytes = PORT_HEADER + FRAME;
	b->more = false;
}

static void check(const struct port_buffer *b, uint32_t *expected)
{
	uint32_t number;

	assert_false(b->more);
	assert_int_equal(b->bytes, PORT_HEADER + FRAME);
	memcpy(&number, b->data + PORT_HEADER, sizeof(number));
	assert_int_equal(number, *expected);
	assert_int_equal(b->data[PORT_HEADER + FRAME - 1], number % 251);
	++*expected;
}

/* Send from one to the other, never more than the receiver has room for. */
static void run(struct port *from, struct port *to)
{
	struct port_buffer buffer[32];
	uint32_t sent = 0, received = 0;
	time_t give_up = time(NULL) + 120;

	while (received < PACKETS && time(NULL) < give_up) {
		unsigned n = sent - received > 64 || sent == PACKETS ? 0 : port_lend(from, 0, buffer, 1 + sent % 32), taken;

		n = n < PACKETS - sent ? n : PACKETS - sent;
		for (unsigned k = 0; k < n; k++)
			fill(&buffer[k], sent + k);
		taken = n ? port_submit(from, 0, buffer, n) : 0;
		port_give_back(from, 0, buffer + taken, n - taken);
		sent += taken;
		n = port_collect(to, 0, buffer, 32);
		for (unsigned k = 0; k < n; k++)
			check(&buffer[k], &received);
		port_give_back(to, 0, buffer, n);
	}
	assert_int_equal(received, PACKETS);
}

static void ports(void **state)
{
	static const char *const kinds[] = { "vhost-user:%s", "vhost-user:%s,packed", "vhost-user:%s,no-mergeable,no-in-order,no-event-index",
					     "vhost-user:%s,packed,size=32" };
	char path[] = "/tmp/guise-library-XXXXXX", socket[64];

	assert_non_null(mkdtemp(path));
	snprintf(socket, sizeof(socket), "%s/socket", path);
	for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		struct port *back = open_port("vhost-user:%s,back", socket), *front = open_port(kinds[k], socket);
		struct port_counters c;

		assert_int_equal(port_wait(front, 60000), 0);
		assert_int_equal(port_wait(back, 60000), 0);
		port_set_polling(front, true);
		port_set_polling(back, true);
		run(front, back);
		run(back, front);
		port_get_counters(front, &c);
		assert_int_equal(c.tx_packets, PACKETS);
		assert_int_equal(c.rx_packets, PACKETS);
		assert_int_equal(c.tx_dropped + c.rx_dropped, 0);
		assert_int_equal(port_set_receive_offloads(front, PORT_CSUM | PORT_TSO4), 0);
		assert_true(port_send_offloads(back) & PORT_TSO4 || k == 2);
		port_close(front);
		port_close(back);
	}
	rmdir(path);
}

/* What does not exist is refused with a sentence; what is not there yet is waited for. */
static void refusals(void **state)
{
	static const char *const bad[] = { "nothing", "vhost-user:", "vhost-user:/x,queues=0", "vhost-user:/x,colour=red", "tap:",
					   "vhost-kernel:/dev/null", "vhost-user:/x,size=100", "vhost-user:/x,mac=1:2" };
	struct port *port;
	char why[200];

	for (unsigned k = 0; k < sizeof(bad) / sizeof(bad[0]); k++) {
		why[0] = 0;
		assert_true(port_open("test", bad[k], &port, why, sizeof(why)) < 0);
		assert_true(why[0]);
	}
	port = open_port("vhost-user:%s", "/nonexistent/socket");
	assert_int_equal(port_wait(port, 50), -110);
	assert_false(port_is_up(port));
	port_close(port);
}

static void halves(void **state)
{
	static uint8_t ram[RAM] __attribute__((aligned(4096)));
	struct mem_slot slot = { .size = RAM, .hva = ram, .fd = -1 };
	struct virtq_config config = { .size = 16, .options = VIRTQ_PACKED, .desc = 0, .driver = 0x1000, .device = 0x2000 };
	struct virtq_segment segment[2] = { { 0x4000, 10 }, { 0x5000, 20 } };
	struct iovec iov[4];
	struct virtq_chain chain = { .iov = iov, .capacity = 4 };
	struct virtq_driver driver;
	struct memory mem;
	struct virtq q;
	uint32_t written;

	memory_init(&mem);
	assert_int_equal(memory_set_slot(&mem, &slot), 0);
	assert_int_equal(virtq_driver_start(&driver, &mem, &config), 0);
	assert_int_equal(virtq_start(&q, &mem, &config, virtq_fresh_base(config.options)), 0);
	assert_int_equal(virtq_driver_add(&driver, segment, 1, 1, &mem), 0);
	assert_int_equal(virtq_pop(&q, &chain), 1);
	assert_int_equal(chain.writable_bytes, 20);
	virtq_push(&q, &chain, 7);
	assert_ptr_equal(virtq_driver_take(&driver, &written), &mem);
	assert_int_equal(written, 7);
	virtq_driver_stop(&driver);
	memory_deinit(&mem);
}

static void names(void **state)
{
	assert_string_equal(vhost_feature_name(1, 15), "MRG_RXBUF");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports), cmocka_unit_test(refusals), cmocka_unit_test(halves), cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
