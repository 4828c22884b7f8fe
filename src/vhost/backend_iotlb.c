/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The IOTLB (specification, section "IOMMU support") and the channel for the back end's own requests.
 *
 * With ACCESS_PLATFORM negotiated, rings and descriptors hold IOVAs. Their translations come from the front end and are kept as
 * slots of config.memory, so whoever looks up an address needs to know nothing. A look-up that finds nothing calls
 * miss() on its ring's thread, which asks for the translation over the channel and waits until an update has come, the
 * rings are being stopped, or a time limit. The session's own thread never waits: it is the one that receives updates. A ring
 * whose own addresses are not translated yet is started when they are.
 *
 * Neighbouring translations that lie together in memory too become one slot, so that a ring or table of several pages is
 * one range. Before a translation is taken away all rings are paused: nobody holds memory under it then.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/backend_internal.h"

enum { MAX_TRANSLATIONS = 8192, UPDATES_PER_QUIESCE = 256, CHANNEL_TIMEOUT_MS = 1000 };

/* --- the channel --- */

static int channel_send(struct vhost_backend *b, const struct vhost_user_message *m)
{
	int err = -ENOTCONN;

	pthread_mutex_lock(&b->channel_lock);
	if (b->channel_fd >= 0)
		err = vhost_user_send(b->channel_fd, m, CHANNEL_TIMEOUT_MS);
	pthread_mutex_unlock(&b->channel_lock);
	return err;
}

static void channel_set(struct vhost_backend *b, int fd)
{
	int old;

	pthread_mutex_lock(&b->channel_lock);
	old = b->channel_fd;
	b->channel_fd = fd;
	pthread_mutex_unlock(&b->channel_lock);
	if (old >= 0)
		close(old);
}

void channel_forget(struct vhost_backend *b)
{
	channel_set(b, -1);
}

int set_backend_req_fd(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	int type = 0;
	socklen_t size = sizeof(type);

	if (getsockopt(m->fd[0], SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM)
		return refuse(b, "descriptor: not a stream socket");
	channel_set(b, vhost_user_take_fd(m, 0));
	return 0;
}

void vhost_backend_config_changed(struct vhost_backend *b)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_BACK_END, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	if (has_protocol(b, VHOST_USER_PROTOCOL_F_CONFIG))
		channel_send(b, &m);
}

/* --- misses --- */

void iotlb_init(struct vhost_backend *b)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&b->channel_lock, NULL);
	pthread_mutex_init(&b->iotlb.lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b->iotlb.changed, &attr);
	pthread_condattr_destroy(&attr);
}

void iotlb_deinit(struct vhost_backend *b)
{
	pthread_cond_destroy(&b->iotlb.changed);
	pthread_mutex_destroy(&b->iotlb.lock);
	pthread_mutex_destroy(&b->channel_lock);
}

void iotlb_cancel(struct vhost_backend *b, bool on)
{
	pthread_mutex_lock(&b->iotlb.lock);
	b->iotlb.cancelled = on;
	pthread_cond_broadcast(&b->iotlb.changed);
	pthread_mutex_unlock(&b->iotlb.lock);
}

static const struct mem_slot *translation(struct vhost_backend *b, gpa_t iova)
{
	const struct mem_table *table = atomic_load_explicit(&b->config.memory->table, memory_order_acquire);

	for (unsigned k = 0; table && k < table->count; k++)
		if (iova - table->slot[k]->gpa < table->slot[k]->size)
			return table->slot[k];
	return NULL;
}

static bool has_translation(struct vhost_backend *b, gpa_t iova, enum mem_access access)
{
	const struct mem_slot *slot = translation(b, iova);

	return slot && (access == MEM_READ || !(slot->flags & SLOT_READONLY));
}

bool iotlb_is_cancelled(struct vhost_backend *b)
{
	bool cancelled;

	pthread_mutex_lock(&b->iotlb.lock);
	cancelled = b->iotlb.cancelled;
	pthread_mutex_unlock(&b->iotlb.lock);
	return cancelled;
}

