/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PICs, I/O APIC, PIT and GSI routing, by ports, registers and lines.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "softkvm/irqchip/chip.h"
#include "softkvm/irqchip/lapic.h"
#include "vm_fixture.h"

static void out(struct vm_fixture *f, uint16_t port, uint8_t value)
{
	assert_true(irqchip_pio(cpu(f, 0), port, &value, 1, true));
}

static uint8_t in(struct vm_fixture *f, uint16_t port)
{
	uint8_t value = 0;

	assert_true(irqchip_pio(cpu(f, 0), port, &value, 1, false));
	return value;
}

static int line(struct vm_fixture *f, uint32_t gsi, int level)
{
	return irqchip_line(f->vm->vm, gsi, level);
}

static void mmio(struct vcpu *v, uint64_t gpa, uint32_t value)
{
	assert_true(irqchip_mmio(v, gpa, &value, 4, true));
}

/* --- PICs --- */

/* As a PC's firmware and kernel do: vectors 20h and 28h, all unmasked, EOI by hand. */
static void open_pic(struct vm_fixture *f)
{
	fixture_open(f, FIXTURE_IRQCHIP, 1);
	out(f, 0x20, 0x11);
	out(f, 0x21, 0x20);
	out(f, 0x21, 0x04);
	out(f, 0x21, 0x01);
	out(f, 0xa0, 0x11);
	out(f, 0xa1, 0x28);
	out(f, 0xa1, 0x02);
	out(f, 0xa1, 0x01);
	out(f, 0x21, 0);
	out(f, 0xa1, 0);
}

static void pic_delivers_and_ends(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_pic(&f);
	v = cpu(&f, 0);
	assert_false(irqchip_has_interrupt(v));
	line(&f, 4, 1);
	assert_true(irqchip_has_interrupt(v));
	assert_int_equal(in(&f, 0x20), 0x10); /* IRR */
	assert_int_equal(irqchip_ack(v), 0x24);
	assert_int_equal(in(&f, 0x20), 0);
	out(&f, 0x20, 0x0b);
	assert_int_equal(in(&f, 0x20), 0x10); /* ISR */
	line(&f, 4, 0);
	line(&f, 4, 1); /* again, but in service */
	assert_false(irqchip_has_interrupt(v));
	line(&f, 1, 1); /* of higher priority */
	assert_int_equal(irqchip_ack(v), 0x21);
	out(&f, 0x20, 0x20);
	assert_false(irqchip_has_interrupt(v));
	out(&f, 0x20, 0x64); /* specific EOI of pin 4 */
	assert_int_equal(irqchip_ack(v), 0x24);
	out(&f, 0x20, 0x20);
	assert_false(irqchip_has_interrupt(v));
	fixture_close(&f);
}

static void pic_slave_cascades(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_pic(&f);
	v = cpu(&f, 0);
	line(&f, 12, 1);
	assert_int_equal(irqchip_ack(v), 0x2c);
	line(&f, 12, 0);
	line(&f, 8, 1); /* the same cascade pin: waits for the master's EOI */
	assert_false(irqchip_has_interrupt(v));
	out(&f, 0xa0, 0x20);
	assert_false(irqchip_has_interrupt(v));
	out(&f, 0x20, 0x20);
	assert_int_equal(irqchip_ack(v), 0x28);
	fixture_close(&f);
}

static void pic_masks_and_levels(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_pic(&f);
	v = cpu(&f, 0);
	out(&f, 0x21, 0x20);
	assert_int_equal(in(&f, 0x21), 0x20);
	line(&f, 5, 1);
	assert_false(irqchip_has_interrupt(v));
	out(&f, 0x21, 0);
	assert_true(irqchip_has_interrupt(v)); /* the request was kept */
	irqchip_ack(v);
	out(&f, 0x20, 0x20);
	assert_false(irqchip_has_interrupt(v)); /* edge: once */
	line(&f, 5, 0);
	out(&f, 0x4d0, 0xff);
	assert_int_equal(in(&f, 0x4d0), 0xf8); /* pins 0-2 are always edge */
	line(&f, 5, 1);
	irqchip_ack(v);
	out(&f, 0x20, 0x20);
	assert_true(irqchip_has_interrupt(v)); /* level: as long as it is up */
	line(&f, 5, 0);
	assert_false(irqchip_has_interrupt(v));
	fixture_close(&f);
}

