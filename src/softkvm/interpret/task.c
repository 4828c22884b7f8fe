/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Task-state segments (SDM volume 3, chapter 7): inner stacks, and hardware task switches by JMP, CALL, IRET and task
 * gates between 16 and 32-bit TSSs.
 *
 * A switch proves what it can before it commits: descriptor, limits, both TSSs' memory. From then on faults belong to the
 * new task: a bad selector there raises #TS with the new task's registers in place, as the manual wants.
 */
#include "softkvm/interpret/descriptor.h"

/* Offsets of a TSS's fields; 16-bit ones are words. */
struct tss_layout {
	uint8_t size;  /* of a register: 2 or 4 */
	uint8_t cr3;   /* 0: none */
	uint8_t ip, flags, gpr, seg, seg_count, ldt, min_limit;
	uint8_t seg_step;
};

static const struct tss_layout layout16 = {.size = 2, .ip = 14, .flags = 16, .gpr = 18, .seg = 34, .seg_count = 4,
					   .ldt = 42, .min_limit = 43, .seg_step = 2};
static const struct tss_layout layout32 = {.size = 4, .cr3 = 28, .ip = 32, .flags = 36, .gpr = 40, .seg = 72,
					   .seg_count = 6, .ldt = 96, .min_limit = 103, .seg_step = 4};

/* Registers in the order of the TSS. */
static const uint8_t seg_order[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};

struct task {
	const struct tss_layout *layout;
	uint64_t cr3, ip, flags, gpr[8];
	uint16_t sel[6], ldt;
};

void tss_stack(struct vcpu *v, unsigned cpl, uint16_t *ss, uint64_t *rsp, uint32_t ext)
{
	const struct x86_seg *tr = &v->seg[SEG_TR];
	uint32_t error = (tr->sel & 0xfffc) | ext;

	if (is_long_mode(v)) {
		if (4 + cpl * 8 + 7 > tr->limit)
			raise_error(v, VEC_TS, error);
		*rsp = mmu_read_sys(v, tr->base + 4 + cpl * 8, 8);
		*ss = 0;
		return;
	}
	if (tr->attr & 8) { /* 32-bit */
		if (4 + cpl * 8 + 5 > tr->limit)
			raise_error(v, VEC_TS, error);
		*rsp = mmu_read_sys(v, (uint32_t)(tr->base + 4 + cpl * 8), 4);
		*ss = mmu_read_sys(v, (uint32_t)(tr->base + 8 + cpl * 8), 2);
	} else {
		if (2 + cpl * 4 + 3 > tr->limit)
			raise_error(v, VEC_TS, error);
		*rsp = mmu_read_sys(v, (uint32_t)(tr->base + 2 + cpl * 4), 2);
		*ss = mmu_read_sys(v, (uint32_t)(tr->base + 4 + cpl * 4), 2);
	}
}

static uint64_t tss_read(struct vcpu *v, const struct x86_seg *tss, unsigned offset, unsigned size)
{
	return mmu_read_sys(v, (uint32_t)(tss->base + offset), size);
}

static void tss_write(struct vcpu *v, const struct x86_seg *tss, unsigned offset, unsigned size, uint64_t value)
{
	mmu_write_sys(v, (uint32_t)(tss->base + offset), size, value);
}

static const struct tss_layout *layout_of(const struct x86_seg *tss)
{
	return tss->attr & 8 ? &layout32 : &layout16;
}

static void save_task(struct vcpu *v, const struct x86_seg *tss, uint64_t return_rip, uint64_t flags)
{
	const struct tss_layout *l = layout_of(tss);

	tss_write(v, tss, l->ip, l->size, return_rip);
	tss_write(v, tss, l->flags, l->size, flags);
	for (int k = 0; k < 8; k++)
		tss_write(v, tss, l->gpr + k * l->size, l->size, v->gpr[k]);
	for (int k = 0; k < l->seg_count; k++)
		tss_write(v, tss, l->seg + k * l->seg_step, 2, v->seg[seg_order[k]].sel);
}

static void load_task(struct vcpu *v, const struct x86_seg *tss, struct task *t)
{
	const struct tss_layout *l = layout_of(tss);

	*t = (struct task){.layout = l};
	t->cr3 = l->cr3 ? tss_read(v, tss, l->cr3, 4) : 0;
	t->ip = tss_read(v, tss, l->ip, l->size);
	t->flags = tss_read(v, tss, l->flags, l->size);
	for (int k = 0; k < 8; k++)
		t->gpr[k] = tss_read(v, tss, l->gpr + k * l->size, l->size) | (l->size == 2 ? 0xffff0000 : 0);
	for (int k = 0; k < l->seg_count; k++)
		t->sel[k] = tss_read(v, tss, l->seg + k * l->seg_step, 2);
	t->ldt = tss_read(v, tss, l->ldt, 2);
}

/* The TSS to switch to; raises what its descriptor deserves. */
static struct x86_seg target_tss(struct vcpu *v, uint16_t sel, enum task_switch_reason reason, uint32_t ext)
{
	enum x86_vector vector = reason == TASK_IRET ? VEC_TS : VEC_GP;
	uint32_t error = (sel & 0xfffc) | ext;
	struct x86_seg tss;
	unsigned type;
	uint64_t d;

