/* SPDX-License-Identifier: BSD-2-Clause */
/* Conformance of a back end: configuration space, status, reset, the channel for its own requests, what only
 * network cards have. */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "probe/front.h"
#include "probe/work.h"

static int get_config(struct probe *p, uint32_t offset, uint32_t size, uint8_t *data)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_CONFIG);
	m.config.offset = offset;
	m.config.size = size;
	m.size = 12 + size;
	if (ask(p, &m))
		return -1;
	if (m.size != 12 + size)
		return fail(p, "GET_CONFIG of %u bytes at %u was answered with a payload of %u bytes", size,
			    offset, m.size);
	if (m.config.offset != offset || m.config.size != size)
		return fail(p, "GET_CONFIG of %u bytes at %u was answered for %u bytes at %u", size, offset,
			    m.config.size, m.config.offset);
	memcpy(data, m.config.data, size);
	return 0;
}

static void config(struct probe *p, unsigned argument)
{
	bool net = p->options->device == PROBE_NET;
	uint32_t size = net ? 10 : 24; /* mac, status, pairs; capacity to blk_size */
	uint8_t whole[64], part[64];

	if (need_protocol(p, VHOST_USER_PROTOCOL_F_CONFIG) || session_connect(p) || session_negotiate(p) ||
	    session_features(p) || get_config(p, 0, size, whole))
		return;
	for (uint32_t at = 0; at < size; at += 2) {
		if (get_config(p, at, 2, part))
			return;
		if (memcmp(part, whole + at, 2)) {
			fail(p, "two bytes at offset %u differ from those of the whole", at);
			return;
		}
	}
	if (!net && !get_le64(whole))
		warn(p, "the disk has no sectors");
	else if (!net)
		remark(p, "%llu sectors", (unsigned long long)get_le64(whole));
}

static void set_config(struct probe *p, unsigned argument)
{
	uint32_t at = offsetof(struct virtio_blk_config, wce);
	uint8_t before[64], now[64];
	struct vhost_user_message m;

	if (need_protocol(p, VHOST_USER_PROTOCOL_F_CONFIG) ||
	    need_feature(p, VIRTIO_BLK_F_CONFIG_WCE, "CONFIG_WCE"))
		return;
	p->want |= 1ull << VIRTIO_BLK_F_CONFIG_WCE | (p->offered & 1ull << VIRTIO_BLK_F_FLUSH);
	if (session_open(p) || get_config(p, 0, at + 1, before))
		return;
	for (unsigned round = 0; round < 2; round++) { /* there and back */
		uint8_t wce = round ? before[at] : !before[at];

		vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_CONFIG);
		m.config.offset = at;
		m.config.size = 1;
		m.config.data[0] = wce;
		m.size = 13;
		if (tell(p, &m) || get_config(p, 0, at + 1, now))
			return;
		if (now[at] != wce) {
			fail(p, "the write cache's mode was set to %u and reads as %u", wce, now[at]);
			return;
		}
	}
	work_pair(p, 0);
}

static void set_config_read_only(struct probe *p, unsigned argument)
{
	struct vhost_user_message m;
	uint8_t before[8], now[8];
	int64_t ack;

	if (need_protocol(p, VHOST_USER_PROTOCOL_F_CONFIG) || session_open(p) || get_config(p, 0, 8, before))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_CONFIG);
	m.config.size = 8;
	memset(m.config.data, 0x11, 8); /* the capacity */
	m.size = 20;
	if (tell_for_answer(p, &m, &ack))
		return;
	if (session_open(p) ||
	    get_config(p, 0, 8, now)) /* anew: it may have closed the connection, at once or a little later */
		return;
	if (memcmp(before, now, 8)) {
		fail(p, "the disk's capacity was overwritten by SET_CONFIG");
		return;
	}
	if (!ack)
		warn(p,
		     "SET_CONFIG of a read-only field is acknowledged as a success, though nothing changed");
	work_pair(p, 0);
}

static void reset_device(struct probe *p, unsigned argument)
{
	unsigned queue = work_queue(0, p);
	int n;

	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_RESET_DEVICE) || session_open(p) || work_pair(p, 0) ||
	    tell_nothing(p, VHOST_USER_RESET_DEVICE) ||
	    work_submit(p, queue, p->options->device == PROBE_NET ? REQUEST_TX : REQUEST_READ, 0))
		return;
	eventfd_write(p->queue[queue].kick_fd, 1);
	n = work_quiet(p, queue, 100);
	if (n > 0 && p->options->device == PROBE_BLK)
		fail(p, "a request was served after RESET_DEVICE, before the ring was set up again");
	if (n < 0 || p->verdict.outcome == OUTCOME_FAIL)
		return;
	/* The connection, its protocol features and ownership stay; everything else starts anew. */
	guest_reset(&p->guest);
	if (session_features(p) || session_memory(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++) {
		virtq_driver_stop(&p->queue[k].driver);
		close(p->queue[k].kick_fd);
		close(p->queue[k].call_fd);
		close(p->queue[k].err_fd);
		if (session_queue(p, k))
			return;
	}
	work_pair(p, 0);
}