static void pic_special_modes(void **state)
{
	struct vm_fixture f;
	struct vcpu *v;

	open_pic(&f);
	v = cpu(&f, 0);
	line(&f, 3, 1);
	irqchip_ack(v);
	line(&f, 6, 1);
	assert_false(irqchip_has_interrupt(v));
	out(&f, 0x21, 1 << 3);
	out(&f, 0x20, 0x68); /* special mask mode: a masked pin in service does not hold others back */
	assert_int_equal(irqchip_ack(v), 0x26);
	out(&f, 0x20, 0x48);
	out(&f, 0x20, 0x66);
	out(&f, 0x20, 0x63);
	out(&f, 0x21, 0);
	out(&f, 0x20, 0xc4); /* pin 4 is lowest: 5 the highest */
	line(&f, 3, 0);
	line(&f, 3, 1);
	line(&f, 5, 1);
	out(&f, 0x20, 0x0c); /* poll */
	assert_int_equal(in(&f, 0x20), 0x85);
	out(&f, 0x20, 0x20);
	assert_int_equal(irqchip_ack(v), 0x23);
	fixture_close(&f);
}

static void pic_spurious_is_seven(void **state)
{
	struct vm_fixture f;
	struct vm *vm;

	open_pic(&f);
	vm = f.vm->vm;
	pthread_mutex_lock(&vm->irqchip->lock);
	assert_int_equal(pic_ack(vm), 0x27);
	pthread_mutex_unlock(&vm->irqchip->lock);
	out(&f, 0x20, 0x0b);
	assert_int_equal(in(&f, 0x20), 0);
	fixture_close(&f);
}

static void masked_lint0_keeps_the_pic_out(void **state)
{
	struct vm_fixture f;

	open_pic(&f);
	mmio(cpu(&f, 0), 0xfee00000 + APIC_LVT0, APIC_EXTINT << 8 | LVT_MASKED);
	line(&f, 4, 1);
	assert_false(irqchip_has_interrupt(cpu(&f, 0)));
	fixture_close(&f);
}

static void unknown_ports_are_not_ours(void **state)
{
	struct vm_fixture f;
	uint8_t value = 0;
	const uint16_t ports[] = {0x1f, 0x22, 0x40, 0x61, 0x9f, 0xa2, 0x4cf, 0x4d2, 0xffff};

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	for (unsigned i = 0; i < sizeof(ports) / sizeof(*ports); i++)
		assert_false(irqchip_pio(cpu(&f, 0), ports[i], &value, 1, false));
	fixture_close(&f);
}

/* --- I/O APIC --- */

static void ioapic_write(struct vm_fixture *f, uint8_t index, uint32_t value)
{
	mmio(cpu(f, 0), IOAPIC_DEFAULT_BASE, index);
	mmio(cpu(f, 0), IOAPIC_DEFAULT_BASE + 0x10, value);
}

static uint32_t ioapic_read(struct vm_fixture *f, uint8_t index)
{
	uint32_t value = 0;

	mmio(cpu(f, 0), IOAPIC_DEFAULT_BASE, index);
	assert_true(irqchip_mmio(cpu(f, 0), IOAPIC_DEFAULT_BASE + 0x10, &value, 4, false));
	return value;
}

static void open_ioapic(struct vm_fixture *f)
{
	fixture_open(f, FIXTURE_IRQCHIP, 2);
	for (unsigned i = 0; i < 2; i++)
		mmio(cpu(f, i), 0xfee00000 + APIC_SPIV, 0x1ff);
}

static void eoi(struct vm_fixture *f, unsigned i)
{
	mmio(cpu(f, i), 0xfee00000 + APIC_EOI, 0);
}

static void ioapic_registers(void **state)
{
	struct vm_fixture f;

	open_ioapic(&f);
	assert_int_equal(ioapic_read(&f, 1), 0x170011);
	ioapic_write(&f, 0, 0xff000000);
	assert_int_equal(ioapic_read(&f, 0), 0x0f000000);
	assert_int_equal(ioapic_read(&f, 0x10 + 2 * 23), 0x10000);
	ioapic_write(&f, 0x10, 0xffffffff); /* delivery status and remote IRR are read-only */
	assert_int_equal(ioapic_read(&f, 0x10), 0x1afff);
	ioapic_write(&f, 0x11, 0x12345678);
	assert_int_equal(ioapic_read(&f, 0x11), 0x12345678);
	ioapic_write(&f, 0x40, 0xffffffff); /* beyond the last pin */
	assert_int_equal(ioapic_read(&f, 0x40), 0);
	fixture_close(&f);
}

