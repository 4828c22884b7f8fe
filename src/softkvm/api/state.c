/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU's registers and tables in KVM's structs: general, system, debug and extended control registers, memory of
 * the local APIC. Events are in events.c, vector state in vector.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "softkvm/api/handle.h"
#include "softkvm/api/reset.h"
#include "softkvm/api/cpuid_list.h"
#include "softkvm/api/state_rows.h"
#include "softkvm/interpret/cpuid.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/state.h"
#include "softkvm/mmu/mmu.h"
#include "softkvm/mmu/watch.h"
#include "x86/insn.h"

/* --- general registers --- */

long get_regs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct vcpu *v = h->vcpu;
	const uint64_t *r = v->gpr;

	*(struct kvm_regs *)data = (struct kvm_regs){
		.rax = r[RAX], .rbx = r[RBX], .rcx = r[RCX], .rdx = r[RDX], .rsi = r[RSI], .rdi = r[RDI],
		.rsp = r[RSP], .rbp = r[RBP], .r8 = r[R8], .r9 = r[R9], .r10 = r[R10], .r11 = r[R11],
		.r12 = r[R12], .r13 = r[R13], .r14 = r[R14], .r15 = r[R15], .rip = v->rip, .rflags = v->rflags};
	return 0;
}

long set_regs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_regs *regs = data;
	const uint64_t in_order[16] = {regs->rax, regs->rcx, regs->rdx, regs->rbx, regs->rsp, regs->rbp,
				       regs->rsi, regs->rdi, regs->r8,	regs->r9,  regs->r10, regs->r11,
				       regs->r12, regs->r13, regs->r14, regs->r15};
	const uint64_t flags = FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM |
			       FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
	struct vcpu *v = h->vcpu;

	memcpy(v->gpr, in_order, sizeof(in_order));
	v->rip = regs->rip;
	v->rflags = (regs->rflags & flags) | FLAG_FIXED;
	v->exception_pending = false; /* as the kernel: it belonged to the instruction that was there */
	vcpu_registers_replaced(v);
	return 0;
}

/* --- segments and tables --- */

static struct kvm_segment segment_out(const struct x86_seg *s)
{
	return (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->sel, .type = s->attr & SEG_TYPE,
		.present = !!(s->attr & SEG_P), .dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT,
		.db = !!(s->attr & SEG_DB), .s = !!(s->attr & SEG_S), .l = !!(s->attr & SEG_L),
		.g = !!(s->attr & SEG_G), .avl = !!(s->attr & SEG_AVL),
		.unusable = !!(s->attr & SEG_UNUSABLE) || !(s->attr & SEG_P)};
}

static struct x86_seg segment_in(const struct kvm_segment *s)
{
	unsigned attr = (s->type & SEG_TYPE) | (s->s ? SEG_S : 0) | (s->dpl & 3) << SEG_DPL_SHIFT |
			(s->present ? SEG_P : 0) | (s->avl ? SEG_AVL : 0) | (s->l ? SEG_L : 0) |
			(s->db ? SEG_DB : 0) | (s->g ? SEG_G : 0);

	if (s->unusable) /* the DPL stays: SS's is the CPL */
		attr = SEG_UNUSABLE | (attr & ~(unsigned)SEG_P);
	return (struct x86_seg){.base = s->base, .limit = s->limit, .sel = s->selector, .attr = (uint16_t)attr};
}

static void segments_out(const struct vcpu *v, struct kvm_sregs2 *out)
{
	out->cs = segment_out(&v->seg[SEG_CS]);
	out->ds = segment_out(&v->seg[SEG_DS]);
	out->es = segment_out(&v->seg[SEG_ES]);
	out->fs = segment_out(&v->seg[SEG_FS]);
	out->gs = segment_out(&v->seg[SEG_GS]);
	out->ss = segment_out(&v->seg[SEG_SS]);
	out->tr = segment_out(&v->seg[SEG_TR]);
	out->ldt = segment_out(&v->seg[SEG_LDTR]);
	out->gdt = (struct kvm_dtable){.base = v->gdt.base, .limit = v->gdt.limit};
	out->idt = (struct kvm_dtable){.base = v->idt.base, .limit = v->idt.limit};
}

static void segments_in(struct vcpu *v, const struct kvm_sregs2 *in)
{
	v->seg[SEG_CS] = segment_in(&in->cs);
	v->seg[SEG_DS] = segment_in(&in->ds);
	v->seg[SEG_ES] = segment_in(&in->es);
	v->seg[SEG_FS] = segment_in(&in->fs);
	v->seg[SEG_GS] = segment_in(&in->gs);
	v->seg[SEG_SS] = segment_in(&in->ss);
	v->seg[SEG_TR] = segment_in(&in->tr);
	v->seg[SEG_LDTR] = segment_in(&in->ldt);
	v->gdt = (struct x86_dtable){.base = in->gdt.base, .limit = in->gdt.limit};
	v->idt = (struct x86_dtable){.base = in->idt.base, .limit = in->idt.limit};
}

