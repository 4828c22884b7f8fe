/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtqueue, split and packed, both halves (virtio 1.3, sections 2.7 and 2.8). The device half takes descriptor
 * chains that a driver made available and returns them used; the driver half is its mirror. Both stand on a
 * guest-memory handle that may be a VM's slots or what a vhost-user front end sent: who owns it does not matter.
 *
 * The other side is hostile until checked: every word of its memory is read once into a local, every walk is
 * bounded by the queue size, every address goes through the memory handle with its length. The first violation
 * quarantines the queue: error is set and counted, and nothing is popped from it until it is started again.
 *
 * Threads: a queue half belongs to one thread at a time.
 */
#ifndef GUISE_VIRTIO_VIRTQ_H
#define GUISE_VIRTIO_VIRTQ_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memory/memory.h"

enum { VIRTQ_MAX_SIZE = 32768 };

/* Ring options: the feature bits that change a queue's format. */
enum { VIRTQ_PACKED = 1, VIRTQ_EVENT_IDX = 2, VIRTQ_INDIRECT = 4, VIRTQ_IN_ORDER = 8 };
unsigned virtq_options(uint64_t features); /* of negotiated feature bits */

enum virtq_error {
	VIRTQ_OK,
	VIRTQ_AVAIL_INDEX,	    /* avail.idx moved by more than the queue size */
	VIRTQ_HEAD_INDEX,	    /* a head, next or buffer id that is not below the queue size */
	VIRTQ_CHAIN_TOO_LONG,	    /* more descriptors than the queue size: a loop */
	VIRTQ_INDIRECT_NOT_OFFERED,
	VIRTQ_INDIRECT_NESTED,	    /* INDIRECT in an indirect table, or INDIRECT with NEXT */
	VIRTQ_INDIRECT_SIZE,	    /* table length 0, no multiple of 16, or over the queue size */
	VIRTQ_ADDRESS,		    /* buffer or table outside guest memory */
	VIRTQ_ZERO_LENGTH,
	VIRTQ_CHAIN_BYTES,	    /* chain of more than 4 GiB */
	VIRTQ_READABLE_AFTER_WRITABLE,
	VIRTQ_TOO_MANY_SEGMENTS,    /* more than the caller's iovec holds */
	VIRTQ_USED_INDEX,	    /* driver half: used.idx moved past what is outstanding */
	VIRTQ_USED_ID,		    /* driver half: an id that is not outstanding */
	VIRTQ_USED_LENGTH,	    /* driver half: more bytes than the chain's writable part has */
	VIRTQ_ERRORS
};
const char *virtq_error_name(enum virtq_error error);

/* Where a queue lies (guest-physical addresses) and its format. */
struct virtq_config {
	uint32_t size;	  /* entries: 1..VIRTQ_MAX_SIZE, a power of two if split */
	unsigned options; /* VIRTQ_* */
	gpa_t desc, driver, device;
};

/* A descriptor chain: its device-readable buffers, then its device-writable ones. */
struct virtq_chain {
	struct iovec *iov;     /* the caller's array */
	unsigned capacity;     /* its length */
	unsigned readable, writable; /* entries of iov used: iov[0..readable), iov[readable..readable + writable) */
	uint64_t readable_bytes, writable_bytes;
	uint16_t id;	       /* split: head; packed: buffer id */
	uint16_t entries;      /* ring entries it takes (packed) */
};

struct virtq_counters {
	uint64_t chains, kicks_wanted, calls_wanted, errors;
};

/* A copy of the memory slot that a buffer was last found in, good while the memory's generation is the same. */
struct virtq_region {
	unsigned generation;
	bool writable;
	gpa_t gpa;
	uint64_t size; /* 0: none */
	uint8_t *hva;
};

/* The device half. Fields are private to virtio/virtq_*.c but `error`, `size` and `counters`, which anybody may read. */
struct virtq {
	struct memory *mem;
	unsigned options;
	uint32_t size;
	union {
		struct vring_desc *desc;
		struct vring_packed_desc *ring;
	};
	union {
		struct vring_avail *avail;
		struct vring_packed_desc_event *driver_event;
	};
	union {
		struct vring_used *used;
		struct vring_packed_desc_event *device_event;
	};
	uint16_t avail_next;  /* next entry to pop: free-running (split), ring position (packed) */
	uint16_t avail_seen;  /* split: last avail.idx read */
	uint16_t used_next;   /* next entry to fill, likewise */
	bool avail_wrap, used_wrap; /* packed: wrap counters */
	uint32_t popped;      /* ring entries popped and not yet pushed */
	uint32_t unsignalled; /* entries used since the last call decision; more than 65535 counts as 65535 */
	struct virtq_region region;
	struct virtq_inflight *inflight; /* notes for a successor (virtq_inflight.h), or NULL */
	enum virtq_error error;
	struct virtq_counters counters;
};

/*
 * Start the device half on a queue. base: virtq_fresh_base(), or what virtq_stop() gave. 0; -EINVAL: size, alignment
 * or base; -EFAULT: a part lies outside guest memory. *q is the caller's; nothing is allocated.
 */
uint32_t virtq_fresh_base(unsigned options);
int virtq_start(struct virtq *q, struct memory *mem, const struct virtq_config *config, uint32_t base);
/* Stop; returns where it stands, as vhost-user's GET_VRING_BASE has it (split: avail index; packed: both indices, wraps). */
uint32_t virtq_stop(struct virtq *q);

/*
 * Split, just started: if the driver is further ahead of the base than the queue is long, but not of the used index, go on
 * from there. (DPDK's virtio_user says 0 to every back end that comes, of rings that have been running.) true: so it was.
 */
bool virtq_mend_base(struct virtq *q);

