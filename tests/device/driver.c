/* SPDX-License-Identifier: BSD-2-Clause */
#include <linux/virtio_config.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "driver.h"

static void call(void *opaque, const struct virtio_queue *queue)
{
	eventfd_write(((struct test_driver *)opaque)->call_fd, 1);
}

static void config_changed(void *opaque)
{
	eventfd_write(((struct test_driver *)opaque)->call_fd, 1);
}

static const struct virtio_transport_ops transport = { .call = call, .config_changed = config_changed };

void driver_memory(struct test_driver *t)
{
	struct mem_slot slot = { .size = TEST_RAM, .fd = -1 };

	memset(t, 0, sizeof(*t));
	t->ram = aligned_alloc(4096, TEST_RAM);
	memset(t->ram, 0, TEST_RAM);
	slot.hva = t->ram;
	memory_init(&t->mem);
	assert_int_equal(memory_set_slot(&t->mem, &slot), 0);
	t->dma.mem = &t->mem;
	t->call_fd = eventfd(0, EFD_NONBLOCK);
}

void driver_start(struct test_driver *t, struct virtio_device *device, uint64_t features, unsigned n_queues, uint32_t size)
{
	t->device = device;
	device->transport = &transport;
	device->transport_opaque = t;
	features |= 1ull << VIRTIO_F_VERSION_1;
	virtio_set_status(device, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	virtio_set_status(device, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	virtio_accept_features(device, 0, (uint32_t)features);
	virtio_accept_features(device, 1, (uint32_t)(features >> 32));
	virtio_set_status(device, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	assert_true(virtio_get_status(device) & VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned k = 0; k < n_queues; k++) {
		struct virtq_config c = { .size = size, .options = virtq_options(features), .desc = 0x10000 * (k + 1) };

		c.driver = c.desc + 0x8000;
		c.device = c.desc + 0xa000;
		device->queue[k].config = c;
		assert_int_equal(virtq_driver_start(&t->queue[k], &t->mem, &c), 0);
		virtq_driver_enable_calls(&t->queue[k]);
		virtio_enable_queue(device, k);
	}
	virtio_set_status(device, 15);
	assert_int_equal(virtio_get_status(device), 15);
}

void driver_reset(struct test_driver *t)
{
	virtio_set_status(t->device, 0);
	for (unsigned k = 0; k < 16; k++)
		virtq_driver_stop(&t->queue[k]);
}

void driver_end(struct test_driver *t)
{
	memory_deinit(&t->mem);
	free(t->ram);
	close(t->call_fd);
}

void driver_send(struct test_driver *t, unsigned queue, const struct virtq_segment *seg, unsigned readable, unsigned writable,
		 void *token)
{
	assert_int_equal(virtq_driver_add(&t->queue[queue], seg, readable, writable, token), 0);
	if (virtq_driver_should_kick(&t->queue[queue]))
		virtio_kick(t->device, queue);
}

void *driver_wait(struct test_driver *t, unsigned queue, uint32_t *written)
{
	struct virtq_driver *q = &t->queue[queue];

	for (;;) {
		struct pollfd fd = { .fd = t->call_fd, .events = POLLIN };
		void *token = virtq_driver_take(q, written);
		eventfd_t count;

		assert_int_equal(q->error, VIRTQ_OK);
		if (token)
			return token;
		if (virtq_driver_enable_calls(q))
			continue;
		if (poll(&fd, 1, 10000) != 1)
			fail_msg("no call within 10 s");
		eventfd_read(t->call_fd, &count);
	}
}

bool driver_pending(struct test_driver *t, unsigned queue)
{
	return virtq_driver_enable_calls(&t->queue[queue]);
}
