/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * softkvm's virtual CPU: everything an engine, the MMU and the interrupt controllers share.
 *
 * Threads. A vCPU's registers and TLBs belong to the thread inside KVM_RUN on it; api/ lets nobody else touch
 * them while it runs. What other threads may do to a running vCPU goes through `requests` + vcpu_kick() and
 * the local APIC's atomic fields, nothing else.
 *
 * Vector state. The guest's x87/SSE/AVX state is either at rest in `xsave` (fpu_live == false) or in the
 * host's own registers (fpu_live == true, while translated code runs). Code under interpret/, mmu/ and translate/
 * is compiled with -mgeneral-regs-only and calls no libc function that could touch a vector register while the
 * state is live; softkvm/fpu.h moves it.
 *
 * Leaving an instruction. Semantics functions run until they commit; before that they may leave at any time by
 * raise_*() (guest exception) or vcpu_leave() (VM exit to the user), which longjmp to the run loop. An
 * instruction therefore changes registers only after its last access that can fault.
 */
#ifndef GUISE_SOFTKVM_VCPU_H
#define GUISE_SOFTKVM_VCPU_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "x86/arch.h"

struct vm;
struct code_page;
struct lapic;
struct insn;

struct x86_seg {
	uint64_t base;
	uint32_t limit; /* in bytes, granularity applied */
	uint16_t sel;
	uint16_t attr; /* SEG_* of x86/arch.h */
};

struct x86_dtable {
	uint64_t base;
	uint16_t limit;
};

/*
 * Soft TLB entry: hits for gva iff (gva ^ tag) <= 4096 - size, then HVA = host + (gva ^ tag). An empty entry's
 * tag is a page that never indexes this entry (0, or 0x1000 in entry 0). See mmu/tlb.c.
 */
struct tlb_entry {
	uint64_t tag;
	uint64_t host;
};

enum tlb_kind { TLB_READ, TLB_WRITE, TLB_FETCH, TLB_KINDS };
/* The table that an access to data looks in. */
static inline enum tlb_kind tlb_data_kind(bool write)
{
	return write ? TLB_WRITE : TLB_READ;
}

/* Why other threads (or this vCPU itself) want the run loop's attention. Bits of vcpu.requests. */
enum vcpu_request {
	VREQ_IRQ = 1 << 0,	    /* an interrupt may have become deliverable */
	VREQ_NMI = 1 << 1,
	VREQ_SMI = 1 << 2,
	VREQ_INIT_SIPI = 1 << 3,    /* lapic has INIT or SIPI pending */
	VREQ_TLB_FLUSH = 1 << 4,    /* whole TLB */
	VREQ_TLB_WRITE = 1 << 5,    /* write entries: a page became a code page or is dirty-logged */
	VREQ_EXIT = 1 << 6,	    /* leave KVM_RUN with -EINTR (immediate_exit, signal, vm going away) */
	VREQ_CLOCK = 1 << 7,	    /* update kvmclock / steal time pages */
	VREQ_TIMER = 1 << 8,	    /* the local APIC's timer may have expired */
	VREQ_PAUSE = 1 << 9,	    /* stop at the next boundary until released (stop-the-world) */
	VREQ_TRIPLE_FAULT = 1 << 10,
	VREQ_MEMORY = 1 << 11,	    /* slots or CPUID changed: drop TLBs and decoded code */
	VREQ_UNHALT = 1 << 12,	    /* KVM_HC_KICK_CPU: end this or the next HLT */
	VREQ_IOAPIC_EOI = 1 << 13   /* split irqchip: leave with KVM_EXIT_IOAPIC_EOI (lapic_ioapic_eoi_vector) */
};

/* A completed piece of device access of the instruction being (re)executed: see interpret/io.c. */
struct mmio_fragment {
	gpa_t gpa;
	uint8_t data[8];
	uint8_t size;
	bool is_write;
};

/* What KVM_GET_STATS_FD tells of a vCPU, by the kernel's names (api/stats.c). Written by the vCPU's thread only. */
struct vcpu_counts {
	uint64_t exits; /* times that the engine stopped executing */
	uint64_t io_exits, mmio_exits, signal_exits, irq_window_exits; /* for the user */
	uint64_t halt_exits, hypercalls, irq_injections, nmi_injections;
};

/*
 * Memory below each vCPU, for the frames of signals that come while translated code runs on the vCPU instead of a stack: the
 * kernel's (11 KiB with AMX) and what the program's handlers need.
 */
enum { SIGNAL_ROOM = 256 << 10 };

