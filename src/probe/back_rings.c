/* SPDX-License-Identifier: BSD-2-Clause */
/* The rings of the probe as a back end: started from what the front end said, served by the device half, or
 * wrongly on purpose. */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/loop.h"
#include "probe/back.h"

enum {
	SEGMENTS = 1024,
	FRAME_MAX = 65536 + 64,
	HEADER = sizeof(struct virtio_net_hdr_mrg_rxbuf),
	KICK_MS = 2000
};

/* A user address as a guest address, as virtqueues have them. false: not in memory. */
static bool to_guest(const struct back *b, uint64_t user, uint64_t len, gpa_t *gpa)
{
	for (unsigned k = 0; k < b->n_regions; k++) {
		const struct vhost_user_region *r = &b->region[k].r;

		if (user >= r->user_address && user - r->user_address < r->size &&
		    len <= r->size - (user - r->user_address)) {
			*gpa = r->guest_address + (user - r->user_address);
			return true;
		}
	}
	return false;
}

static void start_ring(struct back *b, unsigned index)
{
	struct back_ring *r = &b->ring[index];
	unsigned options = virtq_options(b->features);
	struct virtq_layout bytes = virtq_layout(r->size, options);
	struct virtq_config config = {.size = r->size, .options = options};
	int err;

	if (options & VIRTQ_PACKED &&
	    !(r->base >> 16)) /* DPDK leaves the used half 0: it stands where avail stands */
		r->base |= r->base << 16;
	if (!to_guest(b, r->addr.desc_user_addr, bytes.desc, &config.desc) ||
	    !to_guest(b, r->addr.avail_user_addr, bytes.driver, &config.driver) ||
	    !to_guest(b, r->addr.used_user_addr, bytes.device, &config.device)) {
		complain(b, COMPLAINT_RING, "ring %u is started and lies outside memory", index);
		return;
	}
	err = virtq_start(&r->q, &b->memory, &config, r->base);
	if (err) {
		complain(b, COMPLAINT_RING,
			 "ring %u cannot be started: size %u, base 0x%x, descriptors at 0x%llx: %s", index,
			 r->size, r->base, (unsigned long long)r->addr.desc_user_addr, strerror(-err));
		return;
	}
	r->running = true;
	r->asleep = false;
}

void back_start_rings(struct back *b)
{
	for (unsigned k = 0; k < BACK_RINGS; k++) {
		struct back_ring *r = &b->ring[k];

		if (!r->running && (r->kick_fd >= 0 || r->polled) && r->has_num && r->has_addr &&
		    b->has_memory && b->has_features)
			start_ring(b, k);
	}
}

void back_stop_ring(struct back_ring *r)
{
	if (r->running)
		r->base = virtq_stop(&r->q);
	r->running = false;
}

static void call(struct back_ring *r)
{
	if (virtq_should_call(&r->q) && r->call_fd >= 0)
		eventfd_write(r->call_fd, 1);
}

/* --- wrong on purpose --- */

/* Give a chain back wrongly. */
static void push_wrongly(struct back *b, struct back_ring *r, struct virtq_chain *c)
{
	struct virtq_chain wrong = *c;

	b->fault_done = true;
	switch (b->fault) {
	case FAULT_USED_ID:
		wrong.id = (uint16_t)(r->size + 7);
		virtq_push(&r->q, &wrong, 0);
		break;
	case FAULT_USED_INDEX:
		if (!(r->q.options & VIRTQ_PACKED)) {
			__atomic_store_n(&r->q.used->idx, (uint16_t)(r->q.used_next + r->size + 3),
					 __ATOMIC_RELEASE);
			break;
		}
		for (unsigned k = 0; k < r->size; k++) /* the whole ring as used */
			virtq_push(&r->q, c, 0);
		break;
	case FAULT_USED_LENGTH:
		virtq_push(&r->q, c, 0xfffffff0);
		break;
	default: /* FAULT_USED_TWICE */
		virtq_push(&r->q, c, 0);
		virtq_push(&r->q, c, 0);
	}
	if (r->call_fd >= 0)
		eventfd_write(r->call_fd, 1);
}

static bool ring_fault(const struct back *b)
{
	return b->fault >= FAULT_USED_ID && b->fault <= FAULT_USED_TWICE && !b->fault_done;
}

/* --- frames --- */

