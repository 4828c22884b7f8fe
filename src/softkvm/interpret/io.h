/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Device access as the interpreter's own files see it; softkvm/io.h is what mmu/ and others use. vCPU thread
 * only.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_IO_H
#define GUISE_SOFTKVM_INTERPRET_IO_H

#include "softkvm/io.h"

/* #GP(0) unless IOPL or the TSS's permission bitmap allows `size` ports from `port`. */
void pio_check(struct vcpu *v, uint16_t port, unsigned size);

/*
 * A string of `want` elements from or to one port, with the data in pio_string_buffer() (OUTS fills it
 * before). On return *count elements are transferred, 1..want, for INS in the buffer that is returned. Leaves
 * for the user's ports; the instruction comes back here with the exit's result. pio_string_end() when the
 * elements are consumed.
 */
uint8_t *pio_string(struct vcpu *v, uint16_t port, unsigned size, unsigned want, bool is_write,
		    unsigned *count);
/* Did the user just finish a port string for this instruction? Then its *count. */
bool pio_string_done(struct vcpu *v, unsigned *count);
void pio_string_end(struct vcpu *v, uint16_t port, unsigned size);

/*
 * An MSR that the user stands for. Answered: the last exit was for this access, and *value is what was read; #GP if the user
 * said so. Leave: with KVM_EXIT_X86_RDMSR or _WRMSR, reason: KVM_MSR_EXIT_REASON_*.
 */
bool msr_answered(struct vcpu *v, uint32_t index, uint64_t *value, bool is_write);
_Noreturn void msr_leave(struct vcpu *v, uint32_t index, uint64_t value, bool is_write, uint32_t reason);

static inline uint8_t *pio_string_buffer(struct vcpu *v)
{
	return (uint8_t *)v->run + 4096;
}

/* The accesses done so far are part of committed state: they will not be asked for again. */
static inline void io_committed(struct vcpu *v)
{
	v->mmio_count = v->mmio_next = 0;
}

/*
 * First thing in KVM_RUN: if an exit for I/O was pending, take the user's answer from v->run. The run loop
 * then executes the instruction again, singly, and calls io_committed().
 */
void io_complete(struct vcpu *v);

#endif
