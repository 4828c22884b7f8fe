/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The probe as a back end: it answers whatever front end comes, watches what that one sends against the
 * rules, serves its rings with the device half of virtqueues, and can be made to answer wrongly.
 *
 * Net: frames are taken from transmitqs and go back on the receiveq of their pair; now and then one is made
 * up, so that receiving is tried even if nothing is sent. Blk: a disk in memory.
 */
#ifndef GUISE_PROBE_BACK_H
#define GUISE_PROBE_BACK_H

#include "probe/link.h"
#include "probe/session.h"
#include "vhost/shared_map.h"

enum { BACK_RINGS = 16, BACK_REGIONS = 32, BACK_DISK_BYTES = 1 << 20 };

/* What a front end can do wrong without being told to: one finding for each. */
enum complaint {
	COMPLAINT_FORM,	  /* sizes, flags, descriptors of messages */
	COMPLAINT_GATE,	  /* messages and flags that were not negotiated */
	COMPLAINT_OFFER,  /* features that were not offered */
	COMPLAINT_MEMORY, /* regions */
	COMPLAINT_RING,	  /* sizes, addresses, order */
	COMPLAINT_CHAIN,  /* what is in the rings */
	COMPLAINT_KICK,	  /* notifications */
	COMPLAINTS
};

/* How to answer wrongly. */
enum fault {
	FAULT_NONE,
	FAULT_REQUEST, /* another message's number */
	FAULT_FLAG,    /* without the reply flag */
	FAULT_VERSION, /* version 0 */
	FAULT_SHORT,   /* 4 bytes less */
	FAULT_LONG,    /* 64 bytes more */
	FAULT_HUGE,    /* a size of 2^32 - 1 */
	FAULT_FDS,     /* with eight descriptors */
	FAULT_HALF,    /* half a reply, then the end */
	FAULT_TWICE,   /* two replies */
	FAULT_SILENT,  /* none */
	FAULT_VALUE,   /* all ones as value */
	FAULT_ZERO,    /* zeroes as value */
	FAULT_NACK,    /* an acknowledgement that says no */
	FAULT_CLOSE,   /* the end instead of an answer */
	FAULT_USED_ID,
	FAULT_USED_INDEX,
	FAULT_USED_LENGTH,
	FAULT_USED_TWICE,
	FAULT_HEADER, /* in the rings, with the first chain */
	FAULT_CHANNEL /* nonsense on the back end's own channel */
};

struct back_region {
	struct vhost_user_region r;
	struct shared_map map;
};

struct back_ring {
	bool has_num, has_addr, enabled, polled, running, asleep;
	uint32_t size, base;
	struct vhost_vring_addr addr;
	int kick_fd, call_fd, err_fd;
	struct virtq q;
	unsigned done;
	uint64_t slept_ns; /* asleep since */
};

struct back {
	struct probe p;			    /* its options, report, link, target and verdict */
	uint64_t offered, protocol_offered; /* of this session */
	unsigned delay_ms;		    /* before each answer */
	bool in_pieces;			    /* answers byte by byte */
	enum fault fault;
	uint32_t fault_request; /* which answer; 0: the first */
	unsigned fault_after;	/* FAULT_CLOSE: after so many messages */

	bool takes_packed; /* the front end does, when it is offered */
	bool changed;	   /* it was started for this test, with other features than it will be offered */
	bool is_starting;  /* it was started, and its rings never ran: a machine may have to boot first */
	bool is_fresh;	   /* the connection was made, and nothing was said on it */
	bool owned, has_features, has_memory, fault_done;
	uint64_t features, protocol;
	unsigned messages;
	struct memory memory;
	struct back_region region[BACK_REGIONS];
	unsigned n_regions;
	struct back_ring ring[BACK_RINGS];
	int channel_fd;
	uint8_t status;
	uint8_t *disk;
	char complaint[COMPLAINTS][256];
};

void back_defaults(struct back *b);
/* The connection. 0, -1 with the verdict. */
int back_connect(struct back *b, unsigned timeout_ms);
void back_close(struct back *b);
/*
 * Answer and serve until `done` says so, the connection ends (-ECONNRESET) or so many ms have passed
 * (-ETIMEDOUT). 0: done.
 */
int back_serve(struct back *b, bool (*done)(const struct back *b), unsigned ms);
/* All rings of a pair or a queue run and are enabled. */
bool back_is_set_up(const struct back *b);
/* And something was done on one of them. */
bool back_has_worked(const struct back *b);
bool back_has_worked_long(const struct back *b);
void complain(struct back *b, enum complaint c, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* back_rings.c: start what can start; serve what was kicked. */
void back_start_rings(struct back *b);
void back_stop_ring(struct back_ring *r);
void back_serve_rings(struct back *b);

#endif
