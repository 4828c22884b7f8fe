/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk: bytes at offsets, read and written asynchronously. Knows nothing of VMs: a virtio device, an NBD server
 * and a converter all use it.
 *
 * A disk_queue is one thread's way to its disks: requests are submitted and completed on that thread only. Its
 * disk_queue_wait() is the thread's one place to sleep; event file descriptors (kicks, stop) wake it too.
 */
#ifndef GUISE_DISK_DISK_H
#define GUISE_DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct disk;

enum { DISK_READONLY = 1 };

struct disk_info {
	uint64_t size;		   /* bytes, a multiple of 512 */
	uint32_t block_size;	   /* what the host's file likes: a power of two >= 512 */
	bool read_only, can_discard;
};

/*
 * Open an image file or block device. 0; -errno (-EINVAL: not a file or block device, or an empty one), with *why a
 * sentence for the user in the caller's buffer.
 */
int disk_open(const char *path, unsigned flags, struct disk **disk, char *why, unsigned why_size);
void disk_close(struct disk *disk); /* when no request is in flight */
const struct disk_info *disk_info(const struct disk *disk);

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

struct disk_request {
	enum disk_op op;
	uint64_t offset;	  /* bytes; offset + bytes within the disk: checked, -EINVAL */
	uint64_t bytes;		  /* of iov, or of the range */
	const struct iovec *iov;  /* READ and WRITE; stays valid until done */
	unsigned n_iov;
	/* On the queue's thread: 0 or -errno. A short transfer is -EIO. The request is the caller's again. */
	void (*done)(struct disk_request *request, int result);
	/* private */
	struct disk *disk;
	uint64_t moved;		  /* bytes done so far: the kernel may transfer less than asked */
	bool punch;		  /* zeroing: by punching a hole, where the file system has no ZERO_RANGE */
	struct iovec *rest;	  /* copy of what is left after a short transfer */
};

struct disk_queue;

/* depth: requests that may be in flight. 0/-errno. */
int disk_queue_new(unsigned depth, struct disk_queue **queue);
void disk_queue_free(struct disk_queue *queue); /* when nothing is in flight */
/* Call fn on the queue's thread whenever eventfd `fd` is signalled. Before the first wait. 0; -ENOSPC. */
int disk_queue_add_event(struct disk_queue *queue, int fd, void (*fn)(void *opaque), void *opaque);
/* Never fails: errors come through done(), which may be called before this returns. */
void disk_submit(struct disk_queue *queue, struct disk *disk, struct disk_request *request);
unsigned disk_queue_in_flight(const struct disk_queue *queue);
/* Start what was submitted, sleep until something is done or signalled, and call its functions. 0/-errno. */
int disk_queue_wait(struct disk_queue *queue);

#endif