/* --- system registers: struct kvm_sregs2 is kvm_sregs with PDPTEs in place of the interrupt bitmap --- */

struct cr4_need {
	uint64_t bit;
	uint32_t function;
	enum cpuid_reg reg;
	unsigned feature;
};

/* Does the guest have what the bit needs? Before it is given a CPUID: is it offered? */
static bool is_cr4_bit_known(const struct vcpu *v, const struct kvm_cpuid2 *offered, const struct cr4_need *need)
{
	for (uint32_t i = 0; offered && i < offered->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &offered->entries[i];

		if (e->function == need->function && !e->index)
			return (&e->eax)[need->reg] >> need->feature & 1;
	}
	return !offered && cpuid_has(v, need->function, 0, need->reg, need->feature);
}

static bool is_cr4_valid(const struct vcpu *v, uint64_t cr4)
{
	struct kvm_cpuid2 *offered = v->cpuid->nent ? NULL : cpuid_list_new();
	uint64_t known = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
			 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_LA57 | CR4_FSGSBASE | CR4_PCIDE |
			 CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | CR4_PKE;
	static const struct cr4_need needs[] = {
		{CR4_OSXSAVE, 1, CPUID_ECX, 26}, {CR4_PCIDE, 1, CPUID_ECX, 17}, {CR4_FSGSBASE, 7, CPUID_EBX, 0}, {CR4_SMEP, 7, CPUID_EBX, 7},
		{CR4_SMAP, 7, CPUID_EBX, 20},	 {CR4_UMIP, 7, CPUID_ECX, 2},	{CR4_PKE, 7, CPUID_ECX, 3},	 {CR4_LA57, 7, CPUID_ECX, 16},
	};

	if (offered && cpuid_supported(offered))
		offered->nent = 0;
	for (unsigned i = 0; i < sizeof(needs) / sizeof(*needs); i++)
		if (!is_cr4_bit_known(v, offered, &needs[i]))
			known &= ~needs[i].bit;
	free(offered);
	return !(cr4 & ~known);
}

/* What the processor could never be in: SDM volume 3, 4.1.1 and 2.5. */
static bool is_sregs_valid(const struct vcpu *v, const struct kvm_sregs2 *s)
{
	if (s->efer & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR))
		return false;
	if (s->efer & EFER_LME && s->cr0 & CR0_PG) {
		if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA))
			return false;
	} else if (s->efer & EFER_LMA || s->cs.l) {
		return false;
	}
	if (s->cr0 >> 32 || (s->cr0 & CR0_PG && !(s->cr0 & CR0_PE)) || (s->cr0 & CR0_NW && !(s->cr0 & CR0_CD)))
		return false;
	return is_cr4_valid(v, s->cr4);
}

static bool is_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LMA);
}

static void sregs_out(struct vcpu *v, struct kvm_sregs2 *out)
{
	settle_exception(v);
	segments_out(v, out);
	out->cr0 = v->cr0;
	out->cr2 = v->cr2;
	out->cr3 = v->cr3;
	out->cr4 = v->cr4;
	out->cr8 = v->lapic ? lapic_get_cr8(v) : v->run->cr8;
	out->efer = v->efer;
	out->apic_base = v->apic_base;
}

/* A user that resets the boot CPU this way (old ones do) wants it to run. */
static bool is_reset_vector(const struct vcpu *v)
{
	return v->id == v->vm->boot_cpu_id && v->rip == 0xfff0 && v->seg[SEG_CS].sel == 0xf000 &&
	       v->seg[SEG_CS].base == 0xffff0000 && !(v->cr0 & CR0_PE);
}

static int sregs_in(struct vcpu *v, const struct kvm_sregs2 *in)
{
	int err;

	if (!is_sregs_valid(v, in))
		return -EINVAL;
	err = lapic_set_base(v, in->apic_base);
	if (err)
		return err;
	segments_in(v, in);
	v->cr0 = in->cr0 | CR0_ET;
	v->cr2 = in->cr2;
	v->cr3 = in->cr3;
	v->cr4 = in->cr4;
	v->efer = in->efer;
	if (v->lapic)
		lapic_set_cr8(v, in->cr8 & 15);
	else
		v->run->cr8 = in->cr8 & 15;
	if (is_reset_vector(v)) {
		v->mp_state = KVM_MP_STATE_RUNNABLE;
		v->halted = false;
	}
	vcpu_registers_replaced(v);
	if (is_pae_paging(v->cr0, v->cr4, v->efer))
		mmu_load_pdptes(v, v->cr3); /* reserved bits in them: the guest will see, as with the kernel */
	vcpu_kick(v, VREQ_IRQ);
	return 0;
}

