/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Model-specific registers (SDM volume 4; APM volume 2, appendix A), as KVM gives them to guests: what Linux and
 * firmware touch exists, the rest raises #GP.
 *
 * Most registers are a row of `plain`: where the value lives, which bits a guest may set, and what else a new
 * value must be. The others have a function of their own in msr_get() and msr_set(). Ranges: MTRRs, machine-check
 * banks, x2APIC (irqchip/), KVM's paravirtual MSRs (irqchip/).
 */
#include "softkvm/interpret/msr.h"

#include <asm/kvm_para.h>
#include <stddef.h>

#include "softkvm/interpret/control.h"
#include "softkvm/interpret/cpuid.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/pvclock.h"
#include "softkvm/irqchip/state.h"
#include "softkvm/mmu/watch.h"

enum {
	MSR_PLATFORM_ID = 0x17, MSR_EBL_CR_POWERON = 0x2a, MSR_EBC_FREQUENCY_ID = 0x2c, MSR_SMI_COUNT = 0x34,
	MSR_SMBASE = 0x9e, MSR_PLATFORM_INFO = 0xce, MSR_UCODE_WRITE = 0x79, MSR_FLUSH_CMD = 0x10b,
	MSR_MISC_FEATURES_ENABLES = 0x140, MSR_POWER_CTL = 0x1fc, MSR_PERF_CAPABILITIES = 0x345, MSR_PERF_STATUS = 0x198, MSR_PERF_CTL = 0x199, MSR_LBR_FROM = 0x1db,
	MSR_LBR_INT_TO = 0x1de, MSR_RAPL_UNIT = 0x606, MSR_PKG_ENERGY = 0x611, MSR_DRAM_ENERGY = 0x619,
	MSR_PP0_ENERGY = 0x639, MSR_PP1_ENERGY = 0x641, MSR_P6_PERFCTR0 = 0xc1, MSR_P6_PERFCTR1 = 0xc2,
	MSR_P6_EVNTSEL0 = 0x186, MSR_P6_EVNTSEL1 = 0x187
};
#define MSR_K7_EVNTSEL0	  0xc0010000u
#define MSR_K7_PERFCTR3	  0xc0010007u
#define MSR_SYSCFG	  0xc0010010u
#define MSR_HWCR	  0xc0010015u
#define MSR_NB_CFG	  0xc001001fu
#define MSR_PATCH_LOADER  0xc0010020u
#define MSR_INT_PENDING	  0xc0010055u
#define MSR_MMIO_CONF	  0xc0010058u
#define MSR_TSEG_ADDR	  0xc0010112u
#define MSR_TSEG_MASK	  0xc0010113u
#define MSR_VM_HSAVE_PA	  0xc0010117u
#define MSR_DC_CFG	  0xc0011022u
#define MSR_TW_CFG	  0xc0011023u
#define MSR_DE_CFG	  0xc0011029u
#define MSR_BU_CFG2	  0xc001102au

#define HWCR_TSC_FREQ_SEL  (1ull << 24)
#define HWCR_MC_STATUS_WR  (1ull << 18)
#define MICROCODE_REVISION 0x0100000000000000ull

/* --- registers that are a value with rules --- */

enum { CHECK_NONE, CHECK_CANONICAL, CHECK_PAT, CHECK_MTRR_TYPE };

