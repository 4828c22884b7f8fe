/* SPDX-License-Identifier: BSD-2-Clause */
/* The lasting link and the front end's session, against scripted back ends: order, deaths, refusals and lies
 * at every message. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "script.h"
#include "vhost/link.h"

enum { RAM = 1 << 20, RINGS = 2, SIZE = 16, CONFIG = 60, USED_INDEX = 7 };

struct rig {
	struct script script;
	struct memory mem;
	uint8_t *ram;
	int ram_fd;
	struct vhost_link *link;
	struct vhost_link_config config;
	struct vhost_region region[8];
	struct vhost_ring ring[RINGS];
	_Atomic unsigned connected, disconnected, config_changed;
};

static void on_connected(void *opaque)
{
	((struct rig *)opaque)->connected++;
}

static void on_disconnected(void *opaque)
{
	((struct rig *)opaque)->disconnected++;
}

static void on_config(void *opaque)
{
	((struct rig *)opaque)->config_changed++;
}

static const struct vhost_link_events events = {
	.connected = on_connected, .disconnected = on_disconnected, .config_changed = on_config};

static void build(struct rig *r, const char *name)
{
	struct mem_slot slot = {.size = RAM};

	memset(r, 0, sizeof(*r));
	log_set_level(LOG_ERROR); /* faults are what is tested here */
	script_init(&r->script, name);
	assert_int_equal(ram_alloc("test", RAM, NULL, false, &r->ram, &r->ram_fd), 0);
	slot.hva = r->ram;
	slot.fd = r->ram_fd;
	memory_init(&r->mem);
	assert_int_equal(memory_set_slot(&r->mem, &slot), 0);
	assert_int_equal(vhost_regions(&r->mem, r->region, 8), 1);
	for (unsigned k = 0; k < RINGS; k++) {
		r->ring[k] = (struct vhost_ring){.base = 3, .err_fd = -1};
		r->ring[k].config = (struct virtq_config){.size = SIZE, .desc = 0x10000 * (k + 1)};
		r->ring[k].config.driver = r->ring[k].config.desc + 0x1000;
		r->ring[k].config.device = r->ring[k].config.desc + 0x2000;
		((struct vring_used *)(r->ram + r->ring[k].config.device))->idx = USED_INDEX;
		r->ring[k].kick_fd = eventfd(0, EFD_NONBLOCK);
		r->ring[k].call_fd = eventfd(0, EFD_NONBLOCK);
	}
	r->config = (struct vhost_link_config){
		.owner = "test",
		.path = r->script.path,
		.device_id = 1,
		.features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MTU,
		.required = 1ull << VIRTIO_F_VERSION_1,
		.n_rings = RINGS,
		.ring_size = SIZE,
		.config_size = CONFIG,
		.inflight = true,
		.has_mac = true,
		.mac = {2, 0, 0, 0, 0, 1},
		.mtu = 1400,
		.timeout_ms = 300,
		.events = &events,
		.opaque = r,
	};
}

static void open_link(struct rig *r)
{
	char why[200];

	if (vhost_link_new(&r->config, &r->link, why, sizeof(why)))
		fail_msg("%s", why);
}

static void start(struct rig *r)
{
	assert_int_equal(vhost_link_start(r->link, 1ull << VIRTIO_F_VERSION_1, r->region, 1, r->ring, RINGS),
			 0);
}

static void end(struct rig *r)
{
	vhost_link_free(r->link);
	for (unsigned k = 0; k < RINGS; k++) {
		close(r->ring[k].kick_fd);
		close(r->ring[k].call_fd);
	}
	memory_deinit(&r->mem);
	ram_free(r->ram, RAM, r->ram_fd);
	script_end(&r->script);
}

static bool both_served(struct rig *r)
{
	static struct script s;
	bool served = true;

	script_look(&r->script, &s);
	for (unsigned k = 0; k < RINGS; k++)
		served &= s.ring[k].is_started &&
			  (s.ring[k].is_enabled || !(s.features & VHOST_USER_F_PROTOCOL_FEATURES_BIT));
	return s.socket >= 0 && served;
}

