/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "script.h"
#include "vhost/socket.h"

void script_init(struct script *s, const char *name)
{
	memset(s, 0, sizeof(*s));
	snprintf(s->path, sizeof(s->path), "/tmp/guise-test-%s-%d", name, (int)getpid());
	s->socket = s->channel = s->listener = -1;
	s->features =
		VHOST_USER_F_PROTOCOL_FEATURES_BIT | 1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_F_LOG_ALL;
	s->protocol = 1u << VHOST_USER_PROTOCOL_F_MQ | 1u << VHOST_USER_PROTOCOL_F_LOG_SHMFD |
		      1u << VHOST_USER_PROTOCOL_F_RARP | 1u << VHOST_USER_PROTOCOL_F_REPLY_ACK |
		      1u << VHOST_USER_PROTOCOL_F_MTU | 1u << VHOST_USER_PROTOCOL_F_BACKEND_REQ |
		      1u << VHOST_USER_PROTOCOL_F_CONFIG | 1u << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD |
		      1u << VHOST_USER_PROTOCOL_F_RESET_DEVICE |
		      1u << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | 1u << VHOST_USER_PROTOCOL_F_STATUS;
	s->n_queues = SCRIPT_RINGS;
	s->n_slots = 32;
	for (unsigned k = 0; k < sizeof(s->config); k++)
		s->config[k] = (uint8_t)(k * 3 + 1);
	pthread_mutex_init(&s->lock, NULL);
}

static void rule_broken(struct script *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void rule_broken(struct script *s, const char *format, ...)
{
	va_list args;

	if (s->broken_rule[0])
		return;
	va_start(args, format);
	vsnprintf(s->broken_rule, sizeof(s->broken_rule), format, args);
	va_end(args);
}

static struct script_ring *ring_of(struct script *s, uint64_t index)
{
	static struct script_ring none;

	if (index < SCRIPT_RINGS)
		return &s->ring[index];
	rule_broken(s, "ring %llu", (unsigned long long)index);
	return &none;
}

static bool heard_before(const struct script *s, uint32_t request)
{
	for (unsigned k = 0; k + 1 < s->n_heard; k++)
		if (s->heard[k] == request)
			return true;
	return false;
}

/* What the specification asks of the order. */
static void check_order(struct script *s, const struct vhost_user_message *m)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, m->request);
	char why[100];

	if (!rule || vhost_user_check(rule, m, false, why, sizeof(why))) {
		rule_broken(s, "message %u: %s", m->request, rule ? why : "unknown");
		return;
	}
	if (rule->protocol >= 0 && !(s->set_protocol >> rule->protocol & 1))
		rule_broken(s, "%s without %s", rule->name,
			    vhost_user_protocol_feature_name((unsigned)rule->protocol));
	if (rule->feature >= 0 && !(s->set_features >> rule->feature & 1))
		rule_broken(s, "%s without feature %d", rule->name, rule->feature);
	if (m->request >= VHOST_USER_SET_MEM_TABLE && m->request <= VHOST_USER_SET_VRING_ERR &&
	    !heard_before(s, VHOST_USER_SET_OWNER))
		rule_broken(s, "%s before SET_OWNER", rule->name);
	if (m->request == VHOST_USER_SET_VRING_ADDR && !s->n_regions)
		rule_broken(s, "SET_VRING_ADDR before memory");
	if (m->flags & VHOST_USER_NEED_REPLY && !(s->set_protocol >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1))
		rule_broken(s, "%s asks for an acknowledgement", rule->name);
}

static void obey_ring(struct script *s, const struct vhost_user_message *m)
{
	struct script_ring *r =
		ring_of(s, m->request == VHOST_USER_SET_VRING_ADDR ? m->addr.index : m->state.index);

	switch (m->request) {
	case VHOST_USER_SET_VRING_NUM:
		r->size = m->state.num;
		break;
	case VHOST_USER_SET_VRING_BASE:
		r->base = m->state.num;
		break;
	case VHOST_USER_SET_VRING_ADDR:
		r->addr = m->addr;
		break;
	case VHOST_USER_SET_VRING_ENABLE:
		r->is_enabled = m->state.num;
		break;
	}
}

static void obey_file(struct script *s, const struct vhost_user_message *m)
{
	struct script_ring *r = ring_of(s, m->u64 & VHOST_USER_INDEX_MASK);
	bool has_fd = m->n_fds;

	if (has_fd == !!(m->u64 & VHOST_USER_NO_FD))
		rule_broken(s, "descriptor and NO_FD flag disagree");
	if (m->request == VHOST_USER_SET_VRING_CALL)
		r->has_call = has_fd;
	else if (m->request == VHOST_USER_SET_VRING_ERR)
		r->has_err = has_fd;
	else if (!r->size || !r->addr.desc_user_addr)
		rule_broken(s, "a kick before size and addresses");
	else
		r->is_started = true;
}

