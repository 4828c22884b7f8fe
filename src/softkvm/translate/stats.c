// SPDX-License-Identifier: BSD-2-Clause
/*
 * What the translator did, in a few lines: sizes, misses of each kind, and the instructions that the interpreter had to
 * execute for it. The counters are plain: several vCPUs may lose a few counts.
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

static unsigned most_frequent(const struct translator *t, uint64_t below)
{
	unsigned best = SEM_COUNT;

	for (unsigned k = 0; k < SEM_COUNT; k++)
		if (t->interpreted[k] < below && (best == SEM_COUNT || t->interpreted[k] > t->interpreted[best]))
			best = k;
	return best;
}

void stats_log(const struct translator *t)
{
	uint64_t below = UINT64_MAX, cold = 0, described = 0;

	for (unsigned k = 0; k < REGIONS; k++) {
		cold += t->region[k].space.cold - t->region[k].space.cold_start;
		described += t->region[k].used - t->region[k].start;
	}
	log_debug("translate: %" PRIu64 " blocks, %" PRIu64 " of them copies; the others of %" PRIu64 " instructions in %" PRIu64 " bytes; %" PRIu64
		  " invalidated, %" PRIu64 " regions emptied; cold code %" PRIu64 ", descriptions %" PRIu64 " bytes", t->blocks, t->copies, t->guest_insns,
		  t->host_bytes, t->invalidated, t->flushes, cold, described);
	log_debug("translate: misses: %" PRIu64 " TLB (%" PRIu64 " slow), %" PRIu64 " jump cache, %" PRIu64 " page check; %"
		  PRIu64 " links, %" PRIu64 " host faults", t->misses, t->slow_accesses, t->indirect_misses,
		  t->entry_misses, t->links, t->host_faults);
	for (unsigned n = 0; n < 16; n++) {
		unsigned k = most_frequent(t, below);

		if (k == SEM_COUNT || !t->interpreted[k])
			break;
		log_debug("translate: interpreted %12" PRIu64 " %s", t->interpreted[k], sem_mnemonic(k));
		below = t->interpreted[k];
	}
}
