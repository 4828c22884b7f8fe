/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The MC146818A: fourteen clock registers and 114 bytes of CMOS.
 *
 * The clock is the host's (CLOCK_REALTIME, UTC) plus an offset that the guest changes by setting the time; nothing ticks.
 * A read computes the field wanted. While register B's SET bit holds the clock still, reads come from the bytes
 * themselves, and clearing SET turns those bytes into the new offset.
 *
 * Register A's update-in-progress bit shows for the last 244 us of every second, as the data sheet's figure
 * promises to software that polls it. Three interrupts share one line and register C: alarm and update-ended are
 * looked at once a second by a timer that runs only while someone could notice; the periodic one has its own timer.
 * Reading C clears its flags and lowers the line.
 */
#include "devices/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SECONDS = 0, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR,
       REG_A, REG_B, REG_C, REG_D, CENTURY = 0x32 };
enum { A_UIP = 0x80, A_RATE = 0xf, B_24H = 2, B_BINARY = 4, B_UPDATE = 0x10, B_ALARM = 0x20, B_PERIODIC = 0x40,
       B_SET = 0x80, C_UPDATE = 0x10, C_ALARM = 0x20, C_PERIODIC = 0x40, C_IRQ = 0x80, D_VALID = 0x80,
       HOUR_PM = 0x80, ALARM_ANY = 0xc0 };

#define SECOND_NS 1000000000ll
enum { UIP_NS = 244000 };

struct rtc {
	struct irq_wire irq;
	struct loop_source *second_timer, *periodic_timer;
	pthread_mutex_t lock; /* protects all below */
	int64_t offset_ns;    /* guest's clock - host's */
	uint8_t index;
	uint8_t cmos[128];
};

static int64_t guest_time_ns(const struct rtc *r)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * SECOND_NS + t.tv_nsec + r->offset_ns;
}

static uint8_t encode(const struct rtc *r, unsigned n)
{
	return r->cmos[REG_B] & B_BINARY ? n : (n / 10 << 4 | n % 10);
}

static unsigned decode(const struct rtc *r, uint8_t v)
{
	return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const struct rtc *r, unsigned hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *r, uint8_t v)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Put the present time into the clock's bytes. */
static void latch_time(struct rtc *r)
{
	time_t seconds = guest_time_ns(r) / SECOND_NS;
	struct tm tm;

	gmtime_r(&seconds, &tm);
	r->cmos[SECONDS] = encode(r, tm.tm_sec);
	r->cmos[MINUTES] = encode(r, tm.tm_min);
	r->cmos[HOURS] = encode_hour(r, tm.tm_hour);
	r->cmos[WEEKDAY] = encode(r, tm.tm_wday + 1);
	r->cmos[DAY] = encode(r, tm.tm_mday);
	r->cmos[MONTH] = encode(r, tm.tm_mon + 1);
	r->cmos[YEAR] = encode(r, tm.tm_year % 100);
	r->cmos[CENTURY] = encode(r, 19 + tm.tm_year / 100);
}

/* A year that 64 bits of nanoseconds can hold, whatever the guest wrote. */
static int sane_year(int tm_year)
{
	return tm_year < 70 ? 70 : tm_year > 300 ? 300 : tm_year;
}

/* Make the clock's bytes the present time. */
static void adopt_time(struct rtc *r)
{
	struct tm tm = {
		.tm_sec = decode(r, r->cmos[SECONDS]),
		.tm_min = decode(r, r->cmos[MINUTES]),
		.tm_hour = decode_hour(r, r->cmos[HOURS]),
		.tm_mday = decode(r, r->cmos[DAY]),
		.tm_mon = (int)decode(r, r->cmos[MONTH]) - 1,
		.tm_year = sane_year(((int)decode(r, r->cmos[CENTURY]) - 19) * 100 + (int)decode(r, r->cmos[YEAR])),
	};

	r->offset_ns += (int64_t)timegm(&tm) * SECOND_NS - guest_time_ns(r);
}

static void raise_flags(struct rtc *r, uint8_t flags)
{
	r->cmos[REG_C] |= flags;
	if (r->cmos[REG_C] & r->cmos[REG_B] & (C_UPDATE | C_ALARM | C_PERIODIC)) {
		r->cmos[REG_C] |= C_IRQ;
		irq_set(&r->irq, 1);
	}
}

static bool matches(uint8_t alarm, uint8_t now)
{
	return alarm >= ALARM_ANY || alarm == now;
}

/* Have the timers run exactly when an interrupt is enabled that needs them. */
static void set_timers(struct rtc *r)
{
	uint8_t b = r->cmos[REG_B], rate = r->cmos[REG_A] & A_RATE;
	uint64_t period = 0, to_second = SECOND_NS - guest_time_ns(r) % SECOND_NS;

	if (b & (B_UPDATE | B_ALARM) && !(b & B_SET))
		loop_set_timer(r->second_timer, now_ns() + to_second, SECOND_NS);
	else
		loop_set_timer(r->second_timer, UINT64_MAX, 0);
	if (b & B_PERIODIC && rate)
		period = (SECOND_NS << (rate < 3 ? rate + 6 : rate - 1)) / 32768;
	loop_set_timer(r->periodic_timer, period ? now_ns() + period : UINT64_MAX, period);
}

