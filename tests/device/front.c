/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/loop.h"
#include "front.h"
#include "vhost/socket.h"

void fe_init(struct front *f, unsigned n_rings)
{
	memset(f, 0, sizeof(*f));
	f->fd = -1;
	f->n_rings = n_rings;
	f->ram_fd = memfd_create("front", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->ram_fd, FRONT_RAM), 0);
	f->ram = mmap(NULL, FRONT_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, f->ram_fd, 0);
	assert_ptr_not_equal(f->ram, MAP_FAILED);
	memory_init(&f->mem);
	assert_int_equal(memory_set_slot(&f->mem, &(struct mem_slot){ .gpa = FRONT_GPA, .size = FRONT_RAM, .hva = f->ram, .fd = -1 }), 0);
	for (unsigned k = 0; k < FRONT_RINGS; k++) {
		f->kick[k] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f->call[k] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
}

void fe_deinit(struct front *f)
{
	fe_disconnect(f);
	for (unsigned k = 0; k < FRONT_RINGS; k++) {
		virtq_driver_stop(&f->driver[k]);
		close(f->kick[k]);
		close(f->call[k]);
	}
	memory_deinit(&f->mem);
	munmap(f->ram, FRONT_RAM);
	close(f->ram_fd);
}

void fe_connect(struct front *f, const char *path)
{
	uint64_t give_up = now_ns() + FRONT_WAIT_MS * 1000000ull;
	char why[256];

	while (vhost_socket_connect(path, &f->fd, why, sizeof(why))) {
		if (now_ns() > give_up)
			fail_msg("%s", why);
		usleep(1000);
	}
}

void fe_disconnect(struct front *f)
{
	if (f->fd < 0)
		return;
	vhost_user_receiver_reset(&f->receiver);
	close(f->fd);
	f->fd = -1;
}

struct vhost_user_message *fe_message(struct vhost_user_message *m, uint32_t id)
{
	vhost_user_request_init(m, VHOST_USER_FRONT_END, id);
	return m;
}

struct vhost_user_message *fe_u64(struct vhost_user_message *m, uint32_t id, uint64_t value)
{
	fe_message(m, id)->u64 = value;
	return m;
}

struct vhost_user_message *fe_state(struct vhost_user_message *m, uint32_t id, uint32_t index, uint32_t num)
{
	fe_message(m, id)->state.index = index;
	m->state.num = num;
	return m;
}

struct vhost_user_message *fe_mem_table(struct front *f, struct vhost_user_message *m)
{
	fe_message(m, VHOST_USER_SET_MEM_TABLE);
	m->size += sizeof(struct vhost_user_region);
	m->memory.n_regions = 1;
	m->memory.region[0] = (struct vhost_user_region){ FRONT_GPA, FRONT_RAM, FRONT_USER, 0 };
	m->n_fds = 1;
	m->fd[0] = f->ram_fd;
	return m;
}

struct vhost_user_message *fe_addr(struct front *f, struct vhost_user_message *m, unsigned ring)
{
	uint64_t move = FRONT_USER - FRONT_GPA;

	fe_message(m, VHOST_USER_SET_VRING_ADDR);
	m->addr.index = ring;
	m->addr.desc_user_addr = f->config[ring].desc + move;
	m->addr.avail_user_addr = f->config[ring].driver + move;
	m->addr.used_user_addr = f->config[ring].device + move;
	m->addr.log_guest_addr = f->config[ring].device;
	return m;
}

void fe_send(struct front *f, const struct vhost_user_message *m)
{
	assert_int_equal(vhost_user_send(f->fd, m, FRONT_WAIT_MS), 0);
}

void fe_ask(struct front *f, struct vhost_user_message *m)
{
	uint32_t id = m->request;
	char why[128];

	fe_send(f, m);
	if (vhost_user_receive_wait(f->fd, &f->receiver, FRONT_WAIT_MS) != 1)
		fail_msg("no reply to %s", vhost_user_name(VHOST_USER_FRONT_END, id));
	*m = f->receiver.message;
	assert_int_equal(m->request, id);
	if (vhost_user_check(vhost_user_rule(VHOST_USER_FRONT_END, id), m, true, why, sizeof(why)))
		fail_msg("%s: %s", vhost_user_name(VHOST_USER_FRONT_END, id), why);
}

uint64_t fe_ask_u64(struct front *f, uint32_t id)
{
	struct vhost_user_message m;

	fe_ask(f, fe_message(&m, id));
	return m.u64;
}

int64_t fe_ack(struct front *f, struct vhost_user_message *m)
{
	uint32_t id = m->request;
	int got;

	m->flags |= VHOST_USER_NEED_REPLY;
	if (vhost_user_send(f->fd, m, FRONT_WAIT_MS))
		return -1;
	got = vhost_user_receive_wait(f->fd, &f->receiver, FRONT_WAIT_MS);
	if (got == -ECONNRESET)
		return -1;
	assert_int_equal(got, 1);
	assert_int_equal(f->receiver.message.request, id);
	assert_true(f->receiver.message.flags & VHOST_USER_REPLY);
	return (int64_t)f->receiver.message.u64;
}

