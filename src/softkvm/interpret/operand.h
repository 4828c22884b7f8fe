/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What instruction semantics stand on: registers by operand, effective addresses, segmentation, memory
 * operands, the stack, near branches and conditions.
 *
 * Memory operands go: effective address (truncated to the address size) -> segment base and checks -> linear
 * address -> soft TLB probe -> mmu/. In 64-bit mode a TLB hit also proves that the address is canonical,
 * so the probe comes first and the checks only after a miss.
 *
 * Order rule of every op_*: read everything, check everything, write memory, then change registers and flags.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_OPERAND_H
#define GUISE_SOFTKVM_INTERPRET_OPERAND_H

#include "softkvm/mmu/mmu.h"
#include "softkvm/vcpu.h"
#include "x86/insn.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* All ones in the low `size` bytes (1..8). */
static inline uint64_t size_mask(unsigned size)
{
	return ~0ull >> (64 - 8 * size);
}

static inline int64_t sign_extend(uint64_t value, unsigned size)
{
	unsigned shift = 64 - 8 * size;

	return (int64_t)(value << shift) >> shift;
}

/* --- general registers --- */

static inline uint64_t gpr_read(const struct vcpu *v, unsigned reg, unsigned size)
{
	if (size == 1 && unlikely(reg >= REG_AH))
		return (uint8_t)(v->gpr[reg - REG_AH] >> 8);
	return v->gpr[reg] & size_mask(size);
}

/* Write a register as the architecture does: 32-bit results zero-extend, 8 and 16-bit ones merge. */
static inline void gpr_write(struct vcpu *v, unsigned reg, unsigned size, uint64_t value)
{
	switch (size) {
	case 8:
		v->gpr[reg] = value;
		break;
	case 4:
		v->gpr[reg] = (uint32_t)value;
		break;
	case 2:
		v->gpr[reg] = (v->gpr[reg] & ~0xffffull) | (uint16_t)value;
		break;
	default:
		if (reg >= REG_AH)
			v->gpr[reg - REG_AH] = (v->gpr[reg - REG_AH] & ~0xff00ull) | (uint64_t)(uint8_t)value
											 << 8;
		else
			v->gpr[reg] = (v->gpr[reg] & ~0xffull) | (uint8_t)value;
	}
}

/* --- modes --- */

static inline bool is_protected(const struct vcpu *v)
{
	return (v->cr0 & CR0_PE) && !(v->rflags & FLAG_VM);
}

static inline unsigned iopl(const struct vcpu *v)
{
	return (v->rflags & FLAG_IOPL) >> FLAG_IOPL_SHIFT;
}

/* Is addr canonical for the paging mode (48 or, with LA57, 57 bits)? */
static inline bool is_canonical(const struct vcpu *v, gva_t addr)
{
	unsigned unused = v->cr4 & CR4_LA57 ? 7 : 16;

	return (gva_t)((int64_t)(addr << unused) >> unused) == addr;
}

/* --- effective addresses and segments --- */

/* The memory operand's offset in its segment, truncated to the address size. */
static inline uint64_t mem_offset(const struct vcpu *v, const struct insn *i)
{
	const struct insn_mem *m = &i->mem;
	uint64_t ea = (uint64_t)m->disp;

	if (m->base == BASE_RIP)
		ea += v->rip;
	else if (m->base != REG_NONE)
		ea += v->gpr[m->base];
	if (m->index != REG_NONE && !m->vsib)
		ea += v->gpr[m->index] << m->scale_log2;
	return ea & size_mask(m->addr_size);
}

/*
 * Linear address of [seg:offset, +size) after the checks of an access of `size` bytes (any size from 1):
 * segment usable, type, limit, canonical, alignment (#AC). Raises #GP(0), #SS(0) or #AC(0).
 */
gva_t seg_address(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write);

/* Would an access pass those checks (alignment aside)? Raises nothing. */
bool seg_allows(const struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write);

/*
 * Segment base and truncation only: INVLPG, LEA-like uses, and hits of a TLB that makes the checks needless.
 */
static inline gva_t seg_linear(const struct vcpu *v, unsigned seg, uint64_t offset)
{
	if (likely(v->mode == MODE_64))
		return seg >= SEG_FS ? offset + v->seg[seg].base : offset;
	return (uint32_t)(offset + v->seg[seg].base);
}

/* Linear address of the instruction's memory operand, checked for an access of `size` bytes. */
gva_t op_addr(struct vcpu *v, const struct insn *i, unsigned size, bool write);

/* --- memory --- */

/* HVA of [gva, gva+size) if the soft TLB of this kind has it, else NULL. */
static inline void *tlb_probe(const struct vcpu *v, enum tlb_kind kind, gva_t gva, unsigned size)
{
	const struct tlb_entry *e = (const void *)((const char *)v->tlb[kind] + ((gva >> 8) & v->tlb_mask));
	uint64_t offset = gva ^ e->tag;

	return likely(offset <= 4096u - size) ? (void *)(uintptr_t)(e->host + offset) : NULL;
}

