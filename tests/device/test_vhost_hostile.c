/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vhost-user back end before hostile front ends: every message with values that it must refuse. Asked for an
 * acknowledgement it says no and goes on as before; unasked it closes the connection. Either way the next front end is served.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "disk_back.h"

/* What is wrong with a message: its number and a function that makes it. */
struct wrong {
	const char *what;
	uint32_t id;
	void (*make)(struct front *f, struct vhost_user_message *m);
};

static void one_fd(struct vhost_user_message *m, int fd)
{
	m->n_fds = 1;
	m->fd[0] = fd;
}

/* clang-format off */
#define MAKE(name, ...) static void name(struct front *f, struct vhost_user_message *m) { __VA_ARGS__ }
MAKE(as_it_is,)
MAKE(longer, m->size += 1;)
MAKE(shorter, m->size -= 1;)
MAKE(with_fd, one_fd(m, f->ram_fd);)
MAKE(all_ones, memset(m->bytes, 0xff, m->size);)
MAKE(version_2, m->flags = 2;)
MAKE(is_reply, m->flags |= VHOST_USER_REPLY;)
MAKE(unknown_request, m->request = 1000;)
MAKE(request_0, m->request = 0;)
MAKE(index_of_none, m->state.index = RINGS;)
MAKE(num_0, m->state.index = 1; m->state.num = 0;)
MAKE(num_huge, m->state.index = 1; m->state.num = 1 << 20;)
MAKE(num_other, m->state.num = SIZE * 2;)
MAKE(enable_2, m->state.num = 2;)
MAKE(base_while_started, m->state.num = 77;)
MAKE(addr_index, fe_addr(f, m, 0); m->addr.index = RINGS;)
MAKE(addr_flags, fe_addr(f, m, 0); m->addr.flags = 0x80;)
MAKE(addr_desc_outside, fe_addr(f, m, 0); m->addr.desc_user_addr = 0x1000;)
MAKE(addr_used_at_end, fe_addr(f, m, 0); m->addr.used_user_addr = FRONT_USER + FRONT_RAM - 8;)
MAKE(addr_avail_wraps, fe_addr(f, m, 0); m->addr.avail_user_addr = UINT64_MAX - 15;)
MAKE(addr_misaligned, fe_addr(f, m, 0); m->addr.desc_user_addr += 8;)
MAKE(ring_fd_missing, m->u64 = 0;)
MAKE(ring_fd_surplus, m->u64 = VHOST_USER_NO_FD; one_fd(m, f->kick[0]);)
MAKE(ring_fd_bits, m->u64 = 1 << 9; one_fd(m, f->kick[0]);)
MAKE(ring_fd_index, m->u64 = 0xff; one_fd(m, f->kick[0]);)
MAKE(ring_fd_file, m->u64 = 0; one_fd(m, f->ram_fd);)
MAKE(mem_count, fe_mem_table(f, m); m->memory.n_regions = 9;)
MAKE(mem_more_than_fds, fe_mem_table(f, m); m->memory.n_regions = 2; m->size += 32;)
MAKE(mem_fewer_than_fds, fe_mem_table(f, m); m->n_fds = 2; m->fd[1] = f->ram_fd;)
MAKE(mem_empty, fe_mem_table(f, m); m->memory.region[0].size = 0;)
MAKE(mem_wraps, fe_mem_table(f, m); m->memory.region[0].guest_address = UINT64_MAX - 4095;)
MAKE(mem_user_wraps, fe_mem_table(f, m); m->memory.region[0].user_address = UINT64_MAX - 4095;)
MAKE(mem_unaligned, fe_mem_table(f, m); m->memory.region[0].guest_address += 1;)
MAKE(mem_behind_file, fe_mem_table(f, m); m->memory.region[0].mmap_offset = 4096;)
MAKE(mem_offset_wraps, fe_mem_table(f, m); m->memory.region[0].mmap_offset = UINT64_MAX - 4095;)
MAKE(mem_huge, fe_mem_table(f, m); m->memory.region[0].size = 1ull << 55;)
MAKE(mem_no_file, fe_mem_table(f, m); m->fd[0] = f->kick[0];)
MAKE(mem_socket, fe_mem_table(f, m); m->fd[0] = f->fd;)

static void two_regions(struct front *f, struct vhost_user_message *m)
{
	fe_mem_table(f, m);
	m->memory.n_regions = m->n_fds = 2;
	m->size += sizeof(struct vhost_user_region);
	m->fd[1] = f->ram_fd;
	m->memory.region[1] = (struct vhost_user_region){ FRONT_GPA + FRONT_RAM, 4096, FRONT_USER + FRONT_RAM, 0 };
}

