/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM's paravirtual clock (Documentation/virt/kvm/x86/msr.rst), steal time, and the MSRs that switch them on.
 *
 * The VM has one clock: a base (host TSC, nanoseconds) and the TSC's rate. Every vCPU's page says the same in terms of its
 * own TSC, so the clock is monotonic across vCPUs and PVCLOCK_TSC_STABLE_BIT is true; pages change only when the base or a
 * TSC offset does. The guest's version protocol: odd while we write, so it reads again.
 *
 * Steal time is what passed while this vCPU's thread wanted to run and did not: time on the wall, less time asleep
 * or outside KVM_RUN, less its CPU time. It is taken over intervals of some milliseconds, because CPU time costs a
 * system call; exits of less than 100 us do not end an interval, longer ones void it. `preempted` in that page is set while the vCPU sleeps: other vCPUs then
 * ask for a TLB flush by a bit there instead of by an interrupt (PV TLB flush).
 *
 * Guest pages are written by the vCPU's thread inside KVM_RUN, or with the vCPU stopped and vm->lock held.
 */
#include "softkvm/irqchip/pvclock.h"

#include <errno.h>
#include <linux/kvm_para.h>
#include <stdlib.h>

#include "softkvm/irqchip/tsc.h"

enum { FLAG_TSC_STABLE = 1, FLAG_GUEST_STOPPED = 2, NS_PER_S = 1000000000 };
enum { STEAL_PREEMPTED = 1, STEAL_FLUSH_TLB = 2, STEAL_INTERVAL_MS = 10 };

struct pvclock_page {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};
_Static_assert(sizeof(struct pvclock_page) == 32, "ABI");

struct wall_clock_page {
	uint32_t version, sec, nsec;
};

struct steal_page {
	uint64_t steal;
	uint32_t version, flags;
	uint8_t preempted, pad[47];
};
_Static_assert(sizeof(struct steal_page) == 64, "ABI");

struct kvmclock {
	pthread_mutex_t lock; /* base; innermost */
	uint64_t base_tsc, base_ns;
	uint32_t mul; /* ns = (ticks << shift) * mul >> 32 */
	int8_t shift;
};

/* --- the VM's clock --- */

/* mul and shift for a TSC of hz: the rule in the guest's kernel turned around. */
static void scale_of(uint64_t hz, uint32_t *mul, int8_t *shift)
{
	uint64_t ns = NS_PER_S;
	int s = 0;

	while (hz > 2 * ns || hz >> 32) {
		hz >>= 1;
		s--;
	}
	while (hz <= ns) {
		hz <<= 1;
		s++;
	}
	*mul = (uint32_t)((ns << 32) / hz);
	*shift = (int8_t)s;
}

static uint64_t scale(const struct kvmclock *c, uint64_t tsc_ticks)
{
	tsc_ticks = c->shift < 0 ? tsc_ticks >> -c->shift : tsc_ticks << c->shift;
	return (uint64_t)((unsigned __int128)tsc_ticks * c->mul >> 32);
}

uint64_t pvclock_ns_at(struct vm *vm, uint64_t tsc)
{
	struct kvmclock *c = vm->clock;
	uint64_t ns;

	pthread_mutex_lock(&c->lock);
	ns = c->base_ns + scale(c, tsc - c->base_tsc);
	pthread_mutex_unlock(&c->lock);
	return ns;
}

void pvclock_set_ns(struct vm *vm, uint64_t ns)
{
	struct kvmclock *c = vm->clock;
	unsigned count = atomic_load(&vm->vcpu_count);

	pthread_mutex_lock(&c->lock);
	c->base_tsc = host_tsc();
	c->base_ns = ns;
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < count; i++)
		vcpu_kick(vm->vcpu[i], VREQ_CLOCK);
}

int pvclock_new(struct vm *vm)
{
	struct kvmclock *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	scale_of(host_tsc_khz() * 1000ull, &c->mul, &c->shift);
	c->base_tsc = host_tsc();
	vm->clock = c;
	return 0;
}

