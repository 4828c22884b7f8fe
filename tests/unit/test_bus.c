/* SPDX-License-Identifier: BSD-2-Clause */
/* The bus: who gets which access, overlaps, unclaimed addresses, borders. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "bus/bus.h"

struct probe {
	uint64_t offset, value, answer;
	unsigned size, reads, writes;
};

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned size)
{
	struct probe *p = opaque;

	p->offset = offset;
	p->size = size;
	p->reads++;
	return p->answer;
}

static void probe_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct probe *p = opaque;

	p->offset = offset;
	p->size = size;
	p->value = value;
	p->writes++;
}

static const struct bus_ops probe_ops = {probe_read, probe_write};

static void routes_to_the_right_range(void **state)
{
	struct probe a = {.answer = 0x1122334455667788}, b = {.answer = 0xaa};
	struct bus *bus;
	uint64_t data = 0;

	assert_int_equal(bus_new(&bus), 0);
	assert_int_equal(bus_add(bus, BUS_MMIO, 0xfe000000, 0x1000, &probe_ops, &a, "a"), 0);
	assert_int_equal(bus_add(bus, BUS_PIO, 0x3f8, 8, &probe_ops, &b, "b"), 0);
	assert_true(bus_access(bus, BUS_MMIO, 0xfe000ff8, 8, false, &data));
	assert_int_equal(data, a.answer);
	assert_int_equal(a.offset, 0xff8);
	data = 0xdeadbeef;
	assert_true(bus_access(bus, BUS_PIO, 0x3fd, 1, true, &data));
	assert_int_equal(b.value, 0xef);
	assert_int_equal(b.offset, 5);
	assert_false(bus_access(bus, BUS_MMIO, 0x3fd, 4, false, &data));
	assert_int_equal((uint32_t)data, UINT32_MAX);
	assert_false(bus_access(bus, BUS_MMIO, 0xfe001000, 4, true, &data));
	bus_del(bus, BUS_MMIO, 0xfe000000);
	assert_false(bus_access(bus, BUS_MMIO, 0xfe000000, 4, true, &data));
	bus_free(bus);
}

static void refuses_overlap_and_nonsense(void **state)
{
	struct probe a = {0};
	struct bus *bus;

	bus_new(&bus);
	assert_int_equal(bus_add(bus, BUS_PIO, 0x100, 16, &probe_ops, &a, "a"), 0);
	assert_int_equal(bus_add(bus, BUS_PIO, 0x10f, 1, &probe_ops, &a, "b"), -EEXIST);
	assert_int_equal(bus_add(bus, BUS_PIO, 0xf0, 17, &probe_ops, &a, "b"), -EEXIST);
	assert_int_equal(bus_add(bus, BUS_PIO, 0xf0, 0x100, &probe_ops, &a, "b"), -EEXIST);
	assert_int_equal(bus_add(bus, BUS_PIO, 0xf0, 16, &probe_ops, &a, "b"), 0);
	assert_int_equal(bus_add(bus, BUS_PIO, 0x110, 16, &probe_ops, &a, "c"), 0);
	assert_int_equal(bus_add(bus, BUS_PIO, 0xfff0, 17, &probe_ops, &a, "d"), -EINVAL);
	assert_int_equal(bus_add(bus, BUS_PIO, 0, 0, &probe_ops, &a, "d"), -EINVAL);
	assert_int_equal(bus_add(bus, BUS_MMIO, UINT64_MAX, 2, &probe_ops, &a, "d"), -EINVAL);
	assert_int_equal(bus_add(bus, BUS_MMIO, UINT64_MAX, 1, &probe_ops, &a, "d"), 0);
	bus_free(bus);
}

static void splits_what_crosses_a_border(void **state)
{
	struct probe a = {.answer = 0x11}, b = {.answer = 0x22};
	struct bus *bus;
	uint32_t data = 0;

	bus_new(&bus);
	bus_add(bus, BUS_PIO, 0x100, 2, &probe_ops, &a, "a");
	bus_add(bus, BUS_PIO, 0x102, 1, &probe_ops, &b, "b");
	assert_true(bus_access(bus, BUS_PIO, 0x100, 4, false, &data));
	assert_int_equal(data, 0xff221111);
	assert_int_equal(a.reads, 2);
	assert_int_equal(b.reads, 1);
	bus_free(bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(routes_to_the_right_range),
		cmocka_unit_test(refuses_overlap_and_nonsense),
		cmocka_unit_test(splits_what_crosses_a_border),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
