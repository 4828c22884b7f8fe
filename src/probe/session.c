/* SPDX-License-Identifier: BSD-2-Clause */
#include "probe/session.h"

#include <errno.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- verdicts --- */

static void settle(struct probe *p, enum outcome outcome, const char *format, va_list args)
{
	if (p->verdict.outcome == OUTCOME_FAIL || p->verdict.outcome == OUTCOME_NOT_APPLICABLE)
		return; /* the first one stays */
	p->verdict.outcome = outcome;
	vsnprintf(p->verdict.text, sizeof(p->verdict.text), format, args);
}

int fail(struct probe *p, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	settle(p, OUTCOME_FAIL, format, args);
	va_end(args);
	return -1;
}

int not_applicable(struct probe *p, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	settle(p, OUTCOME_NOT_APPLICABLE, format, args);
	va_end(args);
	return -1;
}

int warn(struct probe *p, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	settle(p, OUTCOME_WARNING, format, args);
	va_end(args);
	return 0;
}

void remark(struct probe *p, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (p->verdict.outcome == OUTCOME_PASS)
		vsnprintf(p->verdict.text, sizeof(p->verdict.text), format, args);
	va_end(args);
}

void add_figure(struct probe *p, const char *name, double value)
{
	if (p->verdict.n_figures < FIGURES_MAX)
		p->verdict.figure[p->verdict.n_figures++] = (struct figure){name, value};
}

int need_feature(struct probe *p, unsigned bit, const char *name)
{
	return p->offered >> bit & 1 ? 0 : not_applicable(p, "the target does not offer %s", name);
}

int need_protocol(struct probe *p, unsigned bit)
{
	return p->protocol_offered >> bit & 1
		   ? 0
		   : not_applicable(p, "the target does not offer the protocol feature %s",
				    vhost_user_protocol_feature_name(bit));
}

bool has(const struct probe *p, unsigned bit)
{
	return p->features >> bit & 1;
}

bool has_protocol(const struct probe *p, unsigned bit)
{
	return p->protocol >> bit & 1;
}

/* --- messages --- */

static const char *trouble(int err)
{
	return err == -ETIMEDOUT    ? "no answer came"
	       : err == -ECONNRESET ? "the connection was closed"
				    : "what came was no message";
}

static const char *name_of(uint32_t request)
{
	return vhost_user_name(VHOST_USER_FRONT_END, request);
}

/* The next message is a reply to `request`, whole and of the right form. */
static int expect_reply(struct probe *p, uint32_t request, struct vhost_user_message *m)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, request);
	int err = link_receive(&p->link, m, p->options->timeout_ms);
	char why[160];

	if (err)
		return fail(p, "%s: %s", name_of(request), trouble(err));
	if (m->request != request) {
		vhost_user_close_fds(m);
		return fail(p, "%s was answered by %s", name_of(request), name_of(m->request));
	}
	if (rule && vhost_user_check(rule, m, true, why, sizeof(why))) {
		vhost_user_close_fds(m);
		return fail(p, "%s's reply: %s", name_of(request), why);
	}
	return 0;
}

int ask(struct probe *p, struct vhost_user_message *m)
{
	uint32_t request = m->request;
	int err = link_send(&p->link, m);

	if (err)
		return fail(p, "%s could not be sent: %s", name_of(request), trouble(err));
	return expect_reply(p, request, m);
}

int tell_for_answer(struct probe *p, struct vhost_user_message *m, int64_t *ack)
{
	uint32_t request = m->request;
	int err;

	if (p->acks)
		m->flags |= VHOST_USER_NEED_REPLY;
	*ack = -1;
	err = link_send(&p->link, m);
	if (err == -ECONNRESET)
		return 0;
	if (err)
		return fail(p, "%s could not be sent: %s", name_of(request), trouble(err));
	*ack = -2;
	if (!p->acks)
		return 0;
	err = link_receive(&p->link, m, p->options->timeout_ms);
	if (err == -ECONNRESET) {
		*ack = -1;
		return 0;
	}
	if (err == -ETIMEDOUT)
		return fail(p, "%s: no acknowledgement came, though need_reply was set", name_of(request));
	if (err || m->request != request || !(m->flags & VHOST_USER_REPLY) || m->size != 8) {
		if (!err)
			vhost_user_close_fds(m);
		return fail(p, "%s: instead of an acknowledgement of 8 bytes came %s, %u bytes",
			    name_of(request), err ? "no message" : name_of(m->request), err ? 0 : m->size);
	}
	vhost_user_close_fds(m);
	*ack = m->u64 ? 1 : 0;
	return 0;
}

