/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile driver's messages to the devices that parse some: vsock packets, console control messages and data, balloon
 * page numbers and statistics. The input is a row of messages: device and queue, length, bytes. A vsock header's
 * constant parts are filled in most of the time, so that the rest of it is reached.
 */
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_vsock.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/balloon.h"
#include "devices/vconsole.h"
#include "devices/vsock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAM = 1 << 20, RINGS = 0x10000, BUFFERS = 0x80000, MESSAGE = 0xf0000, SIZE = 16, QUEUES = 4, CID = 3 };
enum { VSOCK, CONSOLE, BALLOON, DEVICES };

struct bench {
	uint8_t *ram;
	struct memory mem;
	struct dma dma;
	struct loop *loop;
	pthread_t thread;
	struct console *console;
	struct vconsole *vconsole;
	struct vsock *vsock;
	struct balloon *balloon;
	struct virtio_device *device[DEVICES];
	struct virtq_driver queue[DEVICES][QUEUES];
	char path[64];
};

static const uint64_t features[DEVICES] = {
	1ull << VIRTIO_VSOCK_F_SEQPACKET, 1ull << VIRTIO_CONSOLE_F_MULTIPORT, 1ull << VIRTIO_BALLOON_F_STATS_VQ | 1ull << VIRTIO_BALLOON_F_REPORTING,
};
static const unsigned n_queues[DEVICES] = { 3, 4, 4 };

static void call(void *opaque, const struct virtio_queue *queue)
{
}

static void config_changed(void *opaque)
{
}

static const struct virtio_transport_ops transport = { .call = call, .config_changed = config_changed };

static void must(int err)
{
	if (err)
		abort();
}

static void *run(void *loop)
{
	loop_run(loop);
	return NULL;
}

static bool is_receive(unsigned device, unsigned queue)
{
	return (device == VSOCK && queue == 0) || (device == CONSOLE && (queue == 0 || queue == 2));
}

static void bring_up(struct bench *b, unsigned index)
{
	struct virtio_device *d = b->device[index];

	d->transport = &transport;
	virtio_set_status(d, 3);
	virtio_accept_features(d, 0, (uint32_t)features[index]);
	virtio_accept_features(d, 1, 1); /* VERSION_1 */
	virtio_set_status(d, 11);
	for (unsigned k = 0; k < n_queues[index]; k++) {
		struct virtq_config c = { .size = SIZE, .desc = RINGS + 0x4000 * (index * QUEUES + k) };
		struct virtq_segment seg = { BUFFERS + 0x1000 * (index * QUEUES + k), 512 };

		c.driver = c.desc + 0x1000;
		c.device = c.desc + 0x2000;
		d->queue[k].config = c;
		must(virtq_driver_start(&b->queue[index][k], &b->mem, &c));
		virtio_enable_queue(d, k);
		for (unsigned n = 0; is_receive(index, k) && n < SIZE; n++)
			virtq_driver_add(&b->queue[index][k], &seg, 0, 1, b);
	}
	virtio_set_status(d, 15);
}

static void set_up(struct bench *b)
{
	struct mem_slot slot = { .size = RAM, .fd = -1 };
	struct vsock_config vsock = { .owner = "fuzz", .cid = CID, .path = b->path };
	struct vconsole_config console = { .n_ports = 1 };
	char why[256];

	memset(b, 0, sizeof(*b));
	snprintf(b->path, sizeof(b->path), "/tmp/guise-fuzz-%d", (int)getpid());
	slot.hva = b->ram = aligned_alloc(4096, RAM);
	memset(b->ram, 0, RAM);
	memory_init(&b->mem);
	must(memory_set_slot(&b->mem, &slot));
	b->dma.mem = &b->mem;
	must(loop_new(&b->loop));
	must(console_open("none", b->loop, &b->console, why, sizeof(why)));
	console.port[0] = (struct vconsole_port_config){ "port", b->console, false };
	must(vconsole_new(b->loop, &b->dma, &console, &b->vconsole));
	must(vsock_new(&b->dma, &vsock, &b->vsock, why, sizeof(why)));
	must(balloon_new(b->loop, &b->dma, RAM, &b->balloon));
	b->device[VSOCK] = vsock_device(b->vsock);
	b->device[CONSOLE] = vconsole_device(b->vconsole);
	b->device[BALLOON] = balloon_device(b->balloon);
	must(pthread_create(&b->thread, NULL, run, b->loop));
	for (unsigned k = 0; k < DEVICES; k++)
		bring_up(b, k);
}

static void tear_down(struct bench *b)
{
	for (unsigned k = 0; k < DEVICES; k++)
		virtio_set_status(b->device[k], 0);
	loop_stop(b->loop);
	pthread_join(b->thread, NULL);
	vsock_free(b->vsock);
	vconsole_free(b->vconsole);
	balloon_free(b->balloon);
	console_close(b->console);
	loop_free(b->loop);
	for (unsigned k = 0; k < DEVICES * QUEUES; k++)
		virtq_driver_stop(&b->queue[k / QUEUES][k % QUEUES]);
	memory_deinit(&b->mem);
	free(b->ram);
}

static void send_message(struct bench *b, unsigned device, unsigned queue, const uint8_t *bytes, uint32_t count)
{
	struct virtq_segment seg = { MESSAGE, count };
	struct virtq_driver *q = &b->queue[device][queue];
	uint32_t written;

	if (!count || is_receive(device, queue))
		return;
	memcpy(b->ram + MESSAGE, bytes, count);
	if (device == VSOCK && count >= sizeof(struct virtio_vsock_hdr) && bytes[0] & 7) {
		struct virtio_vsock_hdr *h = (void *)(b->ram + MESSAGE);

		h->src_cid = CID;
		h->dst_cid = 2;
		h->type = (uint16_t)(1 + (h->src_port & 1)); /* ports 1 and 3 have messages */
		h->op &= 7;
		h->src_port &= 3; /* few, so that streams are met again */
		h->dst_port = 1ull << 30 | (h->dst_port & 3);
	}
	if (virtq_driver_add(q, &seg, 1, 0, b))
		return; /* the statistics queue keeps one */
	virtio_kick(b->device[device], queue);
	for (unsigned k = 0; k < 1000 && !virtq_driver_take(q, &written); k++)
		sched_yield();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bench b;

	log_set_level(LOG_ERROR);
	set_up(&b);
	while (size > 2) {
		uint32_t count = data[1] < size - 2 ? data[1] : (uint32_t)size - 2;
		unsigned device = data[0] % DEVICES, queue = data[0] / DEVICES % n_queues[device];

		if (data[0] == 0xff) /* a reset in the middle */
			virtio_set_status(b.device[data[1] % DEVICES], 0);
		else
			send_message(&b, device, queue, data + 2, count);
		data += 2 + count;
		size -= 2 + count;
	}
	tear_down(&b);
	return 0;
}
