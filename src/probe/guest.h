/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pretend guest: a little memory in two regions and the driver half of its virtqueues, so that a front end
 * can be played without a VM. Guest addresses, user addresses, offsets in the file and our own addresses all
 * differ, so a target that mixes them up is found. Everything the device may not write is compared with a
 * copy (guest_keep, guest_check).
 */
#ifndef GUISE_PROBE_GUEST_H
#define GUISE_PROBE_GUEST_H

#include "memory/memory.h"
#include "vhost/message.h"
#include "virtio/virtq.h"

enum { GUEST_REGIONS = 2, GUEST_REGION_BYTES = 2 << 20, GUEST_BYTES = GUEST_REGIONS * GUEST_REGION_BYTES };
enum { GUEST_LOW, GUEST_HIGH }; /* region 0: rings; region 1: buffers */

struct guest {
	struct memory memory;
	struct vhost_user_region region[GUEST_REGIONS];
	int fd;
	uint8_t *base;		      /* all of it, as in the file */
	uint8_t *kept;		      /* the copy */
	uint64_t used[GUEST_REGIONS]; /* bytes given out */
};

int guest_init(struct guest *g); /* 0/-errno */
void guest_deinit(struct guest *g);
/* Give back all that was given out; the memory is zeroed. */
void guest_reset(struct guest *g);
/* Guest memory of `size` bytes; the caller asks for no more than a region in all (0 if it does: an address of
 * no use). */
gpa_t guest_alloc(struct guest *g, unsigned region, uint64_t size, uint64_t align);
/* Our address of a range that guest_alloc() gave. */
void *guest_at(struct guest *g, gpa_t gpa, uint64_t len);
/* The front end's own address for it, as SET_VRING_ADDR wants it. */
uint64_t guest_user_address(const struct guest *g, gpa_t gpa);

/* Remember what memory holds now. */
void guest_keep(struct guest *g);
/* The device may have written here since. */
void guest_allow(struct guest *g, gpa_t gpa, uint64_t len);
/* The first address, outside what was allowed, that changed since guest_keep(); UINT64_MAX if none. */
gpa_t guest_find_change(struct guest *g);

#endif
