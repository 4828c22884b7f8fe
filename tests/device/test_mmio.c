/* SPDX-License-Identifier: BSD-2-Clause */
/* The MMIO transport, register by register: a device behind it is brought up, used, reset and misused through the bus. */
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sched.h>
#include <cmocka.h>

#include "devices/rng.h"
#include "driver.h"
#include "virtio/mmio.h"

enum { BASE = 0x10000000, RING = 0x10000, QUEUE_RESET = 0xc0, RUNNING = 15 };

struct fixture {
	struct test_driver driver; /* for its memory and driver half only */
	struct loop *loop;
	struct bus *bus;
	struct rng *rng;
	struct virtio_mmio *mmio;
	pthread_t thread;
	_Atomic int level;
	struct virtio_doorbell bell;
	unsigned n_bells;
};

static void wire_set(void *opaque, unsigned line, int level)
{
	((struct fixture *)opaque)->level = level;
}

static int set_bell(void *opaque, const struct virtio_doorbell *bell, bool on)
{
	struct fixture *f = opaque;

	f->bell = *bell;
	f->n_bells += on;
	return 0;
}

static void *run(void *loop)
{
	loop_run(loop);
	return NULL;
}

static uint32_t get(struct fixture *f, uint64_t offset)
{
	uint32_t value = 0;

	assert_true(bus_access(f->bus, BUS_MMIO, BASE + offset, 4, false, &value));
	return value;
}

static void set(struct fixture *f, uint64_t offset, uint32_t value)
{
	assert_true(bus_access(f->bus, BUS_MMIO, BASE + offset, 4, true, &value));
}

static void set_up(struct fixture *f)
{
	const struct virtio_doorbells bells = {set_bell, f};
	const struct irq_wire irq = {wire_set, f, 0};

	memset(f, 0, sizeof(*f));
	driver_memory(&f->driver);
	assert_int_equal(loop_new(&f->loop), 0);
	assert_int_equal(bus_new(&f->bus), 0);
	assert_int_equal(rng_new(f->loop, &f->driver.dma, &(struct rng_config){.fd = -1}, &f->rng), 0);
	assert_int_equal(virtio_mmio_new(f->bus, BASE, &irq, rng_device(f->rng), &bells, &f->mmio), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, run, f->loop), 0);
}

static void tear_down(struct fixture *f)
{
	set(f, VIRTIO_MMIO_STATUS, 0);
	virtq_driver_stop(&f->driver.queue[0]);
	rng_free(f->rng);
	virtio_mmio_free(f->mmio);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	loop_free(f->loop);
	bus_free(f->bus);
	driver_end(&f->driver);
}

