/* SPDX-License-Identifier: BSD-2-Clause */
#include "probe/back.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/loop.h"

void complain(struct back *b, enum complaint c, const char *format, ...)
{
	va_list args;

	if (b->complaint[c][0])
		return; /* the first one tells enough */
	va_start(args, format);
	vsnprintf(b->complaint[c], sizeof(b->complaint[c]), format, args);
	va_end(args);
}

void back_defaults(struct back *b)
{
	b->offered = 1ull << VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES_BIT |
		     1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX;
	b->offered |= b->p.options->rings & PROBE_PACKED ? 1ull << VIRTIO_F_RING_PACKED : 0;
	b->offered |= b->p.options->device == PROBE_NET
			  ? 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_STATUS
			  : 1ull << VIRTIO_BLK_F_FLUSH;
	b->protocol_offered = 1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK |
			      1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ |
			      1ull << VHOST_USER_PROTOCOL_F_STATUS;
	b->protocol_offered |= b->p.options->device == PROBE_BLK ? 1ull << VHOST_USER_PROTOCOL_F_CONFIG : 0;
	b->delay_ms = 0;
	b->in_pieces = false;
	b->fault = FAULT_NONE;
	b->fault_request = b->fault_after = 0;
	memset(b->complaint, 0, sizeof(b->complaint));
}

/* --- memory --- */

static void unmap_all(struct back *b)
{
	for (unsigned k = 0; k < BACK_RINGS; k++)
		back_stop_ring(&b->ring[k]);
	for (unsigned k = 0; k < b->n_regions; k++) {
		struct mem_slot slot = {.id = k};

		memory_set_slot(&b->memory, &slot);
		shared_map_close(&b->region[k].map);
	}
	memory_quiesce(&b->memory);
	b->n_regions = 0;
	b->has_memory = false;
}

static bool map_region(struct back *b, struct vhost_user_region r, int fd)
{
	struct back_region *to = &b->region[b->n_regions];
	struct mem_slot slot = {.id = b->n_regions, .gpa = r.guest_address, .size = r.size, .fd = -1};
	int err;

	if (b->n_regions == BACK_REGIONS || !r.size || r.size % 4096 || r.mmap_offset % 4096 ||
	    r.size > 1ull << 46 || r.mmap_offset > 1ull << 46) {
		complain(b, COMPLAINT_MEMORY, "a region of 0x%llx bytes at offset 0x%llx",
			 (unsigned long long)r.size, (unsigned long long)r.mmap_offset);
		return false;
	}
	err = shared_map_open(&to->map, fd, r.mmap_offset, r.size, -1);
	if (err) {
		complain(b, COMPLAINT_MEMORY,
			 "a region of 0x%llx bytes at offset 0x%llx cannot be mapped: %s",
			 (unsigned long long)r.size, (unsigned long long)r.mmap_offset,
			 err == -ENXIO ? "the file ends before it" : strerror(-err));
		return false;
	}
	to->r = r;
	slot.hva = to->map.data;
	if (memory_set_slot(&b->memory, &slot)) {
		shared_map_close(&to->map);
		complain(b, COMPLAINT_MEMORY,
			 "the region at guest address 0x%llx overlaps another or is not aligned",
			 (unsigned long long)r.guest_address);
		return false;
	}
	b->n_regions++;
	b->has_memory = true;
	return true;
}

static bool add_region(struct back *b, struct vhost_user_message *m)
{
	if (m->n_fds == 1)
		return map_region(b, m->single.region, m->fd[0]);
	complain(b, COMPLAINT_MEMORY, "ADD_MEM_REG with %u descriptors", m->n_fds);
	return false;
}

/* The region goes; the last one takes its number. Rings start again where they stood. */
static bool remove_region(struct back *b, const struct vhost_user_message *m)
{
	struct vhost_user_region r = m->single.region;

	for (unsigned k = 0; k < b->n_regions; k++) {
		struct back_region gone = b->region[k];
		struct mem_slot slot = {.id = k};

		if (gone.r.guest_address != r.guest_address || gone.r.size != r.size ||
		    gone.r.user_address != r.user_address)
			continue;
		for (unsigned n = 0; n < BACK_RINGS; n++)
			back_stop_ring(&b->ring[n]);
		memory_set_slot(&b->memory, &slot);
		if (k != --b->n_regions) {
			struct back_region last = b->region[b->n_regions];

			slot.id = b->n_regions;
			memory_set_slot(&b->memory, &slot);
			slot = (struct mem_slot){
			    .id = k, .gpa = last.r.guest_address, .size = last.r.size, .fd = -1};
			slot.hva = last.map.data;
			memory_set_slot(&b->memory, &slot);
			b->region[k] = last;
		}
		memory_quiesce(&b->memory);
		shared_map_close(&gone.map);
		return true;
	}
	complain(b, COMPLAINT_MEMORY, "REM_MEM_REG of a region that is not there, at 0x%llx",
		 (unsigned long long)r.guest_address);
	return false;
}