long get_sregs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct vcpu *v = h->vcpu;
	struct kvm_sregs *out = data;
	struct kvm_sregs2 s = {0};

	sregs_out(v, &s);
	memcpy(out, &s, offsetof(struct kvm_sregs, interrupt_bitmap));
	memset(out->interrupt_bitmap, 0, sizeof(out->interrupt_bitmap));
	if (v->irq_injected && !v->irq_soft)
		out->interrupt_bitmap[v->irq_vector / 64] |= 1ull << (v->irq_vector % 64);
	return 0;
}

long set_sregs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct vcpu *v = h->vcpu;
	const struct kvm_sregs *in = data;
	struct kvm_sregs2 s = {0};
	int err;

	memcpy(&s, in, offsetof(struct kvm_sregs, interrupt_bitmap));
	err = sregs_in(v, &s);
	if (err)
		return err;
	for (int i = 0; i < 4; i++) {
		if (!in->interrupt_bitmap[i])
			continue;
		v->irq_injected = true;
		v->irq_soft = false;
		v->irq_vector = (uint8_t)(i * 64 + __builtin_ctzll(in->interrupt_bitmap[i]));
		break;
	}
	return 0;
}

static long get_sregs2(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_sregs2 *out = data;
	struct vcpu *v = h->vcpu;

	sregs_out(v, out);
	if (is_pae_paging(v->cr0, v->cr4, v->efer)) {
		memcpy(out->pdptrs, mmu_pdptes(v), sizeof(out->pdptrs));
		out->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
	}
	return 0;
}

static long set_sregs2(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_sregs2 *in = data;
	bool has_pdptes = in->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	int err;

	if (in->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	if (has_pdptes && !is_pae_paging(in->cr0, in->cr4, in->efer))
		return -EINVAL;
	err = sregs_in(h->vcpu, in);
	if (!err && has_pdptes) {
		memcpy(mmu_pdptes(h->vcpu), in->pdptrs, sizeof(in->pdptrs));
		mmu_flush_all(h->vcpu);
	}
	return err;
}

/* --- debug registers --- */

static long get_debugregs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_debugregs *out = data;

	settle_exception(h->vcpu);
	memcpy(out->db, h->vcpu->dr, sizeof(out->db));
	out->dr6 = h->vcpu->dr[6];
	out->dr7 = h->vcpu->dr[7];
	return 0;
}

static long set_debugregs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_debugregs *in = data;

	if (in->flags || in->dr6 >> 32 || in->dr7 >> 32)
		return -EINVAL;
	memcpy(h->vcpu->dr, in->db, sizeof(in->db));
	h->vcpu->dr[6] = in->dr6;
	h->vcpu->dr[7] = in->dr7;
	mmu_watch_update(h->vcpu);
	return 0;
}

static long set_guest_debug(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_guest_debug *in = data;
	struct vcpu *v = h->vcpu;

	if (in->control & KVM_GUESTDBG_INJECT_DB || in->control & KVM_GUESTDBG_INJECT_BP) {
		if (v->exception_pending || v->exception_injected)
			return -EBUSY;
		v->exception_pending = true;
		v->exception_has_error = v->exception_has_payload = false;
		v->exception_vector = in->control & KVM_GUESTDBG_INJECT_DB ? VEC_DB : VEC_BP;
	}
	v->guest_debug = in->control & KVM_GUESTDBG_ENABLE ? in->control & GUESTDBG_OFFERED : 0;
	for (int i = 0; i < 8; i++)
		v->debug_dr[i] = v->guest_debug & KVM_GUESTDBG_USE_HW_BP ? in->arch.debugreg[i] : 0;
	mmu_watch_update(v);
	return 0;
}

/* --- XCR0 --- */

static long get_xcrs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	struct kvm_xcrs *out = data;

	out->nr_xcrs = 1;
	out->xcrs[0] = (struct kvm_xcr){.xcr = 0, .value = h->vcpu->xcr0};
	return 0;
}

static long set_xcrs(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_xcrs *in = data;
	uint64_t value = 0;
	bool found = false;

	if (in->nr_xcrs > KVM_MAX_XCRS || in->flags)
		return -EINVAL;
	for (uint32_t i = 0; i < in->nr_xcrs && !found; i++) {
		found = !in->xcrs[i].xcr;
		value = in->xcrs[i].value;
	}
	if (!found)
		return 0;
	if (!is_xcr0_valid(h->vcpu, value))
		return -EINVAL;
	h->vcpu->xcr0 = value;
	return 0;
}