void pvclock_free(struct vm *vm)
{
	if (!vm->clock)
		return;
	pthread_mutex_destroy(&vm->clock->lock);
	free(vm->clock);
	vm->clock = NULL;
}

/* --- the guest's pages --- */

static uint32_t begin_version(uint32_t *version)
{
	uint32_t next = __atomic_load_n(version, __ATOMIC_RELAXED);

	next += next & 1 ? 2 : 1; /* left odd by somebody: start anew */
	/* An exchange, so that the fields' stores stay behind it: pairs with the guest's read of version before them. */
	__atomic_exchange_n(version, next, __ATOMIC_SEQ_CST);
	return next;
}

static void end_version(uint32_t *version, uint32_t odd)
{
	/* Pairs with the guest's read of version after the fields. */
	__atomic_store_n(version, odd + 1, __ATOMIC_RELEASE);
}

static void write_clock_page(struct vcpu *v, uint8_t flags)
{
	struct kvmclock *c = v->vm->clock;
	struct pvclock_page *page;
	uint32_t version;

	if (!(v->kvm_system_time & 1))
		return;
	page = mem_at(&v->vm->mem, v->kvm_system_time & ~1ull, sizeof(*page), MEM_WRITE);
	if (!page)
		return;
	version = begin_version(&page->version);
	pthread_mutex_lock(&c->lock);
	page->tsc_timestamp = c->base_tsc + (uint64_t)v->tsc_offset;
	page->system_time = c->base_ns;
	page->mul = c->mul;
	page->shift = c->shift;
	pthread_mutex_unlock(&c->lock);
	page->flags = FLAG_TSC_STABLE | flags;
	end_version(&page->version, version);
}

int pvclock_guest_stopped(struct vcpu *v)
{
	if (!(v->kvm_system_time & 1))
		return -EINVAL;
	write_clock_page(v, FLAG_GUEST_STOPPED);
	return 0;
}

/* Address 0 is none: users set the MSR to it at reset. */
static void write_wall_clock(struct vcpu *v)
{
	struct wall_clock_page *page = NULL;
	struct timespec real;
	uint64_t boot_ns;
	uint32_t version;

	if (v->kvm_wall_clock)
		page = mem_at(&v->vm->mem, v->kvm_wall_clock, sizeof(*page), MEM_WRITE);
	if (!page)
		return;
	clock_gettime(CLOCK_REALTIME, &real);
	boot_ns = (uint64_t)real.tv_sec * NS_PER_S + (uint64_t)real.tv_nsec - pvclock_ns_at(v->vm, host_tsc());
	version = begin_version(&page->version);
	page->sec = (uint32_t)(boot_ns / NS_PER_S);
	page->nsec = (uint32_t)(boot_ns % NS_PER_S);
	end_version(&page->version, version);
}

/* --- steal time --- */

