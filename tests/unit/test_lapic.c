/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The local APIC by its registers: priorities, interprocessor messages, modes, the timer.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "softkvm/irqchip/lapic.h"
#include "softkvm/irqchip/tsc.h"
#include "vm_fixture.h"

#define XAPIC_BASE 0xfee00000ull

static uint32_t mmio_read(struct vcpu *v, unsigned offset)
{
	uint32_t value = 0;

	assert_true(irqchip_mmio(v, XAPIC_BASE + offset, &value, 4, false));
	return value;
}

static void mmio_write(struct vcpu *v, unsigned offset, uint32_t value)
{
	assert_true(irqchip_mmio(v, XAPIC_BASE + offset, &value, 4, true));
}

static void x2apic_on(struct vcpu *v)
{
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, v->apic_base | APIC_BASE_X2), 0);
}

static int x2_write(struct vcpu *v, unsigned offset, uint64_t value)
{
	return lapic_msr_write(v, MSR_X2APIC_FIRST + offset / 16, value);
}

static uint64_t x2_read(struct vcpu *v, unsigned offset)
{
	uint64_t value = 0;

	assert_int_equal(lapic_msr_read(v, MSR_X2APIC_FIRST + offset / 16, &value), 0);
	return value;
}

static void software_enable(struct vcpu *v)
{
	if (lapic_is_x2apic(v->lapic))
		assert_int_equal(x2_write(v, APIC_SPIV, 0x1ff), 0);
	else
		mmio_write(v, APIC_SPIV, 0x1ff);
}

static void open_enabled(struct vm_fixture *f, unsigned vcpus)
{
	fixture_open(f, FIXTURE_IRQCHIP, vcpus);
	for (unsigned i = 0; i < vcpus; i++)
		software_enable(cpu(f, i));
}

static void msi(struct vm_fixture *f, uint32_t dest, uint32_t data, int expected)
{
	assert_int_equal(irqchip_msi(f->vm->vm, 0xfee00000 | dest << 12, data), expected);
}

/* --- state after power-on --- */

