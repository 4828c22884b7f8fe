/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Notes about the descriptor chains that a device half holds, in memory that outlives its process, so that whoever serves the
 * queue next can take them up: the layout of vhost-user's inflight buffer (specification, section "Inflight I/O
 * tracking"), one region per queue.
 *
 * The region is shared with the other side, so it is only written, but for once: virtq_inflight_start() reads what an
 * earlier process left, and checks it. Everything else works on private copies.
 */
#ifndef GUISE_VIRTIO_VIRTQ_INFLIGHT_H
#define GUISE_VIRTIO_VIRTQ_INFLIGHT_H

#include "virtio/virtq.h"

struct virtq_inflight {
	void *region;
	uint64_t counter;	    /* orders the chains as they were popped */
	uint16_t *resubmit;	    /* heads (split) or entries (packed) that an earlier process held, in their order */
	unsigned n_resubmit, next_resubmit;
	/* packed: the list of entries, private copy */
	uint16_t *next, *last, *num;
	uint16_t *entry_of;	    /* by buffer id */
	uint16_t free_head;
};

/* Bytes of one queue's region. */
uint64_t virtq_inflight_bytes(uint32_t size, unsigned options);

/*
 * Keep notes for q, just started, in region (of virtq_inflight_bytes(), 8-byte aligned, zero if new); q points to *f until it is
 * stopped. If an earlier process left notes, the queue stands where that one stood, whatever base it was started
 * with, and virtq_pop() returns the chains that it held before any other. 0; -ENOMEM; -EPROTO: the notes make no sense.
 * Such a queue knows no unpop and no bursts.
 */
int virtq_inflight_start(struct virtq_inflight *f, struct virtq *q, void *region);
/* The queue's owner has stopped using it. The region keeps what it says. */
void virtq_inflight_stop(struct virtq_inflight *f, struct virtq *q);

/* --- for virtq.c --- */
int virtq_inflight_pop(struct virtq *q, struct virtq_chain *chain);
void virtq_inflight_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);

#endif
