/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inflight buffer (specification, section "Inflight I/O tracking"): made here when the front end asks for one, kept by the front
 * end while the back end is away, and given back to the next one. Its content is virtq_inflight.h's.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vhost/backend_internal.h"

enum { REGION_ALIGN = 64 };

static uint64_t stride(const struct vhost_backend *b, uint16_t ring_size)
{
	uint64_t bytes = virtq_inflight_bytes(ring_size, virtq_options(b->features));

	return (bytes + REGION_ALIGN - 1) & ~(uint64_t)(REGION_ALIGN - 1);
}

static int check_shape(struct vhost_backend *b, const struct vhost_user_inflight *i)
{
	if (!i->n_queues || i->n_queues > b->config.n_rings)
		return refuse(b, "num queues %u: there are %u", i->n_queues, b->config.n_rings);
	if (!i->queue_size || i->queue_size > b->config.max_ring_size)
		return refuse(b, "queue size %u: not from 1 to %u", i->queue_size, b->config.max_ring_size);
	return 0;
}

static int put_in_use(struct vhost_backend *b, const struct vhost_user_inflight *i, int fd)
{
	struct shared_map fresh;
	int err = shared_map_open(&fresh, fd, i->mmap_offset, i->mmap_size, b->trouble_fd);

	if (err)
		return refuse(b, "mmap size 0x%" PRIx64 " offset 0x%" PRIx64 ": %s", i->mmap_size, i->mmap_offset,
			      err == -ENXIO ? "the file ends before" : strerror(-err));
	rings_pause(b);
	shared_map_close(&b->inflight);
	b->inflight = fresh;
	b->inflight_rings = i->n_queues;
	b->inflight_size = i->queue_size;
	return rings_resume(b);
}

int get_inflight_fd(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct vhost_user_inflight i = m->inflight;
	int fd, err = check_shape(b, &i);

	if (err)
		return err;
	i.mmap_size = stride(b, i.queue_size) * i.n_queues;
	i.mmap_offset = 0;
	fd = memfd_create("guise-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)i.mmap_size)) {
		err = refuse(b, "no memory for %" PRIu64 " bytes: %s", i.mmap_size, strerror(errno));
		if (fd >= 0)
			close(fd);
		return err;
	}
	err = put_in_use(b, &i, fd);
	if (err) {
		close(fd);
		return err;
	}
	reply->inflight = i;
	reply->fd[0] = fd; /* closed when it was sent */
	reply->n_fds = 1;
	return 0;
}

int set_inflight_fd(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct vhost_user_inflight i = m->inflight;
	int err = check_shape(b, &i);

	if (err)
		return err;
	if (i.mmap_size < stride(b, i.queue_size) * i.n_queues || i.mmap_offset % 8)
		return refuse(b, "mmap size 0x%" PRIx64 " offset 0x%" PRIx64 ": %u queues of %u entries take 0x%" PRIx64,
			      i.mmap_size, i.mmap_offset, i.n_queues, i.queue_size, stride(b, i.queue_size) * i.n_queues);
	return put_in_use(b, &i, m->fd[0]);
}

void inflight_forget(struct vhost_backend *b)
{
	shared_map_close(&b->inflight);
	b->inflight_rings = b->inflight_size = 0;
}

/* An orderly stop: nothing is held, and where the ring begins next is the front end's to say. */
void inflight_clear(struct vhost_backend *b, const struct ring *r)
{
	void *region = inflight_region(b, r);

	if (region)
		memset(region, 0, virtq_inflight_bytes(b->inflight_size, virtq_options(b->features)));
}

void *inflight_region(struct vhost_backend *b, const struct ring *r)
{
	uint64_t bytes = stride(b, b->inflight_size);

	/* A buffer for other sizes than the ring's, or made for the other format, is not this ring's. */
	if (!b->inflight.data || r->face.index >= b->inflight_rings || r->num != b->inflight_size ||
	    bytes * b->inflight_rings > b->inflight.size)
		return NULL;
	return b->inflight.data + bytes * r->face.index;
}
