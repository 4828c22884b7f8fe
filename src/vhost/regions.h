/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory regions as both kinds of vhost need them: kept, looked up, and rings' addresses made from them. */
#ifndef GUISE_VHOST_REGIONS_H
#define GUISE_VHOST_REGIONS_H

#include <linux/vhost_types.h>

#include "vhost/ops.h"

/* HVA of [gpa, gpa + len), if it lies in one region; NULL otherwise. */
void *vhost_region_at(const struct vhost_region *region, unsigned n, gpa_t gpa, uint64_t len);

/*
 * SET_VRING_ADDR's payload for a ring. iova: addresses as the driver gave them (ACCESS_PLATFORM), else this process's.
 * log: note writes to the used ring. 0; -EFAULT: a part lies outside the regions.
 */
int vhost_ring_addresses(const struct vhost_region *region, unsigned n, unsigned index, const struct virtq_config *config,
			 bool iova, bool log, struct vhost_vring_addr *addr);

#endif
