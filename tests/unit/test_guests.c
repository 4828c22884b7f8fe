/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Small guests in real mode that use the interrupt controllers: x2APIC registers by WRMSR, the timer, EOI exits; and one
 * that is moved from a VM to another while it runs. Each on every engine that is built in.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "softkvm/irqchip/lapic.h"
#include "softkvm/irqchip/tsc.h"
#include "vm_fixture.h"

/* Handler of a vector: at 3000h, whatever bytes. */
static void handler(struct vm_fixture *f, uint8_t vector, const void *code, size_t size)
{
	memcpy(f->ram + vector * 4, "\x00\x30\x00\x00", 4);
	memcpy(f->ram + 0x3000, code, size);
	softkvm_memory_written(f->vm, 0x3000, size);
}

/* EOI by the x2APIC's register, then IRET; and INC BX so that we can count. */
static void counting_handler(struct vm_fixture *f, uint8_t vector)
{
	static const uint8_t code[] = {
		0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, /* mov ecx, 80bh */
		0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, /* xor eax, eax; xor edx, edx */
		0x0f, 0x30,			    /* wrmsr */
		0x43, 0xcf};			    /* inc bx; iret */

	handler(f, vector, code, sizeof(code));
}

static void set_msr(struct vm_fixture *f, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msrs = {.header.nmsrs = 1, .entry = {.index = index, .data = value}};

	assert_int_equal(fixture_vcpu(f, KVM_SET_MSRS, &msrs), 1);
}

static void enable_x2apic(struct vm_fixture *f)
{
	set_msr(f, MSR_APIC_BASE, 0xfee00000 | APIC_BASE_BSP | APIC_BASE_ENABLED | APIC_BASE_X2);
	set_msr(f, MSR_X2APIC_FIRST + APIC_SPIV / 16, 0x1ff);
}

static uint16_t get_bx(struct vm_fixture *f)
{
	struct kvm_regs regs;

	assert_int_equal(fixture_vcpu(f, KVM_GET_REGS, &regs), 0);
	return (uint16_t)regs.rbx;
}

static void deadline_timer_ends_hlt_and_loops(void **state)
{
	struct vm_fixture f;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0xfb,			   /* sti */
	     0xf4,			   /* hlt */
	     0xe6, 0x10,		   /* out 10h, al */
	     0xfb,			   /* sti: the handler's IRET gave back IF as it was */
	     0x81, 0xfb, 0x02, 0x00,	   /* again: cmp bx, 2 */
	     0x75, 0xfa,		   /* jne again */
	     0xe6, 0x11);		   /* out 11h, al */
	enable_x2apic(&f);
	counting_handler(&f, 0x55);
	set_msr(&f, MSR_X2APIC_FIRST + APIC_LVTT / 16, 0x55 | LVT_TIMER_DEADLINE);
	set_msr(&f, MSR_TSC_DEADLINE, host_tsc() + (uint64_t)cpu(&f, 0)->tsc_offset + host_tsc_khz() * 5);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	assert_int_equal(f.run->io.port, 0x10);
	assert_int_equal(get_bx(&f), 1);
	set_msr(&f, MSR_TSC_DEADLINE, host_tsc() + (uint64_t)cpu(&f, 0)->tsc_offset + host_tsc_khz() * 5);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO); /* the timer thread ends the loop */
	assert_int_equal(f.run->io.port, 0x11);
	assert_int_equal(get_bx(&f), 2);
	fixture_close(&f);
}

static void periodic_timer_keeps_coming(void **state)
{
	struct vm_fixture f;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0xfb,			/* sti */
	     0xf4,			/* again: hlt */
	     0x81, 0xfb, 0x08, 0x00,	/* cmp bx, 8 */
	     0x72, 0xf9,		/* jb again */
	     0xe6, 0x10);
	enable_x2apic(&f);
	counting_handler(&f, 0x55);
	set_msr(&f, MSR_X2APIC_FIRST + APIC_TDCR / 16, 0xb);
	set_msr(&f, MSR_X2APIC_FIRST + APIC_LVTT / 16, 0x55 | LVT_TIMER_PERIODIC);
	set_msr(&f, MSR_X2APIC_FIRST + APIC_TMICT / 16, 1000000);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	assert_int_equal(get_bx(&f), 8);
	fixture_close(&f);
}

static void self_ipi_at_once(void **state)
{
	struct vm_fixture f;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0xfb,				    /* sti */
	     0x66, 0xb9, 0x3f, 0x08, 0x00, 0x00,    /* mov ecx, 83fh: SELF IPI */
	     0x66, 0xb8, 0x56, 0x00, 0x00, 0x00,    /* mov eax, 56h */
	     0x66, 0x31, 0xd2,			    /* xor edx, edx */
	     0x0f, 0x30,			    /* wrmsr */
	     0xe6, 0x10);			    /* the interrupt comes before this */
	enable_x2apic(&f);
	counting_handler(&f, 0x56);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	assert_int_equal(get_bx(&f), 1);
	fixture_close(&f);
}

