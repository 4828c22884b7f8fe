/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The paravirtual clock as a guest computes it from its page, wall clock, steal time, and the pages' version protocol.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <linux/kvm_para.h>

#include "softkvm/irqchip/pvclock.h"
#include "softkvm/irqchip/tsc.h"
#include "vm_fixture.h"

enum { CLOCK_AT = 0x3000, WALL_AT = 0x3100, STEAL_AT = 0x3200 };

struct clock_page {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};

struct steal_page {
	uint64_t steal;
	uint32_t version, flags;
	uint8_t preempted;
};

static struct clock_page page_of(struct vm_fixture *f)
{
	struct clock_page page;

	memcpy(&page, f->ram + CLOCK_AT, sizeof(page));
	return page;
}

/* As Linux does in pvclock_clocksource_read(). */
static uint64_t guest_ns(const struct clock_page *page, uint64_t guest_tsc)
{
	uint64_t delta = guest_tsc - page->tsc_timestamp;

	delta = page->shift < 0 ? delta >> -page->shift : delta << page->shift;
	return page->system_time + (uint64_t)((unsigned __int128)delta * page->mul >> 32);
}

static void guest_clock_is_the_vms(void **state)
{
	struct vm_fixture f;
	struct clock_page page;
	struct vcpu *v;
	uint64_t tsc, ns, khz;

	fixture_open(&f, FIXTURE_IRQCHIP, 2);
	v = cpu(&f, 0);
	assert_int_equal(pvclock_msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, CLOCK_AT | 1), 0);
	page = page_of(&f);
	assert_int_equal(page.version & 1, 0);
	assert_int_equal(page.flags, 1); /* TSC stable */
	tsc = host_tsc();
	ns = guest_ns(&page, tsc + (uint64_t)v->tsc_offset);
	assert_true(ns - pvclock_ns_at(f.vm->vm, tsc) + 1 <= 2); /* the same, to a nanosecond */
	khz = (1000000ull << 32) / page.mul;			 /* as Linux's pvclock_tsc_khz() */
	khz = page.shift < 0 ? khz << -page.shift : khz >> page.shift;
	assert_in_range(khz, host_tsc_khz() - 1, host_tsc_khz() + 1);
	v->tsc_offset += 1000000000; /* another TSC, the same time */
	pvclock_update(v);
	page = page_of(&f);
	assert_true(guest_ns(&page, tsc + (uint64_t)v->tsc_offset) - ns + 1 <= 2);
	assert_int_equal(v->tsc_offset - 1000000000, cpu(&f, 1)->tsc_offset); /* vCPUs begin with one TSC */
	fixture_close(&f);
}

static void clock_is_set_and_stopped(void **state)
{
	struct vm_fixture f;
	struct clock_page page;
	uint32_t version;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	assert_int_equal(fixture_vcpu(&f, KVM_KVMCLOCK_CTRL, NULL), -EINVAL);
	pvclock_msr_write(cpu(&f, 0), 0x12, CLOCK_AT | 1); /* the old number */
	version = page_of(&f).version;
	pvclock_set_ns(f.vm->vm, 7000000000);
	assert_true(atomic_load(&cpu(&f, 0)->requests) & VREQ_CLOCK);
	pvclock_update(cpu(&f, 0));
	page = page_of(&f);
	assert_int_equal(page.system_time, 7000000000);
	assert_int_equal(page.version, version + 2);
	assert_int_equal(fixture_vcpu(&f, KVM_KVMCLOCK_CTRL, NULL), 0);
	assert_int_equal(page_of(&f).flags, 3); /* and: guest stopped */
	f.ram[CLOCK_AT] = 5;			/* odd, whoever left it so */
	pvclock_update(cpu(&f, 0));
	assert_int_equal(page_of(&f).version, 8);
	pvclock_msr_write(cpu(&f, 0), 0x12, (1ull << 40) | 1); /* no memory there: nothing happens */
	pvclock_update(cpu(&f, 0));
	fixture_close(&f);
}

static void wall_clock_is_the_boot_time(void **state)
{
	struct vm_fixture f;
	uint32_t wall[3];
	time_t boot;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	pvclock_set_ns(f.vm->vm, 100 * 1000000000ull);
	pvclock_msr_write(cpu(&f, 0), MSR_KVM_WALL_CLOCK_NEW, WALL_AT);
	memcpy(wall, f.ram + WALL_AT, sizeof(wall));
	boot = time(NULL) - 100;
	assert_int_equal(wall[0], 2);
	assert_in_range(wall[1], boot - 2, boot + 2);
	memset(f.ram, 0, 16);
	pvclock_msr_write(cpu(&f, 0), MSR_KVM_WALL_CLOCK_NEW, 0); /* none */
	assert_int_equal(f.ram[0], 0);
	fixture_close(&f);
}

static void steal_time(void **state)
{
	struct vm_fixture f;
	struct steal_page *page;
	struct vcpu *v;
	uint64_t before;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	v = cpu(&f, 0);
	page = (void *)(f.ram + STEAL_AT);
	assert_int_equal(pvclock_msr_write(v, MSR_KVM_STEAL_TIME, STEAL_AT | 2), -1); /* reserved */
	assert_int_equal(pvclock_msr_write(v, MSR_KVM_STEAL_TIME, STEAL_AT | 1), 0);
	sleep_ms(30); /* the thread wanted to run, as far as we know */
	pvclock_steal_tick(v);
	assert_true(page->steal >= 25000000);
	assert_int_equal(page->version & 1, 0);
	pvclock_sleep(v);
	before = page->steal;
	assert_int_equal(page->preempted, 1);
	sleep_ms(30);
	page->preempted |= 2; /* another vCPU wants a TLB flush */
	atomic_store(&v->requests, 0);
	pvclock_wake(v);
	assert_int_equal(page->preempted, 0);
	assert_true(atomic_load(&v->requests) & VREQ_TLB_FLUSH);
	pvclock_sleep(v);
	assert_true(page->steal < before + 20000000); /* sleep is no theft */
	fixture_close(&f);
}

static void msrs(void **state)
{
	struct vm_fixture f;
	uint64_t value;
	struct vcpu *v;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	v = cpu(&f, 0);
	assert_int_equal(pvclock_msr_write(v, 0x10, 0), 1); /* not ours */
	assert_int_equal(pvclock_msr_write(v, MSR_KVM_PV_EOI_EN, 3), -1);
	assert_int_equal(pvclock_msr_write(v, MSR_KVM_PV_EOI_EN, 0x3001), 0);
	assert_int_equal(pvclock_msr_read(v, MSR_KVM_PV_EOI_EN, &value), 0);
	assert_int_equal(value, 0x3001);
	assert_int_equal(pvclock_msr_read(v, MSR_KVM_POLL_CONTROL, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(pvclock_msr_write(v, MSR_KVM_POLL_CONTROL, 2), -1);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_clock_is_the_vms),
		cmocka_unit_test(clock_is_set_and_stopped),
		cmocka_unit_test(wall_clock_is_the_boot_time),
		cmocka_unit_test(steal_time),
		cmocka_unit_test(msrs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
