/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The thread "guise-timer", one per VM: kicks running vCPUs whose local APIC timer is due, and drives the PIT.
 */
#ifndef GUISE_SOFTKVM_IRQCHIP_TIMER_H
#define GUISE_SOFTKVM_IRQCHIP_TIMER_H

#include "softkvm/vm.h"

int timers_new(struct vm *vm); /* starts the thread; 0/-errno */
void timers_free(struct vm *vm);
/* An alarm (lapic.alarm_ns, the PIT's) was set to deadline_ns: makes the thread look at it in time. Any thread. */
void timers_alarm(struct vm *vm, uint64_t deadline_ns);

#endif