/* 1: *chain is the next chain; 0: none; -EPROTO: the queue is quarantined, see q->error. */
int virtq_pop(struct virtq *q, struct virtq_chain *chain);
/* Take back the last virtq_pop(): it will be popped again. Only before anything else is popped. */
void virtq_unpop(struct virtq *q, const struct virtq_chain *chain);
/* Return a chain used, with `written` bytes put in its writable part. With IN_ORDER, in the order of the pops. */
void virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);

/*
 * As virtq_pop(), up to n at once: chains[] is filled, with iov (of n_iov entries) shared out among them. No chain may have
 * more than `longest` segments, and the burst ends before one that might not find as many left. Returns how many were popped;
 * -EPROTO if none was because the queue is quarantined. Buffers' first lines are being fetched when this returns.
 */
int virtq_pop_burst(struct virtq *q, struct virtq_chain *chains, unsigned n, struct iovec *iov, unsigned n_iov,
		    unsigned longest);
/* Take back the last n pops, in the order in which they were popped. Only before anything else is popped. */
void virtq_unpop_burst(struct virtq *q, const struct virtq_chain *chains, unsigned n);
/*
 * As virtq_push() of each, but the driver sees them all at once. written: bytes for each, NULL: nothing was written to any.
 */
void virtq_push_burst(struct virtq *q, const struct virtq_chain *chains, const uint32_t *written, unsigned n);
/* Does the driver want a call for what was pushed since the last time this was asked? */
bool virtq_should_call(struct virtq *q);
/* Ask for kicks; true: chains became available meanwhile, look again. */
bool virtq_enable_kicks(struct virtq *q);
void virtq_disable_kicks(struct virtq *q);

/* Bytes of the three parts of a queue, for whoever lays one out (2.7, 2.8). */
struct virtq_layout {
	uint64_t desc, driver, device;
};
struct virtq_layout virtq_layout(uint32_t size, unsigned options);

/* --- the driver half --- */

struct virtq_segment {
	gpa_t gpa; /* in the address space that the device sees */
	uint32_t len;
};

struct virtq_token { /* one outstanding chain */
	void *token;
	uint64_t writable_bytes;
	uint16_t entries;
	uint16_t next; /* split: next descriptor of the chain; free list otherwise */
};

struct virtq_driver {
	unsigned options;
	uint32_t size;
	union {
		struct vring_desc *desc;
		struct vring_packed_desc *ring;
	};
	union {
		struct vring_avail *avail;
		struct vring_packed_desc_event *driver_event;
	};
	union {
		struct vring_used *used;
		struct vring_packed_desc_event *device_event;
	};
	struct virtq_token *state; /* by descriptor (split) or buffer id (packed) */
	uint16_t *order;	   /* IN_ORDER: outstanding ids, oldest at order_head */
	uint32_t order_head, outstanding;
	uint16_t free_head, free_tail; /* ids not in use: what was freed first is used first */
	uint32_t free_ids;
	uint16_t free_count;	       /* ring entries not in use */
	uint16_t avail_next, used_next;
	bool avail_wrap, used_wrap;
	uint32_t unkicked;
	uint32_t outstanding_writable; /* of the outstanding chains, those with device-writable bytes */
	/* IN_ORDER, split: the oldest chains of which used.idx alone says that they came back, for they have nothing writable */
	uint32_t counted;
	/* IN_ORDER: the device used everything up to this id in one entry */
	bool batch;
	uint16_t batch_id;
	uint32_t batch_len;
	/* Indirect tables, one of `indirect_entries` per ring entry, at indirect_gpa; NULL: not used */
	struct vring_desc *indirect;
	gpa_t indirect_gpa;
	unsigned indirect_entries;
	enum virtq_error error;
	struct virtq_counters counters;
};

/* 0; -EINVAL, -EFAULT as virtq_start(); -ENOMEM. The ring is zeroed: start the driver before the device. */
int virtq_driver_start(struct virtq_driver *d, struct memory *mem, const struct virtq_config *config);
void virtq_driver_stop(struct virtq_driver *d);
/*
 * Let chains of more than one segment go through indirect tables: size * entries * 16 bytes of guest memory at gpa.
 * -EFAULT, -EINVAL (INDIRECT not among the options).
 */
int virtq_driver_use_indirect(struct virtq_driver *d, struct memory *mem, gpa_t gpa, unsigned entries);
/* Make a chain available: segments[0..readable) for the device to read, then `writable` to write. 0, -ENOSPC, -EINVAL (no
 * segment, or a chain longer than the queue). token comes back from virtq_driver_take() and is not NULL. */
int virtq_driver_add(struct virtq_driver *d, const struct virtq_segment *segments, unsigned readable, unsigned writable,
		     void *token);
/*
 * Make up to n chains of one segment each available at once, device-writable or device-readable. Returns how many found
 * room: fewer than n when the queue is full (or d->error).
 */
unsigned virtq_driver_add_burst(struct virtq_driver *d, const struct virtq_segment *segments, void *const *tokens, unsigned n,
				bool writable);
/* Does the device want a kick for what was added since this was asked last? */
bool virtq_driver_should_kick(struct virtq_driver *d);
/* The next used chain's token and, in *written, its used length; NULL if none (or d->error). */
void *virtq_driver_take(struct virtq_driver *d, uint32_t *written);
/* As virtq_driver_take(), up to n at once. Returns how many; 0 may mean d->error. */
unsigned virtq_driver_take_burst(struct virtq_driver *d, void **tokens, uint32_t *written, unsigned n);
bool virtq_driver_enable_calls(struct virtq_driver *d); /* true: used entries are there already */
void virtq_driver_disable_calls(struct virtq_driver *d);

#endif
