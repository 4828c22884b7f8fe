/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The lasting link. What the owner wants (features, memory, rings, which of them are enabled) is kept here,
 * so that it can be handed over to every back end that comes. A connection is either whole, with everything
 * handed over, or it is dropped and the next one is gone for, after a pause that grows while connections
 * fail.
 *
 * A ring that was handed over once and whose back end left without telling its base goes on where the ring
 * itself, or its owner, says it stands. After a hand-over each ring is kicked, and after a second one the
 * driver is called: a kick or call may have died with the back end, and one too many does no harm.
 *
 * Threads: everything that talks to the other side happens under link->lock, on whichever thread asked for
 * it. The link's own thread connects, drops what has hung up, and tells the events, after the lock is gone.
 */
#include "vhost/link.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "vhost/features.h"
#include "vhost/frontend.h"
#include "vhost/link_internal.h"
#include "vhost/restore.h"
#include "vhost/regions.h"
#include "vhost/socket.h"

enum { DEFAULT_TIMEOUT_MS = 60000, LIVED_NS = 1000000000, CHECK_NS = 1000000000, FIRST_PAUSE_MS = 20, LAST_PAUSE_MS = 1000 };

enum {
	STATUS_FEATURES = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
	STATUS_RUNNING = STATUS_FEATURES | VIRTIO_CONFIG_S_DRIVER_OK,
};

/* --- dropping a connection --- */

void link_drop(struct vhost_link *link)
{
	if (!link->v || link->config.device) /* the kernel does not go away */
		return;
	loop_del(link->socket_source); /* before its descriptor is closed */
	loop_del(link->channel_source);
	link->socket_source = link->channel_source = NULL;
	link->v->ops->close(link->v);
	link->v = NULL;
	link->info.connected = false;
	link->is_lost = true;
	eventfd_write(link->wake_fd, 1);
}

/* The other side refused something, or the connection is broken: then it is dropped. Returns err. */
int link_judge(struct vhost_link *link, int err)
{
	if (err && err != -EIO && err != -EOPNOTSUPP && err != -EINVAL && err != -E2BIG)
		link_drop(link);
	return err;
}

/* --- handing over --- */

uint32_t link_base(struct vhost_link *link, unsigned index)
{
	const struct virtq_config *c = &link->ring[index].config;
	struct virtq_layout bytes = virtq_layout(c->size, c->options);
	const struct vhost_link_events *events = link->config.events;

	if (events && events->ring_base)
		return events->ring_base(link->config.opaque, index);
	return vhost_restore_base(c, vhost_region_at(link->region, link->n_regions, c->desc, bytes.desc),
				  vhost_region_at(link->region, link->n_regions, c->driver, bytes.driver),
				  vhost_region_at(link->region, link->n_regions, c->device, bytes.device));
}

int link_hand_ring(struct vhost_link *link, unsigned index)
{
	struct vhost_ring ring = link->ring[index];
	bool again = link->is_handed[index];
	int err;

	if (!ring.config.size)
		return 0;
	if (again)
		ring.base = link_base(link, index);
	if (ring.err_fd < 0)
		ring.err_fd = link->err_fd;
	link->is_handed[index] = true;
	err = link->v->ops->start_ring(link->v, index, &ring);
	if (!err && !link->is_disabled[index])
		err = link->v->ops->enable_ring(link->v, index, true);
	if (err)
		return err;
	if (ring.kick_fd >= 0)
		eventfd_write(ring.kick_fd, 1);
	if (again && ring.call_fd >= 0)
		eventfd_write(ring.call_fd, 1);
	return 0;
}

static int hand_inflight(struct vhost_link *link)
{
	int err;

	if (!link->config.inflight || !link->v->ops->set_inflight)
		return 0;
	err = link->v->ops->set_inflight(link->v, &link->inflight);
	return err == -EOPNOTSUPP ? 0 : err;
}

static int hand_mtu(struct vhost_link *link)
{
	int err;

	if (!link->config.mtu || !(link->features >> VIRTIO_NET_F_MTU & 1) || !link->v->ops->set_mtu)
		return 0;
	err = link->v->ops->set_mtu(link->v, link->config.mtu);
	return err == -EOPNOTSUPP ? 0 : err;
}