static void ioapic_edge(void **state)
{
	struct vm_fixture f;

	open_ioapic(&f);
	assert_int_equal(line(&f, 20, 1), -1); /* masked: nobody gets it */
	line(&f, 20, 0);
	ioapic_write(&f, 0x11 + 2 * 20, 1 << 24);
	ioapic_write(&f, 0x10 + 2 * 20, 0x45);
	assert_false(irqchip_has_interrupt(cpu(&f, 1))); /* an edge while masked is lost */
	assert_int_equal(line(&f, 20, 1), 1);
	assert_int_equal(line(&f, 20, 1), 0); /* no new edge */
	assert_false(irqchip_has_interrupt(cpu(&f, 0)));
	assert_int_equal(irqchip_ack(cpu(&f, 1)), 0x45);
	eoi(&f, 1);
	assert_false(irqchip_has_interrupt(cpu(&f, 1)));
	line(&f, 20, 0);
	assert_int_equal(line(&f, 20, 1), 1);
	assert_int_equal(irqchip_ack(cpu(&f, 1)), 0x45);
	fixture_close(&f);
}

static void ioapic_level(void **state)
{
	struct vm_fixture f;
	const uint32_t entry = 0x45 | 1 << 15;

	open_ioapic(&f);
	ioapic_write(&f, 0x10 + 2 * 20, entry);
	line(&f, 20, 1);
	assert_int_equal(ioapic_read(&f, 0x10 + 2 * 20), entry | 1 << 14); /* remote IRR */
	assert_int_equal(irqchip_ack(cpu(&f, 0)), 0x45);
	eoi(&f, 0); /* the line is still up */
	assert_int_equal(irqchip_ack(cpu(&f, 0)), 0x45);
	line(&f, 20, 0);
	eoi(&f, 0);
	assert_false(irqchip_has_interrupt(cpu(&f, 0)));
	assert_int_equal(ioapic_read(&f, 0x10 + 2 * 20), entry);
	ioapic_write(&f, 0x10 + 2 * 20, entry | 1 << 16);
	line(&f, 20, 1);
	assert_false(irqchip_has_interrupt(cpu(&f, 0)));
	ioapic_write(&f, 0x10 + 2 * 20, entry); /* a level is there when it is unmasked */
	assert_int_equal(irqchip_ack(cpu(&f, 0)), 0x45);
	fixture_close(&f);
}

static void irqchip_states_round_trip(void **state)
{
	struct vm_fixture f;
	struct kvm_irqchip a, b;

	open_ioapic(&f);
	ioapic_write(&f, 0x10 + 2 * 20, 0x45 | 1 << 15);
	out(&f, 0x4d1, 0x0c);
	out(&f, 0x21, 0x5a);
	line(&f, 20, 1);
	for (uint32_t id = 0; id < 3; id++) {
		memset(&a, 0, sizeof(a));
		memset(&b, 0, sizeof(b));
		a.chip_id = b.chip_id = id;
		assert_int_equal(fixture_vm(&f, KVM_GET_IRQCHIP, &a), 0);
		assert_int_equal(fixture_vm(&f, KVM_SET_IRQCHIP, &a), 0);
		assert_int_equal(fixture_vm(&f, KVM_GET_IRQCHIP, &b), 0);
		assert_memory_equal(&a, &b, sizeof(a));
	}
	a.chip_id = 3;
	assert_int_equal(fixture_vm(&f, KVM_GET_IRQCHIP, &a), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_SET_IRQCHIP, &a), -EINVAL);
	fixture_close(&f);
}

/* --- routing --- */

static long set_routes(struct vm_fixture *f, const struct kvm_irq_routing_entry *entries, uint32_t n)
{
	struct kvm_irq_routing *r = calloc(1, sizeof(*r) + n * sizeof(*entries));
	long ret;

	r->nr = n;
	memcpy(r->entries, entries, n * sizeof(*entries));
	ret = fixture_vm(f, KVM_SET_GSI_ROUTING, r);
	free(r);
	return ret;
}

