/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MSI routes: eventfds that others signal, turned into interrupts by the CPU engine without this process
 * (KVM_IRQFD on a GSI that is routed to a message). GSIs from FIRST_ROUTE on are given out here; those below
 * are the interrupt controllers' pins, which a routing table must name as well, because setting one replaces
 * the whole.
 */
#include <errno.h>
#include <stdlib.h>

#include "machine/internal.h"

enum { IOAPIC_PINS = 24, PIC_PINS = 8, FIRST_ROUTE = 24, MAX_PINS = IOAPIC_PINS + 2 * PIC_PINS };

static void add_pin(struct kvm_irq_routing *table, uint32_t gsi, uint32_t chip, uint32_t pin)
{
	struct kvm_irq_routing_entry *e = &table->entries[table->nr++];

	e->gsi = gsi;
	e->type = KVM_IRQ_ROUTING_IRQCHIP;
	e->u.irqchip.irqchip = chip;
	e->u.irqchip.pin = pin;
}

static void add_pins(struct kvm_irq_routing *table)
{
	for (uint32_t pin = 0; pin < PIC_PINS; pin++) {
		add_pin(table, pin, KVM_IRQCHIP_PIC_MASTER, pin);
		add_pin(table, PIC_PINS + pin, KVM_IRQCHIP_PIC_SLAVE, pin);
	}
	for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
		add_pin(table, pin, KVM_IRQCHIP_IOAPIC, pin);
}

/* Tell the engine of all routes. msi_lock held. */
static int publish(struct machine *m)
{
	struct kvm_irq_routing *table =
		calloc(1, sizeof(*table) + (MAX_PINS + MACHINE_MSI_ROUTES) * sizeof(table->entries[0]));
	int err;

	if (!table)
		return -ENOMEM;
	add_pins(table);
	for (unsigned k = 0; k < MACHINE_MSI_ROUTES; k++) {
		const struct msi_route *r = &m->msi_route[k];
		struct kvm_irq_routing_entry *e = &table->entries[table->nr];

		if (!r->is_used)
			continue;
		table->nr++;
		e->gsi = FIRST_ROUTE + k;
		e->type = KVM_IRQ_ROUTING_MSI;
		e->u.msi.address_lo = (uint32_t)r->address;
		e->u.msi.address_hi = (uint32_t)(r->address >> 32);
		e->u.msi.data = r->data;
	}
	err = kvm_vm_set_gsi_routing(m->vm, table);
	free(table);
	return err;
}

static struct msi_route *find(struct machine *m, bool is_used, int fd)
{
	for (unsigned k = 0; k < MACHINE_MSI_ROUTES; k++)
		if (m->msi_route[k].is_used == is_used && (!is_used || m->msi_route[k].fd == fd))
			return &m->msi_route[k];
	return NULL;
}

static int attach(struct machine *m, const struct msi_route *r, bool on)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)r->fd,
				  .gsi = FIRST_ROUTE + (uint32_t)(r - m->msi_route),
				  .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

	return kvm_vm_irqfd(m->vm, &irqfd);
}

static int add_route(struct machine *m, int fd, uint64_t address, uint32_t data)
{
	struct msi_route *r = find(m, false, -1);
	int err;

	if (!r)
		return -ENOSPC;
	*r = (struct msi_route){true, fd, address, data};
	err = publish(m);
	if (!err)
		err = attach(m, r, true);
	if (err)
		r->is_used = false;
	return err;
}

static int change_route(struct machine *m, struct msi_route *r, uint64_t address, uint32_t data)
{
	struct msi_route old = *r;
	int err;

	if (r->address == address && r->data == data)
		return 0;
	r->address = address;
	r->data = data;
	err = publish(m);
	if (err)
		*r = old;
	return err;
}

static int set_call(void *opaque, int fd, uint64_t address, uint32_t data)
{
	struct machine *m = opaque;
	struct msi_route *r;
	int err;

	pthread_mutex_lock(&m->msi_lock);
	r = find(m, true, fd);
	err = r ? change_route(m, r, address, data) : add_route(m, fd, address, data);
	pthread_mutex_unlock(&m->msi_lock);
	return err;
}

static void clear_call(void *opaque, int fd)
{
	struct machine *m = opaque;
	struct msi_route *r;

	pthread_mutex_lock(&m->msi_lock);
	r = find(m, true, fd);
	if (r) {
		attach(m, r, false);
		r->is_used = false; /* its GSI leads nowhere from the next table on */
	}
	pthread_mutex_unlock(&m->msi_lock);
}

struct virtio_calls machine_calls(struct machine *m)
{
	return (struct virtio_calls){set_call, clear_call, m};
}
