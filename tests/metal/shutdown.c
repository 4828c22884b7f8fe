/* SPDX-License-Identifier: BSD-2-Clause */
/* The last thing a processor does: an exception in the delivery of a double fault shuts it down. */
#include "metal.h"

int image_main(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = {0, 0};

	setup_traps();
	put_string("SHUTDOWN expected\n");
	asm volatile("lidt %0; int3" ::"m"(none));
	put_string("FAIL still running\n");
	return 1;
}
