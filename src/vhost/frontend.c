/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The vhost-user front end: a session's requests. Waiting, refusals and the back end's own requests are
 * frontend_wire.c's.
 *
 * Order, as the specification and the peers that are strict about it want it: GET_FEATURES, protocol
 * features, SET_OWNER, then what those allow (number of queues, memory slots, back end's channel), all in
 * vhost_frontend_open(); features and memory before rings; of a ring its size, base, addresses, then the
 * descriptors, the kick last, because it starts the ring.
 *
 * Feature bit 30 (protocol features) belongs to this file: nobody above sees it.
 */
#include "vhost/frontend.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/frontend_internal.h"
#include "vhost/regions.h"

#define P(name) (1ull << VHOST_USER_PROTOCOL_F_##name)
static const uint64_t known_protocol_features = P(MQ) | P(LOG_SHMFD) | P(RARP) | P(REPLY_ACK) | P(MTU) |
						P(BACKEND_REQ) | P(CONFIG) | P(INFLIGHT_SHMFD) |
						P(RESET_DEVICE) | P(CONFIGURE_MEM_SLOTS) | P(STATUS);

static struct frontend *frontend_of(const struct vhost *v)
{
	return (struct frontend *)v;
}

/* --- requests of the common shapes --- */

static int say(struct frontend *f, uint32_t request)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	return frontend_request(f, &m, NULL);
}

static int ask_u64(struct frontend *f, uint32_t request, uint64_t *value)
{
	struct vhost_user_message m;
	int err;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	err = frontend_request(f, &m, &m);
	if (!err)
		*value = m.u64;
	return err;
}

static int say_u64(struct frontend *f, uint32_t request, uint64_t value)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	m.u64 = value;
	return frontend_request(f, &m, NULL);
}

static int say_state(struct frontend *f, uint32_t request, unsigned index, unsigned num)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	m.state = (struct vhost_vring_state){index, num};
	return frontend_request(f, &m, NULL);
}

static int say_fd(struct frontend *f, uint32_t request, uint64_t value, int fd)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	if (m.size)
		m.u64 = value;
	m.fd[0] = fd;
	m.n_fds = fd >= 0;
	return frontend_request(f, &m, NULL);
}

/* Without REPLY_ACK: an answer to anything says that what was sent before has been done. */
static int settle(struct frontend *f)
{
	uint64_t ignored;

	return frontend_has(f, VHOST_USER_PROTOCOL_F_REPLY_ACK)
		       ? 0
		       : ask_u64(f, VHOST_USER_GET_FEATURES, &ignored);
}

static int refuse(const struct frontend *f, int err, const char *what)
{
	log_warn("%s: vhost-user: %s", f->config.owner, what);
	return err;
}

/* --- features --- */

static int get_features(struct vhost *v, uint64_t *features)
{
	*features = frontend_of(v)->offered & ~VHOST_USER_F_PROTOCOL_FEATURES_BIT;
	return 0;
}

static int send_features(struct frontend *f)
{
	return say_u64(f, VHOST_USER_SET_FEATURES,
		       f->features | (f->offered & VHOST_USER_F_PROTOCOL_FEATURES_BIT) |
			       (f->is_logging ? 1ull << VHOST_F_LOG_ALL : 0));
}

static int set_features(struct vhost *v, uint64_t features)
{
	struct frontend *f = frontend_of(v);

	f->features = features;
	return send_features(f);
}

/* FEATURES_OK is for the back end to leave standing or not. */
static int set_status(struct vhost *v, uint8_t status)
{
	struct frontend *f = frontend_of(v);
	uint64_t now = status;
	int err;

	if (!frontend_has(f, VHOST_USER_PROTOCOL_F_STATUS))
		return 0;
	err = say_u64(f, VHOST_USER_SET_STATUS, status);
	if (!err && status & VIRTIO_CONFIG_S_FEATURES_OK)
		err = ask_u64(f, VHOST_USER_GET_STATUS, &now);
	if (!err && status & VIRTIO_CONFIG_S_FEATURES_OK && !(now & VIRTIO_CONFIG_S_FEATURES_OK))
		err = refuse(f, -EIO, "the back end does not accept the features: FEATURES_OK does not stay");
	return err;
}

