/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the probe has its target do: frames out and in (net), sectors and the serial number (blk), as requests
 * on a queue that are made in any layout, waited for by notification, and checked when they come back.
 */
#ifndef GUISE_PROBE_WORK_H
#define GUISE_PROBE_WORK_H

#include "probe/session.h"

enum { WORK_GUARD = 16 }; /* bytes between two segments that belong to nobody */

/* The queue that requests go to: transmitq of a pair, or a disk's queue. */
unsigned work_queue(unsigned pair, const struct probe *p);

/*
 * Make a request available, cut into segments of at most `cut` bytes (0: as drivers do it). The kind that
 * suits the device: REQUEST_TX an ARP request; REQUEST_READ a sector; REQUEST_ID; REQUEST_RX an empty buffer.
 * 0, -1 with the verdict.
 */
int work_submit(struct probe *p, unsigned queue, enum request_kind kind, unsigned cut);
/* Kick if the device wants to be kicked. */
void work_kick(struct probe *p, unsigned queue);
/* Take what has come back without waiting, and check it. The count, or -1 with the verdict. */
int work_take(struct probe *p, unsigned queue);
/*
 * Wait until `count` more requests have come back, sleeping on the queue's call eventfd: used buffers without
 * a notification are a fault. -1 with the verdict, also on time-out.
 */
int work_wait(struct probe *p, unsigned queue, unsigned count);
/* The same by looking at the ring only. */
int work_poll(struct probe *p, unsigned queue, unsigned count);
/* Does anything come back within so many ms? The count; -1 with the verdict. */
int work_quiet(struct probe *p, unsigned queue, unsigned ms);

/* `count` requests of the device's usual kind on a queue pair or queue, `batch` at a time, kicked and waited
 * for. */
int work_round(struct probe *p, unsigned pair, unsigned count, unsigned batch, unsigned cut);
/* net: give the receiveq of a pair buffers, and have the target fill one if it is known to answer. blk:
 * nothing. */
int work_receive(struct probe *p, unsigned pair);
/* Both: the data path works on a pair. */
int work_pair(struct probe *p, unsigned pair);

/* Proof of life: a new connection, a whole session, work done, rings stopped. 0, or -1 with what failed in
 * why. */
int work_prove_life(struct probe *p, char *why, size_t why_size);

/* What the device may write from now on is what requests made available for writing; see guest_check. */
void work_watch(struct probe *p);
int work_check_memory(struct probe *p);

#endif
