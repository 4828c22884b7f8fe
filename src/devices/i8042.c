/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What software still asks of the keyboard controller: to reset the machine, to open gate A20, and to say that the
 * keyboard is well. Commands to the controller come through port 64h, commands to the keyboard through port 60h;
 * answers queue up and are read from port 60h, one interrupt each if the command byte allows it.
 *
 * Nobody types: characters come through the serial port. There is no mouse (auxiliary) port: commands to it time out.
 * A20 is a bit that reads back; addresses are never masked, as on every machine of the last decades.
 */
#include "devices/i8042.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { STATUS_OUT_FULL = 1, STATUS_SYSTEM = 4, STATUS_COMMAND = 8, STATUS_UNLOCKED = 0x10, STATUS_TIMEOUT = 0x40 };
enum { CONFIG_IRQ = 1, CONFIG_SYSTEM = 4, CONFIG_DISABLE = 0x10, CONFIG_TRANSLATE = 0x40 };
enum { OUT_NOT_RESET = 1, OUT_A20 = 2 };
enum { ACK = 0xfa, SELF_TEST_OK = 0xaa, RESEND = 0xfe, ECHO = 0xee };
enum { QUEUE_SIZE = 16 };

struct i8042 {
	struct irq_wire irq, reset;
	pthread_mutex_t lock; /* protects all below */
	uint8_t config, output_port, status;
	uint8_t ram[32];
	uint8_t awaits;	    /* controller command whose parameter comes through port 60h, or 0 */
	bool kbd_parameter; /* the keyboard awaits a parameter */
	uint8_t queue[QUEUE_SIZE];
	unsigned head, count;
};

static void update_irq(struct i8042 *c)
{
	irq_set(&c->irq, c->count && (c->config & CONFIG_IRQ));
}

static void answer(struct i8042 *c, uint8_t byte)
{
	if (c->count < QUEUE_SIZE)
		c->queue[(c->head + c->count++) % QUEUE_SIZE] = byte;
}

static void set_output_port(struct i8042 *c, uint8_t value)
{
	c->output_port = value;
	if (!(value & OUT_NOT_RESET))
		irq_set(&c->reset, 1);
}

/* A byte for the keyboard itself. */
static void keyboard_write(struct i8042 *c, uint8_t value)
{
	if (c->kbd_parameter) {
		c->kbd_parameter = false;
		answer(c, ACK);
		return;
	}
	switch (value) {
	case 0xee:
		answer(c, ECHO);
		break;
	case 0xed: /* lights */
	case 0xf0: /* scan code set */
	case 0xf3: /* repeat rate */
		c->kbd_parameter = true;
		answer(c, ACK);
		break;
	case 0xf2: /* identify */
		answer(c, ACK);
		answer(c, 0xab);
		answer(c, c->config & CONFIG_TRANSLATE ? 0x41 : 0x83);
		break;
	case 0xf4: /* enable */
	case 0xf5: /* disable */
	case 0xf6: /* defaults */
		answer(c, ACK);
		break;
	case 0xff:
		answer(c, ACK);
		answer(c, SELF_TEST_OK);
		break;
	default:
		answer(c, RESEND);
	}
}

/* A command to the controller. */
static void command(struct i8042 *c, uint8_t value)
{
	c->awaits = 0;
	switch (value) {
	case 0x20 ... 0x3f:
		answer(c, value == 0x20 ? c->config : c->ram[value - 0x20]);
		break;
	case 0x60 ... 0x7f: /* write the configuration byte or controller RAM */
	case 0xd1:	    /* write the output port */
	case 0xd2:	    /* put into the output buffer as if typed */
	case 0xd3:	    /* likewise from the auxiliary port */
	case 0xd4:	    /* write to the auxiliary port */
		c->awaits = value;
		break;
	case 0xa9: /* test the auxiliary port: clock line stuck, for there is none */
		answer(c, 1);
		break;
	case 0xaa:
		c->status |= STATUS_SYSTEM;
		answer(c, 0x55);
		break;
	case 0xab:
		answer(c, 0);
		break;
	case 0xad:
		c->config |= CONFIG_DISABLE;
		break;
	case 0xae:
		c->config &= ~CONFIG_DISABLE;
		break;
	case 0xc0: /* input port: keyboard not locked */
		answer(c, 0x80);
		break;
	case 0xd0:
		answer(c, c->output_port);
		break;
	case 0xf0 ... 0xff: /* pulse the output port's low bits that are 0 here: bit 0 is reset */
		if (!(value & 1))
			irq_set(&c->reset, 1);
		break;
	default:
		break;
	}
}