MAKE(mem_overlap_guest, two_regions(f, m); m->memory.region[1].guest_address -= 4096;)
MAKE(mem_overlap_user, two_regions(f, m); m->memory.region[1].user_address -= 4096;)
MAKE(add_overlap, m->single.region = (struct vhost_user_region){ FRONT_GPA, 4096, 0x1000, 0 }; one_fd(m, f->ram_fd);)
MAKE(add_no_fd, m->single.region = (struct vhost_user_region){ 0, 4096, 0x1000, 0 };)
MAKE(rem_none, m->single.region = (struct vhost_user_region){ FRONT_GPA, 4096, FRONT_USER, 0 };)
MAKE(log_no_fd, m->log.size = 4096;)
MAKE(log_behind_file, m->log.size = 1 << 30; one_fd(m, f->ram_fd);)
MAKE(log_empty, one_fd(m, f->ram_fd);)
MAKE(config_size_0, m->config.size = 0;)
MAKE(config_size_huge, m->config.size = 257;)
MAKE(config_offset, m->config.size = 4; m->config.offset = UINT32_MAX - 2; m->size = 16;)
MAKE(set_config_size, m->config.size = 64; m->size = 16;)
MAKE(set_config_flags, m->config.size = 1; m->config.offset = 32; m->config.flags = 7; m->size = 13;)
MAKE(set_config_capacity, m->config.size = 8; m->size = 20; m->config.data[0] = 1;)
MAKE(inflight_shape, m->inflight.n_queues = RINGS + 1; m->inflight.queue_size = SIZE;)
MAKE(inflight_queue_size, m->inflight.n_queues = 1; m->inflight.queue_size = 0;)
MAKE(inflight_small, m->inflight.n_queues = 1; m->inflight.queue_size = SIZE; m->inflight.mmap_size = 8; one_fd(m, f->ram_fd);)
MAKE(inflight_short, m->inflight.n_queues = 1; m->inflight.queue_size = SIZE; m->inflight.mmap_size = 1 << 30; one_fd(m, f->ram_fd);)
MAKE(inflight_wraps, m->inflight.n_queues = 1; m->inflight.queue_size = SIZE; m->inflight.mmap_size = 1 << 20;
     m->inflight.mmap_offset = UINT64_MAX - 7; one_fd(m, f->ram_fd);)
MAKE(channel_file, one_fd(m, f->ram_fd);)
MAKE(status_wide, m->u64 = 0x100;)

