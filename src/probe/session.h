/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The probe as a front end: one connection, its negotiation, memory and rings, in steps that a test can take
 *in any order.
 *
 * Every step returns 0, or -1 after it wrote the verdict, so a test reads
 *	if (session_open(p) || session_features(p) || ...) return;
 * The first verdict of a test stays. What a test did not close, the runner closes.
 */
#ifndef GUISE_PROBE_SESSION_H
#define GUISE_PROBE_SESSION_H

#include "probe/guest.h"
#include "probe/link.h"
#include "probe/probe.h"
#include "probe/target.h"

enum { PROBE_QUEUES_MAX = 8, SLOTS = 32, SLOT_BYTES = 4096 };

/* TX: a frame that nobody need answer; ARP: one that a host or router does. READ, WRITE: a sector; ID: the
 * serial number. */
enum request_kind { REQUEST_TX, REQUEST_ARP, REQUEST_RX, REQUEST_READ, REQUEST_ID, REQUEST_WRITE };

/* A request that is or was with the device. Its readable part is at gpa, its writable one half a slot behind.
 */
struct request {
	bool busy;
	enum request_kind kind;
	gpa_t gpa;
	unsigned n_readable, n_writable; /* segments */
	uint32_t writable_bytes;
	uint64_t sector;
	struct virtq_segment segment[128];
};

struct probe_queue {
	unsigned index;
	bool ready; /* rings laid out, eventfds there */
	struct virtq_config config;
	struct virtq_driver driver;
	int kick_fd, call_fd, err_fd;
	struct request request[SLOTS];
	unsigned done;	   /* requests that came back */
	unsigned received; /* bytes of the last frame, RX */
};

struct verdict {
	enum outcome outcome;
	char text[512];
	struct figure figure[FIGURES_MAX];
	unsigned n_figures;
};

struct probe {
	const struct probe_options *options;
	struct report *report;
	struct link link;
	struct guest guest;
	struct verdict verdict;
	struct target target;
	bool lost; /* the target is gone for good: nothing more can be tried */

	/* Learned at first contact */
	uint64_t offered, protocol_offered;
	uint64_t n_queues;	/* that the target serves; 0: it did not say */
	bool answers;		/* net: frames come back, an ARP reply or the frame itself */
	uint8_t sector[8][512]; /* blk: what the first sectors hold ... */
	bool sector_known[8];	/* ... once they were read */

	/* What the session under test is to negotiate; reset before each test */
	uint64_t want, want_protocol;
	bool packed, ask_acks;
	unsigned ring_size;
	uint32_t base;

	/* The session */
	uint64_t features, protocol; /* negotiated */
	bool acks;		     /* REPLY_ACK is negotiated and asked for */
	struct probe_queue queue[PROBE_QUEUES_MAX];
	bool watching; /* work_watch() */
	uint32_t seed; /* of everything made up */
};

/* --- verdicts --- */
int fail(struct probe *p, const char *format, ...) __attribute__((format(printf, 2, 3)));	    /* -1 */
int not_applicable(struct probe *p, const char *format, ...) __attribute__((format(printf, 2, 3))); /* -1 */
int warn(struct probe *p, const char *format, ...) __attribute__((format(printf, 2, 3)));	    /* 0 */
void remark(struct probe *p, const char *format, ...) __attribute__((format(printf, 2, 3))); /* to a pass */
void add_figure(struct probe *p, const char *name, double value);
/* 0 if the feature was offered, else not applicable. */
int need_feature(struct probe *p, unsigned bit, const char *name);
int need_protocol(struct probe *p, unsigned bit);

/* --- messages --- */
/* A request with a reply: sends m, receives the reply into m. */
int ask(struct probe *p, struct vhost_user_message *m);
/* A request without: with acks, waits for a 0. */
int tell(struct probe *p, struct vhost_user_message *m);
/* tell(), but the answer is handed over: *ack is 0 or not, or -1: the connection was closed, -2: no acks,
 * nothing is known. */
int tell_for_answer(struct probe *p, struct vhost_user_message *m, int64_t *ack);
int ask_u64(struct probe *p, uint32_t request, uint64_t *value);
int tell_u64(struct probe *p, uint32_t request, uint64_t value);
int tell_nothing(struct probe *p, uint32_t request);
int tell_state(struct probe *p, uint32_t request, unsigned index, unsigned num);
int tell_fd(struct probe *p, uint32_t request, unsigned index, int fd); /* fd -1: bit 8 */
/* GET_FEATURES: whatever else comes first is a fault. */
int barrier(struct probe *p);
bool has(const struct probe *p, unsigned bit);
bool has_protocol(const struct probe *p, unsigned bit);

/* --- a session, step by step --- */
int session_connect(struct probe *p);	/* the connection only */
int session_negotiate(struct probe *p); /* GET_FEATURES, protocol features, SET_OWNER */
int session_features(struct probe *p);	/* SET_FEATURES; with STATUS, the driver's status around it */
int session_ready(struct probe *p);	/* with STATUS: DRIVER_OK */
int session_memory(struct probe *p);	/* SET_MEM_TABLE */
int session_lay_out(struct probe *p, unsigned index); /* a queue's rings and eventfds; no message */
int session_num(struct probe *p, unsigned index);
int session_base(struct probe *p, unsigned index);
int session_addr(struct probe *p, unsigned index);
int session_kick(struct probe *p, unsigned index);
int session_call(struct probe *p, unsigned index);
int session_enable(struct probe *p, unsigned index, bool enable); /* nothing without PROTOCOL_FEATURES */
int session_queue(struct probe *p, unsigned index);		  /* all of a queue, enabled last */
unsigned session_queues(const struct probe *p);			  /* of one pair (net) or one (blk) */
/* All of the above for the device's first queue pair or queue. */
int session_open(struct probe *p);
/* session_open() up to where memory is set and nothing else. */
int session_prepare(struct probe *p);
int session_get_base(struct probe *p, unsigned index, uint32_t *base); /* stops it */
void session_close(struct probe *p);
/* What a fresh test negotiates. */
void session_defaults(struct probe *p, bool packed);
/* The base of a ring that nothing was done on, and the one that corresponds to where the driver stands with
 * nothing outstanding. */
uint32_t session_driver_base(struct probe *p, unsigned index);

#endif
