/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The local APIC (SDM volume 3, chapter 10; x2APIC: 10.12), one per vCPU.
 *
 * Registers are held as in the xAPIC page. Any thread may send the APIC a message: that sets a bit in IRR (and TMR),
 * atomically, or pending INIT/SIPI/NMI, and kicks the vCPU. All else is done by the vCPU's own thread, at instruction
 * boundaries or by the guest's register accesses, or by ioctls while the vCPU is stopped; senders
 * only read ID, LDR, DFR, SPIV and the mode. So no lock is needed.
 *
 * IRR -> (priority above PPR) -> ISR at the acknowledge, -> gone at EOI. Whenever PPR may have fallen, lapic_recheck()
 * posts VREQ_IRQ to the vCPU itself, so the run loop looks again.
 *
 * Compiled without vector registers, as the guest's accesses come while its vector state is live.
 */
#include "softkvm/irqchip/lapic.h"

#include <errno.h>
#include <stdlib.h>

#include "softkvm/api/reset.h"
#include "softkvm/irqchip/chip.h"
#include "softkvm/irqchip/timer.h"

enum { LVT_COUNT = 6, VERSION = 0x14, REG_SPACE = 0x400, BITS_PER_REG = 32 };
#define DFR_FLAT 0xffffffffu

/* --- vector bitmaps: 8 registers, 16 bytes apart --- */

static unsigned vector_reg(unsigned base, unsigned vector)
{
	return base + vector / BITS_PER_REG * 16;
}

static bool vector_test(const struct lapic *a, unsigned base, unsigned vector)
{
	return lapic_reg(a, vector_reg(base, vector)) >> vector % BITS_PER_REG & 1;
}

static void vector_set(struct lapic *a, unsigned base, unsigned vector)
{
	atomic_fetch_or(&a->reg[vector_reg(base, vector) / 4], 1u << vector % BITS_PER_REG);
}

static void vector_clear(struct lapic *a, unsigned base, unsigned vector)
{
	atomic_fetch_and(&a->reg[vector_reg(base, vector) / 4], ~(1u << vector % BITS_PER_REG));
}

int lapic_highest(const struct lapic *a, unsigned base)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t bits = atomic_load(&a->reg[(base + (unsigned)i * 16) / 4]);

		if (bits)
			return i * BITS_PER_REG + 31 - __builtin_clz(bits);
	}
	return -1;
}

/* --- priorities (10.8.3) --- */

uint32_t lapic_ppr(struct lapic *a)
{
	uint32_t tpr = lapic_reg(a, APIC_TPR);
	int isr = lapic_highest(a, APIC_ISR);
	uint32_t in_service = isr < 0 ? 0 : (uint32_t)isr & 0xf0;

	return (tpr & 0xf0) >= in_service ? tpr & 0xff : in_service;
}

/* The vector that may be delivered now, or -1. */
static int deliverable(struct lapic *a)
{
	int irr;

	if (!lapic_is_enabled(a))
		return -1;
	irr = lapic_highest(a, APIC_IRR);
	return irr >= 0 && ((uint32_t)irr & 0xf0) > (lapic_ppr(a) & 0xf0) ? irr : -1;
}

void lapic_recheck(struct vcpu *v)
{
	if (deliverable(v->lapic) >= 0)
		vcpu_kick(v, VREQ_IRQ);
}

/* --- interrupts of a PIC, through LINT0 (10.5.1) --- */

bool lapic_accepts_extint(struct vcpu *v)
{
	uint32_t lint0;

	if (!v->lapic || !lapic_is_enabled(v->lapic))
		return true;
	lint0 = lapic_reg(v->lapic, APIC_LVT0);
	return !(lint0 & LVT_MASKED) && (lint0 & LVT_MODE) >> 8 == APIC_EXTINT;
}

static bool has_extint(struct vcpu *v)
{
	struct vm *vm = v->vm;
	bool pending;

	if (vm->split_irqchip)
		pending = atomic_load(&v->lapic->extint_vector) >= 0;
	else
		pending = atomic_load(&vm->irqchip->pics.output);
	return pending && lapic_accepts_extint(v);
}