static const struct wrong wrongs[] = {
	{ "version 2", VHOST_USER_SET_OWNER, version_2 },
	{ "a reply", VHOST_USER_SET_OWNER, is_reply },
	{ "payload where none belongs", VHOST_USER_SET_OWNER, longer },
	{ "descriptor where none belongs", VHOST_USER_SET_OWNER, with_fd },
	{ "unknown request", VHOST_USER_SET_OWNER, unknown_request },
	{ "request 0", VHOST_USER_SET_OWNER, request_0 },
	{ "too long", VHOST_USER_SET_FEATURES, longer },
	{ "too short", VHOST_USER_SET_FEATURES, shorter },
	{ "features not offered", VHOST_USER_SET_FEATURES, all_ones },
	{ "protocol features not offered", VHOST_USER_SET_PROTOCOL_FEATURES, all_ones },
	{ "no such ring", VHOST_USER_SET_VRING_NUM, index_of_none },
	{ "ring of 0", VHOST_USER_SET_VRING_NUM, num_0 },
	{ "huge ring", VHOST_USER_SET_VRING_NUM, num_huge },
	{ "another size while started", VHOST_USER_SET_VRING_NUM, num_other },
	{ "no such ring", VHOST_USER_SET_VRING_BASE, index_of_none },
	{ "another base while started", VHOST_USER_SET_VRING_BASE, base_while_started },
	{ "no such ring", VHOST_USER_SET_VRING_ADDR, addr_index },
	{ "unknown flags", VHOST_USER_SET_VRING_ADDR, addr_flags },
	{ "descriptors outside memory", VHOST_USER_SET_VRING_ADDR, addr_desc_outside },
	{ "used ring over the end", VHOST_USER_SET_VRING_ADDR, addr_used_at_end },
	{ "avail ring that wraps", VHOST_USER_SET_VRING_ADDR, addr_avail_wraps },
	{ "misaligned", VHOST_USER_SET_VRING_ADDR, addr_misaligned },
	{ "no such ring", VHOST_USER_SET_VRING_ENABLE, index_of_none },
	{ "neither 0 nor 1", VHOST_USER_SET_VRING_ENABLE, enable_2 },
	{ "no descriptor", VHOST_USER_SET_VRING_KICK, ring_fd_missing },
	{ "descriptor and none", VHOST_USER_SET_VRING_KICK, ring_fd_surplus },
	{ "bits", VHOST_USER_SET_VRING_KICK, ring_fd_bits },
	{ "no such ring", VHOST_USER_SET_VRING_KICK, ring_fd_index },
	{ "no eventfd", VHOST_USER_SET_VRING_KICK, ring_fd_file },
	{ "no descriptor", VHOST_USER_SET_VRING_CALL, ring_fd_missing },
	{ "no such ring", VHOST_USER_SET_VRING_CALL, ring_fd_index },
	{ "no eventfd", VHOST_USER_SET_VRING_CALL, ring_fd_file },
	{ "no such ring", VHOST_USER_SET_VRING_ERR, ring_fd_index },
	{ "9 regions", VHOST_USER_SET_MEM_TABLE, mem_count },
	{ "fewer descriptors", VHOST_USER_SET_MEM_TABLE, mem_more_than_fds },
	{ "more descriptors", VHOST_USER_SET_MEM_TABLE, mem_fewer_than_fds },
	{ "empty region", VHOST_USER_SET_MEM_TABLE, mem_empty },
	{ "guest address wraps", VHOST_USER_SET_MEM_TABLE, mem_wraps },
	{ "user address wraps", VHOST_USER_SET_MEM_TABLE, mem_user_wraps },
	{ "unaligned", VHOST_USER_SET_MEM_TABLE, mem_unaligned },
	{ "behind the file", VHOST_USER_SET_MEM_TABLE, mem_behind_file },
	{ "offset wraps", VHOST_USER_SET_MEM_TABLE, mem_offset_wraps },
	{ "huge", VHOST_USER_SET_MEM_TABLE, mem_huge },
	{ "eventfd as memory", VHOST_USER_SET_MEM_TABLE, mem_no_file },
	{ "socket as memory", VHOST_USER_SET_MEM_TABLE, mem_socket },
	{ "guest addresses overlap", VHOST_USER_SET_MEM_TABLE, mem_overlap_guest },
	{ "user addresses overlap", VHOST_USER_SET_MEM_TABLE, mem_overlap_user },
	{ "overlaps", VHOST_USER_ADD_MEM_REG, add_overlap },
	{ "no descriptor", VHOST_USER_ADD_MEM_REG, add_no_fd },
	{ "no such region", VHOST_USER_REM_MEM_REG, rem_none },
	{ "size of 0", VHOST_USER_SET_CONFIG, config_size_huge },
	{ "size over the message", VHOST_USER_SET_CONFIG, set_config_size },
	{ "unknown flags", VHOST_USER_SET_CONFIG, set_config_flags },
	{ "read-only field", VHOST_USER_SET_CONFIG, set_config_capacity },
	{ "too small", VHOST_USER_SET_INFLIGHT_FD, inflight_small },
	{ "file too short", VHOST_USER_SET_INFLIGHT_FD, inflight_short },
	{ "offset wraps", VHOST_USER_SET_INFLIGHT_FD, inflight_wraps },
	{ "no socket", VHOST_USER_SET_BACKEND_REQ_FD, channel_file },
	{ "status of 9 bits", VHOST_USER_SET_STATUS, status_wide },
	{ "not offered", VHOST_USER_SEND_RARP, as_it_is },
	{ "not offered", VHOST_USER_NET_SET_MTU, as_it_is },
	{ "not offered", VHOST_USER_VRING_KICK, as_it_is },
	{ "not offered", VHOST_USER_SET_VRING_ENDIAN, as_it_is },
	{ "not offered", VHOST_USER_POSTCOPY_LISTEN, as_it_is },
	{ "not served", VHOST_USER_GPU_SET_SOCKET, with_fd },
};

