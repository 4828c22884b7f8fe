/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtqueue against itself: our driver half and our device half on one ring, all formats and options, small rings through many
 * wraps; sleeping sides are woken only by kicks and calls, so a lost notification shows as a standstill. Then rings
 * written by a hostile other side.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "virtio/virtq.h"

enum { RAM = 1 << 16, DESC = 0, DRIVER = 0x2000, DEVICE = 0x3000, TABLES = 0x4000, DATA = 0x8000, SLOT_BORDER = 0xa000 };

static uint8_t ram[RAM] __attribute__((aligned(4096)));
static uint64_t seed;

static unsigned any(unsigned below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(seed >> 33) % below;
}

/* Two slots that meet at SLOT_BORDER, apart in host memory too: buffers across the border have two segments. */
static void set_up(struct memory *mem)
{
	struct mem_slot low = {.id = 0, .gpa = 0, .size = SLOT_BORDER, .hva = ram, .fd = -1};
	struct mem_slot high = {.id = 1, .gpa = SLOT_BORDER, .size = RAM - SLOT_BORDER - 4096, .hva = ram + SLOT_BORDER + 4096, .fd = -1};

	memset(ram, 0, sizeof(ram));
	memory_init(mem);
	assert_int_equal(memory_set_slot(mem, &low), 0);
	assert_int_equal(memory_set_slot(mem, &high), 0);
}

static struct virtq_config config_of(uint32_t size, unsigned options)
{
	return (struct virtq_config){.size = size, .options = options, .desc = DESC, .driver = DRIVER, .device = DEVICE};
}

struct request {
	unsigned readable, writable, written;
	bool outstanding;
};

struct exchange {
	struct memory mem;
	struct virtq device;
	struct virtq_driver driver;
	struct request request[64];
	struct virtq_chain held[64];
	struct iovec iov[64][16];
	unsigned n_held, submitted, completed;
	bool device_sleeps, driver_sleeps, kicked, called;
};

static void drive(struct exchange *x, unsigned total)
{
	uint32_t written;
	struct request *r;

	for (unsigned tries = any(4); tries-- && x->submitted < total;) {
		struct virtq_segment seg[6];
		unsigned slot = 0, count = 1 + any(x->driver.size < 3 ? x->driver.size : 3);

		while (slot < 64 && x->request[slot].outstanding)
			slot++;
		if (slot == 64)
			break;
		r = &x->request[slot];
		*r = (struct request){.readable = any(count + 1)};
		r->writable = count - r->readable;
		for (unsigned k = 0; k < count; k++)
			seg[k] = (struct virtq_segment){SLOT_BORDER - 50 + any(100), 1 + any(64)};
		if (count == 1 && any(2)) {
			if (!virtq_driver_add_burst(&x->driver, seg, (void *[]){r}, 1, r->writable))
				break;
		} else if (virtq_driver_add(&x->driver, seg, r->readable, r->writable, r) == -ENOSPC) {
			break;
		}
		r->outstanding = true;
		x->submitted++;
	}
	if (virtq_driver_should_kick(&x->driver))
		x->kicked = true;
	for (;;) {
		void *token[5];
		uint32_t lengths[5];
		unsigned got;

		if (any(2)) {
			got = virtq_driver_take_burst(&x->driver, token, lengths, 1 + any(5));
		} else {
			token[0] = virtq_driver_take(&x->driver, &written);
			lengths[0] = written;
			got = token[0] != NULL;
		}
		for (unsigned k = 0; k < got; k++) {
			r = token[k];
			assert_true(r->outstanding);
			assert_int_equal(lengths[k], r->written);
			r->outstanding = false;
			x->completed++;
		}
		if (!got)
			break;
	}
	assert_int_equal(x->driver.error, VIRTQ_OK);
	x->driver_sleeps = !virtq_driver_enable_calls(&x->driver);
}

/* Pop up to 4 at once, and now and then take some of them back. */
static void pop_burst(struct exchange *x)
{
	struct virtq_chain *c = &x->held[x->n_held];
	int got;

	if (x->n_held > 60)
		return;
	got = virtq_pop_burst(&x->device, c, 1 + any(4), x->iov[0], 6 + any(10), 6);
	assert_in_range(got, 0, 4);
	for (int k = 0; k < got; k++)
		assert_true(c[k].readable + c[k].writable >= 1);
	if (got && !any(4)) {
		unsigned back = any((unsigned)got + 1);

		got -= (int)back;
		virtq_unpop_burst(&x->device, c + got, back);
	}
	x->n_held += (unsigned)got;
}