static void set_up_queue(struct fixture *f)
{
	struct virtq_config c = {.size = 8, .desc = RING, .driver = RING + 0x1000, .device = RING + 0x2000};

	virtq_driver_stop(&f->driver.queue[0]);
	assert_int_equal(virtq_driver_start(&f->driver.queue[0], &f->driver.mem, &c), 0);
	set(f, VIRTIO_MMIO_QUEUE_SEL, 0);
	set(f, VIRTIO_MMIO_QUEUE_NUM, 8);
	set(f, VIRTIO_MMIO_QUEUE_DESC_LOW, RING);
	set(f, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0);
	set(f, VIRTIO_MMIO_QUEUE_AVAIL_LOW, RING + 0x1000);
	set(f, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0);
	set(f, VIRTIO_MMIO_QUEUE_USED_LOW, RING + 0x2000);
	set(f, VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
	set(f, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(f, VIRTIO_MMIO_QUEUE_READY), 1);
}

static void bring_up(struct fixture *f)
{
	set(f, VIRTIO_MMIO_STATUS, 0);
	set(f, VIRTIO_MMIO_STATUS, 1);
	set(f, VIRTIO_MMIO_STATUS, 3);
	set(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(f, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	set(f, VIRTIO_MMIO_STATUS, 11);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), 11);
	set_up_queue(f);
	set(f, VIRTIO_MMIO_STATUS, RUNNING);
	assert_int_equal(get(f, VIRTIO_MMIO_STATUS), RUNNING);
}

static void ask(struct fixture *f, uint32_t bytes)
{
	struct virtq_segment seg = {TEST_DATA, bytes};

	virtq_driver_enable_calls(&f->driver.queue[0]);
	assert_int_equal(virtq_driver_add(&f->driver.queue[0], &seg, 0, 1, f), 0);
	set(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

static void await_level(struct fixture *f, int level)
{
	while (f->level != level)
		sched_yield();
}

static void identifies_itself(void **state)
{
	struct fixture f;

	set_up(&f);
	assert_int_equal(get(&f, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(get(&f, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(get(&f, VIRTIO_MMIO_DEVICE_ID), 4);
	set(&f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	assert_true(get(&f, VIRTIO_MMIO_DEVICE_FEATURES) & 1);
	set(&f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(get(&f, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	for (unsigned reg = VIRTIO_MMIO_SHM_LEN_LOW; reg <= VIRTIO_MMIO_SHM_BASE_HIGH; reg += 4)
		assert_int_equal(get(&f, reg), UINT32_MAX);
	assert_int_equal(f.n_bells, 1);
	assert_int_equal(f.bell.gpa, BASE + VIRTIO_MMIO_QUEUE_NOTIFY);
	assert_int_equal(f.bell.size, 4);
	assert_true(f.bell.matches && !f.bell.value);
	tear_down(&f);
}

static void serves_and_interrupts(void **state)
{
	struct fixture f;
	uint32_t written;

	set_up(&f);
	for (unsigned round = 0; round < 20; round++) {
		bring_up(&f);
		for (unsigned k = 0; k < 20; k++) {
			ask(&f, 100);
			await_level(&f, 1);
			assert_int_equal(get(&f, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
			set(&f, VIRTIO_MMIO_INTERRUPT_ACK, 1);
			assert_int_equal(f.level, 0);
			assert_ptr_equal(virtq_driver_take(&f.driver.queue[0], &written), &f);
			assert_int_equal(written, 100);
		}
	}
	tear_down(&f);
}

static void queues_can_be_taken_away(void **state)
{
	struct fixture f;
	uint32_t written;

	set_up(&f);
	bring_up(&f);
	for (unsigned k = 0; k < 10; k++) {
		set(&f, VIRTIO_MMIO_QUEUE_READY, 0);
		assert_int_equal(get(&f, VIRTIO_MMIO_QUEUE_READY), 0);
		set(&f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		bring_up(&f);
		ask(&f, 10);
		await_level(&f, 1);
		set(&f, VIRTIO_MMIO_INTERRUPT_ACK, 3);
		assert_ptr_equal(virtq_driver_take(&f.driver.queue[0], &written), &f);
	}
	set(&f, QUEUE_RESET, 1); /* not offered by this device: nothing happens */
	assert_int_equal(get(&f, VIRTIO_MMIO_QUEUE_READY), 1);
	tear_down(&f);
}

static void a_broken_ring_raises_the_config_cause(void **state)
{
	struct fixture f;
	struct virtq_segment seg = {TEST_RAM - 4, 8};

	set_up(&f);
	bring_up(&f);
	assert_int_equal(virtq_driver_add(&f.driver.queue[0], &seg, 0, 1, &f), 0);
	set(&f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	await_level(&f, 1);
	assert_true(get(&f, VIRTIO_MMIO_INTERRUPT_STATUS) & 2);
	assert_true(get(&f, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	set(&f, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(get(&f, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(f.level, 0);
	tear_down(&f);
}

/* Every register with every size, absent queues, wild values: nothing but refusals. */
static void survives_nonsense(void **state)
{
	struct fixture f;
	uint64_t seed = 88172645463325252ull;

	set_up(&f);
	for (unsigned k = 0; k < 100000; k++) {
		uint64_t value;
		unsigned size = 1u << (seed >> 8 & 3), offset = (seed >> 16) % 0x140;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		value = seed >> 60 ? seed & 0xf : seed;
		bus_access(f.bus, BUS_MMIO, BASE + (seed & 64 ? offset & ~3u : offset), seed & 32 ? 4 : size, seed & 16, &value);
	}
	bring_up(&f);
	set(&f, VIRTIO_MMIO_QUEUE_SEL, 7);
	assert_int_equal(get(&f, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	set(&f, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(&f, VIRTIO_MMIO_QUEUE_READY), 0);
	set(&f, VIRTIO_MMIO_QUEUE_NOTIFY, 0xffffffff);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identifies_itself),
		cmocka_unit_test(serves_and_interrupts),
		cmocka_unit_test(queues_can_be_taken_away),
		cmocka_unit_test(a_broken_ring_raises_the_config_cause),
		cmocka_unit_test(survives_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
