/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The vhost-user back end, with the disk behind it: setup messages in any order, what each message does, every refusal, and that
 * nothing a front end does keeps the next one from being served.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "disk_back.h"

/* --- what works --- */

static void negotiation_and_config(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;
	struct virtio_blk_config config;

	fe_negotiate(f, BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE), ALL_PROTOCOL);
	assert_int_equal(fe_ask_u64(f, VHOST_USER_GET_QUEUE_NUM), RINGS);
	assert_true(fe_ask_u64(f, VHOST_USER_GET_MAX_MEM_SLOTS) >= 32);
	fe_message(&m, VHOST_USER_GET_CONFIG);
	m.config.size = sizeof(config);
	m.size = 12 + sizeof(config);
	fe_ask(f, &m);
	assert_int_equal(m.size, 12 + sizeof(config));
	memcpy(&config, m.config.data, sizeof(config));
	assert_int_equal(config.capacity, DISK / 512);
	assert_int_equal(config.wce, 1);
	/* Only the write-cache byte can be written. */
	fe_message(&m, VHOST_USER_SET_CONFIG);
	m.config.offset = offsetof(struct virtio_blk_config, wce);
	m.config.size = 1;
	m.size = 13;
	assert_int_equal(fe_ack(f, &m), 0);
	fe_message(&m, VHOST_USER_SET_CONFIG);
	m.config.size = 1;
	m.size = 13;
	m.config.data[0] = 1;
	assert_int_not_equal(fe_ack(f, &m), 0);
	/* The status is kept; features without VERSION_1 are not OK. */
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_STATUS, 11)), 0);
	assert_int_equal(fe_ask_u64(f, VHOST_USER_GET_STATUS), 11);
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_FEATURES, 0)), 0);
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_STATUS, 11)), 0);
	assert_int_equal(fe_ask_u64(f, VHOST_USER_GET_STATUS), 3);
}

static void acknowledgements_only_when_asked(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;

	fe_negotiate(f, 0, ALL_PROTOCOL);
	fe_send(f, fe_message(&m, VHOST_USER_SET_OWNER)); /* no answer ... */
	fe_message(&m, VHOST_USER_GET_FEATURES);
	m.flags |= VHOST_USER_NEED_REPLY;
	fe_ask(f, &m); /* ... and one, not two */
	assert_true(m.u64);
	assert_int_equal(fe_ack(f, fe_message(&m, VHOST_USER_SET_OWNER)), 0);
	/* Not negotiated: the flag means nothing. */
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_PROTOCOL_FEATURES, PROTO(REPLY_ACK))), 0);
	fe_send(f, fe_u64(&m, VHOST_USER_SET_PROTOCOL_FEATURES, 0));
	fe_message(&m, VHOST_USER_SET_OWNER);
	m.flags |= VHOST_USER_NEED_REPLY;
	fe_send(f, &m);
	assert_true(fe_ask_u64(f, VHOST_USER_GET_FEATURES));
}

/* Whoever had the ring may have died before its last call: the next one makes it. */
static void restart_ring(struct front *f, unsigned ring, uint32_t base)
{
	struct pollfd p = { .fd = f->call[ring], .events = POLLIN };
	eventfd_t count;

	while (poll(&p, 1, 0) == 1)
		eventfd_read(f->call[ring], &count);
	fe_start_ring(f, ring, base);
	assert_int_equal(poll(&p, 1, FRONT_WAIT_MS), 1);
}

