/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The 8254 interval timer (Intel 8254 data sheet) at ports 40h-43h, and the speaker port 61h that gates channel 2.
 *
 * Counters are not decremented: a channel keeps when its count was loaded, and what it would show or put out is worked out
 * from the time that has passed. Channel 0's output drives GSI 0; the timer thread calls pit_poll() when it
 * is due.
 *
 * Ticks of channel 0 that the guest has no time for are not lost while `reinject` is set (KVM_REINJECT_CONTROL): they
 * wait until the tick before has been acknowledged.
 *
 * All but the alarm is under irqchip.lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "softkvm/irqchip/chip.h"
#include "softkvm/irqchip/timer.h"
#include "softkvm/irqchip/tsc.h"

enum { PIT_HZ = 1193182, NS_PER_S = 1000000000, MIN_PERIOD_NS = 50000, MAX_CATCH_UP = 1000 };
enum { RW_LATCH, RW_LSB, RW_MSB, RW_WORD, RW_WORD_HIGH };
enum { PORT_CHANNEL0 = 0x40, PORT_CONTROL = 0x43, PORT_SPEAKER = 0x61 };

struct pit {
	struct kvm_pit_channel_state channel[3];
	bool speaker_data, has_speaker_port, hpet_legacy;
	bool reinject;
	bool acked;		 /* the last tick has been */
	uint64_t pending;	 /* ticks not injected yet, or not acknowledged */
	uint64_t period_ns;	 /* channel 0 periodic; 0: one-shot */
	_Atomic uint64_t alarm_ns;
	struct ack_notifier notifier;
};

static struct pit *pit_of(struct vm *vm)
{
	return atomic_load(&vm->irqchip->pit);
}

/* --- a channel, by its load time --- */

static uint64_t ticks(const struct kvm_pit_channel_state *c)
{
	return muldiv64(monotonic_ns() - (uint64_t)c->count_load_time, PIT_HZ, NS_PER_S);
}

static uint32_t count_of(const struct kvm_pit_channel_state *c)
{
	return c->count ? c->count : 0x10000;
}

static uint16_t current_count(const struct kvm_pit_channel_state *c)
{
	uint64_t passed = ticks(c);
	uint32_t count = count_of(c);

	switch (c->mode) {
	case 2:
		return (uint16_t)(count - passed % count);
	case 3: /* by two, so that the output is a square wave */
		return (uint16_t)(count - 2 * passed % count);
	default:
		return (uint16_t)(count - passed);
	}
}

static bool output(const struct kvm_pit_channel_state *c)
{
	uint64_t passed = ticks(c);
	uint32_t count = count_of(c);

	switch (c->mode) {
	case 0:
		return passed >= count;
	case 1:
		return passed < count ? false : true;
	case 2:
		return passed % count != count - 1;
	case 3:
		return passed % count < (count + 1) / 2;
	default:
		return passed != count;
	}
}

static void set_gate(struct kvm_pit_channel_state *c, bool gate)
{
	bool is_rising = gate && !c->gate;

	if (is_rising && c->mode != 0 && c->mode != 4) /* modes 1, 2, 3, 5 begin anew */
		c->count_load_time = (int64_t)monotonic_ns();
	c->gate = gate;
}

/* --- channel 0's interrupt --- */

static void set_alarm(struct vm *vm, uint64_t ns)
{
	struct pit *p = pit_of(vm);

	atomic_store(&p->alarm_ns, ns);
	if (ns != UINT64_MAX)
		timers_alarm(vm, ns);
}

static void start_channel0(struct vm *vm)
{
	struct pit *p = pit_of(vm);
	const struct kvm_pit_channel_state *c = &p->channel[0];
	uint64_t ns = muldiv64(count_of(c), NS_PER_S, PIT_HZ);

	p->pending = 0;
	p->acked = true;
	p->period_ns = 0;
	switch (c->mode) {
	case 0:
	case 1:
	case 4:
		set_alarm(vm, (uint64_t)c->count_load_time + ns);
		break;
	case 2:
	case 3:
		p->period_ns = ns < MIN_PERIOD_NS ? MIN_PERIOD_NS : ns;
		set_alarm(vm, (uint64_t)c->count_load_time + p->period_ns);
		break;
	default:
		set_alarm(vm, UINT64_MAX);
	}
}

static void inject(struct vm *vm)
{
	struct pit *p = pit_of(vm);

	if (p->hpet_legacy || (p->reinject && !p->acked))
		return;
	p->acked = false;
	line_set_locked(vm, IRQ_SOURCE_PIT, 0, 1);
	line_set_locked(vm, IRQ_SOURCE_PIT, 0, 0);
}

