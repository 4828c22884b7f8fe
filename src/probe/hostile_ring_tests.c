/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hostile rings: what no driver would write. The ring of a running session is written by hand, kicked, and
 * the target watched for a moment; then the ring is stopped and the runner proves that the target lives. What
 * the target does with the ring is its own affair: it may ignore the rest of it, signal an error or close the
 * connection.
 *
 * One row describes one chain, or a few descriptors and the indices that lead to them, for both ring formats.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>

#include "probe/front.h"
#include "probe/work.h"

enum { N = VRING_DESC_F_NEXT, W = VRING_DESC_F_WRITE, I = VRING_DESC_F_INDIRECT };
enum { AVAIL = 1 << VRING_PACKED_DESC_F_AVAIL, USED = 1 << VRING_PACKED_DESC_F_USED };

/* Addresses that stand for something: a good buffer, a table, the ring itself. Anything else is taken as it
 * is. */
#define BUFFER	0xbffe0001ull
#define TABLE	0xbffe0002ull
#define RING	0xbffe0003ull
#define BORDER	0xbffe0004ull /* the last 16 bytes of a region */
#define NOWHERE 0x7000000000ull
#define TOP	0xfffffffffffffff0ull

struct entry {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next; /* next: the buffer id in a packed ring */
};

struct bad_ring {
	const char *name, *what;
	unsigned formats;    /* PROBE_SPLIT | PROBE_PACKED */
	unsigned n, n_table; /* descriptors, and entries of the indirect table */
	uint16_t head;	     /* split: what the avail entry says */
	uint16_t idx;  /* split: how far avail.idx moves; packed: how many descriptors are made available */
	bool indirect; /* negotiate INDIRECT_DESC */
	bool receiveq; /* net: on the receiveq */
	struct entry entry[4];
	struct entry table[4];
};

