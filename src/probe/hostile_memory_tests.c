/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hostile memory: tables and regions that are not what they say, descriptors that cannot be mapped or shrink
 * while they are in use (the processor's answer to that is SIGBUS). Where a table is accepted, rings are set
 * up in it and used, because a lie may show only then.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe/front.h"
#include "probe/work.h"

#define K UINT64_MAX

/* What is behind the second region; the first is good. */
enum backing { GOOD, SHORT, EMPTY, PIPE, EVENT, SOCKET, NULL_DEVICE, FOLDER, READ_ONLY, SEALED };
enum answer { MUST_REFUSE, MAY_ACCEPT };

/* The second region of a table of two, or of ADD_MEM_REG after a good table. A field of K is as it should be.
 */
struct bad_region {
	const char *name, *what;
	enum answer answer;
	enum backing backing;
	uint64_t guest, size, user, offset;
};

/* clang-format off */
static const struct bad_region bad_regions[] = {
	{ "size-0", "a region of no bytes", MAY_ACCEPT, GOOD, K, 0, K, K },
	{ "size-odd", "a region of 4097 bytes", MAY_ACCEPT, GOOD, K, 4097, K, K },
	{ "size-huge", "a region of 2^47 bytes", MUST_REFUSE, GOOD, K, 1ull << 47, K, K },
	{ "size-max", "a region of 2^64 - 4096 bytes", MUST_REFUSE, GOOD, K, -4096ull, K, K },
	{ "guest-wraps", "a region over the end of the guest's address space", MUST_REFUSE, GOOD, -4096ull, K, K, K },
	{ "user-wraps", "a region over the end of the front end's address space", MUST_REFUSE, GOOD, K, K, -4096ull, K },
	{ "guest-overlaps", "two regions at the same guest address", MAY_ACCEPT, GOOD, 4096, K, K, K },
	{ "user-overlaps", "two regions at the same user address", MAY_ACCEPT, GOOD, K, K, 0x7e0000001000ull, K },
	{ "offset-odd", "an offset of 17", MAY_ACCEPT, GOOD, K, K, K, 17 },
	{ "offset-beyond", "an offset behind the end of the file", MAY_ACCEPT, GOOD, K, K, K, 1ull << 30 },
	{ "offset-wraps", "an offset and a size that overflow", MUST_REFUSE, GOOD, K, K, K, -4096ull },
	{ "file-short", "a file that ends in the middle of the region", MAY_ACCEPT, SHORT, K, K, K, 0 },
	{ "file-empty", "a file of no bytes", MAY_ACCEPT, EMPTY, K, K, K, 0 },
	{ "fd-pipe", "a pipe instead of memory", MUST_REFUSE, PIPE, K, K, K, 0 },
	{ "fd-eventfd", "an eventfd instead of memory", MUST_REFUSE, EVENT, K, K, K, 0 },
	{ "fd-socket", "a socket instead of memory", MUST_REFUSE, SOCKET, K, K, K, 0 },
	{ "fd-dev-null", "/dev/null instead of memory", MUST_REFUSE, NULL_DEVICE, K, K, K, 0 },
	{ "fd-folder", "a directory instead of memory", MUST_REFUSE, FOLDER, K, K, K, 0 },
	{ "fd-read-only", "memory opened for reading only", MAY_ACCEPT, READ_ONLY, K, K, K, 0 },
	{ "fd-sealed", "memory sealed against writing", MAY_ACCEPT, SEALED, K, K, K, 0 },
};
/* clang-format on */
enum { N_REGIONS = sizeof(bad_regions) / sizeof(bad_regions[0]) };

static int open_backing(const struct probe *p, enum backing backing)
{
	char path[64];
	int fd, pair[2];

	switch (backing) {
	case GOOD:
		return fcntl(p->guest.fd, F_DUPFD_CLOEXEC, 0);
	case SHORT:
	case EMPTY:
	case SEALED:
		fd = memfd_create("probe-lie", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (ftruncate(fd, backing == SHORT    ? GUEST_REGION_BYTES / 2
				  : backing == SEALED ? GUEST_REGION_BYTES
						      : 0) ||
		    (backing == SEALED && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK)))
			return -1;
		return fd;
	case PIPE:
		if (pipe2(pair, O_CLOEXEC))
			return -1;
		close(pair[1]);
		return pair[0];
	case EVENT:
		return eventfd(0, EFD_CLOEXEC);
	case SOCKET:
		return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	case NULL_DEVICE:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case FOLDER:
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	default:
		snprintf(path, sizeof(path), "/proc/self/fd/%d", p->guest.fd);
		return open(path, O_RDONLY | O_CLOEXEC);
	}
}

static struct vhost_user_region region_of(const struct probe *p, const struct bad_region *bad)
{
	struct vhost_user_region r = p->guest.region[GUEST_HIGH];

	r.guest_address = bad->guest == K ? r.guest_address : bad->guest;
	r.size = bad->size == K ? r.size : bad->size;
	r.user_address = bad->user == K ? r.user_address : bad->user;
	r.mmap_offset = bad->offset == K ? r.mmap_offset : bad->offset;
	return r;
}

/* Rings in the first region, which is good, buffers in the second: whatever the target believed of it, it
 * finds out now. */
static void use(struct probe *p)
{
	struct verdict verdict = p->verdict;
	unsigned queue = work_queue(0, p);

	for (unsigned k = 0; k < session_queues(p) && p->link.fd >= 0; k++)
		if (session_queue(p, k))
			break;
	if (p->link.fd >= 0 && p->queue[queue].ready) {
		for (unsigned k = 0; k < 8; k++)
			work_submit(p, queue, p->options->device == PROBE_NET ? REQUEST_TX : REQUEST_READ, 0);
		if (p->options->device == PROBE_NET && p->queue[0].ready)
			work_submit(p, 0, REQUEST_RX, 0);
		for (unsigned k = 0; k < session_queues(p); k++)
			if (p->queue[k].ready)
				work_kick(p, k);
		poll(NULL, 0, 20);
	}
	p->verdict = verdict; /* served or not: both are right */
}

/* What came back for a table; then it is used, if the connection is still there. */
static void judge(struct probe *p, int64_t ack, enum answer answer)
{
	if (!ack && answer == MUST_REFUSE)
		fail(p, "it acknowledges as done what cannot be done");
	else
		remark(p, ack == -1   ? "it closes the connection"
			  : ack == -2 ? "nothing is known of it: REPLY_ACK is not offered"
			  : ack	      ? "it refuses"
				      : "it accepts");
	if (ack <= 0 && p->link.fd >= 0)
		use(p);
}

static int begin(struct probe *p)
{
	return session_connect(p) || session_negotiate(p) || session_features(p) ? -1 : 0;
}

static void bad_table(struct probe *p, unsigned index)
{
	const struct bad_region *bad = &bad_regions[index];
	struct vhost_user_message m;
	int64_t ack;

	if (begin(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_MEM_TABLE);
	m.memory.n_regions = m.n_fds = 2;
	m.size = 8 + 2 * sizeof(struct vhost_user_region);
	m.memory.region[0] = p->guest.region[GUEST_LOW];
	m.memory.region[1] = region_of(p, bad);
	m.fd[0] = p->guest.fd;
	m.fd[1] = open_backing(p, bad->backing);
	if (m.fd[1] < 0) {
		not_applicable(p, "the probe cannot make such a descriptor");
		return;
	}
	int fd = m.fd[1];

	if (!tell_for_answer(p, &m, &ack))
		judge(p, ack, bad->answer);
	close(fd);
}

static void bad_slot(struct probe *p, unsigned index)
{
	const struct bad_region *bad = &bad_regions[index];
	struct vhost_user_message m;
	int64_t ack;
	int fd;

	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) || begin(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_ADD_MEM_REG);
	m.single.region = p->guest.region[GUEST_LOW];
	m.n_fds = 1;
	m.fd[0] = p->guest.fd;
	if (tell(p, &m))
		return;
	fd = open_backing(p, bad->backing);
	if (fd < 0) {
		not_applicable(p, "the probe cannot make such a descriptor");
		return;
	}
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_ADD_MEM_REG);
	m.single.region = region_of(p, bad);
	m.n_fds = 1;
	m.fd[0] = fd;
	if (!tell_for_answer(p, &m, &ack))
		judge(p, ack, bad->answer);
	close(fd);
}