static void power_on_state(void **state)
{
	struct vm_fixture f;

	fixture_open(&f, FIXTURE_IRQCHIP, 2);
	assert_int_equal(mmio_read(cpu(&f, 1), APIC_ID), 1 << 24);
	assert_int_equal(mmio_read(cpu(&f, 1), APIC_LVR), 0x50014);
	assert_int_equal(mmio_read(cpu(&f, 1), APIC_SPIV), 0xff);
	assert_int_equal(mmio_read(cpu(&f, 1), APIC_DFR), 0xffffffff);
	assert_int_equal(mmio_read(cpu(&f, 1), APIC_LVT0), LVT_MASKED);
	assert_int_equal(mmio_read(cpu(&f, 0), APIC_LVT0), APIC_EXTINT << 8);
	assert_int_equal(cpu(&f, 0)->apic_base, XAPIC_BASE | APIC_BASE_ENABLED | APIC_BASE_BSP);
	assert_int_equal(cpu(&f, 1)->apic_base, XAPIC_BASE | APIC_BASE_ENABLED);
	assert_int_equal(cpu(&f, 0)->mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(cpu(&f, 1)->mp_state, KVM_MP_STATE_UNINITIALIZED);
	fixture_close(&f);
}

/* --- priorities --- */

static void higher_class_interrupts_lower(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	msi(&f, 0, 0x41, 1);
	msi(&f, 0, 0x41, 0); /* still pending: coalesced */
	assert_true(irqchip_has_interrupt(v));
	assert_int_equal(irqchip_ack(v), 0x41);
	assert_int_equal(mmio_read(v, APIC_PPR), 0x40);
	assert_false(irqchip_has_interrupt(v));
	msi(&f, 0, 0x4f, 1); /* same class waits */
	assert_false(irqchip_has_interrupt(v));
	msi(&f, 0, 0x51, 1);
	assert_int_equal(irqchip_ack(v), 0x51);
	assert_int_equal(mmio_read(v, APIC_ISR + 0x20), 1 << 1 | 1 << 17);
	mmio_write(v, APIC_EOI, 0);
	assert_int_equal(mmio_read(v, APIC_PPR), 0x40);
	assert_false(irqchip_has_interrupt(v));
	mmio_write(v, APIC_EOI, 0);
	assert_int_equal(irqchip_ack(v), 0x4f);
	mmio_write(v, APIC_EOI, 0);
	assert_int_equal(irqchip_ack(v), -1);
	mmio_write(v, APIC_EOI, 0); /* nothing in service: nothing happens */
	fixture_close(&f);
}

static void task_priority_holds_back(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	lapic_set_cr8(v, 5);
	assert_int_equal(mmio_read(v, APIC_TPR), 0x50);
	msi(&f, 0, 0x5f, 1);
	assert_false(irqchip_has_interrupt(v));
	atomic_store(&v->requests, 0);
	mmio_write(v, APIC_TPR, 0x4f);
	assert_int_equal(lapic_get_cr8(v), 4);
	assert_true(atomic_load(&v->requests) & VREQ_IRQ); /* the run loop is told to look */
	assert_int_equal(irqchip_ack(v), 0x5f);
	fixture_close(&f);
}

static void eoi_asks_for_another_look(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	msi(&f, 0, 0x61, 1);
	irqchip_ack(v);
	msi(&f, 0, 0x62, 1);
	atomic_store(&v->requests, 0);
	mmio_write(v, APIC_EOI, 0);
	assert_true(atomic_load(&v->requests) & VREQ_IRQ);
	fixture_close(&f);
}

static void software_disabled_takes_nothing(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	mmio_write(v, APIC_LVT1, APIC_NMI << 8);
	mmio_write(v, APIC_SPIV, 0xff);
	msi(&f, 0, 0x41, 0);
	assert_false(irqchip_has_interrupt(v));
	assert_int_equal(mmio_read(v, APIC_LVT1), APIC_NMI << 8 | LVT_MASKED);
	mmio_write(v, APIC_LVT1, APIC_NMI << 8); /* can't be unmasked meanwhile */
	assert_int_equal(mmio_read(v, APIC_LVT1), APIC_NMI << 8 | LVT_MASKED);
	fixture_close(&f);
}

/* --- destinations --- */

/* Which of the vCPUs have `vector` waiting, as bits; it is acknowledged and ended. */
static unsigned who_has(struct vm_fixture *f, int vector)
{
	unsigned bits = 0;

	for (unsigned i = 0; i < f->vcpu_count; i++) {
		struct vcpu *v = cpu(f, i);

		if (irqchip_ack(v) != vector)
			continue;
		bits |= 1u << i;
		if (lapic_is_x2apic(v->lapic))
			assert_int_equal(x2_write(v, APIC_EOI, 0), 0);
		else
			mmio_write(v, APIC_EOI, 0);
	}
	return bits;
}

static void send(struct vcpu *from, uint32_t high, uint32_t low)
{
	mmio_write(from, APIC_ICR2, high);
	mmio_write(from, APIC_ICR, low);
}

static void xapic_destinations(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 4);
	v = cpu(&f, 0);
	send(v, 2 << 24, 0x31);
	assert_int_equal(who_has(&f, 0x31), 1 << 2);
	send(v, 0xffu << 24, 0x31);
	assert_int_equal(who_has(&f, 0x31), 15);
	send(v, 0, 0x31 | APIC_SHORT_SELF << 18);
	assert_int_equal(who_has(&f, 0x31), 1);
	send(v, 0, 0x31 | APIC_SHORT_ALL << 18);
	assert_int_equal(who_has(&f, 0x31), 15);
	send(v, 0, 0x31 | APIC_SHORT_OTHERS << 18);
	assert_int_equal(who_has(&f, 0x31), 14);
	for (unsigned i = 0; i < 4; i++) /* logical, flat */
		mmio_write(cpu(&f, i), APIC_LDR, 1u << (24 + i));
	send(v, 0x0a << 24, 0x31 | 1 << 11);
	assert_int_equal(who_has(&f, 0x31), 10);
	for (unsigned i = 0; i < 4; i++) { /* logical, clusters of two */
		mmio_write(cpu(&f, i), APIC_DFR, 0x0fffffff);
		mmio_write(cpu(&f, i), APIC_LDR, (i / 2 << 4 | 1u << i % 2) << 24);
	}
	send(v, 0x13 << 24, 0x31 | 1 << 11);
	assert_int_equal(who_has(&f, 0x31), 12);
	send(v, 0x13 << 24, 0x31 | 1 << 11 | APIC_LOWEST << 8); /* one of them */
	assert_int_equal(__builtin_popcount(who_has(&f, 0x31)), 1);
	fixture_close(&f);
}

