/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM_RUN: everything between instructions. The loop is
 *
 *	finish what the last exit left open (a device access restarts its instruction)
 *	requests of other threads -> events to deliver -> HLT and wait-for-SIPI -> the engine
 *
 * and comes back here from the engine at a boundary when v->cont became 0, or by longjmp when an instruction
 * raised an exception or leaves for the user (leave.c). The order at a boundary is the architecture's: traps
 * of the last instruction, then NMI, then external interrupts; event.c keeps it.
 *
 * One instruction at a time is executed after a shadow (STI, MOV SS), with TF, RF or code breakpoints, and
 * when it is re-executed for its device accesses. RF lasts for one instruction.
 *
 * State that matters to the user is in *v whenever vcpu_run() has returned; vector state is at rest then.
 */
#include "softkvm/interpret/run.h"

#include <errno.h>

#include "softkvm/api/kick.h"
#include "softkvm/engine.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/debug.h"
#include "softkvm/interpret/decode_cache.h"
#include "softkvm/interpret/event.h"
#include "softkvm/interpret/io.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/pvclock.h"

/* What a step of the loop says: go on, or return this from KVM_RUN. */
enum { GO_ON = 1 };

static int exit_with(struct vcpu *v, uint32_t reason)
{
	v->run->exit_reason = reason;
	return 0;
}

static int interrupted(struct vcpu *v)
{
	v->run->exit_reason = KVM_EXIT_INTR;
	v->counts->signal_exits++;
	return -EINTR;
}

/* --- requests --- */

enum { MEMORY_REQUESTS = VREQ_MEMORY | VREQ_TLB_FLUSH | VREQ_TLB_WRITE };

static void forget_memory(struct vcpu *v, uint32_t requests)
{
	if (requests & VREQ_MEMORY)
		decode_cache_flush(v);
	if (requests & (VREQ_TLB_FLUSH | VREQ_MEMORY))
		mmu_flush_all(v);
	else if (requests & VREQ_TLB_WRITE)
		mmu_flush_writes(v);
}

static int serve_requests(struct vcpu *v)
{
	uint32_t requests;

	vcpu_pause_point(v);
	requests = vcpu_take_requests(v);
	forget_memory(v, requests);
	if (requests & VREQ_TIMER) {
		lapic_timer_poll(v);
		pvclock_steal_tick(v);
	}
	if (requests & VREQ_CLOCK)
		pvclock_update(v);
	if (requests & VREQ_INIT_SIPI)
		lapic_accept_init_sipi(v);
	if (requests & (VREQ_IRQ | VREQ_NMI | VREQ_TIMER))
		v->irq_waits = true;
	if (requests & VREQ_UNHALT)
		v->unhalted = true;
	if (requests & VREQ_IOAPIC_EOI) {
		v->run->eoi.vector = lapic_ioapic_eoi_vector(v);
		return exit_with(v, KVM_EXIT_IOAPIC_EOI);
	}
	if (requests & VREQ_TRIPLE_FAULT)
		return exit_with(v, KVM_EXIT_SHUTDOWN);
	if (requests & VREQ_EXIT)
		return interrupted(v);
	return GO_ON;
}

static void wake(struct vcpu *v)
{
	v->halted = false;
	if (v->mp_state == KVM_MP_STATE_HALTED)
		v->mp_state = KVM_MP_STATE_RUNNABLE;
}

/* --- events --- */

static bool has_event(const struct vcpu *v)
{
	return v->exception_pending || v->exception_injected || v->irq_injected || v->nmi_injected ||
	       v->irq_waits || atomic_load_explicit(&v->nmi_pending, memory_order_relaxed);
}

/* May the user inject an interrupt by KVM_INTERRUPT now? Only where the PIC is the user's. */
static bool window_is_open(struct vcpu *v)
{
	return lapic_accepts_user_interrupt(v) && (v->rflags & FLAG_IF) && !v->shadow && !v->irq_injected &&
	       !v->exception_pending;
}

static int deliver_events(struct vcpu *v)
{
	while (has_event(v)) {
		v->irq_waits = false;
		v->insn_rip = v->rip;
		if (!event_inject(v))
			break;
		wake(v);
	}
	if (v->run->request_interrupt_window && lapic_accepts_user_interrupt(v)) {
		if (window_is_open(v)) {
			v->counts->irq_window_exits++;
			return exit_with(v, KVM_EXIT_IRQ_WINDOW_OPEN);
		}
		v->irq_waits = true;
	}
	return GO_ON;
}

/* --- not running --- */

static int sleep_until_event(struct vcpu *v, uint64_t deadline_ns)
{
	int err;

	pvclock_sleep(v);
	err = vcpu_halt(v, deadline_ns);
	pvclock_wake(v);
	lapic_timer_poll(v);
	v->irq_waits = true;
	return err == -EINTR ? interrupted(v) : GO_ON;
}

