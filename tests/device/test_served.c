/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices of a machine that somebody else serves, driven without a guest: a disk on our own back end, and a
 * network card on a scripted one, which shows what it was told.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "../proto/script.h"
#include "base/log.h"
#include "devices/blk.h"
#include "devices/vhost.h"
#include "driver.h"
#include "vhost/serve.h"

enum {
	SECTORS = 2048,
	QUEUES = 2,
	HEADER = TEST_DATA,
	BUFFER = TEST_DATA + 4096,
	STATUS = TEST_DATA + 8192,
	EACH = 16384
};

/* driver_memory(), in a memfd: it is to be shared. */
static int shared_memory(struct test_driver *t)
{
	struct mem_slot slot = {.size = TEST_RAM};

	memset(t, 0, sizeof(*t));
	assert_int_equal(ram_alloc("test", TEST_RAM, NULL, false, &t->ram, &slot.fd), 0);
	slot.hva = t->ram;
	memory_init(&t->mem);
	assert_int_equal(memory_set_slot(&t->mem, &slot), 0);
	t->dma.mem = &t->mem;
	t->call_fd = eventfd(0, EFD_NONBLOCK);
	return slot.fd;
}

static void end_memory(struct test_driver *t, int fd)
{
	memory_deinit(&t->mem);
	ram_free(t->ram, TEST_RAM, fd);
	close(t->call_fd);
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

/* --- a disk on our own back end --- */

struct back { /* on a thread of its own */
	char path[64], image[80];
	struct memory mem;
	struct dma dma;
	struct disk *disk;
	struct blk *blk;
	struct loop *loop;
	struct vhost_serve *serve;
	pthread_t thread;
};

static void *run_loop(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static void start_back(struct back *b)
{
	struct blk_config blk = {"back", "served-disk", QUEUES};
	struct vhost_serve_config config = {
		.name = "test",
		.n_rings = QUEUES,
		.max_ring_size = 1024,
		.protocol =
			1ull << VHOST_USER_PROTOCOL_F_CONFIG | 1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
		.socket = {.path = b->path, .fd = -1, .server = true, .mode = -1},
	};
	char why[256];

	memory_init(&b->mem);
	b->dma = (struct dma){.mem = &b->mem};
	assert_int_equal(disk_open(b->image, 0, &b->disk, why, sizeof(why)), 0);
	assert_int_equal(blk_new(b->disk, &b->dma, &blk, &b->blk), 0);
	assert_int_equal(loop_new(&b->loop), 0);
	assert_int_equal(vhost_serve_new(b->loop, blk_device(b->blk), &config, &b->serve, why, sizeof(why)),
			 0);
	assert_int_equal(pthread_create(&b->thread, NULL, run_loop, b->loop), 0);
}

static void end_back(struct back *b)
{
	loop_stop(b->loop);
	pthread_join(b->thread, NULL);
	vhost_serve_free(b->serve);
	blk_free(b->blk);
	disk_close(b->disk);
	loop_free(b->loop);
	memory_deinit(&b->mem);
}

static void make_image(struct back *b)
{
	int fd;

	snprintf(b->path, sizeof(b->path), "/tmp/guise-served-%d", (int)getpid());
	snprintf(b->image, sizeof(b->image), "%s.img", b->path);
	fd = open(b->image, O_CREAT | O_RDWR | O_TRUNC, 0600);
	for (uint32_t sector = 0; sector < SECTORS; sector++) {
		uint32_t data[128] = {sector * 77};

		assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	}
	close(fd);
}

static void request(struct test_driver *t, unsigned queue, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr header = {.type = type, .sector = sector};
	uint32_t at = queue * EACH, written; /* for each of the back end's threads its own */
	struct virtq_segment seg[3] = {{at + HEADER, sizeof(header)}, {at + BUFFER, 512}, {at + STATUS, 1}};

	memcpy(t->ram + at + HEADER, &header, sizeof(header));
	t->ram[at + STATUS] = 0xff;
	driver_send(t, queue, seg, type == VIRTIO_BLK_T_OUT ? 2 : 1, type == VIRTIO_BLK_T_OUT ? 1 : 2, t);
	assert_ptr_equal(driver_wait(t, queue, &written), t);
	assert_int_equal(t->ram[at + STATUS], VIRTIO_BLK_S_OK);
}

static void check_sector(struct test_driver *t, unsigned queue, uint32_t sector, uint32_t wanted)
{
	memset(t->ram + queue * EACH + BUFFER, 0, 512);
	request(t, queue, VIRTIO_BLK_T_IN, sector);
	assert_int_equal(*(uint32_t *)(t->ram + queue * EACH + BUFFER), wanted);
}

static void check_space(struct virtio_device *d)
{
	struct virtio_blk_config config;

	memset(&config, 0, sizeof(config));
	virtio_read_config(d, 0, &config, offsetof(struct virtio_blk_config, max_secure_erase_sectors));
	assert_int_equal(config.capacity, SECTORS);
	assert_int_equal(config.num_queues, QUEUES);
}

/* After RING_RESET a queue begins anew, elsewhere if it likes. */
static void move_queue(struct test_driver *t, struct virtio_device *d, uint64_t features)
{
	struct virtq_config c = {.size = 32, .options = virtq_options(features), .desc = 0x80000};

	c.driver = c.desc + 0x8000;
	c.device = c.desc + 0xa000;
	virtio_reset_queue(d, 1);
	assert_false(d->queue[1].enabled);
	virtq_driver_stop(&t->queue[1]);
	d->queue[1].config = c;
	assert_int_equal(virtq_driver_start(&t->queue[1], &t->mem, &c), 0);
	virtq_driver_enable_calls(&t->queue[1]);
	virtio_enable_queue(d, 1);
}

static void disk_with(uint64_t features)
{
	struct back back;
	struct test_driver t;
	struct served *served;
	struct served_config config = {.owner = "test", .default_queues = QUEUES, .packed = true};
	char why[256];
	int fd = shared_memory(&t);

	log_set_level(LOG_ERROR);
	features |= 1ull << VIRTIO_BLK_F_MQ | 1ull << 40;
	make_image(&back);
	start_back(&back);
	config.path = back.path;
	if (vhost_blk_new(&config, &t.dma, &served, why, sizeof(why)))
		fail_msg("%s", why);
	for (unsigned round = 0; round < 3; round++) {
		driver_start(&t, served_device(served), features, QUEUES, 64);
		check_space(served_device(served));
		for (uint32_t k = 0; k < 200; k++)
			check_sector(&t, k % QUEUES, k, k * 77);
		*(uint32_t *)(t.ram + BUFFER) = 4711 + round;
		request(&t, 0, VIRTIO_BLK_T_OUT, 1000);
		check_sector(&t, 1, 1000, 4711 + round);
		end_back(&back); /* requests wait for the next one */
		start_back(&back);
		for (uint32_t k = 0; k < 200; k++)
			check_sector(&t, k % QUEUES, k, k * 77);
		move_queue(&t, served_device(served), features);
		for (uint32_t k = 0; k < 200; k++)
			check_sector(&t, k % QUEUES, k, k * 77);
		driver_reset(&t);
	}
	served_stop(served);
	served_free(served);
	end_back(&back);
	unlink(back.image);
	end_memory(&t, fd);
}

static void disk_split(void **state)
{
	disk_with(0);
	disk_with(1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC);
}

static void disk_packed(void **state)
{
	disk_with(1ull << VIRTIO_F_RING_PACKED);
	disk_with(1ull << VIRTIO_F_RING_PACKED | 1ull << VIRTIO_RING_F_EVENT_IDX);
}

static void disk_of_too_few_queues(void **state)
{
	struct back back;
	struct test_driver t;
	struct served *served;
	struct served_config config = {.owner = "test", .n_queues = QUEUES + 1};
	char why[256];
	int fd = shared_memory(&t);

	make_image(&back);
	start_back(&back);
	config.path = back.path;
	assert_int_equal(vhost_blk_new(&config, &t.dma, &served, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "3 queues: the back end"));
	end_back(&back);
	unlink(back.image);
	end_memory(&t, fd);
}

/* --- a network card on a scripted back end --- */

struct card {
	struct test_driver t;
	struct script script;
	struct served *served;
	int ram_fd;
};

static void plug(struct card *c, unsigned pairs, uint64_t features)
{
	struct served_config config = {
		.owner = "test", .n_queues = pairs, .mtu = 1400, .mac = {2, 0, 0, 0, 0, 7}};
	char why[256];

	log_set_level(LOG_ERROR);
	c->ram_fd = shared_memory(&c->t);
	script_init(&c->script, "card");
	c->script.features |=
		1ull << VIRTIO_NET_F_MQ | 1ull << VIRTIO_NET_F_MTU | 1ull << VIRTIO_NET_F_MRG_RXBUF;
	script_start(&c->script);
	config.path = c->script.path;
	if (vhost_net_new(&config, &c->t.dma, &c->served, why, sizeof(why)))
		fail_msg("%s", why);
	/* the control queue is behind the last pair that the driver knows of */
	driver_start(&c->t, served_device(c->served), features, 2 * pairs + 1, 64);
}

static void unplug(struct card *c)
{
	driver_reset(&c->t);
	served_stop(c->served);
	served_free(c->served);
	end_memory(&c->t, c->ram_fd);
	script_end(&c->script);
}

static uint16_t status_of(struct card *c)
{
	struct virtio_net_config config;

	virtio_read_config(served_device(c->served), 0, &config, offsetof(struct virtio_net_config, speed));
	assert_int_equal(config.mac[5], 7);
	assert_int_equal(config.mtu, 1400);
	return config.status;
}

static uint8_t command(struct card *c, unsigned queue, const void *bytes, uint32_t size)
{
	struct virtq_segment seg[2] = {{HEADER, size}, {STATUS, 1}};
	uint32_t written;

	memcpy(c->t.ram + HEADER, bytes, size);
	c->t.ram[STATUS] = 0xff;
	driver_send(&c->t, queue, seg, 1, 1, c);
	assert_ptr_equal(driver_wait(&c->t, queue, &written), c);
	return c->t.ram[STATUS];
}

static void come_back(struct card *c, unsigned connections)
{
	static struct script s;

	script_hang_up(&c->script);
	do {
		usleep(1000);
		script_look(&c->script, &s);
	} while (s.connections < connections || s.status != 15);
}

static void card_announces(void **state)
{
	struct card c;
	static const uint8_t acknowledge[] = {VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK};
	static struct script s;

	plug(&c, 1,
	     1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE |
		     1ull << VIRTIO_NET_F_STATUS | 1ull << VIRTIO_NET_F_MTU | 1ull << VIRTIO_NET_F_MAC);
	wait_until(status_of(&c) == VIRTIO_NET_S_LINK_UP);
	script_look(&c.script, &s);
	assert_int_equal(s.mtu, 1400);
	come_back(&c, 2);
	wait_until(status_of(&c) == (VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE));
	assert_int_equal(command(&c, 2, acknowledge, sizeof(acknowledge)), VIRTIO_NET_OK);
	assert_int_equal(status_of(&c), VIRTIO_NET_S_LINK_UP);
	script_look(&c.script, &s);
	assert_int_equal(s.rarps, 0);
	unplug(&c);
}

/* A driver that cannot announce itself: the back end does. Without a back end there is no carrier. */
static void card_is_announced(void **state)
{
	struct card c;
	static struct script s;

	plug(&c, 1, 1ull << VIRTIO_NET_F_STATUS | 1ull << VIRTIO_NET_F_MTU | 1ull << VIRTIO_NET_F_MAC);
	wait_until(status_of(&c) == VIRTIO_NET_S_LINK_UP);
	pthread_mutex_lock(&c.script.lock);
	c.script.fault = DIE_BEFORE;
	c.script.fault_at = 1;
	c.script.fault_times = 3;
	pthread_mutex_unlock(&c.script.lock);
	script_hang_up(&c.script);
	wait_until(status_of(&c) == 0);
	wait_until(status_of(&c) == VIRTIO_NET_S_LINK_UP);
	do
		script_look(&c.script, &s);
	while (!s.rarps);
	assert_int_equal(s.rarps, 1);
	unplug(&c);
}

static void card_of_two_pairs(void **state)
{
	struct card c;
	static struct script s;
	static const uint8_t two[] = {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, 0};
	static const uint8_t three[] = {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 3, 0};
	static const uint8_t unknown[] = {99, 0};

	plug(&c, 2,
	     1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_MQ | 1ull << VIRTIO_NET_F_STATUS |
		     1ull << VIRTIO_NET_F_MAC);
	script_look(&c.script, &s);
	for (unsigned k = 0; k < 4; k++)
		assert_int_equal(s.ring[k].is_enabled, k < 2);
	assert_int_equal(s.ring[4].size, 0); /* the control queue is ours */
	assert_int_equal(command(&c, 4, three, sizeof(three)), VIRTIO_NET_ERR);
	assert_int_equal(command(&c, 4, unknown, sizeof(unknown)), VIRTIO_NET_ERR);
	assert_int_equal(command(&c, 4, two, sizeof(two)), VIRTIO_NET_OK);
	come_back(&c, 2);
	script_look(&c.script, &s);
	for (unsigned k = 0; k < 4; k++)
		assert_true(s.ring[k].is_started && s.ring[k].is_enabled);
	unplug(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(disk_split),
		cmocka_unit_test(disk_packed),
		cmocka_unit_test(disk_of_too_few_queues),
		cmocka_unit_test(card_announces),
		cmocka_unit_test(card_is_announced),
		cmocka_unit_test(card_of_two_pairs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