/* Return the oldest few at once; if nothing is written to any, they need no lengths. */
static void push_burst(struct exchange *x)
{
	unsigned n = 1 + any(x->n_held);
	uint32_t written[64];
	bool all_zero = !any(3);

	for (unsigned k = 0; k < n; k++) {
		struct request *r = x->driver.state[x->held[k].id].token;
		uint64_t room = x->held[k].writable_bytes;

		/* one entry for a batch in order: the driver takes what is before its end for filled */
		all_zero = all_zero && !room;
		written[k] = room ? any((unsigned)room + 1) : 0;
		r->written = written[k];
	}
	virtq_push_burst(&x->device, x->held, all_zero ? NULL : written, n);
	x->n_held -= n;
	memmove(x->held, x->held + n, x->n_held * sizeof(x->held[0]));
}

static void serve(struct exchange *x, bool in_order)
{
	if (any(2))
		pop_burst(x);
	if (x->n_held && !any(4))
		push_burst(x);
	for (unsigned k = any(4); k-- && x->n_held < 64;) {
		struct virtq_chain *c = &x->held[x->n_held];

		*c = (struct virtq_chain){.iov = x->iov[0], .capacity = 16};
		if (virtq_pop(&x->device, c) != 1)
			break;
		if (!any(8)) {
			virtq_unpop(&x->device, c);
			assert_int_equal(virtq_pop(&x->device, c), 1);
		}
		assert_true(c->readable + c->writable >= 1);
		x->n_held++;
	}
	assert_int_equal(x->device.error, VIRTQ_OK);
	while (x->n_held && any(3)) {
		unsigned pick = in_order ? 0 : any(x->n_held);
		struct virtq_chain c = x->held[pick];
		struct request *r = x->driver.state[c.id].token;
		uint32_t written = c.writable_bytes ? any((unsigned)c.writable_bytes + 1) : 0;

		memmove(&x->held[pick], &x->held[pick + 1], (x->n_held - pick - 1) * sizeof(c));
		x->n_held--;
		assert_non_null(r);
		assert_int_equal(c.writable_bytes != 0, r->writable != 0);
		assert_int_equal(c.readable_bytes != 0, r->readable != 0);
		r->written = written;
		virtq_push(&x->device, &c, written);
	}
	if (virtq_should_call(&x->device))
		x->called = true;
	x->device_sleeps = !virtq_enable_kicks(&x->device);
}

static void exchange(uint32_t size, unsigned options, bool indirect, unsigned total)
{
	static struct exchange x;
	struct virtq_config config = config_of(size, options);
	unsigned idle = 0;

	memset(&x, 0, sizeof(x));
	set_up(&x.mem);
	assert_int_equal(virtq_driver_start(&x.driver, &x.mem, &config), 0);
	if (indirect)
		assert_int_equal(virtq_driver_use_indirect(&x.driver, &x.mem, TABLES, size < 4 ? size : 4), 0);
	assert_int_equal(virtq_start(&x.device, &x.mem, &config, virtq_fresh_base(options)), 0);
	while (x.completed < total) {
		unsigned before = x.completed + x.submitted + x.n_held;
		bool stop_and_go = !any(50);

		/* A side that sleeps runs only when notified; the driver also when it has something new to submit. */
		if (!x.driver_sleeps || x.called || x.submitted < total) {
			x.called = false;
			drive(&x, total);
		}
		if (!x.device_sleeps || x.kicked || x.n_held) {
			x.kicked = false;
			serve(&x, options & VIRTQ_IN_ORDER);
		}
		if (stop_and_go) { /* as a snapshot does: everything popped is pushed first */
			while (x.n_held) {
				struct virtq_chain *c = &x.held[0];
				struct request *r = x.driver.state[c->id].token;

				r->written = 0;
				virtq_push(&x.device, c, 0);
				memmove(c, c + 1, --x.n_held * sizeof(*c));
			}
			x.called |= virtq_should_call(&x.device);
			assert_int_equal(virtq_start(&x.device, &x.mem, &config, virtq_stop(&x.device)), 0);
			x.device_sleeps = false;
		}
		idle = before == x.completed + x.submitted + x.n_held ? idle + 1 : 0;
		if (idle > 1000)
			fail_msg("standstill: size %u options %u after %u of %u", size, options, x.completed, total);
	}
	virtq_driver_stop(&x.driver);
	memory_deinit(&x.mem);
}

