/* SPDX-License-Identifier: BSD-2-Clause */
/* Conformance of a back end: memory tables, memory slots, the log of dirty pages. */
#include <linux/vhost_types.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "probe/front.h"
#include "probe/work.h"

enum { EXTRA_BYTES = 1 << 20, LOG_BYTES = 1 << 18, LOG_OFFSET = 4096, PAGE = 4096, MANY = 48 };
#define EXTRA_GPA  (3ull << 32)
#define EXTRA_USER 0x7abc00000000ull

/* A region that comes and goes during a session. */
struct extra {
	uint8_t *base;
	int fd;
	struct vhost_user_region region;
};

static int extra_add(struct probe *p, struct extra *e)
{
	struct mem_slot slot = {.id = 100, .gpa = EXTRA_GPA, .size = EXTRA_BYTES, .fd = -1};

	e->region = (struct vhost_user_region){EXTRA_GPA, EXTRA_BYTES, EXTRA_USER, 0};
	if (ram_alloc("probe-extra", EXTRA_BYTES, NULL, false, &e->base, &e->fd))
		return fail(p, "the probe has no memory");
	slot.hva = e->base;
	return memory_set_slot(&p->guest.memory, &slot) ? fail(p, "the probe cannot add memory") : 0;
}

static void extra_del(struct probe *p, struct extra *e)
{
	struct mem_slot slot = {.id = 100};

	session_close(p);
	memory_set_slot(&p->guest.memory, &slot);
	memory_quiesce(&p->guest.memory);
	ram_free(e->base, EXTRA_BYTES, e->fd);
}

/* The requests of a queue lie in the extra region from now on. */
static void use_extra(struct probe *p, unsigned queue)
{
	for (unsigned k = 0; k < SLOTS; k++)
		if (!p->queue[queue].request[k].busy)
			p->queue[queue].request[k].gpa = EXTRA_GPA + k * SLOT_BYTES;
}

static int set_table(struct probe *p, const struct extra *e, bool backwards)
{
	unsigned n = GUEST_REGIONS + (e ? 1 : 0);
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_MEM_TABLE);
	m.memory.n_regions = m.n_fds = n;
	m.size = 8 + n * sizeof(struct vhost_user_region);
	for (unsigned k = 0; k < n; k++) {
		unsigned at = backwards ? n - 1 - k : k;

		m.memory.region[at] = k < GUEST_REGIONS ? p->guest.region[k] : e->region;
		m.fd[at] = k < GUEST_REGIONS ? p->guest.fd : e->fd;
	}
	return tell(p, &m);
}

/* Another table while the rings stand still; regions in another order. */
static void table_replaced(struct probe *p, unsigned argument)
{
	struct extra e = {0};
	uint32_t base;

	if (!extra_add(p, &e) && !session_connect(p) && !session_negotiate(p) && !session_features(p) &&
	    !set_table(p, &e, true)) {
		for (unsigned k = 0; k < session_queues(p); k++)
			if (session_queue(p, k))
				goto out;
		use_extra(p, work_queue(0, p));
		if (work_round(p, 0, 4, 2, 0))
			goto out;
		for (unsigned k = 0; k < session_queues(p); k++)
			if (session_get_base(p, k, &base))
				goto out;
		session_close(p); /* and from the start, in one connection: table, table */
		if (session_connect(p) || session_negotiate(p) || session_features(p) ||
		    set_table(p, &e, false) || session_memory(p))
			goto out;
		for (unsigned k = 0; k < session_queues(p); k++)
			if (session_queue(p, k))
				goto out;
		work_pair(p, 0);
	}
out:
	extra_del(p, &e);
}

/* Memory that is plugged in while rings run: the table with one region more. */
static void table_live(struct probe *p, unsigned argument)
{
	struct extra e = {0};

	if (!extra_add(p, &e) && !session_open(p) && !work_round(p, 0, 4, 2, 0) && !set_table(p, &e, false) &&
	    !work_round(p, 0, 4, 2, 0)) {
		use_extra(p, work_queue(0, p));
		if (!work_round(p, 0, 4, 2, 0))
			work_pair(p, 0);
	}
	extra_del(p, &e);
}

static int tell_region(struct probe *p, uint32_t request, const struct vhost_user_region *region, int fd)
{
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, request);
	m.single.region = *region;
	m.n_fds = fd >= 0;
	m.fd[0] = fd;
	return tell(p, &m);
}

static int slots_start(struct probe *p, uint64_t *max)
{
	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) || session_connect(p) ||
	    session_negotiate(p) || session_features(p) || ask_u64(p, VHOST_USER_GET_MAX_MEM_SLOTS, max))
		return -1;
	for (unsigned k = 0; k < GUEST_REGIONS; k++)
		if (tell_region(p, VHOST_USER_ADD_MEM_REG, &p->guest.region[k], p->guest.fd))
			return -1;
	return 0;
}

static void slots(struct probe *p, unsigned argument)
{
	struct extra e = {0};
	uint64_t max;

	if (!extra_add(p, &e) && !slots_start(p, &max)) {
		for (unsigned k = 0; k < session_queues(p); k++)
			if (session_queue(p, k))
				goto out;
		if (work_round(p, 0, 4, 2, 0) || tell_region(p, VHOST_USER_ADD_MEM_REG, &e.region, e.fd))
			goto out;
		use_extra(p, work_queue(0, p));
		if (work_round(p, 0, 6, 3, 0))
			goto out;
		for (unsigned k = 0; k < SLOTS; k++) /* back to where they were */
			p->queue[work_queue(0, p)].request[k].gpa =
			    p->guest.region[GUEST_HIGH].guest_address + (1 << 20) + k * SLOT_BYTES;
		if (tell_region(p, VHOST_USER_REM_MEM_REG, &e.region, -1))
			goto out;
		work_pair(p, 0);
	}
out:
	extra_del(p, &e);
}

