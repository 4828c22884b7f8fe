/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-net driven without a guest, on a port that lives in this file: what is sent comes out whole, what comes in lands in
 * small buffers, filters and queue pairs obey the control queue.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "devices/net.h"
#include "driver.h"

enum { MAX_BYTES = 70000, WAITING = 8, RX = 0, TX = 1, CONTROL = 2, BUFFER = TEST_DATA, COMMAND = TEST_DATA + (1 << 19) };

/* A port with a packet queue each way. */
struct test_port {
	struct port port;
	pthread_mutex_t lock;
	int ready_fd, sent_fd;
	uint8_t sent[MAX_BYTES];
	uint32_t sent_bytes;
	uint8_t waiting[WAITING][MAX_BYTES];
	uint32_t waiting_bytes[WAITING];
	unsigned n_waiting;
};

static int test_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n)
{
	struct test_port *p = (struct test_port *)port;

	pthread_mutex_lock(&p->lock);
	for (unsigned k = 0; k < n; k++) {
		p->sent_bytes = 0;
		for (unsigned i = 0; i < packets[k].n_iov; i++) {
			memcpy(p->sent + p->sent_bytes, packets[k].iov[i].iov_base, packets[k].iov[i].iov_len);
			p->sent_bytes += (uint32_t)packets[k].iov[i].iov_len;
		}
		eventfd_write(p->sent_fd, 1);
	}
	pthread_mutex_unlock(&p->lock);
	return (int)n;
}

static int test_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n)
{
	struct test_port *p = (struct test_port *)port;
	int filled = 0;

	pthread_mutex_lock(&p->lock);
	if (p->n_waiting && queue == 0) {
		const uint8_t *from = p->waiting[0];
		uint32_t left = p->waiting_bytes[0];

		assert_true(packets[0].bytes >= left);
		packets[0].bytes = left;
		for (unsigned i = 0; left; i++) {
			size_t part = packets[0].iov[i].iov_len < left ? packets[0].iov[i].iov_len : left;

			memcpy(packets[0].iov[i].iov_base, from, part);
			from += part;
			left -= (uint32_t)part;
		}
		p->n_waiting--;
		memmove(p->waiting[0], p->waiting[1], sizeof(p->waiting[0]) * p->n_waiting);
		memmove(p->waiting_bytes, p->waiting_bytes + 1, sizeof(p->waiting_bytes[0]) * p->n_waiting);
		filled = 1;
	}
	if (!p->n_waiting) {
		eventfd_t count;

		eventfd_read(p->ready_fd, &count);
	}
	pthread_mutex_unlock(&p->lock);
	return filled;
}

static int test_receive_fd(struct port *port, unsigned queue)
{
	return ((struct test_port *)port)->ready_fd;
}

static const struct port_ops port_ops = {.kind = "test", .send = test_send, .receive = test_receive, .receive_fd = test_receive_fd};

struct fixture {
	struct test_driver driver;
	struct test_port port;
	struct net *net;
};

static const uint8_t our_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static void set_up_pairs(struct fixture *f, unsigned pairs)
{
	struct net_config config = {.owner = "test", .n_pairs = pairs};

	memset(f, 0, sizeof(*f));
	driver_memory(&f->driver);
	f->port.port = (struct port){.ops = &port_ops, .n_queues = pairs, .mtu = 1500, .send_offloads = PORT_CSUM | PORT_TSO4, .receive_offloads = PORT_CSUM | PORT_TSO4};
	pthread_mutex_init(&f->port.lock, NULL);
	f->port.ready_fd = eventfd(0, EFD_NONBLOCK);
	f->port.sent_fd = eventfd(0, EFD_SEMAPHORE);
	memcpy(config.mac, our_mac, 6);
	assert_int_equal(net_new(&f->port.port, &f->driver.dma, &config, &f->net), 0);
}

static void set_up(struct fixture *f)
{
	set_up_pairs(f, 1);
}

static void tear_down(struct fixture *f)
{
	driver_reset(&f->driver);
	net_free(f->net);
	close(f->port.ready_fd);
	close(f->port.sent_fd);
	driver_end(&f->driver);
}

static const uint64_t control_features = 1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_CTRL_RX | 1ull << VIRTIO_NET_F_CTRL_VLAN |
					 1ull << VIRTIO_NET_F_CTRL_MAC_ADDR;

static void start(struct fixture *f, uint64_t features)
{
	driver_start(&f->driver, net_device(f->net), features, 3, 128);
}

/* A packet on the wire: header, destination, some bytes that depend on `seed`. */
static uint32_t make_packet(uint8_t *out, const uint8_t *to, uint32_t frame, uint8_t seed)
{
	memset(out, 0, PORT_HEADER);
	for (uint32_t k = 0; k < frame; k++)
		out[PORT_HEADER + k] = (uint8_t)(seed + 7 * k);
	memcpy(out + PORT_HEADER, to, 6);
	out[PORT_HEADER + 12] = 8;
	out[PORT_HEADER + 13] = 0;
	return PORT_HEADER + frame;
}

