/* SPDX-License-Identifier: BSD-2-Clause */
/* A vhost-user message as a line of text. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "vhost/frontend.h"

struct line {
	char *text;
	size_t size, used;
};

static void add(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(struct line *line, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line->text + line->used, line->size - line->used, format, args);
	va_end(args);
	if (n > 0)
		line->used += (size_t)n < line->size - line->used ? (size_t)n : line->size - line->used - 1;
}

static void add_region(struct line *line, struct vhost_user_region r)
{
	add(line, " guest 0x%" PRIx64 " size 0x%" PRIx64 " user 0x%" PRIx64 " offset 0x%" PRIx64,
	    r.guest_address, r.size, r.user_address, r.mmap_offset);
}

static void add_memory(struct line *line, const struct vhost_user_message *m)
{
	add(line, " %u regions", m->memory.n_regions);
	for (unsigned k = 0; k < m->memory.n_regions && k < VHOST_USER_MAX_REGIONS; k++) {
		add(line, k ? ";" : ":");
		add_region(line, m->memory.region[k]);
	}
}

static void add_u64(struct line *line, const struct vhost_user_message *m, bool reply)
{
	bool is_ring =
		!reply && (m->request == VHOST_USER_SET_VRING_KICK ||
			   m->request == VHOST_USER_SET_VRING_CALL || m->request == VHOST_USER_SET_VRING_ERR);

	if (is_ring)
		add(line, " ring %u%s", (unsigned)(m->u64 & VHOST_USER_INDEX_MASK),
		    m->u64 & VHOST_USER_NO_FD ? " no descriptor" : "");
	else
		add(line, " 0x%" PRIx64, m->u64);
}

static void add_payload(struct line *line, enum vhost_user_payload_kind kind,
			const struct vhost_user_message *m, bool reply)
{
	switch (kind) {
	case VHOST_USER_U64:
		add_u64(line, m, reply);
		break;
	case VHOST_USER_STATE:
		add(line, " ring %u, 0x%x", m->state.index, m->state.num);
		break;
	case VHOST_USER_ADDR:
		add(line,
		    " ring %u: descriptors 0x%" PRIx64 " avail 0x%" PRIx64 " used 0x%" PRIx64
		    " flags 0x%x log 0x%" PRIx64,
		    m->addr.index, (uint64_t)m->addr.desc_user_addr, (uint64_t)m->addr.avail_user_addr,
		    (uint64_t)m->addr.used_user_addr, m->addr.flags, (uint64_t)m->addr.log_guest_addr);
		break;
	case VHOST_USER_MEMORY:
		add_memory(line, m);
		break;
	case VHOST_USER_REGION:
		add_region(line, m->single.region);
		break;
	case VHOST_USER_LOG:
		add(line, " size 0x%" PRIx64 " offset 0x%" PRIx64, m->log.size, m->log.offset);
		break;
	case VHOST_USER_IOTLB:
		add(line, " type %u address 0x%" PRIx64 " size 0x%" PRIx64 " user 0x%" PRIx64 " access %u",
		    m->iotlb.type, (uint64_t)m->iotlb.iova, (uint64_t)m->iotlb.size, (uint64_t)m->iotlb.uaddr,
		    m->iotlb.perm);
		break;
	case VHOST_USER_CONFIG:
		add(line, " offset %u size %u flags 0x%x", m->config.offset, m->config.size, m->config.flags);
		break;
	case VHOST_USER_INFLIGHT:
		add(line, " size 0x%" PRIx64 " offset 0x%" PRIx64 " %u queues of %u", m->inflight.mmap_size,
		    m->inflight.mmap_offset, m->inflight.n_queues, m->inflight.queue_size);
		break;
	case VHOST_USER_AREA:
		add(line, " 0x%" PRIx64 " size 0x%" PRIx64 " offset 0x%" PRIx64, m->area.index_and_flags,
		    m->area.size, m->area.offset);
		break;
	default:
		break;
	}
}

char *vhost_user_format(enum vhost_user_channel channel, const struct vhost_user_message *m, bool reply,
			char *text, size_t size)
{
	const struct vhost_user_rule *rule = vhost_user_rule(channel, m->request);
	struct line line = {text, size, 0};
	enum vhost_user_payload_kind kind;

	text[0] = 0;
	if (!rule) {
		add(&line, "unknown message %u of %u bytes", m->request, m->size);
		return text;
	}
	kind = !reply ? rule->request : rule->has_reply ? rule->reply : VHOST_USER_U64;
	add(&line, "%s", rule->name);
	if (m->size < vhost_user_payload(kind)->min_size)
		add(&line, " of %u bytes", m->size);
	else
		add_payload(&line, kind, m, reply);
	if (m->n_fds)
		add(&line, ", %u descriptor%s", m->n_fds, m->n_fds > 1 ? "s" : "");
	return text;
}
