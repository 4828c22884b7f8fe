/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: a front port with a device that writes anything anywhere in the shared memory, between the port's calls. What is lent
 * must lie in that memory and be lent once.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../device/fake_vhost.h"
#include "base/log.h"
#include "virtio_user/virtio_user.h"

enum { SIZE = 8 };

struct input {
	const uint8_t *data;
	size_t left;
};

static unsigned byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

static void check(const struct fake_vhost *device, const struct port_buffer *b, unsigned n)
{
	for (unsigned k = 0; k < n; k++) {
		const uint8_t *start = device->region.hva;

		if (b[k].data < start || b[k].data + b[k].room > start + device->region.size || b[k].bytes > b[k].room)
			abort();
		for (unsigned j = 0; j < k; j++)
			if (b[j].data == b[k].data)
				abort();
	}
}

/* The device uses a descriptor, as it should or not. */
static void use(struct fake_vhost *device, struct input *in)
{
	struct virtq_config *c = &device->ring[byte(in) % 2].config;

	if (c->options & VIRTQ_PACKED) {
		struct vring_packed_desc *d = (struct vring_packed_desc *)(uintptr_t)c->desc + byte(in) % SIZE;

		d->id = (uint16_t)(byte(in) % (SIZE + 1));
		d->len = byte(in) * 16;
		d->flags = (uint16_t)((byte(in) % 2 ? 0x8080 : 0) | byte(in) % 4);
	} else {
		struct vring_used *used = (struct vring_used *)(uintptr_t)c->device;

		used->ring[used->idx % SIZE].id = byte(in) % (SIZE + 1);
		used->ring[used->idx % SIZE].len = byte(in) * 16;
		used->idx = (uint16_t)(used->idx + byte(in) % 3);
	}
}

static void step(struct port *port, struct fake_vhost *device, struct input *in)
{
	struct port_buffer b[PORT_MAX_PIECES];
	uint8_t *memory = device->region.hva;
	unsigned n, at;

	switch (byte(in) % 5) {
	case 0:
		at = (byte(in) << 8 | byte(in)) << (byte(in) % 4);
		for (n = 1 + byte(in) % 16; n--; at++)
			memory[at % device->region.size] = (uint8_t)byte(in);
		break;
	case 1:
		n = port_collect(port, 0, b, 1 + byte(in) % PORT_MAX_PIECES);
		check(device, b, n);
		port_give_back(port, 0, b, n);
		break;
	case 2:
		n = port_lend(port, 0, b, 1 + byte(in) % 8);
		check(device, b, n);
		for (unsigned k = 0; k < n; k++) {
			b[k].bytes = PORT_HEADER + byte(in);
			b[k].more = byte(in) % 4 == 0 && k + 1 < n;
		}
		at = port_submit(port, 0, b, n);
		port_give_back(port, 0, b + at, n - at);
		break;
	case 3:
		use(device, in);
		break;
	default: {
		uint8_t out[300];
		struct iovec iov = { out, byte(in) + 20u };
		struct port_packet packet = { &iov, 1, (uint32_t)iov.iov_len };

		port_receive(port, 0, &packet, 1);
	}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct fake_vhost device = { .v.ops = &fake_vhost_ops };
	struct virtio_user_config config = { .owner = "fuzz", .device = &device.v, .n_queues = 1, .queue_size = SIZE };
	unsigned choice = byte(&in);
	struct port *port;
	char why[200];

	log_set_level(LOG_ERROR);
	config.packed = choice & 1;
	device.features = 1ull << VIRTIO_F_VERSION_1 | (uint64_t)(choice >> 1 & 1) << VIRTIO_NET_F_MRG_RXBUF |
			  (uint64_t)(choice >> 2 & 1) << VIRTIO_F_IN_ORDER | (uint64_t)(choice >> 3 & 1) << VIRTIO_RING_F_EVENT_IDX |
			  (uint64_t)config.packed << VIRTIO_F_RING_PACKED;
	if (port_virtio_user_open(&config, &port, why, sizeof(why)) || port_wait(port, 60000))
		abort();
	while (in.left)
		step(port, &device, &in);
	port_close(port);
	return 0;
}
