/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The session: messages come in, are held against their row of the table, their gate, and what has been said before, and go to
 * a handler. Handlers check values, then change state; one that refuses has changed nothing.
 *
 * How a refusal ends follows from whether the front end hears of it: with an acknowledgement that says so the session goes on, and
 * also with a reply that has room for an error; without, both sides would go on with different ideas of the state, so
 * the connection is closed, and the front end may come back.
 */
#include "vhost/backend.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/backend_internal.h"
#include "vhost/features.h"

enum { MESSAGES_PER_ROUND = 64 };

void refuse_because(struct vhost_backend *b, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(b->why, sizeof(b->why), format, args);
	va_end(args);
}

uint64_t vhost_backend_protocol(uint64_t extra)
{
	return extra | 1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_LOG_SHMFD |
	       1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ |
	       1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE | 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
	       1ull << VHOST_USER_PROTOCOL_F_STATUS;
}

/* --- features and status --- */

static int get_features(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	reply->u64 = b->offered;
	return 0;
}

static uint64_t device_features(uint64_t features)
{
	return features & ~(1ull << VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES_BIT);
}

static int change_features(struct vhost_backend *b, uint64_t features)
{
	uint64_t before = b->features;
	int err = 0;

	if ((device_features(features) != device_features(before) || !b->features_set) && b->config.ops->set_features &&
	    b->config.ops->set_features(b->config.opaque, device_features(features)))
		return refuse(b, "features 0x%" PRIx64 ": the device does not take them", features);
	b->features = features;
	b->features_set = true;
	if ((before ^ features) >> VIRTIO_F_ACCESS_PLATFORM & 1)
		err = memory_refill(b);
	return err;
}

static int set_features(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	uint64_t surplus = m->u64 & ~b->offered;
	char names[128];
	int err, resumed;

	if (surplus)
		return refuse(b, "features 0x%" PRIx64 ": not offered: %s", m->u64,
			      vhost_features_format(b->config.device_id, surplus, names, sizeof(names)));
	rings_pause(b);
	err = change_features(b, m->u64);
	resumed = rings_resume(b);
	return err ? err : resumed;
}

static int get_protocol_features(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	reply->u64 = b->offered_protocol;
	return 0;
}

static int set_protocol_features(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	uint64_t surplus = m->u64 & ~b->offered_protocol;
	char names[128];

	if (surplus)
		return refuse(b, "protocol features 0x%" PRIx64 ": not offered: %s", m->u64,
			      vhost_user_protocol_features_format(surplus, names, sizeof(names)));
	b->protocol = m->u64;
	return 0;
}

static int nothing_to_do(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	return 0;
}

static int get_queue_num(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	reply->u64 = b->config.queue_num ? b->config.queue_num : b->config.n_rings;
	return 0;
}

static void reset(struct vhost_backend *b)
{
	rings_stop(b);
	for (unsigned k = 0; k < b->config.n_rings; k++)
		inflight_clear(b, &b->ring[k]);
	rings_forget(b);
	atomic_store(&b->status, 0);
	if (b->config.ops->reset)
		b->config.ops->reset(b->config.opaque);
}

static int reset_device(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	reset(b);
	return 0;
}

/* 0 is a reset of the device; but front ends that stop rings by themselves send it too, and send everything anew afterwards. */
static int set_status(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	if (m->u64 > 0xff)
		return refuse(b, "status 0x%" PRIx64 ": it has 8 bits", m->u64);
	if (!m->u64) {
		reset(b);
		return 0;
	}
	if (m->u64 & VIRTIO_CONFIG_S_FEATURES_OK && !has_feature(b, VIRTIO_F_VERSION_1))
		m->u64 &= ~(uint64_t)VIRTIO_CONFIG_S_FEATURES_OK; /* there is no legacy interface here */
	atomic_store(&b->status, (uint8_t)m->u64);
	return 0;
}

static int get_status(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	reply->u64 = atomic_load(&b->status);
	return 0;
}

/* --- the device's own --- */

