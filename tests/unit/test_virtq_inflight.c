/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inflight notes: a device half dies with chains in its hands, and its successor returns every one of them, once, and in
 * order. Also by kill -9 at any instant, on rings of both formats, and with notes that somebody scribbled over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "virtio/virtq_inflight.h"

enum { RAM = 1 << 20, DESC = 0, DRIVER = 0x8000, DEVICE = 0xa000, DATA = 0x20000, REGION = 0xc0000, SIZE = 16, MAX_HELD = SIZE };

struct bench {
	uint8_t *ram; /* shared with children */
	struct memory mem;
	struct virtq_config config;
	struct virtq_driver driver;
	struct virtq q;
	struct virtq_inflight notes;
};

static void open_device(struct bench *b, uint32_t base)
{
	assert_int_equal(virtq_start(&b->q, &b->mem, &b->config, base), 0);
	assert_int_equal(virtq_inflight_start(&b->notes, &b->q, b->ram + REGION), 0);
}

static void bench_init(struct bench *b, unsigned options)
{
	memset(b, 0, sizeof(*b));
	b->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(b->ram, MAP_FAILED);
	memory_init(&b->mem);
	assert_int_equal(memory_set_slot(&b->mem, &(struct mem_slot){ .size = RAM, .hva = b->ram, .fd = -1 }), 0);
	b->config = (struct virtq_config){ .size = SIZE, .options = options, .desc = DESC, .driver = DRIVER, .device = DEVICE };
	assert_int_equal(virtq_driver_start(&b->driver, &b->mem, &b->config), 0);
	virtq_driver_disable_calls(&b->driver);
}

static void bench_deinit(struct bench *b)
{
	virtq_driver_stop(&b->driver);
	memory_deinit(&b->mem);
	munmap(b->ram, RAM);
}

/* Chain number n: its first buffer says so. `segments` readable ones and a writable one. */
static bool add(struct bench *b, uint32_t n, unsigned segments)
{
	struct virtq_segment seg[5];
	gpa_t at = DATA + n % 64 * 0x100;

	for (unsigned k = 0; k <= segments; k++)
		seg[k] = (struct virtq_segment){ at + k * 16, 16 };
	if (virtq_driver_add(&b->driver, seg, segments, 1, (void *)(uintptr_t)(n + 1)))
		return false;
	memcpy(b->ram + at, &n, sizeof(n));
	return true;
}

static int pop(struct bench *b, struct virtq_chain *chain, struct iovec *iov, uint32_t *n)
{
	int popped;

	*chain = (struct virtq_chain){ .iov = iov, .capacity = 8 };
	popped = virtq_pop(&b->q, chain);
	if (popped > 0)
		memcpy(n, chain->iov[0].iov_base, sizeof(*n));
	return popped;
}

static void held_chains_come_back(struct bench *b, unsigned options)
{
	struct virtq_chain chain[4];
	struct iovec iov[4][8];
	uint32_t n, written;

	bench_init(b, options);
	open_device(b, virtq_fresh_base(options));
	for (uint32_t lap = 0; lap < 20; lap++) {
		uint32_t first = lap * 4;

		for (uint32_t k = 0; k < 4; k++) {
			assert_true(add(b, first + k, 1 + k % 3));
			assert_int_equal(pop(b, &chain[k], iov[k], &n), 1);
			assert_int_equal(n, first + k);
		}
		/* The third is returned, out of order; then the device dies, and another takes over. */
		virtq_push(&b->q, &chain[2], 16);
		virtq_inflight_stop(&b->notes, &b->q);
		open_device(b, virtq_fresh_base(options));
		assert_int_equal(b->notes.n_resubmit, 3);
		for (uint32_t k = 0; k < 4; k++) {
			if (k == 2)
				continue;
			assert_int_equal(pop(b, &chain[k], iov[k], &n), 1);
			assert_int_equal(n, first + k);
			assert_int_equal(chain[k].readable, 1 + k % 3);
			assert_int_equal(chain[k].writable, 1);
		}
		assert_int_equal(pop(b, &(struct virtq_chain){ 0 }, iov[2], &n), 0);
		virtq_push(&b->q, &chain[3], 16);
		virtq_push(&b->q, &chain[0], 16);
		virtq_push(&b->q, &chain[1], 16);
		for (uint32_t k = 0; k < 4; k++) {
			static const uint32_t order[4] = { 2, 3, 0, 1 };

			assert_int_equal((uintptr_t)virtq_driver_take(&b->driver, &written), first + order[k] + 1);
			assert_int_equal(b->driver.error, VIRTQ_OK);
		}
	}
	virtq_inflight_stop(&b->notes, &b->q);
	bench_deinit(b);
}

static void split_chains_come_back(void **state)
{
	struct bench b;

	held_chains_come_back(&b, 0);
}

static void packed_chains_come_back(void **state)
{
	struct bench b;

	held_chains_come_back(&b, VIRTQ_PACKED);
}

