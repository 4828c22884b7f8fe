/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM_SET_SIGNAL_MASK: the thread's signal mask inside KVM_RUN.
 */
#ifndef GUISE_SOFTKVM_API_RUN_MASK_H
#define GUISE_SOFTKVM_API_RUN_MASK_H

#include <stdbool.h>
#include <stdint.h>

struct run_mask;

/* blocked: the kernel's form, bit n-1 for signal n. NULL: no memory. free() it. */
struct run_mask *run_mask_new(uint64_t blocked);
/*
 * Unblock, on the calling thread and once, the signals by which host faults of guest instructions come: a VMM's vCPU
 * threads often block every signal.
 */
void run_mask_allow_engine_signals(void);
/* Is a signal pending that the mask lets through? Then KVM_RUN does not begin. */
bool run_mask_signal_waits(const struct run_mask *mask);
/* Put it in force on the calling thread, and the thread's own back. */
void run_mask_enter(struct run_mask *mask);
void run_mask_leave(struct run_mask *mask);
/* While it is in force: is the signal blocked by the thread's own mask? Async-signal-safe. */
bool run_mask_blocks_outside(const struct run_mask *mask, int number);

#endif
