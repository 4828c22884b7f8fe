/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory slots: look-up, borders, changes, dirty pages, RAM backing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "memory/memory.h"

static uint8_t pages[16 * PAGE_SIZE] __attribute__((aligned(4096)));

static struct mem_slot slot_of(uint32_t id, gpa_t gpa, unsigned first_page, unsigned n_pages, uint32_t flags)
{
	return (struct mem_slot){.id = id, .gpa = gpa, .size = n_pages * PAGE_SIZE,
				 .hva = pages + first_page * PAGE_SIZE, .flags = flags, .fd = -1};
}

static int set(struct memory *mem, struct mem_slot slot)
{
	return memory_set_slot(mem, &slot);
}

static void finds_only_whole_ranges(void **state)
{
	struct memory mem;

	memory_init(&mem);
	assert_null(mem_at(&mem, 0, 1, MEM_READ));
	assert_int_equal(set(&mem, slot_of(1, 0x10000, 4, 2, 0)), 0);
	assert_int_equal(set(&mem, slot_of(0, 0, 0, 4, 0)), 0);
	assert_ptr_equal(mem_at(&mem, 0, 4 * PAGE_SIZE, MEM_READ), pages);
	assert_null(mem_at(&mem, 0, 4 * PAGE_SIZE + 1, MEM_READ));
	assert_null(mem_at(&mem, 0x3fff, 2, MEM_READ));
	assert_null(mem_at(&mem, 0, 0, MEM_READ));
	assert_null(mem_at(&mem, 0x3000, UINT64_MAX, MEM_READ));
	assert_ptr_equal(mem_at(&mem, 0x11fff, 1, MEM_WRITE), pages + 6 * PAGE_SIZE - 1);
	assert_null(mem_at(&mem, 0x12000, 1, MEM_READ));
	assert_null(mem_at(&mem, UINT64_MAX, 1, MEM_READ));
	assert_int_equal(memory_find(&mem, 0x10000)->id, 1);
	memory_deinit(&mem);
}

static void refuses_bad_slots(void **state)
{
	struct memory mem;
	struct mem_slot wrap = slot_of(7, ~0xfffull, 0, 2, 0);

	memory_init(&mem);
	assert_int_equal(set(&mem, slot_of(0, 0, 0, 4, 0)), 0);
	assert_int_equal(set(&mem, slot_of(1, 0x3000, 4, 2, 0)), -EEXIST);
	assert_int_equal(set(&mem, slot_of(1, 0x4001, 4, 2, 0)), -EINVAL);
	assert_int_equal(memory_set_slot(&mem, &wrap), -EINVAL);
	assert_int_equal(set(&mem, slot_of(0, 0, 0, 3, 0)), -EINVAL);		  /* size of a live slot */
	assert_int_equal(set(&mem, slot_of(0, 0, 1, 4, 0)), -EINVAL);		  /* backing of a live slot */
	assert_int_equal(set(&mem, slot_of(0, 0, 0, 4, SLOT_READONLY)), -EINVAL); /* likewise */
	assert_int_equal(set(&mem, slot_of(9, 0, 0, 0, 0)), -EINVAL);		  /* removal of none */
	assert_int_equal(set(&mem, slot_of(0, 0x100000, 0, 4, 0)), 0);		  /* a move */
	assert_null(memory_find(&mem, 0));
	assert_non_null(memory_find(&mem, 0x100000));
	assert_int_equal(set(&mem, slot_of(0, 0, 0, 0, 0)), 0);
	assert_null(memory_find(&mem, 0x100000));
	memory_quiesce(&mem);
	memory_deinit(&mem);
}

static void copies_across_slots(void **state)
{
	struct memory mem;
	uint8_t out[64], back[64];

	memory_init(&mem);
	set(&mem, slot_of(0, 0, 0, 1, 0));
	set(&mem, slot_of(1, PAGE_SIZE, 8, 1, 0));
	set(&mem, slot_of(2, 3 * PAGE_SIZE, 9, 1, SLOT_READONLY));
	for (unsigned k = 0; k < sizeof(out); k++)
		out[k] = k + 1;
	assert_int_equal(mem_write(&mem, PAGE_SIZE - 32, out, sizeof(out)), 0);
	assert_memory_equal(pages + PAGE_SIZE - 32, out, 32);
	assert_memory_equal(pages + 8 * PAGE_SIZE, out + 32, 32);
	assert_int_equal(mem_read(&mem, PAGE_SIZE - 32, back, sizeof(back)), 0);
	assert_memory_equal(out, back, sizeof(out));
	assert_int_equal(mem_write(&mem, 2 * PAGE_SIZE - 8, out, 64), -EFAULT);
	assert_int_equal(mem_write(&mem, 3 * PAGE_SIZE, out, 1), -EFAULT);
	assert_int_equal(mem_read(&mem, 3 * PAGE_SIZE, out, 1), 0);
	memory_deinit(&mem);
}

static void logs_dirty_pages(void **state)
{
	struct memory mem;
	struct mem_slot *slot;

	memory_init(&mem);
	set(&mem, slot_of(0, 0, 0, 8, 0));
	assert_null(memory_find(&mem, 0)->dirty);
	set(&mem, slot_of(0, 0, 0, 8, SLOT_LOG_DIRTY));
	slot = memory_find(&mem, 0);
	assert_non_null(mem_at(&mem, 0x1000, 1, MEM_READ));
	assert_int_equal(slot->dirty[0], 0);
	assert_non_null(mem_at(&mem, 0x2fff, 2, MEM_WRITE));
	assert_int_equal(slot->dirty[0], 0xc);
	set(&mem, slot_of(0, 0x40000, 0, 8, SLOT_LOG_DIRTY)); /* a move keeps the log */
	assert_int_equal(memory_find(&mem, 0x40000)->dirty[0], 0xc);
	set(&mem, slot_of(0, 0x40000, 0, 8, 0));
	assert_null(memory_find(&mem, 0x40000)->dirty);
	memory_quiesce(&mem);
	assert_non_null(mem_at(&mem, 0x40000, 1, MEM_WRITE));
	memory_deinit(&mem);
}

static void ram_is_shared_and_zero(void **state)
{
	uint8_t *hva;
	int fd;

	assert_int_equal(ram_alloc("test-ram", 0, NULL, false, &hva, &fd), -EINVAL);
	assert_int_equal(ram_alloc("test-ram", 100, NULL, false, &hva, &fd), -EINVAL);
	assert_int_equal(ram_alloc("test-ram", 4096, "/no/such/place", false, &hva, &fd), -ENOENT);
	for (int populate = 0; populate < 2; populate++) {
		assert_int_equal(ram_alloc("test-ram", 1 << 20, NULL, populate, &hva, &fd), 0);
		assert_int_equal(hva[0] | hva[(1 << 20) - 1], 0);
		assert_true(fd >= 0);
		hva[4096] = 1;
		ram_free(hva, 1 << 20, fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_only_whole_ranges), cmocka_unit_test(refuses_bad_slots),
		cmocka_unit_test(copies_across_slots),	   cmocka_unit_test(logs_dirty_pages),
		cmocka_unit_test(ram_is_shared_and_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