/* A child: pops and pushes, out of order, until it is killed. */
static void __attribute__((noreturn)) serve_until_killed(struct bench *b, unsigned seed)
{
	struct virtq_chain chain[MAX_HELD];
	struct iovec iov[MAX_HELD][8];
	bool held[MAX_HELD] = { 0 };
	uint32_t n;

	if (virtq_start(&b->q, &b->mem, &b->config, virtq_fresh_base(b->config.options)) ||
	    virtq_inflight_start(&b->notes, &b->q, b->ram + REGION))
		_exit(1);
	for (;;) {
		unsigned k = (unsigned)rand_r(&seed) % MAX_HELD;

		if (held[k]) {
			virtq_push(&b->q, &chain[k], 16);
			held[k] = false;
		} else {
			int popped = pop(b, &chain[k], iov[k], &n);

			if (popped < 0)
				_exit(100 + (int)b->q.error);
			if (!popped)
				sched_yield();
			held[k] = popped;
		}
	}
}

/* With a batch of its own for each: every chain comes back once (a second time, or another's, is the driver half's error). */
static void survives_kills(unsigned options)
{
	enum { KILLS = 150 };
	struct bench b;
	uint32_t added = 0, taken = 0, written;
	unsigned seed = 1;

	bench_init(&b, options);
	for (unsigned kill_number = 0; kill_number < KILLS; kill_number++) {
		pid_t child = fork();
		uint32_t target = taken + (unsigned)rand_r(&seed) % 100;
		int status;

		assert_true(child >= 0);
		if (!child)
			serve_until_killed(&b, kill_number);
		while (taken < target) {
			while (add(&b, added, 1 + (unsigned)rand_r(&seed) % 3))
				added++;
			while (virtq_driver_take(&b.driver, &written))
				taken++;
			assert_int_equal(b.driver.error, VIRTQ_OK);
			sched_yield();
			if (waitpid(child, &status, WNOHANG))
				fail_msg("device ended with status 0x%x", status);
		}
		assert_int_equal(kill(child, SIGKILL), 0);
		assert_int_equal(waitpid(child, &status, 0), child);
	}
	/* What the last one held is still there to be returned. */
	open_device(&b, virtq_fresh_base(options));
	while (taken < added) {
		struct virtq_chain chain;
		struct iovec iov[8];
		uint32_t n;

		if (pop(&b, &chain, iov, &n) > 0)
			virtq_push(&b.q, &chain, 16);
		else if (!virtq_driver_take(&b.driver, &written))
			fail_msg("%u of %u chains are lost", added - taken, added);
		else
			taken++;
		assert_int_equal(b.driver.error, VIRTQ_OK);
	}
	virtq_inflight_stop(&b.notes, &b.q);
	bench_deinit(&b);
}

static void split_survives_kills(void **state)
{
	survives_kills(0);
}

static void packed_survives_kills(void **state)
{
	survives_kills(VIRTQ_PACKED);
}

/* Whatever the notes say, they are refused or lead to chains within memory, and not to more than the ring has. */
static void scribbled_notes(void **state)
{
	unsigned seed = 7;

	for (unsigned round = 0; round < 4000; round++) {
		unsigned options = round & 1 ? VIRTQ_PACKED : 0;
		uint64_t bytes = virtq_inflight_bytes(SIZE, options);
		struct virtq_chain chain;
		struct iovec iov[8];
		struct bench b;
		uint32_t n;
		int popped = 1;

		bench_init(&b, options);
		open_device(&b, virtq_fresh_base(options));
		for (uint32_t k = 0; k < 4; k++) {
			add(&b, k, 1);
			pop(&b, &chain, iov, &n);
		}
		virtq_inflight_stop(&b.notes, &b.q);
		for (unsigned k = (unsigned)rand_r(&seed) % 8; k < 8; k++)
			b.ram[REGION + (uint64_t)rand_r(&seed) % bytes] = (uint8_t)rand_r(&seed);
		if (!virtq_start(&b.q, &b.mem, &b.config, virtq_fresh_base(options)) &&
		    !virtq_inflight_start(&b.notes, &b.q, b.ram + REGION)) {
			for (unsigned k = 0; k < 3 * SIZE && popped > 0; k++) {
				popped = pop(&b, &chain, iov, &n);
				if (popped > 0)
					virtq_push(&b.q, &chain, 0);
			}
			virtq_inflight_stop(&b.notes, &b.q);
		}
		bench_deinit(&b);
	}
}

static void notes_for_another_queue(void **state)
{
	struct bench b;

	bench_init(&b, 0);
	open_device(&b, 0);
	virtq_inflight_stop(&b.notes, &b.q);
	b.config.size = SIZE / 2;
	assert_int_equal(virtq_start(&b.q, &b.mem, &b.config, 0), 0);
	assert_int_equal(virtq_inflight_start(&b.notes, &b.q, b.ram + REGION), -EPROTO);
	assert_null(b.q.inflight);
	bench_deinit(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(split_chains_come_back), cmocka_unit_test(packed_chains_come_back),
		cmocka_unit_test(split_survives_kills),	  cmocka_unit_test(packed_survives_kills),
		cmocka_unit_test(scribbled_notes),	  cmocka_unit_test(notes_for_another_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
