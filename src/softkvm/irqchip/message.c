/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages to local APICs: who is meant (SDM volume 3, 10.6.2 and 10.12.10), and what the receiver does. Any thread.
 *
 * Of several that match a lowest-priority message the vector's number picks one, so one interrupt source stays on one
 * vCPU; the architecture leaves the choice open.
 *
 * Compiled without vector registers: runs with the guest's vector state live.
 */
#include "softkvm/irqchip/lapic.h"

#include <errno.h>
#include <linux/kvm_para.h>

#include "softkvm/irqchip/chip.h"

enum { XAPIC_BROADCAST = 0xff, NMI_MAX_PENDING = 2 };
#define X2APIC_BROADCAST 0xffffffffu
#define DFR_CLUSTER	 0x0fffffffu

uint32_t lapic_id(const struct vcpu *v)
{
	return lapic_is_x2apic(v->lapic) ? v->id : lapic_reg(v->lapic, APIC_ID) >> 24;
}

static bool is_broadcast(const struct vcpu *v, const struct apic_message *m)
{
	if (m->is_x2apic_dest)
		return m->dest == X2APIC_BROADCAST;
	if (m->dest != XAPIC_BROADCAST)
		return false;
	return !lapic_is_x2apic(v->lapic) || !v->vm->x2apic_no_broadcast_quirk;
}

static bool matches_logical(const struct lapic *a, uint32_t dest)
{
	uint32_t ldr = lapic_reg(a, APIC_LDR);

	if (lapic_is_x2apic(a))
		return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff;
	ldr >>= 24;
	if (lapic_reg(a, APIC_DFR) == DFR_CLUSTER)
		return ldr >> 4 == dest >> 4 && ldr & dest & 0xf;
	return ldr & dest;
}

bool lapic_matches(struct vcpu *v, const struct apic_message *m)
{
	if (!lapic_is_enabled(v->lapic))
		return false;
	if (is_broadcast(v, m))
		return true;
	return m->is_logical ? matches_logical(v->lapic, m->dest) : lapic_id(v) == m->dest;
}

/* --- the receiver --- */

static int accept_vector(struct vcpu *v, const struct apic_message *m)
{
	struct lapic *a = v->lapic;
	unsigned word = m->vector / 32 * 4;
	uint32_t bit = 1u << m->vector % 32;
	bool was_set;

	if (!lapic_is_software_enabled(a))
		return 0;
	if (m->vector < 16) {
		atomic_fetch_or(&a->esr_pending, ESR_RECEIVE_ILLEGAL);
		return 0;
	}
	/* TMR before IRR: who sees the interrupt knows its kind. */
	if (m->is_level)
		atomic_fetch_or(&a->reg[APIC_TMR / 4 + word], bit);
	else
		atomic_fetch_and(&a->reg[APIC_TMR / 4 + word], ~bit);
	was_set = atomic_fetch_or(&a->reg[APIC_IRR / 4 + word], bit) & bit;
	if (!was_set)
		vcpu_kick(v, VREQ_IRQ);
	return !was_set;
}

static int accept_nmi(struct vcpu *v)
{
	uint32_t pending = atomic_load(&v->nmi_pending);

	while (pending < NMI_MAX_PENDING && !atomic_compare_exchange_weak(&v->nmi_pending, &pending, pending + 1))
		;
	vcpu_kick(v, VREQ_NMI);
	return 1;
}

int lapic_accept(struct vcpu *v, const struct apic_message *m)
{
	struct lapic *a = v->lapic;

	switch ((enum apic_mode)m->mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		return accept_vector(v, m);
	case APIC_NMI:
		return accept_nmi(v);
	case APIC_INIT:
		atomic_store(&a->pending, LAPIC_PENDING_INIT); /* a SIPI from before is void */
		vcpu_kick(v, VREQ_INIT_SIPI);
		return 1;
	case APIC_STARTUP:
		atomic_store(&a->sipi_vector, m->vector);
		atomic_fetch_or(&a->pending, LAPIC_PENDING_SIPI);
		vcpu_kick(v, VREQ_INIT_SIPI);
		return 1;
	case APIC_SMI:		/* no system management mode */
	case APIC_REMOTE_READ:	/* not since the Pentium 4 */
	case APIC_EXTINT:	/* comes by the PIC's own wire */
		break;
	}
	return -1;
}

/* --- the sender --- */

