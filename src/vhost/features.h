/* SPDX-License-Identifier: BSD-2-Clause */
/* Names of virtio feature bits, for messages and reports. */
#ifndef GUISE_VHOST_FEATURES_H
#define GUISE_VHOST_FEATURES_H

#include <stddef.h>
#include <stdint.h>

/* device_id: virtio 1.3, chapter 5 (1 net, 2 blk); 0: only the bits that all devices share. NULL: a bit without a name here. */
const char *vhost_feature_name(unsigned device_id, unsigned bit);

/* "CSUM MRG_RXBUF VERSION_1 bit 55": every bit of a set, cut with "..." if it does not fit. Returns text. */
char *vhost_features_format(unsigned device_id, uint64_t features, char *text, size_t size);
/* The same for protocol features. */
char *vhost_user_protocol_features_format(uint64_t features, char *text, size_t size);

#endif
