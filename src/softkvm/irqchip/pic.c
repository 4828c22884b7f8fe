/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two cascaded 8259A interrupt controllers (Intel 8259A data sheet; ELCR as in the 82371) at ports 20h/21h, A0h/A1h and
 * 4D0h/4D1h. The state is struct kvm_pic_state itself:
 *
 *	last_irr	levels seen last, for edge detection
 *	priority_add	number of the pin with the highest priority
 *	init_state	0: running; 1..3: ICW2, ICW3, ICW4 expected
 *
 * irqchip.lock held throughout.
 */
#include "softkvm/irqchip/chip.h"

enum { MASTER, SLAVE, CASCADE_PIN = 2, PINS = 8 };
enum { ICW1_INIT = 0x10, ICW1_ICW4 = 1, ICW4_AUTO_EOI = 2, ICW4_NESTED = 0x10, OCW3 = 8 };
static const uint8_t elcr_writable[2] = {0xf8, 0xde}; /* not pins 0, 1, 2; not 8, 13 */

static struct pics *pics_of(struct vm *vm)
{
	return &vm->irqchip->pics;
}

/* Priority of the most urgent bit of mask, 0 the highest, 8: none. */
static unsigned priority_of(const struct kvm_pic_state *s, uint8_t mask)
{
	unsigned priority = 0;

	while (priority < PINS && !(mask >> ((priority + s->priority_add) & 7) & 1))
		priority++;
	return priority;
}

/* The pin to interrupt for, or -1. */
static int pending_pin(const struct kvm_pic_state *s, bool is_master)
{
	uint8_t requests = s->irr & (uint8_t)~s->imr, in_service = s->isr;
	unsigned priority = priority_of(s, requests);

	if (priority == PINS)
		return -1;
	if (s->special_mask)
		in_service &= (uint8_t)~s->imr;
	if (s->special_fully_nested_mode && is_master) /* the slave may interrupt its own handlers */
		in_service &= (uint8_t) ~(1 << CASCADE_PIN);
	if (priority >= priority_of(s, in_service))
		return -1;
	return (int)((priority + s->priority_add) & 7);
}

/* An input's level: 1 if it made a new request, 0 if one was waiting already, -1 if it is masked. */
static int set_input(struct kvm_pic_state *s, unsigned pin, bool level)
{
	uint8_t bit = (uint8_t)(1 << pin);
	int ret = 1;

	if (s->elcr & bit) {
		if (level) {
			ret = !(s->irr & bit);
			s->irr |= bit;
			s->last_irr |= bit;
		} else {
			s->irr &= (uint8_t)~bit;
			s->last_irr &= (uint8_t)~bit;
		}
	} else if (level) {
		if (!(s->last_irr & bit)) {
			ret = !(s->irr & bit);
			s->irr |= bit;
		}
		s->last_irr |= bit;
	} else {
		s->last_irr &= (uint8_t)~bit;
	}
	return s->imr & bit ? -1 : ret;
}

/* Whoever accepts ExtINT is to look at the pin. */
static void tell_vcpus(struct vm *vm)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	for (unsigned i = 0; i < count; i++)
		if (lapic_accepts_extint(vm->vcpu[i]))
			vcpu_kick(vm->vcpu[i], VREQ_IRQ);
}

void pic_update(struct vm *vm)
{
	struct pics *p = pics_of(vm);
	bool output;

	set_input(&p->chip[MASTER], CASCADE_PIN, pending_pin(&p->chip[SLAVE], false) >= 0);
	output = pending_pin(&p->chip[MASTER], true) >= 0;
	atomic_store(&p->output, output);
	if (output)
		tell_vcpus(vm);
}

int pic_set_pin(struct vm *vm, enum irq_source source, unsigned pin, int level)
{
	struct pics *p = pics_of(vm);
	int ret;

	if (level)
		p->sources[pin] |= 1u << source;
	else
		p->sources[pin] &= ~(1u << source);
	ret = set_input(&p->chip[pin / PINS], pin % PINS, p->sources[pin] != 0);
	pic_update(vm);
	return ret;
}

/* --- acknowledge and EOI --- */

static void clear_service(struct vm *vm, unsigned chip, unsigned pin)
{
	pics_of(vm)->chip[chip].isr &= (uint8_t) ~(1 << pin);
	line_notify_ack(vm, chip, pin);
}

static void acknowledge(struct vm *vm, unsigned chip, unsigned pin)
{
	struct kvm_pic_state *s = &pics_of(vm)->chip[chip];
	uint8_t bit = (uint8_t)(1 << pin);

	s->isr |= bit;
	if (!(s->elcr & bit)) /* a level-triggered request stays as long as the line does */
		s->irr &= (uint8_t)~bit;
	if (!s->auto_eoi)
		return;
	if (s->rotate_on_auto_eoi)
		s->priority_add = (pin + 1) & 7;
	clear_service(vm, chip, pin);
}

int pic_ack(struct vm *vm)
{
	struct pics *p = pics_of(vm);
	int pin = pending_pin(&p->chip[MASTER], true), vector;

	if (pin < 0) {
		vector = p->chip[MASTER].irq_base + 7; /* spurious */
	} else if (pin != CASCADE_PIN) {
		acknowledge(vm, MASTER, (unsigned)pin);
		vector = p->chip[MASTER].irq_base + pin;
	} else {
		int slave_pin = pending_pin(&p->chip[SLAVE], false);

		if (slave_pin >= 0)
			acknowledge(vm, SLAVE, (unsigned)slave_pin);
		else
			slave_pin = 7;
		acknowledge(vm, MASTER, CASCADE_PIN);
		vector = p->chip[SLAVE].irq_base + slave_pin;
	}
	pic_update(vm);
	return vector;
}

