/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ioeventfd, coalesced zones and irqfd: what they match, who is told, and what errors they give.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "softkvm/api/iobus.h"
#include "softkvm/irqchip/chip.h"
#include "softkvm/irqchip/lapic.h"
#include "vm_fixture.h"

static uint64_t count_of(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static long ioeventfd(struct vm_fixture *f, uint64_t addr, uint32_t len, int fd, uint32_t flags, uint64_t match)
{
	struct kvm_ioeventfd args = {.datamatch = match, .addr = addr, .len = len, .fd = fd, .flags = flags};

	return fixture_vm(f, KVM_IOEVENTFD, &args);
}

static bool write_bus(struct vm_fixture *f, bool pio, uint64_t addr, unsigned len, uint64_t value)
{
	return iobus_write(f->vm->vm, pio, addr, len, &value);
}

static void ioeventfd_matches(void **state)
{
	struct vm_fixture f;
	int fd = eventfd(0, EFD_NONBLOCK), any = eventfd(0, EFD_NONBLOCK);

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(ioeventfd(&f, 0x10000000, 4, fd, KVM_IOEVENTFD_FLAG_DATAMATCH, 7), 0);
	assert_true(write_bus(&f, false, 0x10000000, 4, 7));
	assert_int_equal(count_of(fd), 1);
	assert_false(write_bus(&f, false, 0x10000000, 4, 8));
	assert_false(write_bus(&f, false, 0x10000000, 2, 7));
	assert_false(write_bus(&f, false, 0x10000004, 4, 7));
	assert_false(write_bus(&f, true, 0x10000000, 4, 7));
	assert_int_equal(ioeventfd(&f, 0x10000000, 4, any, KVM_IOEVENTFD_FLAG_DATAMATCH, 8), 0);
	assert_true(write_bus(&f, false, 0x10000000, 4, 8));
	assert_int_equal(count_of(any), 1);
	assert_int_equal(ioeventfd(&f, 0x10000000, 4, any, KVM_IOEVENTFD_FLAG_DATAMATCH, 8), -EEXIST);
	assert_int_equal(ioeventfd(&f, 0x10000000, 0, any, 0, 0), -EEXIST);
	assert_int_equal(ioeventfd(&f, 0x10001000, 0, any, 0, 0), 0); /* any length */
	assert_true(write_bus(&f, false, 0x10001000, 1, 1));
	assert_true(write_bus(&f, false, 0x10001000, 8, ~0ull));
	assert_int_equal(count_of(any), 2);
	assert_int_equal(ioeventfd(&f, 0x3f0, 2, any, KVM_IOEVENTFD_FLAG_PIO, 0), 0);
	assert_true(write_bus(&f, true, 0x3f0, 2, 99));
	assert_int_equal(count_of(any), 1);
	fixture_close(&f);
	close(fd);
	close(any);
}

static void ioeventfd_goes(void **state)
{
	struct vm_fixture f;
	int fd = eventfd(0, EFD_NONBLOCK), same = dup(fd), other = eventfd(0, EFD_NONBLOCK);

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(ioeventfd(&f, 0x1000000, 4, fd, 0, 0), 0);
	close(fd); /* ours is a reference of its own */
	assert_true(write_bus(&f, false, 0x1000000, 4, 1));
	assert_int_equal(count_of(same), 1);
	assert_int_equal(ioeventfd(&f, 0x1000000, 4, other, KVM_IOEVENTFD_FLAG_DEASSIGN, 0), -ENOENT);
	assert_int_equal(ioeventfd(&f, 0x1000000, 4, same, KVM_IOEVENTFD_FLAG_DEASSIGN, 0), 0);
	assert_int_equal(ioeventfd(&f, 0x1000000, 4, same, KVM_IOEVENTFD_FLAG_DEASSIGN, 0), -ENOENT);
	assert_false(write_bus(&f, false, 0x1000000, 4, 1));
	fixture_close(&f);
	close(same);
	close(other);
}

static void ioeventfd_refuses(void **state)
{
	struct vm_fixture f;
	int fd = eventfd(0, 0);

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 0);
	assert_int_equal(ioeventfd(&f, 0, 3, fd, 0, 0), -EINVAL);
	assert_int_equal(ioeventfd(&f, 0, 16, fd, 0, 0), -EINVAL);
	assert_int_equal(ioeventfd(&f, ~0ull, 4, fd, 0, 0), -EINVAL);
	assert_int_equal(ioeventfd(&f, 0, 4, fd, 1u << 31, 0), -EINVAL);
	assert_int_equal(ioeventfd(&f, 0, 0, fd, KVM_IOEVENTFD_FLAG_DATAMATCH, 0), -EINVAL);
	assert_int_equal(ioeventfd(&f, 0, 4, -1, 0, 0), -EBADF);
	assert_int_equal(ioeventfd(&f, 0, 4, 9999, 0, 0), -EBADF);
	assert_int_equal(ioeventfd(&f, 0, 4, 0, 0, 0), -EINVAL); /* standard input is no eventfd */
	fixture_close(&f);
	close(fd);
}

