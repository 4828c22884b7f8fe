/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a ring stands whose device went away without saying so, read off the ring itself. */
#ifndef GUISE_VHOST_RESTORE_H
#define GUISE_VHOST_RESTORE_H

#include "virtio/virtq.h"

/* desc, driver, device: the parts of the ring in this process. Returns a base as virtq_stop() gives it. The driver may be running. */
uint32_t vhost_restore_base(const struct virtq_config *config, const void *desc, const void *driver, const void *device);

#endif
