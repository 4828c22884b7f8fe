/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The local APIC's registers as the guest sees them: the xAPIC page (SDM volume 3, 10.4), the x2APIC's MSRs (10.12), CR8
 * and APIC_BASE. All on the vCPU's own thread, or with the vCPU stopped. The model is told in lapic.c.
 */
#include "softkvm/irqchip/lapic.h"

#include <errno.h>

#include "softkvm/interpret/cpuid.h"
#include "softkvm/irqchip/chip.h"

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

/* --- local vector table, spurious vector --- */

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
		lapic_timer_mode_changed(v, old);
	if (offset == APIC_LVT0 && irqchip_has_interrupt(v))
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
		lapic_eoi(v);
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
		if (size != 4 || shift || offset >= APIC_REG_SPACE)
			return;
		__builtin_memcpy(&value, data, 4);
		write_xapic(v, reg, value);
		return;
	}
	if (shift + size <= 4 && offset < APIC_REG_SPACE)
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

static bool is_base_valid(const struct vcpu *v, uint64_t base, bool host)
{
	uint64_t address = APIC_BASE_ADDRESS & ((1ull << (v->phys_bits ? v->phys_bits : 40)) - 1);
	uint64_t reserved = ~(address | APIC_BASE_BSP | APIC_BASE_ENABLED | APIC_BASE_X2);
	bool was_x2 = v->apic_base & APIC_BASE_X2, was_on = v->apic_base & APIC_BASE_ENABLED;

	if (!lapic_has_x2apic_feature(v) && !(host && !v->cpuid->nent))
		reserved |= APIC_BASE_X2;
	if (v->phys_bits)
		reserved |= ~0ull << v->phys_bits;
	if (base & reserved || (base & APIC_BASE_X2 && !(base & APIC_BASE_ENABLED)))
		return false;
	if (host)
		return true;
	if (was_x2 && base & APIC_BASE_ENABLED && !(base & APIC_BASE_X2))
		return false; /* x2APIC to xAPIC goes through disabled */
	return was_on || !(base & APIC_BASE_X2);
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
		lapic_set_x2apic_identity(v);
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
	if (msr == MSR_TSC_DEADLINE) { /* without a local APIC it is there and does nothing, as in the kernel */
		*value = v->lapic ? v->lapic->tsc_deadline : 0;
		return 0;
	}
	if (!v->lapic)
		return -1;
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
	if (msr == MSR_TSC_DEADLINE) {
		if (v->lapic)
			lapic_timer_set_deadline(v, value);
		return 0;
	}
	if (!v->lapic)
		return -1;
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