/* Do what is asked; the answer's payload is already the right size. */
static void obey(struct script *s, struct vhost_user_message *m, struct vhost_user_message *answer)
{
	switch (m->request) {
	case VHOST_USER_GET_FEATURES:
		answer->u64 = s->features;
		break;
	case VHOST_USER_SET_FEATURES:
		if (m->u64 & ~s->features)
			rule_broken(s, "SET_FEATURES %#llx", (unsigned long long)m->u64);
		s->set_features = m->u64;
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		answer->u64 = s->protocol;
		break;
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		if (m->u64 & ~s->protocol)
			rule_broken(s, "SET_PROTOCOL_FEATURES %#llx", (unsigned long long)m->u64);
		s->set_protocol = m->u64;
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		answer->u64 = s->n_queues;
		break;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		answer->u64 = s->n_slots;
		break;
	case VHOST_USER_SET_MEM_TABLE:
		s->n_regions = m->memory.n_regions;
		break;
	case VHOST_USER_ADD_MEM_REG:
		s->n_regions++;
		break;
	case VHOST_USER_REM_MEM_REG:
		s->n_regions--;
		break;
	case VHOST_USER_SET_VRING_NUM:
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_SET_VRING_ADDR:
	case VHOST_USER_SET_VRING_ENABLE:
		obey_ring(s, m);
		break;
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
		obey_file(s, m);
		break;
	case VHOST_USER_GET_VRING_BASE:
		answer->state =
			(struct vhost_vring_state){m->state.index, ring_of(s, m->state.index)->base + 5};
		ring_of(s, m->state.index)->is_started = false;
		break;
	case VHOST_USER_SET_BACKEND_REQ_FD:
		s->channel = vhost_user_take_fd(m, 0);
		break;
	case VHOST_USER_GET_CONFIG:
		answer->config.offset = m->config.offset;
		answer->config.size = m->config.size;
		memcpy(answer->config.data, s->config + m->config.offset, m->config.size);
		answer->size = m->size;
		break;
	case VHOST_USER_SET_CONFIG:
		memcpy(s->config + m->config.offset, m->config.data, m->config.size);
		break;
	case VHOST_USER_GET_INFLIGHT_FD:
		answer->inflight = m->inflight;
		answer->inflight.mmap_size = 4096;
		answer->fd[0] = memfd_create("inflight", MFD_CLOEXEC);
		answer->n_fds = 1;
		if (ftruncate(answer->fd[0], 4096))
			rule_broken(s, "ftruncate");
		break;
	case VHOST_USER_SET_STATUS:
		s->status = m->u64;
		break;
	case VHOST_USER_GET_STATUS:
		answer->u64 = s->status;
		break;
	case VHOST_USER_NET_SET_MTU:
		s->mtu = m->u64;
		break;
	case VHOST_USER_SEND_RARP:
		s->rarps++;
		break;
	case VHOST_USER_SET_LOG_BASE:
		s->log_size = m->log.size;
		break;
	}
}

static bool is_faulty(const struct script *s, const struct vhost_user_message *m)
{
	return s->connections <= s->fault_times && ((s->fault_at && s->n_heard == s->fault_at) ||
						    (s->fault_request && m->request == s->fault_request));
}

static bool lie(struct script *s, enum fault fault, struct vhost_user_message *answer)
{
	switch (fault) {
	case REFUSE:
		memset(answer->bytes, 0xff, answer->size);
		break;
	case WRONG_REQUEST:
		answer->request = answer->request == VHOST_USER_GET_FEATURES ? VHOST_USER_SET_FEATURES
									     : VHOST_USER_GET_FEATURES;
		break;
	case WRONG_SIZE:
		answer->size += 4;
		break;
	case WRONG_VERSION:
		answer->flags |= 3;
		break;
	case NOT_A_REPLY:
		answer->flags &= ~(uint32_t)VHOST_USER_REPLY;
		break;
	case EXTRA_FD:
		answer->fd[answer->n_fds++] = s->stop_fd;
		break;
	case TALK_UNASKED:
		vhost_user_send(s->socket, answer, 1000);
		break;
	case HALF_A_HEADER:
		send(s->socket, answer, 7, MSG_NOSIGNAL);
		return false;
	default:
		break;
	}
	return true;
}

