/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio device without its transport (virtio 1.3, chapter 2): status handshake, feature negotiation,
 * queues, configuration space. A transport (pci.h, mmio.h) turns register accesses into the calls below; a device
 * type (devices/) serves the queues.
 *
 * Threads: transports call from any vCPU thread; virtio_device.lock makes their calls one at a time, and the type's
 * functions are called with it held. The queues' rings belong to the device's I/O thread from start() until stop()
 * returns. Who delivers calls (interrupts) may be on any thread.
 */
#ifndef GUISE_VIRTIO_DEVICE_H
#define GUISE_VIRTIO_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "bus/dma.h"
#include "virtio/virtq.h"

enum { VIRTIO_MAX_QUEUES = 64, VIRTIO_NO_VECTOR = 0xffff };

struct virtio_device;

struct virtio_queue {
	struct virtio_device *device;
	uint16_t index;
	uint16_t max_size;	    /* 0: no such queue */
	struct virtq_config config; /* as the driver set it */
	bool enabled;
	uint16_t vector;	    /* MSI-X, or VIRTIO_NO_VECTOR */
	int kick_fd;		    /* eventfd that a kick writes; the I/O thread reads it */
	int call_fd;		    /* eventfd by which somebody outside calls the driver, see watch_calls; -1: nobody */
	struct virtq ring;	    /* the I/O thread's while started */
	bool reported;		    /* its error was logged; the I/O thread's too */
	bool logged;		    /* tell the transport of every push; constant while started */
	_Atomic bool idle;	    /* started, but without side effects: a network device drains what is sent (vhost-user) */
};

/* What a kind of device is. One constant per kind. */
struct virtio_type {
	const char *name;
	uint16_t id;	      /* virtio 1.3, chapter 5 */
	uint32_t config_size; /* bytes of device-specific configuration */
	/*
	 * DRIVER_OK: the enabled queues are ready to be popped (0 or -errno: DEVICE_NEEDS_RESET). stop is its mirror
	 * and returns only when no thread touches a ring or a chain's memory any more.
	 */
	int (*start)(void *opaque);
	void (*stop)(void *opaque);
	/* Configuration space; offset + size is within config_size. write may be NULL: read-only. */
	void (*read_config)(void *opaque, uint32_t offset, void *data, unsigned size);
	void (*write_config)(void *opaque, uint32_t offset, const void *data, unsigned size);
	/* One queue alone, for RING_RESET: NULL where the device does not offer that feature. */
	void (*stop_queue)(void *opaque, unsigned index);
	int (*start_queue)(void *opaque, unsigned index);
	/*
	 * Of queues with a call_fd: from here on its signals are the device's to turn into virtio_call_driver() (on), or the
	 * transport delivers them itself (off). On from the beginning. Any thread, with the transport's locks held. NULL
	 * where there are no such queues.
	 */
	void (*watch_calls)(void *opaque, unsigned index, bool on);
	/* queue->idle of a started queue has changed. NULL: its kick_fd is signalled, and the type looks. */
	void (*idle_changed)(void *opaque, unsigned index);
};

struct virtio_transport_ops {
	void (*call)(void *opaque, const struct virtio_queue *queue); /* a queue's interrupt; any thread */
	void (*config_changed)(void *opaque);			      /* any thread */
	/* NULL but where queues are handed over one by one (vhost/serve.h). The queue's thread. */
	void (*queue_failed)(void *opaque, const struct virtio_queue *queue);
	void (*pushed)(void *opaque, const struct virtio_queue *queue, const struct virtq_chain *chain, uint32_t written);
};

struct virtio_device {
	const struct virtio_type *type;
	void *opaque;
	struct dma dma;
	uint64_t offered; /* feature bits */
	unsigned n_queues;
	struct virtio_queue *queue;
	const struct virtio_transport_ops *transport;
	void *transport_opaque;

	pthread_mutex_t lock;
	/* protected by lock */
	uint64_t accepted; /* by the driver; what is negotiated once FEATURES_OK stands */
	_Atomic uint8_t status; /* NEEDS_RESET may be set without the lock */
	bool started;
	_Atomic uint8_t config_generation;
};

/* What the device core always offers beside a type's own bits. */
uint64_t virtio_ring_features(void);

/*
 * features: the type's own bits. queue_sizes: the largest size of each queue. 0/-errno. The device owns its
 * eventfds; opaque and dma.mem must outlive it.
 */
int virtio_device_init(struct virtio_device *d, const struct virtio_type *type, void *opaque, const struct dma *dma,
		       uint64_t features, const uint16_t *queue_sizes, unsigned n_queues);
void virtio_device_deinit(struct virtio_device *d); /* stops it first */

static inline bool virtio_has(const struct virtio_device *d, unsigned feature)
{
	return d->accepted >> feature & 1;
}

/* --- for transports --- */

uint8_t virtio_get_status(struct virtio_device *d);
void virtio_set_status(struct virtio_device *d, uint8_t status);
uint32_t virtio_get_features(struct virtio_device *d, unsigned select); /* offered, 32 bits at a time */
uint32_t virtio_get_accepted(struct virtio_device *d, unsigned select);
void virtio_accept_features(struct virtio_device *d, unsigned select, uint32_t bits);
void virtio_enable_queue(struct virtio_device *d, unsigned index);
/* MMIO's QueueReady = 0: the queue is out of use, the others of a running device go on where they were. */
void virtio_disable_queue(struct virtio_device *d, unsigned index);
void virtio_reset_queue(struct virtio_device *d, unsigned index);
void virtio_read_config(struct virtio_device *d, uint32_t offset, void *data, unsigned size);
void virtio_write_config(struct virtio_device *d, uint32_t offset, const void *data, unsigned size);
void virtio_kick(struct virtio_device *d, unsigned index); /* a doorbell that no ioeventfd took */

/* --- for device types, on the I/O thread --- */

/*
 * virtq_push() that also tells of the guest memory that was written. Follow a batch of pushes by virtio_call().
 */
void virtio_push(struct virtio_queue *queue, const struct virtq_chain *chain, uint32_t written);
void virtio_call(struct virtio_queue *queue); /* if the driver wants to be called */
void virtio_call_driver(struct virtio_queue *queue); /* in any case: somebody else served the ring. Any thread */
/* The queue's driver broke the rules: log once, set DEVICE_NEEDS_RESET, tell the driver. */
void virtio_queue_failed(struct virtio_queue *queue);
/* Configuration space changed: a new generation and an interrupt. Any thread, without the lock. */
void virtio_config_changed(struct virtio_device *d);

#endif
