/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vhost-user front end whose back end answers anything: an honest session's answers with bytes changed by the input
 * (triples: 16-bit place, mask), then the rest of the input as the back end's own requests. The session ends, with or without
 * an error; nothing leaks, nothing waits.
 */
#include <linux/virtio_config.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "memory/memory.h"
#include "vhost/frontend.h"

enum { RAM_SIZE = 1 << 16, EDITS = 24, STREAM = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct answer {
	uint32_t request;
	uint32_t size;
	uint64_t value;
} honest[] = {
	{VHOST_USER_GET_FEATURES, 8, 1ull << 30 | 1ull << 32 | 1ull << 33 | 1ull << 26},
	{VHOST_USER_GET_PROTOCOL_FEATURES, 8, 0x1b63f},
	{VHOST_USER_SET_OWNER, 8, 0},
	{VHOST_USER_GET_QUEUE_NUM, 8, 4},
	{VHOST_USER_GET_MAX_MEM_SLOTS, 8, 8},
	{VHOST_USER_SET_BACKEND_REQ_FD, 8, 0},
	{VHOST_USER_SET_FEATURES, 8, 0},
	{VHOST_USER_SET_STATUS, 8, 0},
	{VHOST_USER_GET_STATUS, 8, 11},
	{VHOST_USER_ADD_MEM_REG, 8, 0},
	{VHOST_USER_GET_CONFIG, 12 + 60, (uint64_t)60 << 32},
	{VHOST_USER_SET_VRING_NUM, 8, 0},
	{VHOST_USER_SET_VRING_BASE, 8, 0},
	{VHOST_USER_SET_VRING_ADDR, 8, 0},
	{VHOST_USER_SET_VRING_ERR, 8, 0},
	{VHOST_USER_SET_VRING_CALL, 8, 0},
	{VHOST_USER_SET_VRING_KICK, 8, 0},
	{VHOST_USER_SET_VRING_ENABLE, 8, 0},
	{VHOST_USER_SET_LOG_BASE, 8, 0},
	{VHOST_USER_SET_FEATURES, 8, 0},
	{VHOST_USER_SET_VRING_ADDR, 8, 0},
	{VHOST_USER_GET_VRING_BASE, 8, 0},
	{VHOST_USER_RESET_DEVICE, 8, 0},
	{VHOST_USER_GET_INFLIGHT_FD, 24, 0x1000},
};

static size_t make_stream(uint8_t *stream, const uint8_t *data, size_t n_edits)
{
	size_t used = 0;

	for (unsigned k = 0; k < sizeof(honest) / sizeof(honest[0]); k++) {
		const uint32_t header[3] = {honest[k].request, VHOST_USER_VERSION | VHOST_USER_REPLY, honest[k].size};

		memcpy(stream + used, header, sizeof(header));
		memset(stream + used + 12, 0, honest[k].size);
		memcpy(stream + used + 12, &honest[k].value, 8);
		used += 12 + honest[k].size;
	}
	for (size_t k = 0; k < n_edits; k++)
		stream[(data[3 * k] | data[3 * k + 1] << 8) % used] ^= data[3 * k + 2];
	return used;
}

static void use(struct vhost *v, uint8_t *ram, int log_fd)
{
	struct vhost_region region = {.size = RAM_SIZE, .hva = ram, .fd = log_fd};
	struct vhost_ring ring = {.config = {.size = 8, .desc = 0x1000, .driver = 0x2000, .device = 0x3000}, .kick_fd = log_fd,
				  .call_fd = -1, .err_fd = -1};
	struct vhost_inflight inflight = {.fd = -1, .n_rings = 1, .ring_size = 8};
	const struct vhost_ops *ops = v->ops;
	uint8_t space[60];
	uint32_t base;

	if (ops->set_features(v, 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_ACCESS_PLATFORM) || ops->set_status(v, 11) ||
	    ops->set_memory(v, &region, 1) || ops->get_config(v, 0, space, sizeof(space)) || ops->start_ring(v, 0, &ring) ||
	    ops->enable_ring(v, 0, true) || ops->set_log(v, log_fd, RAM_SIZE) || ops->stop_ring(v, 0, &base) || ops->reset(v))
		return;
	ops->set_inflight(v, &inflight);
	if (inflight.fd >= 0)
		close(inflight.fd);
}

/* What the front end sent: its channel's other end. */
static int find_channel(int socket)
{
	struct vhost_user_receiver receiver = {0};
	int channel = -1;

	while (vhost_user_receive(socket, &receiver) == 1) {
		if (receiver.message.request == VHOST_USER_SET_BACKEND_REQ_FD && channel < 0)
			channel = vhost_user_take_fd(&receiver.message, 0);
		vhost_user_close_fds(&receiver.message);
	}
	vhost_user_receiver_reset(&receiver);
	return channel;
}

static void ask(struct vhost *v, int socket, const uint8_t *data, size_t size)
{
	int channel = find_channel(socket);

	if (channel < 0)
		return;
	if (send(channel, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size)
		for (unsigned k = 0; k < 3; k++)
			vhost_frontend_serve(v);
	close(channel);
	vhost_frontend_serve(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vhost_frontend_config config = {.owner = "fuzz", .timeout_ms = 1000};
	size_t n_edits = size ? data[0] % EDITS : 0, used;
	static uint8_t *ram;
	static int ram_fd;
	uint8_t stream[STREAM];
	struct vhost *v;
	int end[2];

	if (!ram && ram_alloc("fuzz", RAM_SIZE, NULL, false, &ram, &ram_fd))
		abort();
	log_set_level(LOG_ERROR);
	data += size > 0;
	size -= size > 0;
	if (n_edits > size / 3)
		n_edits = size / 3;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, end))
		abort();
	used = make_stream(stream, data, n_edits);
	if (send(end[1], stream, used, MSG_NOSIGNAL) != (ssize_t)used)
		abort();
	shutdown(end[1], SHUT_WR);
	if (!vhost_frontend_open(end[0], &config, &v)) {
		use(v, ram, ram_fd);
		ask(v, end[1], data + 3 * n_edits, size - 3 * n_edits);
		v->ops->close(v);
	}
	close(end[1]);
	return 0;
}