static void arrive(struct fixture *f, const uint8_t *to, uint32_t frame, uint8_t seed)
{
	pthread_mutex_lock(&f->port.lock);
	f->port.waiting_bytes[f->port.n_waiting] = make_packet(f->port.waiting[f->port.n_waiting], to, frame, seed);
	f->port.n_waiting++;
	eventfd_write(f->port.ready_fd, 1);
	pthread_mutex_unlock(&f->port.lock);
}

static void offer_buffers(struct fixture *f, unsigned count, uint32_t bytes)
{
	for (unsigned k = 0; k < count; k++) {
		struct virtq_segment seg = {BUFFER + 4096 * k, bytes};

		driver_send(&f->driver, RX, &seg, 0, 1, f->driver.ram + BUFFER + 4096 * k);
	}
}

/* The next packet as the driver gets it, its buffers put together. */
static uint32_t take_packet(struct fixture *f, uint8_t *out)
{
	struct virtio_net_hdr_v1 header;
	uint32_t bytes = 0, written;
	unsigned buffers = 1;

	for (unsigned k = 0; k < buffers; k++) {
		uint8_t *buffer = driver_wait(&f->driver, RX, &written);

		if (!k) {
			memcpy(&header, buffer, sizeof(header));
			buffers = header.num_buffers;
		}
		memcpy(out + bytes, buffer, written);
		bytes += written;
	}
	return bytes;
}

static void expect_packet(struct fixture *f, const uint8_t *to, uint32_t frame, uint8_t seed)
{
	static uint8_t got[MAX_BYTES], want[MAX_BYTES];
	uint32_t bytes = make_packet(want, to, frame, seed);

	assert_int_equal(take_packet(f, got), bytes);
	assert_memory_equal(got + PORT_HEADER, want + PORT_HEADER, frame);
}

static void sends(void **state)
{
	static uint8_t want[MAX_BYTES];
	struct fixture f;

	set_up(&f);
	for (unsigned format = 0; format < 2; format++) {
		if (format)
			driver_reset(&f.driver);
		start(&f, format ? 1ull << VIRTIO_F_RING_PACKED | 1ull << VIRTIO_RING_F_EVENT_IDX : 0);
		for (uint32_t frame = 60; frame < 1514; frame += 97) {
			uint32_t bytes = make_packet(want, our_mac, frame, (uint8_t)frame), written;
			struct virtq_segment seg[3] = {{BUFFER, 7}, {BUFFER + 7, 30}, {BUFFER + 37, bytes - 37}};
			eventfd_t count;

			memcpy(f.driver.ram + BUFFER, want, bytes);
			driver_send(&f.driver, TX, seg, 3, 0, &f);
			assert_ptr_equal(driver_wait(&f.driver, TX, &written), &f);
			assert_int_equal(written, 0);
			eventfd_read(f.port.sent_fd, &count);
			assert_int_equal(f.port.sent_bytes, bytes);
			assert_memory_equal(f.port.sent, want, bytes);
		}
	}
	tear_down(&f);
}

static void receives_into_many_buffers(void **state)
{
	struct fixture f;

	set_up(&f);
	start(&f, 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4);
	arrive(&f, our_mac, 60, 1); /* before there is a buffer: waits */
	offer_buffers(&f, 60, 1600);
	expect_packet(&f, our_mac, 60, 1);
	arrive(&f, our_mac, 60000, 2); /* 38 buffers */
	expect_packet(&f, our_mac, 60000, 2);
	offer_buffers(&f, 39, 1600);
	arrive(&f, our_mac, 1588, 3); /* exactly one, and one byte more */
	arrive(&f, our_mac, 1589, 4);
	expect_packet(&f, our_mac, 1588, 3);
	expect_packet(&f, our_mac, 1589, 4);
	tear_down(&f);
}

/* Some buffers, but too few for a packet: the driver must be asked to kick for the next, not for those. */
static void waits_for_enough_buffers(void **state)
{
	struct fixture f;

	set_up(&f);
	for (unsigned round = 0; round < 8; round++) {
		if (round)
			driver_reset(&f.driver);
		start(&f, 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4 |
				  1ull << VIRTIO_RING_F_EVENT_IDX | (round & 1 ? 1ull << VIRTIO_F_RING_PACKED : 0));
		offer_buffers(&f, 3, 1600);
		arrive(&f, our_mac, 60, (uint8_t)round);
		usleep(2000); /* it looks, and finds too few */
		offer_buffers(&f, 60, 1600);
		expect_packet(&f, our_mac, 60, (uint8_t)round);
	}
	tear_down(&f);
}

