/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to link*.c. */
#ifndef GUISE_VHOST_LINK_INTERNAL_H
#define GUISE_VHOST_LINK_INTERNAL_H

#include <pthread.h>

#include "base/loop.h"
#include "vhost/link.h"

struct vhost_endpoint;

struct vhost_link {
	struct vhost_link_config config;
	struct loop *loop;
	pthread_t thread;
	bool is_running;
	int wake_fd; /* eventfd: the thread looks at what happened */
	int err_fd;  /* eventfd of rings whose owner gave none */

	/* the link's thread only */
	struct vhost_endpoint *endpoint;
	struct loop_source *retry;
	struct loop_source *device_timer; /* looks whether a device is still there */
	bool is_told;	   /* the owner knows of the connection */
	unsigned failures; /* connections in a row that came to nothing */

	pthread_mutex_t abort_lock; /* leaf lock; protects the next two */
	int abort_fd;
	bool is_ending;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* a connection came */
	/* protected by lock */
	struct vhost *v; /* NULL: disconnected */
	struct loop_source *socket_source, *channel_source;
	struct vhost_link_info info;
	uint64_t since; /* when the connection was made */
	bool is_lost, is_config_stale;
	uint8_t space[256];	/* the other side's configuration space */
	bool is_written[256]; /* bytes of it that the driver has written: for the next back end */
	struct vhost_inflight inflight;
	int log_fd; /* not owned; -1: no log */
	uint64_t log_size;
	/* what the owner started */
	bool is_started;
	uint64_t features;
	struct vhost_region *region;
	unsigned n_regions;
	struct vhost_ring *ring; /* config.n_rings of them */
	unsigned n_rings;
	bool is_handed[VHOST_MAX_RINGS];   /* to some back end: its base is now what the ring says */
	bool is_disabled[VHOST_MAX_RINGS];
};

/* All with link->lock held. */
void link_drop(struct vhost_link *link);
int link_judge(struct vhost_link *link, int err);
int link_hand_ring(struct vhost_link *link, unsigned index);
/* Write again what the driver has written. */
int link_repeat_writes(struct vhost_link *link);
int link_keep_memory(struct vhost_link *link, const struct vhost_region *region, unsigned n);
int link_keep_rings(struct vhost_link *link, const struct vhost_ring *ring, unsigned n);
uint32_t link_base(struct vhost_link *link, unsigned index);
void link_stop_rings(struct vhost_link *link, uint32_t *base);

#endif
