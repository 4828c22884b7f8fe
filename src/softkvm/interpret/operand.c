/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The slow halves of operand.h: segmentation checks (SDM volume 3, 5.3-5.5; volume 1, 3.3.7.1 for canonical
 * addresses), alignment checks, string operands, and read-modify-write of memory.
 *
 * A locked read-modify-write of RAM within one page is a compare-and-swap loop on the host address, so it is
 * atomic towards other vCPUs and device threads. One that crosses a page, whose halves lie at unrelated host
 * addresses, runs under vm->split_lock: atomic towards other split accesses only. To a device no lock has a
 * meaning.
 */
#include "softkvm/interpret/operand.h"

static _Noreturn void raise_segment(struct vcpu *v, unsigned seg)
{
	raise_error(v, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

/* SDM volume 3, table 6-7: natural alignment, with the odd sizes' own rules. */
static void check_alignment(struct vcpu *v, gva_t gva, unsigned size)
{
	unsigned align = size == 10 ? 8 : size == 6 ? 4 : size > 16 ? 16 : size;

	if ((v->cr0 & CR0_AM) && v->cpl == 3 && !(align & (align - 1)) && (gva & (align - 1)))
		raise_error(v, VEC_AC, 0);
}

static bool within_limit(const struct x86_seg *s, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	if ((s->attr & (SEG_TYPE_CODE | SEG_TYPE_DC)) == SEG_TYPE_DC) /* expand-down data */
		return offset > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu);
	return last <= s->limit;
}

static bool may_access(const struct x86_seg *s, bool write)
{
	if (s->attr & SEG_UNUSABLE)
		return false;
	if (s->attr & SEG_TYPE_CODE)
		return !write && (s->attr & SEG_TYPE_RW);
	return !write || (s->attr & SEG_TYPE_RW);
}

static gva_t seg_address_legacy(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
	const struct x86_seg *s = &v->seg[seg];

	if (is_protected(v) && !may_access(s, write))
		raise_segment(v, seg);
	if (unlikely(!within_limit(s, offset, size)))
		raise_segment(v, seg);
	return (uint32_t)(offset + s->base);
}

gva_t seg_address(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
	gva_t gva;

	if (v->mode == MODE_64) {
		gva = seg >= SEG_FS ? offset + v->seg[seg].base : offset;
		if (unlikely(!is_canonical(v, gva) || !is_canonical(v, gva + size - 1)))
			raise_segment(v, seg);
	} else {
		gva = seg_address_legacy(v, seg, offset, size, write);
	}
	if (unlikely(v->rflags & FLAG_AC))
		check_alignment(v, gva, size);
	return gva;
}

bool seg_allows(const struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
	const struct x86_seg *s = &v->seg[seg];
	gva_t gva = seg_linear(v, seg, offset);

	if (v->mode == MODE_64)
		return is_canonical(v, gva) && is_canonical(v, gva + size - 1);
	return (!is_protected(v) || may_access(s, write)) && within_limit(s, offset, size);
}

gva_t op_addr(struct vcpu *v, const struct insn *i, unsigned size, bool write)
{
	return seg_address(v, i->mem.seg, mem_offset(v, i), size, write);
}

/* Outside 64-bit mode linear addresses wrap at 4 GiB, also inside one access. */
static bool wraps_4g(const struct vcpu *v, gva_t gva, unsigned size)
{
	return v->mode != MODE_64 && gva + size > 1ull << 32;
}

uint64_t seg_read_checked(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size)
{
	gva_t gva = seg_address(v, seg, offset, size, false);
	uint64_t value = 0;
	void *p = tlb_probe(v, TLB_READ, gva, size);

	if (p)
		return host_load(p, size);
	if (likely(!wraps_4g(v, gva, size)))
		return mmu_read(v, gva, size);
	for (unsigned k = 0; k < size; k++)
		value |= mmu_read(v, (uint32_t)(gva + k), 1) << (8 * k);
	return value;
}

void seg_write_checked(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t value)
{
	gva_t gva = seg_address(v, seg, offset, size, true);
	void *p = tlb_probe(v, TLB_WRITE, gva, size);

	if (p) {
		host_store(p, size, value);
	} else if (likely(!wraps_4g(v, gva, size))) {
		mmu_write(v, gva, size, value);
	} else {
		mmu_probe(v, gva, 1, true);
		mmu_probe(v, 0, 1, true);
		for (unsigned k = 0; k < size; k++)
			mmu_write(v, (uint32_t)(gva + k), 1, (uint8_t)(value >> (8 * k)));
	}
}

uint64_t op_read_other(struct vcpu *v, const struct insn *i, const struct operand *o)
{
	uint64_t mask = size_mask(i->mem.addr_size);

	switch (o->kind) {
	case OPK_IMM:
	case OPK_REL:
	case OPK_FAR:
		return i->imm;
	case OPK_IMM2:
		return i->imm2;
	case OPK_STR_SRC:
		return seg_read(v, i->mem.seg, v->gpr[RSI] & mask, o->size);
	case OPK_STR_DST:
		return seg_read(v, SEG_ES, v->gpr[RDI] & mask, o->size);
	case OPK_SEG:
		return v->seg[o->reg].sel;
	default:
		return 0;
	}
}

/* --- read-modify-write --- */

static void split_lock(struct vcpu *v)
{
	pthread_mutex_lock(&v->vm->split_lock);
	v->holds_split_lock = true;
}

static void split_unlock(struct vcpu *v)
{
	v->holds_split_lock = false;
	pthread_mutex_unlock(&v->vm->split_lock);
}

uint64_t rmw_begin_memory(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool locked,
			  struct rmw *m)
{
	gva_t gva = seg_linear(v, seg, offset);

	m->size = (uint8_t)size;
	m->locked = locked;
	m->notify = m->split = false;
	m->host = NULL;
	if (likely(v->mode == MODE_64 && !(v->rflags & FLAG_AC)))
		m->host = tlb_probe(v, TLB_WRITE, gva, size);
	if (unlikely(!m->host)) {
		gva = seg_address(v, seg, offset, size, true);
		m->host = mmu_host_ptr(v, gva, size, true, &m->notify);
	}
	m->gva = gva;
	if (likely(m->host))
		return host_load(m->host, size);
	mmu_probe(v, gva, size, true);
	m->split = locked && (gva & 4095) + size > 4096;
	if (m->split)
		split_lock(v); /* leave.c drops it if the read leaves */
	return mmu_read(v, gva, size);
}

/* *p == *old ? *p = value : *old = *p, atomically. Assembly, as the address may be misaligned. */
static bool host_cas(void *p, unsigned size, uint64_t *old, uint64_t value)
{
	uint64_t seen = *old;
	bool done;

	switch (size) {
	case 8:
		__asm__ volatile("lock cmpxchgq %3, %2"
				 : "=@ccz"(done), "+a"(seen), "+m"(*(any_uint64 *)p) : "r"(value) : "memory");
		break;
	case 4:
		__asm__ volatile("lock cmpxchgl %k3, %2"
				 : "=@ccz"(done), "+a"(seen), "+m"(*(any_uint32 *)p) : "r"(value) : "memory");
		break;
	case 2:
		__asm__ volatile("lock cmpxchgw %w3, %2"
				 : "=@ccz"(done), "+a"(seen), "+m"(*(any_uint16 *)p) : "r"(value) : "memory");
		break;
	default:
		__asm__ volatile("lock cmpxchgb %b3, %2"
				 : "=@ccz"(done), "+a"(seen), "+m"(*(uint8_t *)p) : "r"(value) : "memory");
	}
	*old = seen & size_mask(size);
	return done;
}

bool rmw_commit_memory(struct vcpu *v, struct rmw *m, uint64_t *old, uint64_t value)
{
	if (unlikely(!m->host)) {
		mmu_write(v, m->gva, m->size, value);
		rmw_abandon(v, m);
		return true;
	}
	if (!m->locked)
		host_store(m->host, m->size, value);
	else if (!host_cas(m->host, m->size, old, value))
		return false;
	if (unlikely(m->notify))
		mmu_host_written(v, m->gva, m->size);
	return true;
}

void rmw_abandon(struct vcpu *v, struct rmw *m)
{
	if (m->reg == REG_NONE && m->split) {
		m->split = false;
		split_unlock(v);
	}
}

/* --- flow --- */

void branch_check(struct vcpu *v, uint64_t rip)
{
	if (v->mode == MODE_64 ? !is_canonical(v, rip) : rip > v->seg[SEG_CS].limit)
		raise_error(v, VEC_GP, 0);
}