static void many_slots(struct probe *p, unsigned argument)
{
	struct extra e = {0};
	uint64_t max;
	unsigned n;

	if (!extra_add(p, &e) && !slots_start(p, &max)) {
		n = max < GUEST_REGIONS + MANY ? (unsigned)max - GUEST_REGIONS : MANY;
		for (unsigned round = 0; round < 2; round++) {
			for (unsigned k = 0; k < 2 * n; k++) { /* add all, remove all */
				uint64_t at = (k % n) * PAGE * 2;
				struct vhost_user_region r = {EXTRA_GPA + at, PAGE, EXTRA_USER + at, at};

				if (tell_region(p, k < n ? VHOST_USER_ADD_MEM_REG : VHOST_USER_REM_MEM_REG,
						&r, k < n ? e.fd : -1))
					goto out;
			}
		}
		for (unsigned k = 0; k < session_queues(p); k++)
			if (session_queue(p, k))
				goto out;
		if (!work_pair(p, 0))
			remark(p, "%u regions besides the two in use; it says %llu at most", n,
			       (unsigned long long)max);
	}
out:
	extra_del(p, &e);
}

/* --- the log --- */

static bool is_logged(const uint8_t *log, gpa_t gpa)
{
	uint64_t page = gpa / PAGE;

	return log[page / 8] >> page % 8 & 1;
}

static int log_start(struct probe *p, int fd, uint64_t offset)
{
	struct vhost_user_message m;

	p->want |= 1ull << VHOST_F_LOG_ALL;
	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_LOG_SHMFD;
	if (session_connect(p) || session_negotiate(p) || session_memory(p))
		return -1;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_LOG_BASE);
	m.log = (struct vhost_user_log){LOG_BYTES, offset};
	m.n_fds = 1;
	m.fd[0] = fd;
	if (ask(p, &m) || session_features(p))
		return -1;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (session_queue(p, k))
			return -1;
	return 0;
}

static void check_log(struct probe *p, const uint8_t *log)
{
	unsigned reader = p->options->device == PROBE_NET ? 0 : work_queue(0, p);
	const struct probe_queue *q = &p->queue[reader];

	if (p->answers || p->options->device == PROBE_BLK) {
		bool any = false;

		for (unsigned k = 0; k < SLOTS; k++)
			any |= is_logged(log, q->request[k].gpa);
		if (!any) {
			fail(p, "none of the pages of buffers that it wrote is marked in the log");
			return;
		}
	}
	if (!p->packed && !is_logged(log, p->queue[work_queue(0, p)].config.device))
		fail(p, "the page of the used ring is not marked in the log");
}

static void dirty_log(struct probe *p, unsigned offset)
{
	int fd;
	uint8_t *log;

	if (need_feature(p, VHOST_F_LOG_ALL, "LOG_ALL") || need_protocol(p, VHOST_USER_PROTOCOL_F_LOG_SHMFD))
		return;
	if (ram_alloc("probe-log", LOG_OFFSET + LOG_BYTES, NULL, false, &log, &fd)) {
		fail(p, "the probe has no memory");
		return;
	}
	if (!log_start(p, fd, offset) && !work_pair(p, 0) && !barrier(p)) {
		check_log(p, log + offset);
		for (unsigned k = 0; k < offset; k++)
			if (log[k]) {
				fail(p, "it wrote before the log's offset in the descriptor");
				break;
			}
	}
	/* Logging ends with SET_FEATURES; nothing is marked after it. */
	p->features &= ~(1ull << VHOST_F_LOG_ALL);
	if (p->verdict.outcome == OUTCOME_PASS && !session_features(p) &&
	    !session_addr(p, work_queue(0, p)) && !barrier(p)) {
		memset(log, 0, LOG_OFFSET + LOG_BYTES);
		if (!work_round(p, 0, 4, 2, 0))
			for (unsigned k = 0; k < LOG_OFFSET + LOG_BYTES; k++)
				if (log[k]) {
					warn(p, "it still marks pages after LOG_ALL was cleared");
					break;
				}
	}
	session_close(p);
	ram_free(log, LOG_OFFSET + LOG_BYTES, fd);
}

#define C PROBE_CONFORMANCE
/* clang-format off */
const struct front_test front_memory_tests[] = {
	{ "memory-replaced", "another SET_MEM_TABLE before the rings start; regions in any order", "vhost-user, VHOST_USER_SET_MEM_TABLE", C, ONCE, 0, table_replaced, 0 },
	{ "memory-plugged", "SET_MEM_TABLE with one region more while the rings run; it is used", "vhost-user, Ring states: changes on the fly", C, EACH, 0, table_live, 0 },
	{ "memory-slots", "ADD_MEM_REG and REM_MEM_REG instead of a table, also while the rings run", "vhost-user, VHOST_USER_ADD_MEM_REG", C, EACH, 0, slots, 0 },
	{ "memory-slots-many", "as many regions as the target takes, up to fifty, added and removed twice", "vhost-user, VHOST_USER_GET_MAX_MEM_SLOTS", C, ONCE, 0, many_slots, 0 },
	{ "dirty-log", "pages that the target writes are marked in the log, while LOG_ALL is set", "vhost-user, Migration", C, EACH, 0, dirty_log, 0 },
	{ "dirty-log-offset", "the same with the log in the middle of its descriptor", "vhost-user, Log description", C, ONCE, 0, dirty_log, LOG_OFFSET },
	{ 0 },
};
/* clang-format on */