static void split_irqchip_exits_for_eoi(void **state)
{
	struct vm_fixture f;
	struct {
		struct kvm_irq_routing header;
		struct kvm_irq_routing_entry entry;
	} routing = {.header.nr = 1, .entry = {.gsi = 3, .type = KVM_IRQ_ROUTING_MSI}};
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x66 | 1 << 15 | 1 << 14};

	routing.entry.u.msi.address_lo = msi.address_lo;
	routing.entry.u.msi.data = msi.data;
	fixture_open(&f, FIXTURE_SPLIT, 1);
	LOAD(&f, 0xfb, 0xf4, 0xe6, 0x10); /* sti; hlt; out 10h, al */
	enable_x2apic(&f);
	counting_handler(&f, 0x66);
	assert_int_equal(fixture_vm(&f, KVM_SET_GSI_ROUTING, &routing), 0);
	assert_int_equal(fixture_vm(&f, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IOAPIC_EOI);
	assert_int_equal(f.run->eoi.vector, 0x66);
	assert_int_equal(get_bx(&f), 0);		/* after the WRMSR, before INC BX */
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO); /* HLT had not been reached: it ended at once */
	assert_int_equal(get_bx(&f), 1);
	fixture_close(&f);
}

static void split_irqchip_opens_a_window(void **state)
{
	struct vm_fixture f;
	struct kvm_interrupt irq = {.irq = 0x21};

	fixture_open(&f, FIXTURE_SPLIT, 1);
	LOAD(&f, 0x90, 0xfb, 0x90, 0x90, 0xe6, 0x10);
	handler(&f, 0x21, "\x43\xcf", 2);
	f.run->request_interrupt_window = 1;
	assert_int_equal(fixture_run(&f), KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(f.run->ready_for_interrupt_injection, 1);
	f.run->request_interrupt_window = 0;
	assert_int_equal(fixture_vcpu(&f, KVM_INTERRUPT, &irq), 0);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	assert_int_equal(get_bx(&f), 1);
	fixture_close(&f);
}

/* INIT and SIPI by a real guest; the second vCPU writes a byte for the first to see. */
static void *run_second(void *arg)
{
	struct vm_fixture *f = arg;

	return (void *)softkvm_ioctl(f->vcpu[1], KVM_RUN, 0, NULL);
}

static void a_second_vcpu_starts(void **state)
{
	struct vm_fixture f;
	pthread_t thread;
	void *result;

	fixture_open(&f, FIXTURE_IRQCHIP, 2);
	LOAD(&f, 0x66, 0xb9, 0x30, 0x08, 0x00, 0x00,	/* mov ecx, 830h: ICR */
	     0x66, 0xba, 0x01, 0x00, 0x00, 0x00,	/* mov edx, 1: APIC id */
	     0x66, 0xb8, 0x00, 0x45, 0x00, 0x00,	/* mov eax, 4500h: INIT */
	     0x0f, 0x30,				/* wrmsr */
	     0x66, 0xb8, 0x04, 0x46, 0x00, 0x00,	/* mov eax, 4604h: start at 4000h */
	     0x0f, 0x30,				/* wrmsr */
	     0x80, 0x3e, 0x00, 0x50, 0x77,		/* again: cmp byte [5000h], 77h */
	     0x75, 0xf9,				/* jne again */
	     0xe6, 0x10);
	memcpy(f.ram + 0x4000, "\x31\xc0\x8e\xd8\xc6\x06\x00\x50\x77\xf4", 10); /* mov byte [5000h], 77h; hlt */
	enable_x2apic(&f);
	pthread_create(&thread, NULL, run_second, &f);
	assert_int_equal(fixture_run(&f), KVM_EXIT_IO);
	softkvm_kick(f.vcpu[1]);
	pthread_join(thread, &result);
	assert_int_equal((long)result, -EINTR);
	fixture_close(&f);
}

/* --- moving a guest --- */

static void copy_struct(struct vm_fixture *from, struct vm_fixture *to, unsigned long get, unsigned long set, bool is_vm,
			uint32_t first_word)
{
	uint32_t buffer[4096 / 4 + 4] = {first_word};
	struct softkvm *source = is_vm ? from->vm : from->vcpu[0], *sink = is_vm ? to->vm : to->vcpu[0];

	assert_int_equal(softkvm_ioctl(source, get, (uintptr_t)buffer, NULL), 0);
	if (get == KVM_GET_CLOCK)
		((struct kvm_clock_data *)buffer)->flags = 0;
	assert_int_equal(softkvm_ioctl(sink, set, (uintptr_t)buffer, NULL), 0);
}

static void copy_msrs(struct vm_fixture *from, struct vm_fixture *to)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + 255 * 4);
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + 255 * sizeof(struct kvm_msr_entry));

	list->nmsrs = 255;
	assert_int_equal(softkvm_ioctl(from->system, KVM_GET_MSR_INDEX_LIST, (uintptr_t)list, NULL), 0);
	msrs->nmsrs = list->nmsrs;
	for (uint32_t i = 0; i < list->nmsrs; i++)
		msrs->entries[i].index = list->indices[i];
	assert_int_equal(fixture_vcpu(from, KVM_GET_MSRS, msrs), list->nmsrs);
	assert_int_equal(fixture_vcpu(to, KVM_SET_MSRS, msrs), list->nmsrs);
	free(list);
	free(msrs);
}