static void tick_acked(struct vm *vm, struct ack_notifier *self)
{
	struct pit *p = pit_of(vm);

	p->acked = true;
	if (p->pending)
		p->pending--;
	if (p->pending && p->reinject)
		inject(vm);
}

void pit_unmasked(struct vm *vm)
{
	struct pit *p = pit_of(vm);

	p->pending = 0;
	p->acked = true;
}

static void expire(struct vm *vm, uint64_t now)
{
	struct pit *p = pit_of(vm);
	uint64_t alarm = atomic_load(&p->alarm_ns), n = 1;

	if (p->period_ns) {
		n += (now - alarm) / p->period_ns;
		set_alarm(vm, alarm + n * p->period_ns);
	} else {
		set_alarm(vm, UINT64_MAX);
	}
	if (p->reinject)
		p->pending += n < MAX_CATCH_UP ? n : MAX_CATCH_UP;
	else
		p->pending = 1;
	inject(vm);
}

uint64_t pit_alarm_ns(struct vm *vm)
{
	struct pit *p = pit_of(vm);

	return p ? atomic_load(&p->alarm_ns) : UINT64_MAX;
}

void pit_poll(struct vm *vm)
{
	uint64_t now;

	if (pit_alarm_ns(vm) == UINT64_MAX)
		return;
	now = monotonic_ns();
	pthread_mutex_lock(&vm->irqchip->lock);
	if (pit_alarm_ns(vm) <= now)
		expire(vm, now);
	pthread_mutex_unlock(&vm->irqchip->lock);
}

/* --- registers --- */

static void load_count(struct vm *vm, unsigned n, uint16_t count)
{
	struct kvm_pit_channel_state *c = &pit_of(vm)->channel[n];

	c->count = count ? count : 0x10000;
	c->count_load_time = (int64_t)monotonic_ns();
	if (n == 0)
		start_channel0(vm);
}

