/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The 16550A: eight registers, two 16-byte FIFOs, one interrupt line.
 *
 * Transmission takes no time: a byte written to THR is handed on at once and the transmitter is empty again, so the
 * transmit FIFO never holds anything. "Transmitter empty" is still raised as an interrupt, once per write, and taken
 * back by reading IIR, as the data sheet says (PC16550D, table II and 8.4).
 *
 * Reception: bytes wait in the FIFO (16 deep; 1 with FIFOs off) until read. The other end asks serial_room() first,
 * so nothing overruns. There is no baud rate: the character time-out interrupt is due as soon as bytes are below the
 * trigger level, which is what a real port does four character times later.
 *
 * Modem status: the other end is always there (DSR, CTS, DCD on), except in loop-back, where MCR's outputs come back
 * as inputs. OUT2 gates the interrupt line, as on every PC.
 */
#include "devices/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { RBR_THR = 0, IER = 1, IIR_FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { IER_RECEIVED = 1, IER_EMPTY = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_NONE = 1, IIR_MODEM = 0, IIR_EMPTY = 2, IIR_RECEIVED = 4, IIR_LINE = 6, IIR_TIMEOUT = 12, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_TRIGGER_SHIFT = 6 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16 };
enum { LSR_READY = 1, LSR_OVERRUN = 2, LSR_BREAK = 16, LSR_THR_EMPTY = 0x20, LSR_EMPTY = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

enum { FIFO_SIZE = 16 };

struct serial {
	struct irq_wire irq;
	struct serial_wire wire;
	pthread_mutex_t lock; /* protects all below; wires are pulled with it held, has_room without */
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint8_t overrun;	/* LSR_OVERRUN if bytes were lost (loop-back only) */
	uint16_t divisor;
	bool empty_pending;	/* "transmitter empty" not yet acknowledged */
	int level;		/* of the interrupt line */
	uint8_t fifo[FIFO_SIZE];
	unsigned head, count;
};

static unsigned capacity(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned trigger_level(const struct serial *s)
{
	static const uint8_t levels[] = {1, 4, 8, 14};

	return s->fcr & FCR_ENABLE ? levels[s->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* The interrupt of highest priority that is enabled and pending, as IIR shows it. */
static uint8_t pending(const struct serial *s)
{
	if ((s->ier & IER_LINE) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_RECEIVED) && s->count)
		return s->count >= trigger_level(s) ? IIR_RECEIVED : IIR_TIMEOUT;
	if ((s->ier & IER_EMPTY) && s->empty_pending)
		return IIR_EMPTY;
	if ((s->ier & IER_MODEM) && (s->msr & 0xf))
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq(struct serial *s)
{
	int level = pending(s) != IIR_NONE && ((s->mcr & MCR_OUT2) || (s->mcr & MCR_LOOP));

	if (level != s->level) {
		s->level = level;
		irq_set(&s->irq, level);
	}
}

/* Inputs as they are now, with the "changed" bits that MSR keeps until read. */
static void update_modem(struct serial *s)
{
	uint8_t lines = MSR_DCD | MSR_DSR | MSR_CTS, changed;

	if (s->mcr & MCR_LOOP)
		lines = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
			(s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
	changed = (lines ^ s->msr) & 0xf0;
	if (lines & MSR_RI)
		changed &= ~MSR_RI; /* only its trailing edge counts */
	s->msr = lines | (s->msr & 0xf) | changed >> 4;
}

static void push(struct serial *s, uint8_t byte)
{
	if (s->count == capacity(s)) {
		s->overrun = LSR_OVERRUN;
		return;
	}
	s->fifo[(s->head + s->count++) % FIFO_SIZE] = byte;
}

static uint8_t pop(struct serial *s)
{
	uint8_t byte = 0;

	if (s->count) {
		byte = s->fifo[s->head];
		s->head = (s->head + 1) % FIFO_SIZE;
		s->count--;
	}
	return byte;
}

static void transmit(struct serial *s, uint8_t byte)
{
	if (s->mcr & MCR_LOOP)
		push(s, byte);
	else if (s->wire.transmit)
		s->wire.transmit(s->wire.opaque, &byte, 1);
	s->empty_pending = true;
}

static void set_fcr(struct serial *s, uint8_t value)
{
	if ((value ^ s->fcr) & FCR_ENABLE || value & FCR_CLEAR_RX)
		s->count = 0;
	s->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t id = pending(s);

	if (id == IIR_EMPTY)
		s->empty_pending = false;
	return id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t lsr = LSR_THR_EMPTY | LSR_EMPTY | (s->count ? LSR_READY : 0) | s->overrun;

	s->overrun = 0;
	return lsr;
}

static uint8_t read_register(struct serial *s, unsigned reg)
{
	uint8_t value;

	switch (reg) {
	case RBR_THR:
		return s->lcr & LCR_DLAB ? s->divisor & 0xff : pop(s);
	case IER:
		return s->lcr & LCR_DLAB ? s->divisor >> 8 : s->ier;
	case IIR_FCR:
		return read_iir(s);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return read_lsr(s);
	case MSR:
		value = s->msr;
		s->msr &= 0xf0;
		return value;
	default:
		return s->scr;
	}
}

static void write_register(struct serial *s, unsigned reg, uint8_t value)
{
	switch (reg) {
	case RBR_THR:
		if (s->lcr & LCR_DLAB)
			s->divisor = (s->divisor & 0xff00) | value;
		else
			transmit(s, value);
		break;
	case IER:
		if (s->lcr & LCR_DLAB) {
			s->divisor = (s->divisor & 0xff) | value << 8;
			break;
		}
		if (!(s->ier & IER_EMPTY) && (value & IER_EMPTY))
			s->empty_pending = true; /* enabling it with an empty transmitter raises it */
		s->ier = value & 0xf;
		break;
	case IIR_FCR:
		set_fcr(s, value);
		break;
	case LCR:
		s->lcr = value;
		break;
	case MCR:
		s->mcr = value & 0x1f;
		update_modem(s);
		break;
	case SCR:
		s->scr = value;
		break;
	default:
		break; /* LSR and MSR are read-only */
	}
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size)
{
	struct serial *s = opaque;
	bool had_no_room, has_room;
	uint8_t value;

	pthread_mutex_lock(&s->lock);
	had_no_room = s->count == capacity(s);
	value = read_register(s, offset & 7);
	has_room = s->count < capacity(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (had_no_room && has_room && s->wire.has_room)
		s->wire.has_room(s->wire.opaque);
	return value;
}

static void serial_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct serial *s = opaque;
	bool had_no_room, has_room;

	pthread_mutex_lock(&s->lock);
	had_no_room = s->count == capacity(s);
	write_register(s, offset & 7, value);
	has_room = s->count < capacity(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (had_no_room && has_room && s->wire.has_room)
		s->wire.has_room(s->wire.opaque);
}

const struct bus_ops serial_ops = {serial_read, serial_write};

size_t serial_room(struct serial *s)
{
	size_t room;

	pthread_mutex_lock(&s->lock);
	room = s->mcr & MCR_LOOP || s->count > capacity(s) ? 0 : capacity(s) - s->count;
	pthread_mutex_unlock(&s->lock);
	return room;
}

void serial_receive(struct serial *s, const uint8_t *bytes, size_t count)
{
	pthread_mutex_lock(&s->lock);
	for (size_t k = 0; k < count; k++)
		push(s, bytes[k]);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

int serial_new(struct serial **serial, const struct irq_wire *irq, const struct serial_wire *wire)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->irq = *irq;
	s->wire = *wire;
	s->divisor = 12; /* 9600 baud */
	s->msr = MSR_DCD | MSR_DSR | MSR_CTS;
	pthread_mutex_init(&s->lock, NULL);
	*serial = s;
	return 0;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}
