/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside irqchip/: the local APIC and messages to it (SDM volume 3, chapter 10). The model is told in lapic.c.
 */
#ifndef GUISE_SOFTKVM_IRQCHIP_LAPIC_H
#define GUISE_SOFTKVM_IRQCHIP_LAPIC_H

#include <linux/kvm.h>

#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/state.h"

/* Register offsets in the xAPIC page; x2APIC MSR = 0x800 + offset / 16. */
enum {
	APIC_ID = 0x20, APIC_LVR = 0x30, APIC_TPR = 0x80, APIC_APR = 0x90, APIC_PPR = 0xa0, APIC_EOI = 0xb0,
	APIC_RRD = 0xc0, APIC_LDR = 0xd0, APIC_DFR = 0xe0, APIC_SPIV = 0xf0, APIC_ISR = 0x100, APIC_TMR = 0x180,
	APIC_IRR = 0x200, APIC_ESR = 0x280, APIC_CMCI = 0x2f0, APIC_ICR = 0x300, APIC_ICR2 = 0x310, APIC_LVTT = 0x320,
	APIC_LVTTHMR = 0x330, APIC_LVTPC = 0x340, APIC_LVT0 = 0x350, APIC_LVT1 = 0x360, APIC_LVTERR = 0x370,
	APIC_TMICT = 0x380, APIC_TMCCT = 0x390, APIC_TDCR = 0x3e0, APIC_SELF_IPI = 0x3f0, APIC_REG_SPACE = 0x400
};

/* Delivery modes, as in bits 8-10 of ICR, LVT and MSI data. */
enum apic_mode {
	APIC_FIXED, APIC_LOWEST, APIC_SMI, APIC_REMOTE_READ, APIC_NMI, APIC_INIT, APIC_STARTUP, APIC_EXTINT
};

enum { APIC_SHORT_NONE, APIC_SHORT_SELF, APIC_SHORT_ALL, APIC_SHORT_OTHERS };

enum {
	LVT_MASKED = 1 << 16, LVT_LEVEL = 1 << 15, LVT_MODE = 7 << 8, LVT_TIMER_MODE = 3 << 17, LVT_TIMER_ONESHOT = 0,
	LVT_TIMER_PERIODIC = 1 << 17, LVT_TIMER_DEADLINE = 2 << 17, SPIV_ENABLED = 1 << 8, SPIV_NO_EOI_BROADCAST = 1 << 12,
	LVR_NO_EOI_BROADCAST = 1 << 24, ESR_SEND_ILLEGAL = 1 << 5, ESR_RECEIVE_ILLEGAL = 1 << 6
};
enum { APIC_BASE_BSP = 1 << 8, APIC_BASE_X2 = 1 << 10, APIC_BASE_ENABLED = 1 << 11 };
#define APIC_BASE_ADDRESS 0x000ffffffffff000ull

enum { LAPIC_PENDING_INIT = 1, LAPIC_PENDING_SIPI = 2 };

struct lapic {
	/* As in struct kvm_lapic_state, by offset / 4. Written by the vCPU's thread, but for IRR and TMR; read by any. */
	_Atomic uint32_t reg[1024 / 4];

	/* Any thread */
	_Atomic uint32_t pending;	 /* LAPIC_PENDING_* */
	_Atomic uint32_t sipi_vector;
	_Atomic uint64_t alarm_ns;	 /* when the timer thread shall kick; UINT64_MAX: never */
	_Atomic int32_t extint_vector;	 /* split irqchip: KVM_INTERRUPT's vector, -1: none */
	_Atomic uint64_t mode_base;	 /* copy of v->apic_base for senders */
	_Atomic uint32_t esr_pending;	 /* errors since the last write of ESR */

