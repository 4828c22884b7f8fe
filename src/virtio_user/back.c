/* SPDX-License-Identifier: BSD-2-Clause */
/* A back port. */
#include <errno.h>
#include <stdio.h>
#include "virtio_user/virtio_user.h"

int port_back_open(const struct back_port_config *config, struct port **port, char *why, size_t why_size)
{
	snprintf(why, why_size, "not yet");
	return -EOPNOTSUPP;
}
