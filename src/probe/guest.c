/* SPDX-License-Identifier: BSD-2-Clause */
#include "probe/guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* Where the regions are for the guest and, as far as the target is told, in the front end's address space. */
static const struct {
	gpa_t gpa;
	uint64_t user;
} places[GUEST_REGIONS] = {{0, 0x7e0000000000}, {1ull << 32, 0x7f1234000000}};

int guest_init(struct guest *g)
{
	int err;

	*g = (struct guest){.fd = -1};
	g->kept = malloc(GUEST_BYTES);
	if (!g->kept)
		return -ENOMEM;
	err = ram_alloc("probe", GUEST_BYTES, NULL, true, &g->base, &g->fd);
	if (err) {
		free(g->kept);
		return err;
	}
	memory_init(&g->memory);
	for (unsigned k = 0; k < GUEST_REGIONS; k++) {
		struct mem_slot slot = {
		    .id = k,
		    .gpa = places[k].gpa,
		    .size = GUEST_REGION_BYTES,
		    .hva = g->base + k * GUEST_REGION_BYTES,
		    .fd = -1,
		};

		g->region[k] = (struct vhost_user_region){
		    .guest_address = places[k].gpa,
		    .size = GUEST_REGION_BYTES,
		    .user_address = places[k].user,
		    .mmap_offset = (uint64_t)k * GUEST_REGION_BYTES,
		};
		err = memory_set_slot(&g->memory, &slot);
		if (err) {
			guest_deinit(g);
			return err;
		}
	}
	return 0;
}

void guest_deinit(struct guest *g)
{
	if (!g->base)
		return;
	memory_deinit(&g->memory);
	ram_free(g->base, GUEST_BYTES, g->fd);
	free(g->kept);
	g->base = NULL;
}

void guest_reset(struct guest *g)
{
	memset(g->base, 0, GUEST_BYTES);
	memset(g->used, 0, sizeof(g->used));
	g->used[GUEST_LOW] = 4096; /* address 0 means "none" to some */
}

gpa_t guest_alloc(struct guest *g, unsigned region, uint64_t size, uint64_t align)
{
	uint64_t at = align_up(g->used[region], align);

	if (size > GUEST_REGION_BYTES || at > GUEST_REGION_BYTES - size)
		return 0;
	g->used[region] = at + size;
	return places[region].gpa + at;
}

void *guest_at(struct guest *g, gpa_t gpa, uint64_t len)
{
	return mem_at(&g->memory, gpa, len, MEM_WRITE);
}

uint64_t guest_user_address(const struct guest *g, gpa_t gpa)
{
	unsigned region = gpa >= places[GUEST_HIGH].gpa ? GUEST_HIGH : GUEST_LOW;

	return gpa - places[region].gpa + places[region].user;
}

void guest_keep(struct guest *g)
{
	memcpy(g->kept, g->base, GUEST_BYTES);
}

void guest_allow(struct guest *g, gpa_t gpa, uint64_t len)
{
	uint8_t *now = guest_at(g, gpa, len);

	if (now)
		memcpy(g->kept + (now - g->base), now, len);
}

gpa_t guest_find_change(struct guest *g)
{
	if (!memcmp(g->kept, g->base, GUEST_BYTES))
		return UINT64_MAX;
	for (uint64_t at = 0; at < GUEST_BYTES; at++)
		if (g->kept[at] != g->base[at])
			return places[at / GUEST_REGION_BYTES].gpa + at % GUEST_REGION_BYTES;
	return UINT64_MAX;
}