struct vcpu {
	/* Hot: at small offsets from the translator's environment pointer (vcpu + 128), its stack pointer. */
	uint64_t engine_group[8];		/* the translator's */
	_Atomic uint64_t cont;			/* 0: leave translated code / the inner loop and look at requests */
	uint64_t tlb_mask;			/* byte mask of index: (entries - 1) * 16 */
	struct tlb_entry stack;			/* copy of the write entry of the stack's page: tlb_drop_stack() */
	_Atomic(const uint32_t *) code_ids;	/* what blocks compare with: itlb, or without ids while cont is 0 */
	uint64_t engine_hot[3];			/* the translator's: scratch, saved flags, room for a return address */
	uint64_t gpr[16];
	/* -- 256 bytes from the start up to here -- */

	uint64_t engine_cold[21];		/* the translator's */
	uint64_t rip;
	uint64_t rflags;			/* always complete between instructions */
	struct tlb_entry *tlb[TLB_KINDS];	/* active tables: current address space and privilege; see mmu.h */
	uint32_t *itlb;				/* the active set's ITLB_ENTRIES code-page ids: see mmu/mmu.h */
	struct x86_seg seg[SEG_COUNT];
	struct x86_dtable gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0, xss;
	uint64_t dr[8];				/* dr[4], dr[5] unused */
	uint64_t cpl;				/* 0..3 */
	uint32_t mode;				/* enum insn_mode of CS */
	uint32_t pkru;
	uint8_t phys_bits;			/* MAXPHYADDR the guest was given; 0: 40 */
	bool pv_enforced;			/* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */
	bool is_intel;				/* vendor the guest was given: Intel's rules, else AMD's */

	/* MSRs */
	uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, misc_enable, apic_base, spec_ctrl, debugctl, feature_control, smbase;
	uint64_t platform_info, misc_features, power_ctl;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
	uint64_t mcg_cap, mcg_status, mcg_ctl, mc_bank[32][4];
	uint64_t hwcr, de_cfg;			/* AMD's */
	int64_t tsc_offset;			/* guest TSC = host TSC + offset */
	uint64_t tsc_adjust;
	uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_pv_eoi, kvm_async_pf, kvm_async_pf_int,
		kvm_poll_control;
	const void *steal_thread;		/* steal time: whose CPU time was read, NULL: not counting */
	uint64_t steal_wall_ns, steal_cpu_ns, steal_begin_tsc, steal_exit_tsc;

	/* Event state (SDM volume 3, chapter 6; mirrors struct kvm_vcpu_events) */
	bool exception_pending, exception_has_error, exception_has_payload, exception_injected;
	uint8_t exception_vector;
	uint32_t exception_error;
	uint64_t exception_payload;		/* CR2 for #PF, DR6 bits for #DB */
	bool irq_injected, irq_soft;		/* an external/software interrupt set by KVM_INTERRUPT or vcpu_events */
	uint8_t irq_vector;
	uint8_t shadow_before;			/* the shadow that covers the instruction being executed */
	uint8_t shadow;				/* KVM_X86_SHADOW_INT_*: STI / MOV SS blocks the next boundary */
	bool nmi_masked, nmi_injected, halted;
	bool unhalted;				/* VREQ_UNHALT came */
	bool irq_waits;				/* an interrupt (or window request) waits for IF, TPR or a shadow */
	_Atomic uint32_t nmi_pending;		/* 0..2 */
	uint32_t mp_state;			/* KVM_MP_STATE_* */
	bool in_event_delivery;			/* for double fault decisions: see interpret/event.c */
	uint8_t delivering_vector;

	/* Other threads */
	_Atomic uint32_t requests;		/* enum vcpu_request bits */
	_Atomic uint32_t run_state;		/* enum vcpu_run_state; also the futex word of a halted vCPU */
	_Atomic uint64_t tlb_flush_seen;	/* write-entry flushes done: acknowledges VREQ_TLB_WRITE */

	/* Instruction being executed */
	void *leave_buf[5];			/* __builtin_setjmp buffer of the run loop */
	const struct insn *insn;
	uint64_t insn_rip;			/* RIP of the instruction being executed */
	struct mmio_fragment mmio[8];		/* device accesses it has completed so far */
	uint8_t mmio_count, mmio_next;
	bool io_pending;			/* a KVM_EXIT_IO/MMIO/X86_RDMSR/WRMSR waits for its completion */
	bool msr_failed;			/* ... of an MSR: the user wants #GP */
	uint32_t io_string_want;		/* ... and it is a port string of so many elements */
	uint32_t io_string_count;		/* elements of a port string that the user has transferred */
	bool leave_to_user;			/* vcpu_leave(): v->run is filled */
	int leave_error;			/* ... or KVM_RUN fails with this */
	bool holds_split_lock;			/* vm->split_lock, dropped when the instruction leaves */

	/* Vector state */
	bool fpu_live;
	struct vcpu_fpu *fpu;			/* see softkvm/fpu.h: XSAVE area (64-byte aligned) and x87 pointers */

