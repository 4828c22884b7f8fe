/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Delivery of exceptions and interrupts (SDM volume 3, chapter 6): through the real-mode vector table, 16 and 32-bit
 * gates, task gates, and long mode's gates with interrupt stacks.
 *
 * Between instructions the run loop calls event_inject(), which picks the event of highest priority and delivers it. Until
 * the handler is entered the event counts as injected, so that a delivery which leaves for the user (a stack in a
 * device) starts over. A fault during delivery comes back through the run loop as a new pending exception while
 * in_event_delivery is set; then the table of 6.15 decides between that fault, a double fault and shutdown.
 *
 * Software interrupts (INT n, INT3...) are delivered from within their instruction; a fault then is an ordinary fault
 * of the instruction.
 *
 * All checks and pushes come before any register changes.
 */
#include "softkvm/interpret/event.h"

#include "softkvm/interpret/descriptor.h"
#include "softkvm/irqchip/irqchip.h"

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

static enum fault_class fault_class(uint8_t vector)
{
	switch (vector) {
	case VEC_DE:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
		return CLASS_CONTRIBUTORY;
	case VEC_PF:
		return CLASS_PAGE_FAULT;
	case VEC_DF:
		return CLASS_DOUBLE_FAULT;
	default:
		return CLASS_BENIGN;
	}
}

/* What one delivery is about. */
struct delivery {
	uint8_t vector;
	enum event_kind kind;
	bool has_error;
	uint32_t error;
	uint64_t return_rip;
	uint64_t flags; /* the image that is pushed */
	uint32_t ext;	/* EXT bit of error codes: not a software interrupt */
};

static bool is_software(const struct delivery *d)
{
	return d->kind == EVENT_SOFT_INT || d->kind == EVENT_SOFT_EXCEPTION;
}

static uint32_t idt_error(const struct delivery *d)
{
	return d->vector * 8u | 2 | d->ext;
}

/* --- pushing on the handler's stack --- */

struct frame {
	struct x86_seg ss;
	uint64_t rsp, mask;
	unsigned size; /* of a word: 2, 4 or 8 */
	unsigned cpl;  /* the handler's */
	uint32_t error; /* of #SS */
	bool flat;     /* long mode: no segment */
};

static void frame_push(struct vcpu *v, struct frame *f, uint64_t value)
{
	uint64_t at = (f->rsp - f->size) & f->mask;
	gva_t gva = at;

	if (!f->flat) {
		bool down = (f->ss.attr & (SEG_TYPE_CODE | SEG_TYPE_DC)) == SEG_TYPE_DC;
		uint64_t last = at + f->size - 1;

		if (down ? at <= f->ss.limit || last > f->mask : last > f->ss.limit)
			raise_error(v, VEC_SS, f->error);
		gva = (uint32_t)(f->ss.base + at);
	}
	if (f->cpl == 3)
		mmu_write(v, gva, f->size, value);
	else
		mmu_write_sys(v, gva, f->size, value);
	f->rsp = (f->rsp & ~f->mask) | at;
}

static uint64_t stack_width(const struct x86_seg *ss)
{
	return ss->attr & SEG_DB ? 0xffffffff : 0xffff;
}

static void flags_for_handler(struct vcpu *v, uint64_t clear)
{
	bool smap_matters = (v->rflags & FLAG_AC) && (v->cr4 & CR4_SMAP);

	v->rflags &= ~clear;
	if (smap_matters)
		mmu_mode_changed(v);
}

/* --- real-address mode (SDM volume 3, 20.1.4) --- */

