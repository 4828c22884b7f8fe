/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The network card behind a vhost-user socket: packets both ways, a disabled ring that is drained, MTU and RARP. Its port lives in
 * this file: what is sent to it can be had back.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "devices/net.h"
#include "front.h"
#include "vhost/serve.h"

enum { RX = 0, TX = 1, SIZE = 32, BUFFER = 2048 };

/* What is sent waits to be received: a port with its ends joined. */
struct joined_port {
	struct port port;
	pthread_mutex_t lock;
	int ready_fd;
	uint8_t waiting[SIZE][BUFFER];
	uint32_t bytes[SIZE];
	unsigned n, sent;
};

static int joined_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n)
{
	struct joined_port *p = (struct joined_port *)port;

	pthread_mutex_lock(&p->lock);
	for (unsigned k = 0; k < n && p->n < SIZE; k++) {
		uint8_t *to = p->waiting[p->n];

		p->bytes[p->n] = 0;
		for (unsigned i = 0; i < packets[k].n_iov; i++) {
			memcpy(to + p->bytes[p->n], packets[k].iov[i].iov_base, packets[k].iov[i].iov_len);
			p->bytes[p->n] += (uint32_t)packets[k].iov[i].iov_len;
		}
		p->n++;
		p->sent++;
	}
	pthread_mutex_unlock(&p->lock);
	eventfd_write(p->ready_fd, 1);
	return (int)n;
}

static int joined_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n)
{
	struct joined_port *p = (struct joined_port *)port;
	eventfd_t count;
	int got = 0;

	pthread_mutex_lock(&p->lock);
	if (p->n) {
		uint32_t at = 0;

		for (unsigned i = 0; i < packets[0].n_iov && at < p->bytes[0]; i++) {
			uint32_t part = (uint32_t)packets[0].iov[i].iov_len;

			part = part < p->bytes[0] - at ? part : p->bytes[0] - at;
			memcpy(packets[0].iov[i].iov_base, p->waiting[0] + at, part);
			at += part;
		}
		packets[0].bytes = at;
		p->n--;
		memmove(p->waiting[0], p->waiting[1], p->n * sizeof(p->waiting[0]));
		memmove(&p->bytes[0], &p->bytes[1], p->n * sizeof(p->bytes[0]));
		got = 1;
	} else {
		eventfd_read(p->ready_fd, &count);
	}
	pthread_mutex_unlock(&p->lock);
	return got;
}

static int joined_fd(struct port *port, unsigned queue)
{
	return ((struct joined_port *)port)->ready_fd;
}

static const struct port_ops joined_ops = { .kind = "joined", .send = joined_send, .receive = joined_receive, .receive_fd = joined_fd };

struct world {
	char folder[32], path[64];
	struct joined_port port;
	struct memory mem;
	struct dma dma;
	struct net *net;
	struct loop *loop;
	struct vhost_serve *served;
	pthread_t thread;
	struct front front;
};

