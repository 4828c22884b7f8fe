/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory slots and dirty logs: what KVM_SET_USER_MEMORY_REGION refuses, and which pages a guest's writes mark.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "vm_fixture.h"

/* An address that is not mapped, whatever happens. */
static void *bad_pointer(void)
{
	void *p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void memory_slots(void **state)
{
	struct vm_fixture f;
	uint8_t *ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	const uint32_t log = KVM_MEM_LOG_DIRTY_PAGES, ro = KVM_MEM_READONLY;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(fixture_slot(&f, 1, 0, 0x200000, 0x10000, ram), 0);
	assert_int_equal(fixture_slot(&f, 2, 0, 0x20f000, 0x1000, ram), -EEXIST); /* overlap */
	assert_int_equal(fixture_slot(&f, 2, 0, 0x300001, 0x1000, ram), -EINVAL);
	assert_int_equal(fixture_slot(&f, 2, 0, 0x300000, 0x1001, ram), -EINVAL);
	assert_int_equal(fixture_slot(&f, 2, 0, 0x300000, 0x1000, ram + 1), -EINVAL);
	assert_int_equal(fixture_slot(&f, 2, 0, ~0xfffull, 0x2000, ram), -EINVAL); /* wraps */
	assert_int_equal(fixture_slot(&f, 2, 1u << 20, 0x300000, 0x1000, ram), -EINVAL);
	assert_int_equal(fixture_slot(&f, VM_MAX_SLOTS, 0, 0x300000, 0x1000, ram), -EINVAL);
	assert_int_equal(fixture_slot(&f, 1 << 16, 0, 0x300000, 0x1000, ram), -EINVAL);
	assert_int_equal(fixture_slot(&f, 2, 0, 0x300000, 0x1000, (void *)(1ull << 63)), -EINVAL);
	assert_int_equal(fixture_slot(&f, 2, 0, 0, 0, NULL), -EINVAL); /* nothing to delete */
	assert_int_equal(fixture_slot(&f, 1, 0, 0x200000, 0x8000, ram), -EINVAL); /* no resizing */
	assert_int_equal(fixture_slot(&f, 1, 0, 0x200000, 0x10000, ram + 4096), -EINVAL);
	assert_int_equal(fixture_slot(&f, 1, ro, 0x200000, 0x10000, ram), -EINVAL);
	assert_int_equal(fixture_slot(&f, 1, log, 0x200000, 0x10000, ram), 0);
	assert_int_equal(fixture_slot(&f, 1, log, 0x400000, 0x10000, ram), 0); /* moved */
	assert_int_equal(fixture_slot(&f, 2, 0, 0x200000, 0x10000, ram), 0);
	assert_int_equal(fixture_slot(&f, 1, 0, 0, 0, NULL), 0);
	assert_int_equal(fixture_slot(&f, 2, 0, 0, 0, NULL), 0);
	fixture_close(&f);
	munmap(ram, 0x10000);
}

/* --- dirty logs --- */

static uint64_t dirty(struct vm_fixture *f)
{
	uint64_t bitmap[4] = {0};
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bitmap};

	assert_int_equal(fixture_vm(f, KVM_GET_DIRTY_LOG, &log), 0);
	return bitmap[0];
}

/* Writes to pages 16 and 18, then stops; run again it does the same. */
static void load_writer(struct vm_fixture *f)
{
	LOAD(f, 0x31, 0xc0, 0x8e, 0xd8,		      /* xor ax, ax; mov ds, ax */
	     0xbb, 0x00, 0x10, 0x8e, 0xdb,	      /* mov bx, 1000h; mov ds, bx */
	     0xc6, 0x06, 0x05, 0x00, 0x77,	      /* mov byte [5], 77h: page 16 */
	     0xc6, 0x06, 0x05, 0x20, 0x77,	      /* mov byte [2005h], 77h: page 18 */
	     0xf4, 0xeb, 0xec);			      /* hlt; jmp to the start */
}

