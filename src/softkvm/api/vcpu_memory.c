/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where a vCPU is: above SIGNAL_ROOM, with a page below that which faults.
 */
#include <stddef.h>
#include <sys/mman.h>

#include "softkvm/vcpu.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else /* leak checkers look for pointers in the heap: what only a vCPU points to is no leak */
#define __lsan_register_root_region(p, size)
#define __lsan_unregister_root_region(p, size)
#endif

enum { BELOW = PAGE_SIZE + SIGNAL_ROOM, SIZE = BELOW + sizeof(struct vcpu) };

struct vcpu *vcpu_memory_new(void)
{
	uint8_t *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	if (mprotect(memory, PAGE_SIZE, PROT_NONE)) {
		munmap(memory, SIZE);
		return NULL;
	}
	__lsan_register_root_region(memory + BELOW, sizeof(struct vcpu));
	return (struct vcpu *)(memory + BELOW);
}

void vcpu_memory_free(struct vcpu *v)
{
	__lsan_unregister_root_region(v, sizeof(*v));
	munmap((uint8_t *)v - BELOW, SIZE);
}