bool lapic_accepts_user_interrupt(struct vcpu *v)
{
	if (!v->lapic)
		return true;
	return v->vm->split_irqchip && lapic_accepts_extint(v) && atomic_load(&v->lapic->extint_vector) < 0;
}

int lapic_queue_extint(struct vcpu *v, uint8_t vector)
{
	int32_t none = -1;

	if (!atomic_compare_exchange_strong(&v->lapic->extint_vector, &none, vector))
		return -EEXIST;
	vcpu_kick(v, VREQ_IRQ);
	return 0;
}

static int ack_extint(struct vcpu *v)
{
	int vector;

	if (v->vm->split_irqchip)
		return atomic_exchange(&v->lapic->extint_vector, -1);
	pthread_mutex_lock(&v->vm->irqchip->lock);
	vector = pic_ack(v->vm);
	pthread_mutex_unlock(&v->vm->irqchip->lock);
	return vector;
}

/* --- what the run loop asks --- */

bool irqchip_has_interrupt(struct vcpu *v)
{
	if (!v->lapic)
		return false;
	if (v->lapic->pv_eoi_pending)
		pv_eoi_sync(v);
	return has_extint(v) || deliverable(v->lapic) >= 0;
}

int irqchip_ack(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	int vector;

	if (!a)
		return -1;
	if (has_extint(v))
		return ack_extint(v);
	vector = deliverable(a);
	if (vector < 0)
		return -1;
	vector_set(a, APIC_ISR, (unsigned)vector);
	vector_clear(a, APIC_IRR, (unsigned)vector);
	pv_eoi_offer(v, vector);
	return vector;
}

/* --- end of interrupt --- */

static void broadcast_eoi(struct vcpu *v, uint8_t vector)
{
	struct lapic *a = v->lapic;
	bool is_level = vector_test(a, APIC_TMR, vector);

	if (lapic_reg(a, APIC_SPIV) & SPIV_NO_EOI_BROADCAST && lapic_reg(a, APIC_LVR) & LVR_NO_EOI_BROADCAST)
		return;
	if (v->vm->split_irqchip) {
		if (is_level && routing_wants_eoi(v->vm, vector)) {
			v->lapic->ioapic_eoi_vector = vector;
			vcpu_kick(v, VREQ_IOAPIC_EOI);
		}
		return;
	}
	if (!is_level && !ioapic_wants_eoi(v->vm, vector))
		return;
	pthread_mutex_lock(&v->vm->irqchip->lock);
	ioapic_eoi(v->vm, vector);
	pthread_mutex_unlock(&v->vm->irqchip->lock);
}

uint8_t lapic_ioapic_eoi_vector(struct vcpu *v)
{
	return v->lapic->ioapic_eoi_vector;
}

void lapic_end_interrupt(struct vcpu *v, int vector)
{
	vector_clear(v->lapic, APIC_ISR, (unsigned)vector);
	broadcast_eoi(v, (uint8_t)vector);
	lapic_recheck(v);
}

static void write_eoi(struct vcpu *v)
{
	int vector;

	if (v->lapic->pv_eoi_pending)
		pv_eoi_sync(v);
	vector = lapic_highest(v->lapic, APIC_ISR);
	if (vector >= 0)
		lapic_end_interrupt(v, vector);
}

/* --- local vector table --- */

void lapic_local_deliver(struct vcpu *v, unsigned lvt_offset)
{
	uint32_t lvt = lapic_reg(v->lapic, lvt_offset);
	struct apic_message m = {.vector = (uint8_t)lvt, .mode = (lvt & LVT_MODE) >> 8, .is_assert = true,
				 .is_level = lvt & LVT_LEVEL};

	if (!lapic_is_enabled(v->lapic) || lvt & LVT_MASKED)
		return;
	if (lvt_offset == APIC_LVTT || lvt_offset == APIC_LVTERR) /* always fixed, always edge */
		m = (struct apic_message){.vector = (uint8_t)lvt, .mode = APIC_FIXED, .is_assert = true};
	lapic_accept(v, &m);
}

