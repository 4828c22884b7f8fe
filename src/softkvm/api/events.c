/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exceptions, interrupts and NMIs on their way into a vCPU, as KVM's structs tell them; mp_state; machine checks.
 *
 * "Pending" exceptions have had no effect yet: their payload (CR2, DR6) is applied at delivery. "Injected" ones have,
 * and are only delivered again. A user that has not enabled KVM_CAP_EXCEPTION_PAYLOAD knows only the latter, so
 * the payload is applied before it is told.
 */
#include <errno.h>

#include "softkvm/api/state_rows.h"
#include "softkvm/interpret/event.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/state.h"

#define MCG_CTL_P	     (1ull << 8)
#define MCI_STATUS_VAL	     (1ull << 63)
#define MCI_STATUS_OVER	     (1ull << 62)
#define MCI_STATUS_UC	     (1ull << 61)
#define MCG_STATUS_MCIP	     (1ull << 2)
enum { NMI_MAX_PENDING = 2 };

/* --- exceptions, interrupts, NMIs --- */

void settle_exception(struct vcpu *v)
{
	if (v->exception_pending && !v->vm->exception_payload)
		event_apply_payload(v);
}

long get_vcpu_events(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_vcpu_events *out = data;
	struct vcpu *v = h->vcpu;

	settle_exception(v);
	out->exception.injected = v->exception_injected;
	out->exception.pending = v->exception_pending;
	out->exception.nr = v->exception_vector;
	out->exception.has_error_code = v->exception_has_error;
	out->exception.error_code = v->exception_error;
	if (v->vm->exception_payload) {
		out->exception_has_payload = v->exception_pending && v->exception_has_payload;
		out->exception_payload = out->exception_has_payload ? v->exception_payload : 0;
		out->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	} else {
		out->exception.injected |= v->exception_pending;
	}
	out->interrupt.injected = v->irq_injected && !v->irq_soft;
	out->interrupt.nr = v->irq_vector;
	out->interrupt.shadow = v->shadow;
	out->nmi.injected = v->nmi_injected;
	out->nmi.pending = v->nmi_pending != 0;
	out->nmi.masked = v->nmi_masked;
	out->flags |= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	if (v->vm->triple_fault_event) {
		out->triple_fault.pending = !!(v->requests & VREQ_TRIPLE_FAULT);
		out->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
	return 0;
}

/* 0 and *pending, *injected, *has_payload as the flags say they are to be understood. */
static int exception_in(const struct vcpu *v, const struct kvm_vcpu_events *in, bool *pending, bool *injected,
			bool *has_payload)
{
	*injected = in->exception.injected;
	*pending = *has_payload = false;
	if (in->flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
		if (!v->vm->exception_payload)
			return -EINVAL;
		*pending = in->exception.pending;
		*has_payload = in->exception_has_payload;
		if (*pending)
			*injected = false;
	}
	if ((*pending || *injected) && (in->exception.nr > 31 || in->exception.nr == VEC_NMI))
		return -EINVAL;
	return 0;
}

static int events_check(const struct vcpu *v, const struct kvm_vcpu_events *in)
{
	const uint32_t known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			       KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD |
			       KVM_VCPUEVENT_VALID_TRIPLE_FAULT;

	if (in->flags & ~known)
		return -EINVAL;
	if (in->flags & KVM_VCPUEVENT_VALID_SMM && (in->smi.smm || in->smi.pending || in->smi.smm_inside_nmi))
		return -EINVAL; /* no system management mode */
	if (in->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT && !v->vm->triple_fault_event)
		return -EINVAL;
	return 0;
}

long set_vcpu_events(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_vcpu_events *in = data;
	struct vcpu *v = h->vcpu;
	bool pending, injected, has_payload;

	if (events_check(v, in) || exception_in(v, in, &pending, &injected, &has_payload))
		return -EINVAL;
	v->exception_pending = pending;
	v->exception_injected = injected;
	v->exception_vector = in->exception.nr;
	v->exception_has_error = in->exception.has_error_code;
	v->exception_error = in->exception.error_code;
	v->exception_has_payload = has_payload;
	v->exception_payload = has_payload ? in->exception_payload : 0;
	v->irq_injected = in->interrupt.injected;
	v->irq_vector = in->interrupt.nr;
	v->irq_soft = in->interrupt.soft;
	if (in->flags & KVM_VCPUEVENT_VALID_SHADOW)
		v->shadow = in->interrupt.shadow & (KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI);
	v->nmi_injected = in->nmi.injected;
	if (in->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		v->nmi_pending = !!in->nmi.pending;
	v->nmi_masked = in->nmi.masked;
	if (in->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR && v->lapic)
		lapic_set_sipi_vector(v, in->sipi_vector);
	if (in->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) {
		atomic_fetch_and(&v->requests, ~(uint32_t)VREQ_TRIPLE_FAULT);
		if (in->triple_fault.pending)
			vcpu_kick(v, VREQ_TRIPLE_FAULT);
	}
	vcpu_kick(v, VREQ_IRQ | (v->nmi_pending ? VREQ_NMI : 0));
	return 0;
}

/*
 * KVM_INTERRUPT: without local APICs here, the vector is queued for the next boundary where it can be delivered; with
 * the split irqchip it is the user's PIC that has it. With a PIC here the user has no say.
 */
long interrupt(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_interrupt *in = data;
	struct vcpu *v = h->vcpu;

	if (in->irq > 255)
		return -EINVAL;
	if (v->vm->split_irqchip)
		return lapic_queue_extint(v, (uint8_t)in->irq);
	if (v->vm->irqchip)
		return -ENXIO;
	v->irq_injected = true;
	v->irq_soft = false;
	v->irq_vector = (uint8_t)in->irq;
	vcpu_kick(v, VREQ_IRQ);
	return 0;
}

long nmi(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct vcpu *v = h->vcpu;
	uint32_t pending = v->nmi_pending;

	while (pending < NMI_MAX_PENDING && !atomic_compare_exchange_weak(&v->nmi_pending, &pending, pending + 1))
		;
	vcpu_kick(v, VREQ_NMI);
	return 0;
}

/* --- mp_state --- */

long get_mp_state(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_mp_state *out = data;
	struct vcpu *v = h->vcpu;

	if (v->lapic)
		lapic_accept_init_sipi(v);
	out->mp_state = v->halted && v->mp_state == KVM_MP_STATE_RUNNABLE ? KVM_MP_STATE_HALTED : v->mp_state;
	return 0;
}

/* Without a local APIC here there is nobody to wake a vCPU but the user: it can only be runnable. */
long set_mp_state(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_mp_state *in = data;
	struct vcpu *v = h->vcpu;

	switch (in->mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!v->lapic)
			return -EINVAL;
		break;
	default:
		return -EINVAL;
	}
	v->halted = in->mp_state == KVM_MP_STATE_HALTED;
	v->mp_state = v->halted ? KVM_MP_STATE_RUNNABLE : in->mp_state;
	if (in->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		v->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		lapic_set_sipi_vector(v, lapic_sipi_vector(v));
	}
	return 0;
}

/* --- machine checks (SDM volume 3, 15.3) --- */

long setup_mce(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	uint64_t cap = *(uint64_t *)data;
	unsigned banks = cap & 0xff;
	struct vcpu *v = h->vcpu;

	if (!banks || banks > MCE_BANKS || cap & ~(MCG_CAP_SUPPORTED | 0xff | 0xff0000))
		return -EINVAL;
	v->mcg_cap = cap;
	v->mcg_ctl = cap & MCG_CTL_P ? UINT64_MAX : 0;
	for (unsigned i = 0; i < banks; i++)
		v->mc_bank[i][0] = UINT64_MAX;
	return 0;
}

/* An error with MCi_STATUS.UC raises #MC; a corrected one is only recorded. */
long set_mce(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_x86_mce *in = data;
	struct vcpu *v = h->vcpu;
	uint64_t *bank;
	bool is_uncorrected = in->status & MCI_STATUS_UC;

	if (in->bank >= (v->mcg_cap & 0xff) || !(in->status & MCI_STATUS_VAL))
		return -EINVAL;
	bank = v->mc_bank[in->bank];
	if (is_uncorrected && ((v->mcg_cap & MCG_CTL_P && v->mcg_ctl != UINT64_MAX) || bank[0] != UINT64_MAX))
		return 0; /* reporting is off */
	if (is_uncorrected && (v->mcg_status & MCG_STATUS_MCIP || !(v->cr4 & CR4_MCE))) {
		vcpu_kick(v, VREQ_TRIPLE_FAULT);
		return 0;
	}
	if (bank[1] & MCI_STATUS_VAL && !is_uncorrected && bank[1] & MCI_STATUS_UC) {
		bank[1] |= MCI_STATUS_OVER;
		return 0;
	}
	bank[2] = in->addr;
	bank[3] = in->misc;
	bank[1] = in->status | (bank[1] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
	if (is_uncorrected) {
		v->mcg_status = in->mcg_status;
		v->exception_pending = true;
		v->exception_has_error = v->exception_has_payload = false;
		v->exception_vector = VEC_MC;
	}
	return 0;
}