/* --- registers --- */

/* By ICW1: what the data sheet says is cleared; ELCR is not of the 8259A. */
static void begin_init(struct vm *vm, unsigned chip, uint8_t icw1)
{
	struct kvm_pic_state *s = &pics_of(vm)->chip[chip];
	uint8_t was_waiting = s->irr | s->isr;

	s->last_irr = 0;
	s->irr &= s->elcr;
	s->imr = s->isr = s->priority_add = s->special_mask = s->read_reg_select = 0;
	s->auto_eoi = s->rotate_on_auto_eoi = s->special_fully_nested_mode = s->poll = 0;
	s->init4 = icw1 & ICW1_ICW4;
	s->init_state = 1;
	for (unsigned pin = 0; pin < PINS; pin++)
		if (was_waiting >> pin & 1 && !(s->irr >> pin & 1))
			line_notify_ack(vm, chip, pin);
}

/* OCW2: EOI and rotation, by its upper three bits. */
static void write_ocw2(struct vm *vm, unsigned chip, uint8_t value)
{
	struct kvm_pic_state *s = &pics_of(vm)->chip[chip];
	unsigned command = value >> 5, pin = value & 7, priority;

	switch (command) {
	case 0:
	case 4: /* rotate in automatic EOI mode */
		s->rotate_on_auto_eoi = command >> 2;
		break;
	case 1:
	case 5: /* non-specific EOI */
		priority = priority_of(s, s->isr);
		if (priority == PINS)
			break;
		pin = (priority + s->priority_add) & 7;
		if (command == 5)
			s->priority_add = (pin + 1) & 7;
		clear_service(vm, chip, pin);
		break;
	case 7: /* rotate on specific EOI */
		s->priority_add = (pin + 1) & 7;
		/* fallthrough */
	case 3: /* specific EOI */
		clear_service(vm, chip, pin);
		break;
	case 6: /* set priority */
		s->priority_add = (pin + 1) & 7;
		break;
	}
}

static void write_ocw3(struct kvm_pic_state *s, uint8_t value)
{
	if (value & 4)
		s->poll = 1;
	if (value & 2)
		s->read_reg_select = value & 1;
	if (value & 0x40)
		s->special_mask = value >> 5 & 1;
}

static void write_command(struct vm *vm, unsigned chip, uint8_t value)
{
	if (value & ICW1_INIT)
		begin_init(vm, chip, value);
	else if (value & OCW3)
		write_ocw3(&pics_of(vm)->chip[chip], value);
	else
		write_ocw2(vm, chip, value);
}

static void write_mask(struct vm *vm, unsigned chip, uint8_t value)
{
	struct kvm_pic_state *s = &pics_of(vm)->chip[chip];
	uint8_t unmasked = s->imr & (uint8_t)~value;

	s->imr = value;
	for (unsigned pin = 0; pin < PINS; pin++)
		if (unmasked >> pin & 1)
			line_notify_unmask(vm, chip, pin);
}

static void write_data(struct vm *vm, unsigned chip, uint8_t value)
{
	struct kvm_pic_state *s = &pics_of(vm)->chip[chip];

	switch (s->init_state) {
	case 0:
		write_mask(vm, chip, value);
		break;
	case 1:
		s->irq_base = value & 0xf8;
		s->init_state = 2;
		break;
	case 2: /* who is cascaded where is wired */
		s->init_state = s->init4 ? 3 : 0;
		break;
	case 3:
		s->special_fully_nested_mode = !!(value & ICW4_NESTED);
		s->auto_eoi = !!(value & ICW4_AUTO_EOI);
		s->init_state = 0;
		break;
	}
}

/* A read after the poll command acknowledges: bit 7 says whether there was something, bits 0-2 what. */
static uint8_t read_poll(struct vm *vm, unsigned chip)
{
	struct kvm_pic_state *s = &pics_of(vm)->chip[chip];
	int pin = pending_pin(s, chip == MASTER);

	s->poll = 0;
	if (pin < 0)
		return 0;
	acknowledge(vm, chip, (unsigned)pin);
	if (chip == SLAVE)
		pics_of(vm)->chip[MASTER].irr &= (uint8_t) ~(1 << CASCADE_PIN);
	return (uint8_t)(0x80 | pin);
}

static uint8_t read_port(struct vm *vm, unsigned chip, bool is_data)
{
	struct kvm_pic_state *s = &pics_of(vm)->chip[chip];

	if (s->poll)
		return read_poll(vm, chip);
	if (is_data)
		return s->imr;
	return s->read_reg_select ? s->isr : s->irr;
}

bool pic_pio(struct vm *vm, uint16_t port, uint8_t *value, bool is_write)
{
	struct pics *p = pics_of(vm);
	unsigned chip;

	if (port == 0x4d0 || port == 0x4d1) {
		chip = port & 1;
		if (is_write)
			p->chip[chip].elcr = *value & elcr_writable[chip];
		else
			*value = p->chip[chip].elcr;
		return true;
	}
	if ((port & ~1u) != 0x20 && (port & ~1u) != 0xa0)
		return false;
	chip = port >> 7;
	if (!is_write)
		*value = read_port(vm, chip, port & 1);
	else if (port & 1)
		write_data(vm, chip, *value);
	else
		write_command(vm, chip, *value);
	pic_update(vm);
	return true;
}

void pic_reset_all(struct vm *vm)
{
	struct pics *p = pics_of(vm);

	for (unsigned chip = 0; chip < 2; chip++)
		p->chip[chip] = (struct kvm_pic_state){.elcr_mask = elcr_writable[chip]};
	for (unsigned pin = 0; pin < PIC_PINS; pin++)
		p->sources[pin] = 0;
	atomic_store(&p->output, false);
}