static void deliver_real(struct vcpu *v, const struct delivery *d)
{
	uint32_t vector_end = d->vector * 4 + 3;
	uint16_t ip, sel;
	struct x86_seg cs;

	if (vector_end > v->idt.limit)
		raise_error(v, VEC_GP, 0);
	ip = mmu_read_sys(v, (uint32_t)(v->idt.base + d->vector * 4), 2);
	sel = mmu_read_sys(v, (uint32_t)(v->idt.base + d->vector * 4 + 2), 2);
	stack_write(v, -2, 2, d->flags);
	stack_write(v, -4, 2, v->seg[SEG_CS].sel);
	stack_write(v, -6, 2, d->return_rip);
	stack_add(v, -6);
	cs = seg_real(v, SEG_CS, sel);
	cs_commit(v, cs, 0);
	v->rip = ip;
	flags_for_handler(v, FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
}

/* --- gates --- */

struct gate {
	uint16_t sel;
	uint64_t rip;
	unsigned ist, size;
	bool masks; /* interrupt gate: clears IF */
	uint64_t code;
};

static uint64_t gate_read(struct vcpu *v, const struct delivery *d, uint64_t *high)
{
	unsigned size = is_long_mode(v) ? 16 : 8;
	uint64_t offset = (uint64_t)d->vector * size, low;

	if (offset + size - 1 > v->idt.limit)
		raise_error(v, VEC_GP, idt_error(d));
	low = mmu_read_sys(v, table_address(v, v->idt.base, offset), 8);
	*high = size == 16 ? mmu_read_sys(v, v->idt.base + offset + 8, 8) : 0;
	return low;
}

static bool gate_type_good(const struct vcpu *v, uint64_t low)
{
	if (!desc_is_system(low))
		return false;
	switch (desc_type(low)) {
	case DESC_INT_GATE:
	case DESC_TRAP_GATE:
		return true;
	case DESC_TASK_GATE:
	case DESC_INT_GATE16:
	case DESC_TRAP_GATE16:
		return !is_long_mode(v);
	default:
		return false;
	}
}

static void gate_check(struct vcpu *v, const struct delivery *d, uint64_t low)
{
	if (!gate_type_good(v, low) || (is_software(d) && desc_dpl(low) < v->cpl))
		raise_error(v, VEC_GP, idt_error(d));
	if (!desc_is_present(low))
		raise_error(v, VEC_NP, idt_error(d));
}

static struct gate gate_take(struct vcpu *v, const struct delivery *d, uint64_t low, uint64_t high)
{
	struct gate g = {.sel = low >> 16, .rip = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32};
	uint32_t error = (g.sel & 0xfffc) | d->ext;

	g.ist = is_long_mode(v) ? low >> 32 & 7 : 0;
	g.size = is_long_mode(v) ? 8 : desc_type(low) >= DESC_INT_GATE ? 4 : 2;
	g.masks = !(desc_type(low) & 1);
	if (g.size == 2)
		g.rip &= 0xffff;
	if (is_null(g.sel))
		raise_error(v, VEC_GP, d->ext);
	g.code = descriptor_read(v, g.sel, VEC_GP, d->ext);
	if (desc_is_system(g.code) || !desc_is_code(g.code) || desc_dpl(g.code) > v->cpl ||
	    (is_long_mode(v) && (!desc_is_64bit(g.code) || (g.code >> 54 & 1))))
		raise_error(v, VEC_GP, error);
	if (!desc_is_present(g.code))
		raise_error(v, VEC_NP, error);
	return g;
}

static unsigned handler_cpl(const struct vcpu *v, const struct gate *g)
{
	return desc_is_conforming(g->code) ? v->cpl : desc_dpl(g->code);
}

static struct x86_seg handler_cs(struct vcpu *v, struct gate *g, unsigned cpl)
{
	descriptor_mark_accessed(v, g->sel, &g->code);
	return seg_from_descriptor((g->sel & ~3) | cpl, g->code);
}

static void handler_target_check(struct vcpu *v, const struct delivery *d, const struct x86_seg *cs, uint64_t rip)
{
	if (is_long_mode(v) ? !is_canonical(v, rip) : rip > cs->limit)
		raise_error(v, VEC_GP, d->ext);
}

static void enter_handler(struct vcpu *v, struct x86_seg cs, const struct gate *g, unsigned cpl)
{
	uint64_t clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (g->masks ? FLAG_IF : 0);

	v->rflags &= ~clear;
	cs_commit(v, cs, cpl);
	v->rip = g->rip;
}

/* --- long mode (SDM volume 3, 6.14) --- */

static uint64_t ist_stack(struct vcpu *v, unsigned ist, uint32_t ext)
{
	uint32_t offset = 0x1c + ist * 8;

	if (offset + 7 > v->seg[SEG_TR].limit)
		raise_error(v, VEC_TS, (v->seg[SEG_TR].sel & 0xfffc) | ext);
	return mmu_read_sys(v, v->seg[SEG_TR].base + offset, 8);
}

static void deliver_long(struct vcpu *v, const struct delivery *d)
{
	uint64_t high, low = gate_read(v, d, &high), rsp = v->gpr[RSP];
	struct frame f = {.size = 8, .mask = ~0ull, .flat = true, .error = d->ext};
	struct x86_seg cs;
	struct gate g;
	uint16_t ss;

	gate_check(v, d, low);
	g = gate_take(v, d, low, high);
	f.cpl = handler_cpl(v, &g);
	if (g.ist)
		rsp = ist_stack(v, g.ist, d->ext);
	else if (f.cpl < v->cpl)
		tss_stack(v, f.cpl, &ss, &rsp, d->ext);
	if (!is_canonical(v, rsp))
		raise_error(v, VEC_SS, d->ext);
	cs = handler_cs(v, &g, f.cpl);
	handler_target_check(v, d, &cs, g.rip);
	f.rsp = rsp & ~15ull;
	frame_push(v, &f, v->seg[SEG_SS].sel);
	frame_push(v, &f, v->gpr[RSP]);
	frame_push(v, &f, d->flags);
	frame_push(v, &f, v->seg[SEG_CS].sel);
	frame_push(v, &f, d->return_rip);
	if (d->has_error)
		frame_push(v, &f, d->error);
	if (f.cpl != v->cpl) {
		v->seg[SEG_SS] = seg_null(f.cpl);
		v->seg[SEG_SS].attr |= f.cpl << SEG_DPL_SHIFT;
	}
	v->gpr[RSP] = f.rsp;
	enter_handler(v, cs, &g, f.cpl);
}

/* --- protected mode, from protected or virtual-8086 mode --- */

static void push_v8086_segments(struct vcpu *v, struct frame *f)
{
	static const uint8_t order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};

	for (int k = 0; k < 4; k++)
		frame_push(v, f, v->seg[order[k]].sel);
}