static int ask(struct vhost_backend *b, gpa_t iova, enum mem_access access)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_BACK_END, VHOST_USER_BACKEND_IOTLB_MSG);
	m.iotlb.iova = iova;
	m.iotlb.perm = access == MEM_WRITE ? VHOST_ACCESS_WO : VHOST_ACCESS_RO;
	m.iotlb.type = VHOST_IOTLB_MISS;
	return channel_send(b, &m);
}

static bool miss(void *opaque, gpa_t iova, enum mem_access access)
{
	struct vhost_backend *b = opaque;
	struct timespec until;
	int err = 0;

	if (pthread_equal(pthread_self(), b->iotlb.session) || ask(b, iova, access))
		return false;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += MISS_TIMEOUT_MS / 1000;
	pthread_mutex_lock(&b->iotlb.lock);
	while (!err && !b->iotlb.cancelled && !has_translation(b, iova, access))
		err = pthread_cond_timedwait(&b->iotlb.changed, &b->iotlb.lock, &until);
	pthread_mutex_unlock(&b->iotlb.lock);
	return has_translation(b, iova, access);
}

/* true: [iova, iova + len) is translated, in one piece; false: it was asked for. */
static bool covers(struct vhost_backend *b, gpa_t iova, uint64_t len, enum mem_access access)
{
	const struct mem_slot *slot = translation(b, iova);

	if (mem_at(b->config.memory, iova, len, access))
		return true;
	ask(b, slot && has_translation(b, iova, access) ? slot->gpa + slot->size : iova, access);
	return false;
}

void iotlb_enable(struct vhost_backend *b, bool on)
{
	b->iotlb.session = pthread_self();
	b->config.memory->miss_opaque = b;
	b->config.memory->miss = on ? miss : NULL;
}

bool iotlb_covers_ring(struct vhost_backend *b, const struct ring *r)
{
	struct virtq_layout bytes = virtq_layout(r->num, r->config.options);

	if (!has_feature(b, VIRTIO_F_ACCESS_PLATFORM))
		return true;
	return covers(b, r->config.desc, bytes.desc, r->config.options & VIRTQ_PACKED ? MEM_WRITE : MEM_READ) &&
	       covers(b, r->config.driver, bytes.driver, MEM_READ) && covers(b, r->config.device, bytes.device, MEM_WRITE);
}

/* --- updates --- */

static int remove_range(struct vhost_backend *b, uint64_t iova, uint64_t size)
{
	struct memory *mem = b->config.memory;
	bool again = true;
	int err = 0;

	while (again && !err) {
		const struct mem_table *table = atomic_load(&mem->table);

		again = false;
		for (unsigned k = 0; table && k < table->count && !again; k++) {
			const struct mem_slot *s = table->slot[k];

			again = s->gpa < iova + size && iova < s->gpa + s->size;
			if (again)
				err = memory_set_slot(mem, &(struct mem_slot){ .id = s->id });
		}
	}
	return err;
}

static bool anything_in(struct vhost_backend *b, uint64_t iova, uint64_t size)
{
	const struct mem_table *table = atomic_load(&b->config.memory->table);

	for (unsigned k = 0; table && k < table->count; k++)
		if (table->slot[k]->gpa < iova + size && iova < table->slot[k]->gpa + table->slot[k]->size)
			return true;
	return false;
}

/* Is this what is known already? */
static bool is_known(struct vhost_backend *b, const struct mem_slot *wanted)
{
	const struct mem_slot *s = translation(b, wanted->gpa);

	return s && wanted->size <= s->size - (wanted->gpa - s->gpa) && s->hva + (wanted->gpa - s->gpa) == wanted->hva &&
	       s->flags == wanted->flags;
}