#define wait_until(condition)                                                                                \
	do {                                                                                                 \
		unsigned waited_ms = 0;                                                                      \
		while (!(condition)) {                                                                       \
			usleep(2000);                                                                        \
			if ((waited_ms += 2) > 60000)                                                        \
				fail_msg("60 s without " #condition);                                        \
		}                                                                                            \
	} while (0)

/* --- honest back ends --- */

static void check_rings(struct rig *r, uint32_t base)
{
	static struct script s;

	script_look(&r->script, &s);
	for (unsigned k = 0; k < RINGS; k++) {
		const struct virtq_config *c = &r->ring[k].config;

		assert_int_equal(s.ring[k].size, SIZE);
		assert_int_equal(s.ring[k].base, base);
		assert_ptr_equal(s.ring[k].addr.desc_user_addr, r->ram + c->desc);
		assert_ptr_equal(s.ring[k].addr.avail_user_addr, r->ram + c->driver);
		assert_ptr_equal(s.ring[k].addr.used_user_addr, r->ram + c->device);
		assert_true(s.ring[k].has_call && s.ring[k].has_err);
	}
}

static void whole_session(void **state)
{
	struct rig r;
	static struct script s;
	uint32_t base[RINGS];
	uint8_t space[CONFIG], byte = 99;
	eventfd_t count;

	build(&r, "whole");
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	assert_int_equal(vhost_link_read_config(r.link, 0, space, CONFIG), 0);
	assert_memory_equal(space, r.script.config, CONFIG);
	assert_int_equal(vhost_link_write_config(r.link, 8, &byte, 1), 0);
	assert_int_equal(vhost_link_read_config(r.link, CONFIG - 1, space, 2), -EINVAL);
	assert_int_equal(vhost_link_enable(r.link, 1, false), 0);
	start(&r);
	check_rings(&r, 3);
	script_look(&r.script, &s);
	assert_true(s.ring[0].is_enabled && !s.ring[1].is_enabled);
	assert_int_equal(s.set_features, 1ull << VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES_BIT);
	assert_int_equal(s.status, 15);
	assert_int_equal(s.config[8], 99);
	assert_int_equal(s.n_regions, 1);
	assert_int_equal(s.rarps, 0);
	assert_int_equal(eventfd_read(r.ring[0].kick_fd, &count),
			 0); /* in case the driver had kicked before */
	assert_int_equal(vhost_link_enable(r.link, 1, true), 0);
	assert_true(both_served(&r));
	vhost_link_stop(r.link, base);
	assert_int_equal(base[0], 8); /* the script's: 5 later */
	script_look(&r.script, &s);
	assert_int_equal(s.heard[s.n_heard - 1], VHOST_USER_RESET_DEVICE);
	start(&r);
	assert_int_equal(r.connected, 1);
	assert_int_equal(r.disconnected, 0);
	end(&r);
}

static void bare_back_end(void **state)
{
	struct rig r;

	build(&r, "bare");
	r.script.features = 1ull << VIRTIO_F_VERSION_1;
	r.config.config_size = 0;
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	wait_until(both_served(&r)); /* without acknowledgements start() may be ahead */
	check_rings(&r, 3);
	assert_int_equal(vhost_link_set_log(r.link, r.ram_fd, 4096), -EOPNOTSUPP);
	end(&r);
}

static void server_role(void **state)
{
	struct rig r;

	build(&r, "server");
	r.config.server = true;
	r.script.client = true;
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 50), -ETIMEDOUT);
	script_start(&r.script);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	assert_true(both_served(&r));
	script_hang_up(&r.script);
	wait_until(r.connected == 2);
	check_rings(&r, USED_INDEX);
	end(&r);
}

