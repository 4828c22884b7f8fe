/* SPDX-License-Identifier: BSD-2-Clause */
/* What --disk, --net, --port, --balloon, --vsock and --rng say, as parts of a machine's description. */
#ifndef GUISE_CMD_ATTACH_H
#define GUISE_CMD_ATTACH_H

#include <stddef.h>

#include "base/options.h"
#include "machine/machine.h"

/* 0, or -EINVAL with what is wrong in `error`. Strings of the list are cut at their commas and stay in use. */
int attach_disks(struct machine_config *config, const struct option_list *list, char *error, size_t error_size);
/* No --net at all means one user-mode network; "none" means none. */
int attach_nets(struct machine_config *config, const struct option_list *list, char *error, size_t error_size);
int attach_ports(struct machine_config *config, const struct option_list *list, char *error, size_t size);
int attach_balloon(struct machine_config *config, char *text, char *error, size_t size); /* text may be NULL */
int attach_vsock(struct machine_config *config, char *text, char *error, size_t size);   /* likewise */
int attach_rng(struct machine_config *config, char *text, char *error, size_t size);     /* likewise */

#endif
