/* SPDX-License-Identifier: BSD-2-Clause */
/* The PC's clock and CMOS memory: MC146818A (Motorola data sheet), ports 70h and 71h, interrupt 8. */
#ifndef GUISE_DEVICES_RTC_H
#define GUISE_DEVICES_RTC_H

#include "base/loop.h"
#include "bus/bus.h"

struct rtc;

int rtc_new(struct rtc **rtc, struct loop *loop, const struct irq_wire *irq);
void rtc_free(struct rtc *rtc);
extern const struct bus_ops rtc_ops; /* two ports; opaque is the struct rtc */

/* Memory sizes as firmware leaves them in CMOS: below 4 GiB from 0, and from 4 GiB up. */
void rtc_set_memory(struct rtc *rtc, uint64_t low_size, uint64_t high_size);

#endif