int tell(struct probe *p, struct vhost_user_message *m)
{
	uint32_t request = m->request;
	int64_t ack;

	if (tell_for_answer(p, m, &ack))
		return -1;
	if (ack == -1)
		return fail(p, "%s: the connection was closed", name_of(request));
	if (ack > 0)
		return fail(p, "%s was refused with 0x%llx", name_of(request), (unsigned long long)m->u64);
	return 0;
}

int ask_u64(struct probe *p, uint32_t request, uint64_t *value)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	if (ask(p, &m))
		return -1;
	*value = m.u64;
	return 0;
}

int tell_u64(struct probe *p, uint32_t request, uint64_t value)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	m.u64 = value;
	return tell(p, &m);
}

int tell_nothing(struct probe *p, uint32_t request)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	return tell(p, &m);
}

int tell_state(struct probe *p, uint32_t request, unsigned index, unsigned num)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	m.state = (struct vhost_vring_state){index, num};
	return tell(p, &m);
}

int tell_fd(struct probe *p, uint32_t request, unsigned index, int fd)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	m.u64 = index | (fd < 0 ? VHOST_USER_NO_FD : 0);
	m.n_fds = fd >= 0;
	m.fd[0] = fd;
	return tell(p, &m);
}

int barrier(struct probe *p)
{
	uint64_t features;

	return ask_u64(p, VHOST_USER_GET_FEATURES, &features);
}

/* --- a session --- */

void session_defaults(struct probe *p, bool packed)
{
	p->packed = packed;
	p->want = 1ull << VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES_BIT;
	p->want |= packed ? 1ull << VIRTIO_F_RING_PACKED : 0;
	p->want_protocol = 1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK |
			   1ull << VHOST_USER_PROTOCOL_F_CONFIG;
	p->ask_acks = true;
	p->ring_size = 64;
	p->base = UINT32_MAX; /* a fresh ring's */
}

int session_connect(struct probe *p)
{
	int err;

	session_close(p);
	err = link_open(&p->link, p->options->timeout_ms);
	if (err)
		return fail(p, p->link.server ? "the target did not connect: %s" : "could not connect: %s",
			    strerror(-err));
	guest_reset(&p->guest);
	p->features = p->protocol = 0;
	p->acks = false;
	return 0;
}

int session_negotiate(struct probe *p)
{
	uint64_t offered, protocol;

	if (ask_u64(p, VHOST_USER_GET_FEATURES, &offered))
		return -1;
	if (offered & p->want & VHOST_USER_F_PROTOCOL_FEATURES_BIT) {
		if (ask_u64(p, VHOST_USER_GET_PROTOCOL_FEATURES, &protocol))
			return -1;
		p->protocol = protocol & p->want_protocol;
		if (tell_u64(p, VHOST_USER_SET_PROTOCOL_FEATURES, p->protocol))
			return -1;
		p->acks = p->ask_acks && has_protocol(p, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	}
	p->features = offered & p->want;
	return tell_nothing(p, VHOST_USER_SET_OWNER);
}

static int set_status(struct probe *p, unsigned status)
{
	return has_protocol(p, VHOST_USER_PROTOCOL_F_STATUS) ? tell_u64(p, VHOST_USER_SET_STATUS, status) : 0;
}

int session_features(struct probe *p)
{
	unsigned before = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	return set_status(p, before) || tell_u64(p, VHOST_USER_SET_FEATURES, p->features) ||
		       set_status(p, before | VIRTIO_CONFIG_S_FEATURES_OK)
		   ? -1
		   : 0;
}

int session_ready(struct probe *p)
{
	return set_status(p, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
				 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

int session_memory(struct probe *p)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_MEM_TABLE);
	m.memory.n_regions = GUEST_REGIONS;
	m.size = 8 + GUEST_REGIONS * sizeof(struct vhost_user_region);
	m.n_fds = GUEST_REGIONS;
	for (unsigned k = 0; k < GUEST_REGIONS; k++) {
		m.memory.region[k] = p->guest.region[k];
		m.fd[k] = p->guest.fd;
	}
	return tell(p, &m);
}

/* A driver that starts where the device is told to: the ring's indices stand at the base. */
static void start_at(struct probe *p, struct virtq_driver *d)
{
	if (p->base == UINT32_MAX)
		return;
	d->avail_next = d->used_next = (uint16_t)(p->packed ? p->base & 0x7fff : p->base);
	if (p->packed) {
		d->avail_wrap = d->used_wrap = p->base >> 15 & 1;
		return;
	}
	d->avail->idx = d->used->idx = d->avail_next;
	d->avail->ring[d->size] = d->avail_next; /* used_event */
}

int session_lay_out(struct probe *p, unsigned index)
{
	struct probe_queue *q = &p->queue[index];
	unsigned options = virtq_options(p->features);
	struct virtq_layout bytes = virtq_layout(p->ring_size, options);
	gpa_t slots = guest_alloc(&p->guest, GUEST_HIGH, SLOTS * SLOT_BYTES, 4096);
	int err;

	*q = (struct probe_queue){.index = index, .kick_fd = -1, .call_fd = -1, .err_fd = -1};
	q->config = (struct virtq_config){.size = p->ring_size, .options = options};
	q->config.desc = guest_alloc(&p->guest, GUEST_LOW, bytes.desc, 4096);
	q->config.driver = guest_alloc(&p->guest, GUEST_LOW, bytes.driver, 64);
	q->config.device = guest_alloc(&p->guest, GUEST_LOW, bytes.device, 64);
	err = virtq_driver_start(&q->driver, &p->guest.memory, &q->config);
	if (err || !slots)
		return fail(p, "the probe cannot lay out a queue of %u: %s", p->ring_size, strerror(-err));
	q->ready = true;
	start_at(p, &q->driver);
	if (options & VIRTQ_INDIRECT)
		virtq_driver_use_indirect(&q->driver, &p->guest.memory,
					  guest_alloc(&p->guest, GUEST_LOW, 16ull * 16 * p->ring_size, 16),
					  16);
	for (unsigned k = 0; k < SLOTS; k++)
		q->request[k].gpa = slots + k * SLOT_BYTES;
	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return q->kick_fd < 0 || q->call_fd < 0 || q->err_fd < 0 ? fail(p, "the probe has no eventfd") : 0;
}

int session_num(struct probe *p, unsigned index)
{
	return tell_state(p, VHOST_USER_SET_VRING_NUM, index, p->queue[index].config.size);
}

uint32_t session_driver_base(struct probe *p, unsigned index)
{
	const struct virtq_driver *d = &p->queue[index].driver;

	if (!p->packed)
		return d->used_next;
	return (uint32_t)d->used_next | (uint32_t)d->used_wrap << 15 | (uint32_t)d->used_next << 16 |
	       (uint32_t)d->used_wrap << 31;
}

int session_base(struct probe *p, unsigned index)
{
	return tell_state(p, VHOST_USER_SET_VRING_BASE, index, session_driver_base(p, index));
}

int session_addr(struct probe *p, unsigned index)
{
	const struct virtq_config *c = &p->queue[index].config;
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_ADDR);
	m.addr = (struct vhost_vring_addr){
	    .index = index,
	    .desc_user_addr = guest_user_address(&p->guest, c->desc),
	    .avail_user_addr = guest_user_address(&p->guest, c->driver),
	    .used_user_addr = guest_user_address(&p->guest, c->device),
	};
	if (has(p, VHOST_F_LOG_ALL)) {
		m.addr.flags = 1u << VHOST_VRING_F_LOG;
		m.addr.log_guest_addr = p->packed ? c->desc : c->device;
	}
	return tell(p, &m);
}

