/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the signal handler (signal.c, which cannot include our register names) and fault.c. */
#ifndef GUISE_TRANSLATE_FAULT_H
#define GUISE_TRANSLATE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

int signals_init(void); /* 0/-errno */
/* A fault at host address *rip with these host flags: where to go on, and what rcx must be. False: not ours. */
bool fault_redirect(uint64_t *rip, uint64_t *rcx, uint64_t flags);

#endif
