/* SPDX-License-Identifier: BSD-2-Clause */
/* The small devices of a PC: clock, keyboard controller, ACPI registers, fw_cfg, exit and panic ports. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/loop.h"
#include "device_wires.h"
#include "devices/acpi_pm.h"
#include "devices/fw_cfg.h"
#include "devices/i8042.h"
#include "devices/rtc.h"
#include "devices/signals.h"

/* --- clock --- */

static uint8_t cmos(struct rtc *rtc, uint8_t index)
{
	rtc_ops.write(rtc, 0, 1, index);
	return rtc_ops.read(rtc, 1, 1);
}

static void set_cmos(struct rtc *rtc, uint8_t index, uint8_t value)
{
	rtc_ops.write(rtc, 0, 1, index);
	rtc_ops.write(rtc, 1, 1, value);
}

static unsigned bcd(uint8_t v)
{
	return (v >> 4) * 10 + (v & 15);
}

static void rtc_tells_utc(void **state)
{
	struct test_wire wire = {0};
	struct irq_wire irq = wire_to(&wire);
	struct loop *loop;
	struct rtc *rtc;
	time_t before, after, told;
	struct tm tm = {0};

	assert_int_equal(loop_new(&loop), 0);
	assert_int_equal(rtc_new(&rtc, loop, &irq), 0);
	do { /* read within one second */
		before = time(NULL);
		tm = (struct tm){.tm_sec = bcd(cmos(rtc, 0)), .tm_min = bcd(cmos(rtc, 2)), .tm_hour = bcd(cmos(rtc, 4)),
				 .tm_mday = bcd(cmos(rtc, 7)), .tm_mon = bcd(cmos(rtc, 8)) - 1,
				 .tm_year = (bcd(cmos(rtc, 0x32)) - 19) * 100 + bcd(cmos(rtc, 9))};
		after = time(NULL);
	} while (before != after);
	told = timegm(&tm);
	assert_in_range(told, before - 1, after + 1);
	assert_int_equal(cmos(rtc, 0xd), 0x80);
	rtc_free(rtc);
	loop_free(loop);
}

static void rtc_can_be_set(void **state)
{
	static const uint8_t index[] = {0, 2, 4, 7, 8, 9, 0x32}, value[] = {10, 59, 0x80 | 11, 31, 12, 99, 20};
	struct test_wire wire = {0};
	struct irq_wire irq = wire_to(&wire);
	struct loop *loop;
	struct rtc *rtc;

	loop_new(&loop);
	rtc_new(&rtc, loop, &irq);
	set_cmos(rtc, 0xb, 0x84); /* hold, binary, 12 hours */
	for (unsigned k = 0; k < sizeof(index); k++)
		set_cmos(rtc, index[k], value[k]);
	set_cmos(rtc, 0xb, 0x04);
	assert_int_equal(cmos(rtc, 2), 59);
	assert_int_equal(cmos(rtc, 4), 0x8b);
	assert_int_equal(cmos(rtc, 9), 99);
	set_cmos(rtc, 0xb, 0x06);
	assert_int_equal(cmos(rtc, 4), 23);
	set_cmos(rtc, 0xb, 0x02);
	assert_int_equal(cmos(rtc, 4), 0x23);
	for (unsigned k = 0; k < 0x80; k++) /* whatever is written, nothing breaks */
		set_cmos(rtc, k, 0xff);
	for (unsigned k = 0; k < 0x80; k++)
		cmos(rtc, k);
	rtc_free(rtc);
	loop_free(loop);
}

static void stop_loop(void *opaque, uint32_t events)
{
	loop_stop(opaque);
}