static void copy_guest(struct vm_fixture *from, struct vm_fixture *to)
{
	memcpy(to->ram, from->ram, FIXTURE_RAM);
	softkvm_memory_written(to->vm, 0, FIXTURE_RAM);
	for (uint32_t chip = 0; chip < 3; chip++)
		copy_struct(from, to, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, true, chip);
	copy_struct(from, to, KVM_GET_CLOCK, KVM_SET_CLOCK, true, 0);
	copy_struct(from, to, KVM_GET_REGS, KVM_SET_REGS, false, 0);
	copy_struct(from, to, KVM_GET_SREGS2, KVM_SET_SREGS2, false, 0);
	copy_struct(from, to, KVM_GET_XSAVE, KVM_SET_XSAVE, false, 0);
	copy_struct(from, to, KVM_GET_XCRS, KVM_SET_XCRS, false, 0);
	copy_struct(from, to, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, false, 0);
	copy_struct(from, to, KVM_GET_LAPIC, KVM_SET_LAPIC, false, 0);
	copy_msrs(from, to); /* after the APIC's mode and LVTT: among them is TSC_DEADLINE */
	copy_struct(from, to, KVM_GET_MP_STATE, KVM_SET_MP_STATE, false, 0);
	copy_struct(from, to, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, false, 0);
}

static void a_guest_moves_while_it_waits(void **state)
{
	struct vm_fixture a, b;
	struct kvm_mp_state mp;
	pthread_t thread;
	void *result;

	if (fixture_tsan_disturbs("vector registers"))
		skip();
	fixture_open(&a, FIXTURE_IRQCHIP, 2);
	a.vcpu[2] = a.vcpu[1]; /* run_second runs [1] */
	a.vcpu[1] = a.vcpu[0];
	LOAD(&a, 0x66, 0xbe, 0x78, 0x56, 0x34, 0x12,	     /* mov esi, 12345678h */
	     0xb8, 0x11, 0x22, 0x66, 0x0f, 0x6e, 0xc6,	     /* movd xmm0, esi */
	     0xfb, 0xf4,				     /* sti; hlt */
	     0x66, 0x0f, 0x7e, 0xc7,			     /* movd edi, xmm0 */
	     0xe6, 0x10);
	cpu(&a, 0)->cr4 |= CR4_OSFXSR;
	enable_x2apic(&a);
	counting_handler(&a, 0x55);
	set_msr(&a, MSR_X2APIC_FIRST + APIC_LVTT / 16, 0x55 | LVT_TIMER_DEADLINE);
	set_msr(&a, MSR_TSC_DEADLINE, host_tsc() + (uint64_t)cpu(&a, 0)->tsc_offset + host_tsc_khz() * 200ull);
	pthread_create(&thread, NULL, run_second, &a);
	while (atomic_load(&cpu(&a, 0)->run_state) != VCPU_HALTED)
		sleep_ms(1);
	softkvm_kick(a.vcpu[0]);
	pthread_join(thread, &result);
	assert_int_equal((long)result, -EINTR);
	assert_int_equal(fixture_vcpu(&a, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_HALTED);
	fixture_open(&b, FIXTURE_IRQCHIP, 1);
	copy_guest(&a, &b);
	assert_int_equal(fixture_run(&b), KVM_EXIT_IO); /* the timer, set in the other VM, ends HLT in this one */
	assert_int_equal(get_bx(&b), 1);
	assert_int_equal(cpu(&b, 0)->gpr[RDI], 0x12345678);
	a.vcpu[1] = a.vcpu[2];
	fixture_close(&a);
	fixture_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(deadline_timer_ends_hlt_and_loops),
		cmocka_unit_test(periodic_timer_keeps_coming),
		cmocka_unit_test(self_ipi_at_once),
		cmocka_unit_test(split_irqchip_exits_for_eoi),
		cmocka_unit_test(split_irqchip_opens_a_window),
		cmocka_unit_test(a_second_vcpu_starts),
		cmocka_unit_test(a_guest_moves_while_it_waits),
	};

	return RUN_ON_ENGINES(tests);
}
