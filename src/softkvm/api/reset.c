/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SDM volume 3, table 10-1 "IA-32 and Intel 64 processor states following power-up, reset, or INIT".
 */
#include "softkvm/api/reset.h"

#include <linux/kvm.h>

#include "softkvm/api/handle.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/descriptor.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/tsc.h"
#include "softkvm/mmu/mmu.h"
#include "softkvm/vm.h"

#define PAT_AT_RESET	     0x0007040600070406ull
#define DR6_AT_RESET	     0xffff0ff0u
#define DR7_AT_RESET	     0x400
#define MISC_ENABLE_AT_RESET 1 /* fast strings */
#define SMBASE_AT_RESET	     0x30000
#define DE_CFG_AT_RESET	     2 /* AMD: LFENCE is serialising */

static void reset_segments(struct vcpu *v)
{
	const struct x86_seg data = {.limit = 0xffff, .attr = SEG_P | SEG_S | SEG_TYPE_RW | SEG_TYPE_ACCESSED};

	for (int i = 0; i < SEG_COUNT; i++)
		v->seg[i] = data;
	v->seg[SEG_CS] = (struct x86_seg){.sel = 0xf000, .base = 0xffff0000, .limit = 0xffff,
					  .attr = data.attr | SEG_TYPE_CODE};
	v->seg[SEG_LDTR].attr = SEG_P | 2; /* LDT */
	v->seg[SEG_TR].attr = SEG_P | 11;  /* busy 32-bit TSS, as KVM */
	v->gdt = v->idt = (struct x86_dtable){.limit = 0xffff};
}

static void reset_debug(struct vcpu *v)
{
	for (int i = 0; i < 8; i++)
		v->dr[i] = 0;
	v->dr[6] = DR6_AT_RESET;
	v->dr[7] = DR7_AT_RESET;
}

/* Family, model, stepping: what CPUID leaf 1 says in EAX. */
static uint32_t cpu_signature(const struct vcpu *v)
{
	for (uint32_t i = 0; i < v->cpuid->nent; i++)
		if (v->cpuid->entries[i].function == 1)
			return v->cpuid->entries[i].eax;
	return 0x600;
}

void vcpu_init_reset(struct vcpu *v)
{
	uint64_t kept_cache_bits = v->cr0 & (CR0_CD | CR0_NW);

	for (int i = 0; i < 16; i++)
		v->gpr[i] = 0;
	v->gpr[RDX] = cpu_signature(v);
	v->rip = 0xfff0;
	v->rflags = FLAG_FIXED;
	reset_segments(v);
	reset_debug(v);
	v->cr0 = CR0_ET | kept_cache_bits;
	v->cr2 = v->cr3 = v->cr4 = v->efer = 0;
	v->exception_pending = v->exception_injected = v->irq_injected = v->nmi_injected = v->nmi_masked = false;
	v->nmi_pending = 0;
	v->shadow = 0;
	v->halted = v->io_pending = false;
	v->mmio_count = v->mmio_next = 0;
	vcpu_registers_replaced(v);
}

void vcpu_power_on(struct vcpu *v)
{
	v->cr0 = CR0_CD | CR0_NW;
	vcpu_init_reset(v);
	v->cr0 = CR0_ET | CR0_CD | CR0_NW;
	v->xcr0 = 1;
	v->xss = 0;
	v->star = v->lstar = v->cstar = v->fmask = v->kernel_gs_base = v->tsc_aux = 0;
	v->sysenter_cs = v->sysenter_eip = v->sysenter_esp = 0;
	v->pat = PAT_AT_RESET;
	v->misc_enable = MISC_ENABLE_AT_RESET;
	v->misc_features = 0;
	v->smbase = SMBASE_AT_RESET;
	v->spec_ctrl = v->debugctl = v->feature_control = 0;
	v->tsc_offset = v->vm->vcpu_count ? v->vm->vcpu[0]->tsc_offset : -(int64_t)host_tsc(); /* all alike */
	v->tsc_adjust = 0;
	v->kvm_poll_control = 1;
	v->mcg_cap = 10 | MCG_CAP_SUPPORTED;
	v->hwcr = 0;
	v->de_cfg = DE_CFG_AT_RESET;
	v->mp_state = v->id == v->vm->boot_cpu_id || !v->lapic ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
	v->apic_base = 0xfee00000 | (v->id == v->vm->boot_cpu_id ? 1 << 8 : 0) | 1 << 11;
	fpu_reset(v);
	if (v->lapic)
		lapic_reset(v, false);
}

void vcpu_registers_replaced(struct vcpu *v)
{
	mode_update(v);
	if (!(v->cr0 & CR0_PE))
		v->cpl = 0;
	else if (v->rflags & FLAG_VM)
		v->cpl = 3;
	else
		v->cpl = (v->seg[SEG_SS].attr & SEG_DPL) >> SEG_DPL_SHIFT;
	mmu_flush_all(v);
	mmu_mode_changed(v);
	mmu_cr3_loaded(v, 0, false);
	mmu_cpl_changed(v);
}