static bool set_memory(struct back *b, struct vhost_user_message *m)
{
	bool good = m->memory.n_regions <= VHOST_USER_MAX_REGIONS && m->n_fds == m->memory.n_regions &&
		    m->size == 8 + m->memory.n_regions * sizeof(struct vhost_user_region);

	if (!good)
		complain(b, COMPLAINT_MEMORY, "a table of %u regions in %u bytes with %u descriptors",
			 m->memory.n_regions, m->size, m->n_fds);
	unmap_all(b);
	for (unsigned k = 0; good && k < m->memory.n_regions; k++)
		good = map_region(b, m->memory.region[k], m->fd[k]);
	return good;
}

/* --- rings --- */

static struct back_ring *ring_of(struct back *b, const struct vhost_user_message *m, uint32_t index)
{
	if (index < BACK_RINGS)
		return &b->ring[index];
	complain(b, COMPLAINT_RING, "%s for ring %u", vhost_user_name(VHOST_USER_FRONT_END, m->request),
		 index);
	return NULL;
}

static bool set_fd(struct back *b, struct vhost_user_message *m)
{
	struct back_ring *r = ring_of(b, m, m->u64 & VHOST_USER_INDEX_MASK);
	bool none = m->u64 & VHOST_USER_NO_FD;
	int *fd;

	if (m->n_fds != !none) {
		complain(b, COMPLAINT_FORM, "%s with %u descriptors and bit 8 %s",
			 vhost_user_name(VHOST_USER_FRONT_END, m->request), m->n_fds, none ? "set" : "clear");
		return false;
	}
	if (!r)
		return false;
	fd = m->request == VHOST_USER_SET_VRING_KICK   ? &r->kick_fd
	     : m->request == VHOST_USER_SET_VRING_CALL ? &r->call_fd
						       : &r->err_fd;
	if (*fd >= 0)
		close(*fd);
	*fd = vhost_user_take_fd(m, 0);
	if (*fd >= 0)
		fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK);
	if (m->request != VHOST_USER_SET_VRING_KICK)
		return true;
	r->polled = none;
	if (!r->has_num || !r->has_addr)
		complain(b, COMPLAINT_RING, "a kick descriptor for ring %u, which has no %s yet",
			 (unsigned)(m->u64 & VHOST_USER_INDEX_MASK), r->has_num ? "addresses" : "size");
	return true;
}

static bool set_ring(struct back *b, const struct vhost_user_message *m)
{
	struct back_ring *r = ring_of(b, m, m->state.index);
	uint32_t num = m->state.num;

	if (!r)
		return false;
	switch (m->request) {
	case VHOST_USER_SET_VRING_NUM:
		if (!num || num > VIRTQ_MAX_SIZE ||
		    (!(b->features >> VIRTIO_F_RING_PACKED & 1) && num & (num - 1)))
			complain(b, COMPLAINT_RING, "ring %u of %u entries", m->state.index, num);
		r->size = num;
		r->has_num = true;
		break;
	case VHOST_USER_SET_VRING_BASE:
		if (!(b->features >> VIRTIO_F_RING_PACKED & 1) && num > 0xffff)
			complain(b, COMPLAINT_RING, "ring %u starts at 0x%x", m->state.index, num);
		r->base = num;
		break;
	case VHOST_USER_SET_VRING_ENABLE:
		if (num > 1)
			complain(b, COMPLAINT_RING, "ring %u is enabled with %u", m->state.index, num);
		r->enabled = num;
		break;
	}
	return true;
}

static bool set_addr(struct back *b, const struct vhost_user_message *m)
{
	struct back_ring *r = ring_of(b, m, m->addr.index);
	struct vhost_vring_addr a = m->addr;

	if (!r)
		return false;
	if (!b->has_memory)
		complain(b, COMPLAINT_RING, "addresses of ring %u before any memory", a.index);
	if (a.desc_user_addr % 16 || a.avail_user_addr % 2 || a.used_user_addr % 4)
		complain(b, COMPLAINT_RING, "ring %u is not aligned: 0x%llx 0x%llx 0x%llx", a.index,
			 (unsigned long long)a.desc_user_addr, (unsigned long long)a.avail_user_addr,
			 (unsigned long long)a.used_user_addr);
	back_stop_ring(r);
	r->addr = a;
	r->has_addr = true;
	return true;
}