int session_kick(struct probe *p, unsigned index)
{
	return tell_fd(p, VHOST_USER_SET_VRING_KICK, index, p->queue[index].kick_fd);
}

int session_call(struct probe *p, unsigned index)
{
	return tell_fd(p, VHOST_USER_SET_VRING_CALL, index, p->queue[index].call_fd);
}

int session_enable(struct probe *p, unsigned index, bool enable)
{
	if (!has(p, VHOST_USER_F_PROTOCOL_FEATURES))
		return 0;
	return tell_state(p, VHOST_USER_SET_VRING_ENABLE, index, enable);
}

int session_queue(struct probe *p, unsigned index)
{
	return session_lay_out(p, index) || session_num(p, index) || session_base(p, index) ||
		       session_addr(p, index) || session_call(p, index) || session_kick(p, index) ||
		       session_enable(p, index, true)
		   ? -1
		   : 0;
}

unsigned session_queues(const struct probe *p)
{
	return p->options->device == PROBE_NET ? 2 : 1;
}

int session_prepare(struct probe *p)
{
	return session_connect(p) || session_negotiate(p) || session_features(p) || session_memory(p) ? -1
												      : 0;
}

int session_open(struct probe *p)
{
	if (session_prepare(p))
		return -1;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_queue(p, k))
			return -1;
	return session_ready(p);
}

int session_get_base(struct probe *p, unsigned index, uint32_t *base)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_VRING_BASE);
	m.state.index = index;
	if (ask(p, &m))
		return -1;
	if (m.state.index != index)
		return fail(p, "GET_VRING_BASE of ring %u was answered for ring %u", index, m.state.index);
	*base = m.state.num;
	return 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void session_close(struct probe *p)
{
	link_close(&p->link);
	for (unsigned k = 0; k < PROBE_QUEUES_MAX; k++) {
		struct probe_queue *q = &p->queue[k];

		if (!q->ready)
			continue;
		q->ready = false;
		virtq_driver_stop(&q->driver);
		close_fd(&q->kick_fd);
		close_fd(&q->call_fd);
		close_fd(&q->err_fd);
	}
}