static void drop_v8086_segments(struct vcpu *v)
{
	static const uint8_t order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};

	for (int k = 0; k < 4; k++)
		v->seg[order[k]] = seg_null(0);
}

static struct frame legacy_frame(struct vcpu *v, const struct delivery *d, const struct gate *g, unsigned cpl)
{
	struct frame f = {.size = g->size, .cpl = cpl, .ss = v->seg[SEG_SS], .rsp = v->gpr[RSP], .error = d->ext};
	uint16_t sel;

	if (cpl != v->cpl) {
		tss_stack(v, cpl, &sel, &f.rsp, d->ext);
		f.ss = stack_prepare(v, sel, cpl, VEC_TS, d->ext);
		f.error |= sel & 0xfffc;
	}
	f.mask = stack_width(&f.ss);
	return f;
}

static void deliver_legacy(struct vcpu *v, const struct delivery *d, uint64_t low)
{
	struct gate g = gate_take(v, d, low, 0);
	bool from_v8086 = v->rflags & FLAG_VM;
	unsigned cpl = handler_cpl(v, &g);
	struct x86_seg cs;
	struct frame f;

	if (from_v8086 && cpl != 0)
		raise_error(v, VEC_GP, (g.sel & 0xfffc) | d->ext);
	f = legacy_frame(v, d, &g, cpl);
	cs = handler_cs(v, &g, cpl);
	handler_target_check(v, d, &cs, g.rip);
	if (from_v8086)
		push_v8086_segments(v, &f);
	if (cpl != v->cpl) {
		frame_push(v, &f, v->seg[SEG_SS].sel);
		frame_push(v, &f, v->gpr[RSP]);
	}
	frame_push(v, &f, d->flags);
	frame_push(v, &f, v->seg[SEG_CS].sel);
	frame_push(v, &f, d->return_rip);
	if (d->has_error)
		frame_push(v, &f, d->error);
	if (from_v8086)
		drop_v8086_segments(v);
	if (cpl != v->cpl)
		v->seg[SEG_SS] = f.ss;
	v->gpr[RSP] = f.rsp;
	enter_handler(v, cs, &g, cpl);
}