/* --- features, configuration --- */

static bool set_features(struct back *b, uint64_t features)
{
	if (features & ~b->offered)
		complain(b, COMPLAINT_OFFER, "features 0x%llx were accepted and not offered",
			 (unsigned long long)(features & ~b->offered));
	b->features = features;
	b->has_features = true;
	for (unsigned k = 0; k < BACK_RINGS; k++)
		if (!(features & VHOST_USER_F_PROTOCOL_FEATURES_BIT))
			b->ring[k].enabled = true;
	return true;
}

static void get_config(struct back *b, struct vhost_user_message *m)
{
	struct virtio_blk_config config = {
	    .capacity = BACK_DISK_BYTES / 512, .blk_size = 512, .seg_max = 126, .num_queues = 1};
	uint32_t offset = m->config.offset, size = m->config.size;

	if (size > VHOST_USER_MAX_CONFIG || m->size != 12 + size || offset > VHOST_USER_MAX_CONFIG) {
		complain(b, COMPLAINT_FORM, "GET_CONFIG of %u bytes at %u in a payload of %u", size, offset,
			 m->size);
		m->size = 0;
		return;
	}
	memset(m->config.data, 0, size);
	if (offset < sizeof(config))
		memcpy(m->config.data, (uint8_t *)&config + offset,
		       size < sizeof(config) - offset ? size : sizeof(config) - offset);
}

/* --- answering --- */

static int send_bytes(struct back *b, const struct vhost_user_message *m, size_t len)
{
	const uint8_t *bytes = (const uint8_t *)m;
	int err = 0;

	for (size_t k = 0; k < len && !err; k++)
		err = link_send_bytes(&b->p.link, bytes + k, 1);
	return err;
}

static void spoil_value(const struct back *b, struct vhost_user_message *m)
{
	memset(m->bytes, b->fault == FAULT_VALUE ? 0xff : 0, m->size);
	if (b->fault == FAULT_VALUE && m->request == VHOST_USER_GET_FEATURES)
		m->u64 &= ~(1ull << VIRTIO_F_ACCESS_PLATFORM); /* or all memory would be behind an IOMMU */
}

static int answer_wrongly(struct back *b, struct vhost_user_message *m)
{
	int fds[8], err;

	b->fault_done = true;
	switch (b->fault) {
	case FAULT_REQUEST:
		m->request = m->request == VHOST_USER_GET_FEATURES ? VHOST_USER_GET_QUEUE_NUM
								   : VHOST_USER_GET_FEATURES;
		break;
	case FAULT_FLAG:
		m->flags &= ~(uint32_t)VHOST_USER_REPLY;
		break;
	case FAULT_VERSION:
		m->flags &= ~(uint32_t)VHOST_USER_VERSION_MASK;
		break;
	case FAULT_SHORT:
		m->size -= 4;
		break;
	case FAULT_LONG:
		m->size += 64;
		break;
	case FAULT_HUGE:
		m->size = 0xffffffff;
		return link_send_raw(&b->p.link, m, VHOST_USER_MAX_PAYLOAD, NULL, 0);
	case FAULT_FDS:
		for (unsigned k = 0; k < 8; k++)
			fds[k] = eventfd(0, EFD_CLOEXEC);
		err = link_send_raw(&b->p.link, m, m->size, fds, 8);
		for (unsigned k = 0; k < 8; k++)
			close(fds[k]);
		return err;
	case FAULT_HALF:
		link_send_bytes(&b->p.link, m, VHOST_USER_HEADER_SIZE + 3);
		link_close(&b->p.link);
		return -ECONNRESET;
	case FAULT_TWICE:
		link_send(&b->p.link, m);
		break;
	case FAULT_SILENT:
		return 0;
	case FAULT_VALUE:
	case FAULT_ZERO:
		spoil_value(b, m);
		break;
	case FAULT_NACK:
		m->u64 = 22;
		break;
	default: /* FAULT_CLOSE */
		link_close(&b->p.link);
		return -ECONNRESET;
	}
	return link_send(&b->p.link, m);
}