/* Take in a neighbour that goes on in memory as it does in IOVAs: it is replaced by the larger slot. */
static void join(struct vhost_backend *b, struct mem_slot *slot)
{
	const struct mem_slot *before = slot->gpa ? translation(b, slot->gpa - 1) : NULL;
	const struct mem_slot *behind = translation(b, slot->gpa + slot->size);
	struct mem_slot old;

	if (before && before->flags == slot->flags && before->hva + before->size == slot->hva) {
		old = *before;
		slot->gpa = old.gpa;
		slot->hva = old.hva;
		slot->size += old.size;
		memory_set_slot(b->config.memory, &(struct mem_slot){ .id = old.id });
	}
	if (behind && behind->flags == slot->flags && slot->hva + slot->size == behind->hva) {
		old = *behind;
		slot->size += old.size;
		memory_set_slot(b->config.memory, &(struct mem_slot){ .id = old.id });
	}
}

static void make_room(struct vhost_backend *b)
{
	const struct mem_table *table = atomic_load(&b->config.memory->table);

	if (table && table->count >= MAX_TRANSLATIONS)
		while (table->count > MAX_TRANSLATIONS / 2) {
			memory_set_slot(b->config.memory, &(struct mem_slot){ .id = table->slot[table->count - 1]->id });
			table = atomic_load(&b->config.memory->table);
		}
}

static int update(struct vhost_backend *b, const struct vhost_iotlb_msg *msg)
{
	struct mem_slot slot = { .gpa = msg->iova, .size = msg->size, .id = b->next_slot_id++, .fd = -1,
				 .hva = memory_user_to_hva(b, msg->uaddr, msg->size),
				 .flags = msg->perm & VHOST_ACCESS_WO ? 0 : SLOT_READONLY };
	bool pause = anything_in(b, slot.gpa, slot.size) || ++b->iotlb.since_quiesce >= UPDATES_PER_QUIESCE;
	int err;

	if (!slot.hva)
		return refuse(b, "user address 0x%llx size 0x%llx: in no memory region", msg->uaddr, msg->size);
	if (is_known(b, &slot))
		return 0;
	if (pause) {
		rings_pause(b);
		b->iotlb.since_quiesce = 0;
		remove_range(b, slot.gpa, slot.size);
		make_room(b);
	}
	join(b, &slot);
	err = memory_set_slot(b->config.memory, &slot);
	return err ? refuse(b, "iova 0x%llx size 0x%llx: %s", msg->iova, msg->size, strerror(-err)) : 0;
}

static void invalidate(struct vhost_backend *b, const struct vhost_iotlb_msg *msg)
{
	if (!anything_in(b, msg->iova, msg->size))
		return;
	rings_pause(b);
	remove_range(b, msg->iova, msg->size);
	memory_quiesce(b->config.memory);
}

int iotlb_msg(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct vhost_iotlb_msg msg = m->iotlb;
	bool whole = !msg.iova && msg.size == UINT64_MAX; /* "everything", as some invalidate */
	int err = 0, resumed;

	if (msg.type != VHOST_IOTLB_UPDATE && msg.type != VHOST_IOTLB_INVALIDATE)
		return refuse(b, "type %u: not an update or invalidation", msg.type);
	if (whole && msg.type == VHOST_IOTLB_INVALIDATE)
		msg.size = UINT64_MAX - 4095;
	if (!msg.size || msg.iova + msg.size < msg.iova || (msg.iova | msg.size) & 4095)
		return refuse(b, "iova 0x%llx size 0x%llx: no range of pages", msg.iova, msg.size);
	if (msg.type == VHOST_IOTLB_UPDATE)
		err = update(b, &msg);
	else
		invalidate(b, &msg);
	pthread_mutex_lock(&b->iotlb.lock);
	pthread_cond_broadcast(&b->iotlb.changed);
	pthread_mutex_unlock(&b->iotlb.lock);
	resumed = rings_start(b);
	return err ? err : resumed;
}