#define BOTH EACH
/* clang-format off */
static const struct bad_ring bad_rings[] = {
	{ "head-beyond", "the avail ring names a descriptor behind the table", PROBE_SPLIT, 1, 0, 64, 1, false, false, {{BUFFER, 64, 0, 0}}, {{0}} },
	{ "head-65535", "the avail ring names descriptor 65535", PROBE_SPLIT, 1, 0, 65535, 1, false, false, {{BUFFER, 64, 0, 0}}, {{0}} },
	{ "next-beyond", "a chain goes on behind the table", PROBE_SPLIT, 1, 0, 0, 1, false, false, {{BUFFER, 64, N, 64}}, {{0}} },
	{ "next-65535", "a chain goes on at 65535", PROBE_SPLIT, 1, 0, 0, 1, false, false, {{BUFFER, 64, N, 65535}}, {{0}} },
	{ "loop-self", "a descriptor that follows itself", PROBE_SPLIT, 1, 0, 0, 1, false, false, {{BUFFER, 64, N, 0}}, {{0}} },
	{ "loop-two", "two descriptors that follow each other", PROBE_SPLIT, 2, 0, 0, 1, false, false, {{BUFFER, 64, N, 1}, {BUFFER, 64, N, 0}}, {{0}} },
	{ "loop-writable", "a loop of writable descriptors", PROBE_SPLIT, 2, 0, 0, 1, false, true, {{BUFFER, 64, N | W, 1}, {BUFFER, 64, N | W, 0}}, {{0}} },
	{ "index-jump", "avail.idx moves by more than the ring has entries", PROBE_SPLIT, 1, 0, 0, 65, false, false, {{BUFFER, 64, 0, 0}}, {{0}} },
	{ "index-back", "avail.idx moves backwards", PROBE_SPLIT, 1, 0, 0, 65535, false, false, {{BUFFER, 64, 0, 0}}, {{0}} },
	{ "index-half", "avail.idx moves by 32768", PROBE_SPLIT, 1, 0, 0, 32768, false, false, {{BUFFER, 64, 0, 0}}, {{0}} },
	{ "head-twice", "one descriptor made available many times at once", PROBE_SPLIT, 1, 0, 0, 64, false, false, {{BUFFER, 64, 0, 0}}, {{0}} },
	{ "endless", "every descriptor says that another one follows", PROBE_PACKED, 64, 0, 0, 64, false, false, {{BUFFER, 64, N, 0}}, {{0}} },
	{ "id-beyond", "a buffer id that is not below the ring's size", PROBE_PACKED, 1, 0, 0, 1, false, false, {{BUFFER, 64, 0, 64}}, {{0}} },
	{ "id-65535", "buffer id 65535", PROBE_PACKED, 1, 0, 0, 1, false, false, {{BUFFER, 64, 0, 65535}}, {{0}} },
	{ "id-same", "the same buffer id for every descriptor", PROBE_PACKED, 64, 0, 0, 64, false, false, {{BUFFER, 64, 0, 1}}, {{0}} },
	{ "address-nowhere", "a buffer outside memory", BOTH, 1, 0, 0, 1, false, false, {{NOWHERE, 64, 0, 0}}, {{0}} },
	{ "address-top", "a buffer at the end of the address space", BOTH, 1, 0, 0, 1, false, false, {{TOP, 64, 0, 0}}, {{0}} },
	{ "address-border", "a buffer over the end of its region", BOTH, 1, 0, 0, 1, false, false, {{BORDER, 4096, 0, 0}}, {{0}} },
	{ "address-zero", "a buffer at address 0 of 2^32 - 1 bytes", BOTH, 1, 0, 0, 1, false, false, {{0, 0xffffffff, 0, 0}}, {{0}} },
	{ "write-nowhere", "a buffer to write to, outside memory", BOTH, 1, 0, 0, 1, false, true, {{NOWHERE, 4096, W, 0}}, {{0}} },
	{ "write-border", "a buffer to write to, over the end of its region", BOTH, 1, 0, 0, 1, false, true, {{BORDER, 4096, W, 0}}, {{0}} },
	{ "write-ring", "the ring itself as a buffer to write to", BOTH, 1, 0, 0, 1, false, true, {{RING, 1024, W, 0}}, {{0}} },
	{ "length-0", "a buffer of no bytes", BOTH, 1, 0, 0, 1, false, false, {{BUFFER, 0, 0, 0}}, {{0}} },
	{ "length-0-all", "a chain of nothing but empty buffers", BOTH, 3, 0, 0, 1, false, false, {{BUFFER, 0, N, 1}, {BUFFER, 0, N, 2}, {BUFFER, 0, W, 0}}, {{0}} },
	{ "length-huge", "a buffer of 2^32 - 1 bytes", BOTH, 1, 0, 0, 1, false, false, {{BUFFER, 0xffffffff, 0, 0}}, {{0}} },
	{ "length-receive-1", "a receive buffer of one byte", BOTH, 1, 0, 0, 1, false, true, {{BUFFER, 1, W, 0}}, {{0}} },
	{ "write-then-read", "a readable buffer behind a writable one", BOTH, 2, 0, 0, 1, false, false, {{BUFFER, 64, N | W, 1}, {BUFFER, 64, 0, 0}}, {{0}} },
	{ "only-writable", "nothing to read where the device reads", BOTH, 1, 0, 0, 1, false, false, {{BUFFER, 64, W, 0}}, {{0}} },
	{ "only-readable", "nothing to write where the device writes", BOTH, 1, 0, 0, 1, false, true, {{BUFFER, 64, 0, 0}}, {{0}} },
	{ "flags-all", "every flag at once", BOTH, 1, 0, 0, 1, true, false, {{BUFFER, 64, 0x7f7f, 0}}, {{0}} },
	{ "indirect-not-negotiated", "an indirect table though INDIRECT_DESC is not negotiated", BOTH, 1, 1, 0, 1, false, false, {{TABLE, 16, I, 0}}, {{BUFFER, 64, 0, 0}} },
	{ "indirect-and-next", "INDIRECT and NEXT in one descriptor", BOTH, 2, 1, 0, 1, true, false, {{TABLE, 16, I | N, 1}, {BUFFER, 64, 0, 0}}, {{BUFFER, 64, 0, 0}} },
	{ "indirect-nested", "an indirect table in an indirect table", BOTH, 1, 1, 0, 1, true, false, {{TABLE, 16, I, 0}}, {{TABLE, 16, I, 0}} },
	{ "indirect-length-0", "an indirect table of no bytes", BOTH, 1, 1, 0, 1, true, false, {{TABLE, 0, I, 0}}, {{BUFFER, 64, 0, 0}} },
	{ "indirect-length-17", "an indirect table of 17 bytes", BOTH, 1, 1, 0, 1, true, false, {{TABLE, 17, I, 0}}, {{BUFFER, 64, 0, 0}} },
	{ "indirect-length-huge", "an indirect table of 2^32 - 16 bytes", BOTH, 1, 1, 0, 1, true, false, {{TABLE, 0xfffffff0, I, 0}}, {{BUFFER, 64, N, 1}} },
	{ "indirect-nowhere", "an indirect table outside memory", BOTH, 1, 0, 0, 1, true, false, {{NOWHERE, 64, I, 0}}, {{0}} },
	{ "indirect-border", "an indirect table over the end of its region", BOTH, 1, 0, 0, 1, true, false, {{BORDER, 64, I, 0}}, {{0}} },
	{ "indirect-top", "an indirect table at the end of the address space", BOTH, 1, 0, 0, 1, true, false, {{TOP, 64, I, 0}}, {{0}} },
	{ "indirect-odd", "an indirect table at an odd address", BOTH, 1, 1, 0, 1, true, false, {{TABLE + 0x100, 16, I, 0}}, {{BUFFER, 64, 0, 0}} },
	{ "indirect-next-beyond", "a chain that goes on behind its indirect table", PROBE_SPLIT, 1, 1, 0, 1, true, false, {{TABLE, 16, I, 0}}, {{BUFFER, 64, N, 1}} },
	{ "indirect-loop", "a loop in an indirect table", PROBE_SPLIT, 1, 2, 0, 1, true, false, {{TABLE, 32, I, 0}}, {{BUFFER, 64, N, 1}, {BUFFER, 64, N, 0}} },
	{ "indirect-is-the-ring", "the ring as its own indirect table", BOTH, 1, 0, 0, 1, true, false, {{RING, 64, I, 0}}, {{0}} },
	{ "indirect-writable", "WRITE on the descriptor of an indirect table", BOTH, 1, 1, 0, 1, true, false, {{TABLE, 16, I | W, 0}}, {{BUFFER, 64, 0, 0}} },
	{ "indirect-long", "an indirect table longer than the ring", BOTH, 1, 4, 0, 1, true, false, {{TABLE, 16 * 512, I, 0}}, {{BUFFER, 64, N, 1}, {BUFFER, 64, N, 2}, {BUFFER, 64, N, 3}, {BUFFER, 64, N, 4}} },
};
/* clang-format on */
enum { N_RINGS = sizeof(bad_rings) / sizeof(bad_rings[0]), RING_SIZE = 64, TABLE_BYTES = 16 * 512 };

