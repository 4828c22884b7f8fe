/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where a vCPU is: on a huge page, between SIGNAL_ROOM, with memory below that which faults, and the engine's table.
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

/* The first huge page is the one that faults. */
enum { SIZE = 2 * HUGE_PAGE, BELOW = HUGE_PAGE + SIGNAL_ROOM };

struct vcpu *vcpu_memory_new(void)
{
	uint8_t *memory = backing_new(SIZE);

	if (!memory)
		return NULL;
	if (mprotect(memory, HUGE_PAGE, PROT_NONE)) {
		backing_free(memory, SIZE);
		return NULL;
	}
	__lsan_register_root_region(memory + BELOW, sizeof(struct vcpu));
	return (struct vcpu *)(memory + BELOW);
}

void vcpu_memory_free(struct vcpu *v)
{
	__lsan_unregister_root_region(v, sizeof(*v));
	backing_free((uint8_t *)v - BELOW, SIZE);
}
