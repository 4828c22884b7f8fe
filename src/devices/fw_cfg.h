/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fw_cfg: named blobs from the host for firmware and drivers (QEMU's docs/specs/fw_cfg.rst): the selector at
 * port 510h, the data at 511h, the DMA address at 514h.
 */
#ifndef GUISE_DEVICES_FW_CFG_H
#define GUISE_DEVICES_FW_CFG_H

#include <stddef.h>

#include "bus/bus.h"
#include "bus/dma.h"

enum { FW_CFG_BASE = 0x510, FW_CFG_SIZE = 12 };
enum { FW_CFG_CPU_COUNT = 5, FW_CFG_KERNEL_ADDR = 7, FW_CFG_KERNEL_SIZE = 8, FW_CFG_INITRD_ADDR = 10,
       FW_CFG_INITRD_SIZE = 11, FW_CFG_KERNEL_DATA = 0x11, FW_CFG_INITRD_DATA = 0x12, FW_CFG_CMDLINE_ADDR = 0x13,
       FW_CFG_CMDLINE_SIZE = 0x14, FW_CFG_CMDLINE_DATA = 0x15 };

struct fw_cfg;

int fw_cfg_new(struct fw_cfg **fw, const struct dma *dma);
void fw_cfg_free(struct fw_cfg *fw);
extern const struct bus_ops fw_cfg_ops; /* FW_CFG_SIZE ports */

/*
 * Add an item by number, or a file by name ("etc/..." or "opt/..."). The bytes are copied. Before the machine runs.
 * 0; -ENOMEM; -ENOSPC: no number left; -EEXIST; -EINVAL: name too long.
 */
int fw_cfg_add_item(struct fw_cfg *fw, uint16_t key, const void *bytes, size_t size);
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *bytes, size_t size);

#endif
