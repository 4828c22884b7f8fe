/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM's hypercalls (Documentation/virt/kvm/x86/hypercalls.rst) by VMCALL or VMMCALL, whatever the vendor: RAX is the
 * number and the result, arguments are in RBX, RCX, RDX, RSI.
 */
#include <errno.h>
#include <linux/kvm_para.h>
#include <sched.h>

#include "softkvm/interpret/cpuid.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"
#include "softkvm/irqchip/irqchip.h"

static int64_t hypercall(struct vcpu *v, uint64_t number, const uint64_t arg[4])
{
	if (v->cpl != 0)
		return -KVM_EPERM;
	switch (number) {
	case KVM_HC_VAPIC_POLL_IRQ:
		return 0;
	case KVM_HC_KICK_CPU:
		if (!cpuid_has_pv(v, KVM_FEATURE_PV_UNHALT))
			return -KVM_ENOSYS;
		lapic_pv_kick(v->vm, (uint32_t)arg[1]);
		return 0;
	case KVM_HC_CLOCK_PAIRING:
		return -KVM_EOPNOTSUPP;
	case KVM_HC_SEND_IPI:
		if (!cpuid_has_pv(v, KVM_FEATURE_PV_SEND_IPI))
			return -KVM_ENOSYS;
		return lapic_pv_send_ipi(v, arg[0], arg[1], (uint32_t)arg[2], (uint32_t)arg[3],
					 v->mode == MODE_64 ? 64 : 32);
	case KVM_HC_SCHED_YIELD:
		if (!cpuid_has_pv(v, KVM_FEATURE_PV_SCHED_YIELD))
			return -KVM_ENOSYS;
		sched_yield();
		return 0;
	default:
		return -KVM_ENOSYS;
	}
}

static void call(struct vcpu *v)
{
	uint64_t mask = v->mode == MODE_64 ? ~0ull : 0xffffffff;
	const uint64_t arg[4] = {v->gpr[RBX] & mask, v->gpr[RCX] & mask, v->gpr[RDX] & mask, v->gpr[RSI] & mask};
	int64_t result = hypercall(v, v->gpr[RAX] & mask, arg);

	v->counts->hypercalls++;
	v->gpr[RAX] = (uint64_t)result & mask;
}

void op_vmcall(struct vcpu *v, const struct insn *i)
{
	call(v);
}

void op_vmmcall(struct vcpu *v, const struct insn *i)
{
	call(v);
}