void fe_must_close(struct front *f)
{
	struct pollfd p = { .fd = f->fd, .events = POLLIN };
	char byte;

	assert_int_equal(poll(&p, 1, FRONT_WAIT_MS), 1);
	assert_true(read(f->fd, &byte, 1) <= 0);
	fe_disconnect(f);
}

void fe_negotiate(struct front *f, uint64_t features, uint64_t protocol)
{
	struct vhost_user_message m;
	uint64_t offered;

	f->features = features | VHOST_USER_F_PROTOCOL_FEATURES_BIT | 1ull << VIRTIO_F_VERSION_1;
	f->protocol = protocol | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK;
	fe_send(f, fe_message(&m, VHOST_USER_SET_OWNER));
	offered = fe_ask_u64(f, VHOST_USER_GET_FEATURES);
	assert_int_equal(f->features & ~offered, 0);
	offered = fe_ask_u64(f, VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_int_equal(f->protocol & ~offered, 0);
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_PROTOCOL_FEATURES, f->protocol)), 0);
	assert_int_equal(fe_ack(f, fe_u64(&m, VHOST_USER_SET_FEATURES, f->features)), 0);
}

void fe_make_rings(struct front *f, uint32_t size)
{
	for (unsigned k = 0; k < f->n_rings; k++) {
		struct virtq_config *c = &f->config[k];

		*c = (struct virtq_config){ .size = size, .options = virtq_options(f->features), .desc = FRONT_GPA + k * 0x10000 };
		c->driver = c->desc + 0x8000;
		c->device = c->desc + 0xa000;
		virtq_driver_stop(&f->driver[k]);
		memset(f->ram + k * 0x10000, 0, 0x10000);
		assert_int_equal(virtq_driver_start(&f->driver[k], &f->mem, c), 0);
		virtq_driver_enable_calls(&f->driver[k]);
	}
}

void fe_start_ring(struct front *f, unsigned ring, uint32_t base)
{
	struct vhost_user_message m;

	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_NUM, ring, f->config[ring].size)), 0);
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_BASE, ring, base)), 0);
	assert_int_equal(fe_ack(f, fe_addr(f, &m, ring)), 0);
	fe_u64(&m, VHOST_USER_SET_VRING_CALL, ring);
	m.n_fds = 1;
	m.fd[0] = f->call[ring];
	assert_int_equal(fe_ack(f, &m), 0);
	fe_u64(&m, VHOST_USER_SET_VRING_KICK, ring);
	m.n_fds = 1;
	m.fd[0] = f->kick[ring];
	assert_int_equal(fe_ack(f, &m), 0);
	assert_int_equal(fe_ack(f, fe_state(&m, VHOST_USER_SET_VRING_ENABLE, ring, 1)), 0);
}

void fe_start(struct front *f, uint32_t size)
{
	struct vhost_user_message m;

	fe_make_rings(f, size);
	assert_int_equal(fe_ack(f, fe_mem_table(f, &m)), 0);
	for (unsigned k = 0; k < f->n_rings; k++)
		fe_start_ring(f, k, virtq_fresh_base(f->config[k].options));
}

void fe_add(struct front *f, unsigned ring, const struct virtq_segment *seg, unsigned readable, unsigned writable, void *token)
{
	struct virtq_segment there[8];

	for (unsigned k = 0; k < readable + writable; k++)
		there[k] = (struct virtq_segment){ FRONT_GPA + FRONT_DATA + seg[k].gpa, seg[k].len };
	assert_int_equal(virtq_driver_add(&f->driver[ring], there, readable, writable, token), 0);
	if (virtq_driver_should_kick(&f->driver[ring]))
		eventfd_write(f->kick[ring], 1);
}

static void *take(struct front *f, unsigned ring, uint32_t *written, int ms)
{
	uint64_t give_up = now_ns() + (uint64_t)ms * 1000000;
	struct virtq_driver *d = &f->driver[ring];

	for (;;) {
		struct pollfd p = { .fd = f->call[ring], .events = POLLIN };
		void *token = virtq_driver_take(d, written);
		eventfd_t count;

		assert_int_equal(d->error, VIRTQ_OK);
		if (token)
			return token;
		if (virtq_driver_enable_calls(d))
			continue;
		if (now_ns() >= give_up || !poll(&p, 1, (int)((give_up - now_ns()) / 1000000) + 1))
			return NULL;
		eventfd_read(f->call[ring], &count);
	}
}

void *fe_wait(struct front *f, unsigned ring, uint32_t *written)
{
	void *token = take(f, ring, written, FRONT_WAIT_MS);

	if (!token)
		fail_msg("ring %u: nothing came back", ring);
	return token;
}

bool fe_quiet(struct front *f, unsigned ring, int ms)
{
	uint32_t written;

	return !take(f, ring, &written, ms);
}