static int answer(struct back *b, struct vhost_user_message *m, bool is_ack)
{
	bool here = b->fault_request ? m->request == b->fault_request : b->fault != FAULT_NACK || is_ack;

	if (b->delay_ms)
		poll(NULL, 0, (int)b->delay_ms);
	m->flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
	m->n_fds = 0;
	if (b->fault && b->fault < FAULT_USED_ID && !(b->fault == FAULT_CLOSE && b->fault_after) && here &&
	    !b->fault_done)
		return answer_wrongly(b, m);
	if (b->in_pieces)
		return send_bytes(b, m, VHOST_USER_HEADER_SIZE + m->size);
	return link_send(&b->p.link, m);
}

static int ack(struct back *b, struct vhost_user_message *m, bool good)
{
	if (!(m->flags & VHOST_USER_NEED_REPLY) || !(b->protocol >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1))
		return 0;
	m->size = 8;
	m->u64 = !good;
	return answer(b, m, true);
}

static int reply_u64(struct back *b, struct vhost_user_message *m, uint64_t value)
{
	m->size = 8;
	m->u64 = value;
	return answer(b, m, false);
}

static void nonsense_on_channel(struct back *b)
{
	struct vhost_user_message m;

	for (unsigned k = 0; k < 12; k++) {
		vhost_user_request_init(&m, VHOST_USER_BACK_END, k);
		memset(m.bytes, 0xff, m.size);
		m.flags |= k % 2 ? VHOST_USER_NEED_REPLY : 0;
		if (vhost_user_send(b->channel_fd, &m, 100))
			break;
	}
	m.size = 0xffffffff;
	if (write(b->channel_fd, &m, 64) < 0) /* not read in time, or closed: both are right */
		return;
}

static int handle(struct back *b, struct vhost_user_message *m)
{
	uint32_t index;

	switch (m->request) {
	case VHOST_USER_GET_FEATURES:
		return reply_u64(b, m, b->offered);
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		return reply_u64(b, m, b->protocol_offered);
	case VHOST_USER_GET_QUEUE_NUM:
		return reply_u64(b, m, b->p.options->device == PROBE_NET ? BACK_RINGS / 2 : BACK_RINGS);
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		return reply_u64(b, m, BACK_REGIONS);
	case VHOST_USER_GET_STATUS:
		return reply_u64(b, m, b->status);
	case VHOST_USER_GET_CONFIG:
		get_config(b, m);
		return answer(b, m, false);
	case VHOST_USER_GET_VRING_BASE:
		index = m->state.index;
		if (!ring_of(b, m, index))
			return -EPROTO;
		back_stop_ring(&b->ring[index]);
		if (b->ring[index].kick_fd >= 0)
			close(b->ring[index].kick_fd);
		b->ring[index].kick_fd = -1;
		b->ring[index].polled = false;
		m->state.num = b->ring[index].base;
		return answer(b, m, false);
	case VHOST_USER_SET_FEATURES:
		return ack(b, m, set_features(b, m->u64));
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		if (m->u64 & ~b->protocol_offered)
			complain(b, COMPLAINT_OFFER, "protocol features 0x%llx were accepted and not offered",
				 (unsigned long long)(m->u64 & ~b->protocol_offered));
		b->protocol = m->u64;
		return ack(b, m, true);
	case VHOST_USER_SET_OWNER:
		b->owned = true;
		return ack(b, m, true);
	case VHOST_USER_SET_MEM_TABLE:
		return ack(b, m, set_memory(b, m));
	case VHOST_USER_ADD_MEM_REG:
		return ack(b, m, add_region(b, m));
	case VHOST_USER_REM_MEM_REG:
		return ack(b, m, remove_region(b, m));
	case VHOST_USER_SET_VRING_NUM:
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_SET_VRING_ENABLE:
		return ack(b, m, set_ring(b, m));
	case VHOST_USER_SET_VRING_ADDR:
		return ack(b, m, set_addr(b, m));
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
		return ack(b, m, set_fd(b, m));
	case VHOST_USER_SET_STATUS:
		b->status = (uint8_t)m->u64;
		return ack(b, m, true);
	case VHOST_USER_SET_BACKEND_REQ_FD:
		if (b->channel_fd >= 0)
			close(b->channel_fd);
		b->channel_fd = vhost_user_take_fd(m, 0);
		return ack(b, m, true);
	default:
		return ack(b, m, true);
	}
}

