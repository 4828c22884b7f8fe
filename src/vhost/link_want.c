/* SPDX-License-Identifier: BSD-2-Clause */
/* What the owner of a link wants: kept for the next back end, passed on to the present one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vhost/link_internal.h"
#include "vhost/regions.h"

int link_keep_memory(struct vhost_link *link, const struct vhost_region *region, unsigned n)
{
	struct vhost_region *copy = n && n <= VHOST_MAX_REGIONS ? malloc(n * sizeof(*copy)) : NULL;

	if (!copy)
		return n && n <= VHOST_MAX_REGIONS ? -ENOMEM : -EINVAL;
	memcpy(copy, region, n * sizeof(*copy));
	free(link->region);
	link->region = copy;
	link->n_regions = n;
	return 0;
}

static bool lies_in_memory(const struct vhost_link *link, const struct virtq_config *c)
{
	struct virtq_layout bytes = virtq_layout(c->size, c->options);

	return vhost_region_at(link->region, link->n_regions, c->desc, bytes.desc) &&
	       vhost_region_at(link->region, link->n_regions, c->driver, bytes.driver) &&
	       vhost_region_at(link->region, link->n_regions, c->device, bytes.device);
}

int link_keep_rings(struct vhost_link *link, const struct vhost_ring *ring, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		if (ring[k].config.size && !lies_in_memory(link, &ring[k].config))
			return -EINVAL;
	memcpy(link->ring, ring, n * sizeof(*ring));
	link->n_rings = n;
	memset(link->is_handed, 0, sizeof(link->is_handed));
	link->inflight.n_rings = (uint16_t)n;
	link->inflight.ring_size = link->config.ring_size;
	return 0;
}

/* The ring's base, from the other side if that answers. */
static uint32_t stop_one(struct vhost_link *link, unsigned index)
{
	uint32_t base;

	if (!link->ring[index].config.size)
		return 0;
	if (!link->is_handed[index])
		return link->ring[index].base;
	if (link->v) {
		int err = link->v->ops->stop_ring(link->v, index, &base);

		if (!err)
			return base;
		link_drop(link); /* whatever the reason: it must not go on with this ring */
	}
	return link_base(link, index);
}

static void forget_inflight(struct vhost_link *link)
{
	if (link->inflight.fd >= 0)
		close(link->inflight.fd);
	link->inflight.fd = -1;
}

/* A driver that comes after a reset has written nothing yet. */
static void forget_writes(struct vhost_link *link)
{
	memset(link->is_written, false, sizeof(link->is_written));
}

void link_stop_rings(struct vhost_link *link, uint32_t *base)
{
	for (unsigned k = 0; k < link->n_rings; k++) {
		uint32_t stands_at = stop_one(link, k);

		if (base)
			base[k] = stands_at;
	}
	link->is_started = false;
	forget_writes(link);
	forget_inflight(link); /* a stopped ring has nothing in flight */
	memset(link->is_disabled, 0, sizeof(link->is_disabled));
	if (link->v && link->v->ops->reset)
		link_judge(link, link->v->ops->reset(link->v));
}

void vhost_link_stop(struct vhost_link *link, uint32_t *base)
{
	pthread_mutex_lock(&link->lock);
	if (link->is_started)
		link_stop_rings(link, base);
	pthread_mutex_unlock(&link->lock);
}

int vhost_link_start_ring(struct vhost_link *link, unsigned index, const struct vhost_ring *ring)
{
	int err = 0;

	pthread_mutex_lock(&link->lock);
	if (!link->is_started || index >= link->n_rings || link->ring[index].config.size ||
	    !ring->config.size || !lies_in_memory(link, &ring->config)) {
		err = -EINVAL;
	} else {
		link->ring[index] = *ring;
		link->is_handed[index] = false;
		if (link->v && link_hand_ring(link, index))
			link_drop(link); /* tried again with the next connection */
	}
	pthread_mutex_unlock(&link->lock);
	return err;
}