static int reset(struct vhost *v)
{
	struct frontend *f = frontend_of(v);

	if (frontend_has(f, VHOST_USER_PROTOCOL_F_RESET_DEVICE))
		return say(f, VHOST_USER_RESET_DEVICE);
	return frontend_has(f, VHOST_USER_PROTOCOL_F_STATUS) ? set_status(v, 0) : -EOPNOTSUPP;
}

/* --- memory --- */

static struct vhost_user_region as_sent(const struct vhost_region *r)
{
	return (struct vhost_user_region){r->gpa, r->size, (uintptr_t)r->hva, r->fd_offset};
}

static int send_table(struct frontend *f, const struct vhost_region *region, unsigned n)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_MEM_TABLE);
	m.memory.n_regions = n;
	m.size = (uint32_t)(offsetof(struct vhost_user_memory, region) + n * sizeof(m.memory.region[0]));
	for (unsigned k = 0; k < n; k++) {
		m.memory.region[k] = as_sent(&region[k]);
		m.fd[k] = region[k].fd;
	}
	m.n_fds = n;
	return frontend_request(f, &m, NULL);
}

static bool is_same(const struct vhost_region *a, const struct vhost_region *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->hva == b->hva && a->fd_offset == b->fd_offset;
}

static bool is_among(const struct vhost_region *r, const struct vhost_region *region, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		if (is_same(r, &region[k]))
			return true;
	return false;
}

static int say_region(struct frontend *f, uint32_t request, const struct vhost_region *r)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	m.single.region = as_sent(r);
	m.fd[0] = r->fd;
	m.n_fds = request == VHOST_USER_ADD_MEM_REG;
	return frontend_request(f, &m, NULL);
}

/* Region by region: those that stay are not disturbed. */
static int send_changes(struct frontend *f, const struct vhost_region *region, unsigned n)
{
	int err = 0;

	for (unsigned k = 0; k < f->n_regions && !err; k++)
		err = is_among(&f->region[k], region, n)
			      ? 0
			      : say_region(f, VHOST_USER_REM_MEM_REG, &f->region[k]);
	for (unsigned k = 0; k < n && !err; k++)
		err = is_among(&region[k], f->region, f->n_regions)
			      ? 0
			      : say_region(f, VHOST_USER_ADD_MEM_REG, &region[k]);
	return err;
}

static int set_memory(struct vhost *v, const struct vhost_region *region, unsigned n)
{
	struct frontend *f = frontend_of(v);
	char what[100];
	int err;

	if (n > f->max_regions || n > VHOST_MAX_REGIONS) {
		snprintf(what, sizeof(what), "memory of %u regions: the back end takes %u", n,
			 f->max_regions);
		return refuse(f, -E2BIG, what);
	}
	err = frontend_has(f, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) ? send_changes(f, region, n)
									 : send_table(f, region, n);
	if (!err)
		err = settle(f);
	if (err)
		return err;
	memcpy(f->region, region, n * sizeof(*region));
	f->n_regions = n;
	return 0;
}

/* --- rings --- */

static int send_addresses(struct frontend *f, unsigned index)
{
	struct vhost_user_message m;
	struct vhost_vring_addr addr;
	bool iova = f->features >> VIRTIO_F_ACCESS_PLATFORM & 1;
	int err;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_ADDR);
	err = vhost_ring_addresses(f->region, f->n_regions, index, &f->ring[index].config, iova,
				   f->is_logging, &addr);
	if (err)
		return refuse(f, err, "a ring lies outside the memory");
	m.addr = addr;
	return frontend_request(f, &m, NULL);
}