struct places {
	gpa_t buffer, table, ring;
};

static uint64_t address_of(const struct places *at, uint64_t addr)
{
	switch (addr) {
	case BUFFER:
		return at->buffer;
	case TABLE:
		return at->table;
	case TABLE + 0x100:
		return at->table + 1;
	case RING:
		return at->ring;
	case BORDER:
		return (1ull << 32) + GUEST_REGION_BYTES - 16;
	default:
		return addr;
	}
}

static void put_entry(struct probe *p, const struct places *at, gpa_t table, unsigned k,
		      const struct entry *e, uint16_t more)
{
	struct vring_desc *d = guest_at(&p->guest, table + 16ull * k, 16);

	d->addr = address_of(at, e->addr);
	d->len = e->len;
	if (p->packed) { /* struct vring_packed_desc: id before flags; flags last */
		d->flags = e->next;
		__atomic_store_n(&d->next, (uint16_t)(e->flags | more), __ATOMIC_RELEASE);
	} else {
		d->flags = e->flags;
		d->next = e->next;
	}
}

/* An indirect table that is long repeats its first entry. */
static void put_table(struct probe *p, const struct places *at, const struct bad_ring *bad)
{
	unsigned n = bad->entry[0].len >= TABLE_BYTES ? TABLE_BYTES / 16 : bad->n_table;

	for (unsigned k = 0; k < n; k++) {
		struct entry e = bad->table[k < bad->n_table ? k : 0];

		if (k >= bad->n_table)
			e.next = (uint16_t)(k + 1);
		put_entry(p, at, at->table, k, &e, 0);
	}
}