static void second_over(void *opaque, uint32_t events)
{
	struct rtc *r = opaque;
	uint8_t flags = C_UPDATE;

	pthread_mutex_lock(&r->lock);
	latch_time(r);
	if (matches(r->cmos[SECONDS_ALARM], r->cmos[SECONDS]) && matches(r->cmos[MINUTES_ALARM], r->cmos[MINUTES]) &&
	    matches(r->cmos[HOURS_ALARM], r->cmos[HOURS]))
		flags |= C_ALARM;
	raise_flags(r, flags);
	pthread_mutex_unlock(&r->lock);
}

static void period_over(void *opaque, uint32_t events)
{
	struct rtc *r = opaque;

	pthread_mutex_lock(&r->lock);
	raise_flags(r, C_PERIODIC);
	pthread_mutex_unlock(&r->lock);
}

static bool is_clock(unsigned index)
{
	return index == SECONDS || index == MINUTES || index == HOURS || (index >= WEEKDAY && index <= YEAR) ||
	       index == CENTURY;
}

static uint8_t read_cmos(struct rtc *r, unsigned index)
{
	uint8_t value;

	if (is_clock(index) && !(r->cmos[REG_B] & B_SET))
		latch_time(r);
	value = r->cmos[index];
	if (index == REG_A && !(r->cmos[REG_B] & B_SET) && guest_time_ns(r) % SECOND_NS >= SECOND_NS - UIP_NS)
		value |= A_UIP;
	if (index == REG_C) {
		r->cmos[REG_C] = 0;
		irq_set(&r->irq, 0);
	}
	return value;
}

static void write_b(struct rtc *r, uint8_t value)
{
	uint8_t old = r->cmos[REG_B];

	if (value & B_SET) {
		if (!(old & B_SET))
			latch_time(r);
		value &= ~B_UPDATE; /* "SET clears UIE" */
	}
	r->cmos[REG_B] = value;
	if (old & ~value & B_SET)
		adopt_time(r);
	set_timers(r);
	raise_flags(r, 0);
}

static void write_cmos(struct rtc *r, unsigned index, uint8_t value)
{
	switch (index) {
	case REG_A:
		r->cmos[REG_A] = value & ~A_UIP;
		set_timers(r);
		break;
	case REG_B:
		write_b(r, value);
		break;
	case REG_C:
	case REG_D:
		break; /* read-only */
	default:
		if (is_clock(index) && !(r->cmos[REG_B] & B_SET)) {
			latch_time(r);
			r->cmos[index] = value;
			adopt_time(r);
		} else {
			r->cmos[index] = value;
		}
	}
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
	struct rtc *r = opaque;
	uint8_t value = 0xff; /* the index port is write-only */

	pthread_mutex_lock(&r->lock);
	if (offset & 1)
		value = read_cmos(r, r->index);
	pthread_mutex_unlock(&r->lock);
	return value;
}

static void rtc_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct rtc *r = opaque;

	pthread_mutex_lock(&r->lock);
	if (offset & 1)
		write_cmos(r, r->index, value);
	else
		r->index = value & 0x7f; /* bit 7 gates NMI on the board: no NMI source here */
	pthread_mutex_unlock(&r->lock);
}

const struct bus_ops rtc_ops = {rtc_read, rtc_write};

static void put_size(struct rtc *r, unsigned index, uint64_t size)
{
	r->cmos[index] = size;
	r->cmos[index + 1] = size >> 8;
}

static uint64_t at_most(uint64_t v, uint64_t max)
{
	return v < max ? v : max;
}

void rtc_set_memory(struct rtc *r, uint64_t low_size, uint64_t high_size)
{
	uint64_t above_1m = low_size > 1 << 20 ? (low_size - (1 << 20)) >> 10 : 0;
	uint64_t above_16m = low_size > 16 << 20 ? (low_size - (16 << 20)) >> 16 : 0;

	put_size(r, 0x15, 640); /* KiB of base memory */
	put_size(r, 0x17, at_most(above_1m, 65535));
	put_size(r, 0x30, at_most(above_1m, 65535));
	put_size(r, 0x34, at_most(above_16m, 65535)); /* 64 KiB units */
	put_size(r, 0x5b, high_size >> 16);
	r->cmos[0x5d] = high_size >> 32;
}

int rtc_new(struct rtc **rtc, struct loop *loop, const struct irq_wire *irq)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->irq = *irq;
	r->cmos[REG_A] = 0x26; /* 32 kHz divider, 1024 Hz */
	r->cmos[REG_B] = B_24H;
	r->cmos[REG_D] = D_VALID;
	pthread_mutex_init(&r->lock, NULL);
	err = loop_add_timer(loop, second_over, r, &r->second_timer);
	if (!err)
		err = loop_add_timer(loop, period_over, r, &r->periodic_timer);
	if (err) {
		rtc_free(r);
		return err;
	}
	*rtc = r;
	return 0;
}

void rtc_free(struct rtc *r)
{
	if (!r)
		return;
	loop_del(r->second_timer);
	loop_del(r->periodic_timer);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
