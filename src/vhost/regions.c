/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhost/regions.h"

#include <errno.h>

#include "vhost/link.h"

void *vhost_region_at(const struct vhost_region *region, unsigned n, gpa_t gpa, uint64_t len)
{
	for (unsigned k = 0; k < n; k++)
		if (gpa >= region[k].gpa && gpa - region[k].gpa < region[k].size &&
		    len <= region[k].size - (gpa - region[k].gpa))
			return (uint8_t *)region[k].hva + (gpa - region[k].gpa);
	return NULL;
}

int vhost_ring_addresses(const struct vhost_region *region, unsigned n, unsigned index,
			 const struct virtq_config *config, bool iova, bool log,
			 struct vhost_vring_addr *addr)
{
	struct virtq_layout bytes = virtq_layout(config->size, config->options);
	void *desc = vhost_region_at(region, n, config->desc, bytes.desc);
	void *driver = vhost_region_at(region, n, config->driver, bytes.driver);
	void *device = vhost_region_at(region, n, config->device, bytes.device);

	if (!desc || !driver || !device)
		return -EFAULT;
	*addr = (struct vhost_vring_addr){
		.index = index,
		.flags = log ? 1 << VHOST_VRING_F_LOG : 0,
		.desc_user_addr = iova ? config->desc : (uintptr_t)desc,
		.avail_user_addr = iova ? config->driver : (uintptr_t)driver,
		.used_user_addr = iova ? config->device : (uintptr_t)device,
		.log_guest_addr = log ? config->device : 0,
	};
	return 0;
}

int vhost_regions(struct memory *mem, struct vhost_region *region, unsigned capacity)
{
	const struct mem_table *table =
		atomic_load_explicit(&mem->table, memory_order_acquire); /* pairs with slots.c */
	unsigned n = 0;

	for (unsigned k = 0; table && k < table->count; k++) {
		const struct mem_slot *slot = table->slot[k];

		if (slot->fd < 0 || slot->flags & SLOT_READONLY)
			continue;
		if (n == capacity)
			return -ENOSPC;
		region[n++] =
			(struct vhost_region){slot->gpa, slot->size, slot->hva, slot->fd, slot->fd_offset};
	}
	return (int)n;
}