static void reads(void **state, uint64_t features)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;
	uint32_t written;

	f->n_rings = RINGS;
	fe_negotiate(f, features, ALL_PROTOCOL);
	fe_start(f, SIZE);
	for (uint32_t lap = 0; lap < 30; lap++) {
		for (uint32_t k = 0; k < 10; k++)
			add_read(f, k % RINGS, k * 1024, lap * 10 + k);
		for (uint32_t k = 0; k < 10; k++)
			fe_wait(f, k % RINGS, &written);
		for (uint32_t k = 0; k < 10; k++)
			check_read(f, k * 1024, lap * 10 + k);
		/* Stop, and go on where it stopped. */
		if (lap % 10 == 3) {
			fe_ask(f, fe_state(&m, VHOST_USER_GET_VRING_BASE, 0, 0));
			assert_int_equal(m.state.index, 0);
			restart_ring(f, 0, m.state.num);
		}
		if (lap % 10 == 5) /* the same memory once more, under running rings */
			assert_int_equal(fe_ack(f, fe_mem_table(f, &m)), 0);
		if (lap % 10 == 7)
			assert_int_equal(fe_ack(f, fe_addr(f, &m, 1)), 0);
	}
}

static void split_reads(void **state)
{
	reads(state, BIT(VIRTIO_BLK_F_MQ));
}

static void split_event_idx_reads(void **state)
{
	reads(state, BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_BLK_F_MQ));
}

static void packed_reads(void **state)
{
	reads(state, BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_BLK_F_MQ));
}

enum setup { FEATURES, MEMORY, NUM, BASE, ADDR, KICK, CALL, ENABLE, N_SETUP };

static void send_setup(struct front *f, enum setup which)
{
	struct vhost_user_message m;

	switch (which) {
	case FEATURES:
		fe_u64(&m, VHOST_USER_SET_FEATURES, f->features);
		break;
	case MEMORY:
		fe_mem_table(f, &m);
		break;
	case NUM:
		fe_state(&m, VHOST_USER_SET_VRING_NUM, 0, SIZE);
		break;
	case BASE:
		fe_state(&m, VHOST_USER_SET_VRING_BASE, 0, virtq_fresh_base(f->config[0].options));
		break;
	case ADDR:
		fe_addr(f, &m, 0);
		break;
	case KICK:
	case CALL:
		fe_u64(&m, which == KICK ? VHOST_USER_SET_VRING_KICK : VHOST_USER_SET_VRING_CALL, 0);
		m.n_fds = 1;
		m.fd[0] = which == KICK ? f->kick[0] : f->call[0];
		break;
	default:
		fe_state(&m, VHOST_USER_SET_VRING_ENABLE, 0, 1);
	}
	if (fe_ack(f, &m))
		fail_msg("setup step %d refused", which);
}

static void any_order(void **state)
{
	struct back *b = *state;
	struct vhost_user_message m;
	unsigned seed = 3;

	for (unsigned round = 0; round < 150; round++) {
		struct front *f = again(b, round & 1 ? BIT(VIRTIO_F_RING_PACKED) : 0);
		enum setup order[N_SETUP];

		/* again() has sent features already; here they come when they come. */
		fe_disconnect(f);
		fe_connect(f, b->path);
		assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_PROTOCOL_FEATURES, f->protocol)), 0);
		fe_make_rings(f, SIZE);
		for (unsigned k = 0; k < N_SETUP; k++)
			order[k] = k;
		for (unsigned k = N_SETUP - 1; k; k--) {
			unsigned other = (unsigned)rand_r(&seed) % (k + 1);
			enum setup swap = order[k];

			order[k] = order[other];
			order[other] = swap;
		}
		for (unsigned k = 0; k < N_SETUP; k++)
			send_setup(f, order[k]);
		read_sector(f, 0, round);
	}
}

static void without_protocol_features_rings_are_enabled(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;

	f->features = BIT(VIRTIO_F_VERSION_1);
	fe_make_rings(f, SIZE);
	fe_send(f, fe_u64(&m, VHOST_USER_SET_FEATURES, f->features));
	fe_send(f, fe_mem_table(f, &m));
	fe_send(f, fe_state(&m, VHOST_USER_SET_VRING_NUM, 0, SIZE));
	fe_send(f, fe_state(&m, VHOST_USER_SET_VRING_BASE, 0, 0));
	fe_send(f, fe_addr(f, &m, 0));
	fe_u64(&m, VHOST_USER_SET_VRING_CALL, 0);
	m.n_fds = 1;
	m.fd[0] = f->call[0];
	fe_send(f, &m);
	fe_u64(&m, VHOST_USER_SET_VRING_KICK, 0);
	m.n_fds = 1;
	m.fd[0] = f->kick[0];
	fe_send(f, &m);
	read_sector(f, 0, 3);
}