static void *run_loop(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static int set_mtu(void *opaque, uint64_t mtu)
{
	return net_set_mtu(opaque, mtu);
}

static int announce(void *opaque, const uint8_t mac[6])
{
	return net_announce(opaque, mac);
}

static int start(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct net_config net = { .owner = "test", .n_pairs = 1 };
	struct vhost_serve_config config = { .name = "test", .n_rings = 2, .queue_num = 1, .max_ring_size = 1024, .set_mtu = set_mtu,
					     .announce = announce, .withheld = 1ull << VIRTIO_NET_F_CTRL_VQ,
					     .protocol = 1ull << VHOST_USER_PROTOCOL_F_MTU | 1ull << VHOST_USER_PROTOCOL_F_RARP };
	char why[256];

	strcpy(w->folder, "/tmp/guise-vhost-XXXXXX");
	assert_non_null(mkdtemp(w->folder));
	snprintf(w->path, sizeof(w->path), "%s/socket", w->folder);
	w->port.port = (struct port){ .ops = &joined_ops, .n_queues = 1, .mtu = 1500 };
	pthread_mutex_init(&w->port.lock, NULL);
	w->port.ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	memory_init(&w->mem);
	w->dma.mem = &w->mem;
	assert_int_equal(net_new(&w->port.port, &w->dma, &net, &w->net), 0);
	config.opaque = w->net;
	config.socket = (struct vhost_socket_config){ .path = w->path, .server = true, .mode = -1 };
	assert_int_equal(loop_new(&w->loop), 0);
	assert_int_equal(vhost_serve_new(w->loop, net_device(w->net), &config, &w->served, why, sizeof(why)), 0);
	assert_int_equal(pthread_create(&w->thread, NULL, run_loop, w->loop), 0);
	fe_init(&w->front, 2);
	fe_connect(&w->front, w->path);
	*state = w;
	return 0;
}

static int stop(void **state)
{
	struct world *w = *state;

	fe_deinit(&w->front);
	loop_stop(w->loop);
	pthread_join(w->thread, NULL);
	vhost_serve_free(w->served);
	net_free(w->net);
	loop_free(w->loop);
	memory_deinit(&w->mem);
	close(w->port.ready_fd);
	pthread_mutex_destroy(&w->port.lock);
	rmdir(w->folder);
	free(w);
	return 0;
}

static void add_buffer(struct front *f, uint32_t n)
{
	struct virtq_segment seg = { n * BUFFER, BUFFER };

	fe_add(f, RX, &seg, 0, 1, (void *)(uintptr_t)(n + 1));
}

static void send_packet(struct front *f, uint32_t n, uint8_t fill)
{
	struct virtq_segment seg = { 0x20000 + n * BUFFER, PORT_HEADER + 100 };

	memset(f->ram + FRONT_DATA + seg.gpa, 0, PORT_HEADER);
	memset(f->ram + FRONT_DATA + seg.gpa + PORT_HEADER, fill, 100);
	fe_add(f, TX, &seg, 1, 0, (void *)(uintptr_t)(n + 1));
}

static void packets_both_ways(void **state)
{
	static const uint64_t formats[] = { 0, 1ull << VIRTIO_F_RING_PACKED, 1ull << VIRTIO_NET_F_MRG_RXBUF };
	struct world *w = *state;

	for (unsigned k = 0; k < 3; k++) {
		struct front *f = &w->front;
		uint32_t written;

		fe_disconnect(f);
		fe_connect(f, w->path);
		fe_negotiate(f, formats[k], 1ull << VHOST_USER_PROTOCOL_F_MQ);
		assert_int_equal(fe_ask_u64(f, VHOST_USER_GET_QUEUE_NUM), 1);
		fe_start(f, SIZE);
		for (uint32_t n = 0; n < 100; n++) {
			uintptr_t token;

			add_buffer(f, n % 8);
			send_packet(f, n % 8, (uint8_t)n);
			fe_wait(f, TX, &written);
			token = (uintptr_t)fe_wait(f, RX, &written);
			assert_int_equal(token, n % 8 + 1);
			assert_int_equal(written, PORT_HEADER + 100);
			assert_int_equal(f->ram[FRONT_DATA + (n % 8) * BUFFER + PORT_HEADER + 99], (uint8_t)n);
		}
	}
}

static void disabled_transmitq_is_drained(void **state)
{
	struct world *w = *state;
	struct front *f = &w->front;
	struct vhost_user_message m;
	uint32_t written;

	fe_negotiate(f, 0, 0);
	fe_start(f, SIZE);
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_ENABLE, TX, 0)), 0);
	for (uint32_t n = 0; n < 5; n++)
		send_packet(f, n, 1);
	for (uint32_t n = 0; n < 5; n++)
		fe_wait(f, TX, &written); /* they come back ... */
	assert_int_equal(w->port.sent, 0); /* ... and went nowhere */
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_ENABLE, RX, 0)), 0);
	add_buffer(f, 0);
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_ENABLE, TX, 1)), 0);
	send_packet(f, 5, 9);
	fe_wait(f, TX, &written);
	assert_true(fe_quiet(f, RX, 50));
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_ENABLE, RX, 1)), 0);
	fe_wait(f, RX, &written);
	assert_int_equal(f->ram[FRONT_DATA + PORT_HEADER], 9);
}

static void mtu_and_rarp(void **state)
{
	struct world *w = *state;
	struct front *f = &w->front;
	struct vhost_user_message m;
	const uint8_t *frame = f->ram + FRONT_DATA + PORT_HEADER;
	const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
	uint32_t written;

	fe_negotiate(f, 0, 1ull << VHOST_USER_PROTOCOL_F_MTU | 1ull << VHOST_USER_PROTOCOL_F_RARP);
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_NET_SET_MTU, 1400)), 0);
	assert_int_not_equal(fe_ack(f, fe_u64(&m, VHOST_USER_NET_SET_MTU, 9000)), 0); /* over the port's */
	assert_int_not_equal(fe_ack(f, fe_u64(&m, VHOST_USER_NET_SET_MTU, 10)), 0);
	fe_start(f, SIZE);
	add_buffer(f, 0);
	memcpy(fe_message(&m, VHOST_USER_SEND_RARP)->bytes, mac, 6);
	assert_int_equal(fe_ack(f, &m), 0);
	fe_wait(f, RX, &written); /* the port is its own neighbour */
	assert_int_equal(written, PORT_HEADER + 60);
	assert_int_equal(frame[0], 0xff);
	assert_memory_equal(frame + 6, mac, 6);
	assert_int_equal(frame[12] << 8 | frame[13], 0x8035);
	assert_int_equal(frame[21], 3); /* "request reverse" */
	assert_memory_equal(frame + 22, mac, 6);
	assert_memory_equal(frame + 32, mac, 6);
	fe_message(&m, VHOST_USER_SEND_RARP)->bytes[0] = 1;
	assert_int_not_equal(fe_ack(f, &m), 0); /* a group address */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(packets_both_ways, start, stop),
		cmocka_unit_test_setup_teardown(disabled_transmitq_is_drained, start, stop),
		cmocka_unit_test_setup_teardown(mtu_and_rarp, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
