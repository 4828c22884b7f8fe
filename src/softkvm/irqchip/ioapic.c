/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The I/O APIC (Intel 82093AA data sheet): 24 pins, each with a redirection entry; registers behind a select/window pair.
 *
 * `irr` has a bit per pin whose line is up. An edge is sent when the bit appears; a level as long as it is there and the
 * entry's remote IRR is clear, so again after EOI. Polarity is not looked at: lines here are logical levels.
 *
 * irqchip.lock held throughout, but for ioapic_wants_eoi().
 */
#include "softkvm/irqchip/chip.h"
#include "softkvm/irqchip/lapic.h"

enum { REG_SELECT = 0, REG_WINDOW = 0x10, REG_EOI = 0x40, INDEX_ID = 0, INDEX_VERSION = 1, INDEX_ARBITRATION = 2,
       INDEX_REDIRECTION = 0x10, VERSION = 0x11 };

static struct ioapic *ioapic_of(struct vm *vm)
{
	return &vm->irqchip->ioapic;
}

bool ioapic_wants_eoi(struct vm *vm, uint8_t vector)
{
	return atomic_load(&ioapic_of(vm)->level_vectors[vector / 64]) >> vector % 64 & 1;
}

void ioapic_note_vectors(struct vm *vm)
{
	struct ioapic *io = ioapic_of(vm);
	uint64_t vectors[4] = {0};

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		const union kvm_ioapic_entry *e = &io->entry[pin];

		if (e->trig_mode || line_has_notifier(vm, KVM_IRQCHIP_IOAPIC, pin))
			vectors[e->vector / 64] |= 1ull << e->vector % 64;
	}
	for (unsigned i = 0; i < 4; i++)
		atomic_store(&io->level_vectors[i], vectors[i]);
}

/* Send what the pin's line calls for, if it may be: as apic_send(), -1 also if the entry is masked or busy. */
static int service(struct vm *vm, unsigned pin)
{
	union kvm_ioapic_entry *e = &ioapic_of(vm)->entry[pin];
	const struct apic_message m = {.dest = e->dest_id, .vector = e->vector, .mode = e->delivery_mode,
				       .is_logical = e->dest_mode, .is_level = e->trig_mode, .is_assert = true};
	int ret;

	if (e->mask || (e->trig_mode && e->remote_irr))
		return -1;
	ret = apic_send(vm, NULL, &m);
	if (e->trig_mode && ret >= 0)
		e->remote_irr = 1;
	return ret;
}

int ioapic_set_pin(struct vm *vm, enum irq_source source, unsigned pin, int level)
{
	struct ioapic *io = ioapic_of(vm);
	uint32_t bit = 1u << pin;
	bool was_up = io->irr & bit;

	if (level)
		io->sources[pin] |= 1u << source;
	else
		io->sources[pin] &= ~(1u << source);
	if (!io->sources[pin]) {
		io->irr &= ~bit;
		return 1;
	}
	io->irr |= bit;
	if (was_up && !io->entry[pin].trig_mode)
		return 0; /* no new edge */
	return service(vm, pin);
}

void ioapic_eoi(struct vm *vm, uint8_t vector)
{
	struct ioapic *io = ioapic_of(vm);

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		union kvm_ioapic_entry *e = &io->entry[pin];

		if (e->vector != vector)
			continue;
		line_notify_ack(vm, KVM_IRQCHIP_IOAPIC, pin);
		if (!e->trig_mode)
			continue;
		e->remote_irr = 0;
		if (io->irr >> pin & 1)
			service(vm, pin);
	}
}

/* --- registers --- */

static uint32_t read_window(const struct ioapic *io)
{
	unsigned entry = (io->select - INDEX_REDIRECTION) >> 1;

	switch (io->select) {
	case INDEX_ID:
	case INDEX_ARBITRATION:
		return (io->id & 0xf) << 24;
	case INDEX_VERSION:
		return (IOAPIC_PINS - 1) << 16 | VERSION;
	}
	if (io->select < INDEX_REDIRECTION || entry >= IOAPIC_PINS)
		return 0;
	return (uint32_t)(io->entry[entry].bits >> (io->select & 1 ? 32 : 0));
}

/* Delivery status and remote IRR are the chip's own; an edge-triggered pin has no remote IRR. */
static void write_redirection(struct vm *vm, unsigned pin, bool is_high, uint32_t value)
{
	union kvm_ioapic_entry *e = &ioapic_of(vm)->entry[pin];

	if (is_high) {
		e->bits = (e->bits & 0xffffffff) | (uint64_t)value << 32;
	} else {
		uint8_t remote_irr = e->remote_irr, was_masked = e->mask;

		e->bits = (e->bits & ~0xffffffffull) | (value & 0x1afff);
		e->remote_irr = e->trig_mode ? remote_irr : 0;
		if (was_masked && !e->mask)
			line_notify_unmask(vm, KVM_IRQCHIP_IOAPIC, pin);
	}
	ioapic_note_vectors(vm);
	if (!is_high && e->trig_mode && ioapic_of(vm)->irr >> pin & 1)
		service(vm, pin);
}

static void write_window(struct vm *vm, uint32_t value)
{
	struct ioapic *io = ioapic_of(vm);
	unsigned entry = (io->select - INDEX_REDIRECTION) >> 1;

	if (io->select == INDEX_ID)
		io->id = value >> 24 & 0xf;
	else if (io->select >= INDEX_REDIRECTION && entry < IOAPIC_PINS)
		write_redirection(vm, entry, io->select & 1, value);
}

void ioapic_mmio(struct vm *vm, uint64_t offset, uint32_t *value, bool is_write)
{
	struct ioapic *io = ioapic_of(vm);

	switch (offset) {
	case REG_SELECT:
		if (is_write)
			io->select = *value & 0xff;
		else
			*value = io->select;
		break;
	case REG_WINDOW:
		if (is_write)
			write_window(vm, *value);
		else
			*value = read_window(io);
		break;
	case REG_EOI: /* of later versions */
		if (is_write)
			ioapic_eoi(vm, (uint8_t)*value);
		/* fallthrough */
	default:
		if (!is_write)
			*value = 0;
	}
}

/* --- life, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP --- */

void ioapic_reset(struct vm *vm)
{
	struct ioapic *io = ioapic_of(vm);

	io->base = IOAPIC_DEFAULT_BASE;
	io->select = io->id = io->irr = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		io->entry[pin].bits = 0;
		io->entry[pin].mask = 1;
		io->sources[pin] = 0;
	}
	ioapic_note_vectors(vm);
}

void ioapic_get_state(struct vm *vm, struct kvm_ioapic_state *state)
{
	const struct ioapic *io = ioapic_of(vm);

	state->base_address = io->base;
	state->ioregsel = io->select;
	state->id = io->id;
	state->irr = io->irr;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		state->redirtbl[pin].bits = io->entry[pin].bits;
}

void ioapic_set_state(struct vm *vm, const struct kvm_ioapic_state *state)
{
	struct ioapic *io = ioapic_of(vm);

	io->base = state->base_address;
	io->select = state->ioregsel & 0xff;
	io->id = state->id & 0xf;
	io->irr = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->entry[pin].bits = state->redirtbl[pin].bits;
	ioapic_note_vectors(vm);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if (!(state->irr >> pin & 1))
			continue;
		io->irr |= 1u << pin;
		service(vm, pin);
	}
}
