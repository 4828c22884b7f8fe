/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: both halves of a virtqueue whose memory the other side writes. The input's first bytes choose format and
 * size; the rest are steps: write some bytes somewhere in the ring, pop, push, take, add. Chains must lie in memory.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/virtq.h"

enum { RAM = 0x8000, DESC = 0, DRIVER = 0x1000, DEVICE = 0x2000, TABLES = 0x4000, SEGMENTS = 12 };

static uint8_t ram[RAM] __attribute__((aligned(4096)));

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

static void check(const struct virtq_chain *c)
{
	for (unsigned k = 0; k < c->readable + c->writable; k++) {
		uint8_t *start = c->iov[k].iov_base;

		if (start < ram || c->iov[k].iov_len > RAM || start + c->iov[k].iov_len > ram + RAM)
			abort();
		*(volatile uint8_t *)start;
	}
}

static void step(struct input *in, struct virtq *q, struct virtq_driver *d)
{
	static const struct virtq_segment segment[3] = {{0x6000, 16}, {0x6100, 32}, {0x6200, 64}};
	struct iovec iov[SEGMENTS];
	struct virtq_chain chain = {.iov = iov, .capacity = SEGMENTS};
	unsigned at, count;
	uint32_t written;

	switch (byte(in) % 8) {
	case 0: /* the other side writes */
		at = byte(in) << 8 | byte(in);
		for (count = 1 + byte(in) % 16; count--; at++)
			ram[at % RAM] = (uint8_t)byte(in);
		break;
	case 1:
		if (virtq_pop(q, &chain) == 1) {
			check(&chain);
			if (byte(in) % 4)
				virtq_push(q, &chain, byte(in));
			else
				virtq_unpop(q, &chain);
		}
		break;
	case 2:
		virtq_should_call(q);
		virtq_enable_kicks(q);
		break;
	case 3:
		virtq_driver_add(d, segment, byte(in) % 2, 1 + byte(in) % 2, ram);
		virtq_driver_should_kick(d);
		break;
	case 4:
		virtq_driver_take(d, &written);
		virtq_driver_enable_calls(d);
		break;
	case 5: {
		struct virtq_chain chains[4];
		int got = virtq_pop_burst(q, chains, 1 + byte(in) % 4, iov, SEGMENTS, 1 + byte(in) % SEGMENTS);

		for (int k = 0; k < got; k++)
			check(&chains[k]);
		if (got > 0 && byte(in) % 4)
			virtq_push_burst(q, chains, NULL, (unsigned)got);
		else if (got > 0)
			virtq_unpop_burst(q, chains, (unsigned)got);
		break;
	}
	case 6: {
		void *tokens[4] = {ram, ram, ram, ram};
		uint32_t lengths[4];

		virtq_driver_add_burst(d, segment, tokens, 1 + byte(in) % 3, byte(in) % 2);
		virtq_driver_take_burst(d, tokens, lengths, 1 + byte(in) % 4);
		break;
	}
	default:
		virtq_disable_kicks(q);
		virtq_driver_disable_calls(d);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct virtq_config config = {.desc = DESC, .driver = DRIVER, .device = DEVICE, .options = byte(&in) % 16};
	struct mem_slot slot = {.size = RAM, .hva = ram, .fd = -1};
	struct virtq_driver driver;
	struct memory mem;
	struct virtq q;

	config.size = config.options & VIRTQ_PACKED ? 1 + byte(&in) % 9 : 1u << byte(&in) % 5;
	memset(ram, 0, sizeof(ram));
	memory_init(&mem);
	if (memory_set_slot(&mem, &slot) || virtq_driver_start(&driver, &mem, &config) ||
	    virtq_start(&q, &mem, &config, virtq_fresh_base(config.options)))
		abort();
	if (config.options & VIRTQ_INDIRECT)
		virtq_driver_use_indirect(&driver, &mem, TABLES, 4);
	while (in.left)
		step(&in, &q, &driver);
	virtq_driver_stop(&driver);
	memory_deinit(&mem);
	return 0;
}