static void x2apic_destinations(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	fixture_open(&f, FIXTURE_IRQCHIP, 4);
	for (unsigned i = 0; i < 4; i++) {
		x2apic_on(cpu(&f, i));
		software_enable(cpu(&f, i));
		assert_int_equal(x2_read(cpu(&f, i), APIC_ID), i);
		assert_int_equal(x2_read(cpu(&f, i), APIC_LDR), 1u << i);
	}
	v = cpu(&f, 1);
	assert_int_equal(x2_write(v, APIC_ICR, 3ull << 32 | 0x71), 0);
	assert_int_equal(who_has(&f, 0x71), 1 << 3);
	assert_int_equal(x2_write(v, APIC_ICR, 5ull << 32 | 1 << 11 | 0x71), 0);
	assert_int_equal(who_has(&f, 0x71), 5);
	assert_int_equal(x2_write(v, APIC_ICR, 0xffffffffull << 32 | 0x71), 0);
	assert_int_equal(who_has(&f, 0x71), 15);
	assert_int_equal(x2_write(v, APIC_SELF_IPI, 0x71), 0);
	assert_int_equal(who_has(&f, 0x71), 2);
	assert_int_equal(x2_read(v, APIC_ICR), 0xffffffffull << 32 | 0x71);
	assert_int_equal(lapic_pv_send_ipi(v, 0xc, 0, 1, 0x71, 64), 1); /* ids 3 and 4; there is no 4 */
	assert_int_equal(who_has(&f, 0x71), 1 << 3);
	assert_int_equal(lapic_pv_send_ipi(v, 1, 1, 1, 0x71, 2), 2); /* ids 1 and 3 */
	assert_int_equal(who_has(&f, 0x71), 10);
	fixture_close(&f);
}

static void illegal_vectors_set_esr(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	mmio_write(v, APIC_LVTERR, 0xfe);
	send(v, 0, 0x0f | APIC_SHORT_SELF << 18);
	assert_int_equal(irqchip_ack(v), 0xfe);
	assert_int_equal(mmio_read(v, APIC_ESR), 0);
	mmio_write(v, APIC_ESR, 0);
	assert_int_equal(mmio_read(v, APIC_ESR), ESR_SEND_ILLEGAL);
	mmio_write(v, APIC_ESR, 0);
	assert_int_equal(mmio_read(v, APIC_ESR), 0);
	fixture_close(&f);
}