static struct steal_page *steal_page(struct vcpu *v)
{
	if (!(v->kvm_steal_time & 1))
		return NULL;
	return mem_at(&v->vm->mem, v->kvm_steal_time & ~63ull, sizeof(struct steal_page), MEM_WRITE);
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void write_steal(struct vcpu *v, uint64_t stolen_ns)
{
	struct steal_page *page = steal_page(v);
	uint32_t version;

	if (!page)
		return;
	version = begin_version(&page->version);
	page->steal += stolen_ns;
	end_version(&page->version, version);
}

/* Which thread the CPU time was read on: a vCPU may be run by another one next time. */
static _Thread_local char this_thread;

static bool counts_steal(const struct vcpu *v)
{
	return v->kvm_steal_time & 1;
}

static void begin_interval(struct vcpu *v, uint64_t cpu_ns)
{
	v->steal_thread = &this_thread;
	v->steal_wall_ns = monotonic_ns();
	v->steal_cpu_ns = cpu_ns;
	v->steal_begin_tsc = host_tsc();
}

/* Tell the guest what was stolen since the interval began; the CPU time now. */
static uint64_t end_interval(struct vcpu *v)
{
	uint64_t cpu_ns = thread_cpu_ns(), wall, cpu;

	if (v->steal_thread == &this_thread) {
		wall = monotonic_ns() - v->steal_wall_ns;
		cpu = cpu_ns - v->steal_cpu_ns;
		if (wall > cpu)
			write_steal(v, wall - cpu);
	}
	v->steal_thread = NULL;
	return cpu_ns;
}

void pvclock_steal_tick(struct vcpu *v)
{
	if (counts_steal(v) && v->steal_thread && host_tsc() - v->steal_begin_tsc > host_tsc_khz() * STEAL_INTERVAL_MS)
		begin_interval(v, end_interval(v));
}

void pvclock_steal_start(struct vcpu *v)
{
	if (!counts_steal(v))
		return;
	if (v->steal_thread == &this_thread && host_tsc() - v->steal_exit_tsc < host_tsc_khz() / 10)
		pvclock_steal_tick(v); /* a short exit: as if it had not been */
	else
		begin_interval(v, thread_cpu_ns());
}

void pvclock_steal_stop(struct vcpu *v)
{
	v->steal_exit_tsc = host_tsc();
}

void pvclock_sleep(struct vcpu *v)
{
	struct steal_page *page;

	if (!counts_steal(v))
		return;
	v->steal_cpu_ns = end_interval(v);
	page = steal_page(v);
	if (page)
		__atomic_store_n(&page->preempted, STEAL_PREEMPTED, __ATOMIC_SEQ_CST);
}

void pvclock_wake(struct vcpu *v)
{
	struct steal_page *page;

	if (!counts_steal(v))
		return;
	page = steal_page(v);
	if (page && __atomic_exchange_n(&page->preempted, 0, __ATOMIC_SEQ_CST) & STEAL_FLUSH_TLB)
		vcpu_kick(v, VREQ_TLB_FLUSH);
	begin_interval(v, v->steal_cpu_ns); /* asleep, no CPU time went by */
}

void pvclock_update(struct vcpu *v)
{
	write_clock_page(v, 0);
}

/* --- MSRs --- */

enum { MSR_WALL_OLD = 0x11, MSR_SYSTEM_OLD = 0x12, STEAL_RESERVED = 0x3e };

int pvclock_msr_write(struct vcpu *v, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_WALL_OLD:
	case MSR_KVM_WALL_CLOCK_NEW:
		v->kvm_wall_clock = value;
		write_wall_clock(v);
		return 0;
	case MSR_SYSTEM_OLD:
	case MSR_KVM_SYSTEM_TIME_NEW:
		v->kvm_system_time = value;
		write_clock_page(v, 0);
		return 0;
	case MSR_KVM_STEAL_TIME:
		if (value & STEAL_RESERVED)
			return -1;
		v->kvm_steal_time = value;
		pvclock_steal_start(v);
		return 0;
	case MSR_KVM_PV_EOI_EN:
		if (value & 2)
			return -1;
		v->kvm_pv_eoi = value;
		return 0;
	case MSR_KVM_POLL_CONTROL:
		if (value & ~1ull)
			return -1;
		v->kvm_poll_control = value;
		return 0;
	}
	return 1;
}

int pvclock_msr_read(struct vcpu *v, uint32_t msr, uint64_t *value)
{
	switch (msr) {
	case MSR_WALL_OLD:
	case MSR_KVM_WALL_CLOCK_NEW:
		*value = v->kvm_wall_clock;
		return 0;
	case MSR_SYSTEM_OLD:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*value = v->kvm_system_time;
		return 0;
	case MSR_KVM_STEAL_TIME:
		*value = v->kvm_steal_time;
		return 0;
	case MSR_KVM_PV_EOI_EN:
		*value = v->kvm_pv_eoi;
		return 0;
	case MSR_KVM_POLL_CONTROL:
		*value = v->kvm_poll_control;
		return 0;
	}
	return 1;
}
