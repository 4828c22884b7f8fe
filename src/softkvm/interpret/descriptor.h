/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Segment descriptors (SDM volume 3, 3.4.5, 3.5): reading them from the GDT and LDT, taking them apart, the rules of
 * loading a segment register, and the changes of mode and privilege that come with CS.
 *
 * Loading goes in two steps: seg_prepare() and friends make every check and give the new register contents; the
 * caller commits when nothing of its instruction can fault any more.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_DESCRIPTOR_H
#define GUISE_SOFTKVM_INTERPRET_DESCRIPTOR_H

#include "softkvm/interpret/attention.h"
#include "softkvm/interpret/operand.h"

/* Types of system descriptors; in long mode TSS, LDT and gates are 16 bytes. */
enum {
	DESC_TSS16 = 1, DESC_LDT = 2, DESC_TSS16_BUSY = 3, DESC_CALL_GATE16 = 4, DESC_TASK_GATE = 5, DESC_INT_GATE16 = 6,
	DESC_TRAP_GATE16 = 7, DESC_TSS = 9, DESC_TSS_BUSY = 11, DESC_CALL_GATE = 12, DESC_INT_GATE = 14,
	DESC_TRAP_GATE = 15
};

static inline bool is_long_mode(const struct vcpu *v)
{
	return v->efer & EFER_LMA;
}

/* Real-address or virtual-8086 mode: segment registers are loaded by shifting. */
static inline bool is_real_style(const struct vcpu *v)
{
	return !is_protected(v);
}

static inline bool is_null(uint16_t sel)
{
	return !(sel & ~3);
}

static inline uint16_t desc_attr(uint64_t d)
{
	return (d >> 40 & 0xff) | (d >> 44 & 0xf00);
}

static inline uint32_t desc_base(uint64_t d)
{
	return (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000);
}

static inline uint32_t desc_limit(uint64_t d)
{
	uint32_t limit = (d & 0xffff) | (d >> 32 & 0xf0000);

	return d >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

static inline unsigned desc_dpl(uint64_t d)
{
	return d >> 45 & 3;
}

static inline unsigned desc_type(uint64_t d)
{
	return d >> 40 & 0xf;
}

static inline bool desc_is_present(uint64_t d)
{
	return d >> 47 & 1;
}

static inline bool desc_is_system(uint64_t d)
{
	return !(d >> 44 & 1);
}

static inline bool desc_is_code(uint64_t d)
{
	return (d >> 43 & 3) == 3;
}

static inline bool desc_is_conforming(uint64_t d)
{
	return d >> 42 & 1;
}

static inline bool desc_is_64bit(uint64_t d)
{
	return d >> 53 & 1;
}

static inline unsigned seg_dpl(const struct x86_seg *s)
{
	return (s->attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

/* Linear address of a byte of a descriptor table: 32-bit arithmetic outside long mode. */
static inline gva_t table_address(const struct vcpu *v, uint64_t base, uint64_t offset)
{
	return is_long_mode(v) ? base + offset : (uint32_t)(base + offset);
}

/* GVA of the descriptor `sel` names if `size` bytes of it are within its table; false otherwise. */
bool descriptor_address(const struct vcpu *v, uint16_t sel, unsigned size, gva_t *gva);
/* Read it; outside the table: raises `vector` with error code (sel & ~3) | ext. */
uint64_t descriptor_read(struct vcpu *v, uint16_t sel, enum x86_vector vector, uint32_t ext);
/* Upper half of a 16-byte descriptor. */
uint64_t descriptor_read_high(struct vcpu *v, uint16_t sel, enum x86_vector vector, uint32_t ext);
/* Set the accessed bit of a segment's descriptor in memory if it is clear; *d is updated. */
void descriptor_mark_accessed(struct vcpu *v, uint16_t sel, uint64_t *d);
/* Set or clear the busy bit of a TSS descriptor. */
void descriptor_mark_busy(struct vcpu *v, uint16_t sel, bool busy);

/* A segment register made of a descriptor. */
struct x86_seg seg_from_descriptor(uint16_t sel, uint64_t d);
/* ... of real-address or virtual-8086 mode. */
struct x86_seg seg_real(const struct vcpu *v, unsigned seg, uint16_t sel);
/* ... holding a null selector. */
struct x86_seg seg_null(uint16_t sel);

/* What loading DS, ES, FS, GS or SS with sel gives in the mode now; raises what the load raises. */
struct x86_seg seg_prepare(struct vcpu *v, unsigned seg, uint16_t sel);
/* SS for a return or switch to privilege cpl: faults are `vector`(sel) with #SS for not present. */
struct x86_seg stack_prepare(struct vcpu *v, uint16_t sel, unsigned cpl, enum x86_vector vector, uint32_t ext);

/* CS of RETF and IRET: code that the selector's RPL may return to; raises #GP, #NP. */
struct x86_seg return_code_segment(struct vcpu *v, uint16_t sel);

/* Commit CS: mode and privilege follow. The caller's branch target has been checked by target_check(). */
void cs_commit(struct vcpu *v, struct x86_seg cs, unsigned cpl);
/* rip within the new CS (limit, or canonical for a 64-bit one): else #GP(0). */
void target_check(struct vcpu *v, const struct x86_seg *cs, uint64_t rip);
/* After CS, EFER or CR0.PE changed: v->mode. */
void mode_update(struct vcpu *v);
/* After a change of privilege outwards: data segments that the new one may not see become null. */
void drop_privileged_segments(struct vcpu *v);

/* --- task.c, TSS --- */
enum task_switch_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
/*
 * Switch to the task of TSS selector sel. For TASK_GATE by an exception with an error code, has_error pushes it on
 * the new stack. ext: the EXT bit of error codes. return_rip goes into the old TSS.
 */
void task_switch(struct vcpu *v, uint16_t sel, enum task_switch_reason reason, uint64_t return_rip, bool has_error,
		 uint32_t error, uint32_t ext);
/* SS:rSP of an inner privilege from the current TSS; raises #TS. In long mode only *rsp. */
void tss_stack(struct vcpu *v, unsigned cpl, uint16_t *ss, uint64_t *rsp, uint32_t ext);

/* --- event.c: INT n and friends --- */
enum event_kind { EVENT_INTERRUPT, EVENT_NMI, EVENT_EXCEPTION, EVENT_SOFT_INT, EVENT_SOFT_EXCEPTION, EVENT_ICEBP };
/* Enter the handler of `vector`; return_rip is what is pushed. */
void event_deliver(struct vcpu *v, uint8_t vector, enum event_kind kind, bool has_error, uint32_t error,
		   uint64_t return_rip);

#endif
