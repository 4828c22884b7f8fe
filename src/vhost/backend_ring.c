/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ring states. What a ring needs may come in any order; whichever message makes it complete starts it, and is refused
 * if it cannot be started:
 *
 *	stopped --(SET_VRING_KICK, and NUM, ADDR, features and memory are there)--> started
 *	started --(GET_VRING_BASE, reset, end of session)--> stopped
 *	started --(memory, addresses, features, kick descriptor change)--> paused --> started, where it stood
 *
 * Beside that a ring is enabled or disabled, from the start if the protocol's bit 30 is not negotiated.
 *
 * Call and error descriptors may be exchanged while the ring's thread uses them: a number is set aside for each when the back
 * end is made, and dup3() puts a file behind it, which is atomic towards write().
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/backend_internal.h"
#include "vhost/restore.h"

static struct ring *ring_of(struct vhost_backend_ring *face)
{
	return (struct ring *)((char *)face - offsetof(struct ring, face));
}

int rings_init(struct vhost_backend *b)
{
	for (unsigned k = 0; k < b->config.n_rings; k++) {
		struct ring *r = &b->ring[k];

		r->face = (struct vhost_backend_ring){ .backend = b, .index = k, .kick_fd = -1 };
		r->call_fd = r->err_fd = -1;
	}
	for (unsigned k = 0; k < b->config.n_rings; k++) {
		b->ring[k].call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		b->ring[k].err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (b->ring[k].call_fd < 0 || b->ring[k].err_fd < 0)
			return -errno;
	}
	rings_forget(b);
	return 0;
}

void rings_deinit(struct vhost_backend *b)
{
	for (unsigned k = 0; k < b->config.n_rings && b->ring[k].face.backend; k++) {
		if (b->ring[k].call_fd >= 0)
			close(b->ring[k].call_fd);
		if (b->ring[k].err_fd >= 0)
			close(b->ring[k].err_fd);
	}
}

static unsigned options_of(const struct vhost_backend *b)
{
	return virtq_options(b->features);
}

static bool is_packed(const struct vhost_backend *b)
{
	return options_of(b) & VIRTQ_PACKED;
}

/* --- start and stop --- */

static bool is_complete(const struct vhost_backend *b, const struct ring *r)
{
	return r->wants_start && b->features_set && r->num && r->has_addr && b->n_regions;
}

static int translate_part(struct vhost_backend *b, const struct ring *r, const char *name, uint64_t user, uint64_t len, gpa_t *gpa)
{
	if (memory_user_to_gpa(b, user, len, gpa))
		return 0;
	return refuse(b, "ring %u, %s at user address 0x%" PRIx64 " (%" PRIu64 " bytes): in no memory region", r->face.index, name,
		      user, len);
}

/* Where the ring lies, as descriptors would name it. */
static int make_config(struct vhost_backend *b, struct ring *r)
{
	struct virtq_layout bytes = virtq_layout(r->num, options_of(b));
	int err;

	r->config = (struct virtq_config){ .size = r->num, .options = options_of(b) };
	if (!is_packed(b) && r->num & (r->num - 1))
		return refuse(b, "ring %u, num %u: no power of two", r->face.index, r->num);
	if (has_feature(b, VIRTIO_F_ACCESS_PLATFORM)) {
		r->config.desc = r->addr.desc_user_addr;
		r->config.driver = r->addr.avail_user_addr;
		r->config.device = r->addr.used_user_addr;
		return 0;
	}
	err = translate_part(b, r, "descriptors", r->addr.desc_user_addr, bytes.desc, &r->config.desc);
	if (!err)
		err = translate_part(b, r, "driver area", r->addr.avail_user_addr, bytes.driver, &r->config.driver);
	if (!err)
		err = translate_part(b, r, "device area", r->addr.used_user_addr, bytes.device, &r->config.device);
	return err;
}

static int start_ring(struct vhost_backend *b, struct ring *r)
{
	int err;

	if (!has_feature(b, VIRTIO_F_VERSION_1))
		return refuse(b, "ring %u: the driver is a legacy one, without VERSION_1", r->face.index);
	err = make_config(b, r);
	if (err)
		return err;
	if (!iotlb_covers_ring(b, r))
		return 0; /* the translations that were asked for start it */
	if (!r->has_base)
		r->base = virtq_fresh_base(options_of(b));
	err = b->config.ops->start_ring(b->config.opaque, &r->face);
	if (err == -EINVAL)
		return refuse(b, "ring %u: num %u, base 0x%x or an alignment is wrong", r->face.index, r->num, r->base);
	if (err)
		return refuse(b, "ring %u cannot start: %s", r->face.index,
			      err == -EPROTO ? "inflight notes that make no sense" : strerror(-err));
	r->started = true;
	return 0;
}

