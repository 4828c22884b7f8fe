/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: a vhost-user back end's session. The input is a list of messages: a byte for the request, one for flags and
 * descriptors, one for how many payload bytes follow, and those bytes (the rest of a whole payload is zero, or a
 * value that makes sense: `plausible`). The owner opens every ring that is handed to it and pops and pushes what is there.
 */
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/backend.h"

enum { RAM = 1 << 16, RINGS = 3, SEGMENTS = 16, ROUNDS = 200 };

static struct virtq queues[RINGS];
static bool open_rings[RINGS];
static struct vhost_backend *backend;
static struct loop *loop;
static struct memory memory;
static int ram_fd, event_fd, short_fd;

static void serve(struct vhost_backend_ring *ring)
{
	struct iovec iov[SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = SEGMENTS };
	struct virtq *q = &queues[ring->index];

	for (unsigned k = 0; k < 64 && virtq_pop(q, &chain) > 0; k++) {
		for (unsigned s = 0; s < chain.readable + chain.writable; s++)
			*(volatile uint8_t *)iov[s].iov_base;
		virtq_push(q, &chain, (uint32_t)(chain.writable_bytes ? 1 : 0));
		if (vhost_backend_logs(ring))
			vhost_backend_written(ring, &chain, 1);
	}
	if (q->error)
		vhost_backend_ring_failed(ring, q);
	else if (virtq_should_call(q))
		vhost_backend_call(ring);
}

static int start_ring(void *opaque, struct vhost_backend_ring *ring)
{
	int err = vhost_backend_open(ring, &queues[ring->index]);

	if (err)
		return err;
	if (open_rings[ring->index])
		abort(); /* started twice */
	open_rings[ring->index] = true;
	serve(ring);
	return 0;
}

static void stop_ring(void *opaque, struct vhost_backend_ring *ring)
{
	if (!open_rings[ring->index])
		abort();
	serve(ring);
	vhost_backend_close(ring, &queues[ring->index]);
	open_rings[ring->index] = false;
}

static int get_config(void *opaque, uint32_t offset, void *data, uint32_t size)
{
	memset(data, 0x5a, size);
	return offset < 256 ? 0 : -1;
}

static void end_round(void *opaque, uint32_t events)
{
	loop_stop(loop);
}

static void make_world(void)
{
	log_set_level(LOG_ERROR);
	ram_fd = memfd_create("ram", MFD_CLOEXEC);
	short_fd = memfd_create("short", MFD_CLOEXEC);
	event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ftruncate(ram_fd, RAM) || ftruncate(short_fd, 4096))
		abort();
}

