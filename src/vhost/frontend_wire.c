/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A request and its answer, and the back end's requests, which may come at any time and must be served while
 * we wait: a back end may answer us only after we have answered it.
 *
 * An IOTLB miss is answered by a request of ours. It cannot be made in the middle of another one, so misses
 * are kept until that is done. More than FRONTEND_MISSES at once are forgotten: a back end asks again.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "vhost/frontend_internal.h"
#include "vhost/regions.h"

enum { SERVED_AT_ONCE = 64 };

/* --- our requests --- */

static int complain(struct frontend *f, const struct vhost_user_message *m, const char *what, int err)
{
	char text[200];

	log_warn("%s: vhost-user: %s: %s", f->config.owner,
		 vhost_user_format(VHOST_USER_FRONT_END, m, false, text, sizeof(text)), what);
	return err;
}

/* Wait for socket or channel; serve the channel meanwhile. 0: the socket is readable. */
static int wait_for_answer(struct frontend *f, uint64_t deadline)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = f->socket, .events = POLLIN},
				      {.fd = f->is_channel_broken ? -1 : f->channel, .events = POLLIN}};
		uint64_t now = now_ns();
		int n = poll(p, 2, now >= deadline ? 0 : (int)((deadline - now) / 1000000 + 1));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n && now >= deadline)
			return -ETIMEDOUT;
		if (n > 0 && p[1].revents)
			vhost_frontend_serve(&f->vhost);
		if (n > 0 && p[0].revents)
			return 0;
	}
}

static int receive_answer(struct frontend *f, const struct vhost_user_message *m)
{
	uint64_t deadline = now_ns() + f->config.timeout_ms * 1000000ull;
	char what[300], why[200];
	int got = 0;

	while (!got) {
		got = wait_for_answer(f, deadline);
		if (!got)
			got = vhost_user_receive(f->socket, &f->reply);
	}
	if (got == -ETIMEDOUT) {
		snprintf(what, sizeof(what), "no answer within %u ms", f->config.timeout_ms);
		return complain(f, m, what, got);
	}
	if (got < 0) {
		snprintf(what, sizeof(what), "no answer: %s", strerror(-got));
		return complain(f, m, what, got);
	}
	if (f->reply.message.request != m->request) {
		snprintf(what, sizeof(what), "the answer is to %s (request %u)",
			 vhost_user_name(VHOST_USER_FRONT_END, f->reply.message.request),
			 f->reply.message.request);
	} else if (vhost_user_check(vhost_user_rule(VHOST_USER_FRONT_END, m->request), &f->reply.message,
				    true, why, sizeof(why))) {
		snprintf(what, sizeof(what), "wrong answer: %s", why);
	} else {
		return 0;
	}
	vhost_user_close_fds(&f->reply.message);
	return complain(f, m, what, -EPROTO);
}

static int exchange(struct frontend *f, struct vhost_user_message *m, bool own_reply,
		    struct vhost_user_message *reply)
{
	char what[100];
	int err = vhost_user_send(f->socket, m, (int)f->config.timeout_ms);

	if (err) {
		snprintf(what, sizeof(what), "cannot be sent: %s", strerror(-err));
		return complain(f, m, what, err);
	}
	if (!own_reply && !(m->flags & VHOST_USER_NEED_REPLY))
		return 0;
	err = receive_answer(f, m);
	if (err)
		return err;
	if (!own_reply && f->reply.message.u64) {
		snprintf(what, sizeof(what), "refused by the back end (its answer is %#llx)",
			 (unsigned long long)f->reply.message.u64);
		vhost_user_close_fds(&f->reply.message);
		return complain(f, m, what, -EIO);
	}
	if (reply)
		*reply = f->reply.message;
	else
		vhost_user_close_fds(&f->reply.message);
	return 0;
}

static void answer_misses(struct frontend *f);

int frontend_request(struct frontend *f, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, m->request);
	bool outermost = !f->in_request;
	int err;

	if (!rule->has_reply && frontend_has(f, VHOST_USER_PROTOCOL_F_REPLY_ACK))
		m->flags |= VHOST_USER_NEED_REPLY;
	f->in_request = true;
	err = exchange(f, m, rule->has_reply, reply);
	f->in_request = !outermost;
	if (outermost && (!err || err == -EIO))
		answer_misses(f);
	return err;
}

int vhost_frontend_check(struct vhost *v)
{
	struct frontend *f = (struct frontend *)v;
	uint8_t byte;
	ssize_t n = recv(f->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n)
		return -ECONNRESET;
	log_warn("%s: vhost-user: the back end talks unasked", f->config.owner);
	return -EPROTO;
}

