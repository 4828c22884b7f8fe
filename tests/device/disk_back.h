/* SPDX-License-Identifier: BSD-2-Clause */
/* A vhost-user back end to test, with a disk behind it and a scripted front end before it, for the tests test_vhost*.c. */
#ifndef TEST_DISK_BACK_H
#define TEST_DISK_BACK_H

#include <pthread.h>

#include "devices/blk.h"
#include "front.h"
#include "vhost/serve.h"

enum { DISK = 1 << 20, RINGS = 2, SIZE = 64 };

#define BIT(n)	 (1ull << (n))
#define PROTO(n) BIT(VHOST_USER_PROTOCOL_F_##n)
#define ALL_PROTOCOL                                                                                                  \
	(PROTO(MQ) | PROTO(LOG_SHMFD) | PROTO(BACKEND_REQ) | PROTO(CONFIG) | PROTO(INFLIGHT_SHMFD) | PROTO(RESET_DEVICE) | \
	 PROTO(CONFIGURE_MEM_SLOTS) | PROTO(STATUS))

/* The back end, on a thread of its own. */
struct back {
	char folder[32], path[64], image[64];
	struct memory mem;
	struct dma dma;
	struct disk *disk;
	struct blk *blk;
	struct loop *loop;
	struct vhost_serve *served;
	pthread_t thread;
	struct front front;
};

/* cmocka's setup (the front end is connected) and teardown. */
int start_back(void **state);
int stop_back(void **state);

/* A new connection, negotiated. */
struct front *again(struct back *b, uint64_t features);
/* One sector into FRONT_DATA + at. */
void add_read(struct front *f, unsigned ring, uint32_t at, uint64_t sector);
void check_read(struct front *f, uint32_t at, uint32_t sector);
void read_sector(struct front *f, unsigned ring, uint32_t sector);
/* Proof of life: a session from its beginning to a sector read. */
void next_one_is_served(struct back *b);

#endif