static size_t gather(const struct virtq_chain *c, uint8_t *bytes, size_t size)
{
	size_t n = 0;

	for (unsigned k = 0; k < c->readable && n < size; k++) {
		size_t part = c->iov[k].iov_len < size - n ? c->iov[k].iov_len : size - n;

		memcpy(bytes + n, c->iov[k].iov_base, part);
		n += part;
	}
	return n;
}

static size_t scatter(const struct virtq_chain *c, const uint8_t *bytes, size_t size)
{
	size_t n = 0;

	for (unsigned k = c->readable; k < c->readable + c->writable && n < size; k++) {
		size_t part = c->iov[k].iov_len < size - n ? c->iov[k].iov_len : size - n;

		memcpy(c->iov[k].iov_base, bytes + n, part);
		n += part;
	}
	return n;
}

/* 1: a chain; 0: none; -1: the ring is wrong, which is complained about. */
static int pop(struct back *b, unsigned index, struct virtq_chain *c)
{
	struct back_ring *r = &b->ring[index];
	int got = virtq_pop(&r->q, c);

	if (got < 0)
		complain(b, COMPLAINT_CHAIN, "ring %u: %s", index, virtq_error_name(r->q.error));
	return got;
}

/* A frame for the front end, if it has a buffer that is large enough. */
static void deliver(struct back *b, unsigned rx, const uint8_t *frame, size_t size)
{
	struct back_ring *r = &b->ring[rx];
	struct virtio_net_hdr_mrg_rxbuf header = {.num_buffers = 1};
	uint8_t bytes[FRAME_MAX];
	struct iovec iov[SEGMENTS];
	struct virtq_chain c = {.iov = iov, .capacity = SEGMENTS};

	if (!r->running || !r->enabled || r->q.error || size > sizeof(bytes) - HEADER || pop(b, rx, &c) <= 0)
		return;
	if (c.readable)
		complain(b, COMPLAINT_CHAIN, "ring %u: a receive buffer with %u readable descriptors", rx,
			 c.readable);
	if (ring_fault(b)) {
		push_wrongly(b, r, &c);
		return;
	}
	if (b->fault == FAULT_HEADER) {
		memset(&header, 0xff, sizeof(header));
		b->fault_done = true;
	}
	memcpy(bytes, &header, HEADER);
	memcpy(bytes + HEADER, frame, size);
	if (c.writable_bytes < HEADER + size) {
		if (c.writable_bytes < 1526 && !(b->features >> VIRTIO_NET_F_MRG_RXBUF & 1))
			complain(b, COMPLAINT_CHAIN,
				 "ring %u: a receive buffer of %llu bytes; 1526 are the least (virtio 1.3, "
				 "5.1.6.3.1)",
				 rx, (unsigned long long)c.writable_bytes);
		virtq_unpop(&r->q, &c);
		return;
	}
	virtq_push(&r->q, &c, (uint32_t)scatter(&c, bytes, HEADER + size));
	r->done++;
	call(r);
}

static void made_up_frame(struct back *b, unsigned rx)
{
	uint8_t frame[60] = {0};

	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x02guise\x88\xb5", 8);
	deliver(b, rx, frame, sizeof(frame));
}

static bool serve_frames(struct back *b, unsigned index)
{
	struct back_ring *r = &b->ring[index];
	struct iovec iov[SEGMENTS];
	uint8_t bytes[FRAME_MAX];
	bool any = false;

	for (unsigned n = 0; n < 64 && !r->q.error; n++) {
		struct virtq_chain c = {.iov = iov, .capacity = SEGMENTS};
		size_t size;

		if (pop(b, index, &c) <= 0)
			break;
		any = true;
		if (ring_fault(b)) {
			push_wrongly(b, r, &c);
			return true;
		}
		size = gather(&c, bytes, sizeof(bytes));
		if (c.writable)
			complain(b, COMPLAINT_CHAIN, "ring %u: a sent frame with %u writable descriptors",
				 index, c.writable);
		if (size < HEADER + 14)
			complain(b, COMPLAINT_CHAIN, "ring %u: a sent frame of %zu bytes, header included",
				 index, size);
		virtq_push(&r->q, &c, 0);
		r->done++;
		call(r);
		if (r->enabled && size >= HEADER + 14)
			deliver(b, index - 1, bytes + HEADER, size - HEADER);
	}
	return any;
}