/* Those with a reply of their own: an error in it, or the connection's end. */
static const struct wrong wrong_questions[] = {
	{ "no such ring", VHOST_USER_GET_VRING_BASE, index_of_none },
	{ "too many queues", VHOST_USER_GET_INFLIGHT_FD, inflight_shape },
	{ "queues of 0", VHOST_USER_GET_INFLIGHT_FD, inflight_queue_size },
	{ "payload", VHOST_USER_GET_FEATURES, longer },
	{ "not offered", VHOST_USER_POSTCOPY_ADVISE, as_it_is },
	{ "not offered", VHOST_USER_GET_SHARED_OBJECT, as_it_is },
	{ "not offered", VHOST_USER_CHECK_DEVICE_STATE, as_it_is },
};
static const struct wrong told_wrong[] = {
	{ "no descriptor", VHOST_USER_SET_LOG_BASE, log_no_fd },
	{ "behind the file", VHOST_USER_SET_LOG_BASE, log_behind_file },
	{ "empty", VHOST_USER_SET_LOG_BASE, log_empty },
	{ "size 0", VHOST_USER_GET_CONFIG, config_size_0 },
	{ "size huge", VHOST_USER_GET_CONFIG, config_size_huge },
	{ "offset", VHOST_USER_GET_CONFIG, config_offset },
	{ "IOTLB without the feature", VHOST_USER_IOTLB_MSG, as_it_is },
};
/* clang-format on */

static struct front *running(struct back *b)
{
	struct front *f = again(b, 0);

	fe_start(f, SIZE);
	read_sector(f, 0, 2);
	return f;
}

static void refused_with_acknowledgement(void **state)
{
	struct back *b = *state;
	struct vhost_user_message m;

	for (unsigned k = 0; k < sizeof(wrongs) / sizeof(wrongs[0]); k++) {
		struct front *f = running(b);

		fe_message(&m, wrongs[k].id);
		wrongs[k].make(f, &m);
		if (fe_ack(f, &m) <= 0)
			fail_msg("%s, %s: not refused", vhost_user_name(VHOST_USER_FRONT_END, wrongs[k].id), wrongs[k].what);
		/* The session goes on, with the ring as it was if the message was not about its whereabouts. */
		if (wrongs[k].id != VHOST_USER_SET_VRING_ADDR)
			read_sector(f, 0, k);
		assert_int_not_equal(fe_ask_u64(f, VHOST_USER_GET_FEATURES), 0);
	}
	next_one_is_served(b);
}

static void refused_without(void **state)
{
	struct back *b = *state;
	struct vhost_user_message m;

	for (unsigned k = 0; k < sizeof(wrongs) / sizeof(wrongs[0]); k++) {
		struct front *f = running(b);

		fe_message(&m, wrongs[k].id);
		wrongs[k].make(f, &m);
		fe_send(f, &m);
		fe_must_close(f);
	}
	for (unsigned k = 0; k < sizeof(wrong_questions) / sizeof(wrong_questions[0]); k++) {
		struct front *f = running(b);

		fe_message(&m, wrong_questions[k].id);
		wrong_questions[k].make(f, &m);
		fe_send(f, &m);
		fe_must_close(f);
	}
	next_one_is_served(b);
}

static void refused_in_the_reply(void **state)
{
	struct back *b = *state;
	struct vhost_user_message m;

	for (unsigned k = 0; k < sizeof(told_wrong) / sizeof(told_wrong[0]); k++) {
		struct front *f = running(b);

		fe_message(&m, told_wrong[k].id);
		told_wrong[k].make(f, &m);
		fe_ask(f, &m);
		assert_true(m.request == VHOST_USER_GET_CONFIG ? m.size == 0 : m.u64 != 0);
		read_sector(f, 0, k);
	}
}

/* Connections that break off anywhere, and messages that never end. */
static void broken_off(void **state)
{
	struct back *b = *state;
	struct vhost_user_message m;
	uint32_t huge[3] = { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, UINT32_MAX };

	for (size_t size = 0; size < VHOST_USER_HEADER_SIZE + 8 + 32; size++) {
		fe_disconnect(&b->front);
		fe_connect(&b->front, b->path);
		fe_mem_table(&b->front, &m);
		assert_int_equal(write(b->front.fd, &m, size), size);
	}
	fe_disconnect(&b->front);
	fe_connect(&b->front, b->path);
	assert_int_equal(write(b->front.fd, huge, sizeof(huge)), sizeof(huge));
	fe_must_close(&b->front);
	/* A front end that stops in the middle of a message keeps nobody waiting: it is gone when it is gone. */
	next_one_is_served(b);
}

/* A front end that never reads its replies. */
static void deaf(void **state)
{
	struct back *b = *state;
	struct vhost_user_message m;
	int err = 0;

	fe_message(&m, VHOST_USER_GET_FEATURES);
	for (unsigned k = 0; k < 100000 && !err; k++)
		err = vhost_user_send(b->front.fd, &m, 200);
	next_one_is_served(b);
}