static void parameter(struct i8042 *c, uint8_t value)
{
	uint8_t of = c->awaits;

	c->awaits = 0;
	switch (of) {
	case 0x60:
		c->config = value;
		break;
	case 0x61 ... 0x7f:
		c->ram[of - 0x60] = value;
		break;
	case 0xd1:
		set_output_port(c, value);
		break;
	case 0xd2:
		answer(c, value);
		break;
	case 0xd4:
		c->status |= STATUS_TIMEOUT;
		answer(c, RESEND);
		break;
	default:
		break;
	}
}

static uint8_t pop(struct i8042 *c)
{
	uint8_t byte = c->queue[c->head];

	if (c->count) {
		c->head = (c->head + 1) % QUEUE_SIZE;
		c->count--;
		irq_set(&c->irq, 0); /* an edge for each byte */
	}
	c->status &= ~STATUS_TIMEOUT;
	return byte;
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *c = opaque;
	uint8_t value;

	pthread_mutex_lock(&c->lock);
	value = pop(c);
	update_irq(c);
	pthread_mutex_unlock(&c->lock);
	return value;
}

static void data_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *c = opaque;

	pthread_mutex_lock(&c->lock);
	c->status &= ~STATUS_COMMAND;
	if (c->awaits)
		parameter(c, value);
	else
		keyboard_write(c, value);
	update_irq(c);
	pthread_mutex_unlock(&c->lock);
}

const struct bus_ops i8042_data_ops = {data_read, data_write};

static uint64_t status_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *c = opaque;
	uint8_t value;

	pthread_mutex_lock(&c->lock);
	value = c->status | (c->count ? STATUS_OUT_FULL : 0);
	pthread_mutex_unlock(&c->lock);
	return value;
}

static void command_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *c = opaque;

	pthread_mutex_lock(&c->lock);
	c->status |= STATUS_COMMAND;
	command(c, value);
	update_irq(c);
	pthread_mutex_unlock(&c->lock);
}

const struct bus_ops i8042_command_ops = {status_read, command_write};

static uint64_t port92_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *c = opaque;
	uint8_t value;

	pthread_mutex_lock(&c->lock);
	value = c->output_port & OUT_A20;
	pthread_mutex_unlock(&c->lock);
	return value;
}

static void port92_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *c = opaque;

	pthread_mutex_lock(&c->lock);
	c->output_port = (c->output_port & ~OUT_A20) | (value & OUT_A20);
	if (value & 1)
		irq_set(&c->reset, 1);
	pthread_mutex_unlock(&c->lock);
}

const struct bus_ops i8042_port92_ops = {port92_read, port92_write};

int i8042_new(struct i8042 **i8042, const struct irq_wire *irq, const struct irq_wire *reset)
{
	struct i8042 *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->irq = *irq;
	c->reset = *reset;
	c->config = CONFIG_IRQ | CONFIG_SYSTEM | CONFIG_TRANSLATE;
	c->output_port = OUT_NOT_RESET | OUT_A20;
	c->status = STATUS_UNLOCKED;
	pthread_mutex_init(&c->lock, NULL);
	*i8042 = c;
	return 0;
}

void i8042_free(struct i8042 *c)
{
	if (!c)
		return;
	pthread_mutex_destroy(&c->lock);
	free(c);
}