static void disabled_means_no_effect(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;
	uint32_t written;

	fe_negotiate(f, 0, ALL_PROTOCOL);
	fe_start(f, SIZE);
	read_sector(f, 0, 1);
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_ENABLE, 0, 0)), 0);
	add_read(f, 0, 0, 9);
	assert_true(fe_quiet(f, 0, 50));
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_ENABLE, 0, 1)), 0);
	fe_wait(f, 0, &written);
	check_read(f, 0, 9);
}

static void polled_without_kick(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;

	fe_negotiate(f, 0, ALL_PROTOCOL);
	fe_start(f, SIZE);
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_VRING_KICK, VHOST_USER_NO_FD)), 0);
	close(f->kick[0]);
	f->kick[0] = eventfd(0, EFD_CLOEXEC); /* one that nobody listens to */
	for (uint32_t k = 0; k < 5; k++)
		read_sector(f, 0, k);
	/* And the front end may poll, too. */
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_VRING_CALL, VHOST_USER_NO_FD)), 0);
	add_read(f, 0, 0, 77);
	for (unsigned k = 0; k < FRONT_WAIT_MS; k++) {
		uint32_t written;

		if (virtq_driver_take(&f->driver[0], &written)) {
			check_read(f, 0, 77);
			return;
		}
		usleep(1000);
	}
	fail_msg("nothing came back");
}

static void memory_by_single_regions(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;

	fe_negotiate(f, 0, ALL_PROTOCOL);
	fe_make_rings(f, SIZE);
	/* In two halves: rings in one, data in the other, by different numbers and offsets. */
	for (unsigned half = 0; half < 2; half++) {
		fe_message(&m, VHOST_USER_ADD_MEM_REG);
		m.single.region = (struct vhost_user_region){ FRONT_GPA + half * FRONT_DATA, FRONT_DATA, FRONT_USER + half * FRONT_DATA,
							      half * FRONT_DATA };
		m.n_fds = 1;
		m.fd[0] = f->ram_fd;
		assert_int_equal(fe_ack(f, &m), 0);
	}
	fe_start_ring(f, 0, 0);
	read_sector(f, 0, 4);
	/* The data half goes and comes back. */
	fe_message(&m, VHOST_USER_REM_MEM_REG);
	m.single.region = (struct vhost_user_region){ FRONT_GPA + FRONT_DATA, FRONT_DATA, FRONT_USER + FRONT_DATA, 0 };
	assert_int_equal(fe_ack(f, &m), 0);
	assert_int_not_equal(fe_ack(f, &m), 0);
	m.request = VHOST_USER_ADD_MEM_REG;
	m.flags = VHOST_USER_VERSION;
	m.single.region.mmap_offset = FRONT_DATA;
	m.n_fds = 1;
	m.fd[0] = f->ram_fd;
	assert_int_equal(fe_ack(f, &m), 0);
	read_sector(f, 0, 6);
	/* The rings' half goes: the ring cannot go on, which is said. */
	fe_message(&m, VHOST_USER_REM_MEM_REG);
	m.single.region = (struct vhost_user_region){ FRONT_GPA, FRONT_DATA, FRONT_USER, 0 };
	assert_int_not_equal(fe_ack(f, &m), 0);
	next_one_is_served(b);
}