/* The file behind guest memory shrinks while its ring is served: SIGBUS for whoever touches it. */
static void shortened_memory(void **state)
{
	struct back *b = *state;

	for (unsigned round = 0; round < 3; round++) {
		struct front *f = running(b);

		read_sector(f, 0, 1);
		if (round == 2)
			add_read(f, 0, 0, 1);
		assert_int_equal(ftruncate(f->ram_fd, round == 1 ? 4096 : 0), 0);
		eventfd_write(f->kick[0], 1);
		fe_must_close(f);
		assert_int_equal(ftruncate(f->ram_fd, FRONT_RAM), 0);
	}
	next_one_is_served(b);
}

static void shortened_inflight(void **state)
{
	struct back *b = *state;
	struct front *f = again(b, 0);
	struct vhost_user_message m;

	fe_message(&m, VHOST_USER_GET_INFLIGHT_FD);
	m.inflight.n_queues = 1;
	m.inflight.queue_size = SIZE;
	fe_ask(f, &m);
	fe_start(f, SIZE);
	read_sector(f, 0, 1);
	assert_int_equal(ftruncate(m.fd[0], 0), 0);
	add_read(f, 0, 0, 1);
	fe_must_close(f);
	close(m.fd[0]);
	next_one_is_served(b);
}

/* A driver that breaks the ring's rules: the ring stands still, the error descriptor tells, all else goes on. */
static void broken_ring(void **state)
{
	struct back *b = *state;
	struct vhost_user_message m;

	for (unsigned round = 0; round < 4; round++) {
		struct front *f = running(b);
		int err_fd = eventfd(0, EFD_CLOEXEC);
		struct vring_desc *desc = (struct vring_desc *)f->ram;
		struct vring_avail *avail = (struct vring_avail *)(f->ram + (f->config[0].driver - FRONT_GPA));
		eventfd_t count;

		fe_u64(&m, VHOST_USER_SET_VRING_ERR, 0);
		one_fd(&m, err_fd);
		assert_int_equal(fe_ack(f, &m), 0);
		desc[0] = (struct vring_desc){ FRONT_GPA + FRONT_DATA, 16, 0, 0 };
		if (round == 0)
			desc[0].addr = 0x10;
		if (round == 1)
			desc[0].flags = VRING_DESC_F_NEXT; /* to itself */
		if (round == 2)
			desc[0].len = UINT32_MAX;
		__atomic_store_n(&avail->ring[1], round == 3 ? SIZE : 0, __ATOMIC_RELAXED);
		__atomic_store_n(&avail->idx, 2, __ATOMIC_RELEASE);
		eventfd_write(f->kick[0], 1);
		assert_int_equal(poll(&(struct pollfd){ .fd = err_fd, .events = POLLIN }, 1, FRONT_WAIT_MS), 1);
		assert_int_equal(eventfd_read(err_fd, &count), 0);
		assert_true(fe_ask_u64(f, VHOST_USER_GET_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
		/* Reset, and it works again. */
		assert_int_equal(fe_ack(f, fe_message(&m, VHOST_USER_RESET_DEVICE)), 0);
		fe_start(f, SIZE);
		read_sector(f, 0, 3);
		close(err_fd);
	}
}

static void random_messages(void **state)
{
	struct back *b = *state;
	unsigned seed = 11;

	for (unsigned round = 0; round < 60; round++) {
		struct front *f = running(b);

		for (unsigned k = 0; k < 40; k++) {
			struct vhost_user_message m;

			fe_message(&m, (unsigned)rand_r(&seed) % (VHOST_USER_REQUESTS + 2));
			m.flags |= VHOST_USER_NEED_REPLY;
			for (unsigned n = 0; n < m.size; n++)
				m.bytes[n] = (uint8_t)(rand_r(&seed) % 3 ? 0 : rand_r(&seed));
			for (m.n_fds = 0; rand_r(&seed) % 3 == 0 && m.n_fds < 3; m.n_fds++)
				m.fd[m.n_fds] = rand_r(&seed) % 2 ? f->ram_fd : f->kick[0];
			if (vhost_user_send(f->fd, &m, 1000))
				break;
		}
	}
	next_one_is_served(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, start_back, stop_back)
		TEST(refused_with_acknowledgement), TEST(refused_without), TEST(refused_in_the_reply), TEST(broken_off), TEST(deaf),
		TEST(shortened_memory), TEST(shortened_inflight), TEST(broken_ring), TEST(random_messages),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
