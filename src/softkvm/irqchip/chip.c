/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The set of interrupt controllers of a VM: creating, saving and restoring it, and its ports.
 */
#include "softkvm/irqchip/chip.h"

#include <errno.h>
#include <stdlib.h>

#include "softkvm/irqchip/timer.h"

static int chip_new(struct vm *vm, bool split)
{
	struct irqchip *chip = calloc(1, sizeof(*chip));
	int err;

	if (!chip)
		return -ENOMEM;
	pthread_mutex_init(&chip->lock, NULL);
	vm->irqchip = chip;
	vm->split_irqchip = split;
	err = routing_set_default(vm);
	if (!err) {
		pic_reset_all(vm);
		ioapic_reset(vm);
		err = timers_new(vm);
	}
	if (err)
		irqchip_free(vm);
	return err;
}

int irqchip_new(struct vm *vm)
{
	return chip_new(vm, false);
}

int irqchip_new_split(struct vm *vm)
{
	return chip_new(vm, true);
}

void irqchip_free(struct vm *vm)
{
	if (!vm->irqchip)
		return;
	timers_free(vm);
	pit_free(vm);
	routing_free(vm);
	pthread_mutex_destroy(&vm->irqchip->lock);
	free(vm->irqchip);
	vm->irqchip = NULL;
	vm->split_irqchip = false;
}

/* --- KVM_GET_IRQCHIP, KVM_SET_IRQCHIP --- */

int irqchip_get_state(struct vm *vm, struct kvm_irqchip *state)
{
	struct irqchip *chip = vm->irqchip;
	int err = 0;

	pthread_mutex_lock(&chip->lock);
	switch (state->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		state->chip.pic = chip->pics.chip[state->chip_id];
		break;
	case KVM_IRQCHIP_IOAPIC:
		ioapic_get_state(vm, &state->chip.ioapic);
		break;
	default:
		err = -EINVAL;
	}
	pthread_mutex_unlock(&chip->lock);
	return err;
}

/* What the chip can't be in is not let in: later code counts on it. */
static void set_pic(struct kvm_pic_state *to, const struct kvm_pic_state *from)
{
	uint8_t elcr_mask = to->elcr_mask;

	*to = *from;
	to->elcr_mask = elcr_mask;
	to->elcr &= elcr_mask;
	to->priority_add &= 7;
	to->init_state &= 3;
}

int irqchip_set_state(struct vm *vm, const struct kvm_irqchip *state)
{
	struct irqchip *chip = vm->irqchip;
	int err = 0;

	pthread_mutex_lock(&chip->lock);
	switch (state->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		set_pic(&chip->pics.chip[state->chip_id], &state->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		ioapic_set_state(vm, &state->chip.ioapic);
		break;
	default:
		err = -EINVAL;
	}
	if (!err)
		pic_update(vm);
	pthread_mutex_unlock(&chip->lock);
	return err;
}

/* --- ports --- */

static bool port_byte(struct vm *vm, uint16_t port, uint8_t *value, bool is_write)
{
	return pic_pio(vm, port, value, is_write) || pit_pio(vm, port, value, is_write);
}

/* The chips have 8-bit buses: a wider access is one of each port in turn, if the first is ours. */
bool irqchip_pio(struct vcpu *v, uint16_t port, void *data, unsigned size, bool is_write)
{
	struct vm *vm = v->vm;
	uint8_t *bytes = data;
	bool is_ours;

	if (!vm->irqchip || vm->split_irqchip)
		return false;
	pthread_mutex_lock(&vm->irqchip->lock);
	is_ours = port_byte(vm, port, bytes, is_write);
	for (unsigned i = 1; is_ours && i < size; i++)
		if (!port_byte(vm, (uint16_t)(port + i), bytes + i, is_write) && !is_write)
			bytes[i] = 0xff;
	pthread_mutex_unlock(&vm->irqchip->lock);
	return is_ours;
}