/* QEMU 7.2 adds and removes each region once for each queue pair. */
static void region_twice(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;

	fe_negotiate(f, 0, ALL_PROTOCOL);
	fe_make_rings(f, SIZE);
	for (unsigned k = 0; k < 2; k++) {
		fe_message(&m, VHOST_USER_ADD_MEM_REG);
		m.single.region = (struct vhost_user_region){ FRONT_GPA, FRONT_RAM, FRONT_USER, 0 };
		m.n_fds = 1;
		m.fd[0] = f->ram_fd;
		assert_int_equal(fe_ack(f, &m), 0);
	}
	fe_start_ring(f, 0, 0);
	read_sector(f, 0, 4);
	m.request = VHOST_USER_REM_MEM_REG;
	m.n_fds = 0;
	assert_int_equal(fe_ack(f, &m), 0);
	read_sector(f, 0, 5);
	assert_int_equal(fe_ack(f, &m), 0); /* gone, and the ring waits for memory */
	assert_int_not_equal(fe_ack(f, &m), 0); /* there is no such region any more */
}

/* A front end that does not know where a ring stood says 0; the ring knows. */
static void ring_knows_its_place(void **state, uint64_t features)
{
	struct back *b = *state;
	struct front *f = again(b, features);
	struct vhost_user_message m;

	fe_start(f, SIZE);
	for (uint32_t laps = 0; laps < 12; laps++) {
		for (uint32_t k = 0; k < 11 + laps * 3; k++)
			read_sector(f, 0, k);
		f = again(b, features);
		assert_int_equal(fe_ack(f, fe_mem_table(f, &m)), 0);
		fe_start_ring(f, 0, virtq_fresh_base(f->config[0].options));
	}
}

static void split_ring_knows_its_place(void **state)
{
	ring_knows_its_place(state, 0);
}

static void packed_ring_knows_its_place(void **state)
{
	ring_knows_its_place(state, BIT(VIRTIO_F_RING_PACKED));
}

static void many_regions(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;
	unsigned slots;

	fe_negotiate(f, 0, ALL_PROTOCOL);
	slots = (unsigned)fe_ask_u64(f, VHOST_USER_GET_MAX_MEM_SLOTS);
	for (unsigned k = 0; k <= slots; k++) {
		fe_message(&m, VHOST_USER_ADD_MEM_REG);
		m.single.region = (struct vhost_user_region){ 4096ull * k * 2, 4096, FRONT_USER + 4096ull * k * 2, 4096ull * (k % 256) };
		m.n_fds = 1;
		m.fd[0] = f->ram_fd;
		if (k < slots)
			assert_int_equal(fe_ack(f, &m), 0);
		else
			assert_int_not_equal(fe_ack(f, &m), 0);
	}
	next_one_is_served(b);
}

static void reset_forgets_rings(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;

	fe_negotiate(f, 0, ALL_PROTOCOL);
	for (unsigned round = 0; round < 4; round++) {
		fe_start(f, SIZE);
		read_sector(f, 0, round);
		if (round & 1)
			assert_int_equal(fe_ack(f, fe_message(&m, VHOST_USER_RESET_DEVICE)), 0);
		else
			assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_STATUS, 0)), 0);
		add_read(f, 0, 0, 1);
		assert_true(fe_quiet(f, 0, 20));
	}
}

static bool is_logged(const uint8_t *log, gpa_t gpa)
{
	return __atomic_load_n(&log[gpa / 4096 / 8], __ATOMIC_ACQUIRE) >> (gpa / 4096 % 8) & 1;
}

/* A page's bit is set after the page was written, so perhaps a moment after the driver saw the used entry. */
static void wait_logged(const uint8_t *log, gpa_t gpa)
{
	for (int ms = 0; !is_logged(log, gpa) && ms < FRONT_WAIT_MS; ms++)
		usleep(1000);
	assert_true(is_logged(log, gpa));
}