/* Form and gates, by the row of the message. */
static void check_message(struct back *b, const struct vhost_user_message *m)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, m->request);
	char why[160];

	if (!rule) {
		complain(b, COMPLAINT_FORM, "message %u is not in the specification", m->request);
		return;
	}
	if (vhost_user_check(rule, m, false, why, sizeof(why)))
		complain(b, COMPLAINT_FORM, "%s: %s", rule->name, why);
	/* GET_QUEUE_NUM and the rest of the first talk ask by what was offered, before SET_PROTOCOL_FEATURES
	 * or after it. */
	if (rule->protocol >= 0 && !((b->protocol | b->protocol_offered) >> rule->protocol & 1))
		complain(b, COMPLAINT_GATE, "%s though %s was not offered", rule->name,
			 vhost_user_protocol_feature_name((unsigned)rule->protocol));
	if (m->flags & VHOST_USER_NEED_REPLY && !(b->protocol >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1))
		complain(b, COMPLAINT_GATE, "%s with need_reply though REPLY_ACK is not negotiated",
			 rule->name);
	if ((m->request == VHOST_USER_GET_PROTOCOL_FEATURES ||
	     m->request == VHOST_USER_SET_PROTOCOL_FEATURES) &&
	    !(b->offered & VHOST_USER_F_PROTOCOL_FEATURES_BIT))
		complain(b, COMPLAINT_GATE, "%s though PROTOCOL_FEATURES was not offered", rule->name);
}

static int take_message(struct back *b)
{
	struct vhost_user_message m;
	int err = link_receive(&b->p.link, &m, b->p.options->timeout_ms);

	if (err)
		return err;
	check_message(b, &m);
	b->messages++;
	if (b->fault == FAULT_CLOSE && b->fault_after && b->messages >= b->fault_after) {
		vhost_user_close_fds(&m);
		b->fault_done = true;
		link_close(&b->p.link);
		return -ECONNRESET;
	}
	err = handle(b, &m);
	vhost_user_close_fds(&m);
	back_start_rings(b);
	if (b->fault == FAULT_CHANNEL && b->channel_fd >= 0 && !b->fault_done && back_is_set_up(b)) {
		b->fault_done = true;
		nonsense_on_channel(b);
	}
	return err;
}

/* --- a session --- */

int back_connect(struct back *b, unsigned timeout_ms)
{
	int err;

	if (b->is_fresh) {
		b->is_fresh = false;
		return 0;
	}
	back_close(b);
	err = link_open(&b->p.link, timeout_ms);
	return err ? fail(&b->p, "no front end came: %s", strerror(-err)) : 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void back_close(struct back *b)
{
	link_close(&b->p.link);
	unmap_all(b);
	for (unsigned k = 0; k < BACK_RINGS; k++) {
		struct back_ring *r = &b->ring[k];

		close_fd(&r->kick_fd);
		close_fd(&r->call_fd);
		close_fd(&r->err_fd);
		*r = (struct back_ring){.kick_fd = -1, .call_fd = -1, .err_fd = -1};
	}
	close_fd(&b->channel_fd);
	b->is_fresh = false;
	b->owned = b->has_features = b->fault_done = false;
	b->features = b->protocol = 0;
	b->messages = 0;
	b->status = 0;
}

bool back_is_set_up(const struct back *b)
{
	unsigned n = session_queues(&b->p);

	for (unsigned k = 0; k < n; k++)
		if (!b->ring[k].running || !b->ring[k].enabled)
			return false;
	return true;
}

static unsigned work_done(const struct back *b)
{
	unsigned done = 0;

	for (unsigned k = 0; k < BACK_RINGS; k++)
		done += b->ring[k].done;
	return done;
}

bool back_has_worked(const struct back *b)
{
	return back_is_set_up(b) && work_done(b);
}

bool back_has_worked_long(const struct back *b)
{
	return back_is_set_up(b) && work_done(b) > 2000;
}

int back_serve(struct back *b, bool (*done)(const struct back *b), unsigned ms)
{
	uint64_t end = now_ns() + ms * 1000000ull;

	while (now_ns() < end) {
		struct pollfd ready[BACK_RINGS + 1] = {{.fd = b->p.link.fd, .events = POLLIN}};
		unsigned n = 1;
		int err;

		if (b->p.link.fd < 0)
			return -ECONNRESET;
		for (unsigned k = 0; k < BACK_RINGS; k++)
			if (b->ring[k].kick_fd >= 0)
				ready[n++] = (struct pollfd){.fd = b->ring[k].kick_fd, .events = POLLIN};
		if (poll(ready, n, 5) < 0)
			return -errno;
		err = ready[0].revents ? take_message(b) : 0;
		if (err)
			return err;
		back_serve_rings(b);
		if (done && done(b))
			return 0;
	}
	return -ETIMEDOUT;
}