static int set_status(struct vhost_link *link, uint8_t status)
{
	return link->v->ops->set_status ? link->v->ops->set_status(link->v, status) : 0;
}

/* A guest that cannot announce itself has it done for it. */
static void announce(struct vhost_link *link)
{
	if (link->config.has_mac && !(link->features >> VIRTIO_NET_F_GUEST_ANNOUNCE & 1) &&
	    link->v->ops->announce)
		link->v->ops->announce(link->v, link->config.mac);
}

/* All that was started, to a back end that knows nothing of it yet. */
static int hand_over(struct vhost_link *link)
{
	struct vhost *v = link->v;
	bool again = false;
	int err;

	for (unsigned k = 0; k < link->n_rings; k++)
		again |= link->is_handed[k];
	if ((err = v->ops->set_features(v, link->features)) || (err = link_repeat_writes(link)) ||
	    (err = set_status(link, STATUS_FEATURES)) || (err = hand_mtu(link)) ||
	    (err = v->ops->set_memory(v, link->region, link->n_regions)) || (err = hand_inflight(link)))
		return err;
	for (unsigned k = 0; k < link->n_rings && !err; k++)
		err = link_hand_ring(link, k);
	if (!err && link->log_fd >= 0)
		err = v->ops->set_log ? v->ops->set_log(v, link->log_fd, link->log_size) : -EOPNOTSUPP;
	if (!err)
		err = set_status(link, STATUS_RUNNING);
	if (!err && again)
		announce(link);
	return err;
}

/* --- a connection comes --- */

static int refuse_features(struct vhost_link *link, uint64_t missing, const char *why)
{
	char text[300];

	log_warn("%s: vhost: the back end lacks %s, %s", link->config.owner,
		 vhost_features_format(link->config.device_id, missing, text, sizeof(text)), why);
	return -EIO;
}

/* The configuration space as the back end has it, but for what the driver has written to its predecessor. */
static int fetch_space(struct vhost_link *link)
{
	uint8_t space[sizeof(link->space)];
	int err = link->v->ops->get_config
			  ? link->v->ops->get_config(link->v, 0, space, link->config.config_size)
			  : -EOPNOTSUPP;

	for (unsigned k = 0; k < link->config.config_size && !err; k++)
		if (!link->is_written[k])
			link->space[k] = space[k];
	return err;
}

/* Learn what the other side offers. */
static int meet(struct vhost_link *link)
{
	struct vhost_link_info *info = &link->info;
	uint64_t offered;
	int err = link->v->ops->get_features(link->v, &offered);

	if (err)
		return err;
	if (link->config.required & ~offered)
		return refuse_features(link, link->config.required & ~offered,
				       "without which it is of no use");
	if (link->is_started && link->features & ~offered)
		return refuse_features(link, link->features & ~offered,
				       "which its predecessor had and the driver uses");
	info->features = offered & link->config.features;
	if (link->config.config_size)
		err = fetch_space(link);
	if (err)
		log_warn("%s: vhost: no configuration from the back end: %s", link->config.owner,
			 err == -EOPNOTSUPP ? "it has no CONFIG protocol feature" : strerror(-err));
	return err;
}

static bool is_ending(struct vhost_link *link)
{
	bool ending;

	pthread_mutex_lock(&link->abort_lock);
	ending = link->is_ending;
	pthread_mutex_unlock(&link->abort_lock);
	return ending;
}

static void config_changed(void *opaque)
{
	struct vhost_link *link = opaque;

	link->is_config_stale = true; /* within a request or serve(): the lock is held */
	eventfd_write(link->wake_fd, 1);
}

static void socket_ready(void *opaque, uint32_t events)
{
	struct vhost_link *link = opaque;
	int err;

	pthread_mutex_lock(&link->lock);
	err = link->v && !is_ending(link) ? vhost_frontend_check(link->v) : 0;
	if (err) {
		log_info("%s: vhost: the back end is gone%s%s", link->config.owner,
			 err == -ECONNRESET ? "" : ": ", err == -ECONNRESET ? "" : strerror(-err));
		link_drop(link);
	}
	pthread_mutex_unlock(&link->lock);
}

static void channel_ready(void *opaque, uint32_t events)
{
	struct vhost_link *link = opaque;

	pthread_mutex_lock(&link->lock);
	if (link->v && vhost_frontend_serve(link->v)) {
		loop_del(link->channel_source);
		link->channel_source = NULL;
	}
	pthread_mutex_unlock(&link->lock);
}