static void every_format_and_size(void **state)
{
	for (unsigned options = 0; options < 16; options++)
		for (uint32_t size = 1; size <= 17; size++) {
			if (!(options & VIRTQ_PACKED) && (size & (size - 1)))
				continue;
			seed = options * 100 + size;
			exchange(size, options, false, 3000);
			if (options & VIRTQ_INDIRECT && size > 1)
				exchange(size, options, true, 3000);
		}
	exchange(256, VIRTQ_EVENT_IDX, false, 200000); /* the free-running indices wrap at 65536 */
	exchange(256, VIRTQ_EVENT_IDX | VIRTQ_PACKED, false, 200000);
}

/* A device that completes a batch with one used entry, which IN_ORDER allows. */
static void in_order_batches(void **state)
{
	struct memory mem;
	struct virtq device;
	struct virtq_driver driver;
	struct virtq_config config = config_of(8, VIRTQ_IN_ORDER);
	struct virtq_segment seg = {DATA, 10};
	int token[5];
	uint32_t written;

	set_up(&mem);
	assert_int_equal(virtq_driver_start(&driver, &mem, &config), 0);
	assert_int_equal(virtq_start(&device, &mem, &config, virtq_fresh_base(config.options)), 0);
	for (unsigned k = 0; k < 5; k++)
		assert_int_equal(virtq_driver_add(&driver, &seg, 0, 1, &token[k]), 0);
	driver.used->ring[0].id = 3; /* the head of the fourth */
	driver.used->ring[0].len = 7;
	driver.used->idx = 4;
	for (unsigned k = 0; k < 4; k++) {
		assert_ptr_equal(virtq_driver_take(&driver, &written), &token[k]);
		assert_int_equal(written, k == 3 ? 7 : 10);
	}
	assert_null(virtq_driver_take(&driver, &written));
	assert_int_equal(driver.error, VIRTQ_OK);
	virtq_driver_stop(&driver);
	memory_deinit(&mem);
}

/* A used packed descriptor without WRITE says nothing in its length (2.8.6): devices may leave there what the driver wrote. */
static void packed_used_length(void **state)
{
	struct virtq_segment segment = {DATA, 100};
	struct virtq_driver d;
	struct memory mem;
	uint32_t written = 1;
	void *token;

	for (unsigned burst = 0; burst < 2; burst++) {
		struct virtq_config config = config_of(4, VIRTQ_PACKED);
		struct vring_packed_desc *ring = (void *)(ram + DESC);

		set_up(&mem);
		assert_int_equal(virtq_driver_start(&d, &mem, &config), 0);
		assert_int_equal(virtq_driver_add(&d, &segment, 1, 0, &d), 0);
		ring[0].flags = 1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED;
		if (burst)
			assert_int_equal(virtq_driver_take_burst(&d, &token, &written, 1), 1);
		else
			token = virtq_driver_take(&d, &written);
		assert_ptr_equal(token, &d);
		assert_int_equal(written, 0);
		assert_int_equal(d.error, VIRTQ_OK);
		virtq_driver_stop(&d);
		memory_deinit(&mem);
	}
}

static void refuses_bad_geometry(void **state)
{
	struct memory mem;
	struct virtq q;
	struct virtq_config c;

	set_up(&mem);
	c = config_of(0, 0);
	assert_int_equal(virtq_start(&q, &mem, &c, 0), -EINVAL);
	c = config_of(3, 0);
	assert_int_equal(virtq_start(&q, &mem, &c, 0), -EINVAL);
	c = config_of(VIRTQ_MAX_SIZE + 1, VIRTQ_PACKED);
	assert_int_equal(virtq_start(&q, &mem, &c, 0), -EINVAL);
	c = config_of(4, 0);
	c.desc = 8;
	assert_int_equal(virtq_start(&q, &mem, &c, 0), -EINVAL);
	c = config_of(4, 0);
	c.device = SLOT_BORDER - 8;
	assert_int_equal(virtq_start(&q, &mem, &c, 0), -EFAULT);
	c = config_of(4, 0);
	c.desc = ~0xfull;
	assert_int_equal(virtq_start(&q, &mem, &c, 0), -EFAULT);
	c = config_of(4, VIRTQ_PACKED);
	assert_int_equal(virtq_start(&q, &mem, &c, 4), -EINVAL);
	memory_deinit(&mem);
}