static void rtc_periodic_interrupt(void **state)
{
	struct test_wire wire = {0};
	struct irq_wire irq = wire_to(&wire);
	struct loop_source *timer;
	struct loop *loop;
	struct rtc *rtc;

	loop_new(&loop);
	rtc_new(&rtc, loop, &irq);
	loop_add_timer(loop, stop_loop, loop, &timer);
	set_cmos(rtc, 0xa, 0x26); /* 1024 Hz */
	set_cmos(rtc, 0xb, 0x42);
	loop_set_timer(timer, now_ns() + 50000000, 0);
	loop_run(loop);
	assert_int_equal(wire.level, 1);
	assert_int_equal(cmos(rtc, 0xc) & 0xc0, 0xc0);
	assert_int_equal(wire.level, 0);
	rtc_free(rtc);
	loop_free(loop);
}

static void rtc_says_memory_sizes(void **state)
{
	struct test_wire wire = {0};
	struct irq_wire irq = wire_to(&wire);
	struct loop *loop;
	struct rtc *rtc;

	loop_new(&loop);
	rtc_new(&rtc, loop, &irq);
	rtc_set_memory(rtc, 512ull << 20, 1ull << 32);
	assert_int_equal(cmos(rtc, 0x34) | cmos(rtc, 0x35) << 8, (512 - 16) * 16);
	assert_int_equal(cmos(rtc, 0x5b) | cmos(rtc, 0x5c) << 8 | cmos(rtc, 0x5d) << 16, 0x10000);
	assert_int_equal(cmos(rtc, 0x15) | cmos(rtc, 0x16) << 8, 640);
	rtc_free(rtc);
	loop_free(loop);
}

/* --- keyboard controller --- */

struct keyboard {
	struct i8042 *c;
	struct test_wire irq, reset;
};

static void keyboard_new(struct keyboard *k)
{
	struct irq_wire irq, reset;

	*k = (struct keyboard){0};
	irq = wire_to(&k->irq);
	reset = wire_to(&k->reset);
	assert_int_equal(i8042_new(&k->c, &irq, &reset), 0);
}

static void kbd_command(struct keyboard *k, uint8_t value)
{
	i8042_command_ops.write(k->c, 0, 1, value);
}

static void kbd_data(struct keyboard *k, uint8_t value)
{
	i8042_data_ops.write(k->c, 0, 1, value);
}

static int kbd_answer(struct keyboard *k)
{
	return i8042_command_ops.read(k->c, 0, 1) & 1 ? (int)i8042_data_ops.read(k->c, 0, 1) : -1;
}

static void i8042_tests_and_resets(void **state)
{
	struct keyboard k;

	keyboard_new(&k);
	kbd_command(&k, 0xaa);
	assert_int_equal(k.irq.level, 1);
	assert_int_equal(kbd_answer(&k), 0x55);
	assert_int_equal(k.irq.level, 0);
	kbd_command(&k, 0xab);
	assert_int_equal(kbd_answer(&k), 0);
	kbd_data(&k, 0xff);
	assert_int_equal(kbd_answer(&k), 0xfa);
	assert_int_equal(kbd_answer(&k), 0xaa);
	assert_int_equal(kbd_answer(&k), -1);
	kbd_command(&k, 0x60);
	kbd_data(&k, 0x00); /* no interrupts */
	kbd_command(&k, 0x20);
	assert_int_equal(k.irq.level, 0);
	assert_int_equal(kbd_answer(&k), 0);
	kbd_data(&k, 0xed);
	kbd_data(&k, 0x02);
	assert_int_equal(kbd_answer(&k), 0xfa);
	assert_int_equal(kbd_answer(&k), 0xfa);
	assert_int_equal(k.reset.rises, 0);
	kbd_command(&k, 0xfe);
	assert_int_equal(k.reset.rises, 1);
	i8042_free(k.c);
}

