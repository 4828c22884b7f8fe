// SPDX-License-Identifier: BSD-2-Clause
/*
 * What the translator did, in a few lines: sizes, misses of each kind, and the instructions that the interpreter had to
 * execute for it.
 */
#include <inttypes.h>

#include "base/log.h"
#include "softkvm/translate/translate.h"

static const char *sem_mnemonic(unsigned sem)
{
	for (unsigned k = 0; k < insn_row_count; k++)
		if (insn_rows[k].sem == sem)
			return insn_rows[k].mnemonic;
	return "?";
}

static unsigned most_frequent(const struct handler_counts *c, uint64_t below)
{
	unsigned best = SEM_COUNT;

	for (unsigned k = 0; k < SEM_COUNT; k++)
		if (c->interpreted[k] < below && (best == SEM_COUNT || c->interpreted[k] > c->interpreted[best]))
			best = k;
	return best;
}

void stats_add(struct translator *t, const struct handler_counts *c)
{
	struct handler_counts *sum = &t->counts;

	for (unsigned k = 0; k < SEM_COUNT; k++)
		sum->interpreted[k] += c->interpreted[k];
	sum->misses += c->misses;
	sum->slow_accesses += c->slow_accesses;
	sum->indirect_misses += c->indirect_misses;
	sum->entry_misses += c->entry_misses;
	sum->host_faults += c->host_faults;
}

void stats_log(const struct translator *t)
{
	const struct handler_counts *c = &t->counts;
	uint64_t below = UINT64_MAX, cold = 0, described = 0;

	for (unsigned k = 0; k < REGIONS; k++) {
		cold += t->region[k].space.cold - t->region[k].space.cold_start;
		described += t->region[k].used - t->region[k].start;
	}
	log_debug("translate: %" PRIu64 " blocks, %" PRIu64 " of them copies; the others of %" PRIu64 " instructions in %" PRIu64 " bytes; %" PRIu64
		  " invalidated, %" PRIu64 " regions emptied; cold code %" PRIu64 ", descriptions %" PRIu64 " bytes", t->blocks, t->copies, t->guest_insns,
		  t->host_bytes, t->invalidated, t->flushes, cold, described);
	log_debug("translate: misses: %" PRIu64 " TLB (%" PRIu64 " slow), %" PRIu64 " jump cache, %" PRIu64 " page check; %"
		  PRIu64 " links, %" PRIu64 " host faults", c->misses, c->slow_accesses, c->indirect_misses,
		  c->entry_misses, t->links, c->host_faults);
	for (unsigned n = 0; n < 16; n++) {
		unsigned k = most_frequent(c, below);

		if (k == SEM_COUNT || !c->interpreted[k])
			break;
		log_debug("translate: interpreted %12" PRIu64 " %s", c->interpreted[k], sem_mnemonic(k));
		below = c->interpreted[k];
	}
}