static void guest_rings_a_doorbell(void **state)
{
	struct vm_fixture f;
	int fd = eventfd(0, EFD_NONBLOCK);

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 1);
	assert_int_equal(ioeventfd(&f, 0x90, 1, fd, KVM_IOEVENTFD_FLAG_PIO, 0), 0);
	assert_int_equal(ioeventfd(&f, 0xf0000, 1, fd, 0, 0), 0); /* RAM is there: RAM wins */
	LOAD(&f, 0xb0, 0x05,			/* mov al, 5 */
	     0xe6, 0x90, 0xe6, 0x90,		/* out 90h, al, twice */
	     0xf4);				/* hlt */
	assert_int_equal(fixture_run(&f), KVM_EXIT_HLT);
	assert_int_equal(count_of(fd), 2);
	fixture_close(&f);
	close(fd);
}

/* --- coalesced zones --- */

static long zone(struct vm_fixture *f, unsigned long request, uint64_t addr, uint32_t size, uint32_t pio)
{
	struct kvm_coalesced_mmio_zone z = {.addr = addr, .size = size, .pio = pio};

	return fixture_vm(f, request, &z);
}

static void coalesced_writes_queue_up(void **state)
{
	struct vm_fixture f;
	struct kvm_coalesced_mmio_ring *ring;
	unsigned taken = 0;

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 2);
	ring = (void *)((uint8_t *)f.run + 2 * 4096);
	assert_int_equal(zone(&f, KVM_REGISTER_COALESCED_MMIO, 0xa00000, 0x1000, 0), 0);
	assert_int_equal(zone(&f, KVM_REGISTER_COALESCED_MMIO, 0x80, 1, 1), 0);
	assert_int_equal(zone(&f, KVM_REGISTER_COALESCED_MMIO, 0x80, 1, 2), -EINVAL);
	assert_true(write_bus(&f, false, 0xa00ffc, 4, 0x11223344));
	assert_false(write_bus(&f, false, 0xa00ffe, 4, 0)); /* over the end */
	assert_true(write_bus(&f, true, 0x80, 1, 0x55));
	assert_int_equal(ring->first, 0);
	assert_int_equal(ring->last, 2);
	assert_int_equal(ring->coalesced_mmio[0].phys_addr, 0xa00ffc);
	assert_int_equal(ring->coalesced_mmio[0].len, 4);
	assert_int_equal(ring->coalesced_mmio[0].pio, 0);
	assert_int_equal(ring->coalesced_mmio[0].data[0], 0x44);
	assert_int_equal(ring->coalesced_mmio[1].pio, 1);
	assert_int_equal(ring->coalesced_mmio[1].data[0], 0x55);
	assert_memory_equal(ring, (uint8_t *)softkvm_run_area(f.vcpu[1]) + 2 * 4096, 4096); /* one ring for all */
	while (write_bus(&f, false, 0xa00000, 8, taken))
		taken++;
	assert_int_equal(taken, KVM_COALESCED_MMIO_MAX - 1 - 2); /* full: the rest exits */
	ring->first = ring->last;
	assert_true(write_bus(&f, false, 0xa00000, 8, 0));
	ring->last = 0xffffffff; /* the user's mistake: nothing is written anywhere */
	assert_false(write_bus(&f, false, 0xa00000, 8, 0));
	assert_int_equal(zone(&f, KVM_UNREGISTER_COALESCED_MMIO, 0xa00000, 0x1000, 0), 0);
	ring->last = ring->first = 0;
	assert_false(write_bus(&f, false, 0xa00000, 8, 0));
	assert_true(write_bus(&f, true, 0x80, 1, 0));
	fixture_close(&f);
}

/* --- irqfd --- */

static long irqfd(struct vm_fixture *f, int fd, uint32_t gsi, uint32_t flags, int resample_fd)
{
	struct kvm_irqfd args = {.fd = (uint32_t)fd, .gsi = gsi, .flags = flags, .resamplefd = (uint32_t)resample_fd};

	return fixture_vm(f, KVM_IRQFD, &args);
}