/* Bits of an LVT register that can be written. */
static uint32_t lvt_mask(unsigned offset)
{
	switch (offset) {
	case APIC_LVTT:
		return 0xff | LVT_MASKED | LVT_TIMER_MODE;
	case APIC_LVT0:
	case APIC_LVT1:
		return 0xff | LVT_MODE | 1 << 13 | LVT_LEVEL | LVT_MASKED;
	case APIC_LVTERR:
		return 0xff | LVT_MASKED;
	default:
		return 0xff | LVT_MODE | LVT_MASKED;
	}
}

static bool is_lvt(unsigned offset)
{
	return offset >= APIC_LVTT && offset <= APIC_LVTERR;
}

static void write_lvt(struct vcpu *v, unsigned offset, uint32_t value)
{
	struct lapic *a = v->lapic;
	uint32_t old = lapic_reg(a, offset);

	value &= lvt_mask(offset);
	if (!lapic_is_software_enabled(a))
		value |= LVT_MASKED;
	lapic_set_reg(a, offset, value);
	if (offset == APIC_LVTT && (old ^ value) & LVT_TIMER_MODE)
		lapic_timer_mode_changed(v);
	if (offset == APIC_LVT0 && has_extint(v))
		vcpu_kick(v, VREQ_IRQ);
}

static void write_spiv(struct vcpu *v, uint32_t value)
{
	struct lapic *a = v->lapic;
	uint32_t mask = 0x1ff | (lapic_reg(a, APIC_LVR) & LVR_NO_EOI_BROADCAST ? SPIV_NO_EOI_BROADCAST : 0);

	lapic_set_reg(a, APIC_SPIV, value & mask);
	if (!(value & SPIV_ENABLED)) /* 10.4.7.2: all LVT entries become masked */
		for (unsigned o = APIC_LVTT; o <= APIC_LVTERR; o += 16)
			lapic_set_reg(a, o, lapic_reg(a, o) | LVT_MASKED);
}

/* --- interprocessor interrupts (10.6) --- */

static void send_icr(struct vcpu *v, uint32_t low, uint32_t dest, bool is_x2apic)
{
	struct apic_message m = {
		.dest = dest, .is_x2apic_dest = is_x2apic, .vector = (uint8_t)low, .mode = low >> 8 & 7,
		.is_logical = low >> 11 & 1, .is_assert = low >> 14 & 1, .is_level = low >> 15 & 1,
		.shorthand = low >> 18 & 3};

	if (m.mode == APIC_INIT && m.is_level && !m.is_assert)
		return; /* INIT level de-assert: nothing since the Pentium 4 */
	if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < 16) {
		atomic_fetch_or(&v->lapic->esr_pending, ESR_SEND_ILLEGAL);
		lapic_local_deliver(v, APIC_LVTERR);
		return;
	}
	m.is_level = false; /* IPIs are edge-triggered: 10.6.1 */
	m.is_assert = true;
	apic_send(v->vm, v->lapic, &m);
}

/* --- registers --- */

static uint32_t read_reg(struct vcpu *v, unsigned offset)
{
	struct lapic *a = v->lapic;

	switch (offset) {
	case APIC_PPR:
		return lapic_ppr(a);
	case APIC_TMCCT:
		return lapic_timer_current_count(v);
	case APIC_EOI:
	case APIC_SELF_IPI:
	case APIC_APR:
	case APIC_RRD:
		return 0;
	case APIC_ID:
		return lapic_is_x2apic(a) ? v->id : lapic_reg(a, offset);
	default:
		if (offset >= APIC_ISR && offset < APIC_TMR && a->pv_eoi_pending)
			pv_eoi_sync(v);
		return lapic_reg(a, offset);
	}
}