static void dirty_log_clears_on_get(void **state)
{
	struct vm_fixture f;
	struct kvm_dirty_log log = {.slot = 0};
	struct kvm_clear_dirty_log clear = {.slot = 0};

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(fixture_vm(&f, KVM_GET_DIRTY_LOG, &log), -ENOENT); /* not logged */
	assert_int_equal(fixture_vm(&f, KVM_CLEAR_DIRTY_LOG, &clear), -ENOENT);
	assert_int_equal(fixture_slot(&f, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, FIXTURE_RAM, f.ram), 0);
	log.slot = 9999;
	assert_int_equal(fixture_vm(&f, KVM_GET_DIRTY_LOG, &log), -EINVAL);
	log.slot = 0;
	log.dirty_bitmap = bad_pointer();
	assert_int_equal(fixture_vm(&f, KVM_GET_DIRTY_LOG, &log), -EFAULT);
	load_writer(&f);
	dirty(&f);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(dirty(&f), 1 << 16 | 1 << 18);
	assert_int_equal(dirty(&f), 0);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT); /* the soft TLB must not hide the second time */
	assert_int_equal(dirty(&f), 1 << 16 | 1 << 18);
	fixture_close(&f);
}

static void dirty_log_clears_by_hand(void **state)
{
	struct vm_fixture f;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {4}};
	uint64_t mask = 1 << 16;
	struct kvm_clear_dirty_log clear = {.slot = 0, .num_pages = 64, .first_page = 0, .dirty_bitmap = &mask};

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &cap), -EINVAL);
	cap.args[0] = KVM_DIRTY_LOG_INITIALLY_SET;
	assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &cap), -EINVAL);
	cap.args[0] |= KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	assert_int_equal(fixture_vm(&f, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(fixture_slot(&f, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, FIXTURE_RAM, f.ram), 0);
	assert_int_equal(dirty(&f), ~0ull);
	mask = ~0ull;
	assert_int_equal(fixture_vm(&f, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	assert_int_equal(dirty(&f), 0);
	load_writer(&f);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(dirty(&f), 1 << 16 | 1 << 18);
	assert_int_equal(dirty(&f), 1 << 16 | 1 << 18); /* reading does not clear */
	mask = 1 << 16;
	assert_int_equal(fixture_vm(&f, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	assert_int_equal(dirty(&f), 1 << 18);
	clear.first_page = 1;
	assert_int_equal(fixture_vm(&f, KVM_CLEAR_DIRTY_LOG, &clear), -EINVAL);
	clear.first_page = 0;
	clear.num_pages = 63;
	assert_int_equal(fixture_vm(&f, KVM_CLEAR_DIRTY_LOG, &clear), -EINVAL);
	clear.num_pages = 1 << 20;
	assert_int_equal(fixture_vm(&f, KVM_CLEAR_DIRTY_LOG, &clear), -EINVAL);
	clear.num_pages = 64;
	clear.first_page = 192;
	assert_int_equal(fixture_vm(&f, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	fixture_close(&f);
}

static void read_only_slot_writes_exit(void **state)
{
	struct vm_fixture f;
	uint8_t *rom = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(fixture_slot(&f, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(fixture_slot(&f, 0, 0, 0, 0xe0000, f.ram), 0);
	assert_int_equal(fixture_slot(&f, 1, KVM_MEM_READONLY, 0xe0000, 0x1000, rom), 0);
	rom[4] = 0x42;
	LOAD(&f, 0xb8, 0x00, 0xe0, 0x8e, 0xd8,	/* mov ax, e000h; mov ds, ax */
	     0xa0, 0x04, 0x00,			/* mov al, [4] */
	     0xa2, 0x05, 0x00,			/* mov [5], al */
	     0xf4);
	assert_int_equal(fixture_run(&f), KVM_EXIT_MMIO);
	assert_int_equal(f.run->mmio.phys_addr, 0xe0005);
	assert_int_equal(f.run->mmio.is_write, 1);
	assert_int_equal(f.run->mmio.len, 1);
	assert_int_equal(f.run->mmio.data[0], 0x42);
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(rom[5], 0);
	fixture_close(&f);
	munmap(rom, 0x1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_slots),
		cmocka_unit_test(dirty_log_clears_on_get),
		cmocka_unit_test(dirty_log_clears_by_hand),
		cmocka_unit_test(read_only_slot_writes_exit),
	};

	return RUN_ON_ENGINES(tests);
}
