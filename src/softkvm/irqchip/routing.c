/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a GSI to pins and messages (KVM_SET_GSI_ROUTING). By default GSIs 0-15 are both the PICs' and the I/O APIC's pins
 * of that number, 16-23 the I/O APIC's. irqchip.lock held, unless said otherwise.
 */
#include <errno.h>
#include <stdlib.h>

#include "softkvm/irqchip/chip.h"

enum { ROUTES_PER_GSI = 3, PIC_CHIP_PINS = 8 };

struct route {
	uint8_t is_msi, irqchip, pin; /* pin: of that PIC (0-7) or of the I/O APIC */
	uint32_t data;
	uint64_t address;
};

struct gsi_routes {
	uint8_t count;
	struct route route[ROUTES_PER_GSI];
};

struct routing {
	uint32_t gsi_count;
	_Atomic uint64_t eoi_vectors[4]; /* split irqchip: vectors of level-triggered routes of the user's pins */
	struct gsi_routes gsi[];
};

/* --- driving a line --- */

static int drive(struct vm *vm, const struct route *r, enum irq_source source, int level)
{
	if (r->is_msi)
		return level ? irqchip_msi(vm, r->address, r->data) : -1;
	if (r->irqchip == KVM_IRQCHIP_IOAPIC)
		return ioapic_set_pin(vm, source, r->pin, level);
	return pic_set_pin(vm, source, r->pin + (r->irqchip == KVM_IRQCHIP_PIC_SLAVE ? PIC_CHIP_PINS : 0), level);
}

int line_set_locked(struct vm *vm, enum irq_source source, uint32_t gsi, int level)
{
	struct routing *routing = vm->irqchip->routing;
	int result = -1;

	if (gsi >= routing->gsi_count)
		return -1;
	for (unsigned i = 0; i < routing->gsi[gsi].count; i++) {
		int ret = drive(vm, &routing->gsi[gsi].route[i], source, level);

		if (ret >= 0)
			result = ret + (result < 0 ? 0 : result);
	}
	return result;
}

int irqchip_line(struct vm *vm, uint32_t gsi, int level)
{
	int ret;

	if (!vm->irqchip)
		return -ENXIO;
	pthread_mutex_lock(&vm->irqchip->lock);
	ret = line_set_locked(vm, IRQ_SOURCE_USER, gsi, level);
	pthread_mutex_unlock(&vm->irqchip->lock);
	return ret;
}

void line_pulse(struct vm *vm, uint32_t gsi)
{
	pthread_mutex_lock(&vm->irqchip->lock);
	line_set_locked(vm, IRQ_SOURCE_USER, gsi, 1);
	line_set_locked(vm, IRQ_SOURCE_USER, gsi, 0);
	pthread_mutex_unlock(&vm->irqchip->lock);
}

/* --- acknowledgement --- */

static bool is_routed_to(const struct routing *routing, uint32_t gsi, unsigned irqchip, unsigned pin)
{
	if (gsi >= routing->gsi_count)
		return false;
	for (unsigned i = 0; i < routing->gsi[gsi].count; i++) {
		const struct route *r = &routing->gsi[gsi].route[i];

		if (!r->is_msi && r->irqchip == irqchip && r->pin == pin)
			return true;
	}
	return false;
}

void line_notify_ack(struct vm *vm, unsigned irqchip, unsigned pin)
{
	for (struct ack_notifier *n = vm->irqchip->notifiers; n; n = n->next)
		if (is_routed_to(vm->irqchip->routing, n->gsi, irqchip, pin))
			n->acked(vm, n);
}

void line_notify_unmask(struct vm *vm, unsigned irqchip, unsigned pin)
{
	if (atomic_load(&vm->irqchip->pit) && is_routed_to(vm->irqchip->routing, 0, irqchip, pin))
		pit_unmasked(vm);
}

bool line_has_notifier(struct vm *vm, unsigned irqchip, unsigned pin)
{
	for (struct ack_notifier *n = vm->irqchip->notifiers; n; n = n->next)
		if (vm->irqchip->routing && is_routed_to(vm->irqchip->routing, n->gsi, irqchip, pin))
			return true;
	return false;
}

void ack_notifier_add(struct vm *vm, struct ack_notifier *n)
{
	pthread_mutex_lock(&vm->irqchip->lock);
	n->next = vm->irqchip->notifiers;
	vm->irqchip->notifiers = n;
	ioapic_note_vectors(vm);
	pthread_mutex_unlock(&vm->irqchip->lock);
}

void ack_notifier_del(struct vm *vm, struct ack_notifier *n)
{
	pthread_mutex_lock(&vm->irqchip->lock);
	for (struct ack_notifier **p = &vm->irqchip->notifiers; *p; p = &(*p)->next)
		if (*p == n) {
			*p = n->next;
			break;
		}
	ioapic_note_vectors(vm);
	pthread_mutex_unlock(&vm->irqchip->lock);
}