static const struct plain_msr {
	uint32_t index;
	uint16_t offset;
	uint8_t check;
	uint64_t writable; /* bits that may be set */
} plain[] = {
#define AT(field) offsetof(struct vcpu, field)
	{MSR_STAR, AT(star), CHECK_NONE, ~0ull},
	{MSR_LSTAR, AT(lstar), CHECK_CANONICAL, ~0ull},
	{MSR_CSTAR, AT(cstar), CHECK_CANONICAL, ~0ull},
	{MSR_FMASK, AT(fmask), CHECK_NONE, 0xffffffff},
	{MSR_FS_BASE, AT(seg[SEG_FS].base), CHECK_CANONICAL, ~0ull},
	{MSR_GS_BASE, AT(seg[SEG_GS].base), CHECK_CANONICAL, ~0ull},
	{MSR_KERNEL_GS_BASE, AT(kernel_gs_base), CHECK_CANONICAL, ~0ull},
	{MSR_TSC_AUX, AT(tsc_aux), CHECK_NONE, 0xffffffff},
	{MSR_SYSENTER_CS, AT(sysenter_cs), CHECK_NONE, ~0ull},
	{MSR_SYSENTER_ESP, AT(sysenter_esp), CHECK_CANONICAL, ~0ull},
	{MSR_SYSENTER_EIP, AT(sysenter_eip), CHECK_CANONICAL, ~0ull},
	{MSR_PAT, AT(pat), CHECK_PAT, ~0ull},
	{MSR_MISC_ENABLE, AT(misc_enable), CHECK_NONE, ~0ull},
	{MSR_POWER_CTL, AT(power_ctl), CHECK_NONE, ~0ull},
	{MSR_SPEC_CTRL, AT(spec_ctrl), CHECK_NONE, 0x7},
	{MSR_DEBUGCTL, AT(debugctl), CHECK_NONE, 0x3},
	{MSR_MTRR_DEF_TYPE, AT(mtrr_def_type), CHECK_MTRR_TYPE, 0xcff},
	{MSR_MCG_STATUS, AT(mcg_status), CHECK_NONE, ~0ull},
	{MSR_MCG_CTL, AT(mcg_ctl), CHECK_NONE, ~0ull},
	{MSR_DE_CFG, AT(de_cfg), CHECK_NONE, ~0ull},
	{MSR_XSS, AT(xss), CHECK_NONE, 0},
#undef AT
};

static const struct plain_msr *find_plain(uint32_t index)
{
	for (unsigned k = 0; k < sizeof(plain) / sizeof(plain[0]); k++)
		if (plain[k].index == index)
			return &plain[k];
	return NULL;
}

static bool is_memory_type(uint8_t type, bool pat)
{
	return type == 0 || type == 1 || type == 4 || type == 5 || type == 6 || (pat && type == 7);
}

static bool is_pat(uint64_t value)
{
	for (int k = 0; k < 8; k++)
		if (!is_memory_type(value >> (8 * k), true))
			return false;
	return true;
}

static bool passes(const struct vcpu *v, const struct plain_msr *m, uint64_t value)
{
	if (value & ~m->writable)
		return false;
	switch (m->check) {
	case CHECK_CANONICAL:
		return is_canonical(v, value);
	case CHECK_PAT:
		return is_pat(value);
	case CHECK_MTRR_TYPE:
		return is_memory_type(value, false);
	default:
		return true;
	}
}

/* --- MTRRs (SDM volume 3, 11.11): kept, without an effect here --- */

static int fixed_mtrr_index(uint32_t index)
{
	switch (index) {
	case MSR_MTRR_FIX64K:
		return 0;
	case MSR_MTRR_FIX16K_80000:
	case MSR_MTRR_FIX16K_A0000:
		return 1 + (int)(index - MSR_MTRR_FIX16K_80000);
	default:
		return index >= MSR_MTRR_FIX4K_C0000 && index < MSR_MTRR_FIX4K_C0000 + 8
			       ? 3 + (int)(index - MSR_MTRR_FIX4K_C0000)
			       : -1;
	}
}

static uint64_t *mtrr_at(struct vcpu *v, uint32_t index)
{
	int fixed = fixed_mtrr_index(index);

	if (fixed >= 0)
		return &v->mtrr_fixed[fixed];
	if (index >= MSR_MTRR_PHYSBASE0 && index < MSR_MTRR_PHYSBASE0 + 16)
		return &v->mtrr_var[index - MSR_MTRR_PHYSBASE0];
	return NULL;
}

static bool mtrr_passes(const struct vcpu *v, uint32_t index, uint64_t value)
{
	if (fixed_mtrr_index(index) >= 0) {
		for (int k = 0; k < 8; k++)
			if (!is_memory_type(value >> (8 * k), false))
				return false;
		return true;
	}
	if (value >> v->phys_bits)
		return false;
	if (index & 1)
		return !(value & 0x7ff);
	return !(value & 0xf00) && is_memory_type(value, false);
}

