/* SPDX-License-Identifier: BSD-2-Clause */
/* Faults of native.c's instructions: see there. */
#ifndef GUISE_TESTS_NATIVE_SIGNAL_H
#define GUISE_TESTS_NATIVE_SIGNAL_H

#include <stdint.h>

struct native_fault {
	int vector;
	uint64_t error, cr2;
};

int native_signal_init(void);
/* Until the next call (with NULL) a fault fills these and continues at native_exit_fault. `fp`: 832 bytes of
 * XSAVE area. */
void native_signal_expect(struct native_fault *fault, uint64_t *gpr, uint64_t *rflags, uint64_t *rip,
			  void *fp);

#endif