static int watch(struct vhost_link *link)
{
	int channel = vhost_frontend_channel(link->v);
	int err = loop_add(link->loop, vhost_frontend_socket(link->v), EPOLLIN | EPOLLRDHUP, socket_ready,
			   link, &link->socket_source);

	if (!err && channel >= 0)
		err = loop_add(link->loop, channel, EPOLLIN, channel_ready, link, &link->channel_source);
	return err;
}

static int take_up(struct vhost_link *link, int fd)
{
	struct vhost_frontend_config config = {.owner = link->config.owner,
					       .queues_are_pairs = link->config.device_id == 1,
					       .timeout_ms = link->config.timeout_ms,
					       .config_changed = config_changed,
					       .opaque = link};
	struct vhost_frontend_info info;
	int err = vhost_frontend_open(fd, &config, &link->v);

	if (err)
		return err;
	vhost_frontend_info(link->v, &info);
	link->info.protocol_features = info.protocol_features;
	link->info.max_rings = info.max_rings;
	err = meet(link);
	if (!err && link->is_started)
		err = hand_over(link);
	return err ? err : watch(link);
}

static void pause_before_next(struct vhost_link *link)
{
	uint64_t ms = link->failures ? FIRST_PAUSE_MS << (link->failures < 8 ? link->failures : 8) : 0;

	if (ms > LAST_PAUSE_MS)
		ms = LAST_PAUSE_MS;
	if (ms)
		loop_set_timer(link->retry, now_ns() + ms * 1000000, 0);
	else
		vhost_endpoint_next(link->endpoint);
}

static void retry(void *opaque, uint32_t events)
{
	vhost_endpoint_next(((struct vhost_link *)opaque)->endpoint);
}

/* A second descriptor of the present connection, by which vhost_link_free() ends a wait for an answer. */
static void set_abort_fd(struct vhost_link *link, int fd)
{
	pthread_mutex_lock(&link->abort_lock);
	if (link->abort_fd >= 0)
		close(link->abort_fd);
	link->abort_fd = fd;
	if (link->is_ending && fd >= 0)
		shutdown(fd, SHUT_RDWR);
	pthread_mutex_unlock(&link->abort_lock);
}

static void abort_waits(struct vhost_link *link)
{
	pthread_mutex_lock(&link->abort_lock);
	link->is_ending = true;
	if (link->abort_fd >= 0)
		shutdown(link->abort_fd, SHUT_RDWR);
	pthread_mutex_unlock(&link->abort_lock);
}

static void connected(void *opaque, int fd)
{
	struct vhost_link *link = opaque;
	const struct vhost_link_events *events = link->config.events;
	int err;

	set_abort_fd(link, fcntl(fd, F_DUPFD_CLOEXEC, 0));
	pthread_mutex_lock(&link->lock);
	err = take_up(link, fd);
	if (err) {
		link_drop(link); /* says is_lost if the session had begun */
		if (!link->is_lost)
			eventfd_write(link->wake_fd, 1);
		link->is_lost = true;
	} else {
		link->info.connected = true;
		link->info.connections++;
		link->since = now_ns();
		pthread_cond_broadcast(&link->changed);
	}
	pthread_mutex_unlock(&link->lock);
	if (err)
		return;
	log_debug("%s: vhost: connected", link->config.owner);
	link->is_told = true;
	if (events && events->connected)
		events->connected(link->config.opaque);
}

static const struct vhost_endpoint_ops endpoint_ops = {.connected = connected};

/* --- the link's thread --- */

static void lost(struct vhost_link *link)
{
	const struct vhost_link_events *events = link->config.events;

	link->failures = link->is_told && now_ns() - link->since > LIVED_NS ? 0 : link->failures + 1;
	if (link->is_told && events && events->disconnected)
		events->disconnected(link->config.opaque);
	link->is_told = false;
	pause_before_next(link);
}

/* Fetch the configuration again; true if that can be told. */
static bool refresh(struct vhost_link *link)
{
	if (!link->v || !link->config.config_size || !link->v->ops->get_config)
		return false;
	return !link_judge(link, fetch_space(link));
}