static void latch_count(struct kvm_pit_channel_state *c)
{
	if (c->count_latched)
		return;
	c->latched_count = current_count(c);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct kvm_pit_channel_state *c)
{
	if (c->status_latched)
		return;
	c->status = (uint8_t)(output(c) << 7 | c->rw_mode << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void read_back(struct pit *p, uint8_t command)
{
	for (unsigned n = 0; n < 3; n++) {
		if (!(command & 2 << n))
			continue;
		if (!(command & 0x20))
			latch_count(&p->channel[n]);
		if (!(command & 0x10))
			latch_status(&p->channel[n]);
	}
}

static void write_control(struct vm *vm, uint8_t value)
{
	struct pit *p = pit_of(vm);
	unsigned n = value >> 6, access = value >> 4 & 3;
	struct kvm_pit_channel_state *c;

	if (n == 3) {
		read_back(p, value);
		return;
	}
	c = &p->channel[n];
	if (access == RW_LATCH) {
		latch_count(c);
		return;
	}
	c->rw_mode = c->read_state = c->write_state = (uint8_t)access;
	c->count_latched = c->status_latched = 0;
	c->mode = value >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4; /* 6 and 7 are 2 and 3 */
	c->bcd = value & 1;
	if (n == 0)
		set_alarm(vm, UINT64_MAX); /* counts when it has a count */
}

static void write_channel(struct vm *vm, unsigned n, uint8_t value)
{
	struct kvm_pit_channel_state *c = &pit_of(vm)->channel[n];

	switch (c->write_state) {
	case RW_LSB:
		load_count(vm, n, value);
		break;
	case RW_MSB:
		load_count(vm, n, (uint16_t)(value << 8));
		break;
	case RW_WORD:
		c->write_latch = value;
		c->write_state = RW_WORD_HIGH;
		break;
	case RW_WORD_HIGH:
		load_count(vm, n, (uint16_t)(c->write_latch | value << 8));
		c->write_state = RW_WORD;
		break;
	}
}

static uint8_t read_latched(struct kvm_pit_channel_state *c)
{
	uint8_t state = c->count_latched;

	switch (state) {
	case RW_MSB:
	case RW_WORD_HIGH:
		c->count_latched = 0;
		return (uint8_t)(c->latched_count >> 8);
	case RW_WORD:
		c->count_latched = RW_WORD_HIGH;
		break;
	default:
		c->count_latched = 0;
	}
	return (uint8_t)c->latched_count;
}

static uint8_t read_channel(struct kvm_pit_channel_state *c)
{
	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		return read_latched(c);
	switch (c->read_state) {
	case RW_MSB:
		return (uint8_t)(current_count(c) >> 8);
	case RW_WORD:
		c->read_state = RW_WORD_HIGH;
		return (uint8_t)current_count(c);
	case RW_WORD_HIGH:
		c->read_state = RW_WORD;
		return (uint8_t)(current_count(c) >> 8);
	default:
		return (uint8_t)current_count(c);
	}
}

/* Bit 0 gate of channel 2, 1 speaker, 4 toggles with every memory refresh (15 us), 5 output of channel 2. */
static uint8_t read_speaker(const struct pit *p)
{
	uint8_t refresh = monotonic_ns() >> 14 & 1;

	return (uint8_t)(p->channel[2].gate | p->speaker_data << 1 | refresh << 4 | output(&p->channel[2]) << 5);
}

bool pit_pio(struct vm *vm, uint16_t port, uint8_t *value, bool is_write)
{
	struct pit *p = pit_of(vm);

	if (!p)
		return false;
	if (port == PORT_SPEAKER && p->has_speaker_port) {
		if (is_write) {
			p->speaker_data = *value >> 1 & 1;
			set_gate(&p->channel[2], *value & 1);
		} else {
			*value = read_speaker(p);
		}
		return true;
	}
	if (port < PORT_CHANNEL0 || port > PORT_CONTROL)
		return false;
	if (port == PORT_CONTROL && is_write)
		write_control(vm, *value);
	else if (port == PORT_CONTROL)
		*value = 0;
	else if (is_write)
		write_channel(vm, port - PORT_CHANNEL0, *value);
	else
		*value = read_channel(&p->channel[port - PORT_CHANNEL0]);
	return true;
}

/* --- life, KVM_GET_PIT2, KVM_SET_PIT2, KVM_REINJECT_CONTROL --- */

bool pit_exists(const struct vm *vm)
{
	return vm->irqchip && vm->irqchip->pit;
}

int pit_new(struct vm *vm, uint32_t flags)
{
	struct pit *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	for (unsigned n = 0; n < 3; n++) {
		p->channel[n].mode = 0xff; /* undefined until programmed */
		p->channel[n].gate = n != 2;
		p->channel[n].count = 0x10000;
		p->channel[n].count_load_time = (int64_t)monotonic_ns();
	}
	p->has_speaker_port = flags & KVM_PIT_SPEAKER_DUMMY;
	p->reinject = p->acked = true;
	p->alarm_ns = UINT64_MAX;
	p->notifier = (struct ack_notifier){.gsi = 0, .acked = tick_acked};
	atomic_store(&vm->irqchip->pit, p);
	ack_notifier_add(vm, &p->notifier);
	return 0;
}

void pit_free(struct vm *vm)
{
	free(pit_of(vm));
	atomic_store(&vm->irqchip->pit, NULL);
}

void pit_get_state(struct vm *vm, struct kvm_pit_state2 *state)
{
	struct pit *p = pit_of(vm);

	*state = (struct kvm_pit_state2){0};
	pthread_mutex_lock(&vm->irqchip->lock);
	for (unsigned n = 0; n < 3; n++)
		state->channels[n] = p->channel[n];
	state->flags = (p->hpet_legacy ? KVM_PIT_FLAGS_HPET_LEGACY : 0) |
		       (p->speaker_data ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	pthread_mutex_unlock(&vm->irqchip->lock);
}

int pit_set_state(struct vm *vm, const struct kvm_pit_state2 *state)
{
	struct pit *p = pit_of(vm);

	for (unsigned n = 0; n < 3; n++)
		if (state->channels[n].count > 0x10000)
			return -EINVAL;
	pthread_mutex_lock(&vm->irqchip->lock);
	for (unsigned n = 0; n < 3; n++) {
		p->channel[n] = state->channels[n];
		p->channel[n].gate = !!p->channel[n].gate;
		p->channel[n].bcd = !!p->channel[n].bcd;
		p->channel[n].rw_mode &= 3;
	}
	p->hpet_legacy = state->flags & KVM_PIT_FLAGS_HPET_LEGACY;
	p->speaker_data = state->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	p->channel[0].count_load_time = (int64_t)monotonic_ns(); /* the count begins anew, as in the kernel */
	start_channel0(vm);
	pthread_mutex_unlock(&vm->irqchip->lock);
	return 0;
}

void pit_set_reinject(struct vm *vm, bool reinject)
{
	struct pit *p = pit_of(vm);

	pthread_mutex_lock(&vm->irqchip->lock);
	p->reinject = reinject;
	p->acked = true;
	p->pending = 0;
	pthread_mutex_unlock(&vm->irqchip->lock);
}