/* What both modes write alike. */
static void write_reg(struct vcpu *v, unsigned offset, uint32_t value)
{
	struct lapic *a = v->lapic;

	switch (offset) {
	case APIC_TPR:
		lapic_set_reg(a, APIC_TPR, value & 0xff);
		lapic_recheck(v);
		break;
	case APIC_EOI:
		write_eoi(v);
		break;
	case APIC_SPIV:
		write_spiv(v, value);
		break;
	case APIC_ESR:
		lapic_set_reg(a, APIC_ESR, atomic_exchange(&a->esr_pending, 0));
		break;
	case APIC_TMICT:
		if ((lapic_reg(a, APIC_LVTT) & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE)
			break;
		lapic_set_reg(a, APIC_TMICT, value);
		lapic_timer_restart(v);
		break;
	case APIC_TDCR:
		lapic_set_reg(a, APIC_TDCR, value & 0xb);
		lapic_timer_divider_changed(v);
		break;
	default:
		if (is_lvt(offset))
			write_lvt(v, offset, value);
	}
}

static void write_xapic(struct vcpu *v, unsigned offset, uint32_t value)
{
	struct lapic *a = v->lapic;

	switch (offset) {
	case APIC_ID:
		lapic_set_reg(a, APIC_ID, value & 0xff000000);
		break;
	case APIC_LDR:
		lapic_set_reg(a, APIC_LDR, value & 0xff000000);
		break;
	case APIC_DFR:
		lapic_set_reg(a, APIC_DFR, value | 0x0fffffff);
		break;
	case APIC_ICR:
		lapic_set_reg(a, APIC_ICR, value & ~(1u << 12));
		send_icr(v, value, lapic_reg(a, APIC_ICR2) >> 24, false);
		break;
	case APIC_ICR2:
		lapic_set_reg(a, APIC_ICR2, value & 0xff000000);
		break;
	default:
		write_reg(v, offset, value);
	}
}

/* --- the xAPIC page --- */

/* Aligned 32-bit accesses are what is defined (10.4.1); parts of a register can be read, other writes are lost. */
static void xapic_access(struct vcpu *v, unsigned offset, void *data, unsigned size, bool is_write)
{
	uint8_t *bytes = data;
	unsigned reg = offset & ~15u, shift = offset & 15;
	uint32_t value = 0;

	if (is_write) {
		if (size != 4 || shift || offset >= REG_SPACE)
			return;
		__builtin_memcpy(&value, data, 4);
		write_xapic(v, reg, value);
		return;
	}
	if (shift + size <= 4 && offset < REG_SPACE)
		value = read_reg(v, reg);
	for (unsigned i = 0; i < size; i++)
		bytes[i] = i + shift < 4 ? (uint8_t)(value >> 8 * (i + shift)) : 0;
}

static bool lapic_mmio(struct vcpu *v, gpa_t gpa, void *data, unsigned size, bool is_write)
{
	if (!v->lapic || (gpa & PAGE_MASK) != (v->apic_base & APIC_BASE_ADDRESS))
		return false;
	if (lapic_is_enabled(v->lapic) && !lapic_is_x2apic(v->lapic)) {
		xapic_access(v, gpa & (PAGE_SIZE - 1), data, size, is_write);
		return true;
	}
	for (unsigned i = 0; !is_write && i < size; i++) /* nobody there */
		((uint8_t *)data)[i] = 0xff;
	return true;
}

bool irqchip_mmio(struct vcpu *v, gpa_t gpa, void *data, unsigned size, bool is_write)
{
	struct vm *vm = v->vm;
	uint32_t value = 0;

	if (!vm->irqchip)
		return false;
	if (lapic_mmio(v, gpa, data, size, is_write))
		return true;
	if (vm->split_irqchip || gpa - vm->irqchip->ioapic.base >= 0x100)
		return false;
	for (unsigned i = 0; is_write && i < size && i < 4; i++)
		value |= (uint32_t)((uint8_t *)data)[i] << 8 * i;
	pthread_mutex_lock(&vm->irqchip->lock);
	ioapic_mmio(vm, gpa - vm->irqchip->ioapic.base, &value, is_write);
	pthread_mutex_unlock(&vm->irqchip->lock);
	for (unsigned i = 0; !is_write && i < size; i++)
		((uint8_t *)data)[i] = i < 4 ? (uint8_t)(value >> 8 * i) : 0;
	return true;
}

/* --- x2APIC MSRs (10.12.1.2) --- */

static bool x2apic_readable(unsigned offset)
{
	switch (offset) {
	case APIC_ID:
	case APIC_LVR:
	case APIC_TPR:
	case APIC_PPR:
	case APIC_LDR:
	case APIC_SPIV:
	case APIC_ESR:
	case APIC_ICR:
	case APIC_TMICT:
	case APIC_TMCCT:
	case APIC_TDCR:
		return true;
	}
	return is_lvt(offset) || (offset >= APIC_ISR && offset < APIC_ESR);
}

/* Bits that must be 0, UINT64_MAX for registers that can't be written. */
static uint64_t x2apic_reserved(struct vcpu *v, unsigned offset)
{
	switch (offset) {
	case APIC_TPR:
	case APIC_SELF_IPI:
		return ~0xffull;
	case APIC_EOI:
	case APIC_ESR:
		return ~0ull;
	case APIC_SPIV:
		return ~(0x1ffull | (lapic_reg(v->lapic, APIC_LVR) & LVR_NO_EOI_BROADCAST ? SPIV_NO_EOI_BROADCAST : 0));
	case APIC_ICR:
		return 0xfff32000;
	case APIC_TMICT:
		return ~0xffffffffull;
	case APIC_TDCR:
		return ~0xbull;
	}
	return is_lvt(offset) ? ~(uint64_t)(lvt_mask(offset) | 1 << 12 | 1 << 14) : 0;
}

static bool x2apic_writable(unsigned offset)
{
	switch (offset) {
	case APIC_TPR:
	case APIC_EOI:
	case APIC_SPIV:
	case APIC_ESR:
	case APIC_ICR:
	case APIC_TMICT:
	case APIC_TDCR:
	case APIC_SELF_IPI:
		return true;
	}
	return is_lvt(offset);
}

static int x2apic_read(struct vcpu *v, unsigned offset, uint64_t *value)
{
	if (!lapic_is_x2apic(v->lapic) || !x2apic_readable(offset))
		return -1;
	*value = read_reg(v, offset);
	if (offset == APIC_ICR)
		*value |= (uint64_t)lapic_reg(v->lapic, APIC_ICR2) << 32;
	return 0;
}

static int x2apic_write(struct vcpu *v, unsigned offset, uint64_t value)
{
	if (!lapic_is_x2apic(v->lapic) || !x2apic_writable(offset) || value & x2apic_reserved(v, offset))
		return -1;
	if (offset == APIC_ICR) {
		lapic_set_reg(v->lapic, APIC_ICR, (uint32_t)value & ~(1u << 12));
		lapic_set_reg(v->lapic, APIC_ICR2, (uint32_t)(value >> 32));
		send_icr(v, (uint32_t)value, (uint32_t)(value >> 32), true);
	} else if (offset == APIC_SELF_IPI) {
		send_icr(v, (uint32_t)value | APIC_SHORT_SELF << 18, 0, true);
	} else {
		write_reg(v, offset, (uint32_t)value);
	}
	return 0;
}

/* --- APIC_BASE (10.4.4, 10.12.5) --- */

static bool has_x2apic_feature(const struct vcpu *v)
{
	for (uint32_t i = 0; i < v->cpuid->nent; i++)
		if (v->cpuid->entries[i].function == 1)
			return v->cpuid->entries[i].ecx >> 21 & 1;
	return false;
}

static bool is_base_valid(const struct vcpu *v, uint64_t base, bool host)
{
	uint64_t reserved = ~(APIC_BASE_ADDRESS | APIC_BASE_BSP | APIC_BASE_ENABLED | APIC_BASE_X2);
	bool was_x2 = v->apic_base & APIC_BASE_X2, was_on = v->apic_base & APIC_BASE_ENABLED;

	if (!has_x2apic_feature(v) && !(host && !v->cpuid->nent))
		reserved |= APIC_BASE_X2;
	if (base & reserved || (base & APIC_BASE_X2 && !(base & APIC_BASE_ENABLED)))
		return false;
	if (host)
		return true;
	if (was_x2 && base & APIC_BASE_ENABLED && !(base & APIC_BASE_X2))
		return false; /* x2APIC to xAPIC goes through disabled */
	return was_on || !(base & APIC_BASE_X2);
}

static void set_x2apic_identity(struct vcpu *v)
{
	lapic_set_reg(v->lapic, APIC_ID, v->id);
	lapic_set_reg(v->lapic, APIC_LDR, (v->id >> 4) << 16 | 1u << (v->id & 15));
}

static void apply_base(struct vcpu *v, uint64_t base)
{
	uint64_t old = v->apic_base;

	v->apic_base = base;
	if (!v->lapic)
		return;
	atomic_store(&v->lapic->mode_base, base);
	if (!((old ^ base) & (APIC_BASE_ENABLED | APIC_BASE_X2)))
		return;
	if (base & APIC_BASE_X2)
		set_x2apic_identity(v);
	else if (base & APIC_BASE_ENABLED)
		lapic_set_reg(v->lapic, APIC_ID, v->id << 24);
	else
		lapic_timer_reset(v);
	lapic_recheck(v);
}

int lapic_set_base(struct vcpu *v, uint64_t base)
{
	if (base == v->apic_base)
		return 0;
	if (!is_base_valid(v, base, true))
		return -EINVAL;
	apply_base(v, base);
	return 0;
}

/* --- MSRs and CR8 --- */

int lapic_msr_read(struct vcpu *v, uint32_t msr, uint64_t *value)
{
	if (msr == MSR_APIC_BASE) {
		*value = v->apic_base;
		return 0;
	}
	if (!v->lapic)
		return -1;
	if (msr == MSR_TSC_DEADLINE) {
		*value = v->lapic->tsc_deadline;
		return 0;
	}
	return x2apic_read(v, (msr - MSR_X2APIC_FIRST) << 4, value);
}

int lapic_msr_write(struct vcpu *v, uint32_t msr, uint64_t value)
{
	if (msr == MSR_APIC_BASE) {
		if (!is_base_valid(v, value, false))
			return -1;
		apply_base(v, value);
		return 0;
	}
	if (!v->lapic)
		return -1;
	if (msr == MSR_TSC_DEADLINE) {
		lapic_timer_set_deadline(v, value);
		return 0;
	}
	return x2apic_write(v, (msr - MSR_X2APIC_FIRST) << 4, value);
}

uint64_t lapic_get_cr8(struct vcpu *v)
{
	return v->lapic ? lapic_reg(v->lapic, APIC_TPR) >> 4 : v->run->cr8;
}

void lapic_set_cr8(struct vcpu *v, uint64_t cr8)
{
	if (!v->lapic) {
		v->run->cr8 = cr8 & 15;
		return;
	}
	lapic_set_reg(v->lapic, APIC_TPR, (uint32_t)(cr8 & 15) << 4);
	lapic_recheck(v);
}

/* --- life, INIT and SIPI --- */

void lapic_reset(struct vcpu *v, bool init)
{
	struct lapic *a = v->lapic;
	uint32_t version = VERSION | (LVT_COUNT - 1) << 16;

	for (unsigned i = 0; i < REG_SPACE / 4; i++)
		atomic_store_explicit(&a->reg[i], 0, memory_order_relaxed);
	if (v->vm->split_irqchip && has_x2apic_feature(v))
		version |= LVR_NO_EOI_BROADCAST;
	atomic_store(&a->mode_base, v->apic_base);
	lapic_set_reg(a, APIC_LVR, version);
	lapic_set_reg(a, APIC_DFR, DFR_FLAT);
	lapic_set_reg(a, APIC_SPIV, 0xff);
	lapic_set_reg(a, APIC_ID, v->id << 24);
	if (lapic_is_x2apic(a))
		set_x2apic_identity(v);
	for (unsigned o = APIC_LVTT; o <= APIC_LVTERR; o += 16)
		lapic_set_reg(a, o, LVT_MASKED);
	if (!init && v->id == v->vm->boot_cpu_id) /* firmware's job on a PC: the PIC's interrupts come through */
		lapic_set_reg(a, APIC_LVT0, APIC_EXTINT << 8);
	a->pv_eoi_pending = false;
	atomic_store(&a->esr_pending, 0);
	atomic_store(&a->extint_vector, -1);
	if (!init)
		atomic_store(&a->pending, 0);
	lapic_timer_reset(v);
}

int lapic_new(struct vcpu *v)
{
	v->lapic = calloc(1, sizeof(*v->lapic));
	if (!v->lapic)
		return -ENOMEM;
	v->lapic->extint_vector = -1;
	v->lapic->alarm_ns = UINT64_MAX;
	return 0;
}

void lapic_free(struct vcpu *v)
{
	free(v->lapic);
	v->lapic = NULL;
}

void lapic_accept_init_sipi(struct vcpu *v)
{
	uint32_t pending;

	if (!v->lapic)
		return;
	pending = atomic_exchange(&v->lapic->pending, 0);
	if (pending & LAPIC_PENDING_INIT) {
		vcpu_init_reset(v);
		lapic_reset(v, true);
		v->mp_state = v->apic_base & APIC_BASE_BSP ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
	}
	if (pending & LAPIC_PENDING_SIPI && v->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		uint32_t vector = atomic_load(&v->lapic->sipi_vector);

		v->seg[SEG_CS].sel = (uint16_t)(vector << 8);
		v->seg[SEG_CS].base = vector << 12;
		v->rip = 0;
		v->halted = false;
		vcpu_registers_replaced(v);
		v->mp_state = KVM_MP_STATE_RUNNABLE;
	}
}

uint32_t lapic_sipi_vector(struct vcpu *v)
{
	return atomic_load(&v->lapic->sipi_vector);
}

void lapic_set_sipi_vector(struct vcpu *v, uint32_t vector)
{
	atomic_store(&v->lapic->sipi_vector, vector & 0xff);
}

/* --- KVM_GET_LAPIC, KVM_SET_LAPIC --- */

void lapic_get_state(struct vcpu *v, struct kvm_lapic_state *state)
{
	struct lapic *a = v->lapic;
	uint32_t value;

	if (a->pv_eoi_pending)
		pv_eoi_sync(v);
	for (unsigned o = 0; o < REG_SPACE; o += 4) {
		value = lapic_reg(a, o);
		if (o == APIC_PPR || o == APIC_TMCCT)
			value = read_reg(v, o);
		if (o == APIC_ID && lapic_is_x2apic(a) && !v->vm->x2apic_ids_32bit)
			value <<= 24;
		__builtin_memcpy(state->regs + o, &value, 4);
	}
}

int lapic_set_state(struct vcpu *v, const struct kvm_lapic_state *state)
{
	struct lapic *a = v->lapic;
	uint32_t value;

	for (unsigned o = 0; o < REG_SPACE; o += 4) {
		__builtin_memcpy(&value, state->regs + o, 4);
		if (o == APIC_ID && lapic_is_x2apic(a))
			value = v->id;
		if (o != APIC_LVR)
			lapic_set_reg(a, o, value);
	}
	if (lapic_is_x2apic(a))
		set_x2apic_identity(v);
	a->pv_eoi_pending = false;
	lapic_timer_restored(v);
	vcpu_kick(v, VREQ_IRQ | VREQ_TIMER);
	return 0;
}