static void dirty_log(void **state)
{
	static const uint64_t formats[] = { 0, BIT(VIRTIO_F_RING_PACKED) };
	struct back *b = *state;
	struct vhost_user_message m;

	for (unsigned k = 0; k < 2; k++) {
		struct front *f = again(b, formats[k]);
		int fd = memfd_create("log", MFD_CLOEXEC);
		uint8_t *log;

		assert_int_equal(ftruncate(fd, 8192), 0);
		log = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		fe_start(f, SIZE);
		fe_message(&m, VHOST_USER_SET_LOG_BASE);
		m.log.size = 4096;
		m.log.offset = 4096;
		m.n_fds = 1;
		m.fd[0] = fd;
		fe_ask(f, &m);
		read_sector(f, 0, 1); /* not yet */
		assert_false(is_logged(log + 4096, FRONT_GPA + FRONT_DATA));
		fe_addr(f, &m, 0)->addr.flags = 1 << VHOST_VRING_F_LOG;
		assert_int_equal(fe_ack(f, &m), 0);
		assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_FEATURES, f->features | BIT(VHOST_F_LOG_ALL))), 0);
		read_sector(f, 0, 2);
		wait_logged(log + 4096, FRONT_GPA + FRONT_DATA);
		wait_logged(log + 4096, f->config[0].device);
		if (k)
			wait_logged(log + 4096, f->config[0].desc);
		assert_false(is_logged(log + 4096, FRONT_GPA + FRONT_DATA + 0x10000));
		assert_int_equal(log[0], 0);
		/* Off again. */
		assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_FEATURES, f->features)), 0);
		memset(log, 0, 8192);
		read_sector(f, 0, 3);
		assert_false(is_logged(log + 4096, FRONT_GPA + FRONT_DATA));
		munmap(log, 8192);
		close(fd);
	}
}

static void inflight_buffer(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_message m;
	int fd;

	for (unsigned round = 0; round < 4; round++) {
		uint64_t features = round & 1 ? BIT(VIRTIO_F_RING_PACKED) : 0;

		f = again(b, features);
		fe_message(&m, VHOST_USER_GET_INFLIGHT_FD);
		m.inflight.n_queues = 1;
		m.inflight.queue_size = SIZE;
		fe_ask(f, &m);
		assert_int_equal(m.n_fds, 1);
		assert_true(m.inflight.mmap_size >= virtq_layout(SIZE, 0).desc);
		fd = m.fd[0];
		fe_start(f, SIZE);
		for (uint32_t k = 0; k < 100; k++)
			read_sector(f, 0, k);
		/* The session breaks; the next one gets the buffer, and stands where it stood, whatever it is told. */
		f = again(b, features);
		m.request = VHOST_USER_SET_INFLIGHT_FD;
		m.flags = VHOST_USER_VERSION;
		m.fd[0] = fd;
		assert_int_equal(fe_ack(f, &m), 0);
		assert_int_equal(fe_ack(f, fe_mem_table(f, &m)), 0);
		fe_start_ring(f, 0, virtq_fresh_base(f->config[0].options));
		for (uint32_t k = 0; k < 100; k++)
			read_sector(f, 0, k);
		close(fd);
	}
}

/* --- IOTLB --- */

static void answer_miss(struct front *f, int channel, struct vhost_user_receiver *r)
{
	struct vhost_user_message m;
	uint64_t iova;

	assert_int_equal(vhost_user_receive_wait(channel, r, FRONT_WAIT_MS), 1);
	assert_int_equal(r->message.request, VHOST_USER_BACKEND_IOTLB_MSG);
	assert_int_equal(r->message.iotlb.type, VHOST_IOTLB_MISS);
	iova = r->message.iotlb.iova & ~4095ull;
	fe_message(&m, VHOST_USER_IOTLB_MSG);
	m.iotlb = (struct vhost_iotlb_msg){ .iova = iova, .size = 4096, .uaddr = iova - FRONT_GPA + FRONT_USER, .perm = VHOST_ACCESS_RW,
					    .type = VHOST_IOTLB_UPDATE };
	fe_ask(f, &m);
	assert_int_equal(m.u64, 0);
}