/* An error is a reply without payload (specification, VHOST_USER_GET_CONFIG). */
static int get_config(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	uint32_t size = m->config.size;

	reply->size = 0;
	if (size > VHOST_USER_MAX_CONFIG || !size)
		return refuse(b, "size %u: 1 to %d bytes of configuration space fit", size, VHOST_USER_MAX_CONFIG);
	if (!b->config.ops->get_config || b->config.ops->get_config(b->config.opaque, m->config.offset, reply->config.data, size))
		return refuse(b, "offset %u size %u: not within the configuration space", m->config.offset, size);
	reply->config.offset = m->config.offset;
	reply->config.size = size;
	reply->config.flags = m->config.flags;
	reply->size = (uint32_t)offsetof(struct vhost_user_config, data) + size;
	return 0;
}

static int set_config(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	uint32_t size = m->config.size, flags = m->config.flags;

	if (size > m->size - offsetof(struct vhost_user_config, data))
		return refuse(b, "size %u: the message has %u bytes", size, m->size);
	if (flags != VHOST_USER_CONFIG_WRITABLE && flags != VHOST_USER_CONFIG_MIGRATION)
		return refuse(b, "flags 0x%x: not 0 or 1", flags);
	if (!b->config.ops->set_config ||
	    b->config.ops->set_config(b->config.opaque, m->config.offset, m->config.data, size, flags == VHOST_USER_CONFIG_MIGRATION))
		return refuse(b, "offset %u size %u: not a writable field", m->config.offset, size);
	return 0;
}

static int net_set_mtu(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	if (b->config.ops->set_mtu && b->config.ops->set_mtu(b->config.opaque, m->u64))
		return refuse(b, "mtu %" PRIu64 ": not possible here", m->u64);
	return 0;
}

static int send_rarp(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	if (m->bytes[0] & 1)
		return refuse(b, "mac 0x%" PRIx64 ": not a unicast address", m->u64);
	if (b->config.ops->announce && b->config.ops->announce(b->config.opaque, m->bytes))
		return refuse(b, "mac 0x%" PRIx64 ": cannot be announced", m->u64);
	return 0;
}

static handler_fn *const handler[VHOST_USER_REQUESTS] = {
	[VHOST_USER_GET_FEATURES] = get_features,
	[VHOST_USER_SET_FEATURES] = set_features,
	[VHOST_USER_SET_OWNER] = nothing_to_do,
	[VHOST_USER_RESET_OWNER] = nothing_to_do, /* "either ignore this message, or ..." */
	[VHOST_USER_SET_MEM_TABLE] = set_mem_table,
	[VHOST_USER_SET_LOG_BASE] = set_log_base,
	[VHOST_USER_SET_LOG_FD] = set_log_fd,
	[VHOST_USER_SET_VRING_NUM] = set_vring_num,
	[VHOST_USER_SET_VRING_ADDR] = set_vring_addr,
	[VHOST_USER_SET_VRING_BASE] = set_vring_base,
	[VHOST_USER_GET_VRING_BASE] = get_vring_base,
	[VHOST_USER_SET_VRING_KICK] = set_vring_kick,
	[VHOST_USER_SET_VRING_CALL] = set_vring_call,
	[VHOST_USER_SET_VRING_ERR] = set_vring_err,
	[VHOST_USER_GET_PROTOCOL_FEATURES] = get_protocol_features,
	[VHOST_USER_SET_PROTOCOL_FEATURES] = set_protocol_features,
	[VHOST_USER_GET_QUEUE_NUM] = get_queue_num,
	[VHOST_USER_SET_VRING_ENABLE] = set_vring_enable,
	[VHOST_USER_SEND_RARP] = send_rarp,
	[VHOST_USER_NET_SET_MTU] = net_set_mtu,
	[VHOST_USER_SET_BACKEND_REQ_FD] = set_backend_req_fd,
	[VHOST_USER_IOTLB_MSG] = iotlb_msg,
	[VHOST_USER_GET_CONFIG] = get_config,
	[VHOST_USER_SET_CONFIG] = set_config,
	[VHOST_USER_GET_INFLIGHT_FD] = get_inflight_fd,
	[VHOST_USER_SET_INFLIGHT_FD] = set_inflight_fd,
	[VHOST_USER_RESET_DEVICE] = reset_device,
	[VHOST_USER_GET_MAX_MEM_SLOTS] = get_max_mem_slots,
	[VHOST_USER_ADD_MEM_REG] = add_mem_reg,
	[VHOST_USER_REM_MEM_REG] = rem_mem_reg,
	[VHOST_USER_SET_STATUS] = set_status,
	[VHOST_USER_GET_STATUS] = get_status,
};

/* --- one message --- */