/* A base that the driver has left behind is taken for the used index; one that it could have is not touched. */
static void mends_a_stale_base(void **state)
{
	struct memory mem;
	struct virtq q;
	struct virtq_config c = config_of(4, 0);
	struct vring_avail *avail = (struct vring_avail *)(ram + DRIVER);
	struct vring_used *used = (struct vring_used *)(ram + DEVICE);

	set_up(&mem);
	avail->idx = 1002;
	used->idx = 1000;
	assert_int_equal(virtq_start(&q, &mem, &c, 0), 0);
	assert_true(virtq_mend_base(&q));
	assert_int_equal(virtq_stop(&q), 1000);
	assert_int_equal(virtq_start(&q, &mem, &c, 998), 0);
	assert_false(virtq_mend_base(&q));
	used->idx = 0; /* neither is possible: left to be quarantined */
	assert_int_equal(virtq_start(&q, &mem, &c, 900), 0);
	assert_false(virtq_mend_base(&q));
	memory_deinit(&mem);
}

/* One hostile split ring: descriptors 0..3 as given, head 0 available. The queue must end with this error. */
static void expect_split(unsigned options, const struct vring_desc desc[4], uint16_t head, uint16_t avail_idx, enum virtq_error error)
{
	struct memory mem;
	struct virtq q;
	struct virtq_config config = config_of(4, options);
	struct iovec iov[4];
	struct virtq_chain chain = {.iov = iov, .capacity = 4};

	set_up(&mem);
	memcpy(ram + DESC, desc, 4 * sizeof(*desc));
	memcpy(ram + TABLES, desc + 1, 3 * sizeof(*desc)); /* for indirect heads */
	((struct vring_avail *)(ram + DRIVER))->ring[0] = head;
	((struct vring_avail *)(ram + DRIVER))->idx = avail_idx;
	assert_int_equal(virtq_start(&q, &mem, &config, virtq_fresh_base(config.options)), 0);
	assert_int_equal(virtq_pop(&q, &chain), error ? -EPROTO : 1);
	assert_int_equal(q.error, error);
	if (error) {
		assert_int_equal(q.counters.errors, 1);
		assert_int_equal(virtq_pop(&q, &chain), -EPROTO); /* stays quarantined */
		assert_int_equal(q.counters.errors, 1);
	}
	memory_deinit(&mem);
}