static int to_all(struct vm *vm, const struct lapic *except, const struct apic_message *m)
{
	unsigned count = atomic_load(&vm->vcpu_count);
	int taken = -1;

	for (unsigned i = 0; i < count; i++) {
		struct vcpu *v = vm->vcpu[i];
		int ret;

		if (v->lapic == except || !lapic_is_enabled(v->lapic))
			continue;
		ret = lapic_accept(v, m);
		if (ret >= 0)
			taken = (taken < 0 ? 0 : taken) + ret;
	}
	return taken;
}

static int to_matching(struct vm *vm, const struct apic_message *m)
{
	unsigned count = atomic_load(&vm->vcpu_count);
	int taken = -1;

	for (unsigned i = 0; i < count; i++) {
		int ret;

		if (!lapic_matches(vm->vcpu[i], m))
			continue;
		ret = lapic_accept(vm->vcpu[i], m);
		if (ret >= 0)
			taken = (taken < 0 ? 0 : taken) + ret;
	}
	return taken;
}

static int to_one_of_matching(struct vm *vm, const struct apic_message *m)
{
	unsigned count = atomic_load(&vm->vcpu_count), candidates = 0;
	struct vcpu *candidate[VM_MAX_VCPUS];

	for (unsigned i = 0; i < count; i++)
		if (lapic_is_software_enabled(vm->vcpu[i]->lapic) && lapic_matches(vm->vcpu[i], m))
			candidate[candidates++] = vm->vcpu[i];
	return candidates ? lapic_accept(candidate[m->vector % candidates], m) : -1;
}

static struct vcpu *owner_of(struct vm *vm, const struct lapic *a)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	for (unsigned i = 0; i < count; i++)
		if (vm->vcpu[i]->lapic == a)
			return vm->vcpu[i];
	return NULL;
}

int apic_send(struct vm *vm, struct lapic *sender, const struct apic_message *m)
{
	struct vcpu *self;

	switch (m->shorthand) {
	case APIC_SHORT_SELF:
		self = owner_of(vm, sender);
		return self ? lapic_accept(self, m) : -1;
	case APIC_SHORT_ALL:
		return to_all(vm, NULL, m);
	case APIC_SHORT_OTHERS:
		return to_all(vm, sender, m);
	}
	if (m->mode == APIC_LOWEST || (m->is_redirectable && m->mode == APIC_FIXED))
		return to_one_of_matching(vm, m);
	return to_matching(vm, m);
}

/* --- message-signalled interrupts (10.11) --- */

int irqchip_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	struct apic_message m = {
		.dest = address >> 12 & 0xff, .is_logical = address >> 2 & 1, .is_redirectable = address >> 3 & 1,
		.vector = (uint8_t)data, .mode = data >> 8 & 7, .is_level = data >> 15 & 1,
		.is_assert = data >> 14 & 1};

	if (!vm->irqchip)
		return -1;
	if (vm->x2apic_ids_32bit) { /* bits 8-31 of the destination travel in the address's upper half */
		m.dest |= (uint32_t)(address >> 32) & 0xffffff00;
		m.is_x2apic_dest = m.dest > 0xff;
	}
	return apic_send(vm, NULL, &m);
}

/* --- KVM's hypercalls --- */

long lapic_pv_send_ipi(struct vcpu *v, uint64_t bitmap_low, uint64_t bitmap_high, uint32_t min_id, uint32_t icr,
		       unsigned bits_per_word)
{
	const uint64_t bitmap[2] = {bitmap_low, bitmap_high};
	struct apic_message m = {.vector = (uint8_t)icr, .mode = icr >> 8 & 7, .is_assert = true};
	unsigned count = atomic_load(&v->vm->vcpu_count);
	long sent = 0;

	if (icr & (3u << 18 | 1u << 11) || m.mode == APIC_LOWEST) /* physical destinations without shorthand only */
		return -KVM_EINVAL;
	for (unsigned i = 0; i < count; i++) {
		struct vcpu *to = v->vm->vcpu[i];
		uint32_t bit = to->id - min_id;

		if (!to->lapic || to->id < min_id || bit >= 2 * bits_per_word)
			continue;
		if (bitmap[bit / bits_per_word] >> bit % bits_per_word & 1 && lapic_is_enabled(to->lapic) &&
		    lapic_accept(to, &m) > 0)
			sent++;
	}
	return sent;
}

void lapic_pv_kick(struct vm *vm, uint32_t apic_id)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	for (unsigned i = 0; i < count; i++) {
		struct vcpu *v = vm->vcpu[i];

		if (v->id == apic_id)
			vcpu_kick(v, VREQ_UNHALT);
	}
}