static void deliver_protected(struct vcpu *v, const struct delivery *d)
{
	uint64_t high, low;

	if (is_long_mode(v)) {
		deliver_long(v, d);
		return;
	}
	low = gate_read(v, d, &high);
	gate_check(v, d, low);
	if (desc_type(low) == DESC_TASK_GATE)
		task_switch(v, low >> 16, TASK_GATE, d->return_rip, d->has_error, d->error, d->ext);
	else
		deliver_legacy(v, d, low);
}

/* RF is pushed set by faults, so that the instruction's breakpoint does not fire again; not by traps and interrupts. */
static uint64_t pushed_flags(const struct vcpu *v, uint8_t vector, enum event_kind kind)
{
	if (kind != EVENT_EXCEPTION || vector == VEC_DB || vector == VEC_DF || vector == VEC_MC)
		return v->rflags;
	return v->rflags | FLAG_RF;
}

void event_deliver(struct vcpu *v, uint8_t vector, enum event_kind kind, bool has_error, uint32_t error,
		   uint64_t return_rip)
{
	struct delivery d = {
		.vector = vector, .kind = kind, .has_error = has_error, .error = error, .return_rip = return_rip,
		.flags = pushed_flags(v, vector, kind),
		.ext = kind != EVENT_SOFT_INT && kind != EVENT_SOFT_EXCEPTION,
	};

	if (v->cr0 & CR0_PE)
		deliver_protected(v, &d);
	else
		deliver_real(v, &d);
	/* A new context: single-step traps and shadows of the interrupted one are over. */
	v->shadow = 0;
	want_attention(v);
}

/* --- which event --- */

/* A fault while a double fault was delivered: out of KVM_RUN with KVM_EXIT_SHUTDOWN. */
static _Noreturn void shutdown(struct vcpu *v)
{
	v->in_event_delivery = v->exception_pending = v->exception_injected = false;
	v->run->exit_reason = KVM_EXIT_SHUTDOWN;
	vcpu_leave(v);
}

/* A fault arose while `delivering_vector` was delivered. false: shutdown. */
static bool merge_faults(struct vcpu *v)
{
	enum fault_class first = v->exception_injected ? fault_class(v->delivering_vector) : CLASS_BENIGN;
	enum fault_class second = fault_class(v->exception_vector);

	v->in_event_delivery = false;
	v->exception_injected = v->irq_injected = v->nmi_injected = false;
	if (first == CLASS_DOUBLE_FAULT && second != CLASS_BENIGN)
		return false;
	if ((first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) ||
	    (first == CLASS_PAGE_FAULT && second != CLASS_BENIGN)) {
		v->exception_vector = VEC_DF;
		v->exception_has_error = true;
		v->exception_error = 0;
		v->exception_has_payload = false;
	}
	return true;
}

void event_apply_payload(struct vcpu *v)
{
	if (v->exception_has_payload && v->exception_vector == VEC_PF)
		v->cr2 = v->exception_payload;
	if (v->exception_vector == VEC_DB) {
		if (v->exception_has_payload)
			v->dr[6] = (v->dr[6] & ~0xfull) | v->exception_payload;
		v->dr[7] &= ~(1ull << 13); /* GD */
		v->debugctl &= ~1ull;	   /* LBR */
	}
	v->exception_has_payload = false;
}