static void stop_ring(struct vhost_backend *b, struct ring *r)
{
	if (!r->started)
		return;
	b->config.ops->stop_ring(b->config.opaque, &r->face);
	log_mark_ring(b, r);
	r->started = false;
}

int rings_start(struct vhost_backend *b)
{
	int err = 0;

	for (unsigned k = 0; k < b->config.n_rings; k++) {
		struct ring *r = &b->ring[k];
		int failed;

		if (r->started || !is_complete(b, r))
			continue;
		failed = start_ring(b, r);
		if (failed)
			r->wants_start = false; /* until the next SET_VRING_KICK */
		err = err ? err : failed;
	}
	return err;
}

void rings_stop(struct vhost_backend *b)
{
	iotlb_cancel(b, true);
	for (unsigned k = 0; k < b->config.n_rings; k++)
		stop_ring(b, &b->ring[k]);
	iotlb_cancel(b, false);
}

static void stop_one(struct vhost_backend *b, struct ring *r)
{
	iotlb_cancel(b, true);
	stop_ring(b, r);
	iotlb_cancel(b, false);
}

void rings_pause(struct vhost_backend *b)
{
	rings_stop(b);
	memory_quiesce(b->config.memory);
}

int rings_resume(struct vhost_backend *b)
{
	return rings_start(b); /* wants_start still stands for those that were started */
}

static void choose_enabled(struct vhost_backend *b, struct ring *r)
{
	bool on = r->enable_flag || (b->features_set && !has_feature(b, VHOST_USER_F_PROTOCOL_FEATURES));

	if (on == atomic_load(&r->face.enabled))
		return;
	atomic_store(&r->face.enabled, on);
	if (r->started && b->config.ops->enable_ring)
		b->config.ops->enable_ring(b->config.opaque, &r->face);
}

static void drop_kick(struct ring *r)
{
	if (r->face.kick_fd >= 0)
		close(r->face.kick_fd);
	r->face.kick_fd = -1;
	r->wants_start = false;
}

void rings_forget(struct vhost_backend *b)
{
	for (unsigned k = 0; k < b->config.n_rings; k++) {
		struct ring *r = &b->ring[k];

		drop_kick(r); /* and the notes stay: the front end may have them taken up by the next */
		r->has_base = r->has_addr = r->enable_flag = r->log_used = false;
		r->num = r->base = 0;
		atomic_store(&r->face.enabled, false);
	}
}