	/* Subsystems */
	struct vm *vm;
	struct vcpu_api *api;			/* api/: handle state: run area fds, ioctl lock, signal mask */
	struct lapic *lapic;			/* irqchip/, NULL without in-kernel irqchip */
	struct mmu *mmu;			/* mmu/ */
	struct decode_cache *decode;		/* interpret/ */
	struct translator *translator;		/* translate/ */
	struct {				/* the watched page written last: mmu_store_beside_code() */
		uint64_t tag, host;
		struct code_page *page;
	} beside;
	struct lockstep *lockstep;		/* a trial of the engine "verify" is under way, else NULL */
	struct kvm_run *run;			/* shared page with the user */
	struct kvm_cpuid2 *cpuid;		/* as set by KVM_SET_CPUID2 */
	uint32_t *feature;			/* bitmap of enum insn_feature the guest was given (from cpuid) */
	uint32_t index, id;			/* position in vm->vcpu[], KVM vcpu id (APIC id) */
	uint32_t guest_debug;			/* KVM_GUESTDBG_* */
	uint64_t debug_pending;			/* DR6 bits of traps the instruction has met: #DB at the boundary */
	uint64_t debug_dr[8];			/* hardware breakpoints of KVM_SET_GUEST_DEBUG */
	uint32_t pauses;			/* PAUSEs until the next yield: interpret/mov.c */
	uint64_t steps;				/* instructions that the interpreter executed */
	struct vcpu_counts own_counts, *counts; /* counts: own_counts, or in a file that the user reads */
};

/*
 * Memory behind each vCPU, zeroed, for a table of the engine's: where translated code finds it relative to the vCPU, without
 * a load. One huge page holds it, the vCPU and its SIGNAL_ROOM.
 */
enum { ENGINE_TABLE_AT = (sizeof(struct vcpu) + PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE, ENGINE_TABLE_SIZE = 1 << 20 };

/* A vCPU's memory, zeroed; NULL: none. Any thread (api/vcpu_memory.c). */
struct vcpu *vcpu_memory_new(void);
void vcpu_memory_free(struct vcpu *v);

enum vcpu_run_state {
	VCPU_OUTSIDE, /* not in KVM_RUN */
	VCPU_RUNNING, /* may touch guest memory and the VM's tables */
	VCPU_HALTED,  /* asleep in vcpu_halt(), touches nothing */
	VCPU_PAUSED   /* held by vm_stop(), touches nothing */
};

/* --- leaving an instruction (interpret/leave.c); vCPU thread only --- */

_Noreturn void raise_exception(struct vcpu *v, enum x86_vector vector);			/* no error code */
_Noreturn void raise_error(struct vcpu *v, enum x86_vector vector, uint32_t error);	/* with error code */
_Noreturn void raise_page_fault(struct vcpu *v, gva_t gva, uint32_t error);
/* The exception event state is filled: RIP goes back to the instruction and the run loop delivers it. */
_Noreturn void vcpu_restart(struct vcpu *v);
/* Leave KVM_RUN: v->run is filled, the instruction restarts (or io completes) on the next KVM_RUN. */
_Noreturn void vcpu_leave(struct vcpu *v);
/* Memory of a slot is not mapped, or not writable: KVM_RUN fails with -EFAULT, the instruction restarts with the next one. */
_Noreturn void vcpu_leave_unbacked(struct vcpu *v);

/*
 * --- asking for attention (api/kick.c); any thread, async-signal-safe ---
 * Sets the bits, makes translated code and the inner loop stop soon, wakes the vCPU if it is halted.
 */
void vcpu_kick(struct vcpu *v, uint32_t request_bits);

extern const uint32_t no_code_ids[]; /* mmu/tlb.c: as many as an itlb has, none of them an id */

/* Have the engine come out at the next boundary. Any thread. */
static inline void vcpu_call_out(struct vcpu *v)
{
	atomic_store_explicit(&v->cont, 0, memory_order_relaxed);
	/* Release: pairs with vcpu_use_code_ids(). Who replaces this sees that cont is 0. */
	atomic_store_explicit(&v->code_ids, no_code_ids, memory_order_release);
}

/* itlb has changed, or cont has become 1. The vCPU's thread. */
static inline void vcpu_use_code_ids(struct vcpu *v)
{
	atomic_exchange(&v->code_ids, v->itlb);
	if (!atomic_load_explicit(&v->cont, memory_order_relaxed))
		atomic_store_explicit(&v->code_ids, no_code_ids, memory_order_relaxed);
}

/* From the next boundary on the engine goes on. The vCPU's thread; look at requests afterwards. */
static inline void vcpu_go_on(struct vcpu *v)
{
	atomic_store(&v->cont, 1);
	vcpu_use_code_ids(v);
}

#endif
