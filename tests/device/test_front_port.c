/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A front port whose device lies: what it says of received packets is checked, and a ring that it breaks harms nothing else. And which pairs
 * of queues are enabled.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "fake_vhost.h"
#include "virtio_user/virtio_user.h"

enum { SIZE = 64 };

struct setting {
	struct fake_vhost device;
	struct port *port;
	struct memory mem;
	struct virtq rx, tx; /* the device's halves */
};

static void set_up(struct setting *s, bool packed)
{
	struct virtio_user_config config = { .owner = "test", .device = &s->device.v, .n_queues = 1, .queue_size = SIZE, .packed = packed };
	struct mem_slot slot = { .fd = -1 };
	char why[200];

	memset(s, 0, sizeof(*s));
	s->device.v.ops = &fake_vhost_ops;
	s->device.features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MRG_RXBUF | (packed ? 1ull << VIRTIO_F_RING_PACKED : 0);
	assert_int_equal(port_virtio_user_open(&config, &s->port, why, sizeof(why)), 0);
	assert_int_equal(port_wait(s->port, 60000), 0);
	memory_init(&s->mem);
	slot.gpa = s->device.region.gpa;
	slot.size = s->device.region.size;
	slot.hva = s->device.region.hva;
	assert_int_equal(memory_set_slot(&s->mem, &slot), 0);
	assert_int_equal(virtq_start(&s->rx, &s->mem, &s->device.ring[0].config, virtq_fresh_base(s->device.ring[0].config.options)), 0);
	assert_int_equal(virtq_start(&s->tx, &s->mem, &s->device.ring[1].config, virtq_fresh_base(s->device.ring[1].config.options)), 0);
}

static void tear_down(struct setting *s)
{
	port_close(s->port);
	memory_deinit(&s->mem);
}

/* The device delivers one buffer: `bytes` of it, said to be the first of `pieces`, filled with `value`. */
static void deliver(struct setting *s, uint32_t bytes, uint16_t pieces, uint8_t value)
{
	struct iovec iov[4];
	struct virtq_chain chain = { .iov = iov, .capacity = 4 };

	assert_int_equal(virtq_pop(&s->rx, &chain), 1);
	memset(iov[0].iov_base, value, iov[0].iov_len);
	memcpy((uint8_t *)iov[0].iov_base + 10, &pieces, sizeof(pieces));
	virtq_push(&s->rx, &chain, bytes);
}

static unsigned collect(struct setting *s, struct port_buffer *b)
{
	unsigned n = port_collect(s->port, 0, b, PORT_MAX_PIECES);

	port_give_back(s->port, 0, b, n);
	return n;
}

static void lies_about_packets(void **state)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		struct port_buffer b[PORT_MAX_PIECES];
		struct port_counters c;
		struct setting s;

		set_up(&s, packed);
		for (unsigned round = 0; round < 3 * SIZE; round++) { /* more than there are buffers: none is lost */
			deliver(&s, 100, 1, 1);
			assert_int_equal(collect(&s, b), 1);
			deliver(&s, 5, 1, 2); /* shorter than its header */
			deliver(&s, 100, 0, 3);
			deliver(&s, 100, 65535, 4);
			assert_int_equal(collect(&s, b), 0);
			deliver(&s, 2048, 3, 5); /* in three pieces, not all at once */
			assert_int_equal(collect(&s, b), 0);
			deliver(&s, 2048, 7, 6);
			deliver(&s, 10, 0, 7);
			deliver(&s, 60, 1, 8); /* and one behind it */
			assert_int_equal(collect(&s, b), 4);
			assert_true(b[0].more && b[1].more && !b[2].more && !b[3].more);
			assert_int_equal(b[2].bytes, 10);
			assert_int_equal(b[3].data[20], 8);
		}
		port_get_counters(s.port, &c);
		assert_int_equal(c.rx_packets, 3 * 3 * SIZE);
		assert_int_equal(c.rx_dropped, 3 * 3 * SIZE);
		tear_down(&s);
	}
}

