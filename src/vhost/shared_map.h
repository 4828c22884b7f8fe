/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mappings of files that a peer sent: guest memory, dirty logs, inflight buffers. The peer can shorten such a file at any
 * time, and an access behind its end raises SIGBUS. Here that costs the peer its session and nobody else anything: the handler
 * puts anonymous memory in the mapping's place and signals an eventfd.
 */
#ifndef GUISE_VHOST_SHARED_MAP_H
#define GUISE_VHOST_SHARED_MAP_H

#include <stddef.h>
#include <stdint.h>

struct shared_map {
	uint8_t *data; /* byte `offset` of the file; NULL: nothing is mapped */
	uint64_t size;
	/* private */
	void *base;
	size_t length;
};

/*
 * Map [offset, offset + size) of fd, shared and writable; huge pages' files too. fd stays the caller's. trouble_fd: eventfd
 * to signal when the file turns out shorter later. 0; -EINVAL: empty, or the range wraps; -ENXIO: the file ends before it;
 * -errno of mmap() (a file that cannot be mapped, no permission, no memory). Any thread.
 */
int shared_map_open(struct shared_map *map, int fd, uint64_t offset, uint64_t size, int trouble_fd);
void shared_map_close(struct shared_map *map); /* of a zeroed struct: nothing */

#endif