/* --- counts --- */

static const struct bad_count {
	const char *name, *what;
	enum answer answer;
	uint32_t regions; /* as the message says */
	unsigned there, fds;
} bad_counts[] = {
    {"regions-0", "a table of no regions", MAY_ACCEPT, 0, 0, 0},
    {"regions-9", "a table of nine regions, one more than there may be", MAY_ACCEPT, 9, 9, 9},
    {"regions-missing", "a table of 8 regions with two in it", MUST_REFUSE, 8, 2, 2},
    {"regions-huge", "a table of 0xffffffff regions", MUST_REFUSE, 0xffffffff, 2, 2},
    {"regions-wrap", "a number of regions whose size overflows", MUST_REFUSE, 0x08000001, 2, 2},
    {"descriptors-few", "two regions with one descriptor", MUST_REFUSE, 2, 2, 1},
    {"descriptors-none", "two regions without a descriptor", MUST_REFUSE, 2, 2, 0},
    {"descriptors-many", "two regions with four descriptors", MUST_REFUSE, 2, 2, 4},
    {"descriptors-sixteen", "two regions with sixteen descriptors", MUST_REFUSE, 2, 2, 16},
};
enum { N_COUNTS = sizeof(bad_counts) / sizeof(bad_counts[0]) };

static void bad_count(struct probe *p, unsigned index)
{
	const struct bad_count *bad = &bad_counts[index];
	struct vhost_user_message m;
	int fds[LINK_FDS_MAX], err;
	int64_t ack = -2;

	if (begin(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_MEM_TABLE);
	m.memory.n_regions = bad->regions;
	m.size = 8 + bad->there * (uint32_t)sizeof(struct vhost_user_region);
	for (unsigned k = 0; k < bad->there; k++) {
		struct vhost_user_region r = p->guest.region[k % 2];

		r.guest_address += k / 2 * (1ull << 36);
		r.user_address += k / 2 * (1ull << 36);
		memcpy(m.bytes + 8 + k * sizeof(r), &r,
		       sizeof(r)); /* the ninth is past the end of the structure's array */
	}
	for (unsigned k = 0; k < bad->fds; k++)
		fds[k] = p->guest.fd;
	m.flags |= p->acks ? VHOST_USER_NEED_REPLY : 0;
	err = link_send_raw(&p->link, &m, m.size, fds, bad->fds);
	if (!err && p->acks) {
		err = link_receive(&p->link, &m, p->options->timeout_ms);
		ack = m.u64 ? 1 : 0;
	}
	if (err == -ETIMEDOUT)
		warn(p, "no answer came, neither a refusal nor the end of the connection");
	else
		judge(p, err ? -1 : ack, bad->answer);
}

/* --- while it is used --- */

/* The file shrinks under a running ring: from its end, or to nothing. */
static void shrunk(struct probe *p, unsigned left)
{
	uint8_t *kept = malloc(GUEST_BYTES);
	unsigned queue = work_queue(0, p);

	if (!kept || session_open(p) || work_pair(p, 0)) {
		free(kept);
		return;
	}
	memcpy(kept, p->guest.base, GUEST_BYTES);
	for (unsigned k = 0; k < 4; k++)
		work_submit(p, queue, p->options->device == PROBE_NET ? REQUEST_TX : REQUEST_READ, 0);
	if (ftruncate(p->guest.fd, (off_t)left * GUEST_REGION_BYTES))
		fail(p, "the probe cannot shrink its memory");
	eventfd_write(p->queue[queue].kick_fd, 1);
	poll(NULL, 0, 50);
	eventfd_write(p->queue[queue].kick_fd, 1);
	poll(NULL, 0, 50);
	if (ftruncate(p->guest.fd, GUEST_BYTES))
		fail(p, "the probe cannot restore its memory");
	memcpy(p->guest.base, kept, GUEST_BYTES);
	free(kept);
	remark(p, link_is_closed(&p->link, 50) ? "it closes the connection" : "it goes on");
	session_close(p);
}

static void no_memory(struct probe *p, unsigned argument)
{
	if (!begin(p))
		use(p);
	p->verdict = (struct verdict){0};
}

/* Memory is taken away from under a ring that runs. */
static void memory_replaced_by_none(struct probe *p, unsigned argument)
{
	struct vhost_user_message m;
	int64_t ack;

	if (session_open(p) || work_pair(p, 0))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_MEM_TABLE);
	m.memory.n_regions = m.n_fds = 1; /* buffers only: the rings are nowhere now */
	m.size = 8 + sizeof(struct vhost_user_region);
	m.memory.region[0] = p->guest.region[GUEST_HIGH];
	m.fd[0] = p->guest.fd;
	if (tell_for_answer(p, &m, &ack))
		return;
	remark(p, ack == -1 ? "it closes the connection"
		  : ack > 0 ? "it refuses"
			    : "it accepts, and the ring stands still");
	for (unsigned k = 0; k < session_queues(p); k++)
		eventfd_write(p->queue[k].kick_fd, 1);
	poll(NULL, 0, 20);
}