static void init_and_sipi_start_a_vcpu(void **state)
{
	struct vm_fixture f;
	struct vcpu *ap;

	open_enabled(&f, 2);
	ap = cpu(&f, 1);
	send(cpu(&f, 0), 1 << 24, APIC_STARTUP << 8 | 0x9a); /* before INIT: ignored */
	lapic_accept_init_sipi(ap);
	assert_int_equal(ap->mp_state, KVM_MP_STATE_UNINITIALIZED);
	ap->gpr[RAX] = 77;
	send(cpu(&f, 0), 1 << 24, APIC_INIT << 8 | 1 << 14 | 1 << 15);
	assert_true(atomic_load(&ap->requests) & VREQ_INIT_SIPI);
	lapic_accept_init_sipi(ap);
	assert_int_equal(ap->mp_state, KVM_MP_STATE_INIT_RECEIVED);
	assert_int_equal(ap->gpr[RAX], 0);
	send(cpu(&f, 0), 1 << 24, APIC_INIT << 8 | 1 << 15); /* de-assert: nothing */
	lapic_accept_init_sipi(ap);
	send(cpu(&f, 0), 1 << 24, APIC_STARTUP << 8 | 0x9a);
	lapic_accept_init_sipi(ap);
	assert_int_equal(ap->mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(ap->seg[SEG_CS].sel, 0x9a00);
	assert_int_equal(ap->seg[SEG_CS].base, 0x9a000);
	assert_int_equal(ap->rip, 0);
	fixture_close(&f);
}

enum { RESETS = 20000 };

static _Atomic unsigned resets;

static void *reset_again_and_again(void *arg)
{
	while (resets < RESETS) {
		lapic_reset(arg, true);
		resets++;
	}
	return NULL;
}

/* The SIPI is sent while the receiver is still at its INIT; its ID is one that the guest has chosen. */
static void sipi_finds_an_apic_at_its_init(void **state)
{
	struct apic_message sipi = {.dest = 5, .mode = APIC_STARTUP, .vector = 0x9a, .is_assert = true};
	struct vm_fixture f;
	pthread_t thread;
	unsigned lost = 0;

	open_enabled(&f, 2);
	mmio_write(cpu(&f, 1), APIC_ID, 5 << 24);
	resets = 0;
	assert_int_equal(pthread_create(&thread, NULL, reset_again_and_again, cpu(&f, 1)), 0);
	while (resets < RESETS)
		lost += apic_send(f.vm->vm, NULL, &sipi) != 1;
	pthread_join(thread, NULL);
	assert_int_equal(lost, 0);
	assert_int_equal(mmio_read(cpu(&f, 1), APIC_ID), 5 << 24);
	fixture_close(&f);
}

static void nmi_by_message(void **state)
{
	struct vm_fixture f;

	open_enabled(&f, 2);
	mmio_write(cpu(&f, 1), APIC_SPIV, 0xff); /* also while software-disabled */
	for (int i = 0; i < 3; i++)
		send(cpu(&f, 0), 1 << 24, APIC_NMI << 8);
	assert_int_equal(cpu(&f, 1)->nmi_pending, 2); /* one in work, one waiting */
	fixture_close(&f);
}

/* --- modes --- */

static void base_transitions(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;
	const uint64_t off = XAPIC_BASE | APIC_BASE_BSP, x1 = off | APIC_BASE_ENABLED, x2 = x1 | APIC_BASE_X2;
	uint64_t value;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	v = cpu(&f, 0);
	assert_int_equal(x2_write(v, APIC_TPR, 0), -1);			      /* not in xAPIC mode */
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, off | APIC_BASE_X2), -1); /* x2 without enable */
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, x1 | 1), -1);      /* reserved */
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, x1 | 1ull << v->phys_bits), -1);
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, x2), 0);
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, x1), -1); /* not back */
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, off), 0);
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, x2), -1); /* not at once */
	assert_int_equal(lapic_msr_write(v, MSR_APIC_BASE, x1), 0);
	assert_int_equal(lapic_msr_read(v, MSR_APIC_BASE, &value), 0);
	assert_int_equal(value, x1);
	assert_int_equal(mmio_read(v, APIC_ID), 0);
	fixture_close(&f);
}

static void x2apic_faults(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;
	uint64_t value;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	v = cpu(&f, 0);
	x2apic_on(v);
	assert_int_equal(lapic_msr_read(v, MSR_X2APIC_FIRST + APIC_EOI / 16, &value), -1);
	assert_int_equal(lapic_msr_read(v, MSR_X2APIC_FIRST + APIC_DFR / 16, &value), -1);
	assert_int_equal(lapic_msr_read(v, MSR_X2APIC_FIRST + APIC_ICR2 / 16, &value), -1);
	assert_int_equal(x2_write(v, APIC_EOI, 1), -1);
	assert_int_equal(x2_write(v, APIC_ESR, 1), -1);
	assert_int_equal(x2_write(v, APIC_TPR, 0x100), -1);
	assert_int_equal(x2_write(v, APIC_ID, 3), -1);
	assert_int_equal(x2_write(v, APIC_LDR, 3), -1);
	assert_int_equal(x2_write(v, APIC_TMICT, 1ull << 32), -1);
	assert_int_equal(x2_write(v, APIC_TPR, 0x20), 0);
	assert_int_equal(x2_read(v, APIC_TPR), 0x20);
	fixture_close(&f);
}