/* Guest memory as the host reads it: any alignment, any type. */
typedef uint16_t __attribute__((aligned(1), may_alias)) any_uint16;
typedef uint32_t __attribute__((aligned(1), may_alias)) any_uint32;
typedef uint64_t __attribute__((aligned(1), may_alias)) any_uint64;

/*
 * One access to guest memory, as one instruction of the host: neither torn nor repeated, of any alignment
 * (compilers' atomic operations are not meant for the unaligned), and no business of a thread sanitizer's.
 */
static inline uint64_t host_load(const void *p, unsigned size)
{
	uint64_t value;
	uint32_t narrow;

	switch (size) {
	case 8:
		__asm__ volatile("movq %1, %0" : "=r"(value) : "m"(*(const any_uint64 *)p));
		return value;
	case 4:
		__asm__ volatile("movl %1, %0" : "=r"(narrow) : "m"(*(const any_uint32 *)p));
		return narrow;
	case 2:
		__asm__ volatile("movzwl %1, %0" : "=r"(narrow) : "m"(*(const any_uint16 *)p));
		return narrow;
	default:
		__asm__ volatile("movzbl %1, %0" : "=r"(narrow) : "m"(*(const uint8_t *)p));
		return narrow;
	}
}

static inline void host_store(void *p, unsigned size, uint64_t value)
{
	switch (size) {
	case 8:
		__asm__ volatile("movq %1, %0" : "=m"(*(any_uint64 *)p) : "r"(value));
		break;
	case 4:
		__asm__ volatile("movl %k1, %0" : "=m"(*(any_uint32 *)p) : "r"(value));
		break;
	case 2:
		__asm__ volatile("movw %w1, %0" : "=m"(*(any_uint16 *)p) : "r"(value));
		break;
	default:
		__asm__ volatile("movb %b1, %0" : "=m"(*(uint8_t *)p) : "q"(value));
	}
}

/*
 * Accesses of 1, 2, 4 or 8 bytes at seg:offset with all checks: the slow ways behind seg_read() and
 * seg_write().
 */
uint64_t seg_read_checked(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size);
void seg_write_checked(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t value);

static inline uint64_t seg_read(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size)
{
	if (likely(v->mode == MODE_64 && !(v->rflags & FLAG_AC))) {
		void *p = tlb_probe(v, TLB_READ, seg >= SEG_FS ? offset + v->seg[seg].base : offset, size);

		if (likely(p))
			return host_load(p, size);
	}
	return seg_read_checked(v, seg, offset, size);
}

static inline void seg_write(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t value)
{
	if (likely(v->mode == MODE_64 && !(v->rflags & FLAG_AC))) {
		void *p = tlb_probe(v, TLB_WRITE, seg >= SEG_FS ? offset + v->seg[seg].base : offset, size);

		if (likely(p)) {
			host_store(p, size, value);
			return;
		}
	}
	seg_write_checked(v, seg, offset, size, value);
}

/* --- operands: GPR, memory, immediates, string operands; sizes 1, 2, 4, 8 --- */

uint64_t op_read_other(struct vcpu *v, const struct insn *i, const struct operand *o);

/*
 * The `as` forms take kind and size from the caller: with constants they are what a handler made for one form
 * of an instruction compiles to (forms.h), with the operand's own values they are the general case.
 */
static inline __attribute__((always_inline)) uint64_t op_read_as(struct vcpu *v, const struct insn *i,
								 unsigned k, unsigned kind, unsigned size)
{
	if (kind == OPK_GPR)
		return gpr_read(v, i->operand[k].reg, size);
	if (kind == OPK_IMM)
		return i->imm; /* callers use as many of its low bytes as they operate on */
	if (kind == OPK_MEM)
		return seg_read(v, i->mem.seg, mem_offset(v, i), size);
	return op_read_other(v, i, &i->operand[k]);
}

static inline __attribute__((always_inline)) void
op_write_as(struct vcpu *v, const struct insn *i, unsigned k, unsigned kind, unsigned size, uint64_t value)
{
	if (kind == OPK_GPR)
		gpr_write(v, i->operand[k].reg, size, value);
	else
		seg_write(v, i->mem.seg, mem_offset(v, i), size, value);
}

/* Value of operand k, zero-extended from its size. */
static inline uint64_t op_read(struct vcpu *v, const struct insn *i, unsigned k)
{
	return op_read_as(v, i, k, i->operand[k].kind, i->operand[k].size);
}

/* Write operand k (GPR or memory). */
static inline void op_write(struct vcpu *v, const struct insn *i, unsigned k, uint64_t value)
{
	op_write_as(v, i, k, i->operand[k].kind, i->operand[k].size, value);
}

/*
 * Read-modify-write of operand k, atomic for LOCKed instructions and XCHG:
 *
 *	struct rmw m;
 *	uint64_t old = rmw_begin(v, i, k, locked, &m);
 *	do
 *		result = f(old);
 *	while (!rmw_commit(v, &m, &old, result));
 *
 * rmw_begin() has made every check of the write too. f() must have no side effects. Write registers and flags
 * after it.
 */