static int send_file(struct frontend *f, uint32_t request, unsigned index, int fd)
{
	return say_fd(f, request, index | (fd < 0 ? VHOST_USER_NO_FD : 0), fd);
}

static int start_ring(struct vhost *v, unsigned index, const struct vhost_ring *ring)
{
	struct frontend *f = frontend_of(v);
	char what[100];
	int err;

	if (index >= f->max_rings || index >= VHOST_MAX_RINGS) {
		snprintf(what, sizeof(what), "ring %u: the back end serves %u", index, f->max_rings);
		return refuse(f, -EINVAL, what);
	}
	f->ring[index] = (struct frontend_ring){.config = ring->config};
	if ((err = say_state(f, VHOST_USER_SET_VRING_NUM, index, ring->config.size)) ||
	    (err = say_state(f, VHOST_USER_SET_VRING_BASE, index, ring->base)) ||
	    (err = send_addresses(f, index)) ||
	    (err = send_file(f, VHOST_USER_SET_VRING_ERR, index, ring->err_fd)) ||
	    (err = send_file(f, VHOST_USER_SET_VRING_CALL, index, ring->call_fd)) ||
	    (err = send_file(f, VHOST_USER_SET_VRING_KICK, index, ring->kick_fd)))
		return err;
	f->ring[index].is_started = true;
	return 0;
}

static int enable_ring(struct vhost *v, unsigned index, bool on)
{
	struct frontend *f = frontend_of(v);
	int err;

	if (!(f->offered & VHOST_USER_F_PROTOCOL_FEATURES_BIT))
		return on ? 0 : -EOPNOTSUPP; /* started is enabled */
	err = say_state(f, VHOST_USER_SET_VRING_ENABLE, index, on);
	return err ? err : settle(f);
}

static int stop_ring(struct vhost *v, unsigned index, uint32_t *base)
{
	struct frontend *f = frontend_of(v);
	struct vhost_user_message m;
	int err;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_VRING_BASE);
	m.state.index = index;
	err = frontend_request(f, &m, &m);
	if (err)
		return err;
	if (m.state.index != index)
		return refuse(f, -EPROTO, "the answer to GET_VRING_BASE is for another ring");
	f->ring[index].is_started = false;
	*base = m.state.num;
	return 0;
}

/* --- configuration space --- */

static int get_config(struct vhost *v, uint32_t offset, void *data, uint32_t size)
{
	struct frontend *f = frontend_of(v);
	struct vhost_user_message m;
	int err;

	if (!frontend_has(f, VHOST_USER_PROTOCOL_F_CONFIG))
		return -EOPNOTSUPP;
	if (size > VHOST_USER_MAX_CONFIG || offset > VHOST_USER_MAX_CONFIG - size)
		return -EINVAL;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_CONFIG);
	m.config.offset = offset;
	m.config.size = size;
	m.size = (uint32_t)offsetof(struct vhost_user_config, data) + size;
	err = frontend_request(f, &m, &m);
	if (err)
		return err;
	if (m.size != offsetof(struct vhost_user_config, data) + size || m.config.size != size ||
	    m.config.offset != offset)
		return refuse(f, -EIO,
			      m.size ? "GET_CONFIG was answered with another range"
				     : "GET_CONFIG was refused");
	memcpy(data, m.config.data, size);
	return 0;
}

static int set_config(struct vhost *v, uint32_t offset, const void *data, uint32_t size)
{
	struct frontend *f = frontend_of(v);
	struct vhost_user_message m;

	if (!frontend_has(f, VHOST_USER_PROTOCOL_F_CONFIG))
		return -EOPNOTSUPP;
	if (size > VHOST_USER_MAX_CONFIG || offset > VHOST_USER_MAX_CONFIG - size)
		return -EINVAL;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_CONFIG);
	m.config.offset = offset;
	m.config.size = size;
	m.config.flags = VHOST_USER_CONFIG_WRITABLE;
	memcpy(m.config.data, data, size);
	m.size = (uint32_t)offsetof(struct vhost_user_config, data) + size;
	return frontend_request(f, &m, NULL);
}