static void mmio(struct vcpu *v, uint64_t gpa, uint32_t value)
{
	assert_true(irqchip_mmio(v, gpa, &value, 4, true));
}

static void ioapic_entry(struct vm_fixture *f, unsigned pin, uint32_t low)
{
	mmio(cpu(f, 0), 0xfee00000 + APIC_SPIV, 0x1ff);
	mmio(cpu(f, 0), IOAPIC_DEFAULT_BASE, 0x10 + 2 * pin);
	mmio(cpu(f, 0), IOAPIC_DEFAULT_BASE + 0x10, low);
}

static int wait_for_vector(struct vm_fixture *f)
{
	uint64_t end = wall_ns() + 2000000000;

	while (wall_ns() < end && !irqchip_has_interrupt(cpu(f, 0)))
		sleep_ms(1);
	return irqchip_ack(cpu(f, 0));
}

static void irqfd_interrupts(void **state)
{
	struct vm_fixture f;
	int fd = eventfd(0, 0);

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	ioapic_entry(&f, 20, 0x45);
	assert_int_equal(irqfd(&f, fd, 20, 0, -1), 0);
	assert_int_equal(irqfd(&f, fd, 21, 0, -1), -EBUSY);
	for (int i = 0; i < 3; i++) {
		eventfd_write(fd, 1);
		assert_int_equal(wait_for_vector(&f), 0x45);
		mmio(cpu(&f, 0), 0xfee00000 + APIC_EOI, 0);
	}
	assert_int_equal(irqfd(&f, fd, 20, KVM_IRQFD_FLAG_DEASSIGN, -1), 0);
	eventfd_write(fd, 1);
	sleep_ms(5);
	assert_false(irqchip_has_interrupt(cpu(&f, 0)));
	assert_int_equal(irqfd(&f, fd, 20, 0, -1), 0); /* what is in it counts */
	assert_int_equal(wait_for_vector(&f), 0x45);
	fixture_close(&f);
	close(fd);
}

static void irqfd_resamples(void **state)
{
	struct vm_fixture f;
	int fd = eventfd(0, 0), resample_fd = eventfd(0, EFD_NONBLOCK);

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	ioapic_entry(&f, 20, 0x45 | 1 << 15);
	assert_int_equal(irqfd(&f, fd, 20, KVM_IRQFD_FLAG_RESAMPLE, resample_fd), 0);
	eventfd_write(fd, 1);
	assert_int_equal(wait_for_vector(&f), 0x45);
	assert_int_equal(count_of(resample_fd), 0);
	mmio(cpu(&f, 0), 0xfee00000 + APIC_EOI, 0);
	assert_int_equal(count_of(resample_fd), 1);
	assert_false(irqchip_has_interrupt(cpu(&f, 0))); /* the line fell */
	eventfd_write(fd, 1);
	assert_int_equal(wait_for_vector(&f), 0x45);
	fixture_close(&f);
	close(fd);
	close(resample_fd);
}

static void irqfd_refuses(void **state)
{
	struct vm_fixture f;
	int fd = eventfd(0, 0);

	fixture_open(&f, FIXTURE_NO_IRQCHIP, 0);
	assert_int_equal(irqfd(&f, fd, 1, 0, -1), -EINVAL);
	assert_int_equal(fixture_vm(&f, KVM_CREATE_IRQCHIP, NULL), 0);
	assert_int_equal(irqfd(&f, 9999, 1, 0, -1), -EBADF);
	assert_int_equal(irqfd(&f, 0, 1, 0, -1), -EINVAL);
	assert_int_equal(irqfd(&f, fd, 1, 4, -1), -EINVAL);
	assert_int_equal(irqfd(&f, fd, ROUTING_MAX_GSI, 0, -1), -EINVAL);
	assert_int_equal(irqfd(&f, fd, 1, KVM_IRQFD_FLAG_RESAMPLE, 9999), -EBADF);
	assert_int_equal(irqfd(&f, fd, 1, KVM_IRQFD_FLAG_DEASSIGN, -1), 0);
	fixture_close(&f);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ioeventfd_matches),
		cmocka_unit_test(ioeventfd_goes),
		cmocka_unit_test(ioeventfd_refuses),
		cmocka_unit_test(guest_rings_a_doorbell),
		cmocka_unit_test(coalesced_writes_queue_up),
		cmocka_unit_test(irqfd_interrupts),
		cmocka_unit_test(irqfd_resamples),
		cmocka_unit_test(irqfd_refuses),
	};

	return RUN_ON_ENGINES(tests);
}