	if (is_null(sel) || (sel & 4))
		raise_error(v, vector, error);
	d = descriptor_read(v, sel, vector, ext);
	type = desc_type(d);
	if (!desc_is_system(d) || (type & 5) != 1 || !!(type & 2) != (reason == TASK_IRET))
		raise_error(v, vector, error);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, error);
	tss = seg_from_descriptor(sel, d);
	if (tss.limit < layout_of(&tss)->min_limit)
		raise_error(v, VEC_TS, error);
	mmu_probe(v, (uint32_t)tss.base, 2, false);
	return tss;
}

static void load_ldt(struct vcpu *v, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & 0xfffc) | ext;
	uint64_t d;

	v->seg[SEG_LDTR] = seg_null(sel);
	if (is_null(sel))
		return;
	if (sel & 4)
		raise_error(v, VEC_TS, error);
	d = descriptor_read(v, sel, VEC_TS, ext);
	if (!desc_is_system(d) || desc_type(d) != DESC_LDT || !desc_is_present(d))
		raise_error(v, VEC_TS, error);
	v->seg[SEG_LDTR] = seg_from_descriptor(sel, d);
}

static void load_code(struct vcpu *v, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & 0xfffc) | ext;
	unsigned rpl = sel & 3;
	uint64_t d;

	if (is_null(sel))
		raise_error(v, VEC_TS, error);
	d = descriptor_read(v, sel, VEC_TS, ext);
	if (desc_is_system(d) || !desc_is_code(d) || (desc_is_conforming(d) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl))
		raise_error(v, VEC_TS, error);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, error);
	descriptor_mark_accessed(v, sel, &d);
	cs_commit(v, seg_from_descriptor(sel, d), rpl);
}

static void load_data(struct vcpu *v, unsigned seg, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & 0xfffc) | ext;
	uint64_t d;

	v->seg[seg] = seg_null(sel);
	if (is_null(sel))
		return;
	d = descriptor_read(v, sel, VEC_TS, ext);
	if (desc_is_system(d) || (desc_is_code(d) && !(d >> 41 & 1)))
		raise_error(v, VEC_TS, error);
	if (!(desc_is_code(d) && desc_is_conforming(d)) && ((sel & 3) > desc_dpl(d) || v->cpl > desc_dpl(d)))
		raise_error(v, VEC_TS, error);
	if (!desc_is_present(d))
		raise_error(v, VEC_NP, error);
	descriptor_mark_accessed(v, sel, &d);
	v->seg[seg] = seg_from_descriptor(sel, d);
}

static void load_v8086_segments(struct vcpu *v, const struct task *t)
{
	for (int k = 0; k < 6; k++)
		v->seg[seg_order[k]] = seg_real(v, seg_order[k], t->sel[k]);
	cs_commit(v, v->seg[SEG_CS], 3);
}

/* Selectors first: the new task owns them even if one of them faults. */
static void load_segments(struct vcpu *v, const struct task *t, uint32_t ext)
{
	if (v->rflags & FLAG_VM) {
		load_v8086_segments(v, t);
		return;
	}
	for (int k = 0; k < 6; k++)
		v->seg[seg_order[k]] = seg_null(t->sel[k]);
	load_code(v, t->sel[1], ext);
	v->seg[SEG_SS] = stack_prepare(v, t->sel[2], v->cpl, VEC_TS, ext);
	load_data(v, SEG_ES, t->sel[0], ext);
	load_data(v, SEG_DS, t->sel[3], ext);
	load_data(v, SEG_FS, t->sel[4], ext);
	load_data(v, SEG_GS, t->sel[5], ext);
}

static void become(struct vcpu *v, const struct task *t, uint32_t ext)
{
	uint64_t old_cr3 = v->cr3;

	if (t->layout->cr3 && (v->cr0 & CR0_PG)) {
		v->cr3 = t->cr3;
		mmu_cr3_loaded(v, old_cr3, false);
	}
	v->rip = v->insn_rip = t->ip;
	v->rflags = (t->flags & 0x3f7fd7) | FLAG_FIXED;
	for (int k = 0; k < 8; k++)
		v->gpr[k] = t->gpr[k];
	v->dr[7] &= ~0x155ull; /* local breakpoints */
	load_ldt(v, t->ldt, ext);
	load_segments(v, t, ext);
}

void task_switch(struct vcpu *v, uint16_t sel, enum task_switch_reason reason, uint64_t return_rip, bool has_error,
		 uint32_t error, uint32_t ext)
{
	struct x86_seg old = v->seg[SEG_TR], tss = target_tss(v, sel, reason, ext);
	bool nested = reason == TASK_CALL || reason == TASK_GATE;
	uint64_t flags = v->rflags;
	struct task task;

	mmu_probe(v, (uint32_t)old.base, layout_of(&old)->min_limit, true);
	load_task(v, &tss, &task);
	if (reason == TASK_IRET)
		flags &= ~(uint64_t)FLAG_NT;
	save_task(v, &old, return_rip, flags);
	if (reason != TASK_CALL && reason != TASK_GATE)
		descriptor_mark_busy(v, old.sel, false);
	if (nested) {
		tss_write(v, &tss, 0, 2, old.sel);
		task.flags |= FLAG_NT;
	}
	if (reason != TASK_IRET)
		descriptor_mark_busy(v, sel, true);
	v->seg[SEG_TR] = tss;
	v->seg[SEG_TR].attr |= 2;
	v->cr0 |= CR0_TS;
	become(v, &task, ext);
	if (has_error)
		push(v, task.layout->size, error);
	if (tss.attr & 8 && tss_read(v, &tss, 100, 2) & 1)
		v->debug_pending |= 1 << 15; /* BT */
	target_check(v, &v->seg[SEG_CS], v->rip);
	want_attention(v);
}