static void woken(void *opaque, uint32_t events)
{
	struct vhost_link *link = opaque;
	bool is_lost, is_changed;
	eventfd_t count;

	eventfd_read(link->wake_fd, &count);
	pthread_mutex_lock(&link->lock);
	is_changed = link->is_config_stale && refresh(link);
	link->is_config_stale = false;
	is_lost = link->is_lost;
	link->is_lost = false;
	pthread_mutex_unlock(&link->lock);
	if (is_lost)
		lost(link);
	else if (is_changed && link->config.events && link->config.events->config_changed)
		link->config.events->config_changed(link->config.opaque);
}

static void ring_error(void *opaque, uint32_t events)
{
	struct vhost_link *link = opaque;
	eventfd_t count;

	if (!eventfd_read(link->err_fd, &count))
		log_warn("%s: vhost: the back end reports an error on a ring", link->config.owner);
}

static void *run(void *opaque)
{
	loop_run(((struct vhost_link *)opaque)->loop);
	return NULL;
}

/* --- new and free --- */

static int open_loop(struct vhost_link *link)
{
	struct loop_source *ignored;
	int err = loop_new(&link->loop);

	if (err)
		return err;
	link->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	link->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (link->wake_fd < 0 || link->err_fd < 0)
		return -errno;
	if ((err = loop_add(link->loop, link->wake_fd, EPOLLIN, woken, link, &ignored)) ||
	    (err = loop_add(link->loop, link->err_fd, EPOLLIN, ring_error, link, &ignored)))
		return err;
	return loop_add_timer(link->loop, retry, link, &link->retry);
}

static void init_lock(struct vhost_link *link)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&link->lock, NULL);
	pthread_mutex_init(&link->abort_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&link->changed, &attr);
	pthread_condattr_destroy(&attr);
}

static void device_ready(void *opaque, uint32_t events)
{
	struct vhost_link *link = opaque;
	uint64_t address;

	pthread_mutex_lock(&link->lock);
	if (link->v->ops->serve(link->v, &address))
		log_warn("%s: vhost: the %s asks for address %#llx, which is outside the memory: its rings stand "
			 "still until the driver resets the device",
			 link->config.owner, link->v->ops->kind, (unsigned long long)address);
	pthread_mutex_unlock(&link->lock);
}

static int watch_device(struct vhost_link *link)
{
	struct loop_source *ignored;
	const int *fd = NULL;
	unsigned n = link->v->ops->watched ? link->v->ops->watched(link->v, &fd) : 0;
	int err = 0;

	for (unsigned k = 0; k < n && !err; k++)
		err = loop_add(link->loop, fd[k], EPOLLIN, device_ready, link, &ignored);
	return err;
}

/*
 * Is what the device serves gone for good? It is not dropped then: its rings are stopped as ever. Looked at now and then, for epoll
 * would also wake this thread for every packet.
 */
static void check_device(void *opaque, uint32_t events)
{
	struct vhost_link *link = opaque;
	struct pollfd p = {.fd = link->config.device->ops->lost_fd(link->config.device)};

	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLERR))
		return;
	loop_set_timer(link->device_timer, UINT64_MAX, 0);
	pthread_mutex_lock(&link->lock);
	link->info.connected = false;
	pthread_mutex_unlock(&link->lock);
	log_error("%s: %s: the interface was deleted: nothing passes any more", link->config.owner,
		  link->config.device->ops->kind);
	if (link->config.events && link->config.events->disconnected)
		link->config.events->disconnected(link->config.opaque);
}

/* A device that is there already: met at once, connected from the beginning. */
static int open_device(struct vhost_link *link, char *why, unsigned why_size)
{
	int err;

	link->v = link->config.device;
	link->info.max_rings = link->config.n_rings;
	err = meet(link);
	if (!err)
		err = watch_device(link);
	if (err) {
		snprintf(why, why_size, "%s: %s", link->v->ops->kind,
			 err == -EIO ? "it lacks features without which it is of no use" : strerror(-err));
		return err;
	}
	link->info.connected = true;
	link->info.connections = 1;
	if (!link->v->ops->lost_fd)
		return 0;
	err = loop_add_timer(link->loop, check_device, link, &link->device_timer);
	if (!err)
		loop_set_timer(link->device_timer, now_ns() + CHECK_NS, CHECK_NS);
	return err;
}