static void slot_removed(struct probe *p, unsigned region)
{
	struct vhost_user_message m;
	int64_t ack;

	p->want_protocol |= 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
	if (need_protocol(p, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) || session_open(p) || work_pair(p, 0))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_REM_MEM_REG);
	m.single.region = p->guest.region[region % 2];
	if (region >= 2) /* one that was never there */
		m.single.region.guest_address += 1ull << 40;
	if (tell_for_answer(p, &m, &ack))
		return;
	if (region >= 2 && !ack)
		fail(p, "it acknowledges as done what cannot be done");
	else
		remark(p, ack == -1 ? "it closes the connection" : ack > 0 ? "it refuses" : "it accepts");
	for (unsigned k = 0; k < session_queues(p); k++)
		eventfd_write(p->queue[k].kick_fd, 1);
	poll(NULL, 0, 20);
}

#define H    PROBE_HOSTILE
#define RULE "vhost-user, Memory regions description; the front end is not to be trusted"

static const struct front_test other_tests[] = {
    {"no-memory", "rings are set up without any memory", RULE, H, ONCE, 0, no_memory, 0},
    {"rings-unmapped", "a new table without the memory of the rings, while they run", RULE, H, ONCE, 0,
     memory_replaced_by_none, 0},
    {"buffers-truncated", "the file shrinks under the buffers of a running ring", RULE, H, EACH, 0, shrunk,
     1},
    {"rings-truncated", "the file shrinks to nothing while the rings run", RULE, H, EACH, 0, shrunk, 0},
    {"slot-of-rings-removed", "REM_MEM_REG of the memory of running rings", RULE, H, ONCE, 0, slot_removed,
     0},
    {"slot-of-buffers-removed", "REM_MEM_REG of the memory of buffers in use", RULE, H, ONCE, 0, slot_removed,
     1},
    {"slot-unknown-removed", "REM_MEM_REG of a region that is not there", RULE, H, ONCE, 0, slot_removed, 2},
};
enum { N_OTHER = sizeof(other_tests) / sizeof(other_tests[0]) };

