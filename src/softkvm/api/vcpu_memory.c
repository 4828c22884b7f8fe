/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where a vCPU is: on a huge page, between SIGNAL_ROOM, with a page below that which faults, and the engine's table.
 */
#include <stddef.h>
#include <sys/mman.h>

#include "memory/backing.h"
#include "softkvm/vcpu.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else /* leak checkers look for pointers in the heap: what only a vCPU points to is no leak */
#define __lsan_register_root_region(p, size)
#define __lsan_unregister_root_region(p, size)
#endif

_Static_assert(SIGNAL_ROOM + ENGINE_TABLE_AT + ENGINE_TABLE_SIZE <= HUGE_PAGE, "one huge page");

/* A huge page's address space with an inaccessible page below. */
static uint8_t *reserve(void)
{
	uint8_t *memory = mmap(NULL, 2 * HUGE_PAGE + PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *page;
	size_t before;

	if (memory == MAP_FAILED)
		return NULL;
	before = -((uintptr_t)memory + PAGE_SIZE) & (HUGE_PAGE - 1);
	page = memory + before + PAGE_SIZE;
	if (before)
		munmap(memory, before);
	if (before < HUGE_PAGE)
		munmap(page + HUGE_PAGE, HUGE_PAGE - before);
	return page;
}

struct vcpu *vcpu_memory_new(void)
{
	uint8_t *page = reserve();

	if (!page)
		return NULL;
	if (mprotect(page, HUGE_PAGE, PROT_READ | PROT_WRITE)) {
		munmap(page - PAGE_SIZE, HUGE_PAGE + PAGE_SIZE);
		return NULL;
	}
	madvise(page, HUGE_PAGE, MADV_HUGEPAGE);
	__lsan_register_root_region(page + SIGNAL_ROOM, sizeof(struct vcpu));
	return (struct vcpu *)(page + SIGNAL_ROOM);
}

void vcpu_memory_free(struct vcpu *v)
{
	__lsan_unregister_root_region(v, sizeof(*v));
	munmap((uint8_t *)v - SIGNAL_ROOM - PAGE_SIZE, HUGE_PAGE + PAGE_SIZE);
}
