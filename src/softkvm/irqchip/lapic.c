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
#include "softkvm/interpret/cpuid.h"
#include "softkvm/irqchip/chip.h"

enum { LVT_COUNT = 6, VERSION = 0x14, BITS_PER_REG = 32 };
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

void lapic_eoi(struct vcpu *v)
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

/* --- identity --- */

bool lapic_has_x2apic_feature(const struct vcpu *v)
{
	return cpuid_has(v, 1, 0, CPUID_ECX, 21);
}

/* In x2APIC mode the ID is fixed and LDR follows from it (10.12.10.2). */
void lapic_set_x2apic_identity(struct vcpu *v)
{
	lapic_set_reg(v->lapic, APIC_ID, v->id);
	lapic_set_reg(v->lapic, APIC_LDR, (v->id >> 4) << 16 | 1u << (v->id & 15));
}

/* --- life, INIT and SIPI --- */

/*
 * What senders read goes from its old value to the new one in one step each: a SIPI comes right behind its INIT, and must
 * find the APIC by its ID, which INIT leaves alone (10.4.7.3).
 */
static void reset_identity(struct vcpu *v, bool init)
{
	struct lapic *a = v->lapic;

	atomic_store(&a->mode_base, v->apic_base);
	lapic_set_reg(a, APIC_DFR, DFR_FLAT);
	lapic_set_reg(a, APIC_SPIV, 0xff);
	if (lapic_is_x2apic(a)) {
		lapic_set_x2apic_identity(v);
		return;
	}
	lapic_set_reg(a, APIC_LDR, 0);
	if (!init)
		lapic_set_reg(a, APIC_ID, v->id << 24);
}

static bool is_of_identity(unsigned offset)
{
	return offset == APIC_ID || offset == APIC_LDR || offset == APIC_DFR || offset == APIC_SPIV;
}

void lapic_reset(struct vcpu *v, bool init)
{
	struct lapic *a = v->lapic;
	uint32_t version = VERSION | (LVT_COUNT - 1) << 16;

	reset_identity(v, init);
	for (unsigned o = 0; o < APIC_REG_SPACE; o += 4)
		if (!is_of_identity(o))
			lapic_set_reg(a, o, 0);
	if (v->vm->split_irqchip && lapic_has_x2apic_feature(v))
		version |= LVR_NO_EOI_BROADCAST;
	lapic_set_reg(a, APIC_LVR, version);
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
	lapic_timer_poll(v); /* what has expired goes into IRR: a count of 0 restarts nothing */
	for (unsigned o = 0; o < APIC_REG_SPACE; o += 4) {
		value = lapic_reg(a, o);
		if (o == APIC_PPR)
			value = lapic_ppr(a);
		else if (o == APIC_TMCCT)
			value = lapic_timer_count_to_save(v);
		if (o == APIC_ID && lapic_is_x2apic(a) && !v->vm->x2apic_ids_32bit)
			value <<= 24;
		__builtin_memcpy(state->regs + o, &value, 4);
	}
}

int lapic_set_state(struct vcpu *v, const struct kvm_lapic_state *state)
{
	struct lapic *a = v->lapic;
	uint32_t value;

	for (unsigned o = 0; o < APIC_REG_SPACE; o += 4) {
		__builtin_memcpy(&value, state->regs + o, 4);
		if (o == APIC_ID && lapic_is_x2apic(a))
			value = v->id;
		if (o != APIC_LVR)
			lapic_set_reg(a, o, value);
	}
	if (lapic_is_x2apic(a))
		lapic_set_x2apic_identity(v);
	a->pv_eoi_pending = false;
	lapic_timer_restored(v);
	vcpu_kick(v, VREQ_IRQ | VREQ_TIMER);
	return 0;
}