static void msi_routes(void **state)
{
	struct vm_fixture f;
	struct kvm_irq_routing_entry e[2] = {
		{.gsi = 100, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee01000, .data = 0x55}},
		{.gsi = 3, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {KVM_IRQCHIP_IOAPIC, 20}},
	};

	open_ioapic(&f);
	assert_int_equal(line(&f, 100, 1), -1);
	assert_int_equal(set_routes(&f, e, 2), 0);
	assert_int_equal(line(&f, 100, 1), 1);
	assert_int_equal(line(&f, 100, 1), 0);
	assert_int_equal(irqchip_ack(cpu(&f, 1)), 0x55);
	ioapic_write(&f, 0x10 + 2 * 20, 0x46);
	assert_int_equal(line(&f, 3, 1), 1);
	assert_int_equal(irqchip_ack(cpu(&f, 0)), 0x46);
	assert_int_equal(line(&f, 4, 1), -1); /* the default routes are gone */
	e[0].gsi = 3;
	assert_int_equal(set_routes(&f, e, 2), -EINVAL); /* an MSI shares its GSI with nobody */
	e[0].gsi = ROUTING_MAX_GSI;
	assert_int_equal(set_routes(&f, e, 2), -EINVAL);
	e[0].gsi = 100;
	e[0].type = 77;
	assert_int_equal(set_routes(&f, e, 2), -EINVAL);
	e[1].u.irqchip.pin = 24;
	assert_int_equal(set_routes(&f, e + 1, 1), -EINVAL);
	assert_int_equal(line(&f, 3, 1), 0); /* a refused table changes nothing */
	fixture_close(&f);
}

static void split_irqchip_reports_eoi(void **state)
{
	struct vm_fixture f;
	struct kvm_irq_routing_entry e = {
		.gsi = 5, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = 0x66 | 1 << 15 | 1 << 14}};
	struct kvm_interrupt extint = {.irq = 0x71};
	struct vcpu *v;

	fixture_open(&f, FIXTURE_SPLIT, 1);
	v = cpu(&f, 0);
	mmio(v, 0xfee00000 + APIC_SPIV, 0x1ff);
	assert_int_equal(set_routes(&f, &e, 1), 0);
	assert_int_equal(line(&f, 5, 1), 1);
	assert_int_equal(irqchip_ack(v), 0x66);
	atomic_store(&v->requests, 0);
	eoi(&f, 0);
	assert_true(atomic_load(&v->requests) & VREQ_IOAPIC_EOI);
	assert_int_equal(lapic_ioapic_eoi_vector(v), 0x66);
	assert_int_equal(fixture_vcpu(&f, KVM_INTERRUPT, &extint), 0);
	assert_int_equal(fixture_vcpu(&f, KVM_INTERRUPT, &extint), -EEXIST);
	assert_int_equal(irqchip_ack(v), 0x71);
	fixture_close(&f);
}

/* --- PIT --- */

static void open_pit(struct vm_fixture *f)
{
	struct kvm_pit_config config = {.flags = KVM_PIT_SPEAKER_DUMMY};

	open_pic(f);
	assert_int_equal(fixture_vm(f, KVM_CREATE_PIT2, &config), 0);
	assert_int_equal(fixture_vm(f, KVM_CREATE_PIT2, &config), -EEXIST);
}

/* Wait up to two seconds for IRQ 0 from the timer thread. */
static bool irq0_comes(struct vm_fixture *f)
{
	uint64_t end = wall_ns() + 2000000000;

	while (wall_ns() < end) {
		if (irqchip_has_interrupt(cpu(f, 0)))
			return irqchip_ack(cpu(f, 0)) == 0x20;
		sleep_ms(1);
	}
	return false;
}

