/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The local APIC's timer (SDM volume 3, 10.5.4): one-shot and periodic count a 1 GHz clock through the divider;
 * TSC-deadline compares with the guest's TSC.
 *
 * When it is due is kept by the vCPU's thread: target_ns (CLOCK_MONOTONIC) or tsc_deadline. From that due_ns follows,
 * up to which a halted vCPU sleeps, and alarm_ns, on which the timer thread kicks a running one. Both may come early,
 * as the two clocks drift: lapic_timer_poll() looks at the real thing and sets them again.
 *
 * Compiled without vector registers: runs with the guest's vector state live.
 */
#include "softkvm/irqchip/lapic.h"

#include "softkvm/irqchip/pvclock.h"
#include "softkvm/irqchip/timer.h"
#include "softkvm/irqchip/tsc.h"

enum { MIN_PERIOD_NS = 20000 };
#define MAX_SLEEP_TSC (1ull << 52)

static uint32_t timer_mode(const struct lapic *a)
{
	return lapic_reg(a, APIC_LVTT) & LVT_TIMER_MODE;
}

static uint64_t guest_tsc(const struct vcpu *v)
{
	return host_tsc() + (uint64_t)v->tsc_offset;
}

/* Nanoseconds per count: the input clock has 1 GHz. */
static uint64_t divider(const struct lapic *a)
{
	uint32_t tdcr = lapic_reg(a, APIC_TDCR);

	return 1ull << ((((tdcr & 3) | (tdcr & 8) >> 1) + 1) & 7);
}

static void set_alarm(struct vcpu *v, uint64_t due_ns)
{
	struct lapic *a = v->lapic;

	a->due_ns = due_ns;
	atomic_store(&a->alarm_ns, due_ns);
	if (due_ns != UINT64_MAX)
		timers_alarm(v->vm, due_ns);
}

static void set_tsc_alarm(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	uint64_t now = guest_tsc(v), left = a->tsc_deadline - now;

	if (a->tsc_deadline <= now)
		left = 0;
	if (left > MAX_SLEEP_TSC)
		left = MAX_SLEEP_TSC;
	set_alarm(v, monotonic_ns() + muldiv64(left, 1000000, v->vm->tsc_khz) + 1);
}

static void stop(struct vcpu *v)
{
	v->lapic->tsc_deadline = v->lapic->target_ns = 0;
	set_alarm(v, UINT64_MAX);
}

void lapic_timer_reset(struct vcpu *v)
{
	v->lapic->period_ns = 0;
	stop(v);
}

/* --- one-shot, periodic --- */

static void start_counting(struct vcpu *v, uint64_t first_ns, uint64_t period_ns)
{
	struct lapic *a = v->lapic;

	a->period_ns = period_ns;
	if (timer_mode(a) == LVT_TIMER_PERIODIC && period_ns < MIN_PERIOD_NS)
		a->period_ns = MIN_PERIOD_NS;
	a->target_ns = monotonic_ns() + first_ns;
	set_alarm(v, a->target_ns);
}

void lapic_timer_restart(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	uint64_t ns = lapic_reg(a, APIC_TMICT) * divider(a);

	if (timer_mode(a) == LVT_TIMER_DEADLINE)
		return;
	if (ns)
		start_counting(v, ns, ns);
	else
		stop(v);
}

uint32_t lapic_timer_current_count(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	uint64_t now = monotonic_ns(), left;

	if (timer_mode(a) == LVT_TIMER_DEADLINE || !a->target_ns)
		return 0;
	if (a->target_ns > now)
		left = a->target_ns - now;
	else if (timer_mode(a) == LVT_TIMER_PERIODIC) /* due, and counting its next period already */
		left = a->period_ns - (now - a->target_ns) % a->period_ns;
	else
		left = 0;
	return (uint32_t)(left / divider(a));
}

uint32_t lapic_timer_count_to_save(struct vcpu *v)
{
	uint32_t count = lapic_timer_current_count(v);

	return count || !v->lapic->target_ns || timer_mode(v->lapic) == LVT_TIMER_DEADLINE ? count : 1;
}

/* The rest of the count goes on at the new rate. */
void lapic_timer_divider_changed(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	uint64_t count;

	if (timer_mode(a) == LVT_TIMER_DEADLINE || !a->target_ns)
		return;
	count = a->target_ns - monotonic_ns();
	if ((int64_t)count < 0)
		count = 0;
	count = count * divider(a) / (a->period_ns / (lapic_reg(a, APIC_TMICT) ? lapic_reg(a, APIC_TMICT) : 1) | 1);
	start_counting(v, count, lapic_reg(a, APIC_TMICT) * divider(a));
}

void lapic_timer_restored(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	uint64_t period = lapic_reg(a, APIC_TMICT) * divider(a), left = lapic_reg(a, APIC_TMCCT) * divider(a);

	if (timer_mode(a) == LVT_TIMER_DEADLINE)
		return; /* MSR_TSC_DEADLINE comes by KVM_SET_MSRS */
	if (period && (left || timer_mode(a) == LVT_TIMER_PERIODIC))
		start_counting(v, left ? left : period, period);
	else
		stop(v);
}

/* --- TSC deadline --- */

void lapic_timer_set_deadline(struct vcpu *v, uint64_t deadline)
{
	if (timer_mode(v->lapic) != LVT_TIMER_DEADLINE)
		return;
	v->lapic->tsc_deadline = deadline;
	if (!deadline) {
		stop(v);
		return;
	}
	if (guest_tsc(v) >= deadline)
		lapic_timer_poll(v);
	else
		set_tsc_alarm(v);
}

/* Changing between counting and deadline disarms; between one-shot and periodic does not (10.5.4.1). */
void lapic_timer_mode_changed(struct vcpu *v, uint32_t old_lvtt)
{
	bool was_deadline = (old_lvtt & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;

	if ((timer_mode(v->lapic) == LVT_TIMER_DEADLINE) != was_deadline) {
		lapic_set_reg(v->lapic, APIC_TMICT, 0);
		stop(v);
	}
}

/* --- expiry --- */

static void poll_deadline(struct vcpu *v)
{
	struct lapic *a = v->lapic;

	if (!a->tsc_deadline)
		return;
	if (guest_tsc(v) < a->tsc_deadline) {
		set_tsc_alarm(v);
		return;
	}
	stop(v);
	lapic_local_deliver(v, APIC_LVTT);
}

static void poll_count(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	uint64_t now;

	if (!a->target_ns)
		return;
	now = monotonic_ns();
	if (now < a->target_ns) {
		set_alarm(v, a->target_ns);
		return;
	}
	if (timer_mode(a) == LVT_TIMER_PERIODIC && a->period_ns) {
		a->target_ns += a->period_ns;
		if (a->target_ns <= now) /* late by more than a period: those ticks are lost, as on a busy machine */
			a->target_ns = now + a->period_ns;
		set_alarm(v, a->target_ns);
	} else {
		stop(v);
	}
	lapic_local_deliver(v, APIC_LVTT);
}

void lapic_timer_poll(struct vcpu *v)
{
	if (!v->lapic)
		return;
	if (timer_mode(v->lapic) == LVT_TIMER_DEADLINE)
		poll_deadline(v);
	else
		poll_count(v);
}

uint64_t lapic_timer_deadline_ns(struct vcpu *v)
{
	return v->lapic ? v->lapic->due_ns : UINT64_MAX;
}
