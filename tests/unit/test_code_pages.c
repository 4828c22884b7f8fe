/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Code pages between threads: one vCPU stores a counter into a page by its TLB, another "decodes" that page again and
 * again. What was decoded must never be taken for valid once a newer store has completed; and two vCPUs that watch
 * pages which the other writes must not wait for each other for ever.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "softkvm/api/kick.h"

enum { WORD = HARNESS_DATA + 0x100, OTHER_PAGE = HARNESS_DATA + 0x1000, ROUNDS = 20000 };

static struct harness h;
static struct vcpu *second;
static _Atomic uint64_t published;
static _Atomic bool stop;

/* A second vCPU of the harness's VM, in the same mode. */
static struct vcpu *add_vcpu(void)
{
	struct vcpu *v = vcpu_memory_new();

	memcpy(v, h.v, sizeof(*v));
	v->mmu = NULL;
	v->index = 1;
	assert_int_equal(mmu_init(v), 0);
	h.vm.vcpu[1] = v;
	h.vm.vcpu_count = 2;
	return v;
}

static int setup(void **state)
{
	int err = harness_new(&h, HARNESS_LONG64);

	second = add_vcpu();
	published = 0;
	stop = false;
	return err;
}

static int teardown(void **state)
{
	mmu_deinit(second);
	vcpu_memory_free(second);
	harness_free(&h);
	return 0;
}

/* An instruction boundary, as the run loop's. */
static void boundary(struct vcpu *v)
{
	vcpu_go_on(v);
	if (vcpu_take_requests(v) & VREQ_TLB_WRITE)
		mmu_flush_writes(v);
}

static void *writer(void *opaque)
{
	struct vcpu *v = opaque;

	vcpu_enter(v);
	for (uint64_t n = 1; !atomic_load(&stop); n++) {
		boundary(v);
		mmu_write(v, WORD, 8, n);
		atomic_store(&published, n);
	}
	vcpu_exit(v);
	return NULL;
}

static void test_no_stale_code(void **state)
{
	unsigned stale = 0, kept = 0;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, writer, second), 0);
	vcpu_enter(h.v);
	for (int round = 0; round < ROUNDS; round++) {
		struct code_page *page;
		uint32_t generation;
		uint64_t decoded, newest;

		boundary(h.v);
		page = code_page_watch(h.v, WORD, 8, &generation);
		decoded = __atomic_load_n((uint64_t *)(h.ram + WORD), __ATOMIC_ACQUIRE);
		newest = atomic_load(&published);
		if (page->generation == generation) {
			kept++;
			stale += decoded < newest;
		}
	}
	vcpu_exit(h.v);
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(stale, 0);
	assert_true(kept > 0);
}

struct crossing {
	struct vcpu *v;
	gpa_t watch, write;
};

static void *watch_and_write(void *opaque)
{
	struct crossing *c = opaque;
	uint32_t generation;

	vcpu_enter(c->v);
	for (int round = 0; round < ROUNDS; round++) {
		boundary(c->v);
		code_page_watch(c->v, c->watch, 8 * 64, &generation);
		for (int k = 0; k < 40; k++) /* enough for the page to become data now and then */
			mmu_write(c->v, c->write + k % 8 * 64, 8, round);
	}
	vcpu_exit(c->v);
	return NULL;
}

static void test_watchers_serve_each_other(void **state)
{
	struct crossing one = {h.v, WORD, OTHER_PAGE}, two = {second, OTHER_PAGE, WORD};
	pthread_t thread[2];

	assert_int_equal(pthread_create(&thread[0], NULL, watch_and_write, &one), 0);
	assert_int_equal(pthread_create(&thread[1], NULL, watch_and_write, &two), 0);
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	assert_int_equal(*(uint64_t *)(h.ram + WORD), ROUNDS - 1);
}

/* A thread outside KVM_RUN has all write entries dropped: the next store is seen by the dirty log. */
static void test_dirty_log(void **state)
{
	struct mem_slot slot = *memory_find(&h.vm.mem, 0);
	pthread_t thread;

	slot.flags |= SLOT_LOG_DIRTY;
	assert_int_equal(memory_set_slot(&h.vm.mem, &slot), 0);
	mmu_flush_all(second);
	assert_int_equal(pthread_create(&thread, NULL, writer, second), 0);
	for (int round = 0; round < 200; round++) {
		struct mem_slot *live = memory_find(&h.vm.mem, 0);
		uint64_t seen;

		__atomic_fetch_and(&live->dirty[WORD >> 12 >> 6], ~(1ull << ((WORD >> 12) & 63)), __ATOMIC_SEQ_CST);
		mmu_shootdown_writes(&h.vm, NULL);
		seen = atomic_load(&published);
		while (atomic_load(&published) < seen + 2)
			;
		assert_true(__atomic_load_n(&live->dirty[WORD >> 12 >> 6], __ATOMIC_SEQ_CST) >> ((WORD >> 12) & 63) & 1);
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(test_no_stale_code),
		TEST(test_watchers_serve_each_other),
		TEST(test_dirty_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