static void odd_mmio_accesses(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;
	uint64_t wide = 0x1234567890abcdef;
	uint8_t byte = 0;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	mmio_write(v, APIC_TPR, 0x30);
	assert_true(irqchip_mmio(v, XAPIC_BASE + APIC_TPR, &byte, 1, false));
	assert_int_equal(byte, 0x30);
	assert_true(irqchip_mmio(v, XAPIC_BASE + APIC_TPR + 4, &wide, 4, true)); /* between registers: lost */
	assert_true(irqchip_mmio(v, XAPIC_BASE + APIC_TPR, &byte, 1, true));     /* too narrow: lost */
	assert_true(irqchip_mmio(v, XAPIC_BASE + 0xff8, &wide, 8, true));
	assert_true(irqchip_mmio(v, XAPIC_BASE + 0xff8, &wide, 8, false));
	assert_int_equal(wide, 0);
	assert_int_equal(mmio_read(v, APIC_TPR), 0x30);
	assert_false(irqchip_mmio(v, XAPIC_BASE + 0x1000, &wide, 4, false));
	fixture_close(&f);
}

/* --- timer --- */

/* Poll as the run loop does until `vector` comes or two seconds have passed. */
static bool timer_fires(struct vcpu *v, int vector)
{
	uint64_t end = wall_ns() + 2000000000;

	while (wall_ns() < end) {
		lapic_timer_poll(v);
		if (irqchip_has_interrupt(v))
			return irqchip_ack(v) == vector;
		sleep_ms(1);
	}
	return false;
}

static void one_shot_timer(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;
	uint64_t deadline;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	mmio_write(v, APIC_TDCR, 0xb); /* divide by 1 */
	mmio_write(v, APIC_LVTT, 0xec);
	mmio_write(v, APIC_TMICT, 1000000000);
	assert_in_range(mmio_read(v, APIC_TMCCT), 1, 1000000000);
	deadline = lapic_timer_deadline_ns(v);
	assert_in_range(deadline, wall_ns() - 1000000000, wall_ns() + 1000000000);
	lapic_timer_poll(v);
	assert_false(irqchip_has_interrupt(v));
	mmio_write(v, APIC_TMICT, 3000000);
	assert_true(timer_fires(v, 0xec));
	assert_int_equal(lapic_timer_deadline_ns(v), UINT64_MAX);
	assert_int_equal(mmio_read(v, APIC_TMCCT), 0);
	mmio_write(v, APIC_EOI, 0);
	fixture_close(&f);
}

static void periodic_timer(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	mmio_write(v, APIC_TDCR, 0); /* divide by 2 */
	mmio_write(v, APIC_LVTT, 0xec | LVT_TIMER_PERIODIC);
	mmio_write(v, APIC_TMICT, 1000000);
	for (int i = 0; i < 3; i++) {
		assert_true(timer_fires(v, 0xec));
		mmio_write(v, APIC_EOI, 0);
	}
	mmio_write(v, APIC_TMICT, 1000000000);
	mmio_write(v, APIC_LVTT, 0xec); /* one-shot: goes on from where it is, and then ends */
	assert_in_range(mmio_read(v, APIC_TMCCT), 1, 1000000000);
	assert_int_equal(mmio_read(v, APIC_TMICT), 1000000000);
	mmio_write(v, APIC_TMICT, 1000000);
	assert_true(timer_fires(v, 0xec));
	mmio_write(v, APIC_LVTT, 0xec | LVT_TIMER_PERIODIC); /* what has ended stays so; the count is kept */
	assert_int_equal(mmio_read(v, APIC_TMCCT), 0);
	assert_int_equal(mmio_read(v, APIC_TMICT), 1000000);
	mmio_write(v, APIC_TMICT, 0);
	assert_int_equal(lapic_timer_deadline_ns(v), UINT64_MAX);
	fixture_close(&f);
}