static const char *const slot_names[N_REGIONS] = {
    "slot-size-0",	"slot-size-odd",      "slot-size-huge",	     "slot-size-max",
    "slot-guest-wraps", "slot-user-wraps",    "slot-guest-overlaps", "slot-user-overlaps",
    "slot-offset-odd",	"slot-offset-beyond", "slot-offset-wraps",   "slot-file-short",
    "slot-file-empty",	"slot-fd-pipe",	      "slot-fd-eventfd",     "slot-fd-socket",
    "slot-fd-dev-null", "slot-fd-folder",     "slot-fd-read-only",   "slot-fd-sealed",
};

bool front_hostile_memory_test(unsigned k, struct front_test *test)
{
	if (k < N_COUNTS) {
		*test = (struct front_test){
		    bad_counts[k].name, bad_counts[k].what, RULE, H, ONCE, 0, bad_count, k};
		return true;
	}
	k -= N_COUNTS;
	if (k < N_REGIONS) {
		*test = (struct front_test){
		    bad_regions[k].name, bad_regions[k].what, RULE, H, ONCE, 0, bad_table, k};
		return true;
	}
	k -= N_REGIONS;
	if (k < N_REGIONS) {
		*test =
		    (struct front_test){slot_names[k], bad_regions[k].what, RULE, H, ONCE, 0, bad_slot, k};
		return true;
	}
	k -= N_REGIONS;
	if (k >= N_OTHER)
		return false;
	*test = other_tests[k];
	return true;
}