/*
 * The user's I/O APIC shows its pins as MSI routes of the first GSIs; a level-triggered one among them wants to know of
 * EOIs (KVM_EXIT_IOAPIC_EOI). Only vectors count: a vCPU that is not the destination exits once for nothing.
 */
static void note_eoi_vectors(const struct vm *vm, struct routing *routing)
{
	for (uint32_t gsi = 0; gsi < vm->split_gsi_count && gsi < routing->gsi_count; gsi++)
		for (unsigned i = 0; i < routing->gsi[gsi].count; i++) {
			const struct route *r = &routing->gsi[gsi].route[i];

			if (r->is_msi && r->data >> 15 & 1)
				routing->eoi_vectors[(r->data & 0xff) / 64] |= 1ull << (r->data & 63);
		}
}

bool routing_wants_eoi(struct vm *vm, uint8_t vector)
{
	bool wanted;

	pthread_mutex_lock(&vm->irqchip->lock);
	wanted = vm->irqchip->routing->eoi_vectors[vector / 64] >> vector % 64 & 1;
	pthread_mutex_unlock(&vm->irqchip->lock);
	return wanted;
}

/* --- the table --- */

static int parse_irqchip(const struct vm *vm, const struct kvm_irq_routing_entry *e, struct route *r)
{
	unsigned pins = e->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC ? IOAPIC_PINS : PIC_CHIP_PINS;

	if (vm->split_irqchip || e->u.irqchip.irqchip > KVM_IRQCHIP_IOAPIC || e->u.irqchip.pin >= pins)
		return -EINVAL;
	*r = (struct route){.irqchip = (uint8_t)e->u.irqchip.irqchip, .pin = (uint8_t)e->u.irqchip.pin};
	return 0;
}

static int parse_msi(const struct vm *vm, const struct kvm_irq_routing_entry *e, struct route *r)
{
	if (vm->x2apic_ids_32bit && e->u.msi.address_hi & 0xff)
		return -EINVAL;
	*r = (struct route){.is_msi = true, .data = e->u.msi.data,
			    .address = e->u.msi.address_lo | (uint64_t)e->u.msi.address_hi << 32};
	return 0;
}

static int add_entry(const struct vm *vm, struct routing *routing, const struct kvm_irq_routing_entry *e)
{
	struct gsi_routes *g = &routing->gsi[e->gsi];
	struct route route;
	int err = -EINVAL;

	if (e->flags)
		return -EINVAL;
	if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
		err = parse_irqchip(vm, e, &route);
	else if (e->type == KVM_IRQ_ROUTING_MSI)
		err = parse_msi(vm, e, &route);
	if (err)
		return err;
	for (unsigned i = 0; i < g->count; i++) /* several only if each is of another chip */
		if (route.is_msi || g->route[i].is_msi || g->route[i].irqchip == route.irqchip)
			return -EINVAL;
	g->route[g->count++] = route;
	return 0;
}

/* Lock not held: it is taken to publish the table. */
int routing_set(struct vm *vm, const struct kvm_irq_routing_entry *entries, uint32_t count)
{
	uint32_t gsi_count = 0;
	struct routing *routing, *old;

	for (uint32_t i = 0; i < count; i++) {
		if (entries[i].gsi >= ROUTING_MAX_GSI)
			return -EINVAL;
		if (entries[i].gsi >= gsi_count)
			gsi_count = entries[i].gsi + 1;
	}
	routing = calloc(1, sizeof(*routing) + gsi_count * sizeof(routing->gsi[0]));
	if (!routing)
		return -ENOMEM;
	routing->gsi_count = gsi_count;
	for (uint32_t i = 0; i < count; i++)
		if (add_entry(vm, routing, &entries[i])) {
			free(routing);
			return -EINVAL;
		}
	note_eoi_vectors(vm, routing);
	pthread_mutex_lock(&vm->irqchip->lock);
	old = vm->irqchip->routing;
	vm->irqchip->routing = routing;
	ioapic_note_vectors(vm);
	pthread_mutex_unlock(&vm->irqchip->lock);
	free(old);
	return 0;
}

int routing_set_default(struct vm *vm)
{
	struct kvm_irq_routing_entry entries[PIC_PINS + IOAPIC_PINS] = {0};
	unsigned n = 0;

	if (vm->split_irqchip)
		return routing_set(vm, NULL, 0);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		struct kvm_irq_routing_entry *e = &entries[n++];

		e->gsi = e->u.irqchip.pin = pin;
		e->type = KVM_IRQ_ROUTING_IRQCHIP;
		e->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	}
	for (unsigned pin = 0; pin < PIC_PINS; pin++) {
		struct kvm_irq_routing_entry *e = &entries[n++];

		e->gsi = pin;
		e->type = KVM_IRQ_ROUTING_IRQCHIP;
		e->u.irqchip.irqchip = pin < PIC_CHIP_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e->u.irqchip.pin = pin % PIC_CHIP_PINS;
	}
	return routing_set(vm, entries, n);
}

void routing_free(struct vm *vm)
{
	free(vm->irqchip->routing);
	vm->irqchip->routing = NULL;
}