/* --- the back end's requests --- */

static int acknowledge(struct frontend *f, const struct vhost_user_message *m, bool ok)
{
	struct vhost_user_message ack;

	if (!(m->flags & VHOST_USER_NEED_REPLY) || !frontend_has(f, VHOST_USER_PROTOCOL_F_REPLY_ACK))
		return 0;
	vhost_user_reply_init(&ack, VHOST_USER_BACK_END, m->request);
	ack.u64 = !ok;
	return vhost_user_send(f->channel, &ack, (int)f->config.timeout_ms);
}

/*
 * A whole region at a time: descriptors hold guest-physical addresses, there is no IOMMU between. The message has an answer
 * in any case, but DPDK gives it only to who asks for one.
 */
static bool send_translation(struct frontend *f, uint64_t iova)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_IOTLB_MSG);
	for (unsigned k = 0; k < f->n_regions; k++) {
		const struct vhost_region *r = &f->region[k];

		if (iova < r->gpa || iova - r->gpa >= r->size)
			continue;
		m.iotlb = (struct vhost_iotlb_msg){.iova = r->gpa,
						   .size = r->size,
						   .uaddr = (uintptr_t)r->hva,
						   .perm = VHOST_ACCESS_RW,
						   .type = VHOST_IOTLB_UPDATE};
		m.flags |= VHOST_USER_NEED_REPLY;
		return !frontend_request(f, &m, &m) && !m.u64;
	}
	log_warn("%s: vhost-user: the back end asks for address %#llx, which is outside the memory",
		 f->config.owner, (unsigned long long)iova);
	return false;
}

static void answer_misses(struct frontend *f)
{
	while (f->n_misses) {
		struct vhost_user_message *m = f->miss[0];

		memmove(f->miss, f->miss + 1, --f->n_misses * sizeof(f->miss[0]));
		acknowledge(f, m, send_translation(f, m->iotlb.iova));
		free(m);
	}
}

static int keep_miss(struct frontend *f, const struct vhost_user_message *m)
{
	struct vhost_user_message *copy = f->n_misses < FRONTEND_MISSES ? malloc(sizeof(*copy)) : NULL;

	if (!copy)
		return acknowledge(f, m, false);
	memcpy(copy, m, offsetof(struct vhost_user_message, bytes) + sizeof(m->iotlb));
	f->miss[f->n_misses++] = copy;
	return 0;
}

static int obey(struct frontend *f, const struct vhost_user_message *m)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_BACK_END, m->request);
	char text[200], why[200] = "not negotiated";
	bool wrong = !rule || vhost_user_check(rule, m, false, why, sizeof(why));

	if (!wrong && m->request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG) {
		if (f->config.config_changed)
			f->config.config_changed(f->config.opaque);
		return acknowledge(f, m, true);
	}
	if (!wrong && m->request == VHOST_USER_BACKEND_IOTLB_MSG &&
	    f->features >> VIRTIO_F_ACCESS_PLATFORM & 1) {
		if (m->iotlb.type == VHOST_IOTLB_MISS)
			return keep_miss(f, m);
		snprintf(why, sizeof(why),
			 m->iotlb.type == VHOST_IOTLB_ACCESS_FAIL ? "an access failed" : "not a miss");
	}
	log_warn("%s: vhost-user: the back end's %s refused: %s", f->config.owner,
		 vhost_user_format(VHOST_USER_BACK_END, m, false, text, sizeof(text)), why);
	return acknowledge(f, m, false);
}

static int serve(struct frontend *f)
{
	for (unsigned k = 0; k < SERVED_AT_ONCE; k++) {
		int err = vhost_user_receive(f->channel, &f->asked);

		if (err <= 0)
			return err;
		err = obey(f, &f->asked.message);
		vhost_user_close_fds(&f->asked.message);
		if (err)
			return err;
	}
	return 0;
}

int vhost_frontend_serve(struct vhost *v)
{
	struct frontend *f = (struct frontend *)v;
	int err = f->channel < 0 || f->is_channel_broken ? -EPIPE : serve(f);

	if (err && !f->is_channel_broken && err != -ECONNRESET)
		log_warn("%s: vhost-user: the back end's channel is broken: %s", f->config.owner,
			 strerror(-err));
	f->is_channel_broken = err < 0;
	if (!f->in_request)
		answer_misses(f);
	return err;
}