static void copies_pieces(void **state)
{
	uint8_t out[3000];
	struct iovec iov[2] = { { out, 100 }, { out + 100, sizeof(out) - 100 } };
	struct port_packet packet = { iov, 2, sizeof(out) };
	struct setting s;

	set_up(&s, false);
	deliver(&s, 2048, 2, 9);
	assert_int_equal(port_receive(s.port, 0, &packet, 1), 0);
	deliver(&s, 500, 1, 9);
	assert_int_equal(port_receive(s.port, 0, &packet, 1), 1);
	assert_int_equal(packet.bytes, 2548);
	assert_int_equal(out[2547], 9);
	/* What does not fit is dropped, and what comes behind it is not. */
	packet.bytes = 50;
	iov[0].iov_len = 50;
	packet.n_iov = 1;
	deliver(&s, 51, 1, 10);
	deliver(&s, 50, 1, 11);
	assert_int_equal(port_receive(s.port, 0, &packet, 1), 1);
	assert_int_equal(packet.bytes, 50);
	assert_int_equal(out[30], 11);
	tear_down(&s);
}

/* Packets of several buffers, given back by the device in any order; then a ring that the device breaks. */
static void sends_pieces(void **state)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		struct setting s;

		set_up(&s, packed);
		for (unsigned round = 0; round < 100; round++) {
			struct port_buffer b[6];
			struct virtq_chain chain[3];
			struct iovec iov[3][8];

			assert_int_equal(port_lend(s.port, 0, b, 6), 6);
			for (unsigned k = 0; k < 6; k++) {
				b[k].bytes = 100 + k;
				b[k].more = k == 1 || k == 2 || k == 4; /* 1, 3 and 2 buffers */
			}
			assert_int_equal(port_submit(s.port, 0, b, 6), 6);
			for (unsigned k = 0; k < 3; k++) {
				chain[k] = (struct virtq_chain){ .iov = iov[k], .capacity = 8 };
				assert_int_equal(virtq_pop(&s.tx, &chain[k]), 1);
				assert_int_equal(chain[k].readable, k == 0 ? 1 : 4 - k);
			}
			for (unsigned k = 0; k < 3; k++)
				virtq_push(&s.tx, &chain[(k + round) % 3], 0);
		}
		if (!packed) {
			struct port_buffer b[SIZE];

			s.tx.used->idx = (uint16_t)(s.tx.used->idx + 1000); /* more than was ever sent */
			for (unsigned k = 0; k < 2; k++)
				port_give_back(s.port, 0, b, port_lend(s.port, 0, b, SIZE));
			deliver(&s, 100, 1, 1); /* receiving goes on */
			assert_int_equal(collect(&s, b), 1);
		}
		tear_down(&s);
	}
}

/* The first n pairs are enabled, the others are not. */
static void expect_enabled(const struct fake_vhost *device, unsigned n)
{
	for (unsigned k = 0; k < FAKE_RINGS; k++)
		assert_int_equal(device->is_enabled[k], k < 2 * n);
}

/* How many pairs are used: none that was not asked for is enabled at any time, not even where the rings begin anew. */
static void sets_queues(void **state)
{
	struct fake_vhost device = { .v.ops = &fake_vhost_ops };
	struct virtio_user_config config = { .owner = "test", .device = &device.v, .n_queues = 4, .queue_size = SIZE };
	struct port *port;
	char why[200];

	device.features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MQ | 1ull << VIRTIO_NET_F_GUEST_CSUM;
	assert_int_equal(port_virtio_user_open(&config, &port, why, sizeof(why)), 0);
	assert_int_equal(port_wait(port, 60000), 0);
	assert_int_equal(port_queues(port), 4);
	expect_enabled(&device, 4);
	for (unsigned n = 4; n; n--) {
		assert_int_equal(port_set_queues(port, n), 0);
		expect_enabled(&device, n);
	}
	assert_int_equal(port_set_queues(port, 3), 0);
	assert_int_equal(port_set_queues(port, 0), -EINVAL);
	assert_int_equal(port_set_queues(port, 5), -EINVAL);
	expect_enabled(&device, 3);
	assert_int_equal(device.n_started, FAKE_RINGS);
	assert_int_equal(port_set_receive_offloads(port, PORT_CSUM), 0);
	assert_int_equal(device.n_started, 2 * FAKE_RINGS); /* all rings, so that they may be enabled */
	expect_enabled(&device, 3);
	assert_int_equal(port_queues(port), 4);
	assert_int_equal(port_set_queues(port, 4), 0);
	expect_enabled(&device, 4);
	port_close(port);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lies_about_packets),
		cmocka_unit_test(copies_pieces),
		cmocka_unit_test(sends_pieces),
		cmocka_unit_test(sets_queues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