/* Legal as soon as the feature is on offer; everything else wants it negotiated. */
static bool offer_is_enough(uint32_t id)
{
	return id == VHOST_USER_GET_QUEUE_NUM || id == VHOST_USER_SEND_RARP || id == VHOST_USER_NET_SET_MTU ||
	       id == VHOST_USER_SET_BACKEND_REQ_FD;
}

static int check_gate(struct vhost_backend *b, const struct vhost_user_rule *rule)
{
	uint64_t protocol = offer_is_enough(rule->id) ? b->offered_protocol : b->protocol;
	const char *name;

	if (rule->protocol >= 0 && !(protocol >> rule->protocol & 1))
		return refuse(b, "protocol feature %s is not negotiated", vhost_user_protocol_feature_name((unsigned)rule->protocol));
	if (rule->feature >= 0 && !has_feature(b, (unsigned)rule->feature)) {
		name = vhost_feature_name(b->config.device_id, (unsigned)rule->feature);
		return refuse(b, "feature %s is not negotiated", name ? name : "of its gate");
	}
	return 0;
}

static int obey(struct vhost_backend *b, const struct vhost_user_rule *rule, struct vhost_user_message *m,
		struct vhost_user_message *reply)
{
	int err;

	if (!rule)
		return refuse(b, "request %u: unknown", m->request);
	if (vhost_user_check(rule, m, false, b->why, sizeof(b->why)))
		return -EPROTO;
	err = check_gate(b, rule);
	if (err)
		return err;
	return handler[rule->id] ? handler[rule->id](b, m, reply) : refuse(b, "request %u: not served here", rule->id);
}

static void log_refusal(struct vhost_backend *b, uint32_t request)
{
	b->counters.refused++;
	if (++b->logged_refusals <= MAX_LOGGED_REFUSALS)
		log_warn("%s: %s refused: %s%s", b->config.name, vhost_user_name(VHOST_USER_FRONT_END, request), b->why,
			 b->logged_refusals == MAX_LOGGED_REFUSALS ? " (no more of these are written)" : "");
}

/* Make `reply` say no, for messages whose reply can. */
static bool can_say_no(const struct vhost_user_rule *rule, struct vhost_user_message *reply)
{
	switch (rule->id) {
	case VHOST_USER_GET_CONFIG:
		reply->size = 0;
		return true;
	case VHOST_USER_IOTLB_MSG:
	case VHOST_USER_SET_LOG_BASE:
		reply->u64 = 1;
		return true;
	default:
		return false;
	}
}

/* 0: the session goes on; -errno: it cannot. */
static int answer(struct vhost_backend *b, const struct vhost_user_rule *rule, bool wants_ack, int err,
		  struct vhost_user_message *reply)
{
	bool has_reply = rule && rule->has_reply;

	if (has_reply && (!err || can_say_no(rule, reply)))
		return vhost_user_send(b->fd, reply, SEND_TIMEOUT_MS);
	if (wants_ack && !has_reply) {
		reply->u64 = err ? 1 : 0;
		return vhost_user_send(b->fd, reply, SEND_TIMEOUT_MS);
	}
	return err;
}

static int serve_message(struct vhost_backend *b, struct vhost_user_message *m)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, m->request);
	struct vhost_user_message reply;
	bool wants_ack;
	int err;

	b->counters.messages++;
	vhost_user_reply_init(&reply, VHOST_USER_FRONT_END, m->request);
	err = obey(b, rule, m, &reply);
	if (err)
		log_refusal(b, m->request);
	wants_ack = m->flags & VHOST_USER_NEED_REPLY && has_protocol(b, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	err = answer(b, rule, wants_ack, err, &reply);
	vhost_user_close_fds(m);
	vhost_user_close_fds(&reply); /* what a handler made to be sent */
	return err;
}

/* --- the session's begin and end --- */

static void forget_session(struct vhost_backend *b)
{
	rings_stop(b);
	rings_forget(b);
	rings_drop_fds(b);
	memory_forget(b);
	log_forget(b);
	inflight_forget(b);
	channel_forget(b);
	b->features = 0;
	b->protocol = 0;
	b->features_set = false;
	atomic_store(&b->status, 0);
}

static void end_session(struct vhost_backend *b)
{
	if (b->fd < 0)
		return;
	loop_del(b->source);
	b->source = NULL;
	forget_session(b);
	vhost_user_receiver_reset(&b->receiver);
	close(b->fd);
	b->fd = -1;
	if (b->config.ops->session)
		b->config.ops->session(b->config.opaque, false);
	vhost_endpoint_next(b->endpoint);
}

