/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Data breakpoints: see watch.h. The trap itself is delivered at the instruction's end by interpret/event.c.
 */
#include "softkvm/mmu/watch.h"

#include "softkvm/mmu/tlb.h"

void mmu_watch_update(struct vcpu *v)
{
	const uint64_t *dr = debug_registers(v);
	struct mmu *m = v->mmu;
	unsigned before = m->watched_count;

	m->watched_count = 0;
	for (int n = 0; n < 4; n++)
		if (dr7_enabled(dr[7], n) && (dr7_rw(dr[7], n) & DR7_RW_WRITE))
			m->watched_page[m->watched_count++] = dr[n] & PAGE_MASK;
	if (before || m->watched_count)
		mmu_flush_all(v);
}

void mmu_watch_hit(struct vcpu *v, gva_t gva, unsigned len, bool write)
{
	const uint64_t *dr = debug_registers(v);
	uint64_t hits = 0;

	if (!v->mmu->watched_count)
		return;
	for (int n = 0; n < 4; n++) {
		uint64_t size = dr7_len(dr[7], n), at = dr[n] & ~(size - 1);
		unsigned rw = dr7_rw(dr[7], n);

		if (!dr7_enabled(dr[7], n) || !(rw & DR7_RW_WRITE) || (rw == DR7_RW_WRITE && !write))
			continue;
		if (gva < at + size && at < gva + len)
			hits |= 1 << n;
	}
	if (!hits)
		return;
	v->debug_pending |= hits;
	vcpu_call_out(v);
}
