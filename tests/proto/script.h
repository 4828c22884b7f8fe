/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vhost-user back end that does as a script says: it answers like an honest one, notes what it was told,
 * and at one chosen message dies, refuses, keeps silent or lies. It serves no rings.
 */
#ifndef GUISE_TESTS_PROTO_SCRIPT_H
#define GUISE_TESTS_PROTO_SCRIPT_H

#include <pthread.h>
#include <stdatomic.h>

#include "vhost/message.h"

enum fault {
	HONEST,
	DIE_BEFORE,    /* the message is read, the connection closed */
	DIE_AFTER,     /* answered first */
	REFUSE,	       /* acknowledged with an error; its own reply: all ones */
	SILENT,	       /* no answer */
	WRONG_REQUEST, /* the answer names another request */
	WRONG_SIZE,
	WRONG_VERSION,
	NOT_A_REPLY,
	EXTRA_FD,
	HALF_A_HEADER, /* ...and then the end */
	TALK_UNASKED,  /* two answers */
	FAULTS
};

enum { SCRIPT_MAX = 512, SCRIPT_RINGS = 8 };

struct script_ring {
	uint32_t size, base;
	struct vhost_vring_addr addr;
	bool is_started, is_enabled, has_call, has_err;
};

struct script {
	/* set before script_start() */
	char path[100];
	bool client; /* connect; else listen */
	uint64_t features, protocol, n_queues, n_slots;
	enum fault fault;
	unsigned fault_at;	/* n-th message of a connection, from 1; 0: none */
	uint32_t fault_request; /* or: this request; 0: none */
	unsigned fault_times;	/* in this many connections */

	pthread_t thread;
	int listener, stop_fd;
	pthread_mutex_t lock;
	/* protected by lock */
	int socket, channel; /* present connection; -1: none */
	unsigned connections;
	uint64_t set_features, set_protocol, status, mtu, rarps, log_size;
	unsigned n_regions;
	uint32_t heard[SCRIPT_MAX]; /* of the present connection */
	unsigned n_heard, most_heard;
	struct script_ring ring[SCRIPT_RINGS];
	uint8_t config[VHOST_USER_MAX_CONFIG];
	char broken_rule[200]; /* what the front end did wrong */
};

void script_init(struct script *s, const char *name);
void script_start(struct script *s);
void script_end(struct script *s);
/* Close the present connection. */
void script_hang_up(struct script *s);
/* Copy of the state. */
void script_look(struct script *s, struct script *copy);
/* Send a request of the back end on its channel; the acknowledgement (0: fine), or -1: none within 10 s. */
int64_t script_ask(struct script *s, struct vhost_user_message *m);

#endif