static void deadline_timer(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;
	uint64_t value, tsc;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	assert_int_equal(lapic_msr_write(v, MSR_TSC_DEADLINE, 1000), 0); /* not in that mode: ignored */
	assert_int_equal(lapic_msr_read(v, MSR_TSC_DEADLINE, &value), 0);
	assert_int_equal(value, 0);
	mmio_write(v, APIC_LVTT, 0xed | LVT_TIMER_DEADLINE);
	tsc = host_tsc() + (uint64_t)v->tsc_offset;
	assert_int_equal(lapic_msr_write(v, MSR_TSC_DEADLINE, tsc + host_tsc_khz() * 3), 0); /* 3 ms */
	lapic_msr_read(v, MSR_TSC_DEADLINE, &value);
	assert_int_equal(value, tsc + host_tsc_khz() * 3);
	assert_true(timer_fires(v, 0xed));
	assert_true(host_tsc() + (uint64_t)v->tsc_offset >= value); /* never early */
	lapic_msr_read(v, MSR_TSC_DEADLINE, &value);
	assert_int_equal(value, 0);
	mmio_write(v, APIC_EOI, 0);
	assert_int_equal(lapic_msr_write(v, MSR_TSC_DEADLINE, 1), 0); /* long past */
	assert_int_equal(irqchip_ack(v), 0xed);
	mmio_write(v, APIC_EOI, 0);
	lapic_msr_write(v, MSR_TSC_DEADLINE, UINT64_MAX);
	mmio_write(v, APIC_LVTT, 0xed); /* another mode disarms */
	assert_int_equal(lapic_timer_deadline_ns(v), UINT64_MAX);
	fixture_close(&f);
}

/* --- KVM_GET_LAPIC, KVM_SET_LAPIC, PV EOI --- */

static void state_round_trip(void **state)
{
	struct vm_fixture f;
	struct kvm_lapic_state a, b;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	msi(&f, 0, 0x41, 1);
	irqchip_ack(v);
	msi(&f, 0, 0x52, 1);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_LAPIC, &a), 0);
	irqchip_ack(v);
	mmio_write(v, APIC_TPR, 0xf0);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_LAPIC, &a), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_GET_LAPIC, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(irqchip_ack(v), 0x52);
	fixture_close(&f);
}

static void pv_eoi_saves_the_write(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_enabled(&f, 1);
	v = cpu(&f, 0);
	v->kvm_pv_eoi = 0x3000 | 1;
	msi(&f, 0, 0x41, 1);
	assert_int_equal(irqchip_ack(v), 0x41);
	assert_int_equal(f.ram[0x3000], 1); /* offered */
	f.ram[0x3000] = 0;		    /* taken */
	assert_false(irqchip_has_interrupt(v));
	assert_int_equal(mmio_read(v, APIC_ISR + 0x20), 0);
	msi(&f, 0, 0x41, 1);
	irqchip_ack(v);
	msi(&f, 0, 0x31, 1);
	irqchip_has_interrupt(v); /* another waits: withdrawn */
	assert_int_equal(f.ram[0x3000], 0);
	assert_int_equal(mmio_read(v, APIC_ISR + 0x20), 2);
	mmio_write(v, APIC_EOI, 0);
	assert_int_equal(irqchip_ack(v), 0x31);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_on_state),
		cmocka_unit_test(higher_class_interrupts_lower),
		cmocka_unit_test(task_priority_holds_back),
		cmocka_unit_test(eoi_asks_for_another_look),
		cmocka_unit_test(software_disabled_takes_nothing),
		cmocka_unit_test(xapic_destinations),
		cmocka_unit_test(x2apic_destinations),
		cmocka_unit_test(illegal_vectors_set_esr),
		cmocka_unit_test(init_and_sipi_start_a_vcpu),
		cmocka_unit_test(sipi_finds_an_apic_at_its_init),
		cmocka_unit_test(nmi_by_message),
		cmocka_unit_test(base_transitions),
		cmocka_unit_test(x2apic_faults),
		cmocka_unit_test(odd_mmio_accesses),
		cmocka_unit_test(one_shot_timer),
		cmocka_unit_test(periodic_timer),
		cmocka_unit_test(deadline_timer),
		cmocka_unit_test(state_round_trip),
		cmocka_unit_test(pv_eoi_saves_the_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
