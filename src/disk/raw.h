/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to disk/: what a disk is inside. */
#ifndef GUISE_DISK_RAW_H
#define GUISE_DISK_RAW_H

#include "disk/disk.h"

struct disk {
	struct disk_info info;
	int fd;
};

#endif
