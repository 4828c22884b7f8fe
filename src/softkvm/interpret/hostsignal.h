/* SPDX-License-Identifier: BSD-2-Clause */
/* SIGFPE of stubs (hoststub.c). Without x86/arch.h, whose register names collide with <ucontext.h>'s. */
#ifndef GUISE_INTERPRET_HOSTSIGNAL_H
#define GUISE_INTERPRET_HOSTSIGNAL_H

#include <stdint.h>

/*
 * If `rip` is the instruction of a stub that this thread runs and that may raise SIGFPE, notes the fault and
 * returns where to continue; else 0. For SIGFPE handlers.
 */
uint64_t stub_resume(uint64_t rip);

/* Installs a SIGFPE handler that does just that, and passes other SIGFPEs on. Again is harmless. */
void hostsignal_install(void);

#endif