static void memory_changes(void **state)
{
	struct rig r;
	static struct script s;
	struct vhost_region three[3];

	for (unsigned slots = 0; slots < 2; slots++) {
		build(&r, "memory");
		if (!slots)
			r.script.protocol &= ~(1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
		script_start(&r.script);
		open_link(&r);
		assert_int_equal(vhost_link_wait(r.link, 10000), 0);
		start(&r);
		for (unsigned k = 0; k < 3; k++) {
			three[k] = r.region[0];
			three[k].gpa += k * 2 * RAM;
		}
		assert_int_equal(vhost_link_set_memory(r.link, three, 3), 0);
		script_look(&r.script, &s);
		assert_int_equal(s.n_regions, 3);
		assert_int_equal(s.heard[s.n_heard - 1],
				 slots ? VHOST_USER_ADD_MEM_REG : VHOST_USER_SET_MEM_TABLE);
		assert_int_equal(vhost_link_set_memory(r.link, r.region, 1), 0);
		script_look(&r.script, &s);
		assert_int_equal(s.n_regions, 1);
		end(&r);
	}
}

static void dirty_log(void **state)
{
	struct rig r;
	static struct script s;
	int fd = memfd_create("log", 0);

	build(&r, "log");
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	assert_int_equal(vhost_link_set_log(r.link, fd, 4096), 0);
	script_look(&r.script, &s);
	assert_true(s.set_features >> VHOST_F_LOG_ALL & 1);
	assert_int_equal(s.log_size, 4096);
	assert_true(s.ring[1].addr.flags & 1 << VHOST_VRING_F_LOG);
	assert_int_equal(s.ring[1].addr.log_guest_addr, r.ring[1].config.device);
	script_hang_up(&r.script); /* goes on with the next one */
	wait_until(r.connected == 2);
	script_look(&r.script, &s);
	assert_true(s.set_features >> VHOST_F_LOG_ALL & 1);
	assert_int_equal(vhost_link_set_log(r.link, -1, 0), 0);
	script_look(&r.script, &s);
	assert_false(s.set_features >> VHOST_F_LOG_ALL & 1);
	assert_int_equal(s.ring[1].addr.flags, 0);
	end(&r);
	close(fd);
}

static void single_rings(void **state)
{
	struct rig r;
	static struct script s;

	build(&r, "single");
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	assert_int_equal(vhost_link_stop_ring(r.link, 1), 8);
	script_look(&r.script, &s);
	assert_true(s.ring[0].is_started && !s.ring[1].is_started);
	assert_int_equal(vhost_link_start_ring(r.link, 0, &r.ring[0]), -EINVAL);
	r.ring[1].base = 9;
	assert_int_equal(vhost_link_start_ring(r.link, 1, &r.ring[1]), 0);
	script_look(&r.script, &s);
	assert_int_equal(s.ring[1].base, 9);
	assert_true(s.ring[1].is_started && s.ring[1].is_enabled);
	end(&r);
}

static void refused_by_us(void **state)
{
	struct rig r;
	struct vhost_ring far[RINGS];

	build(&r, "refused");
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	memcpy(far, r.ring, sizeof(far));
	far[1].config.device = RAM - 8;
	assert_int_equal(vhost_link_start(r.link, 1ull << VIRTIO_F_VERSION_1, r.region, 1, far, RINGS),
			 -EINVAL);
	assert_int_equal(vhost_link_start(r.link, 1ull << 40, r.region, 1, r.ring, RINGS), -EINVAL);
	assert_int_equal(vhost_link_start(r.link, 1ull << VIRTIO_F_VERSION_1, r.region, 0, r.ring, RINGS),
			 -EINVAL);
	start(&r);
	assert_int_equal(vhost_link_start(r.link, 1ull << VIRTIO_F_VERSION_1, r.region, 1, r.ring, RINGS),
			 -EBUSY);
	end(&r);
}

/* --- the back end's requests --- */

static void back_end_requests(void **state)
{
	struct rig r;
	struct vhost_user_message m;
	uint8_t space[4];

	build(&r, "channel");
	r.script.features |= 1ull << VIRTIO_F_ACCESS_PLATFORM;
	r.config.features |= 1ull << VIRTIO_F_ACCESS_PLATFORM;
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	assert_int_equal(vhost_link_start(r.link,
					  1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_ACCESS_PLATFORM,
					  r.region, 1, r.ring, RINGS),
			 0);
	pthread_mutex_lock(&r.script.lock);
	assert_int_equal(r.script.ring[0].addr.desc_user_addr, r.ring[0].config.desc); /* an IOVA */
	r.script.config[2] = 77;
	pthread_mutex_unlock(&r.script.lock);
	vhost_user_request_init(&m, VHOST_USER_BACK_END, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_int_equal(script_ask(&r.script, &m), 0);
	wait_until(r.config_changed == 1);
	assert_int_equal(vhost_link_read_config(r.link, 0, space, 4), 0);
	assert_int_equal(space[2], 77);
	vhost_user_request_init(&m, VHOST_USER_BACK_END, VHOST_USER_BACKEND_IOTLB_MSG);
	m.iotlb = (struct vhost_iotlb_msg){.iova = 0x5000, .perm = VHOST_ACCESS_RW, .type = VHOST_IOTLB_MISS};
	assert_int_equal(script_ask(&r.script, &m), 0);
	pthread_mutex_lock(&r.script.lock);
	assert_int_equal(r.script.heard[r.script.n_heard - 1], VHOST_USER_IOTLB_MSG);
	pthread_mutex_unlock(&r.script.lock);
	vhost_user_request_init(&m, VHOST_USER_BACK_END, VHOST_USER_BACKEND_IOTLB_MSG);
	m.iotlb = (struct vhost_iotlb_msg){.iova = 1ull << 40, .type = VHOST_IOTLB_MISS};
	assert_int_equal(script_ask(&r.script, &m), 1);
	vhost_user_request_init(&m, VHOST_USER_BACK_END, VHOST_USER_BACKEND_SHARED_OBJECT_ADD);
	assert_int_equal(script_ask(&r.script, &m), 1);
	m.request = 4711;
	assert_int_equal(script_ask(&r.script, &m), 1);
	assert_true(both_served(&r));
	vhost_link_write_config(r.link, 0, space, 1); /* the channel's noise disturbed nothing */
	assert_int_equal(r.connected, 1);
	end(&r);
}

/* --- faults --- */

/* Start before the first connection and see it through whatever happens in the first `times`. */
static void survive(enum fault fault, unsigned at, uint32_t request, unsigned times)
{
	struct rig r;

	build(&r, "fault");
	r.script.fault = fault;
	r.script.fault_at = at;
	r.script.fault_request = request;
	r.script.fault_times = times;
	r.config.timeout_ms = fault == SILENT ? 100 : 20000;
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 60000), 0);
	start(&r);
	wait_until(both_served(&r) && r.connected > r.disconnected);
	vhost_link_stop(r.link, NULL);
	end(&r);
}

