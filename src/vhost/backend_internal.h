/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to backend*.c: the session's state. Everything belongs to the loop's thread but what says otherwise. */
#ifndef GUISE_VHOST_BACKEND_INTERNAL_H
#define GUISE_VHOST_BACKEND_INTERNAL_H

#include <pthread.h>

#include "vhost/backend.h"
#include "vhost/shared_map.h"
#include "virtio/virtq_inflight.h"

enum { SEND_TIMEOUT_MS = 5000, MISS_TIMEOUT_MS = 5000, MAX_LOGGED_REFUSALS = 32 };

/* A memory region of the front end. */
struct region {
	struct vhost_user_region wire;
	struct shared_map map;
	unsigned count;	  /* how often it was added */
	uint64_t device, inode;	/* of its file */
};

/* A ring, with what the front end has said so far. */
struct ring {
	struct vhost_backend_ring face;
	bool started;	   /* the owner serves it */
	bool wants_start;  /* SET_VRING_KICK came, no GET_VRING_BASE since */
	bool has_base, has_addr, enable_flag;
	uint32_t num, base;
	uint32_t opened_base; /* what it was last opened with */
	struct vhost_vring_addr addr;
	struct virtq_config config; /* made of num, addr and features when it is opened */
	gpa_t log_gpa;	   /* of the used ring in the log, if log_used */
	bool log_used;
	struct virtq_inflight inflight;
	/* Numbers that never change while rings run, so that threads may write to them at any time; see ring_set_fd(). */
	int call_fd, err_fd;
	_Atomic bool has_call, has_err;
	_Atomic bool call_owed; /* the driver is to be called once there is a descriptor for it */
};

/* A cached translation is a slot of config.memory; this is what waits for one. */
struct iotlb {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool cancelled;	   /* protected by lock: rings are being stopped, do not wait */
	pthread_t session; /* the thread that must not wait, for it brings the translations */
	unsigned since_quiesce; /* updates, each of which leaves a table for memory_quiesce() */
};

struct vhost_backend {
	struct vhost_backend_config config;
	uint64_t offered, offered_protocol;
	struct loop *loop;
	struct vhost_endpoint *endpoint;
	int fd; /* the session's; -1: none */
	struct loop_source *source;
	struct vhost_user_receiver receiver;
	int trouble_fd; /* eventfd: a shared mapping lost its file, or a ring failed */
	struct loop_source *trouble_source;
	char why[256]; /* what refuse() said */
	unsigned logged_refusals;
	struct vhost_backend_counters counters;

	/* the session */
	uint64_t features;	   /* changes only while no ring is started */
	_Atomic uint64_t protocol;
	bool features_set;
	_Atomic uint8_t status;
	struct region *region[VHOST_BACKEND_MAX_SLOTS];
	unsigned n_regions;
	uint32_t next_slot_id;
	struct shared_map log;
	int log_fd; /* eventfd that tells of changes of the log; -1: none */
	struct shared_map inflight;
	uint16_t inflight_rings, inflight_size;
	struct iotlb iotlb;
	pthread_mutex_t channel_lock;
	int channel_fd; /* the back end's requests; protected by channel_lock */

	struct ring ring[]; /* config.n_rings */
};

/* What a handler does with a message; *reply is made by the row and to be filled if it has a reply. 0, or refuse(). */
typedef int handler_fn(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply);

/* Remember why a message is refused: "field value: reason". Is -EPROTO. */
void refuse_because(struct vhost_backend *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define refuse(b, ...) (refuse_because(b, __VA_ARGS__), -EPROTO)

static inline bool has_feature(const struct vhost_backend *b, unsigned bit)
{
	return b->features >> bit & 1;
}

static inline bool has_protocol(const struct vhost_backend *b, unsigned bit)
{
	return b->protocol >> bit & 1;
}

/* backend_ring.c */
int rings_init(struct vhost_backend *b);
void rings_deinit(struct vhost_backend *b);
void rings_stop(struct vhost_backend *b);   /* all, for good */
void rings_forget(struct vhost_backend *b); /* stopped: back to the initial state, but for call descriptors */
void rings_drop_fds(struct vhost_backend *b);
void rings_pause(struct vhost_backend *b);  /* nobody touches memory until ... */
int rings_resume(struct vhost_backend *b);  /* ... this. 0, or refuse() if a ring cannot go on. */
int rings_start(struct vhost_backend *b);   /* those that became complete. 0, or refuse() */
handler_fn set_vring_num, set_vring_addr, set_vring_base, get_vring_base, set_vring_kick, set_vring_call, set_vring_err,
	set_vring_enable;

/* backend_memory.c */
handler_fn set_mem_table, get_max_mem_slots, add_mem_reg, rem_mem_reg;
void memory_forget(struct vhost_backend *b); /* rings are stopped */
/* The address space that descriptors use has changed its kind (ACCESS_PLATFORM); rings are paused. */
int memory_refill(struct vhost_backend *b);
/* GPA of [user, user + len) in one region; false: it is in none. */
bool memory_user_to_gpa(struct vhost_backend *b, uint64_t user, uint64_t len, gpa_t *gpa);
uint8_t *memory_user_to_hva(struct vhost_backend *b, uint64_t user, uint64_t len);

/* backend_log.c */
handler_fn set_log_base, set_log_fd;
void log_forget(struct vhost_backend *b);
bool log_active(const struct vhost_backend *b);
void log_mark(struct vhost_backend *b, gpa_t gpa, uint64_t len); /* any thread while its ring is started */
void log_mark_ring(struct vhost_backend *b, struct ring *r);

/* backend_inflight.c */
handler_fn get_inflight_fd, set_inflight_fd;
void inflight_forget(struct vhost_backend *b);
void inflight_clear(struct vhost_backend *b, const struct ring *r);
/* A ring's part of the buffer, or NULL: none is kept for it. */
void *inflight_region(struct vhost_backend *b, const struct ring *r);

/* backend_iotlb.c */
handler_fn iotlb_msg, set_backend_req_fd;
void iotlb_init(struct vhost_backend *b);
void iotlb_deinit(struct vhost_backend *b);
void iotlb_enable(struct vhost_backend *b, bool on); /* rings are stopped */
bool iotlb_is_cancelled(struct vhost_backend *b);
/* Are the ring's own addresses translated? If not, asks for what is missing. Without ACCESS_PLATFORM: true. */
bool iotlb_covers_ring(struct vhost_backend *b, const struct ring *r);
void iotlb_cancel(struct vhost_backend *b, bool on); /* waiting ring threads give up, and do not wait */
void channel_forget(struct vhost_backend *b);

#endif
