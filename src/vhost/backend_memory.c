/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front end's memory. Regions are mapped and kept as they came; config.memory, which rings and devices look into, has a slot
 * for each at its guest address; unless ACCESS_PLATFORM is negotiated: then descriptors hold IOVAs, the slots are the
 * IOTLB's, and regions are only where user addresses lead.
 *
 * A region that is there already, with all its addresses and the same file, may be added again, and is gone when it was removed as
 * often: QEMU up to 7.2 sends ADD_MEM_REG and REM_MEM_REG for each queue pair of a network card.
 *
 * A change of the table takes effect while no ring is served, and all at once: what is refused leaves the old table standing.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vhost/backend_internal.h"

static bool wraps(uint64_t start, uint64_t size)
{
	return start + size < start;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

/* The region by itself. */
static int check_region(struct vhost_backend *b, const struct vhost_user_region *r)
{
	if (!r->size)
		return refuse(b, "size 0 of the region at guest address 0x%" PRIx64 ": empty", r->guest_address);
	if (wraps(r->guest_address, r->size) || r->guest_address + r->size > 1ull << 56)
		return refuse(b, "guest address 0x%" PRIx64 " size 0x%" PRIx64 ": beyond the address space", r->guest_address, r->size);
	if (wraps(r->user_address, r->size))
		return refuse(b, "user address 0x%" PRIx64 " size 0x%" PRIx64 ": beyond the address space", r->user_address, r->size);
	if ((r->guest_address | r->size | r->mmap_offset) & 4095)
		return refuse(b, "guest address 0x%" PRIx64 " size 0x%" PRIx64 " mmap offset 0x%" PRIx64 ": not multiples of a page",
			      r->guest_address, r->size, r->mmap_offset);
	return 0;
}

/* The region beside others. Guest addresses mean nothing with an IOTLB. */
static int check_overlap(struct vhost_backend *b, const struct vhost_user_region *r, struct region *const *others, unsigned n)
{
	for (unsigned k = 0; k < n; k++) {
		const struct vhost_user_region *o = &others[k]->wire;

		if (!has_feature(b, VIRTIO_F_ACCESS_PLATFORM) && overlap(r->guest_address, r->size, o->guest_address, o->size))
			return refuse(b, "guest address 0x%" PRIx64 " size 0x%" PRIx64 ": overlaps the region at 0x%" PRIx64,
				      r->guest_address, r->size, o->guest_address);
		if (overlap(r->user_address, r->size, o->user_address, o->size))
			return refuse(b, "user address 0x%" PRIx64 " size 0x%" PRIx64 ": overlaps the region at 0x%" PRIx64,
				      r->user_address, r->size, o->user_address);
	}
	return 0;
}

static int region_new(struct vhost_backend *b, const struct vhost_user_region *wire, int fd, struct region *const *others,
		      unsigned n, struct region **out)
{
	struct stat st;
	struct region *r;
	int err = check_region(b, wire);

	if (!err)
		err = check_overlap(b, wire, others, n);
	if (err)
		return err;
	r = calloc(1, sizeof(*r));
	if (!r)
		return refuse(b, "out of memory");
	r->wire = *wire;
	err = shared_map_open(&r->map, fd, wire->mmap_offset, wire->size, b->trouble_fd);
	if (err) {
		free(r);
		return refuse(b, "mmap offset 0x%" PRIx64 " size 0x%" PRIx64 ": %s", wire->mmap_offset, wire->size,
			      err == -ENXIO ? "the file ends before" : strerror(-err));
	}
	r->count = 1;
	if (!fstat(fd, &st)) {
		r->device = st.st_dev;
		r->inode = st.st_ino;
	}
	*out = r;
	return 0;
}

static void region_free(struct region *r)
{
	shared_map_close(&r->map);
	free(r);
}

/* --- slots --- */

static void clear_slots(struct vhost_backend *b)
{
	struct memory *mem = b->config.memory;
	struct mem_table *table;

	while ((table = atomic_load(&mem->table)) && table->count)
		memory_set_slot(mem, &(struct mem_slot){ .id = table->slot[table->count - 1]->id });
	memory_quiesce(mem);
}

static int add_slot(struct vhost_backend *b, const struct region *r)
{
	struct mem_slot slot = { .gpa = r->wire.guest_address, .size = r->wire.size, .hva = r->map.data, .id = b->next_slot_id++,
				 .fd = -1 };
	int err = memory_set_slot(b->config.memory, &slot);

	return err ? refuse(b, "guest address 0x%" PRIx64 " size 0x%" PRIx64 ": %s", slot.gpa, slot.size, strerror(-err)) : 0;
}

int memory_refill(struct vhost_backend *b)
{
	int err = 0;

	clear_slots(b);
	iotlb_enable(b, has_feature(b, VIRTIO_F_ACCESS_PLATFORM));
	if (has_feature(b, VIRTIO_F_ACCESS_PLATFORM))
		return 0; /* the IOTLB fills them */
	for (unsigned k = 0; k < b->n_regions; k++) {
		int failed = add_slot(b, b->region[k]);

		err = err ? err : failed;
	}
	return err;
}

void memory_forget(struct vhost_backend *b)
{
	clear_slots(b);
	iotlb_enable(b, false);
	while (b->n_regions)
		region_free(b->region[--b->n_regions]);
}

/* --- messages --- */

int set_mem_table(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct region *fresh[VHOST_USER_MAX_REGIONS];
	unsigned n = m->memory.n_regions, made = 0;
	int err = 0, resumed;

	if (n > VHOST_USER_MAX_REGIONS || m->size < 8 + n * sizeof(struct vhost_user_region))
		return refuse(b, "num regions %u: at most %d, and the message has %u bytes", n, VHOST_USER_MAX_REGIONS, m->size);
	if (n != m->n_fds)
		return refuse(b, "num regions %u: %u descriptors came with it", n, m->n_fds);
	for (; !err && made < n; made += !err) {
		struct vhost_user_region wire = m->memory.region[made];

		err = region_new(b, &wire, m->fd[made], fresh, made, &fresh[made]);
	}
	if (err) {
		while (made)
			region_free(fresh[--made]);
		return err;
	}
	rings_pause(b);
	memory_forget(b);
	memcpy(b->region, fresh, n * sizeof(fresh[0]));
	b->n_regions = n;
	err = memory_refill(b);
	resumed = rings_resume(b);
	return err ? err : resumed;
}

int get_max_mem_slots(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	reply->u64 = VHOST_BACKEND_MAX_SLOTS;
	return 0;
}

static bool same_region(const struct vhost_user_region *a, const struct vhost_user_region *b)
{
	return a->guest_address == b->guest_address && a->user_address == b->user_address && a->size == b->size;
}

static struct region *added_before(struct vhost_backend *b, const struct vhost_user_region *wire, int fd)
{
	struct stat st;

	for (unsigned k = 0; k < b->n_regions; k++) {
		struct region *r = b->region[k];

		if (same_region(&r->wire, wire) && r->wire.mmap_offset == wire->mmap_offset && !fstat(fd, &st) &&
		    r->device == st.st_dev && r->inode == st.st_ino)
			return r;
	}
	return NULL;
}

int add_mem_reg(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct vhost_user_region wire = m->single.region;
	struct region *r;
	int err;

	r = added_before(b, &wire, m->fd[0]);
	if (r) {
		r->count++;
		return 0;
	}
	if (b->n_regions == VHOST_BACKEND_MAX_SLOTS)
		return refuse(b, "region at guest address 0x%" PRIx64 ": there are %u already", wire.guest_address, b->n_regions);
	err = region_new(b, &wire, m->fd[0], b->region, b->n_regions, &r);
	if (err)
		return err;
	b->region[b->n_regions++] = r;
	if (!has_feature(b, VIRTIO_F_ACCESS_PLATFORM) && (err = add_slot(b, r))) {
		region_free(b->region[--b->n_regions]);
		return err;
	}
	return rings_start(b);
}

int rem_mem_reg(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct vhost_user_region wire = m->single.region;
	unsigned at = 0;
	int err, resumed;

	while (at < b->n_regions && !same_region(&b->region[at]->wire, &wire))
		at++;
	if (at == b->n_regions)
		return refuse(b, "guest address 0x%" PRIx64 " user address 0x%" PRIx64 " size 0x%" PRIx64 ": no such region",
			      wire.guest_address, wire.user_address, wire.size);
	if (--b->region[at]->count)
		return 0;
	rings_pause(b);
	region_free(b->region[at]);
	memmove(&b->region[at], &b->region[at + 1], (b->n_regions - at - 1) * sizeof(b->region[0]));
	b->n_regions--;
	err = memory_refill(b);
	resumed = rings_resume(b);
	return err ? err : resumed;
}

/* --- user addresses --- */

static struct region *region_of_user(struct vhost_backend *b, uint64_t user, uint64_t len)
{
	for (unsigned k = 0; k < b->n_regions; k++) {
		const struct vhost_user_region *r = &b->region[k]->wire;

		if (user - r->user_address < r->size)
			return len <= r->size - (user - r->user_address) ? b->region[k] : NULL;
	}
	return NULL;
}

bool memory_user_to_gpa(struct vhost_backend *b, uint64_t user, uint64_t len, gpa_t *gpa)
{
	const struct region *r = region_of_user(b, user, len);

	if (r)
		*gpa = r->wire.guest_address + (user - r->wire.user_address);
	return r;
}

uint8_t *memory_user_to_hva(struct vhost_backend *b, uint64_t user, uint64_t len)
{
	const struct region *r = region_of_user(b, user, len);

	return r ? r->map.data + (user - r->wire.user_address) : NULL;
}