static int open_other_side(struct vhost_link *link, char *why, unsigned why_size)
{
	struct vhost_socket_config socket = {
		.path = link->config.path, .fd = -1, .server = link->config.server, .mode = -1};

	if (link->config.device)
		return open_device(link, why, why_size);
	return vhost_endpoint_open(link->loop, &socket, &endpoint_ops, link, &link->endpoint, why, why_size);
}

int vhost_link_new(const struct vhost_link_config *config, struct vhost_link **out, char *why,
		   unsigned why_size)
{
	struct vhost_link *link = calloc(1, sizeof(*link));
	int err = -ENOMEM;

	snprintf(why, why_size, "%s", strerror(ENOMEM));
	if (!link) {
		if (config->device)
			config->device->ops->close(config->device);
		return -ENOMEM;
	}
	link->config = *config;
	link->wake_fd = link->err_fd = link->inflight.fd = link->log_fd = link->abort_fd = -1;
	if (!link->config.timeout_ms)
		link->config.timeout_ms = DEFAULT_TIMEOUT_MS;
	init_lock(link);
	link->ring = calloc(config->n_rings, sizeof(*link->ring));
	if (link->ring && config->n_rings <= VHOST_MAX_RINGS && config->config_size <= sizeof(link->space)) {
		why[0] = 0;
		*out = link; /* before there is a thread that tells events: the owner calls the link in them
			      */
		if (!(err = open_loop(link)) && !(err = open_other_side(link, why, why_size)))
			err = thread_start(&link->thread, config->owner, "vhost", run, link);
	}
	link->is_running = !err;
	if (err) {
		if (!why[0])
			snprintf(why, why_size, "%s", strerror(-err));
		link->v = config->device;
		vhost_link_free(link);
		*out = NULL;
		return err;
	}
	return 0;
}

void vhost_link_free(struct vhost_link *link)
{
	if (!link)
		return;
	if (link->is_running) {
		vhost_link_stop(link, NULL);
		abort_waits(link);
		loop_stop(link->loop);
		pthread_join(link->thread, NULL);
	}
	if (link->endpoint)
		vhost_endpoint_close(link->endpoint);
	if (link->v)
		link->v->ops->close(link->v);
	loop_free(link->loop);
	if (link->wake_fd >= 0)
		close(link->wake_fd);
	if (link->err_fd >= 0)
		close(link->err_fd);
	free(link->region);
	free(link->ring);
	set_abort_fd(link, -1);
	pthread_cond_destroy(&link->changed);
	pthread_mutex_destroy(&link->lock);
	pthread_mutex_destroy(&link->abort_lock);
	free(link);
}

int vhost_link_wait(struct vhost_link *link, int timeout_ms)
{
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000;
	struct timespec until = {(time_t)(deadline / 1000000000), (long)(deadline % 1000000000)};
	int err = 0;

	pthread_mutex_lock(&link->lock);
	while (!link->info.connected && !err)
		err = timeout_ms < 0 ? pthread_cond_wait(&link->changed, &link->lock)
				     : pthread_cond_timedwait(&link->changed, &link->lock, &until);
	err = link->info.connected ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&link->lock);
	return err;
}

void vhost_link_info(struct vhost_link *link, struct vhost_link_info *info)
{
	pthread_mutex_lock(&link->lock);
	*info = link->info;
	pthread_mutex_unlock(&link->lock);
}

/* --- what the owner wants; more of it in link_want.c --- */

int vhost_link_start(struct vhost_link *link, uint64_t features, const struct vhost_region *region,
		     unsigned n_regions, const struct vhost_ring *ring, unsigned n_rings)
{
	int err = 0;

	pthread_mutex_lock(&link->lock);
	if (link->is_started)
		err = -EBUSY;
	else if (features & ~link->info.features || n_rings > link->config.n_rings)
		err = -EINVAL;
	if (!err)
		err = link_keep_memory(link, region, n_regions);
	if (!err)
		err = link_keep_rings(link, ring, n_rings);
	if (!err) {
		link->features = features;
		link->is_started = true;
		if (link->v)
			err = hand_over(link);
		if (err && link->config.device) {
			link_stop_rings(link, NULL);
		} else if (err) { /* tried again with the next connection */
			link_drop(link);
			err = 0;
		}
	}
	pthread_mutex_unlock(&link->lock);
	return err;
}
