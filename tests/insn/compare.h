/* SPDX-License-Identifier: BSD-2-Clause */
/* Are two processors' states after the same code the same? */
#ifndef GUISE_TESTS_COMPARE_H
#define GUISE_TESTS_COMPARE_H

#include <stddef.h>

#include "guest.h"

struct results {
	const struct insn *insn; /* the last one executed; NULL: bytes that are no instruction */
	struct cpu_state *native, *emulated;
	const struct outcome *native_outcome, *emulated_outcome;
	bool faulting_flags_loose; /* after a fault, dead flags may differ */
};

/* Compares everything, memory too. False: `what` says the first difference. */
bool compare_results(const struct results *r, char *what, size_t size);

#endif