static void iotlb(void **state)
{
	struct back *b = *state;
	struct front *f = &b->front;
	struct vhost_user_receiver *r = calloc(1, sizeof(*r));
	struct vhost_user_message m;
	uint32_t written;
	int channel[2], misses = 0;

	fe_negotiate(f, BIT(VIRTIO_F_ACCESS_PLATFORM), ALL_PROTOCOL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel), 0);
	fe_message(&m, VHOST_USER_SET_BACKEND_REQ_FD);
	m.n_fds = 1;
	m.fd[0] = channel[1];
	assert_int_equal(fe_ack(f, &m), 0);
	close(channel[1]);
	fe_make_rings(f, SIZE);
	assert_int_equal(fe_ack(f, fe_mem_table(f, &m)), 0);
	/* IOVAs are the driver's addresses here; the user addresses of ring messages are IOVAs, too. */
	fe_state(&m, VHOST_USER_SET_VRING_NUM, 0, SIZE);
	assert_int_equal(fe_ack(f, &m), 0);
	fe_addr(f, &m, 0);
	m.addr.desc_user_addr = f->config[0].desc;
	m.addr.avail_user_addr = f->config[0].driver;
	m.addr.used_user_addr = f->config[0].device;
	assert_int_equal(fe_ack(f, &m), 0);
	send_setup(f, CALL);
	send_setup(f, ENABLE);
	send_setup(f, KICK);
	for (unsigned lap = 0; lap < 3; lap++) {
		eventfd_t old;

		eventfd_read(f->call[0], &old); /* fe_wait() may have found its chain before the call */
		add_read(f, 0, 0xf00, lap + 1); /* across two pages */
		for (;;) {
			struct pollfd p[2] = { { .fd = channel[0], .events = POLLIN }, { .fd = f->call[0], .events = POLLIN } };

			assert_true(poll(p, 2, FRONT_WAIT_MS) > 0);
			if (p[1].revents)
				break;
			answer_miss(f, channel[0], r);
			misses++;
		}
		fe_wait(f, 0, &written);
		check_read(f, 0xf00, lap + 1);
		if (lap == 0)
			assert_int_equal(misses, 5); /* three ring pages, two of data */
		if (lap == 1) {
			assert_int_equal(misses, 5); /* all known */
			fe_message(&m, VHOST_USER_IOTLB_MSG);
			m.iotlb = (struct vhost_iotlb_msg){ .iova = FRONT_GPA + FRONT_DATA, .size = 8192, .type = VHOST_IOTLB_INVALIDATE };
			fe_ask(f, &m);
			assert_int_equal(m.u64, 0);
		}
	}
	assert_int_equal(misses, 7);
	fe_message(&m, VHOST_USER_IOTLB_MSG);
	m.iotlb = (struct vhost_iotlb_msg){ .iova = 0x5000, .size = 4096, .uaddr = 0x1000, .perm = 3, .type = VHOST_IOTLB_UPDATE };
	fe_ask(f, &m);
	assert_int_not_equal(m.u64, 0); /* in no region */
	close(channel[0]);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, start_back, stop_back)
		TEST(negotiation_and_config), TEST(acknowledgements_only_when_asked), TEST(split_reads), TEST(split_event_idx_reads),
		TEST(packed_reads), TEST(any_order), TEST(without_protocol_features_rings_are_enabled), TEST(disabled_means_no_effect),
		TEST(polled_without_kick), TEST(memory_by_single_regions), TEST(region_twice), TEST(split_ring_knows_its_place),
		TEST(packed_ring_knows_its_place), TEST(many_regions), TEST(reset_forgets_rings), TEST(dirty_log),
		TEST(inflight_buffer), TEST(iotlb),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
