/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PV EOI (MSR_KVM_PV_EOI_EN): a guest that finds bit 0 of an agreed word set at the end of an interrupt clears it
 * instead of writing the EOI register.
 *
 * We set the bit when the EOI would have no other effect: nothing else in service or requested, and no I/O APIC waits
 * for it. Whenever the vCPU's thread is about to look at ISR, it takes the bit back: if the guest had cleared it,
 * the interrupt had ended. Guest and we are the same thread, so there is no race to lose.
 */
#include "softkvm/irqchip/lapic.h"

#include "softkvm/irqchip/chip.h"

static uint8_t *guest_word(struct vcpu *v)
{
	if (!(v->kvm_pv_eoi & 1))
		return NULL;
	return mem_at(&v->vm->mem, v->kvm_pv_eoi & ~3ull, 4, MEM_WRITE);
}

void pv_eoi_offer(struct vcpu *v, int vector)
{
	struct lapic *a = v->lapic;
	uint32_t tmr = lapic_reg(a, APIC_TMR + (unsigned)vector / 32 * 16);
	uint8_t *word;

	if (!(v->kvm_pv_eoi & 1) || tmr >> vector % 32 & 1 || lapic_highest(a, APIC_IRR) >= 0)
		return;
	if (!v->vm->split_irqchip && ioapic_wants_eoi(v->vm, (uint8_t)vector))
		return;
	for (unsigned o = APIC_ISR; o < APIC_TMR; o += 16) {
		uint32_t others = lapic_reg(a, o);

		if (o == APIC_ISR + (unsigned)vector / 32 * 16)
			others &= ~(1u << vector % 32);
		if (others)
			return;
	}
	word = guest_word(v);
	if (!word)
		return;
	__atomic_fetch_or(word, 1, __ATOMIC_SEQ_CST);
	a->pv_eoi_pending = true;
}

void pv_eoi_sync(struct vcpu *v)
{
	struct lapic *a = v->lapic;
	uint8_t *word = guest_word(v);
	bool was_taken = word && !(__atomic_fetch_and(word, (uint8_t)~1, __ATOMIC_SEQ_CST) & 1);
	int vector;

	a->pv_eoi_pending = false;
	vector = lapic_highest(a, APIC_ISR);
	if (was_taken && vector >= 0)
		lapic_end_interrupt(v, vector);
}