static void i8042_gate_a20(void **state)
{
	struct keyboard k;

	keyboard_new(&k);
	kbd_command(&k, 0xd0);
	assert_int_equal(kbd_answer(&k), 3);
	kbd_command(&k, 0xd1);
	kbd_data(&k, 0x01);
	assert_int_equal(i8042_port92_ops.read(k.c, 0, 1), 0);
	i8042_port92_ops.write(k.c, 0, 1, 2);
	kbd_command(&k, 0xd0);
	assert_int_equal(kbd_answer(&k), 3);
	assert_int_equal(k.reset.rises, 0);
	i8042_port92_ops.write(k.c, 0, 1, 3);
	assert_int_equal(k.reset.rises, 1);
	for (unsigned v = 0; v < 256; v++) { /* its queue has an end */
		kbd_command(&k, v);
		kbd_data(&k, v);
	}
	i8042_free(k.c);
}

/* --- ACPI --- */

static void acpi_power_button_and_off(void **state)
{
	struct test_wire sci = {0}, off = {0};
	struct irq_wire sci_wire = wire_to(&sci), off_wire = wire_to(&off);
	struct acpi_pm *pm;

	assert_int_equal(acpi_pm_new(&pm, &sci_wire, &off_wire), 0);
	assert_int_equal(acpi_pm_ops.read(pm, ACPI_PM1_CONTROL, 2) & 1, 1);
	acpi_pm_press_power_button(pm);
	assert_int_equal(sci.level, 0);
	acpi_pm_ops.write(pm, ACPI_PM1_EVENT + 2, 2, 0x100);
	assert_int_equal(sci.level, 1);
	assert_int_equal(acpi_pm_ops.read(pm, ACPI_PM1_EVENT, 2) & 0xffff, 0x100);
	acpi_pm_ops.write(pm, ACPI_PM1_EVENT, 2, 0x100);
	assert_int_equal(sci.level, 0);
	acpi_pm_ops.write(pm, ACPI_PM1_CONTROL, 2, ACPI_S5_TYPE << 10);
	assert_int_equal(off.rises, 0);
	acpi_pm_ops.write(pm, ACPI_PM1_CONTROL, 2, 1 << 10 | 1 << 13);
	assert_int_equal(off.rises, 0);
	acpi_pm_ops.write(pm, ACPI_PM1_CONTROL, 2, ACPI_S5_TYPE << 10 | 1 << 13);
	assert_int_equal(off.rises, 1);
	acpi_pm_free(pm);
}

static void acpi_timer_runs(void **state)
{
	struct test_wire none = {0};
	struct irq_wire wire = wire_to(&none);
	struct acpi_pm *pm;
	uint32_t first, later;

	acpi_pm_new(&pm, &wire, &wire);
	first = acpi_pm_ops.read(pm, ACPI_PM_TIMER, 4);
	nanosleep(&(struct timespec){0, 2000000}, NULL);
	later = acpi_pm_ops.read(pm, ACPI_PM_TIMER, 4);
	assert_true(later - first >= 2 * 3579);
	acpi_pm_free(pm);
}

/* --- fw_cfg --- */

static uint8_t ram[4 * PAGE_SIZE] __attribute__((aligned(4096)));
static uint64_t last_written;

static void note_written(void *opaque, gpa_t gpa, uint64_t len)
{
	last_written = gpa;
}

static struct fw_cfg *fw_cfg_make(struct memory *mem)
{
	struct mem_slot slot = {.size = sizeof(ram), .hva = ram, .fd = -1};
	struct dma dma = {mem, note_written, NULL};
	struct fw_cfg *fw;

	memset(ram, 0xee, sizeof(ram));
	memory_init(mem);
	assert_int_equal(memory_set_slot(mem, &slot), 0);
	assert_int_equal(fw_cfg_new(&fw, &dma), 0);
	assert_int_equal(fw_cfg_add_file(fw, "opt/test", "hello", 5), 0);
	return fw;
}