static void pit_counts(void **state)
{
	struct vm_fixture f;
	unsigned first, second;

	open_pit(&f);
	out(&f, 0x43, 0x34); /* channel 0, low then high, mode 2 */
	out(&f, 0x40, 0);
	out(&f, 0x40, 0);
	out(&f, 0x43, 0x00); /* latch */
	sleep_ms(1);
	out(&f, 0x43, 0x00); /* a second latch changes nothing */
	first = in(&f, 0x40);
	first |= (unsigned)in(&f, 0x40) << 8;
	sleep_ms(2);
	second = in(&f, 0x40);
	second |= (unsigned)in(&f, 0x40) << 8;
	assert_int_not_equal(first, second);
	out(&f, 0x43, 0xe2); /* read back the status of channel 0 */
	assert_int_equal(in(&f, 0x40) & 0x7f, 0x34);
	out(&f, 0x43, 0xb6); /* channel 2: mode 3 */
	out(&f, 0x43, 0xe8);
	assert_int_equal(in(&f, 0x42) & 0x7f, 0x36);
	fixture_close(&f);
}

static void pit_interrupts(void **state)
{
	struct vm_fixture f;

	open_pit(&f);
	out(&f, 0x43, 0x30); /* mode 0: once */
	out(&f, 0x40, 0x00);
	out(&f, 0x40, 0x08);
	assert_true(irq0_comes(&f));
	out(&f, 0x20, 0x20);
	sleep_ms(5);
	assert_false(irqchip_has_interrupt(cpu(&f, 0)));
	out(&f, 0x43, 0x34); /* mode 2: 1000 times a second */
	out(&f, 0x40, 0xa9);
	out(&f, 0x40, 0x04);
	for (int i = 0; i < 5; i++) {
		assert_true(irq0_comes(&f));
		out(&f, 0x20, 0x20);
	}
	sleep_ms(20); /* ticks that were missed come one after the other */
	for (int i = 0; i < 10; i++) {
		assert_int_equal(irqchip_ack(cpu(&f, 0)), 0x20);
		out(&f, 0x20, 0x20);
	}
	fixture_close(&f);
}

static void speaker_port(void **state)
{
	struct vm_fixture f;
	uint64_t end = wall_ns() + 2000000000;

	open_pit(&f);
	out(&f, 0x61, 0);
	assert_int_equal(in(&f, 0x61) & 3, 0);
	out(&f, 0x61, 1);    /* gate, as for calibrating a TSC */
	out(&f, 0x43, 0xb0); /* mode 0 */
	out(&f, 0x42, 0xff);
	out(&f, 0x42, 0x3f);
	assert_int_equal(in(&f, 0x61) & 0x23, 1);
	while (!(in(&f, 0x61) & 0x20))
		assert_true(wall_ns() < end);
	fixture_close(&f);
}

static void pit_state(void **state)
{
	struct vm_fixture f;
	struct kvm_pit_state2 s = {0}, s2 = {0};
	struct kvm_reinject_control control = {.pit_reinject = 0};

	open_pit(&f);
	out(&f, 0x43, 0xb6);
	out(&f, 0x42, 0x34);
	out(&f, 0x42, 0x12);
	assert_int_equal(fixture_vm(&f, KVM_GET_PIT2, &s), 0);
	assert_int_equal(s.channels[2].count, 0x1234);
	assert_int_equal(s.channels[2].mode, 3);
	assert_int_equal(fixture_vm(&f, KVM_SET_PIT2, &s), 0);
	assert_int_equal(fixture_vm(&f, KVM_GET_PIT2, &s2), 0);
	assert_memory_equal(&s.channels[2], &s2.channels[2], sizeof(s.channels[2]));
	s.channels[1].count = 0x10001;
	assert_int_equal(fixture_vm(&f, KVM_SET_PIT2, &s), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_REINJECT_CONTROL, &control), 0);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pic_delivers_and_ends),
		cmocka_unit_test(pic_slave_cascades),
		cmocka_unit_test(pic_masks_and_levels),
		cmocka_unit_test(pic_special_modes),
		cmocka_unit_test(pic_spurious_is_seven),
		cmocka_unit_test(masked_lint0_keeps_the_pic_out),
		cmocka_unit_test(unknown_ports_are_not_ours),
		cmocka_unit_test(ioapic_registers),
		cmocka_unit_test(ioapic_edge),
		cmocka_unit_test(ioapic_level),
		cmocka_unit_test(irqchip_states_round_trip),
		cmocka_unit_test(msi_routes),
		cmocka_unit_test(split_irqchip_reports_eoi),
		cmocka_unit_test(pit_counts),
		cmocka_unit_test(pit_interrupts),
		cmocka_unit_test(speaker_port),
		cmocka_unit_test(pit_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
