/* SPDX-License-Identifier: BSD-2-Clause */
/* The 16550: registers, interrupts and their priorities, FIFOs, loop-back, flow control of input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "device_wires.h"
#include "devices/serial.h"

enum { DATA = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCRATCH = 7 };
enum { OUT2 = 8, LOOP = 16 };

struct port {
	struct serial *serial;
	struct test_wire irq;
	char sent[64];
	size_t n_sent;
	unsigned room_calls;
};

static void transmit(void *opaque, const void *bytes, size_t count)
{
	struct port *p = opaque;

	memcpy(p->sent + p->n_sent, bytes, count);
	p->n_sent += count;
}

static void has_room(void *opaque)
{
	((struct port *)opaque)->room_calls++;
}

static int set_up(void **state)
{
	static struct port p;
	struct serial_wire wire = {transmit, has_room, &p};
	struct irq_wire irq = wire_to(&p.irq);

	p = (struct port){0};
	*state = &p;
	return serial_new(&p.serial, &irq, &wire);
}

static int tear_down(void **state)
{
	serial_free(((struct port *)*state)->serial);
	return 0;
}

static uint8_t in(struct port *p, unsigned reg)
{
	return serial_ops.read(p->serial, reg, 1);
}

static void out(struct port *p, unsigned reg, uint8_t value)
{
	serial_ops.write(p->serial, reg, 1, value);
}

static void transmits_at_once(void **state)
{
	struct port *p = *state;

	assert_int_equal(in(p, LSR), 0x60);
	out(p, DATA, 'h');
	out(p, DATA, 'i');
	assert_int_equal(in(p, LSR), 0x60);
	assert_int_equal(p->n_sent, 2);
	assert_memory_equal(p->sent, "hi", 2);
	assert_int_equal(p->irq.rises, 0);
}

static void divisor_hides_data_and_ier(void **state)
{
	struct port *p = *state;

	out(p, LCR, 0x83);
	out(p, DATA, 0x34);
	out(p, IER, 0x12);
	assert_int_equal(in(p, DATA), 0x34);
	assert_int_equal(in(p, IER), 0x12);
	out(p, LCR, 0x03);
	assert_int_equal(p->n_sent, 0);
	assert_int_equal(in(p, IER), 0);
	out(p, SCRATCH, 0x5a);
	assert_int_equal(in(p, SCRATCH), 0x5a);
}

static void out2_gates_the_wire(void **state)
{
	struct port *p = *state;

	out(p, IER, 2);
	assert_int_equal(p->irq.level, 0);
	out(p, MCR, OUT2);
	assert_int_equal(p->irq.level, 1);
}

static void transmitter_empty_interrupt(void **state)
{
	struct port *p = *state;

	out(p, MCR, OUT2);
	out(p, IER, 2);
	assert_int_equal(p->irq.level, 1);
	assert_int_equal(in(p, IIR) & 15, 2);
	assert_int_equal(p->irq.level, 0);
	assert_int_equal(in(p, IIR) & 15, 1);
	out(p, DATA, 'x');
	assert_int_equal(p->irq.level, 1);
	assert_int_equal(p->irq.rises, 2);
}

static void received_data_and_timeout(void **state)
{
	struct port *p = *state;

	out(p, MCR, OUT2);
	out(p, FCR, 0x81); /* FIFOs on, trigger at 8 */
	assert_int_equal(in(p, IIR), 0xc1);
	out(p, IER, 1);
	serial_receive(p->serial, (const uint8_t *)"abc", 3);
	assert_int_equal(p->irq.level, 1);
	assert_int_equal(in(p, IIR), 0xcc); /* below the trigger: time-out */
	serial_receive(p->serial, (const uint8_t *)"defgh", 5);
	assert_int_equal(in(p, IIR), 0xc4);
	assert_int_equal(in(p, LSR), 0x61);
	for (char c = 'a'; c <= 'h'; c++)
		assert_int_equal(in(p, DATA), c);
	assert_int_equal(in(p, LSR), 0x60);
	assert_int_equal(p->irq.level, 0);
	assert_int_equal(in(p, DATA), 0);
}

static void received_comes_before_empty(void **state)
{
	struct port *p = *state;

	out(p, MCR, OUT2);
	out(p, IER, 3);
	serial_receive(p->serial, (const uint8_t *)"z", 1);
	assert_int_equal(in(p, IIR) & 15, 4);
	in(p, DATA);
	assert_int_equal(in(p, IIR) & 15, 2); /* the other is still there */
	assert_int_equal(p->irq.level, 0);
}

static void input_waits_for_room(void **state)
{
	struct port *p = *state;

	assert_int_equal(serial_room(p->serial), 1);
	serial_receive(p->serial, (const uint8_t *)"a", 1);
	assert_int_equal(serial_room(p->serial), 0);
	in(p, DATA);
	assert_int_equal(p->room_calls, 1);
	out(p, FCR, 1);
	assert_int_equal(serial_room(p->serial), 16);
	serial_receive(p->serial, (const uint8_t *)"0123456789abcdef", 16);
	assert_int_equal(serial_room(p->serial), 0);
	out(p, FCR, 3); /* clearing makes room as well */
	assert_int_equal(p->room_calls, 2);
	assert_int_equal(serial_room(p->serial), 16);
}

static void loop_back(void **state)
{
	struct port *p = *state;

	assert_int_equal(in(p, MSR), 0xb0);
	out(p, MCR, LOOP | 0xa); /* RTS, OUT2 */
	assert_int_equal(in(p, MSR) & 0xf0, 0x90);
	out(p, DATA, 'q');
	assert_int_equal(p->n_sent, 0);
	assert_int_equal(in(p, LSR) & 1, 1);
	assert_int_equal(in(p, DATA), 'q');
	assert_int_equal(serial_room(p->serial), 0); /* the line is cut */
	out(p, DATA, '1');
	out(p, DATA, '2'); /* no FIFO: an overrun */
	assert_int_equal(in(p, LSR) & 2, 2);
	assert_int_equal(in(p, LSR) & 2, 0);
}

static void modem_status_changes(void **state)
{
	struct port *p = *state;

	out(p, IER, 8);
	out(p, MCR, LOOP | OUT2); /* CTS and DSR drop, DCD stays */
	assert_int_equal(in(p, IIR) & 15, 0);
	assert_int_equal(in(p, MSR), 0x83);
	assert_int_equal(in(p, MSR), 0x80);
	assert_int_equal(in(p, IIR) & 15, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(transmits_at_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(divisor_hides_data_and_ier, set_up, tear_down),
		cmocka_unit_test_setup_teardown(out2_gates_the_wire, set_up, tear_down),
		cmocka_unit_test_setup_teardown(transmitter_empty_interrupt, set_up, tear_down),
		cmocka_unit_test_setup_teardown(received_data_and_timeout, set_up, tear_down),
		cmocka_unit_test_setup_teardown(received_comes_before_empty, set_up, tear_down),
		cmocka_unit_test_setup_teardown(input_waits_for_room, set_up, tear_down),
		cmocka_unit_test_setup_teardown(loop_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(modem_status_changes, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