/* --- disk --- */

static uint8_t serve_block(struct back *b, const struct virtq_chain *c, uint8_t *bytes, size_t size,
			   uint32_t *written)
{
	struct virtio_blk_outhdr header;
	uint64_t at;

	memcpy(&header, bytes, sizeof(header));
	at = header.sector * 512;
	*written = 0;
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
		*written = (uint32_t)(c->writable_bytes - 1);
		if (header.sector >= BACK_DISK_BYTES / 512 || *written > BACK_DISK_BYTES - at)
			return VIRTIO_BLK_S_IOERR;
		scatter(c, b->disk + at, *written);
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_OUT:
		size -= sizeof(header);
		if (header.sector >= BACK_DISK_BYTES / 512 || size > BACK_DISK_BYTES - at)
			return VIRTIO_BLK_S_IOERR;
		memcpy(b->disk + at, bytes + sizeof(header), size);
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_GET_ID:
		*written = (uint32_t)scatter(c, (const uint8_t *)"guise-probe\0\0\0\0\0\0\0\0\0",
					     c->writable_bytes > 21 ? 20 : c->writable_bytes - 1);
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_FLUSH:
		return VIRTIO_BLK_S_OK;
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

static bool serve_blocks(struct back *b, unsigned index)
{
	static uint8_t bytes[BACK_DISK_BYTES + 64]; /* one probe per process at a time, on one thread */
	struct back_ring *r = &b->ring[index];
	struct iovec iov[SEGMENTS];
	bool any = false;

	for (unsigned n = 0; n < 64 && !r->q.error; n++) {
		struct virtq_chain c = {.iov = iov, .capacity = SEGMENTS};
		uint32_t written = 0;
		struct iovec *last;
		size_t size;

		if (pop(b, index, &c) <= 0)
			break;
		any = true;
		if (ring_fault(b)) {
			push_wrongly(b, r, &c);
			return true;
		}
		size = gather(&c, bytes, sizeof(bytes));
		if (size < sizeof(struct virtio_blk_outhdr) || !c.writable) {
			complain(b, COMPLAINT_CHAIN,
				 "ring %u: a request with %zu readable and %llu writable bytes", index, size,
				 (unsigned long long)c.writable_bytes);
			virtq_push(&r->q, &c, 0);
			continue;
		}
		last = &c.iov[c.readable + c.writable - 1];
		((uint8_t *)last->iov_base)[last->iov_len - 1] = serve_block(b, &c, bytes, size, &written);
		virtq_push(&r->q, &c, written + 1);
		r->done++;
		call(r);
	}
	return any;
}

/* --- all rings --- */

/* Before it sleeps a device asks for kicks. Chains that come later without one are a lost notification. */
static void go_to_sleep(struct back *b, unsigned index)
{
	struct back_ring *r = &b->ring[index];

	if (!r->asleep) {
		r->asleep = !virtq_enable_kicks(&r->q);
		r->slept_ns = now_ns();
	}
}

static bool is_kicked(const struct back_ring *r)
{
	eventfd_t value;

	return r->polled || (r->kick_fd >= 0 && read(r->kick_fd, &value, sizeof(value)) == sizeof(value));
}

void back_serve_rings(struct back *b)
{
	bool net = b->p.options->device == PROBE_NET;

	for (unsigned k = 0; k < BACK_RINGS; k++) {
		struct back_ring *r = &b->ring[k];
		bool kicked, any;

		if (!r->running || r->q.error || (!r->enabled && !net))
			continue;
		kicked = is_kicked(r);
		if (net && k % 2 == 0) { /* buffers: one is filled now and then */
			if (kicked || !r->done)
				made_up_frame(b, k);
			virtq_enable_kicks(&r->q);
			continue;
		}
		if (r->asleep && !kicked && now_ns() - r->slept_ns < KICK_MS * 1000000ull)
			continue; /* a device that sleeps sees nothing */
		any = net ? serve_frames(b, k) : serve_blocks(b, k);
		if (any && r->asleep && !kicked)
			complain(
			    b, COMPLAINT_KICK,
			    "ring %u: chains were made available and no kick came, though it was asked for",
			    k);
		r->asleep = false;
		if (!any)
			go_to_sleep(b, k);
	}
}