/* --- inflight area --- */

static int get_inflight(struct frontend *f, struct vhost_inflight *inflight)
{
	struct vhost_user_message m;
	struct stat st;
	int err;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_INFLIGHT_FD);
	m.inflight.n_queues = inflight->n_rings;
	m.inflight.queue_size = inflight->ring_size;
	err = frontend_request(f, &m, &m);
	if (err)
		return err;
	inflight->size = m.inflight.mmap_size;
	inflight->offset = m.inflight.mmap_offset;
	inflight->fd = vhost_user_take_fd(&m, 0);
	vhost_user_close_fds(&m);
	if (inflight->fd < 0 || !inflight->size)
		err = inflight->size ? refuse(f, -EIO, "GET_INFLIGHT_FD was answered without a descriptor")
				     : -EOPNOTSUPP;
	else if (fstat(inflight->fd, &st) || (uint64_t)st.st_size < inflight->size ||
		 inflight->offset > (uint64_t)st.st_size - inflight->size)
		err = refuse(f, -EIO, "GET_INFLIGHT_FD was answered with an area outside its descriptor");
	if (err && inflight->fd >= 0) {
		close(inflight->fd);
		inflight->fd = -1;
	}
	return err;
}

static int set_inflight(struct vhost *v, struct vhost_inflight *inflight)
{
	struct frontend *f = frontend_of(v);
	struct vhost_user_message m;
	int err = 0;

	if (!frontend_has(f, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))
		return -EOPNOTSUPP;
	if (inflight->fd < 0)
		err = get_inflight(f, inflight);
	if (err)
		return err;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_INFLIGHT_FD);
	m.inflight = (struct vhost_user_inflight){inflight->size, inflight->offset, inflight->n_rings,
						  inflight->ring_size};
	m.fd[0] = inflight->fd;
	m.n_fds = 1;
	return frontend_request(f, &m, NULL);
}

/* --- network --- */

static int announce(struct vhost *v, const uint8_t mac[6])
{
	uint64_t value = 0;

	if (!frontend_has(frontend_of(v), VHOST_USER_PROTOCOL_F_RARP))
		return -EOPNOTSUPP;
	memcpy(&value, mac, 6);
	return say_u64(frontend_of(v), VHOST_USER_SEND_RARP, value);
}

static int set_mtu(struct vhost *v, uint16_t mtu)
{
	if (!frontend_has(frontend_of(v), VHOST_USER_PROTOCOL_F_MTU))
		return -EOPNOTSUPP;
	return say_u64(frontend_of(v), VHOST_USER_NET_SET_MTU, mtu);
}

/* --- the log of written pages --- */

static int send_logging(struct frontend *f)
{
	int err = send_features(f);

	for (unsigned k = 0; k < f->max_rings && k < VHOST_MAX_RINGS && !err; k++)
		err = f->ring[k].is_started ? send_addresses(f, k) : 0;
	return err;
}

static int set_log(struct vhost *v, int fd, uint64_t size)
{
	struct frontend *f = frontend_of(v);
	struct vhost_user_message m;
	int err = 0;

	if (!frontend_has(f, VHOST_USER_PROTOCOL_F_LOG_SHMFD) || !(f->offered >> VHOST_F_LOG_ALL & 1))
		return -EOPNOTSUPP;
	if (fd >= 0) {
		vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_LOG_BASE);
		m.log = (struct vhost_user_log){size, 0};
		m.size = sizeof(m.log);
		m.fd[0] = fd;
		m.n_fds = 1;
		err = frontend_request(f, &m, NULL);
	}
	if (err)
		return err;
	f->is_logging = fd >= 0;
	return send_logging(f);
}

/* --- a session --- */

