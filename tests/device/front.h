/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A scripted vhost-user front end, for tests of back ends: it sends what it is told to, in any order and however wrong, and drives
 * rings in memory of its own with the driver half.
 */
#ifndef TEST_FRONT_H
#define TEST_FRONT_H

#include "vhost/message.h"
#include "virtio/virtq.h"

enum { FRONT_RAM = 1 << 20, FRONT_RINGS = 4, FRONT_DATA = 0x80000, FRONT_WAIT_MS = 20000 };
/* Guest address and user address of the memory differ, so that a mix-up shows. */
#define FRONT_GPA  0x100000ull
#define FRONT_USER 0x7f0000000000ull

struct front {
	int fd;
	struct vhost_user_receiver receiver;
	int ram_fd;
	uint8_t *ram;
	struct memory mem; /* the driver's view: FRONT_GPA on */
	struct virtq_config config[FRONT_RINGS];
	struct virtq_driver driver[FRONT_RINGS];
	int kick[FRONT_RINGS], call[FRONT_RINGS];
	uint64_t features, protocol;
	unsigned n_rings;
};

void fe_init(struct front *f, unsigned n_rings);
void fe_deinit(struct front *f);
/* Connect, waiting until somebody listens. */
void fe_connect(struct front *f, const char *path);
void fe_disconnect(struct front *f);

/* A request with its least payload. */
struct vhost_user_message *fe_message(struct vhost_user_message *m, uint32_t id);
struct vhost_user_message *fe_u64(struct vhost_user_message *m, uint32_t id, uint64_t value);
struct vhost_user_message *fe_state(struct vhost_user_message *m, uint32_t id, uint32_t index, uint32_t num);
struct vhost_user_message *fe_mem_table(struct front *f, struct vhost_user_message *m);
struct vhost_user_message *fe_addr(struct front *f, struct vhost_user_message *m, unsigned ring);

void fe_send(struct front *f, const struct vhost_user_message *m);
/* Send, and receive the reply, which must be one to it. */
void fe_ask(struct front *f, struct vhost_user_message *m);
uint64_t fe_ask_u64(struct front *f, uint32_t id);
/* Send with NEED_REPLY; the acknowledgement's value. -1: the connection was closed instead. */
int64_t fe_ack(struct front *f, struct vhost_user_message *m);
void fe_must_close(struct front *f); /* the back end closes the connection */

/* SET_OWNER and both negotiations; what is wanted must be offered. */
void fe_negotiate(struct front *f, uint64_t features, uint64_t protocol);
/* Rings new, in the driver's view: layout by features; call before what hands them over. */
void fe_make_rings(struct front *f, uint32_t size);
void fe_start_ring(struct front *f, unsigned ring, uint32_t base);
void fe_start(struct front *f, uint32_t size); /* memory and all rings, as most do it */

/* Add a chain of buffers at FRONT_DATA + offsets, and kick. */
void fe_add(struct front *f, unsigned ring, const struct virtq_segment *seg, unsigned readable, unsigned writable, void *token);
void *fe_wait(struct front *f, unsigned ring, uint32_t *written); /* 20 s at most, then the test fails */
bool fe_quiet(struct front *f, unsigned ring, int ms);	    /* nothing comes back within that time */

#endif