/* --- the local APIC --- */

static long get_lapic(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	if (!h->vcpu->lapic)
		return -EINVAL;
	lapic_get_state(h->vcpu, data);
	return 0;
}

static long set_lapic(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	return h->vcpu->lapic ? lapic_set_state(h->vcpu, data) : -EINVAL;
}

/* Where to show the TPR to a guest patched for it: nothing is patched here. It must be memory, or 0. */
static long set_vapic_addr(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	const struct kvm_vapic_addr *vapic = data;

	if (!h->vcpu->lapic)
		return -EINVAL;
	return vapic->vapic_addr && !memory_find(&h->vm->mem, vapic->vapic_addr) ? -EINVAL : 0;
}

const struct ioctl_row state_ioctls[] = {
	{KVM_GET_REGS, "KVM_GET_REGS", HANDLE_VCPU, ARG_OUT, get_regs},
	{KVM_SET_REGS, "KVM_SET_REGS", HANDLE_VCPU, ARG_IN | LOCK_VM, set_regs},
	{KVM_GET_SREGS, "KVM_GET_SREGS", HANDLE_VCPU, ARG_OUT, get_sregs},
	{KVM_SET_SREGS, "KVM_SET_SREGS", HANDLE_VCPU, ARG_IN | LOCK_VM, set_sregs},
	{KVM_GET_SREGS2, "KVM_GET_SREGS2", HANDLE_VCPU, ARG_OUT, get_sregs2},
	{KVM_SET_SREGS2, "KVM_SET_SREGS2", HANDLE_VCPU, ARG_IN | LOCK_VM, set_sregs2},
	{KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", HANDLE_VCPU, ARG_OUT, get_debugregs},
	{KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", HANDLE_VCPU, ARG_IN | LOCK_VM, set_debugregs},
	{KVM_SET_GUEST_DEBUG, "KVM_SET_GUEST_DEBUG", HANDLE_VCPU, ARG_IN | LOCK_VM, set_guest_debug},
	{KVM_GET_XCRS, "KVM_GET_XCRS", HANDLE_VCPU, ARG_OUT, get_xcrs},
	{KVM_SET_XCRS, "KVM_SET_XCRS", HANDLE_VCPU, ARG_IN, set_xcrs},
	{KVM_GET_FPU, "KVM_GET_FPU", HANDLE_VCPU, ARG_OUT, get_fpu},
	{KVM_SET_FPU, "KVM_SET_FPU", HANDLE_VCPU, ARG_IN, set_fpu},
	{KVM_GET_XSAVE, "KVM_GET_XSAVE", HANDLE_VCPU, ARG_OUT, get_xsave},
	{KVM_GET_XSAVE2, "KVM_GET_XSAVE2", HANDLE_VCPU, ARG_OUT, get_xsave},
	{KVM_SET_XSAVE, "KVM_SET_XSAVE", HANDLE_VCPU, ARG_IN, set_xsave},
	{KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", HANDLE_VCPU, ARG_OUT, get_vcpu_events},
	{KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", HANDLE_VCPU, ARG_IN, set_vcpu_events},
	{KVM_GET_MP_STATE, "KVM_GET_MP_STATE", HANDLE_VCPU, ARG_OUT, get_mp_state},
	{KVM_SET_MP_STATE, "KVM_SET_MP_STATE", HANDLE_VCPU, ARG_IN, set_mp_state},
	{KVM_INTERRUPT, "KVM_INTERRUPT", HANDLE_VCPU, ARG_IN, interrupt},
	{KVM_NMI, "KVM_NMI", HANDLE_VCPU, 0, nmi},
	{KVM_X86_SETUP_MCE, "KVM_X86_SETUP_MCE", HANDLE_VCPU, ARG_IN, setup_mce},
	{KVM_X86_SET_MCE, "KVM_X86_SET_MCE", HANDLE_VCPU, ARG_IN, set_mce},
	{KVM_GET_LAPIC, "KVM_GET_LAPIC", HANDLE_VCPU, ARG_OUT, get_lapic},
	{KVM_SET_LAPIC, "KVM_SET_LAPIC", HANDLE_VCPU, ARG_IN, set_lapic},
	{KVM_SET_VAPIC_ADDR, "KVM_SET_VAPIC_ADDR", HANDLE_VCPU, ARG_IN | LOCK_VM, set_vapic_addr},
	{0},
};
