/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * String instructions. Each has a function that executes at least one and at most `max` elements, commits rSI
 * and rDI, and says how many it did; repeat() turns that into the REP forms. RCX is committed after every
 * such step, so a fault, an interrupt or a VM exit in the middle leaves exact registers with RIP still at the
 * instruction.
 *
 * The fast steps work on host addresses up to the nearer page end: ascending, RAM, whole elements. Elements
 * that cross a page, MMIO, and descending moves go one at a time. Copies use the host's own REP MOVS with the
 * guest's element size, so overlapping operands give the architecture's result.
 *
 * Port strings leave KVM_RUN with a count (KVM_EXIT_IO): see pio_string() in io.c.
 */
#include "softkvm/interpret/flags.h"
#include "softkvm/interpret/io.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

HOST_BINARY(host_sub, "sub")

/* Executes 1..max elements and returns how many; *again = false ends a REPE/REPNE. */
typedef uint64_t step_fn(struct vcpu *v, const struct insn *i, uint64_t max, bool *again);

static bool steps_singly(const struct vcpu *v)
{
	return (v->rflags & FLAG_TF) || v->guest_debug;
}

static inline void repeat(struct vcpu *v, const struct insn *i, step_fn *step)
{
	uint64_t mask = size_mask(i->mem.addr_size), left = v->gpr[RCX] & mask;
	bool again = true;

	if (!(i->prefixes & (PFX_REP | PFX_REPNE))) {
		step(v, i, 1, &again);
		return;
	}
	while (left) {
		left -= step(v, i, steps_singly(v) ? 1 : left, &again);
		gpr_write(v, RCX, i->mem.addr_size, left);
		io_committed(v);
		if (!left || !again)
			return;
		if (steps_singly(v) || !atomic_load_explicit(&v->cont, memory_order_relaxed)) {
			v->rip = v->insn_rip;
			return;
		}
	}
}

static int64_t stride(const struct vcpu *v, unsigned size)
{
	return v->rflags & FLAG_DF ? -(int64_t)size : (int64_t)size;
}

static void advance(struct vcpu *v, const struct insn *i, unsigned reg, unsigned size, uint64_t count)
{
	gpr_write(v, reg, i->mem.addr_size, v->gpr[reg] + (uint64_t)stride(v, size) * count);
}

static uint64_t index_offset(const struct vcpu *v, const struct insn *i, unsigned reg)
{
	return v->gpr[reg] & size_mask(i->mem.addr_size);
}

/*
 * Whole elements, at most max, from seg:offset to the end of the page for which *host is good; 0: take the
 * slow step. May raise #PF as the first element's access would.
 */
static uint64_t page_run(struct vcpu *v, const struct insn *i, unsigned seg, uint64_t offset, unsigned size,
			 uint64_t max, bool write, void **host, bool *notify)
{
	gva_t gva = seg_linear(v, seg, offset);
	uint64_t count = (4096 - (gva & 4095)) / size;

	if (max < count)
		count = max;
	if (count < 2 || (v->rflags & (FLAG_DF | FLAG_AC)) ||
	    offset + count * size - 1 > size_mask(i->mem.addr_size) ||
	    !seg_allows(v, seg, offset, (unsigned)(count * size), write))
		return 0;
	*notify = false;
	*host = tlb_probe(v, tlb_data_kind(write), gva, 1);
	if (!*host)
		*host = mmu_host_ptr(v, gva, (unsigned)(count * size), write, notify);
	return *host ? count : 0;
}

static void host_rep_movs(void *dst, const void *src, unsigned size, uint64_t count)
{
	switch (size) {
	case 8:
		__asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
		break;
	case 4:
		__asm__ volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
		break;
	default:
		__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
	}
}