static uint8_t control(struct fixture *f, uint8_t class, uint8_t command, const void *data, uint32_t bytes)
{
	struct virtq_segment seg[3] = {{COMMAND, 2}, {COMMAND + 16, bytes}, {COMMAND + 8, 1}};
	uint8_t *ram = f->driver.ram;
	uint32_t written;

	ram[COMMAND] = class;
	ram[COMMAND + 1] = command;
	ram[COMMAND + 8] = 0xee;
	memcpy(ram + COMMAND + 16, data, bytes);
	driver_send(&f->driver, CONTROL, seg, 2, 1, f);
	assert_ptr_equal(driver_wait(&f->driver, CONTROL, &written), f);
	assert_int_equal(written, 1);
	return ram[COMMAND + 8];
}

static void filters(void **state)
{
	static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9}, group[6] = {1, 0, 0x5e, 0, 0, 1}, broadcast[6] = {255, 255, 255, 255, 255, 255};
	const uint8_t table[4 + 4 + 6] = {0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1};
	struct fixture f;

	set_up(&f);
	start(&f, control_features);
	offer_buffers(&f, 20, 2048);
	arrive(&f, other, 60, 1); /* promiscuous until told otherwise */
	expect_packet(&f, other, 60, 1);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "\0", 1), VIRTIO_NET_OK);
	arrive(&f, other, 60, 2);
	arrive(&f, group, 60, 3);
	arrive(&f, broadcast, 60, 4);
	arrive(&f, our_mac, 60, 5);
	expect_packet(&f, broadcast, 60, 4);
	expect_packet(&f, our_mac, 60, 5);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof(table)), VIRTIO_NET_OK);
	arrive(&f, group, 60, 6);
	expect_packet(&f, group, 60, 6);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6), VIRTIO_NET_OK);
	arrive(&f, our_mac, 60, 7);
	arrive(&f, other, 60, 8);
	expect_packet(&f, other, 60, 8);
	tear_down(&f);
}

static void refuses_bad_commands(void **state)
{
	const uint8_t long_table[8] = {0xff, 0xff, 0xff, 0xff}, vlan[2] = {0x00, 0x10}, pairs[2] = {2, 0};
	struct fixture f;

	set_up(&f);
	start(&f, control_features);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, long_table, 8), VIRTIO_NET_ERR);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, our_mac, 5), VIRTIO_NET_ERR);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, vlan, 2), VIRTIO_NET_ERR);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs, 2), VIRTIO_NET_ERR);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_RX, 99, "\1", 1), VIRTIO_NET_ERR);
	assert_int_equal(control(&f, 99, 0, "\1", 1), VIRTIO_NET_ERR);
	tear_down(&f);
}

/* A card of three pairs, a driver without MQ: the control queue is number 2, and the queues behind it are nobody's. */
static void one_pair_of_three(void **state)
{
	struct fixture f;

	set_up_pairs(&f, 3);
	driver_start(&f.driver, net_device(f.net), control_features, 7, 128);
	assert_int_equal(control(&f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "\0", 1), VIRTIO_NET_OK);
	offer_buffers(&f, 4, 2048);
	arrive(&f, our_mac, 60, 1);
	expect_packet(&f, our_mac, 60, 1);
	tear_down(&f);
}

static void reset_and_start_again(void **state)
{
	struct fixture f;

	set_up(&f);
	for (unsigned round = 0; round < 20; round++) {
		if (round)
			driver_reset(&f.driver);
		start(&f, 0);
		offer_buffers(&f, 4, 2048);
		arrive(&f, our_mac, 100, (uint8_t)round);
		expect_packet(&f, our_mac, 100, (uint8_t)round);
	}
	tear_down(&f);
}

/* What the port was attached to is gone, as its descriptor says for ever: the driver is told, and nobody asks again and again. */
static void loses_its_port(void **state)
{
	struct virtio_net_config config = {.status = VIRTIO_NET_S_LINK_UP};
	struct timespec before, after;
	struct fixture f;
	int ends[2];

	set_up(&f);
	close(f.port.ready_fd);
	assert_int_equal(pipe(ends), 0);
	f.port.ready_fd = ends[1];
	start(&f, 1ull << VIRTIO_NET_F_STATUS);
	offer_buffers(&f, 4, 2048);
	close(ends[0]);
	for (unsigned k = 0; k < 20000 && config.status & VIRTIO_NET_S_LINK_UP; k++) {
		usleep(1000);
		virtio_read_config(net_device(f.net), 0, &config, 8);
	}
	assert_false(config.status & VIRTIO_NET_S_LINK_UP);
	assert_int_equal(port_error(&f.port.port), -ENODEV);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	usleep(200000);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	assert_true((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec < 100000000);
	offer_buffers(&f, 4, 2048); /* kicks do no harm */
	driver_reset(&f.driver);
	start(&f, 1ull << VIRTIO_NET_F_STATUS); /* nor does beginning again */
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sends),		cmocka_unit_test(receives_into_many_buffers), cmocka_unit_test(filters),
		cmocka_unit_test(waits_for_enough_buffers),
		cmocka_unit_test(refuses_bad_commands), cmocka_unit_test(one_pair_of_three), cmocka_unit_test(reset_and_start_again), cmocka_unit_test(loses_its_port),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