static void socket_ready(void *opaque, uint32_t events)
{
	struct vhost_backend *b = opaque;

	for (unsigned k = 0; k < MESSAGES_PER_ROUND; k++) {
		int got = vhost_user_receive(b->fd, &b->receiver), err;

		if (!got)
			return;
		if (got == -ECONNRESET) {
			log_debug("%s: the front end went away", b->config.name);
			end_session(b);
			return;
		}
		err = got < 0 ? got : serve_message(b, &b->receiver.message);
		if (err) {
			log_warn("%s: connection closed: %s", b->config.name, err == -EPROTO ? "see above" : strerror(-err));
			end_session(b);
			return;
		}
	}
}

static void connected(void *opaque, int fd)
{
	struct vhost_backend *b = opaque;
	int err = loop_add(b->loop, fd, EPOLLIN, socket_ready, b, &b->source);

	if (err) {
		log_warn("%s: %s", b->config.name, strerror(-err));
		close(fd);
		vhost_endpoint_next(b->endpoint);
		return;
	}
	b->fd = fd;
	b->counters.sessions++;
	b->logged_refusals = 0;
	log_debug("%s: a front end came", b->config.name);
	if (b->config.ops->session)
		b->config.ops->session(b->config.opaque, true);
}

static void finished(void *opaque)
{
	struct vhost_backend *b = opaque;

	if (b->config.ops->finished)
		b->config.ops->finished(b->config.opaque);
}

/* A file behind memory that the front end shared became shorter: what was read from there since is not what it wrote. */
static void trouble(void *opaque, uint32_t events)
{
	struct vhost_backend *b = opaque;
	eventfd_t count;

	if (eventfd_read(b->trouble_fd, &count) || b->fd < 0)
		return;
	log_warn("%s: connection closed: the front end shortened a file that it shares", b->config.name);
	end_session(b);
}

int vhost_backend_new(struct loop *loop, const struct vhost_backend_config *config, struct vhost_backend **out, char *why,
		      size_t why_size)
{
	static const struct vhost_endpoint_ops endpoint_ops = { .connected = connected, .finished = finished };
	struct vhost_backend *b;
	int err;

	snprintf(why, why_size, "no back end of %u rings of %u entries", config->n_rings, config->max_ring_size);
	if (!config->n_rings || config->n_rings > VHOST_BACKEND_MAX_RINGS || !config->max_ring_size ||
	    config->max_ring_size > VIRTQ_MAX_SIZE)
		return -EINVAL;
	b = calloc(1, sizeof(*b) + config->n_rings * sizeof(b->ring[0]));
	if (!b)
		return -ENOMEM;
	b->config = *config;
	b->loop = loop;
	b->fd = b->channel_fd = b->log_fd = -1;
	b->offered = config->features | VHOST_USER_F_PROTOCOL_FEATURES_BIT | 1ull << VHOST_F_LOG_ALL;
	b->offered_protocol = vhost_backend_protocol(config->protocol);
	iotlb_init(b);
	snprintf(why, why_size, "out of descriptors or memory");
	b->trouble_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = b->trouble_fd < 0 ? -errno : rings_init(b);
	if (!err)
		err = loop_add(loop, b->trouble_fd, EPOLLIN, trouble, b, &b->trouble_source);
	if (!err)
		err = vhost_endpoint_open(loop, &config->socket, &endpoint_ops, b, &b->endpoint, why, why_size);
	b->config.socket.path = NULL; /* the endpoint has a copy */
	if (err) {
		vhost_backend_free(b);
		return err;
	}
	*out = b;
	return 0;
}

void vhost_backend_free(struct vhost_backend *b)
{
	if (!b)
		return;
	vhost_endpoint_close(b->endpoint);
	if (b->fd >= 0) {
		loop_del(b->source);
		forget_session(b);
		vhost_user_receiver_reset(&b->receiver);
		close(b->fd);
	}
	loop_del(b->trouble_source);
	rings_deinit(b);
	iotlb_deinit(b);
	if (b->trouble_fd >= 0)
		close(b->trouble_fd);
	free(b);
}

struct vhost_backend_counters vhost_backend_counters(const struct vhost_backend *b)
{
	return b->counters;
}