static void frontend_close(struct vhost *v)
{
	struct frontend *f = frontend_of(v);

	close(f->socket);
	if (f->channel >= 0)
		close(f->channel);
	vhost_user_receiver_reset(&f->reply);
	vhost_user_receiver_reset(&f->asked);
	while (f->n_misses)
		free(f->miss[--f->n_misses]);
	free(f);
}

static const struct vhost_ops frontend_ops = {
	.kind = "vhost-user",
	.get_features = get_features,
	.set_features = set_features,
	.set_memory = set_memory,
	.start_ring = start_ring,
	.stop_ring = stop_ring,
	.enable_ring = enable_ring,
	.get_config = get_config,
	.set_config = set_config,
	.set_inflight = set_inflight,
	.set_status = set_status,
	.reset = reset,
	.announce = announce,
	.set_mtu = set_mtu,
	.set_log = set_log,
	.close = frontend_close,
};

static int negotiate_protocol(struct frontend *f)
{
	uint64_t offered,
		wanted = f->config.protocol_features ? f->config.protocol_features : known_protocol_features;
	int err;

	if (!(f->offered & VHOST_USER_F_PROTOCOL_FEATURES_BIT))
		return 0;
	err = ask_u64(f, VHOST_USER_GET_PROTOCOL_FEATURES, &offered);
	if (err)
		return err;
	wanted &= offered & known_protocol_features;
	err = say_u64(f, VHOST_USER_SET_PROTOCOL_FEATURES,
		      wanted); /* not acknowledged: REPLY_ACK is not negotiated yet */
	f->protocol = wanted;
	return err;
}

static int open_channel(struct frontend *f)
{
	int end[2], err;

	if (!frontend_has(f, VHOST_USER_PROTOCOL_F_BACKEND_REQ))
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, end))
		return -errno;
	f->channel = end[0];
	err = say_fd(f, VHOST_USER_SET_BACKEND_REQ_FD, 0, end[1]);
	close(end[1]);
	return err;
}

static int ask_limits(struct frontend *f)
{
	uint64_t rings = VHOST_MAX_RINGS, regions = VHOST_USER_MAX_REGIONS;
	int err = 0;

	if (frontend_has(f, VHOST_USER_PROTOCOL_F_MQ))
		err = ask_u64(f, VHOST_USER_GET_QUEUE_NUM, &rings);
	if (f->config.queues_are_pairs && rings < VHOST_MAX_RINGS)
		rings *= 2;
	if (!err && frontend_has(f, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
		err = ask_u64(f, VHOST_USER_GET_MAX_MEM_SLOTS, &regions);
	f->max_rings = rings < VHOST_MAX_RINGS ? (unsigned)rings : VHOST_MAX_RINGS;
	f->max_regions = regions < VHOST_MAX_REGIONS ? (unsigned)regions : VHOST_MAX_REGIONS;
	return err;
}

int vhost_frontend_open(int socket, const struct vhost_frontend_config *config, struct vhost **v)
{
	struct frontend *f = calloc(1, sizeof(*f));
	int err;

	if (!f) {
		close(socket);
		return -ENOMEM;
	}
	f->vhost.ops = &frontend_ops;
	f->config = *config;
	f->socket = socket;
	f->channel = -1;
	if ((err = ask_u64(f, VHOST_USER_GET_FEATURES, &f->offered)) || (err = negotiate_protocol(f)) ||
	    (err = say(f, VHOST_USER_SET_OWNER)) || (err = ask_limits(f)) || (err = open_channel(f))) {
		frontend_close(&f->vhost);
		return err;
	}
	*v = &f->vhost;
	return 0;
}

void vhost_frontend_info(const struct vhost *v, struct vhost_frontend_info *info)
{
	const struct frontend *f = frontend_of(v);

	*info = (struct vhost_frontend_info){f->protocol, f->max_rings, f->max_regions};
}

int vhost_frontend_socket(const struct vhost *v)
{
	return frontend_of(v)->socket;
}

int vhost_frontend_channel(const struct vhost *v)
{
	return frontend_of(v)->channel;
}