static void fw_cfg_by_port(void **state)
{
	struct memory mem;
	struct fw_cfg *fw = fw_cfg_make(&mem);
	char text[6] = "";

	fw_cfg_ops.write(fw, 0, 2, 0);
	for (unsigned k = 0; k < 5; k++)
		text[k] = fw_cfg_ops.read(fw, 1, 1);
	assert_memory_equal(text, "QEMU", 5); /* and a zero beyond the end */
	fw_cfg_ops.write(fw, 0, 2, 0x20);
	for (unsigned k = 0; k < 5; k++)
		text[k] = fw_cfg_ops.read(fw, 1, 1);
	assert_string_equal(text, "hello");
	fw_cfg_ops.write(fw, 0, 2, 0xffff);
	assert_int_equal(fw_cfg_ops.read(fw, 1, 1), 0);
	assert_int_equal(fw_cfg_ops.read(fw, 4, 4), 0x554d4551); /* "QEMU CFG" */
	assert_int_equal(fw_cfg_add_file(fw, "a-name-that-is-much-longer-than-the-fifty-five-bytes-there-are", "", 0), -EINVAL);
	fw_cfg_free(fw);
	memory_deinit(&mem);
}

static void fw_cfg_dma(struct fw_cfg *fw, uint32_t control, uint32_t len, uint64_t to)
{
	put_be32(ram, control);
	put_be32(ram + 4, len);
	put_le64(ram + 8, __builtin_bswap64(to));
	fw_cfg_ops.write(fw, 4, 4, 0);
	fw_cfg_ops.write(fw, 8, 4, 0); /* the block is at 0 */
}

static void fw_cfg_by_dma(void **state)
{
	struct memory mem;
	struct fw_cfg *fw = fw_cfg_make(&mem);

	fw_cfg_dma(fw, 0x20u << 16 | 8 | 2, 8, 0x1000);
	assert_int_equal(get_be32(ram), 0);
	assert_memory_equal(ram + 0x1000, "hello\0\0\0\xee", 9);
	fw_cfg_dma(fw, 0x19u << 16 | 8 | 2, 68, 0x2000);
	assert_int_equal(get_be32(ram + 0x2000), 1);
	assert_string_equal((char *)ram + 0x2000 + 12, "opt/test");
	fw_cfg_dma(fw, 0x20u << 16 | 8 | 4, 3, 0); /* select and skip */
	fw_cfg_dma(fw, 2, 2, 0x1000);
	assert_memory_equal(ram + 0x1000, "lol", 3);
	fw_cfg_dma(fw, 0x20u << 16 | 8 | 2, UINT32_MAX, 0x1000); /* far beyond memory */
	assert_int_equal(get_be32(ram), 1);
	fw_cfg_dma(fw, 0x20u << 16 | 8 | 16, 5, 0x1000); /* read-only */
	assert_int_equal(get_be32(ram), 1);
	fw_cfg_ops.write(fw, 4, 4, UINT32_MAX); /* a block that is not memory */
	fw_cfg_ops.write(fw, 8, 4, UINT32_MAX);
	assert_int_equal(last_written, 0);
	fw_cfg_free(fw);
	memory_deinit(&mem);
}

/* --- exit and panic ports --- */

static void remember(void *opaque, uint32_t value)
{
	*(uint32_t *)opaque = value;
}

static void signal_ports_tell(void **state)
{
	uint32_t told = 0;
	struct signal_port port = {remember, &told};

	debug_exit_ops.write(&port, 0, 4, 0x31);
	assert_int_equal(told, 0x31);
	assert_int_equal(pvpanic_ops.read(&port, 0, 1), 3);
	pvpanic_ops.write(&port, 0, 1, 0xff);
	assert_int_equal(told, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rtc_tells_utc),	  cmocka_unit_test(rtc_can_be_set),
		cmocka_unit_test(rtc_periodic_interrupt), cmocka_unit_test(rtc_says_memory_sizes),
		cmocka_unit_test(i8042_tests_and_resets), cmocka_unit_test(i8042_gate_a20),
		cmocka_unit_test(acpi_power_button_and_off), cmocka_unit_test(acpi_timer_runs),
		cmocka_unit_test(fw_cfg_by_port),	  cmocka_unit_test(fw_cfg_by_dma),
		cmocka_unit_test(signal_ports_tell),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