/* What the request would hold if it were meant well, so that sessions get somewhere. */
static void plausible(struct vhost_user_message *m, unsigned index)
{
	const uint64_t features = 1ull << VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES_BIT;

	switch (m->request) {
	case VHOST_USER_SET_FEATURES:
		m->u64 = features | (index & 1 ? 1ull << VIRTIO_F_RING_PACKED : 0) | (index & 2 ? 1ull << VHOST_F_LOG_ALL : 0);
		break;
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		m->u64 = vhost_backend_protocol(1ull << VHOST_USER_PROTOCOL_F_CONFIG | 1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
		break;
	case VHOST_USER_SET_MEM_TABLE:
		m->memory.n_regions = 1;
		m->memory.region[0] = (struct vhost_user_region){ 0, RAM, 0x100000, 0 };
		m->size = 40;
		break;
	case VHOST_USER_ADD_MEM_REG:
	case VHOST_USER_REM_MEM_REG:
		m->single.region = (struct vhost_user_region){ 0x20000 * index, RAM, 0x100000 + 0x20000 * index, 0 };
		break;
	case VHOST_USER_SET_LOG_BASE:
		m->log = (struct vhost_user_log){ 4096, 4096 * index };
		break;
	case VHOST_USER_SET_VRING_NUM:
		m->state.num = 8;
		/* fall through */
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_SET_VRING_ENABLE:
		m->state.index = index;
		break;
	case VHOST_USER_SET_VRING_ADDR:
		m->addr.index = index;
		m->addr.desc_user_addr = 0x101000 + index * 0x4000;
		m->addr.avail_user_addr = 0x102000 + index * 0x4000;
		m->addr.used_user_addr = 0x103000 + index * 0x4000;
		break;
	case VHOST_USER_GET_INFLIGHT_FD:
	case VHOST_USER_SET_INFLIGHT_FD:
		m->inflight = (struct vhost_user_inflight){ 4096, 0, (uint16_t)(index + 1), 8 };
		break;
	case VHOST_USER_GET_CONFIG:
		m->config.size = 8;
		m->size = 20;
		break;
	default:
		m->u64 = index;
	}
}

/* The next message of the input; false: there is none. */
static bool next_message(const uint8_t **data, size_t *left, struct vhost_user_message *m)
{
	unsigned how, n;

	if (*left < 3)
		return false;
	vhost_user_request_init(m, VHOST_USER_FRONT_END, (*data)[0] % (VHOST_USER_REQUESTS + 1));
	how = (*data)[1];
	n = (*data)[2] & 0x3f;
	if ((*data)[2] & 0x40)
		m->flags |= VHOST_USER_NEED_REPLY;
	if (!((*data)[2] & 0x80))
		plausible(m, how & 3);
	*data += 3;
	*left -= 3;
	n = n < *left ? n : (unsigned)*left;
	memcpy(m->bytes, *data, n);
	if (n > m->size)
		m->size = n;
	*data += n;
	*left -= n;
	m->n_fds = how >> 2 & 3;
	for (unsigned k = 0; k < m->n_fds; k++)
		m->fd[k] = (how >> 4 & 3) == 0 ? ram_fd : (how >> 4 & 3) == 1 ? event_fd : short_fd;
	return true;
}

static void serve_and_drain(int fd)
{
	struct vhost_user_receiver receiver = { 0 };
	struct loop_source *timer;

	/* One round: what was sent is handled, then the timer ends it. */
	if (loop_add_timer(loop, end_round, NULL, &timer))
		abort();
	loop_set_timer(timer, now_ns(), 0);
	loop_run(loop);
	loop_del(timer);
	while (vhost_user_receive(fd, &receiver) > 0)
		vhost_user_close_fds(&receiver.message);
	vhost_user_receiver_reset(&receiver);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct vhost_backend_ops ops = { .start_ring = start_ring, .stop_ring = stop_ring, .get_config = get_config };
	struct vhost_backend_config config = { .name = "fuzz", .n_rings = RINGS, .max_ring_size = 64, .memory = &memory, .ops = &ops,
					       .features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED | 1ull << 28 |
							   1ull << 29,
					       .protocol = 1ull << VHOST_USER_PROTOCOL_F_CONFIG |
							   1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD };
	struct vhost_user_message m;
	char why[128];
	uint8_t *ram;
	int pair[2];

	if (!ram_fd)
		make_world();
	/* The rings' content is the end of the input. */
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	if (ram == MAP_FAILED)
		abort();
	for (size_t k = 0; k < RAM; k += 0x1000)
		memcpy(ram + k, data + size - (size < 0x200 ? size : 0x200), size < 0x200 ? size : 0x200);
	munmap(ram, RAM);
	if (loop_new(&loop) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		abort();
	memory_init(&memory);
	config.socket = (struct vhost_socket_config){ .fd = pair[0] };
	if (vhost_backend_new(loop, &config, &backend, why, sizeof(why)))
		abort();
	for (unsigned k = 0; k < ROUNDS && next_message(&data, &size, &m); k++)
		if (vhost_user_send(pair[1], &m, 0))
			break;
	for (unsigned round = 0; round < 2 + ROUNDS / 64; round++) /* the connection itself takes one */
		serve_and_drain(pair[1]);
	vhost_backend_free(backend);
	for (unsigned k = 0; k < RINGS; k++)
		if (open_rings[k])
			abort();
	close(pair[1]);
	loop_free(loop);
	memory_deinit(&memory);
	return 0;
}
