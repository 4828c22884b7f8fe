/* SPDX-License-Identifier: BSD-2-Clause */
/* The work of guise port: one thread per queue that moves packets. port.c sets it up and reports. */
#ifndef GUISE_CMD_PORT_WORK_H
#define GUISE_CMD_PORT_WORK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <guise/port.h>

enum work_mode { WORK_SINK, WORK_SEND, WORK_EXCHANGE, WORK_REFLECT, WORK_ECHO, WORK_FORWARD };
extern const char *const work_mode_names[]; /* as on the command line, NULL-terminated */

enum { WORK_BURST = 64, WINDOWS_MAX = 20000, WINDOW_NS = 1000000 };

struct work {
	struct port *port[2]; /* the second one: of WORK_FORWARD only */
	enum work_mode mode;
	bool polling, check; /* fill frames, and check them */
	bool offloads;	     /* packets may come with checksums and segmentation undone */
	uint32_t bytes;	     /* of a frame that is sent */
	unsigned burst;
	double rate;	     /* packets per second and queue that are sent; 0: as many as possible */
	uint64_t count;	     /* packets per queue after which it ends; 0: none */
	int cpu;	     /* that queue 0 runs on, queue 1 on the next...; -1: anywhere */
	uint8_t mac[6];
	_Atomic bool stop;
};

/* What one queue's thread did. */
struct work_queue {
	struct work *work;
	unsigned queue;
	pthread_t thread;
	uint8_t template[PORT_HEADER + 60];
	uint64_t sent, received, checked, damaged, out_of_order;
	uint64_t unfinished_checksums, unsegmented; /* of received packets, where they are looked at */
	uint64_t next_number, expected;
	uint64_t received_before, quiet_since;
	_Atomic bool done;
	/* packets in each window of a millisecond in which there were any, in packets per second */
	uint64_t window_packets, window_start, calls;
	float *window;
	unsigned n_windows;
} __attribute__((aligned(128)));

/* Work until work->stop. arg: struct work_queue. */
void *work_run(void *arg);

#endif
