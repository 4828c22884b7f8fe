/* SPDX-License-Identifier: BSD-2-Clause */
/* Any bytes as a kernel file: loaded or refused with a sentence, never outside guest memory or the file. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "machine/boot.h"

enum { RAM_SIZE = 64 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t *ram;
	static struct memory mem;
	struct boot_message message;
	struct kernel kernel;
	int err;

	if (!ram) {
		struct mem_slot slot = {.size = RAM_SIZE, .fd = -1};

		ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		slot.hva = ram;
		memory_init(&mem);
		if (ram == MAP_FAILED || memory_set_slot(&mem, &slot))
			abort();
	}
	err = kernel_load(&mem, (struct span){data, size}, RAM_SIZE, &kernel, &message);
	if (err && !message.text[0])
		abort();
	if (!err && (kernel.start >= kernel.end || kernel.end > RAM_SIZE))
		abort();
	return 0;
}