struct rmw {
	void *host;	    /* RAM operand in one page, else NULL */
	gva_t gva;
	uint8_t size, reg;  /* reg: REG_NONE for memory */
	bool locked, notify, split;
};

uint64_t rmw_begin_memory(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool locked,
			  struct rmw *m);
bool rmw_commit_memory(struct vcpu *v, struct rmw *m, uint64_t *old, uint64_t value);
/* Give up without writing (a failed compare that stores nothing): drops what rmw_begin() holds. */
void rmw_abandon(struct vcpu *v, struct rmw *m);

static inline uint64_t rmw_begin(struct vcpu *v, const struct insn *i, unsigned k, bool locked, struct rmw *m)
{
	const struct operand *o = &i->operand[k];

	if (o->kind != OPK_GPR) {
		m->reg = REG_NONE;
		return rmw_begin_memory(v, i->mem.seg, mem_offset(v, i), o->size, locked, m);
	}
	m->reg = o->reg;
	m->size = (uint8_t)o->size;
	return gpr_read(v, o->reg, o->size);
}

static inline bool rmw_commit(struct vcpu *v, struct rmw *m, uint64_t *old, uint64_t value)
{
	if (m->reg == REG_NONE)
		return rmw_commit_memory(v, m, old, value);
	gpr_write(v, m->reg, m->size, value);
	return true;
}

/* --- stack: width of rSP by SS.B, or 64 bits in 64-bit mode --- */

static inline uint64_t stack_mask(const struct vcpu *v)
{
	if (likely(v->mode == MODE_64))
		return ~0ull;
	return v->seg[SEG_SS].attr & SEG_DB ? 0xffffffffu : 0xffffu;
}

/* rSP += bytes, in the stack's width (the rest of RSP is kept as the architecture does). */
static inline void stack_add(struct vcpu *v, int64_t bytes)
{
	uint64_t mask = stack_mask(v), sp = (v->gpr[RSP] + (uint64_t)bytes) & mask;

	v->gpr[RSP] = mask == 0xffff ? (v->gpr[RSP] & ~0xffffull) | sp : sp;
}

/*
 * Access at SS:(rSP + displacement) without moving rSP: for instructions that must not change it before they
 * commit.
 */
static inline uint64_t stack_read(struct vcpu *v, int64_t displacement, unsigned size)
{
	return seg_read(v, SEG_SS, (v->gpr[RSP] + (uint64_t)displacement) & stack_mask(v), size);
}

static inline void stack_write(struct vcpu *v, int64_t displacement, unsigned size, uint64_t value)
{
	seg_write(v, SEG_SS, (v->gpr[RSP] + (uint64_t)displacement) & stack_mask(v), size, value);
}

static inline void push(struct vcpu *v, unsigned size, uint64_t value)
{
	stack_write(v, -(int64_t)size, size, value);
	stack_add(v, -(int64_t)size);
}

/* Commits rSP at once: only when nothing after it can fault, else stack_read() and stack_add(). */
static inline uint64_t pop(struct vcpu *v, unsigned size)
{
	uint64_t value = stack_read(v, 0, size);

	stack_add(v, size);
	return value;
}

/* --- flow --- */

/* Raises #GP(0) if rip is outside CS's limit or not canonical: before an instruction commits anything. */
void branch_check(struct vcpu *v, uint64_t rip);

/* Continue at rip, which the caller has truncated to the operand size. Raises #GP(0) as above. */
static inline void branch_to(struct vcpu *v, uint64_t rip)
{
	branch_check(v, rip);
	v->rip = rip;
}

/* Condition code cc (0..15: O NO B AE Z NZ BE A S NS P NP L GE LE G) of rflags. */
static inline bool cond(const struct vcpu *v, unsigned cc)
{
	uint64_t f = v->rflags;
	bool r;

	switch (cc >> 1) {
	case 0:
		r = f & FLAG_OF;
		break;
	case 1:
		r = f & FLAG_CF;
		break;
	case 2:
		r = f & FLAG_ZF;
		break;
	case 3:
		r = f & (FLAG_CF | FLAG_ZF);
		break;
	case 4:
		r = f & FLAG_SF;
		break;
	case 5:
		r = f & FLAG_PF;
		break;
	case 6:
		r = ((f >> 4) ^ f) & FLAG_SF; /* OF is bit 11, SF bit 7 */
		break;
	default:
		r = (((f >> 4) ^ f) & FLAG_SF) || (f & FLAG_ZF);
		break;
	}
	return r ^ (cc & 1);
}

/* Replace the status flags (FLAGS_STATUS) by those of `flags`. */
static inline void set_status_flags(struct vcpu *v, uint64_t flags)
{
	v->rflags = (v->rflags & ~(uint64_t)FLAGS_STATUS) | (flags & FLAGS_STATUS);
}

#endif