/* --- machine-check banks (SDM volume 3, 15.3.2) --- */

static uint64_t *bank_at(struct vcpu *v, uint32_t index)
{
	unsigned at = index - MSR_MC0_CTL;

	if (index < MSR_MC0_CTL || at / 4 >= (v->mcg_cap & 0xff) || at / 4 >= 32)
		return NULL;
	return &v->mc_bank[at / 4][at % 4];
}

static bool bank_passes(const struct vcpu *v, uint32_t index, uint64_t value)
{
	switch ((index - MSR_MC0_CTL) % 4) {
	case 0: /* CTL: all or nothing, where Linux may leave out bits 0 and 10 */
		return value == 0 || (value | 1ull << 10 | 1) == ~0ull;
	case 1: /* STATUS: only cleared, unless McStatusWrEn */
		return value == 0 || (v->hwcr & HWCR_MC_STATUS_WR);
	default:
		return true;
	}
}

/* --- time stamp counter --- */

/* The user sets the TSC of each vCPU in turn and means the same: offsets that are about equal become equal. */
static int64_t common_offset(const struct vcpu *v, int64_t offset, uint64_t value)
{
	const int64_t second = 4000000000;
	unsigned count = atomic_load(&v->vm->vcpu_count);

	for (unsigned k = 0; k < count; k++) {
		const struct vcpu *other = v->vm->vcpu[k];
		int64_t distance = other ? other->tsc_offset - offset : 0;

		if (other && other != v && ((distance < second && distance > -second) || value == 0))
			return other->tsc_offset;
	}
	return offset;
}

static void set_tsc(struct vcpu *v, uint64_t value, bool host)
{
	int64_t offset = (int64_t)(value - __builtin_ia32_rdtsc());

	if (host)
		offset = common_offset(v, offset, value);
	else
		v->tsc_adjust += offset - v->tsc_offset;
	v->tsc_offset = offset;
	vcpu_kick(v, VREQ_CLOCK | VREQ_TIMER);
}

static void set_tsc_adjust(struct vcpu *v, uint64_t value, bool host)
{
	if (!host) {
		v->tsc_offset += value - v->tsc_adjust;
		vcpu_kick(v, VREQ_CLOCK | VREQ_TIMER);
	}
	v->tsc_adjust = value;
}

/* --- KVM's own --- */

bool cpuid_has_pv(const struct vcpu *v, unsigned feature)
{
	return !v->pv_enforced || cpuid_has(v, 0x40000001, 0, CPUID_EAX, feature);
}

static bool has_pv_feature_of(const struct vcpu *v, uint32_t index)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		return cpuid_has_pv(v, KVM_FEATURE_CLOCKSOURCE);
	case MSR_KVM_WALL_CLOCK_NEW:
	case MSR_KVM_SYSTEM_TIME_NEW:
		return cpuid_has_pv(v, KVM_FEATURE_CLOCKSOURCE2);
	case MSR_KVM_STEAL_TIME:
		return cpuid_has_pv(v, KVM_FEATURE_STEAL_TIME);
	case MSR_KVM_PV_EOI_EN:
		return cpuid_has_pv(v, KVM_FEATURE_PV_EOI);
	case MSR_KVM_POLL_CONTROL:
		return cpuid_has_pv(v, KVM_FEATURE_POLL_CONTROL);
	default:
		return true;
	}
}

/* --- reading --- */

