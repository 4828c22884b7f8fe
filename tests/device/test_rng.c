/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-rng driven without a guest: fills what it is given, bounds what it does, survives a hostile ring. */
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "devices/rng.h"
#include "driver.h"

struct fixture {
	struct test_driver driver;
	struct loop *loop;
	struct rng *rng;
	pthread_t thread;
};

static void *run(void *loop)
{
	loop_run(loop);
	return NULL;
}

static void set_up_with(struct fixture *f, const struct rng_config *config)
{
	driver_memory(&f->driver);
	assert_int_equal(loop_new(&f->loop), 0);
	assert_int_equal(rng_new(f->loop, &f->driver.dma, config, &f->rng), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, run, f->loop), 0);
}

static void set_up(struct fixture *f)
{
	set_up_with(f, &(struct rng_config){.fd = -1});
}

static void tear_down(struct fixture *f)
{
	driver_reset(&f->driver);
	rng_free(f->rng);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	loop_free(f->loop);
	driver_end(&f->driver);
}

static void fills_buffers(void **state)
{
	struct virtq_segment seg[2] = {{TEST_DATA, 1000}, {TEST_DATA + 8192, 5}};
	struct fixture f;
	uint32_t written;
	unsigned zeroes = 0;

	set_up(&f);
	for (unsigned round = 0; round < 50; round++) {
		if (round)
			driver_reset(&f.driver);
		memset(f.driver.ram + TEST_DATA, 0, 16384);
		driver_start(&f.driver, rng_device(f.rng), round % 2 ? 1ull << VIRTIO_F_RING_PACKED : 0, 1, 8);
		driver_send(&f.driver, 0, seg, 0, 2, &f);
		assert_ptr_equal(driver_wait(&f.driver, 0, &written), &f);
		assert_int_equal(written, 1005);
		for (unsigned k = 0; k < 1000; k++)
			zeroes += !f.driver.ram[TEST_DATA + k];
		assert_int_equal(f.driver.ram[TEST_DATA + 1000], 0); /* not a byte more */
	}
	assert_in_range(zeroes, 50, 1000); /* 195 of 50000 expected */
	tear_down(&f);
}

static void bounds_one_request(void **state)
{
	struct virtq_segment seg = {TEST_DATA, 1 << 20};
	struct fixture f;
	uint32_t written;

	set_up(&f);
	driver_start(&f.driver, rng_device(f.rng), 0, 1, 8);
	driver_send(&f.driver, 0, &seg, 0, 1, &f);
	assert_ptr_equal(driver_wait(&f.driver, 0, &written), &f);
	assert_in_range(written, 1, 1 << 16);
	tear_down(&f);
}

static void a_broken_ring_needs_a_reset(void **state)
{
	struct virtq_segment seg = {TEST_RAM - 4, 8}, good = {TEST_DATA, 8};
	struct fixture f;
	uint32_t written;

	set_up(&f);
	driver_start(&f.driver, rng_device(f.rng), 0, 1, 8);
	driver_send(&f.driver, 0, &seg, 0, 1, &f);
	for (unsigned k = 0; k < 1000 && !(virtio_get_status(f.driver.device) & VIRTIO_CONFIG_S_NEEDS_RESET); k++)
		loop_sync(f.loop);
	while (!(virtio_get_status(f.driver.device) & VIRTIO_CONFIG_S_NEEDS_RESET))
		sched_yield();
	driver_reset(&f.driver);
	driver_start(&f.driver, rng_device(f.rng), 0, 1, 8);
	driver_send(&f.driver, 0, &good, 0, 1, &f);
	assert_ptr_equal(driver_wait(&f.driver, 0, &written), &f);
	assert_int_equal(written, 8);
	tear_down(&f);
}

/* 1000 bytes at once, then no more than time allows: the second thousand takes nine tenths of a second at least. */
static void keeps_to_its_rate(void **state)
{
	struct virtq_segment seg = {TEST_DATA, 1000};
	struct fixture f;
	uint32_t written, total = 0;
	uint64_t start;

	set_up_with(&f, &(struct rng_config){.fd = -1, .rate = 1000});
	driver_start(&f.driver, rng_device(f.rng), 0, 1, 8);
	start = now_ns();
	while (total < 2000) {
		driver_send(&f.driver, 0, &seg, 0, 1, &f);
		assert_ptr_equal(driver_wait(&f.driver, 0, &written), &f);
		assert_in_range(written, 1, 1000);
		total += written;
	}
	assert_true(now_ns() - start > 900000000);
	driver_send(&f.driver, 0, &seg, 0, 1, &f); /* it may wait while the device is reset */
	tear_down(&f);
}

static void reads_a_device(void **state)
{
	struct virtq_segment seg = {TEST_DATA, 100};
	struct fixture f;
	uint32_t written;

	set_up_with(&f, &(struct rng_config){.fd = open("/dev/zero", O_RDONLY)});
	memset(f.driver.ram + TEST_DATA, 1, 200);
	driver_start(&f.driver, rng_device(f.rng), 0, 1, 8);
	driver_send(&f.driver, 0, &seg, 0, 1, &f);
	assert_ptr_equal(driver_wait(&f.driver, 0, &written), &f);
	assert_int_equal(written, 100);
	assert_int_equal(f.driver.ram[TEST_DATA + 99], 0);
	assert_int_equal(f.driver.ram[TEST_DATA + 100], 1);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fills_buffers),
		cmocka_unit_test(bounds_one_request),
		cmocka_unit_test(a_broken_ring_needs_a_reset),
		cmocka_unit_test(keeps_to_its_rate),
		cmocka_unit_test(reads_a_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