static void begin(struct vcpu *v, uint8_t vector)
{
	v->insn_rip = v->rip; /* where a fault of the delivery returns to */
	v->in_event_delivery = true;
	v->delivering_vector = vector;
	v->halted = false;
	if (v->mp_state == KVM_MP_STATE_HALTED)
		v->mp_state = KVM_MP_STATE_RUNNABLE;
}

static void deliver_exception(struct vcpu *v)
{
	uint8_t vector = v->exception_vector;
	bool has_error = v->exception_has_error && (v->cr0 & CR0_PE);

	if (v->exception_pending) {
		event_apply_payload(v);
		v->exception_pending = false;
		v->exception_injected = true;
	}
	begin(v, vector);
	event_deliver(v, vector, EVENT_EXCEPTION, has_error, v->exception_error, v->rip);
	v->exception_injected = false;
}

static void deliver_nmi(struct vcpu *v)
{
	if (!v->nmi_injected) {
		atomic_fetch_sub(&v->nmi_pending, 1);
		v->nmi_injected = v->nmi_masked = true;
	}
	v->counts->nmi_injections++;
	begin(v, VEC_NMI);
	event_deliver(v, VEC_NMI, EVENT_NMI, false, 0, v->rip);
	v->nmi_injected = false;
}

static void deliver_interrupt(struct vcpu *v)
{
	v->counts->irq_injections++;
	begin(v, v->irq_vector);
	event_deliver(v, v->irq_vector, EVENT_INTERRUPT, false, 0, v->rip);
	v->irq_injected = false;
}

/* Accept an interrupt from the controllers: it counts as injected from here on. */
static bool accept_interrupt(struct vcpu *v)
{
	int vector;

	if (!v->vm->irqchip || !irqchip_has_interrupt(v))
		return false;
	vector = irqchip_ack(v);
	if (vector < 0)
		return false;
	v->irq_vector = vector;
	v->irq_injected = true;
	return true;
}

/* While one NMI is handled the processor remembers one more, not two. */
static void limit_pending_nmis(struct vcpu *v)
{
	uint32_t two = 2;

	if (v->nmi_masked)
		atomic_compare_exchange_strong(&v->nmi_pending, &two, 1);
}

/* Something may be deliverable that IF, a shadow or NMI masking holds back: look again when those change. */
static void note_blocked(struct vcpu *v)
{
	bool has_nmi = atomic_load(&v->nmi_pending) && !v->nmi_masked;

	if (has_nmi || (v->vm->irqchip && irqchip_has_interrupt(v)))
		v->irq_waits = true;
}

bool event_inject(struct vcpu *v)
{
	if (v->exception_pending && v->in_event_delivery && !merge_faults(v))
		shutdown(v);
	limit_pending_nmis(v);
	if (v->exception_pending || v->exception_injected) {
		deliver_exception(v);
	} else if (v->nmi_injected) {
		deliver_nmi(v);
	} else if (v->irq_injected) {
		deliver_interrupt(v);
	} else if (v->guest_debug & KVM_GUESTDBG_BLOCKIRQ) {
		return false; /* KVM_SET_GUEST_DEBUG comes before another KVM_RUN, which looks again */
	} else if (atomic_load(&v->nmi_pending) && !v->nmi_masked && !v->shadow) {
		deliver_nmi(v);
	} else if ((v->rflags & FLAG_IF) && !v->shadow && accept_interrupt(v)) {
		deliver_interrupt(v);
	} else {
		note_blocked(v);
		return false;
	}
	v->in_event_delivery = false;
	v->irq_waits = true; /* there may be more */
	return true;
}

void event_deliver_raised(struct vcpu *v)
{
	while (v->exception_pending) {
		v->insn_rip = v->rip;
		event_inject(v);
	}
}