/* Put `fd` (consumed), or nothing, behind a number that a ring's thread may be writing to. */
static int ring_set_fd(struct vhost_backend *b, int number, _Atomic bool *has, int fd)
{
	int silent = -1, err = 0;

	if (fd < 0)
		atomic_store(has, false);
	if (fd < 0 && (silent = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
		return refuse(b, "%s", strerror(errno));
	if (dup3(fd >= 0 ? fd : silent, number, O_CLOEXEC) < 0)
		err = refuse(b, "%s", strerror(errno));
	close(fd >= 0 ? fd : silent);
	if (!err && fd >= 0)
		atomic_store(has, true);
	return err;
}

void rings_drop_fds(struct vhost_backend *b)
{
	for (unsigned k = 0; k < b->config.n_rings; k++) {
		struct ring *r = &b->ring[k];

		if (atomic_load(&r->has_call))
			ring_set_fd(b, r->call_fd, &r->has_call, -1);
		atomic_store(&r->call_owed, false);
		if (atomic_load(&r->has_err))
			ring_set_fd(b, r->err_fd, &r->has_err, -1);
	}
}

/* --- messages --- */

static int find_ring(struct vhost_backend *b, uint32_t index, struct ring **r)
{
	if (index >= b->config.n_rings)
		return refuse(b, "index %u: there are %u rings", index, b->config.n_rings);
	*r = &b->ring[index];
	return 0;
}

int set_vring_num(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	uint32_t num = m->state.num;
	struct ring *r;
	int err = find_ring(b, m->state.index, &r);

	if (err)
		return err;
	if (!num || num > b->config.max_ring_size)
		return refuse(b, "ring %u, num %u: not from 1 to %u", r->face.index, num, b->config.max_ring_size);
	if (r->started && num != r->num)
		return refuse(b, "ring %u, num %u: it is started, with %u", r->face.index, num, r->num);
	r->num = num;
	return rings_start(b);
}

int set_vring_addr(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct vhost_vring_addr addr = m->addr;
	struct ring *r;
	int err = find_ring(b, addr.index, &r);

	if (err)
		return err;
	if (addr.flags & ~(1u << VHOST_VRING_F_LOG))
		return refuse(b, "ring %u, flags 0x%x: unknown", addr.index, addr.flags);
	stop_one(b, r);
	r->addr = addr;
	r->has_addr = true;
	r->log_used = addr.flags & 1u << VHOST_VRING_F_LOG;
	r->log_gpa = addr.log_guest_addr;
	return rings_start(b);
}

/*
 * Packed: avail index and wrap in the low half, used index and wrap in the high one. Some front ends leave the high half
 * 0, which with a wrap bit in the low one cannot be meant: used stands where avail stands.
 */
static uint32_t whole_base(const struct vhost_backend *b, uint32_t num)
{
	return is_packed(b) && !(num >> 16) && num & 0x8000 ? num | num << 16 : num;
}

int set_vring_base(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct ring *r;
	int err = find_ring(b, m->state.index, &r);

	if (err)
		return err;
	if (r->started) {
		stop_one(b, r);
		if (r->base != r->opened_base && whole_base(b, m->state.num) != r->base) {
			err = refuse(b, "ring %u, base 0x%x: it is started, and stands at 0x%x", r->face.index, m->state.num, r->base);
			rings_start(b);
			return err;
		}
	}
	r->base = m->state.num;
	r->has_base = true;
	return rings_start(b);
}

int get_vring_base(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct ring *r;
	int err = find_ring(b, m->state.index, &r);

	if (err)
		return err;
	stop_one(b, r);
	inflight_clear(b, r);
	drop_kick(r);
	reply->state.index = r->face.index;
	reply->state.num = r->has_base ? whole_base(b, r->base) : virtq_fresh_base(options_of(b));
	return 0;
}

/* An eventfd is readable when it was written, and only then; anything else could keep a thread running for ever. */
static bool is_eventfd(int fd)
{
	char link[64], target[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return true; /* no /proc here: nobody can tell */
	target[n] = 0;
	return !strcmp(target, "anon_inode:[eventfd]");
}

/* Index and descriptor of SET_VRING_KICK, _CALL and _ERR. *fd: the caller's, or -1. */
static int take_ring_fd(struct vhost_backend *b, struct vhost_user_message *m, struct ring **r, int *fd)
{
	bool none = m->u64 & VHOST_USER_NO_FD;
	int err = find_ring(b, m->u64 & VHOST_USER_INDEX_MASK, r);

	if (err)
		return err;
	if (m->u64 & ~(uint64_t)(VHOST_USER_NO_FD | VHOST_USER_INDEX_MASK))
		return refuse(b, "u64 0x%" PRIx64 ": bits 9 and up mean nothing", m->u64);
	if (none != !m->n_fds)
		return refuse(b, "u64 0x%" PRIx64 ": %u descriptors came with it", m->u64, m->n_fds);
	if (!none && !is_eventfd(m->fd[0]))
		return refuse(b, "ring %u, descriptor: not an eventfd", (*r)->face.index);
	*fd = vhost_user_take_fd(m, 0);
	if (*fd >= 0)
		fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK);
	return 0;
}

int set_vring_kick(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct ring *r;
	int fd, err = take_ring_fd(b, m, &r, &fd);

	if (err)
		return err;
	stop_one(b, r);
	drop_kick(r);
	r->face.kick_fd = fd;
	r->wants_start = true;
	choose_enabled(b, r);
	return rings_start(b);
}

/* Pairs with vhost_backend_call(): either it sees has_call, or this sees call_owed. */
static void call_if_owed(struct ring *r)
{
	if (atomic_load(&r->has_call) && atomic_exchange(&r->call_owed, false))
		eventfd_write(r->call_fd, 1);
}

int set_vring_call(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct ring *r;
	int fd, err = take_ring_fd(b, m, &r, &fd);

	if (!err)
		err = ring_set_fd(b, r->call_fd, &r->has_call, fd);
	if (!err)
		call_if_owed(r);
	return err;
}

int set_vring_err(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct ring *r;
	int fd, err = take_ring_fd(b, m, &r, &fd);

	return err ? err : ring_set_fd(b, r->err_fd, &r->has_err, fd);
}

int set_vring_enable(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct ring *r;
	int err = find_ring(b, m->state.index, &r);

	if (err)
		return err;
	if (m->state.num > 1)
		return refuse(b, "ring %u, num %u: not 0 or 1", r->face.index, m->state.num);
	r->enable_flag = m->state.num;
	choose_enabled(b, r);
	return 0;
}

/* --- for the owner --- */

/*
 * A ring whose device died without a word is often handed over with the base it had at first: QEMU does so with packed rings,
 * which have no used index to read, DPDK's virtio-user with split ones. The ring knows better: if the base is that of a new
 * ring and the ring is not new, or its packed entry there was used in this very lap, what the ring says counts.
 */
static uint32_t believable_base(struct vhost_backend *b, const struct ring *r, const struct virtq *q, uint32_t base)
{
	const uint16_t both = 1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED;
	const struct vring_packed_desc *entry;
	bool was_used;
	uint32_t restored;

	if (!is_packed(b))
		return base ? base : q->used_next;
	entry = &q->ring[base & 0x7fff];
	was_used = (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & both) == (base & 0x8000 ? both : 0) &&
		   __atomic_load_n(&entry->addr, __ATOMIC_RELAXED); /* 0: the driver has not come here yet */
	if (base != virtq_fresh_base(VIRTQ_PACKED) && !was_used)
		return base;
	restored = vhost_restore_base(&r->config, q->desc, q->avail, q->used);
	if (restored != base)
		log_info("%s: ring %u goes on at 0x%x, where it stands, not at 0x%x", b->config.name, r->face.index, restored, base);
	return restored;
}

int vhost_backend_open(struct vhost_backend_ring *face, struct virtq *q)
{
	struct ring *r = ring_of(face);
	struct vhost_backend *b = face->backend;
	void *region;
	int err;

	choose_enabled(b, r);
	err = virtq_start(q, b->config.memory, &r->config, whole_base(b, r->base));
	if (err)
		return err;
	if (virtq_mend_base(q))
		log_info("%s: ring %u begins where the driver has long been: going on at its used index", b->config.name, face->index);
	region = inflight_region(b, r);
	if (region)
		err = virtq_inflight_start(&r->inflight, q, region);
	else
		err = virtq_start(q, b->config.memory, &r->config, believable_base(b, r, q, whole_base(b, r->base)));
	if (err)
		return err;
	r->opened_base = virtq_stop(q);
	/* Who had the ring before may have died between a used entry and its call, after which the driver waits for ever (EVENT_IDX). */
	if (r->opened_base != virtq_fresh_base(q->options) || q->used_next)
		vhost_backend_call(face);
	return 0;
}

void vhost_backend_close(struct vhost_backend_ring *face, struct virtq *q)
{
	struct ring *r = ring_of(face);

	r->base = virtq_stop(q);
	r->has_base = r->has_base || r->base != r->opened_base;
	if (q->inflight)
		virtq_inflight_stop(&r->inflight, q);
}

void vhost_backend_call(struct vhost_backend_ring *face)
{
	struct ring *r = ring_of(face);

	if (atomic_load_explicit(&r->has_call, memory_order_acquire)) { /* pairs with ring_set_fd() */
		eventfd_write(r->call_fd, 1);
		return;
	}
	atomic_store(&r->call_owed, true);
	call_if_owed(r);
}

void vhost_backend_ring_failed(struct vhost_backend_ring *face, const struct virtq *q)
{
	struct ring *r = ring_of(face);
	struct vhost_backend *b = face->backend;

	if (q->error == VIRTQ_ADDRESS && b->config.memory->miss && iotlb_is_cancelled(b))
		return; /* it is being stopped while it waits for a translation; it will look again */
	log_warn("%s: ring %u quarantined: %s", b->config.name, face->index, virtq_error_name(q->error));
	atomic_fetch_or(&b->status, (uint8_t)VIRTIO_CONFIG_S_NEEDS_RESET);
	if (atomic_load(&r->has_err))
		eventfd_write(r->err_fd, 1);
}
