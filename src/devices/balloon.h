/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-balloon (virtio 1.3, 5.5): the guest hands pages back to the host. Inflation and free page reporting both punch
 * holes in guest memory, so the host's memory use falls at once.
 */
#ifndef GUISE_DEVICES_BALLOON_H
#define GUISE_DEVICES_BALLOON_H

#include "base/loop.h"
#include "virtio/device.h"

enum { BALLOON_STATS = 16 }; /* tags 0..15 (5.5.6.3) */

struct balloon_info {
	uint64_t target, actual;	/* bytes that the host wants, that the driver has given */
	uint64_t inflated, reported;	/* bytes given back to the host since the start, in total */
	bool has_stats;			/* the driver offers statistics */
	uint64_t stat[BALLOON_STATS];	/* the last ones; UINT64_MAX: not told. Bytes, or counts */
};

struct balloon;

/* limit: bytes of guest memory, above which no target goes. Served on the loop's thread; the loop outlives the device. 0/-errno. */
int balloon_new(struct loop *loop, const struct dma *dma, uint64_t limit, struct balloon **balloon);
void balloon_free(struct balloon *balloon);
struct virtio_device *balloon_device(struct balloon *balloon);

/* How much the guest shall give. 0; -EINVAL: more than it has. Any thread, once the device is on a transport. */
int balloon_set_target(struct balloon *balloon, uint64_t bytes);

/* The rest on the loop's thread. */
void balloon_get_info(struct balloon *balloon, struct balloon_info *info);
/* Ask the driver for fresh statistics; the function below follows. -EOPNOTSUPP: it has none. */
int balloon_ask_stats(struct balloon *balloon);
void balloon_on_stats(struct balloon *balloon, void (*fn)(void *opaque), void *opaque);
const char *balloon_stat_name(unsigned tag); /* NULL: unknown */

/* --- run-time control by a socket (balloon_socket.c); documented in guise(1) --- */

struct balloon_socket;

/* Listen at path for lines "info", "target MIB", "stats", each answered by a line of JSON. 0/-errno with a sentence in why. */
int balloon_socket_new(struct loop *loop, struct balloon *balloon, const char *path, struct balloon_socket **socket, char *why,
		       size_t why_size);
void balloon_socket_free(struct balloon_socket *socket); /* before the balloon; the loop is not running */

#endif
