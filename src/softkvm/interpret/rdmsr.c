/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RDMSR and WRMSR, and what the user decides of them: the filter of KVM_X86_SET_MSR_FILTER, and the exits of
 * KVM_CAP_X86_USER_SPACE_MSR in the place of #GP. The user's answer arrives as that of a device access does (io.c): with the next
 * KVM_RUN the instruction runs again from its start.
 */
#include <linux/kvm.h>

#include "softkvm/interpret/io.h"
#include "softkvm/interpret/msr.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"
#include "softkvm/irqchip/irqchip.h"

static bool is_allowed(const struct vcpu *v, uint32_t index, uint32_t access) /* KVM_MSR_FILTER_READ or _WRITE */
{
	const struct msr_filter *filter = v->vm->msr_filter; /* replaced while vCPUs stand still */

	if (!filter || (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST)) /* the latter are never filtered */
		return true;
	for (unsigned k = 0; k < filter->count; k++) {
		const struct msr_range *range = &filter->range[k];
		uint32_t at = index - range->base;

		if (index >= range->base && at < range->count && range->flags & access)
			return range->bitmap[at / 8] >> at % 8 & 1;
	}
	return filter->default_allow;
}

/* Leaves for the user, who wants to know, or by #GP. why: enum msr_refusal. */
static _Noreturn void refuse(struct vcpu *v, uint32_t index, uint64_t value, bool is_write, int why)
{
	uint32_t reason = why == MSR_FILTERED  ? KVM_MSR_EXIT_REASON_FILTER
			  : why == MSR_UNKNOWN ? KVM_MSR_EXIT_REASON_UNKNOWN
					       : KVM_MSR_EXIT_REASON_INVAL;

	if (v->vm->user_msr_reasons & reason)
		msr_leave(v, index, value, is_write, reason);
	raise_error(v, VEC_GP, 0);
}

/* --- instructions --- */

static int guest_get(struct vcpu *v, uint32_t index, uint64_t *value)
{
	return is_allowed(v, index, KVM_MSR_FILTER_READ) ? msr_get(v, index, value, false) : MSR_FILTERED;
}

static int guest_set(struct vcpu *v, uint32_t index, uint64_t value)
{
	return is_allowed(v, index, KVM_MSR_FILTER_WRITE) ? msr_set(v, index, value, false) : MSR_FILTERED;
}

void op_rdmsr(struct vcpu *v, const struct insn *i)
{
	uint32_t index = (uint32_t)v->gpr[RCX];
	uint64_t value = 0;
	int why = msr_answered(v, index, &value, false) ? 0 : guest_get(v, index, &value);

	if (why)
		refuse(v, index, 0, false, why);
	v->gpr[RAX] = (uint32_t)value;
	v->gpr[RDX] = value >> 32;
}

void op_wrmsr(struct vcpu *v, const struct insn *i)
{
	uint32_t index = (uint32_t)v->gpr[RCX];
	uint64_t value = (uint32_t)v->gpr[RAX] | v->gpr[RDX] << 32;
	int why = msr_answered(v, index, &value, true) ? 0 : guest_set(v, index, value);

	if (why)
		refuse(v, index, value, true, why);
}