uint32_t vhost_link_stop_ring(struct vhost_link *link, unsigned index)
{
	uint32_t base = 0;

	pthread_mutex_lock(&link->lock);
	if (link->is_started && index < link->n_rings) {
		base = stop_one(link, index);
		link->ring[index].config.size = 0;
	}
	pthread_mutex_unlock(&link->lock);
	return base;
}

int vhost_link_enable(struct vhost_link *link, unsigned index, bool on)
{
	int err = 0;

	if (index >= link->config.n_rings)
		return -EINVAL;
	pthread_mutex_lock(&link->lock);
	if (link->is_disabled[index] == on && link->v && link->is_started && index < link->n_rings &&
	    link->ring[index].config.size)
		err = link_judge(link, link->v->ops->enable_ring(link->v, index, on));
	link->is_disabled[index] = !on;
	pthread_mutex_unlock(&link->lock);
	return err;
}

int vhost_link_set_memory(struct vhost_link *link, const struct vhost_region *region, unsigned n_regions)
{
	int err;

	pthread_mutex_lock(&link->lock);
	err = link->is_started ? link_keep_memory(link, region, n_regions) : -EINVAL;
	if (!err && link->v)
		err = link_judge(link, link->v->ops->set_memory(link->v, region, n_regions));
	pthread_mutex_unlock(&link->lock);
	return err;
}

int vhost_link_set_log(struct vhost_link *link, int fd, uint64_t size)
{
	int err = 0;

	pthread_mutex_lock(&link->lock);
	if (link->v && link->is_started)
		err = link->v->ops->set_log ? link_judge(link, link->v->ops->set_log(link->v, fd, size))
					    : -EOPNOTSUPP;
	if (!err) {
		link->log_fd = fd;
		link->log_size = size;
	}
	pthread_mutex_unlock(&link->lock);
	return err;
}

int vhost_link_read_config(struct vhost_link *link, uint32_t offset, void *data, uint32_t size)
{
	bool is_inside = size <= link->config.config_size && offset <= link->config.config_size - size;

	if (!is_inside)
		return -EINVAL;
	pthread_mutex_lock(&link->lock);
	memcpy(data, link->space + offset, size);
	pthread_mutex_unlock(&link->lock);
	return 0;
}

int vhost_link_write_config(struct vhost_link *link, uint32_t offset, const void *data, uint32_t size)
{
	int err = -ENOTCONN;

	if (size > link->config.config_size || offset > link->config.config_size - size)
		return -EINVAL;
	pthread_mutex_lock(&link->lock);
	if (link->v)
		err = link->v->ops->set_config
			      ? link_judge(link, link->v->ops->set_config(link->v, offset, data, size))
			      : -EOPNOTSUPP;
	if (!err || err == -ENOTCONN) {
		memcpy(link->space + offset, data, size);
		memset(link->is_written + offset, true, size);
		err = 0;
	}
	pthread_mutex_unlock(&link->lock);
	return err;
}

int link_repeat_writes(struct vhost_link *link)
{
	unsigned at = 0, end;
	int err = 0;

	for (; at < link->config.config_size && !err; at = end) {
		for (end = at + 1;
		     link->is_written[at] && end < link->config.config_size && link->is_written[end];)
			end++;
		if (link->is_written[at] && link->v->ops->set_config)
			err = link->v->ops->set_config(link->v, at, link->space + at, end - at);
	}
	return err;
}

int vhost_link_announce(struct vhost_link *link, const uint8_t mac[6])
{
	int err = -ENOTCONN;

	pthread_mutex_lock(&link->lock);
	if (link->v)
		err = link->v->ops->announce ? link_judge(link, link->v->ops->announce(link->v, mac))
					     : -EOPNOTSUPP;
	pthread_mutex_unlock(&link->lock);
	return err;
}