static bool may_use(const struct vcpu *v, uint32_t index, bool host)
{
	if (host)
		return true;
	switch (index) {
	case MSR_SPEC_CTRL:
	case MSR_PRED_CMD:
		return cpuid_has(v, 7, 0, CPUID_EDX, 26) || cpuid_has(v, 0x80000008, 0, CPUID_EBX, 14) ||
		       (index == MSR_PRED_CMD && cpuid_has(v, 0x80000008, 0, CPUID_EBX, 12));
	case MSR_ARCH_CAPABILITIES:
		return cpuid_has(v, 7, 0, CPUID_EDX, 29);
	case MSR_TSC_AUX:
		return cpuid_has(v, 0x80000001, 0, CPUID_EDX, 27) || cpuid_has(v, 7, 0, CPUID_ECX, 22);
	case MSR_XSS:
		return cpuid_has(v, 0xd, 1, CPUID_EAX, 3);
	case MSR_TSC_ADJUST:
		return cpuid_has(v, 7, 0, CPUID_EBX, 1);
	default:
		return true;
	}
}

/* Performance counters of old: without a PMU in CPUID they read as zero and ignore writes. */
static bool is_old_counter(uint32_t index)
{
	return (index >= MSR_K7_EVNTSEL0 && index <= MSR_K7_PERFCTR3) || index == MSR_P6_PERFCTR0 ||
	       index == MSR_P6_PERFCTR1 || index == MSR_P6_EVNTSEL0 || index == MSR_P6_EVNTSEL1;
}

/* Registers with a constant value. */
static bool get_constant(struct vcpu *v, uint32_t index, uint64_t *value)
{
	if (is_old_counter(index)) {
		*value = 0;
		return true;
	}
	switch (index) {
	case MSR_PLATFORM_ID:
	case MSR_EBL_CR_POWERON:
	case MSR_SMI_COUNT:
	case MSR_PERF_CTL:
	case MSR_LBR_FROM ... MSR_LBR_INT_TO:
	case MSR_RAPL_UNIT:
	case MSR_PKG_ENERGY:
	case MSR_DRAM_ENERGY:
	case MSR_PP0_ENERGY:
	case MSR_PP1_ENERGY:
	case MSR_SYSCFG:
	case MSR_NB_CFG:
	case MSR_INT_PENDING:
	case MSR_MMIO_CONF:
	case MSR_TSEG_ADDR:
	case MSR_TSEG_MASK:
	case MSR_VM_HSAVE_PA:
	case MSR_DC_CFG:
	case MSR_TW_CFG:
	case MSR_BU_CFG2:
		*value = 0;
		return true;
	case MSR_EBC_FREQUENCY_ID:
		*value = 1 << 24;
		return true;
	case MSR_PERF_STATUS:
		*value = 1000 | 4ull << 40; /* as KVM: TSC multiplier 4 */
		return true;
	case MSR_MTRRCAP:
		*value = 0x508; /* 8 variable ranges, fixed ranges, write combining */
		return true;
	case MSR_BIOS_SIGN_ID:
		*value = v->is_intel ? 0x100000000ull : 0x01000065;
		return true;
	case MSR_ARCH_CAPABILITIES:
		*value = cpuid_arch_capabilities();
		return true;
	default:
		return false;
	}
}

