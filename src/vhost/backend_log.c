/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The dirty log (specification, section "Migration"): a bit for each page of 4 KiB of guest-physical memory from 0 on, in
 * memory that the front end reads and clears meanwhile. It is kept while VHOST_F_LOG_ALL is negotiated and a log was given.
 *
 * A write is logged after it was made: the other way round the front end could fetch the bit, and the page, in between. The used ring
 * is logged where the front end says (log_guest_addr), if it says so. What is written to a packed queue's descriptor ring
 * is logged by its guest address, like any other memory.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vhost/backend_internal.h"

enum { LOG_PAGE = 4096 };

bool log_active(const struct vhost_backend *b)
{
	return b->log.data && b->features >> VHOST_F_LOG_ALL & 1;
}

void log_mark(struct vhost_backend *b, gpa_t gpa, uint64_t len)
{
	uint64_t page = gpa / LOG_PAGE, last;

	if (!len || gpa + len - 1 < gpa)
		return;
	last = (gpa + len - 1) / LOG_PAGE;
	for (; page <= last && page / 8 < b->log.size; page++) {
		uint8_t bit = (uint8_t)(1 << page % 8);

		if (!(__atomic_load_n(&b->log.data[page / 8], __ATOMIC_RELAXED) & bit))
			__atomic_fetch_or(&b->log.data[page / 8], bit, __ATOMIC_SEQ_CST);
	}
}

/* Everything that the back end writes in the ring itself. */
void log_mark_ring(struct vhost_backend *b, struct ring *r)
{
	struct virtq_layout bytes = virtq_layout(r->config.size, r->config.options);

	if (!log_active(b))
		return;
	if (r->log_used)
		log_mark(b, r->log_gpa, bytes.device);
	if (r->config.options & VIRTQ_PACKED && !has_feature(b, VIRTIO_F_ACCESS_PLATFORM))
		log_mark(b, r->config.desc, bytes.desc);
}

void log_forget(struct vhost_backend *b)
{
	shared_map_close(&b->log);
	if (b->log_fd >= 0)
		close(b->log_fd);
	b->log_fd = -1;
}

int set_log_base(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	struct shared_map fresh;
	int err, resumed;

	if (m->size < sizeof(m->log) || m->n_fds != 1)
		return refuse(b, "size %u, %u descriptors: a log description and one descriptor belong to it", m->size, m->n_fds);
	err = shared_map_open(&fresh, m->fd[0], m->log.offset, m->log.size, b->trouble_fd);
	if (err)
		return refuse(b, "log size 0x%" PRIx64 " offset 0x%" PRIx64 ": %s", m->log.size, m->log.offset,
			      err == -ENXIO ? "the file ends before" : strerror(-err));
	rings_pause(b);
	shared_map_close(&b->log);
	b->log = fresh;
	resumed = rings_resume(b);
	return resumed;
}

int set_log_fd(struct vhost_backend *b, struct vhost_user_message *m, struct vhost_user_message *reply)
{
	int resumed;

	rings_pause(b);
	if (b->log_fd >= 0)
		close(b->log_fd);
	b->log_fd = vhost_user_take_fd(m, 0);
	resumed = rings_resume(b);
	return resumed;
}

/* --- for the ring's owner --- */

bool vhost_backend_logs(const struct vhost_backend_ring *face)
{
	return log_active(face->backend);
}

/* The GPA of memory that a chain's vector names. With an IOTLB that is the guest's own, by way of the region. */
static void mark_hva(struct vhost_backend *b, const uint8_t *hva, uint64_t len)
{
	for (unsigned k = 0; k < b->n_regions; k++) {
		const struct region *r = b->region[k];
		uint64_t offset = (uint64_t)(hva - r->map.data);

		if (offset < r->wire.size) {
			log_mark(b, r->wire.guest_address + offset, len);
			return;
		}
	}
}

void vhost_backend_written(struct vhost_backend_ring *face, const struct virtq_chain *chain, uint32_t written)
{
	struct ring *r = (struct ring *)((char *)face - offsetof(struct ring, face));
	struct vhost_backend *b = face->backend;

	for (unsigned k = 0; k < chain->writable && written; k++) {
		const struct iovec *iov = &chain->iov[chain->readable + k];
		uint32_t part = iov->iov_len < written ? (uint32_t)iov->iov_len : written;

		mark_hva(b, iov->iov_base, part);
		written -= part;
	}
	log_mark_ring(b, r);
	if (b->log_fd >= 0)
		eventfd_write(b->log_fd, 1);
}