/* An application processor before its SIPI, or a vCPU that executed HLT. GO_ON: look at everything again. */
static int wait_if_idle(struct vcpu *v, bool *idle)
{
	*idle = true;
	if (v->mp_state == KVM_MP_STATE_UNINITIALIZED || v->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return sleep_until_event(v, UINT64_MAX);
	if (v->halted || v->mp_state == KVM_MP_STATE_HALTED) {
		if (!v->lapic) {
			v->halted = false;
			return exit_with(v, KVM_EXIT_HLT);
		}
		if (v->unhalted) {
			v->unhalted = false;
			wake(v);
			*idle = false;
			return GO_ON;
		}
		v->halted = true;
		v->mp_state = KVM_MP_STATE_HALTED;
		return sleep_until_event(v, lapic_timer_deadline_ns(v));
	}
	*idle = false;
	return GO_ON;
}

/* --- running --- */

static bool restarts_for_io(const struct vcpu *v)
{
	return v->mmio_count || v->io_string_count;
}

/* RF ends with the instruction, unless it is the one that loaded it. */
static void end_resume_flag(struct vcpu *v, bool had_rf)
{
	if (had_rf && v->insn->row->sem != SEM_IRET)
		v->rflags &= ~(uint64_t)FLAG_RF;
}

static void execute_single(struct vcpu *v)
{
	bool had_tf = v->rflags & FLAG_TF, had_rf = v->rflags & FLAG_RF;

	debug_before(v);
	v->shadow_before = v->shadow;
	v->shadow = 0;
	v->vm->engine->run(v, true);
	v->shadow_before = 0;
	end_resume_flag(v, had_rf);
	if (v->fpu_live)
		fpu_leave(v);
	io_committed(v);
	debug_after(v, had_tf);
}

static void execute(struct vcpu *v)
{
	v->counts->exits++; /* beforehand: it may leave by longjmp */
	if (unlikely(v->shadow || restarts_for_io(v) || debug_steps(v))) {
		execute_single(v);
		return;
	}
	v->vm->engine->run(v, false);
	if (v->fpu_live)
		fpu_leave(v);
	if (unlikely(v->debug_pending))
		debug_after(v, false);
}

/* Everything before the next instruction. GO_ON: execute. */
static int boundary(struct vcpu *v)
{
	bool idle;
	int r;

	do {
		vcpu_go_on(v); /* before the requests are read: see api/kick.c */
		if (atomic_load(&v->requests)) {
			r = serve_requests(v);
			if (r != GO_ON)
				return r;
		}
		if (v->run->immediate_exit)
			return -EINTR; /* and the run area still tells of the last exit */
		r = deliver_events(v);
		if (r != GO_ON)
			return r;
		r = wait_if_idle(v, &idle);
		if (r != GO_ON)
			return r;
	} while (idle);
	return GO_ON;
}

/* After longjmp: did the instruction leave for the user? */
static bool has_left(struct vcpu *v)
{
	if (v->fpu_live)
		fpu_leave(v);
	if (v->leave_to_user) {
		v->leave_to_user = false;
		v->shadow |= v->shadow_before;
		v->shadow_before = 0;
		return true;
	}
	v->shadow_before = 0;
	io_committed(v); /* an exception: the instruction is over */
	v->io_string_count = 0;
	return false;
}

static int run_loop(struct vcpu *v)
{
	int r;

	if (__builtin_setjmp(v->leave_buf)) {
		if (has_left(v))
			return v->leave_error;
		event_deliver_raised(v);
	}
	if (restarts_for_io(
		v)) { /* at once, whatever else waits; but the user may have changed memory slots meanwhile */
		vcpu_go_on(v);
		vcpu_pause_point(v);
		forget_memory(v, atomic_fetch_and(&v->requests, ~(uint32_t)MEMORY_REQUESTS));
		execute_single(v);
	}
	for (;;) {
		r = boundary(v);
		if (r != GO_ON)
			return r;
		execute(v);
	}
}

/* --- KVM_RUN --- */

static void import_run(struct vcpu *v)
{
	if (!v->lapic)
		lapic_set_cr8(v, v->run->cr8);
	if (v->io_pending)
		io_complete(v);
	pvclock_steal_start(v);
	lapic_timer_poll(v);
	v->irq_waits = true;
}

static void export_run(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	run->if_flag = !!(v->rflags & FLAG_IF);
	run->flags = 0;
	run->cr8 = lapic_get_cr8(v);
	run->apic_base = v->apic_base;
	run->ready_for_interrupt_injection = (v->lapic && !v->vm->split_irqchip) || window_is_open(v);
}

int vcpu_run(struct vcpu *v)
{
	int r;

	v->leave_error = 0;
	vcpu_enter(v);
	import_run(v);
	r = run_loop(v);
	export_run(v);
	pvclock_steal_stop(v);
	vcpu_exit(v);
	return r;
}
