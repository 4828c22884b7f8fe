/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page tables: identity-mapped, supervisor-only, except the image's .user pages. The first 2 MiB in 4 KiB
 * pages.
 */
#include "metal.h"

static uint64_t low_pt[512] __attribute__((aligned(4096)));
static uint64_t next_page = 16 << 20;

void *alloc_page(void)
{
	void *page = (void *)next_page;

	next_page += 4096;
	return memset(page, 0, 4096);
}

void setup_paging(void)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t gva = i << 12;
		bool user = gva >= (uint64_t)user_start && gva < (uint64_t)user_end;

		low_pt[i] = gva | P_P | P_W | (user ? P_U : 0);
	}
	boot_pd_low[0] = (uint64_t)low_pt | P_P | P_W | P_U;
	WRITE_REG(cr3, boot_pml4);
}

uint64_t *pte_of(uint64_t *pml4, uint64_t gva, int level)
{
	uint64_t *table = pml4;

	for (int l = 4; l > level; l--) {
		uint64_t *entry = &table[gva >> (12 + 9 * (l - 1)) & 511];

		if (!(*entry & P_P))
			*entry = (uint64_t)alloc_page() | P_P | P_W | P_U;
		table = (uint64_t *)(*entry & 0xffffffffff000);
	}
	return &table[gva >> (12 + 9 * (level - 1)) & 511];
}

void map(uint64_t gva, uint64_t pte)
{
	*pte_of(boot_pml4, gva, 1) = pte;
	invlpg(gva);
}

uint64_t *new_space(void)
{
	uint64_t *pml4 = alloc_page();

	pml4[0] = boot_pml4[0];
	return pml4;
}
