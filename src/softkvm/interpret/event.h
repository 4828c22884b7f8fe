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

/*
 * Deliver what an instruction or a delivery has raised, before anything else: no exit comes between, after which the user
 * would have to know what was being delivered when a fault arose (it might become #DF).
 */
void event_deliver_raised(struct vcpu *v);

/* The pending exception's side effects on CR2, DR6, DR7 and DEBUGCTL: when its delivery begins, or is told as begun. */
void event_apply_payload(struct vcpu *v);

#endif
