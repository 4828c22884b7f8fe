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
	f->start = (uint16_t)(start - x->t->cache.rw - x->block->code_start);
	f->size = (uint8_t)(x->hot.p - start);
	f->flags_in_host = x->flags_in_host;
	f->site = s->thing;
}

void fault_thread(struct vcpu *v)
{
	running = v;
}

struct vcpu *fault_thread_vcpu(void)
{
	return running;
}

/* What is noted of a host address in translated code, and the site that it names; NULL: nothing. */
static const struct fault_entry *find_entry(struct translator *t, uint64_t host_ip, const struct site **site)
{
	uint32_t at = (uint32_t)(host_ip - (uintptr_t)t->cache.rx);
	const struct block *b = codecache_holds(&t->cache, (void *)host_ip) ? block_by_code(t, at) : NULL;
	const struct fault_entry *f = b ? block_thing(b, b->faults) : NULL;

	for (uint32_t k = 0; f && k < b->fault_count; k++, f++) {
		if (at - b->code_start - f->start < f->size) {
			*site = block_thing(b, f->site);
			return f;
		}
	}
	return NULL;
}

static uint64_t site_rip(const struct site *s)
{
	const struct code_view *w = site_block(s)->view;

	return view_rip(w, w->va + s->at);
}

uint64_t fault_guest_ip(struct vcpu *v, uint64_t host_ip)
{
	const struct site *site;

	return find_entry(translator_of(v), host_ip, &site) ? site_rip(site) : 0;
}

bool fault_redirect(uint64_t *rip, uint64_t *rcx, uint64_t flags)
{
	const struct fault_entry *f;
	const struct site *site;
	struct translator *t;

	if (!running)
		return false;
	t = translator_of(running);
	f = find_entry(t, *rip, &site);
	if (!f)
		return false;
	if (f->flags_in_host)
		running->engine_hot[HOT_SAVED_FLAGS] = (flags & 0xff) << 8 | !!(flags & FLAG_OF);
	*rcx = arena_offset(t, site);
	*rip = (uintptr_t)t->tramp[TRAMP_FAULT];
	return true;
}