static unsigned messages_of_a_session(void)
{
	struct rig r;
	static struct script s;

	build(&r, "count");
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	script_look(&r.script, &s);
	end(&r);
	return s.n_heard;
}

static void death_at_every_message(void **state)
{
	unsigned n = messages_of_a_session();

	assert_true(n > 25);
	for (unsigned at = 1; at <= n; at++) {
		survive(DIE_BEFORE, at, 0, 1);
		survive(DIE_AFTER, at, 0, 2);
	}
}

static void lies_at_every_message(void **state)
{
	static const enum fault lie[] = {REFUSE,      WRONG_REQUEST, WRONG_SIZE,    WRONG_VERSION,
					 NOT_A_REPLY, EXTRA_FD,	     HALF_A_HEADER, TALK_UNASKED};
	enum { LIES = sizeof(lie) / sizeof(lie[0]) };
	unsigned n = messages_of_a_session();

	for (unsigned at = 1; at <= n; at++)
		for (unsigned k = 0; k < 3; k++) { /* each at some messages of every kind */
			enum fault fault = lie[(at + 3 * k) % LIES];

			if (fault != REFUSE ||
			    at > 12) /* a "refused" GET_FEATURES is an offer like any other */
				survive(fault, at, 0, 1);
		}
}

static void silence(void **state)
{
	static const uint32_t request[] = {VHOST_USER_GET_FEATURES, VHOST_USER_SET_OWNER,
					   VHOST_USER_ADD_MEM_REG, VHOST_USER_SET_VRING_KICK,
					   VHOST_USER_GET_CONFIG};

	for (unsigned k = 0; k < sizeof(request) / sizeof(request[0]); k++)
		survive(SILENT, 0, request[k], 1);
}