/* false: the connection ends */
static bool serve(struct script *s, struct vhost_user_message *m)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, m->request);
	struct vhost_user_message answer;
	enum fault fault;
	bool has_answer, goes_on = true;

	if (s->n_heard < SCRIPT_MAX)
		s->heard[s->n_heard++] = m->request;
	if (s->n_heard > s->most_heard)
		s->most_heard = s->n_heard;
	check_order(s, m);
	if (!rule)
		return false;
	fault = is_faulty(s, m) ? s->fault : HONEST;
	if (fault == DIE_BEFORE)
		return false;
	/* Like DPDK, which answers an IOTLB message only when asked to. */
	has_answer = (rule->has_reply && m->request != VHOST_USER_IOTLB_MSG) || m->flags & VHOST_USER_NEED_REPLY;
	vhost_user_reply_init(&answer, VHOST_USER_FRONT_END, m->request);
	obey(s, m, &answer);
	if (has_answer && fault != SILENT) {
		goes_on = lie(s, fault, &answer);
		if (goes_on)
			vhost_user_send(s->socket, &answer, 1000);
	}
	if (answer.n_fds && answer.fd[0] != s->stop_fd)
		close(answer.fd[0]);
	return goes_on && fault != DIE_AFTER;
}

static void begin(struct script *s, int fd)
{
	pthread_mutex_lock(&s->lock);
	s->socket = fd;
	s->channel = -1;
	s->connections++;
	s->n_heard = s->n_regions = 0;
	s->set_features = s->set_protocol = s->status = 0;
	memset(s->ring, 0, sizeof(s->ring));
	pthread_mutex_unlock(&s->lock);
}

static void end(struct script *s)
{
	pthread_mutex_lock(&s->lock);
	close(s->socket);
	if (s->channel >= 0)
		close(s->channel);
	s->socket = s->channel = -1;
	pthread_mutex_unlock(&s->lock);
}

static bool wait_for(struct script *s, int fd)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = s->stop_fd, .events = POLLIN}};

	while (poll(p, 2, -1) < 0 && errno == EINTR)
		continue;
	return !p[1].revents;
}

static void session(struct script *s)
{
	struct vhost_user_receiver receiver = {0};
	bool goes_on = true;

	while (goes_on && wait_for(s, s->socket)) {
		int got = vhost_user_receive(s->socket, &receiver);

		if (got < 0)
			break;
		if (!got)
			continue;
		pthread_mutex_lock(&s->lock);
		goes_on = serve(s, &receiver.message);
		pthread_mutex_unlock(&s->lock);
		vhost_user_close_fds(&receiver.message);
	}
	vhost_user_receiver_reset(&receiver);
}

static int meet(struct script *s)
{
	char why[200];
	int fd;

	if (!s->client)
		return wait_for(s, s->listener)
			       ? accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
			       : -1;
	for (;;) {
		struct pollfd p = {.fd = s->stop_fd, .events = POLLIN};

		if (!vhost_socket_connect(s->path, &fd, why, sizeof(why)))
			return fd;
		if (poll(&p, 1, 10) > 0)
			return -1;
	}
}

static void *run(void *opaque)
{
	struct script *s = opaque;
	int fd;

	while ((fd = meet(s)) >= 0) {
		begin(s, fd);
		session(s);
		end(s);
	}
	return NULL;
}

void script_start(struct script *s)
{
	char why[200];

	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (!s->client && vhost_socket_listen(s->path, -1, &s->listener, why, sizeof(why)))
		fail_msg("%s", why);
	assert_int_equal(pthread_create(&s->thread, NULL, run, s), 0);
}

void script_end(struct script *s)
{
	eventfd_write(s->stop_fd, 1);
	pthread_join(s->thread, NULL);
	close(s->stop_fd);
	if (s->listener >= 0) {
		close(s->listener);
		unlink(s->path);
	}
	pthread_mutex_destroy(&s->lock);
	if (s->broken_rule[0])
		fail_msg("the front end broke a rule: %s", s->broken_rule);
}

void script_hang_up(struct script *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->socket >= 0)
		shutdown(s->socket, SHUT_RDWR);
	pthread_mutex_unlock(&s->lock);
}

void script_look(struct script *s, struct script *copy)
{
	pthread_mutex_lock(&s->lock);
	memcpy(copy, s, sizeof(*copy));
	pthread_mutex_unlock(&s->lock);
}

int64_t script_ask(struct script *s, struct vhost_user_message *m)
{
	struct vhost_user_receiver receiver = {0};
	int channel;

	pthread_mutex_lock(&s->lock);
	channel = s->channel < 0 ? -1 : dup(s->channel);
	pthread_mutex_unlock(&s->lock);
	assert_true(channel >= 0);
	m->flags |= VHOST_USER_NEED_REPLY;
	if (vhost_user_send(channel, m, 1000) || vhost_user_receive_wait(channel, &receiver, 10000) != 1) {
		close(channel);
		return -1;
	}
	close(channel);
	return (int64_t)receiver.message.u64;
}