static void host_rep_stos(void *dst, uint64_t value, unsigned size, uint64_t count)
{
	switch (size) {
	case 8:
		__asm__ volatile("rep stosq" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
		break;
	default:
		__asm__ volatile("rep stosb" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
	}
}

static uint64_t movs_step(struct vcpu *v, const struct insn *i, uint64_t max, bool *again)
{
	unsigned size = i->operand[0].size;
	uint64_t from = index_offset(v, i, RSI), to = index_offset(v, i, RDI), count = 0;
	void *src, *dst = NULL;
	bool notify, notify_src;

	if (max > 1)
		count = page_run(v, i, i->mem.seg, from, size, max, false, &src, &notify_src);
	if (count)
		count = page_run(v, i, SEG_ES, to, size, count, true, &dst, &notify);
	if (count) {
		host_rep_movs(dst, src, size, count);
		if (notify)
			mmu_host_written(v, seg_linear(v, SEG_ES, to), (unsigned)(count * size));
	} else {
		count = 1;
		seg_write(v, SEG_ES, to, size, seg_read(v, i->mem.seg, from, size));
	}
	advance(v, i, RSI, size, count);
	advance(v, i, RDI, size, count);
	return count;
}

void op_movs(struct vcpu *v, const struct insn *i)
{
	repeat(v, i, movs_step);
}

static uint64_t stos_step(struct vcpu *v, const struct insn *i, uint64_t max, bool *again)
{
	unsigned size = i->operand[0].size;
	uint64_t to = index_offset(v, i, RDI), count = 0;
	bool notify;
	void *dst;

	if (max > 1)
		count = page_run(v, i, SEG_ES, to, size, max, true, &dst, &notify);
	if (count) {
		host_rep_stos(dst, v->gpr[RAX], size, count);
		if (notify)
			mmu_host_written(v, seg_linear(v, SEG_ES, to), (unsigned)(count * size));
	} else {
		count = 1;
		seg_write(v, SEG_ES, to, size, gpr_read(v, RAX, size));
	}
	advance(v, i, RDI, size, count);
	return count;
}

void op_stos(struct vcpu *v, const struct insn *i)
{
	repeat(v, i, stos_step);
}

static uint64_t lods_step(struct vcpu *v, const struct insn *i, uint64_t max, bool *again)
{
	unsigned size = i->operand[0].size;

	gpr_write(v, RAX, size, seg_read(v, i->mem.seg, index_offset(v, i, RSI), size));
	advance(v, i, RSI, size, 1);
	return 1;
}

void op_lods(struct vcpu *v, const struct insn *i)
{
	repeat(v, i, lods_step);
}

/* REPE goes on while equal, REPNE while not. */
static bool compare_goes_on(const struct insn *i, bool equal)
{
	return equal == !!(i->prefixes & PFX_REP);
}

static uint64_t scas_step(struct vcpu *v, const struct insn *i, uint64_t max, bool *again)
{
	unsigned size = i->operand[1].size;
	uint64_t to = index_offset(v, i, RDI), left = gpr_read(v, RAX, size), right, run = 0, count = 0;
	bool notify;
	char *p;

	if (max > 1)
		run = page_run(v, i, SEG_ES, to, size, max, false, (void **)&p, &notify);
	if (run) {
		do
			right = host_load(p + count++ * size, size);
		while (count < run && compare_goes_on(i, left == right));
	} else {
		right = seg_read(v, SEG_ES, to, size);
		count = 1;
	}
	host_sub(left, right, size, &v->rflags);
	advance(v, i, RDI, size, count);
	*again = compare_goes_on(i, left == right);
	return count;
}

void op_scas(struct vcpu *v, const struct insn *i)
{
	repeat(v, i, scas_step);
}

static uint64_t cmps_step(struct vcpu *v, const struct insn *i, uint64_t max, bool *again)
{
	unsigned size = i->operand[0].size;
	uint64_t from = index_offset(v, i, RSI), to = index_offset(v, i, RDI), left, right, run = 0,
		 count = 0;
	bool notify;
	char *p, *q;

	if (max > 1)
		run = page_run(v, i, i->mem.seg, from, size, max, false, (void **)&p, &notify);
	if (run)
		run = page_run(v, i, SEG_ES, to, size, run, false, (void **)&q, &notify);
	if (run) {
		do {
			left = host_load(p + count * size, size);
			right = host_load(q + count * size, size);
		} while (++count < run && compare_goes_on(i, left == right));
	} else {
		left = seg_read(v, i->mem.seg, from, size);
		right = seg_read(v, SEG_ES, to, size);
		count = 1;
	}
	host_sub(left, right, size, &v->rflags);
	advance(v, i, RSI, size, count);
	advance(v, i, RDI, size, count);
	*again = compare_goes_on(i, left == right);
	return count;
}

void op_cmps(struct vcpu *v, const struct insn *i)
{
	repeat(v, i, cmps_step);
}

/* --- ports --- */

/*
 * Elements of a port string that one VM exit may carry: to the page's end when ascending. Between a port and
 * a device's memory it is one, as that memory takes an exit for each.
 */
static unsigned port_run(struct vcpu *v, gva_t gva, unsigned size, uint64_t max, bool write)
{
	uint64_t count = v->rflags & FLAG_DF ? 1 : (4096 - (gva & 4095)) / size;
	bool notify;

	if (count > max)
		count = max;
	if (count < 2 || !mmu_host_ptr(v, gva, size, write, &notify))
		return 1;
	return (unsigned)count;
}

static uint64_t ins_step(struct vcpu *v, const struct insn *i, uint64_t max, bool *again)
{
	unsigned size = i->operand[0].size, count;
	uint64_t to = index_offset(v, i, RDI);
	gva_t gva = seg_address(v, SEG_ES, to, size, true);
	uint64_t mask = size_mask(i->mem.addr_size);
	const uint8_t *data;

	mmu_probe(v, gva, size, true); /* no port is read if the data cannot be stored */
	data = pio_string(v, (uint16_t)v->gpr[RDX], size, port_run(v, gva, size, max, true), false, &count);
	if (count > max)
		count = (unsigned)max; /* the user has changed RCX meanwhile */
	for (unsigned k = 0; k < count; k++)
		seg_write(v, SEG_ES, (to + (uint64_t)(stride(v, size) * k)) & mask, size,
			  host_load(data + k * size, size));
	pio_string_end(v, (uint16_t)v->gpr[RDX], size);
	advance(v, i, RDI, size, count);
	return count;
}

void op_ins(struct vcpu *v, const struct insn *i)
{
	pio_check(v, (uint16_t)v->gpr[RDX], i->operand[0].size);
	repeat(v, i, ins_step);
	v->io_string_count = 0; /* even if RCX is 0 now */
}

static uint64_t outs_step(struct vcpu *v, const struct insn *i, uint64_t max, bool *again)
{
	unsigned size = i->operand[1].size, count;
	uint64_t from = index_offset(v, i, RSI), mask = size_mask(i->mem.addr_size);

	if (!pio_string_done(v, &count)) {
		unsigned want = port_run(v, seg_address(v, i->mem.seg, from, size, false), size, max, false);
		uint8_t *data = pio_string_buffer(v);

		for (unsigned k = 0; k < want; k++)
			host_store(
			    data + k * size, size,
			    seg_read(v, i->mem.seg, (from + (uint64_t)(stride(v, size) * k)) & mask, size));
		pio_string(v, (uint16_t)v->gpr[RDX], size, want, true, &count);
	}
	if (count > max)
		count = (unsigned)max;
	pio_string_end(v, (uint16_t)v->gpr[RDX], size);
	advance(v, i, RSI, size, count);
	return count;
}

void op_outs(struct vcpu *v, const struct insn *i)
{
	pio_check(v, (uint16_t)v->gpr[RDX], i->operand[1].size);
	repeat(v, i, outs_step);
	v->io_string_count = 0;
}
