// SPDX-License-Identifier: BSD-2-Clause
/*
 * Host faults in translated code: #DE of a division, #XM and #MF of floating point, the alignment #GP of SSE, an access
 * through a non-canonical HVA. Each block lists the host instructions where they can come from. The signal handler
 * finds the entry and has the thread continue at the fault trampoline as if the code had jumped there; the
 * interpreter then executes the guest instruction and raises what is due, exactly.
 */
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/fault.h"
#include "softkvm/translate/translate.h"

static __thread struct vcpu *running; /* whose translated code this thread executes */

void fault_note(struct xlat *x, const uint8_t *start)
{
	struct fault_entry *f;
	struct site *s;

	if (x->faults == TRANSLATE_MAX_INSNS) {
		x->overflow = true;
		return;
	}
	s = site_new(x);
	f = &x->fault[x->faults++];
	f->start = (uint32_t)(start - x->t->cache.rw);
	f->size = (uint8_t)(x->hot.p - start);
	f->flags_in_host = x->flags_in_host;
	f->site = arena_offset(x->t, s);
}

void fault_thread(struct vcpu *v)
{
	running = v;
}

struct vcpu *fault_thread_vcpu(void)
{
	return running;
}

static const struct fault_entry *find_entry(struct translator *t, uint32_t at)
{
	const struct block *b = block_by_code(t, at);
	const struct fault_entry *f = b ? arena_at(t, b->faults) : NULL;

	for (uint32_t k = 0; b && k < b->fault_count; k++)
		if (at - f[k].start < f[k].size)
			return &f[k];
	return NULL;
}

static uint64_t site_rip(const struct translator *t, const struct site *s)
{
	const struct code_view *w = ((const struct block *)arena_at(t, s->block))->view;

	return view_rip(w, w->va + s->at);
}

uint64_t fault_guest_ip(struct vcpu *v, uint64_t host_ip)
{
	struct translator *t = translator_of(v);
	const struct fault_entry *f;

	if (!codecache_holds(&t->cache, (void *)host_ip))
		return 0;
	f = find_entry(t, (uint32_t)((uint8_t *)host_ip - t->cache.rx));
	return f ? site_rip(t, arena_at(t, f->site)) : 0;
}

bool fault_redirect(uint64_t *rip, uint64_t *rcx, uint64_t flags)
{
	const struct fault_entry *f;
	struct translator *t;

	if (!running)
		return false;
	t = translator_of(running);
	if (!codecache_holds(&t->cache, (void *)*rip))
		return false;
	f = find_entry(t, (uint32_t)((uint8_t *)*rip - t->cache.rx));
	if (!f)
		return false;
	if (f->flags_in_host)
		running->engine_hot[HOT_SAVED_FLAGS] = (flags & 0xff) << 8 | !!(flags & FLAG_OF);
	*rcx = f->site;
	*rip = (uintptr_t)t->tramp[TRAMP_FAULT];
	return true;
}
