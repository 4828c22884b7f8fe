/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Delivery of exceptions and interrupts at an instruction boundary. vCPU thread, below the run loop's setjmp.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_EVENT_H
#define GUISE_SOFTKVM_INTERPRET_EVENT_H

#include "softkvm/vcpu.h"

/*
 * Deliver the pending event of highest priority that may be delivered now: an exception, an injected or pending NMI, an interrupt.
 * True: one was delivered (call again before executing). Sets v->irq_waits when an interrupt pends that IF or a
 * shadow blocks. Faults of the delivery itself leave by raise_*() and are merged on the next call.
 */
bool event_inject(struct vcpu *v);

#endif