	/* vCPU's thread */
	uint64_t tsc_deadline;		 /* guest TSC; 0: none */
	uint64_t target_ns, period_ns;	 /* one-shot and periodic: CLOCK_MONOTONIC; 0: off */
	uint64_t due_ns;		 /* alarm_ns as set last: when this vCPU wants to wake */
	uint8_t ioapic_eoi_vector;	 /* split irqchip: for KVM_EXIT_IOAPIC_EOI */
	bool pv_eoi_pending;		 /* the guest may drop the EOI: see pv_eoi.c */
};

/* A message on the APIC bus. */
struct apic_message {
	uint32_t dest;
	uint8_t vector;
	uint8_t mode;	   /* enum apic_mode */
	uint8_t shorthand; /* APIC_SHORT_* */
	bool is_logical, is_level, is_assert;
	bool is_redirectable; /* MSI redirection hint: as lowest priority */
	bool is_x2apic_dest;  /* dest is a 32-bit x2APIC destination */
};

static inline uint32_t lapic_reg(const struct lapic *a, unsigned offset)
{
	return atomic_load_explicit(&a->reg[offset / 4], memory_order_relaxed);
}

static inline void lapic_set_reg(struct lapic *a, unsigned offset, uint32_t value)
{
	atomic_store_explicit(&a->reg[offset / 4], value, memory_order_relaxed);
}

static inline bool lapic_is_enabled(const struct lapic *a)
{
	return atomic_load_explicit(&a->mode_base, memory_order_relaxed) & APIC_BASE_ENABLED;
}

static inline bool lapic_is_x2apic(const struct lapic *a)
{
	uint64_t both = APIC_BASE_ENABLED | APIC_BASE_X2;

	return (atomic_load_explicit(&a->mode_base, memory_order_relaxed) & both) == both;
}

static inline bool lapic_is_software_enabled(const struct lapic *a)
{
	return lapic_reg(a, APIC_SPIV) & SPIV_ENABLED;
}

/* --- message.c; any thread --- */
/* Deliver to all it is meant for. >0: how many took it; 0: all had it pending already; -1: no destination. */
int apic_send(struct vm *vm, struct lapic *sender, const struct apic_message *m);
/* One local APIC gets it: >0 taken, 0 coalesced, -1 refused (APIC off). */
int lapic_accept(struct vcpu *v, const struct apic_message *m);
uint32_t lapic_id(const struct vcpu *v);
bool lapic_matches(struct vcpu *v, const struct apic_message *m);

/* --- lapic.c; vCPU's thread --- */
void lapic_local_deliver(struct vcpu *v, unsigned lvt_offset);
uint32_t lapic_ppr(struct lapic *a);
int lapic_highest(const struct lapic *a, unsigned base_offset); /* highest vector set in IRR/ISR, -1 */
void lapic_end_interrupt(struct vcpu *v, int vector);		 /* what an EOI does */
void lapic_eoi(struct vcpu *v);					 /* the EOI register was written */
bool lapic_has_x2apic_feature(const struct vcpu *v);
void lapic_set_x2apic_identity(struct vcpu *v);
void lapic_recheck(struct vcpu *v);				 /* priority fell: is something deliverable now? */

/* --- lapic_timer.c; vCPU's thread --- */
void lapic_timer_reset(struct vcpu *v);
void lapic_timer_restart(struct vcpu *v);	  /* TMICT written */
void lapic_timer_divider_changed(struct vcpu *v);
void lapic_timer_restored(struct vcpu *v);	  /* KVM_SET_LAPIC: goes on from TMCCT */
void lapic_timer_mode_changed(struct vcpu *v, uint32_t old_lvtt);
uint32_t lapic_timer_current_count(struct vcpu *v);
uint32_t lapic_timer_count_to_save(struct vcpu *v); /* never 0 while the timer runs */
void lapic_timer_set_deadline(struct vcpu *v, uint64_t guest_tsc);

/* --- pv_eoi.c; vCPU's thread --- */
void pv_eoi_offer(struct vcpu *v, int vector); /* an interrupt was just acknowledged */
void pv_eoi_sync(struct vcpu *v);	       /* did the guest take the offer? withdraw it */

#endif
