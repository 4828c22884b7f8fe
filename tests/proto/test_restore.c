/* SPDX-License-Identifier: BSD-2-Clause */
/* What a ring says of itself after its device died: the device half that did not die knows the answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vhost/restore.h"

enum { RAM = 1 << 20, SIZE = 8, STEPS = 4000, BUFFER = 64 };

struct rig {
	struct memory mem;
	uint8_t *ram;
	struct virtq_config config;
	struct virtq_driver driver;
	struct virtq device;
	uint16_t last_id; /* of the last list that was used */
	unsigned compared;
};

static void build(struct rig *r, unsigned options)
{
	struct mem_slot slot = {.size = RAM, .fd = -1};

	memset(r, 0, sizeof(*r));
	r->ram = aligned_alloc(4096, RAM);
	memset(r->ram, 0, RAM);
	slot.hva = r->ram;
	memory_init(&r->mem);
	assert_int_equal(memory_set_slot(&r->mem, &slot), 0);
	r->config = (struct virtq_config){
		.size = SIZE, .options = options, .desc = 0x1000, .driver = 0x2000, .device = 0x3000};
	assert_int_equal(virtq_driver_start(&r->driver, &r->mem, &r->config), 0);
	assert_int_equal(virtq_start(&r->device, &r->mem, &r->config, virtq_fresh_base(options)), 0);
}

static void end(struct rig *r)
{
	virtq_driver_stop(&r->driver);
	memory_deinit(&r->mem);
	free(r->ram);
}

static uint32_t restored(struct rig *r)
{
	return vhost_restore_base(&r->config, r->ram + r->config.desc, r->ram + r->config.driver,
				  r->ram + r->config.device);
}

static void add(struct rig *r, unsigned n)
{
	struct virtq_segment segment[SIZE];

	for (unsigned k = 0; k < n; k++)
		segment[k] = (struct virtq_segment){0x8000 + k * BUFFER, BUFFER};
	virtq_driver_add(&r->driver, segment, n, 0, r);
}

static void serve(struct rig *r, bool push)
{
	struct iovec iov[SIZE];
	struct virtq_chain chain = {.iov = iov, .capacity = SIZE};

	if (virtq_pop(&r->device, &chain) <= 0)
		return;
	if (!push) {
		virtq_unpop(&r->device, &chain);
		return;
	}
	virtq_push(&r->device, &chain, 0);
	r->last_id = chain.id;
}

/* Random traffic in which everything that the device takes is used at once: where it stands is known at every
 * step. */
static void run(unsigned options, unsigned longest)
{
	struct rig r;
	uint32_t written;

	build(&r, options);
	srand(options + longest);
	for (unsigned step = 0; step < STEPS; step++) {
		uint32_t here;

		switch (rand() % 4) {
		case 0:
		case 1:
			add(&r, 1 + (unsigned)rand() % longest);
			break;
		case 2:
			serve(&r, rand() % 4);
			break;
		case 3:
			while (rand() % 3 && virtq_driver_take(&r.driver, &written))
				continue;
			break;
		}
		here = virtq_stop(&r.device);
		assert_int_equal(restored(&r), here);
	}
	end(&r);
}

static void split(void **state)
{
	run(0, 3);
	run(VIRTQ_EVENT_IDX, 1);
}

static void packed(void **state)
{
	run(VIRTQ_PACKED | VIRTQ_INDIRECT, 1);
	run(VIRTQ_PACKED | VIRTQ_INDIRECT | VIRTQ_EVENT_IDX, 1);
}

/*
 * Without INDIRECT nobody can tell when the oldest outstanding list has the id of the last used one, or when
 * the full ring has no used entry left.
 */
static bool is_ambiguous(struct rig *r)
{
	const struct vring_packed_desc *ring = (const void *)(r->ram + r->config.desc);
	uint32_t at = virtq_stop(&r->device) >> 16 & 0x7fff, pending = 0;

	for (unsigned k = 0; k < SIZE; k++)
		pending += (ring[k].flags >> 7 & 1) != (ring[k].flags >> 15 & 1);
	if (pending == SIZE)
		return true;
	while (ring[at].flags & VRING_DESC_F_NEXT)
		at = (at + 1) % SIZE;
	return ring[at].id == r->last_id;
}

static void compare(struct rig *r)
{
	if (!is_ambiguous(r)) {
		assert_int_equal(restored(r), virtq_stop(&r->device));
		r->compared++;
	}
}

/* Lists of several entries, whose rests still look available. */
static void packed_lists(void **state)
{
	struct rig r;
	uint32_t written;

	for (unsigned longest = 1; longest <= 3; longest++) {
		build(&r, VIRTQ_PACKED);
		r.last_id = SIZE;
		srand(longest);
		for (unsigned step = 0; step < STEPS; step++) {
			if (rand() % 2)
				add(&r, 1 + (unsigned)rand() % longest);
			else
				serve(&r, true);
			compare(&r);
			if (rand() % 2)
				virtq_driver_take(&r.driver, &written);
		}
		assert_true(r.compared > STEPS / 4);
		end(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(split),
		cmocka_unit_test(packed),
		cmocka_unit_test(packed_lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