static void reset_owner(struct probe *p, unsigned argument)
{
	if (session_open(p) || work_pair(p, 0) || tell_nothing(p, VHOST_USER_RESET_OWNER) || barrier(p))
		return;
	session_close(p);
	if (!session_open(p))
		work_pair(p, 0);
}

static void status(struct probe *p, unsigned argument)
{
	static const uint8_t steps[] = {
	    VIRTIO_CONFIG_S_ACKNOWLEDGE,
	    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
	    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
	};
	uint64_t value;

	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_STATUS;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_STATUS) || session_connect(p) || session_negotiate(p) ||
	    tell_u64(p, VHOST_USER_SET_FEATURES, p->features))
		return;
	for (unsigned k = 0; k < sizeof(steps); k++) {
		if (tell_u64(p, VHOST_USER_SET_STATUS, steps[k]) || ask_u64(p, VHOST_USER_GET_STATUS, &value))
			return;
		if (value != steps[k]) {
			fail(p, "the status was set to 0x%x and reads as 0x%llx", steps[k],
			     (unsigned long long)value);
			return;
		}
	}
	if (session_memory(p))
		return;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_queue(p, k))
			return;
	if (session_ready(p) || work_pair(p, 0))
		return;
}

/* The channel is taken, and closing our end of it does not disturb the session. */
static void backend_channel(struct probe *p, unsigned argument)
{
	struct vhost_user_message m;
	int pair[2], err;

	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_BACKEND_REQ) || session_open(p))
		return;
	for (unsigned round = 0; round < 2; round++) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
			fail(p, "the probe has no socket pair");
			return;
		}
		vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_BACKEND_REQ_FD);
		m.n_fds = 1;
		m.fd[0] = pair[1];
		err = tell(p, &m) || work_pair(p, 0);
		close(pair[0]);
		close(pair[1]);
		if (err)
			return;
	}
	work_pair(p, 0);
}

static void mtu(struct probe *p, unsigned argument)
{
	int64_t ack;
	struct vhost_user_message m;

	p->want |= 1ull << VIRTIO_NET_F_MTU;
	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_MTU;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_MTU) || need_feature(p, VIRTIO_NET_F_MTU, "MTU") ||
	    session_connect(p) || session_negotiate(p) || session_features(p) ||
	    tell_u64(p, VHOST_USER_NET_SET_MTU, 1500))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_NET_SET_MTU);
	m.u64 = 10; /* virtio 1.3, 5.1.4.1: at least 68 */
	if (!tell_for_answer(p, &m, &ack) && !ack)
		fail(p, "an MTU of 10 is acknowledged as valid");
}

static void rarp(struct probe *p, unsigned argument)
{
	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_RARP;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_RARP) || session_open(p) ||
	    tell_u64(p, VHOST_USER_SEND_RARP, 0x657369756702ull))
		return;
	work_pair(p, 0);
}

#define C PROBE_CONFORMANCE
/* clang-format off */
const struct front_test front_device_tests[] = {
	{ "config", "GET_CONFIG, whole and in parts", "vhost-user, VHOST_USER_GET_CONFIG", C, ONCE, 0, config, 0 },
	{ "config-write", "SET_CONFIG of the write cache's mode", "vhost-user, VHOST_USER_SET_CONFIG", C, ONCE, PROBE_BLK, set_config, 0 },
	{ "config-read-only", "SET_CONFIG of the capacity changes nothing", "vhost-user, VHOST_USER_SET_CONFIG: MUST NOT accept read-only fields", C, ONCE, PROBE_BLK, set_config_read_only, 0 },
	{ "status", "SET_STATUS, and GET_STATUS gives it back", "vhost-user, VHOST_USER_SET_STATUS", C, ONCE, 0, status, 0 },
	{ "reset-device", "RESET_DEVICE stops all rings; they are set up again on the same connection", "vhost-user, VHOST_USER_RESET_DEVICE", C, EACH, 0, reset_device, 0 },
	{ "reset-owner", "RESET_OWNER, which is deprecated, does no harm", "vhost-user, VHOST_USER_RESET_OWNER", C, ONCE, 0, reset_owner, 0 },
	{ "backend-channel", "SET_BACKEND_REQ_FD, twice; our end is closed", "vhost-user, VHOST_USER_SET_BACKEND_REQ_FD", C, ONCE, 0, backend_channel, 0 },
	{ "mtu", "NET_SET_MTU takes 1500 and refuses 10", "vhost-user, VHOST_USER_NET_SET_MTU", C, ONCE, PROBE_NET, mtu, 0 },
	{ "rarp", "SEND_RARP is taken", "vhost-user, VHOST_USER_SEND_RARP", C, ONCE, PROBE_NET, rarp, 0 },
	{ 0 },
};
/* clang-format on */