/* The rings go on where the used index is, the inflight area goes from back end to back end, the network is
 * told. */
static void reconnect(void **state)
{
	struct rig r;
	static struct script s;
	eventfd_t count;

	build(&r, "reconnect");
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	assert_int_equal(vhost_link_write_config(r.link, 32, "\xaa", 1), 0);
	for (unsigned k = 2; k < 8; k++) {
		pthread_mutex_lock(&r.script.lock);
		r.script.config[32] = 0;
		pthread_mutex_unlock(&r.script.lock);
		script_hang_up(&r.script);
		wait_until(r.connected == k);
		assert_int_equal(r.disconnected, k - 1);
		check_rings(&r, USED_INDEX);
		script_look(&r.script, &s);
		assert_int_equal(s.rarps, k - 1);
		assert_int_equal(s.config[32], 0xaa); /* what the driver wrote is written again */
		for (unsigned m = 0; m < s.n_heard; m++)
			assert_int_not_equal(s.heard[m], VHOST_USER_GET_INFLIGHT_FD);
		assert_int_equal(eventfd_read(r.ring[1].call_fd, &count), 0); /* in case a call was lost */
	}
	end(&r);
}

/* A successor that lacks what the driver uses is passed over until one comes that has it. */
static void lesser_successor(void **state)
{
	struct rig r;

	build(&r, "lesser");
	r.config.required = 0;
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	pthread_mutex_lock(&r.script.lock);
	r.script.features &= ~(1ull << VIRTIO_F_VERSION_1);
	pthread_mutex_unlock(&r.script.lock);
	script_hang_up(&r.script);
	wait_until(r.disconnected == 1);
	usleep(100000);
	assert_int_equal(r.connected, 1);
	pthread_mutex_lock(&r.script.lock);
	r.script.features |= 1ull << VIRTIO_F_VERSION_1;
	pthread_mutex_unlock(&r.script.lock);
	wait_until(r.connected == 2 && both_served(&r));
	end(&r);
}

/* While it is disconnected, the owner may stop, start and change its mind. */
static void owner_without_back_end(void **state)
{
	struct rig r;
	uint32_t base[RINGS];

	build(&r, "alone");
	r.config.server = true;
	r.script.client = true;
	script_start(&r.script);
	open_link(&r);
	assert_int_equal(vhost_link_wait(r.link, 10000), 0);
	start(&r);
	script_end(&r.script);
	wait_until(r.disconnected == 1);
	vhost_link_stop(r.link, base);
	assert_int_equal(base[0], USED_INDEX);
	start(&r);
	vhost_link_stop(r.link, base);
	assert_int_equal(base[0], 3); /* never handed over: stands where it began */
	start(&r);
	assert_int_equal(vhost_link_enable(r.link, 1, false), 0);
	script_init(&r.script, "alone");
	r.script.client = true;
	script_start(&r.script);
	wait_until(r.connected == 2);
	check_rings(&r, 3);
	assert_false(both_served(&r));
	assert_int_equal(vhost_link_enable(r.link, 1, true), 0);
	assert_true(both_served(&r));
	end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_session),
		cmocka_unit_test(bare_back_end),
		cmocka_unit_test(server_role),
		cmocka_unit_test(memory_changes),
		cmocka_unit_test(dirty_log),
		cmocka_unit_test(single_rings),
		cmocka_unit_test(refused_by_us),
		cmocka_unit_test(back_end_requests),
		cmocka_unit_test(reconnect),
		cmocka_unit_test(lesser_successor),
		cmocka_unit_test(owner_without_back_end),
		cmocka_unit_test(silence),
		cmocka_unit_test(death_at_every_message),
		cmocka_unit_test(lies_at_every_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
