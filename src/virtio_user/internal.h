/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to front*.c: the state of a front port. */
#ifndef GUISE_VIRTIO_USER_INTERNAL_H
#define GUISE_VIRTIO_USER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "memory/memory.h"
#include "vhost/link.h"
#include "virtio/virtq.h"
#include "virtio_user/virtio_user.h"

enum { FRONT_BURST = 64, NO_BUFFER = 0xffff };

/* One ring with its buffers. As many buffers as ring entries, each either free, in the ring, or lent. */
struct front_side {
	struct virtq_driver ring;
	struct virtq_config config;
	int kick_fd, call_fd;
	uint8_t *buffers;	/* the first one */
	uint16_t *next_piece;	/* by buffer: the next of its packet, or NO_BUFFER; of packets of several pieces only */
	void **free_one;	/* a queue: what came back first goes out first */
	unsigned first, count;
	unsigned owed;		/* bursts since the device's wish for kicks was looked at */
	bool reported;		/* its error was logged */
};

/* Protected by lock, which the link's thread takes to reset the rings; else the queue's user has it to itself. */
struct front_queue {
	pthread_mutex_t lock;
	struct front_side rx, tx;
	bool calls_wanted;	/* the device is asked to signal rx.call_fd */
	/* Pieces of a packet whose others have not come yet (mergeable buffers). */
	struct port_buffer pending[PORT_MAX_PIECES];
	unsigned n_pending, pieces_wanted;
	struct port_counters counters;
} __attribute__((aligned(128)));

struct front {
	struct port port;
	struct vhost_link *link;
	const char *owner;
	char *owner_copy, *path_copy;
	struct virtio_user_config config;
	struct memory mem;
	uint8_t *hva;
	uint64_t size;
	int fd;
	uint32_t stride, room;	/* of buffers: from one to the next; what each holds */
	uint64_t features;	/* negotiated, 0: not yet */
	unsigned receive_offloads;
	bool mergeable;		/* constant while rings run */
	_Atomic bool up, polling;
	bool started;		/* protected by state_lock, with what follows */
	unsigned n_wanted;	/* queues that are used: the first ones */
	pthread_mutex_t state_lock;
	pthread_cond_t changed;
	unsigned n_made;	/* queues, whatever port.n_queues is now */
	struct front_queue *queue;
};

/* Memory, rings and buffers for config.n_queues queues (front_memory.c). 0/-errno. */
int front_make_memory(struct front *f);
void front_free_memory(struct front *f);
/* Empty both rings of a queue and begin anew; all buffers but lent ones are free, then the receive ring is filled. Under lock. */
int front_reset_queue(struct front *f, struct front_queue *q);
/* Put all free receive buffers into the ring. Under lock. */
void front_refill(struct front *f, struct front_queue *q);

extern const struct port_burst_ops front_burst_ops; /* front_burst.c */
int front_send(struct port *port, unsigned queue, const struct port_packet *packets, unsigned n);
int front_receive(struct port *port, unsigned queue, struct port_packet *packets, unsigned n);

static inline void put_free(struct front_side *s, void *buffer)
{
	unsigned at = s->first + s->count++;

	s->free_one[at < s->config.size ? at : at - s->config.size] = buffer;
}

static inline void *get_free(struct front_side *s)
{
	void *buffer = s->free_one[s->first];

	if (++s->first == s->config.size)
		s->first = 0;
	s->count--;
	return buffer;
}

#endif