static void hostile_split_rings(void **state)
{
	enum { NEXT = VRING_DESC_F_NEXT, WRITE = VRING_DESC_F_WRITE, INDIRECT = VRING_DESC_F_INDIRECT };
	const unsigned ind = VIRTQ_INDIRECT;

#define RING(...) (const struct vring_desc[4]){__VA_ARGS__}
	expect_split(0, RING({DATA, 16, 0, 0}), 0, 1, VIRTQ_OK);
	expect_split(0, RING({DATA, 16, 0, 0}), 0, 5, VIRTQ_AVAIL_INDEX);
	expect_split(0, RING({DATA, 16, 0, 0}), 4, 1, VIRTQ_HEAD_INDEX);
	expect_split(0, RING({DATA, 16, NEXT, 4}), 0, 1, VIRTQ_HEAD_INDEX);
	expect_split(0, RING({DATA, 16, NEXT, 0}), 0, 1, VIRTQ_CHAIN_TOO_LONG);
	expect_split(0, RING({DATA, 16, NEXT, 1}, {DATA, 1, NEXT, 0}), 0, 1, VIRTQ_CHAIN_TOO_LONG);
	expect_split(0, RING({DATA, 0, 0, 0}), 0, 1, VIRTQ_ZERO_LENGTH);
	expect_split(0, RING({RAM, 16, 0, 0}), 0, 1, VIRTQ_ADDRESS);
	expect_split(0, RING({RAM - 4096 - 8, 16, 0, 0}), 0, 1, VIRTQ_ADDRESS);
	expect_split(0, RING({UINT64_MAX - 3, 16, 0, 0}), 0, 1, VIRTQ_ADDRESS);
	expect_split(0, RING({DATA, 16, WRITE | NEXT, 1}, {DATA, 16, 0, 0}), 0, 1, VIRTQ_READABLE_AFTER_WRITABLE);
	expect_split(0, RING({DATA, 32, INDIRECT, 0}), 0, 1, VIRTQ_INDIRECT_NOT_OFFERED);
	expect_split(ind, RING({TABLES, 32, INDIRECT | NEXT, 1}), 0, 1, VIRTQ_INDIRECT_NESTED);
	expect_split(ind, RING({TABLES, 24, INDIRECT, 0}), 0, 1, VIRTQ_INDIRECT_SIZE);
	expect_split(ind, RING({TABLES, 0, INDIRECT, 0}), 0, 1, VIRTQ_INDIRECT_SIZE);
	expect_split(ind, RING({TABLES, 80, INDIRECT, 0}), 0, 1, VIRTQ_INDIRECT_SIZE);
	expect_split(ind, RING({RAM, 32, INDIRECT, 0}), 0, 1, VIRTQ_ADDRESS);
	expect_split(ind, RING({TABLES, 32, INDIRECT, 0}, {DATA, 8, INDIRECT, 0}), 0, 1, VIRTQ_INDIRECT_NESTED);
	expect_split(ind, RING({TABLES, 32, INDIRECT, 0}, {DATA, 8, NEXT, 2}), 0, 1, VIRTQ_HEAD_INDEX);
	expect_split(ind, RING({TABLES, 32, INDIRECT, 0}, {DATA, 8, NEXT, 0}), 0, 1, VIRTQ_CHAIN_TOO_LONG);
	expect_split(ind, RING({TABLES, 32, INDIRECT | WRITE, 0}, {DATA, 8, NEXT, 1}, {DATA, 8, WRITE, 0}), 0, 1, VIRTQ_OK);
	expect_split(0, RING({SLOT_BORDER - 1, 2, NEXT, 1}, {SLOT_BORDER - 1, 2, NEXT, 2}, {DATA, 1, 0, 0}), 0, 1, VIRTQ_TOO_MANY_SEGMENTS);
#undef RING
}

/* Both halves on rings whose every byte the other side may change at any time: no crash, no hang, bounded chains. */
static void scribbled_rings(void **state)
{
	for (unsigned round = 0; round < 4000; round++) {
		struct memory mem;
		struct virtq q;
		struct virtq_driver d;
		struct iovec iov[8];
		struct virtq_chain chain = {.iov = iov, .capacity = 8};
		struct virtq_segment seg[3] = {{DATA, 10}, {DATA, 20}, {DATA, 30}};
		struct virtq_config config = config_of(1u << any(5), round % 16);
		uint32_t written;

		seed = round;
		set_up(&mem);
		assert_int_equal(virtq_driver_start(&d, &mem, &config), 0);
		assert_int_equal(virtq_start(&q, &mem, &config, virtq_fresh_base(config.options)), 0);
		for (unsigned step = 0; step < 60; step++) {
			uint8_t *part = ram + (const unsigned[]){DESC, DRIVER, DEVICE}[any(3)];

			virtq_driver_add(&d, seg, any(2), 1 + any(2), &seg);
			if (any(2))
				part[any(64)] = (uint8_t)any(any(2) ? 256 : 4);
			if (virtq_pop(&q, &chain) == 1) {
				for (unsigned k = 0; k < chain.readable + chain.writable; k++)
					assert_true(iov[k].iov_base >= (void *)ram && (uint8_t *)iov[k].iov_base + iov[k].iov_len <= ram + RAM);
				virtq_push(&q, &chain, any(100));
			}
			virtq_should_call(&q);
			virtq_enable_kicks(&q);
			virtq_driver_take(&d, &written);
			virtq_driver_should_kick(&d);
			virtq_driver_enable_calls(&d);
		}
		virtq_driver_stop(&d);
		memory_deinit(&mem);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packed_used_length),
		cmocka_unit_test(every_format_and_size), cmocka_unit_test(in_order_batches),
		cmocka_unit_test(refuses_bad_geometry),	 cmocka_unit_test(hostile_split_rings),
		cmocka_unit_test(mends_a_stale_base),
		cmocka_unit_test(scribbled_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