static bool is_lapic_msr(uint32_t index)
{
	return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE || (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

int msr_get(struct vcpu *v, uint32_t index, uint64_t *value, bool host)
{
	const struct plain_msr *m = find_plain(index);
	uint64_t *at;
	int r;

	if (!may_use(v, index, host))
		return -1;
	if (m) {
		*value = *(uint64_t *)((uint8_t *)v + m->offset);
		return 0;
	}
	if (is_lapic_msr(index))
		return lapic_msr_read(v, index, value);
	switch (index) {
	case MSR_TSC:
		*value = __builtin_ia32_rdtsc() + v->tsc_offset;
		return 0;
	case MSR_TSC_ADJUST:
		*value = v->tsc_adjust;
		return 0;
	case MSR_EFER:
		*value = v->efer;
		return 0;
	case MSR_FEATURE_CONTROL:
		*value = v->feature_control;
		return v->is_intel || host ? 0 : -1;
	case MSR_PLATFORM_INFO:
		*value = v->platform_info;
		return host || !v->vm->platform_info_hidden ? 0 : -1;
	case MSR_MISC_FEATURES_ENABLES:
		*value = v->misc_features;
		return 0;
	case MSR_PERF_CAPABILITIES: /* there are no performance counters */
		*value = 0;
		return host ? 0 : -1;
	case MSR_SMBASE:
		*value = v->smbase;
		return host ? 0 : -1;
	case MSR_MCG_CAP:
		*value = v->mcg_cap;
		return 0;
	case MSR_HWCR:
		*value = v->hwcr | HWCR_TSC_FREQ_SEL;
		return 0;
	}
	at = mtrr_at(v, index);
	if (!at)
		at = bank_at(v, index);
	if (at) {
		*value = *at;
		return 0;
	}
	if (!has_pv_feature_of(v, index))
		return -1;
	r = pvclock_msr_read(v, index, value);
	if (r <= 0)
		return r;
	return get_constant(v, index, value) ? 0 : MSR_UNKNOWN;
}

/* --- writing --- */

/* Writes that are accepted and change nothing. */
static bool is_ignored_write(uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_BIOS_SIGN_ID:
	case MSR_UCODE_WRITE:
	case MSR_PATCH_LOADER:
	case MSR_NB_CFG:
	case MSR_VM_HSAVE_PA:
	case MSR_DC_CFG:
	case MSR_TW_CFG:
	case MSR_BU_CFG2:
	case MSR_INT_PENDING:
	case MSR_PERF_CTL:
		return true;
	case MSR_PRED_CMD:
		return !(value & ~1ull);
	case MSR_MMIO_CONF:
	case MSR_SYSCFG:
		return value == 0;
	default:
		return is_old_counter(index);
	}
}

static bool set_special(struct vcpu *v, uint32_t index, uint64_t value, bool host, bool *good)
{
	*good = true;
	switch (index) {
	case MSR_TSC:
		set_tsc(v, value, host);
		return true;
	case MSR_TSC_ADJUST:
		set_tsc_adjust(v, value, host);
		return true;
	case MSR_EFER:
		*good = efer_write(v, value);
		return true;
	case MSR_FEATURE_CONTROL:
		*good = host || (v->is_intel && !(v->feature_control & 1));
		if (*good)
			v->feature_control = value;
		return true;
	case MSR_SMBASE:
		*good = host;
		if (host)
			v->smbase = value;
		return true;
	case MSR_PLATFORM_INFO: /* CPUID faulting does not go while it is in use */
		*good = host && (value & PLATFORM_INFO_CPUID_FAULT || !v->misc_features);
		if (*good)
			v->platform_info = value;
		return true;
	case MSR_MISC_FEATURES_ENABLES:
		*good = !(value & ~MISC_FEATURES_CPUID_FAULT) && (!value || v->platform_info & PLATFORM_INFO_CPUID_FAULT);
		if (*good)
			v->misc_features = value;
		return true;
	case MSR_PERF_CAPABILITIES:
		*good = host && !value;
		return true;
	case MSR_MCG_CAP:
	case MSR_ARCH_CAPABILITIES:
		*good = host;
		return true;
	case MSR_HWCR: /* FFDIS, MCSTATUSWREN and TSCFREQSEL as KVM; IGNNE and others without effect */
		value &= ~(0x40ull | 0x100 | 0x8 | HWCR_TSC_FREQ_SEL);
		*good = !(value & ~HWCR_MC_STATUS_WR);
		if (*good)
			v->hwcr = value;
		return true;
	default:
		return false;
	}
}

static int set_plain(struct vcpu *v, const struct plain_msr *m, uint64_t value)
{
	if (!passes(v, m, value))
		return -1;
	*(uint64_t *)((uint8_t *)v + m->offset) = value;
	return 0;
}

int msr_set(struct vcpu *v, uint32_t index, uint64_t value, bool host)
{
	const struct plain_msr *m = find_plain(index);
	uint64_t *at;
	bool good;
	int r;

	if (!may_use(v, index, host))
		return -1;
	if (m)
		return set_plain(v, m, value);
	if (host && index == MSR_APIC_BASE) /* the user may make any transition */
		return lapic_set_base(v, value) ? -1 : 0;
	if (is_lapic_msr(index))
		return lapic_msr_write(v, index, value);
	if (set_special(v, index, value, host, &good))
		return good ? 0 : -1;
	at = mtrr_at(v, index);
	if (at) {
		if (!mtrr_passes(v, index, value))
			return -1;
		*at = value;
		return 0;
	}
	at = bank_at(v, index);
	if (at) {
		if (!host && !bank_passes(v, index, value))
			return -1;
		*at = value;
		return 0;
	}
	if (!has_pv_feature_of(v, index))
		return -1;
	r = pvclock_msr_write(v, index, value);
	if (r <= 0)
		return r;
	if (is_ignored_write(index, value))
		return 0;
	return get_constant(v, index, &value) || index == MSR_PRED_CMD ? MSR_REFUSED : MSR_UNKNOWN;
}

/* --- lists --- */

const uint32_t msr_save_list[] = {
	MSR_TSC, MSR_TSC_ADJUST, MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_STAR, MSR_CSTAR,
	MSR_KERNEL_GS_BASE, MSR_FMASK, MSR_LSTAR, MSR_PAT, MSR_FEATURE_CONTROL, MSR_SPEC_CTRL, MSR_TSC_AUX, MSR_XSS,
	MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_PLATFORM_INFO, MSR_MISC_FEATURES_ENABLES, MSR_MISC_ENABLE, MSR_POWER_CTL,
	MSR_PERF_CAPABILITIES, MSR_ARCH_CAPABILITIES, MSR_MCG_STATUS, MSR_MCG_CTL, MSR_SMBASE, MSR_DEBUGCTL,
	MSR_MTRR_DEF_TYPE, MSR_MTRR_FIX64K, MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000, MSR_MTRR_FIX4K_C0000,
	MSR_MTRR_FIX4K_C0000 + 1, MSR_MTRR_FIX4K_C0000 + 2, MSR_MTRR_FIX4K_C0000 + 3, MSR_MTRR_FIX4K_C0000 + 4,
	MSR_MTRR_FIX4K_C0000 + 5, MSR_MTRR_FIX4K_C0000 + 6, MSR_MTRR_FIX4K_C0000 + 7, MSR_MTRR_PHYSBASE0,
	MSR_MTRR_PHYSBASE0 + 1, MSR_MTRR_PHYSBASE0 + 2, MSR_MTRR_PHYSBASE0 + 3, MSR_MTRR_PHYSBASE0 + 4,
	MSR_MTRR_PHYSBASE0 + 5, MSR_MTRR_PHYSBASE0 + 6, MSR_MTRR_PHYSBASE0 + 7, MSR_MTRR_PHYSBASE0 + 8,
	MSR_MTRR_PHYSBASE0 + 9, MSR_MTRR_PHYSBASE0 + 10, MSR_MTRR_PHYSBASE0 + 11, MSR_MTRR_PHYSBASE0 + 12,
	MSR_MTRR_PHYSBASE0 + 13, MSR_MTRR_PHYSBASE0 + 14, MSR_MTRR_PHYSBASE0 + 15, MSR_HWCR, MSR_DE_CFG,
	/* KVM's paravirtual MSRs: wall clock and system time old and new, async page faults, steal time, PV EOI, polling */
	0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d03, 0x4b564d04, 0x4b564d05,
};
const unsigned msr_save_count = sizeof(msr_save_list) / sizeof(msr_save_list[0]);

const uint32_t msr_feature_list[] = {MSR_ARCH_CAPABILITIES, MSR_BIOS_SIGN_ID, MSR_DE_CFG, MSR_PERF_CAPABILITIES};
const unsigned msr_feature_count = sizeof(msr_feature_list) / sizeof(msr_feature_list[0]);

int msr_feature_get(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_ARCH_CAPABILITIES:
		*value = cpuid_arch_capabilities();
		return 0;
	case MSR_BIOS_SIGN_ID:
		*value = MICROCODE_REVISION;
		return 0;
	case MSR_DE_CFG:
		*value = 2; /* LFENCE serialises */
		return 0;
	case MSR_PERF_CAPABILITIES:
		*value = 0;
		return 0;
	default:
		return -1;
	}
}