static void put_ring(struct probe *p, struct probe_queue *q, const struct bad_ring *bad,
		     const struct places *at)
{
	struct virtq_driver *d = &q->driver;

	put_table(p, at, bad);
	if (!p->packed) {
		for (unsigned k = 0; k < bad->n; k++)
			put_entry(p, at, q->config.desc, k, &bad->entry[k], 0);
		for (unsigned k = 0; k < RING_SIZE; k++)
			d->avail->ring[k] = bad->head;
		__atomic_store_n(&d->avail->idx, (uint16_t)(d->avail_next + bad->idx), __ATOMIC_RELEASE);
		return;
	}
	for (unsigned k = bad->n; k--;) { /* the first one last: it makes the list available */
		unsigned place = (d->avail_next + k) % RING_SIZE;
		bool wrap = d->avail_wrap ^ (d->avail_next + k >= RING_SIZE);

		put_entry(p, at, q->config.desc, place, &bad->entry[k < 4 && bad->n <= 4 ? k : 0],
			  wrap ? AVAIL : USED);
	}
}

static int start_session(struct probe *p, bool indirect)
{
	p->want |= indirect ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0;
	p->ring_size = RING_SIZE;
	if (indirect && need_feature(p, VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC"))
		return -1;
	return session_open(p) || work_round(p, 0, 2, 1, 0) ? -1 : 0;
}

/* The target has had its time with the ring: what became of the connection, and does the ring stop when it is
 * asked to? */
static void aftermath(struct probe *p, unsigned queue)
{
	uint32_t base;

	poll(NULL, 0, 30);
	if (link_is_closed(&p->link, 0)) {
		remark(p, "it closes the connection");
		return;
	}
	if (!session_get_base(p, queue, &base))
		remark(p, "it goes on; the ring stops when asked");
}

static void send_bad(struct probe *p, unsigned index)
{
	const struct bad_ring *bad = &bad_rings[index];
	bool net = p->options->device == PROBE_NET;
	unsigned queue = net && bad->receiveq ? 0 : work_queue(0, p);
	struct probe_queue *q = &p->queue[queue];
	struct places at;

	if (start_session(p, bad->indirect))
		return;
	at.buffer = guest_alloc(&p->guest, GUEST_HIGH, 4096, 4096);
	at.table = guest_alloc(&p->guest, GUEST_HIGH, TABLE_BYTES + 4096, 4096);
	at.ring = q->config.desc;
	put_ring(p, q, bad, &at);
	eventfd_write(q->kick_fd, 1);
	if (net && bad->receiveq && p->answers) { /* something has to be received for it */
		work_submit(p, 1, REQUEST_ARP, 0);
		eventfd_write(p->queue[1].kick_fd, 1);
	}
	aftermath(p, queue);
}

/* --- rings that change while they are read --- */

struct racer {
	struct probe *p;
	struct vring_desc *desc;
	struct vring_avail *avail;
	uint64_t good;
	atomic_bool stop;
};

/* Flip every field of the descriptors between good and bad, as fast as it goes. */
static void *flip(void *opaque)
{
	struct racer *r = opaque;
	bool packed = r->p->packed;

	for (unsigned n = 0; !atomic_load_explicit(&r->stop, memory_order_relaxed); n++) {
		volatile struct vring_desc *d = &r->desc[n % 8];

		d->addr = n & 1 ? r->good : NOWHERE;
		d->len = n & 2 ? 64 : 0xffffffff;
		if (packed) {
			d->flags = (uint16_t)(n & 4 ? n % RING_SIZE : 65535); /* id */
			d->next = (uint16_t)((n & 8 ? N : 0) | (n & 16 ? W : 0) |
					     (n & 64 ? AVAIL : USED)); /* flags */
		} else {
			d->flags = (uint16_t)((n & 8 ? N : 0) | (n & 16 ? W : 0) | (n & 32 ? I : 0));
			d->next = (uint16_t)(n & 4 ? n % 8 : 65535);
			((volatile struct vring_avail *)r->avail)->ring[n % RING_SIZE] =
			    (uint16_t)(n & 64 ? n % 8 : 65535);
		}
	}
	return NULL;
}

static void race(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);
	struct probe_queue *q = &p->queue[queue];
	struct racer r = {.p = p};
	pthread_t thread;

	p->want |= p->offered & 1ull << VIRTIO_RING_F_INDIRECT_DESC;
	for (unsigned round = 0; round < 5; round++) {
		if (start_session(p, false))
			return;
		r.desc = q->driver.desc;
		r.avail = q->driver.avail;
		r.good = guest_alloc(&p->guest, GUEST_HIGH, 4096, 4096);
		atomic_store(&r.stop, false);
		if (pthread_create(&thread, NULL, flip, &r)) {
			fail(p, "the probe has no thread");
			return;
		}
		for (unsigned k = 0; k < 100; k++) {
			if (!p->packed)
				__atomic_add_fetch(&q->driver.avail->idx, 8, __ATOMIC_RELEASE);
			eventfd_write(q->kick_fd, 1);
			poll(NULL, 0, 1);
		}
		atomic_store(&r.stop, true);
		pthread_join(thread, NULL);
		session_close(p);
	}
}

/* Rings full of random bytes, as they might be after memory was reused. */
static void noise(struct probe *p, unsigned rounds)
{
	for (unsigned round = 0; round < rounds; round++) {
		struct probe_queue *q = &p->queue[round % session_queues(p)];
		struct virtq_layout bytes;
		uint8_t *ring;

		if (start_session(p, false))
			return;
		bytes = virtq_layout(RING_SIZE, q->config.options);
		ring = guest_at(&p->guest, q->config.desc, bytes.desc);
		for (unsigned k = 0; k < bytes.desc;
		     k++) /* half of the bytes are small numbers, and addresses mostly in memory */
			ring[k] = (uint8_t)((p->seed = p->seed * 1664525 + 1013904223) >> 24) &
				  (k % 16 < 8 && k % 16 > 2 ? 0 : 0x3f | round << 6);
		if (!p->packed)
			for (unsigned k = 0; k < RING_SIZE; k++)
				q->driver.avail->ring[k] = (uint16_t)(k * 7 % RING_SIZE);
		if (!p->packed)
			__atomic_add_fetch(&q->driver.avail->idx, RING_SIZE, __ATOMIC_RELEASE);
		eventfd_write(q->kick_fd, 1);
		poll(NULL, 0, 5);
		session_close(p);
	}
}

#define H    PROBE_HOSTILE
#define RULE "virtio 1.3, 2.7.5, 2.7.6, 2.8: what a driver must do; the driver is not to be trusted"

static const struct front_test other_tests[] = {
    {"race", "descriptors that change while the target reads them", RULE, H, EACH, 0, race, 0},
    {"noise", "forty rings of random bytes", RULE, H, EACH, 0, noise, 40},
};
enum { N_OTHER = sizeof(other_tests) / sizeof(other_tests[0]) };

bool front_hostile_ring_test(unsigned k, struct front_test *test)
{
	if (k < N_RINGS)
		*test = (struct front_test){
		    bad_rings[k].name, bad_rings[k].what, RULE, H, bad_rings[k].formats, 0, send_bad, k};
	else if (k - N_RINGS < N_OTHER)
		*test = other_tests[k - N_RINGS];
	else
		return false;
	return true;
}
