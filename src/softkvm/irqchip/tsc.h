/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host's clocks as softkvm uses them: the TSC, its frequency, and CLOCK_MONOTONIC in nanoseconds.
 */
#ifndef GUISE_SOFTKVM_IRQCHIP_TSC_H
#define GUISE_SOFTKVM_IRQCHIP_TSC_H

#include <stdint.h>
#include <time.h>

/* The host's TSC frequency in kHz: measured once against CLOCK_MONOTONIC_RAW. Any thread. */
uint32_t host_tsc_khz(void);

static inline uint64_t host_tsc(void)
{
	return __builtin_ia32_rdtsc();
}

static inline uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* value * numerator / denominator without overflow in between. */
static inline uint64_t muldiv64(uint64_t value, uint64_t numerator, uint64_t denominator)
{
	return (uint64_t)((unsigned __int128)value * numerator / denominator);
}

#endif
