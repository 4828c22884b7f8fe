/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside irqchip/ (and for api/irqfd.c): the VM's interrupt controllers and how a GSI reaches them.
 *
 * A GSI's level goes by the routing table to a PIC pin, an I/O APIC pin or an MSI. The PICs tell the vCPU that accepts
 * ExtINT; the I/O APIC and MSIs send messages to local APICs. Local APICs take messages from any thread without
 * a lock (lapic.c), so everything before them can be under one lock:
 *
 *	irqchip.lock	PICs, I/O APIC, PIT, routing, notifiers; after vm->lock; nothing but pthread locks of no
 *			further order is taken under it. A vCPU thread takes it inside KVM_RUN.
 */
#ifndef GUISE_SOFTKVM_IRQCHIP_CHIP_H
#define GUISE_SOFTKVM_IRQCHIP_CHIP_H

#include <linux/kvm.h>
#include <pthread.h>

#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/state.h"

enum { PIC_PINS = 16, IOAPIC_PINS = KVM_IOAPIC_NUM_PINS };
#define IOAPIC_DEFAULT_BASE 0xfec00000ull

/* Who drives a line; a pin's level is the OR of its sources. */
enum irq_source { IRQ_SOURCE_USER, IRQ_SOURCE_IRQFD, IRQ_SOURCE_PIT };

struct ioapic {
	uint64_t base;
	uint32_t select, id;
	uint32_t irr;			   /* levels for level-triggered pins, pending edges otherwise */
	union kvm_ioapic_entry {
		uint64_t bits;
		struct {
			uint8_t vector;
			uint8_t delivery_mode : 3, dest_mode : 1, delivery_status : 1, polarity : 1,
				remote_irr : 1, trig_mode : 1;
			uint8_t mask : 1, reserve : 7;
			uint8_t reserved[4], dest_id;
		};
	} entry[IOAPIC_PINS];
	uint32_t sources[IOAPIC_PINS];	   /* levels, one bit per enum irq_source */
	uint32_t eoi_storm[IOAPIC_PINS];   /* EOIs in a row with the line still up */
	_Atomic uint64_t level_vectors[4]; /* vectors of level-triggered or notified pins: whose EOI we want to know */
};

struct pics {
	struct kvm_pic_state chip[2]; /* master, slave */
	uint32_t sources[PIC_PINS];
	_Atomic bool output;	      /* INTR towards the vCPU */
};

/* Called at the EOI of a GSI's pin, irqchip.lock held. */
struct ack_notifier {
	uint32_t gsi;
	void (*acked)(struct vm *vm, struct ack_notifier *self);
	struct ack_notifier *next;
};

struct irqchip {
	pthread_mutex_t lock;
	struct routing *routing;
	struct ack_notifier *notifiers;
	struct pics pics;	/* unused with the split irqchip, as is ioapic */
	struct ioapic ioapic;
	struct pit *_Atomic pit; /* NULL before KVM_CREATE_PIT2 */
};

/* --- routing.c; lock held unless said otherwise --- */
int routing_set_default(struct vm *vm);
void routing_free(struct vm *vm);
/* Drive a GSI: >0 delivered, 0 coalesced, -1 (or -errno) nobody there. */
int line_set_locked(struct vm *vm, enum irq_source source, uint32_t gsi, int level);
/* One interrupt on a GSI from an eventfd: an MSI, or the line up and down. Takes the lock itself. */
void line_pulse(struct vm *vm, uint32_t gsi);
void line_notify_ack(struct vm *vm, unsigned irqchip, unsigned pin);
/* A pin's mask was cleared: the PIT starts afresh, for nobody may ever acknowledge a tick from before. */
void line_notify_unmask(struct vm *vm, unsigned irqchip, unsigned pin);
bool line_has_notifier(struct vm *vm, unsigned irqchip, unsigned pin);
void ack_notifier_add(struct vm *vm, struct ack_notifier *n);	/* takes the lock */
void ack_notifier_del(struct vm *vm, struct ack_notifier *n);	/* takes the lock */
/* Split irqchip: is this vector's EOI the user's I/O APIC's business? Any thread. */
bool routing_wants_eoi(struct vm *vm, uint8_t vector);

/* --- pic.c; lock held --- */
void pic_reset_all(struct vm *vm);
int pic_set_pin(struct vm *vm, enum irq_source source, unsigned pin, int level);
int pic_ack(struct vm *vm); /* vector; a spurious IRQ 7 if nothing is left */
bool pic_pio(struct vm *vm, uint16_t port, uint8_t *value, bool is_write); /* false: no such port */
void pic_update(struct vm *vm);

/* --- ioapic.c; lock held --- */
void ioapic_reset(struct vm *vm);
int ioapic_set_pin(struct vm *vm, enum irq_source source, unsigned pin, int level);
void ioapic_mmio(struct vm *vm, uint64_t offset, uint32_t *value, bool is_write);
void ioapic_eoi(struct vm *vm, uint8_t vector);
void ioapic_get_state(struct vm *vm, struct kvm_ioapic_state *state);
void ioapic_set_state(struct vm *vm, const struct kvm_ioapic_state *state);
void ioapic_note_vectors(struct vm *vm);
/* Must the EOI of this vector be told to the I/O APIC? Any thread, no lock. */
bool ioapic_wants_eoi(struct vm *vm, uint8_t vector);

/* --- pit.c --- */
bool pit_pio(struct vm *vm, uint16_t port, uint8_t *value, bool is_write); /* lock held */
void pit_unmasked(struct vm *vm); /* lock held */
void pit_free(struct vm *vm);
uint64_t pit_alarm_ns(struct vm *vm); /* any thread: when pit_poll wants to be called */
void pit_poll(struct vm *vm);	      /* timer thread, no lock */

#endif
