/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hostile messages: every field of every message out of its range, wrong sizes, versions and descriptors,
 * halves of messages. The target may refuse (an acknowledgement that is not 0), close the connection, or take
 * no notice; it must live, which the runner proves after each test by a whole new session. To acknowledge as
 * done what cannot be done is a fault, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe/front.h"
#include "probe/work.h"

/* Which descriptors go with a message. */
enum descriptors { AS_USUAL, NO_FD, TWO_FDS, SIXTEEN_FDS, A_FILE, A_FOLDER, DEV_NULL, A_PIPE, A_SOCKET };

/* When it is sent. */
enum stage { CONNECTED, PREPARED, RUNNING };

/* What may come back. */
enum answer { MUST_REFUSE, MAY_ACCEPT };

struct bad_message {
	const char *name, *what;
	uint32_t request;
	enum stage stage;
	enum answer answer;
	enum descriptors descriptors;
	int needs; /* protocol feature, or -1 */
	int size;  /* of header field and payload, or -1: the row's own */
	uint64_t a, b, c;
	/* Fill in the payload; NULL: a is the u64, or a and b index and num */
	void (*fill)(struct probe *p, struct vhost_user_message *m, const struct bad_message *b);
};

/* --- payloads --- */

static void fill_addr(struct probe *p, struct vhost_user_message *m, const struct bad_message *bad)
{
	const struct virtq_config *c = &p->queue[0].config;

	m->addr = (struct vhost_vring_addr){
	    .index = 0,
	    .desc_user_addr = bad->a ? bad->a : guest_user_address(&p->guest, c->desc),
	    .avail_user_addr = bad->b ? bad->b : guest_user_address(&p->guest, c->driver),
	    .used_user_addr = bad->c ? bad->c : guest_user_address(&p->guest, c->device),
	};
}

static void fill_addr_index(struct probe *p, struct vhost_user_message *m, const struct bad_message *bad)
{
	static const struct bad_message good;

	fill_addr(p, m, &good);
	m->addr.index = (uint32_t)bad->a;
}

static void fill_flags(struct probe *p, struct vhost_user_message *m, const struct bad_message *bad)
{
	m->flags = (uint32_t)bad->a;
}

static void fill_log(struct probe *p, struct vhost_user_message *m, const struct bad_message *bad)
{
	m->log = (struct vhost_user_log){bad->a, bad->b};
}

static void fill_config(struct probe *p, struct vhost_user_message *m, const struct bad_message *bad)
{
	m->config.offset = (uint32_t)bad->a;
	m->config.size = (uint32_t)bad->b;
	m->config.flags = (uint32_t)bad->c;
}

static void fill_inflight(struct probe *p, struct vhost_user_message *m, const struct bad_message *bad)
{
	m->inflight = (struct vhost_user_inflight){.mmap_size = bad->a,
						   .mmap_offset = bad->b,
						   .n_queues = (uint16_t)bad->c,
						   .queue_size = (uint16_t)(bad->c >> 16)};
}

static void fill_iotlb(struct probe *p, struct vhost_user_message *m, const struct bad_message *bad)
{
	m->iotlb = (struct vhost_iotlb_msg){
	    .iova = bad->a, .size = bad->b, .uaddr = bad->a, .perm = 3, .type = (uint8_t)bad->c};
}

#define STATE(id)  VHOST_USER_SET_VRING_##id
#define P(bit)	   VHOST_USER_PROTOCOL_F_##bit
#define BIG	   0xffffffffu
#define HUGE_VALUE 0xffffffffffffffffull
#define NOWHERE	   0x123400000000ull

/* clang-format off */
static const struct bad_message bad_messages[] = {
	/* name                      what                                        request               stage      answer       descriptors needs size  a, b, c, fill */
	{ "version-0",               "header version 0",                          VHOST_USER_SET_OWNER, CONNECTED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 0, 0, fill_flags },
	{ "version-3",               "header version 3",                          VHOST_USER_SET_OWNER, CONNECTED, MAY_ACCEPT, AS_USUAL, -1, -1, 3, 0, 0, fill_flags },
	{ "reply-as-request",        "the reply flag on a request",               VHOST_USER_SET_OWNER, CONNECTED, MAY_ACCEPT, AS_USUAL, -1, -1, 5, 0, 0, fill_flags },
	{ "request-0",               "message number 0",                          0,                    CONNECTED, MUST_REFUSE, AS_USUAL, -1, 0, 0, 0, 0, NULL },
	{ "request-huge",            "message number 0xffffffff",                 BIG,                  CONNECTED, MUST_REFUSE, AS_USUAL, -1, 0, 0, 0, 0, NULL },
	{ "owner-with-payload",      "SET_OWNER with 8 bytes",                    VHOST_USER_SET_OWNER, CONNECTED, MAY_ACCEPT, AS_USUAL, -1, 8, 0, 0, 0, NULL },
	{ "owner-with-fds",          "SET_OWNER with 2 descriptors",              VHOST_USER_SET_OWNER, CONNECTED, MAY_ACCEPT, TWO_FDS, -1, -1, 0, 0, 0, NULL },
	{ "features-short",          "SET_FEATURES of 4 bytes",                   VHOST_USER_SET_FEATURES, CONNECTED, MUST_REFUSE, AS_USUAL, -1, 4, 0, 0, 0, NULL },
	{ "features-long",           "SET_FEATURES of 16 bytes",                  VHOST_USER_SET_FEATURES, CONNECTED, MUST_REFUSE, AS_USUAL, -1, 16, 0, 0, 0, NULL },
	{ "features-all",            "SET_FEATURES of bits that were not offered", VHOST_USER_SET_FEATURES, CONNECTED, MAY_ACCEPT, AS_USUAL, -1, -1, HUGE_VALUE, 0, 0, NULL },
	{ "features-running",        "SET_FEATURES with another ring format while the ring runs", VHOST_USER_SET_FEATURES, RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0x540000000ull, 0, 0, NULL },
	{ "protocol-features-all",   "SET_PROTOCOL_FEATURES of all bits",         VHOST_USER_SET_PROTOCOL_FEATURES, CONNECTED, MAY_ACCEPT, AS_USUAL, -1, -1, HUGE_VALUE, 0, 0, NULL },
	{ "num-index-255",           "SET_VRING_NUM of ring 255",                 STATE(NUM), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 255, 64, 0, NULL },
	{ "num-index-256",           "SET_VRING_NUM of ring 256",                 STATE(NUM), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, 256, 64, 0, NULL },
	{ "num-index-huge",          "SET_VRING_NUM of ring 0xffffffff",          STATE(NUM), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, BIG, 64, 0, NULL },
	{ "num-zero",                "SET_VRING_NUM of 0",                        STATE(NUM), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, 0, 0, 0, NULL },
	{ "num-odd",                 "SET_VRING_NUM of 3 for a split ring",       STATE(NUM), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 3, 0, NULL },
	{ "num-65536",               "SET_VRING_NUM of 65536",                    STATE(NUM), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, 0, 65536, 0, NULL },
	{ "num-huge",                "SET_VRING_NUM of 0xffffffff",               STATE(NUM), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, 0, BIG, 0, NULL },
	{ "num-running",             "SET_VRING_NUM while the ring runs",         STATE(NUM), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 32768, 0, NULL },
	{ "num-short",               "SET_VRING_NUM of 4 bytes",                  STATE(NUM), PREPARED, MUST_REFUSE, AS_USUAL, -1, 4, 0, 0, 0, NULL },
	{ "base-index-huge",         "SET_VRING_BASE of ring 0xffffffff",         STATE(BASE), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, BIG, 0, 0, NULL },
	{ "base-huge",               "SET_VRING_BASE of 0xffffffff",              STATE(BASE), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, BIG, 0, NULL },
	{ "base-running",            "SET_VRING_BASE while the ring runs",        STATE(BASE), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 0x7777, 0, NULL },
	{ "get-base-index-huge",     "GET_VRING_BASE of ring 0xffffffff",         VHOST_USER_GET_VRING_BASE, PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, BIG, 0, 0, NULL },
	{ "get-base-short",          "GET_VRING_BASE of 0 bytes",                 VHOST_USER_GET_VRING_BASE, PREPARED, MAY_ACCEPT, AS_USUAL, -1, 0, 0, 0, 0, NULL },
	{ "addr-index-huge",         "SET_VRING_ADDR of ring 0xffffffff",         STATE(ADDR), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, BIG, 0, 0, fill_addr_index },
	{ "addr-desc-nowhere",       "descriptors outside memory",                STATE(ADDR), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, NOWHERE, 0, 0, fill_addr },
	{ "addr-avail-nowhere",      "avail ring outside memory",                 STATE(ADDR), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0, NOWHERE, 0, fill_addr },
	{ "addr-used-nowhere",       "used ring outside memory",                  STATE(ADDR), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 0, NOWHERE, fill_addr },
	{ "addr-at-the-end",         "a ring that begins in the last bytes of a region", STATE(ADDR), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0x7e00001ffff0ull, 0x7e00001ffff0ull, 0x7e00001ffff0ull, fill_addr },
	{ "addr-odd",                "rings at odd addresses",                    STATE(ADDR), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0x7e0000001001ull, 0x7e0000002001ull, 0x7e0000003003ull, fill_addr },
	{ "addr-all-ones",           "rings at the end of the address space",     STATE(ADDR), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, HUGE_VALUE - 15, HUGE_VALUE - 15, HUGE_VALUE - 15, fill_addr },
	{ "addr-short",              "SET_VRING_ADDR of 8 bytes",                 STATE(ADDR), PREPARED, MUST_REFUSE, AS_USUAL, -1, 8, 0, 0, 0, fill_addr_index },
	{ "kick-index-255",          "SET_VRING_KICK of ring 255",                STATE(KICK), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 255, 0, 0, NULL },
	{ "kick-early",              "SET_VRING_KICK of a ring without size and addresses", STATE(KICK), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 0, 0, NULL },
	{ "kick-no-descriptor",      "SET_VRING_KICK without descriptor and without bit 8", STATE(KICK), PREPARED, MUST_REFUSE, NO_FD, -1, -1, 0, 0, 0, NULL },
	{ "kick-descriptor-and-bit-8", "SET_VRING_KICK with a descriptor and bit 8", STATE(KICK), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 256, 0, 0, NULL },
	{ "kick-two-descriptors",    "SET_VRING_KICK with two descriptors",       STATE(KICK), PREPARED, MUST_REFUSE, TWO_FDS, -1, -1, 0, 0, 0, NULL },
	{ "kick-sixteen-descriptors", "SET_VRING_KICK with sixteen descriptors",  STATE(KICK), PREPARED, MUST_REFUSE, SIXTEEN_FDS, -1, -1, 0, 0, 0, NULL },
	{ "kick-file",               "a file as kick descriptor",                 STATE(KICK), RUNNING, MAY_ACCEPT, A_FILE, -1, -1, 0, 0, 0, NULL },
	{ "kick-folder",             "a directory as kick descriptor",            STATE(KICK), RUNNING, MAY_ACCEPT, A_FOLDER, -1, -1, 0, 0, 0, NULL },
	{ "kick-dev-null",           "/dev/null as kick descriptor",              STATE(KICK), RUNNING, MAY_ACCEPT, DEV_NULL, -1, -1, 0, 0, 0, NULL },
	{ "kick-pipe",               "a closed pipe as kick descriptor",          STATE(KICK), RUNNING, MAY_ACCEPT, A_PIPE, -1, -1, 0, 0, 0, NULL },
	{ "kick-socket",             "a socket as kick descriptor, closed at the other end", STATE(KICK), RUNNING, MAY_ACCEPT, A_SOCKET, -1, -1, 0, 0, 0, NULL },
	{ "call-index-255",          "SET_VRING_CALL of ring 255",                STATE(CALL), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 255, 0, 0, NULL },
	{ "call-no-descriptor",      "SET_VRING_CALL without descriptor and without bit 8", STATE(CALL), PREPARED, MUST_REFUSE, NO_FD, -1, -1, 0, 0, 0, NULL },
	{ "call-file",               "a file as call descriptor",                 STATE(CALL), RUNNING, MAY_ACCEPT, A_FILE, -1, -1, 0, 0, 0, NULL },
	{ "call-pipe",               "a pipe without a reader as call descriptor", STATE(CALL), RUNNING, MAY_ACCEPT, A_PIPE, -1, -1, 0, 0, 0, NULL },
	{ "call-socket",             "a socket as call descriptor, closed at the other end", STATE(CALL), RUNNING, MAY_ACCEPT, A_SOCKET, -1, -1, 0, 0, 0, NULL },
	{ "err-index-255",           "SET_VRING_ERR of ring 255",                 STATE(ERR), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 255, 0, 0, NULL },
	{ "err-no-descriptor",       "SET_VRING_ERR without descriptor and without bit 8", STATE(ERR), PREPARED, MUST_REFUSE, NO_FD, -1, -1, 0, 0, 0, NULL },
	{ "enable-index-huge",       "SET_VRING_ENABLE of ring 0xffffffff",       STATE(ENABLE), PREPARED, MUST_REFUSE, AS_USUAL, -1, -1, BIG, 1, 0, NULL },
	{ "enable-2",                "SET_VRING_ENABLE to 2",                     STATE(ENABLE), RUNNING, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 2, 0, NULL },
	{ "enable-early",            "SET_VRING_ENABLE of a ring without size and addresses", STATE(ENABLE), PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 1, 0, NULL },
	{ "log-size-0",              "SET_LOG_BASE of no bytes",                  VHOST_USER_SET_LOG_BASE, PREPARED, MAY_ACCEPT, AS_USUAL, P(LOG_SHMFD), -1, 0, 0, 0, fill_log },
	{ "log-size-huge",           "SET_LOG_BASE of 2^64 - 1 bytes",            VHOST_USER_SET_LOG_BASE, PREPARED, MAY_ACCEPT, AS_USUAL, P(LOG_SHMFD), -1, HUGE_VALUE, 0, 0, fill_log },
	{ "log-offset-huge",         "SET_LOG_BASE beyond its descriptor's end",  VHOST_USER_SET_LOG_BASE, PREPARED, MAY_ACCEPT, AS_USUAL, P(LOG_SHMFD), -1, 4096, HUGE_VALUE - 4095, 0, fill_log },
	{ "log-no-descriptor",       "SET_LOG_BASE without descriptor",           VHOST_USER_SET_LOG_BASE, PREPARED, MAY_ACCEPT, NO_FD, P(LOG_SHMFD), -1, 4096, 0, 0, fill_log },
	{ "log-dev-null",            "SET_LOG_BASE of /dev/null",                 VHOST_USER_SET_LOG_BASE, PREPARED, MAY_ACCEPT, DEV_NULL, P(LOG_SHMFD), -1, 4096, 0, 0, fill_log },
	{ "get-config-beyond",       "GET_CONFIG beyond the configuration space", VHOST_USER_GET_CONFIG, PREPARED, MAY_ACCEPT, AS_USUAL, P(CONFIG), 12 + 16, 4000, 16, 0, fill_config },
	{ "get-config-wraps",        "GET_CONFIG whose offset and size overflow", VHOST_USER_GET_CONFIG, PREPARED, MAY_ACCEPT, AS_USUAL, P(CONFIG), 12 + 16, BIG, 16, 0, fill_config },
	{ "get-config-size-lies",    "GET_CONFIG whose size is not its payload's", VHOST_USER_GET_CONFIG, PREPARED, MAY_ACCEPT, AS_USUAL, P(CONFIG), 12 + 8, 0, 100000, 0, fill_config },
	{ "get-config-size-0",       "GET_CONFIG of no bytes",                    VHOST_USER_GET_CONFIG, PREPARED, MAY_ACCEPT, AS_USUAL, P(CONFIG), 12, 0, 0, 0, fill_config },
	{ "get-config-short",        "GET_CONFIG of 4 bytes in all",              VHOST_USER_GET_CONFIG, PREPARED, MAY_ACCEPT, AS_USUAL, P(CONFIG), 4, 0, 0, 0, fill_config },
	{ "set-config-beyond",       "SET_CONFIG beyond the configuration space", VHOST_USER_SET_CONFIG, PREPARED, MUST_REFUSE, AS_USUAL, P(CONFIG), 12 + 16, 4000, 16, 0, fill_config },
	{ "set-config-wraps",        "SET_CONFIG whose offset and size overflow", VHOST_USER_SET_CONFIG, PREPARED, MUST_REFUSE, AS_USUAL, P(CONFIG), 12 + 16, BIG - 7, 16, 0, fill_config },
	{ "set-config-size-lies",    "SET_CONFIG whose size is not its payload's", VHOST_USER_SET_CONFIG, PREPARED, MUST_REFUSE, AS_USUAL, P(CONFIG), 12 + 8, 0, 100000, 0, fill_config },
	{ "get-inflight-queues-0",   "GET_INFLIGHT_FD for no queue",              VHOST_USER_GET_INFLIGHT_FD, PREPARED, MAY_ACCEPT, AS_USUAL, P(INFLIGHT_SHMFD), -1, 0, 0, 64 << 16, fill_inflight },
	{ "get-inflight-size-0",     "GET_INFLIGHT_FD for queues of 0",           VHOST_USER_GET_INFLIGHT_FD, PREPARED, MAY_ACCEPT, AS_USUAL, P(INFLIGHT_SHMFD), -1, 0, 0, 1, fill_inflight },
	{ "get-inflight-huge",       "GET_INFLIGHT_FD for 65535 queues of 65535", VHOST_USER_GET_INFLIGHT_FD, PREPARED, MAY_ACCEPT, AS_USUAL, P(INFLIGHT_SHMFD), -1, 0, 0, BIG, fill_inflight },
	{ "set-inflight-huge",       "SET_INFLIGHT_FD of more than its descriptor has", VHOST_USER_SET_INFLIGHT_FD, PREPARED, MUST_REFUSE, AS_USUAL, P(INFLIGHT_SHMFD), -1, 1ull << 40, 0, 1 | 64 << 16, fill_inflight },
	{ "set-inflight-small",      "SET_INFLIGHT_FD too small for its queues",  VHOST_USER_SET_INFLIGHT_FD, PREPARED, MUST_REFUSE, AS_USUAL, P(INFLIGHT_SHMFD), -1, 16, 0, 1 | 1024 << 16, fill_inflight },
	{ "set-inflight-offset",     "SET_INFLIGHT_FD whose offset and size overflow", VHOST_USER_SET_INFLIGHT_FD, PREPARED, MUST_REFUSE, AS_USUAL, P(INFLIGHT_SHMFD), -1, 8192, HUGE_VALUE - 4095, 1 | 64 << 16, fill_inflight },
	{ "set-inflight-no-descriptor", "SET_INFLIGHT_FD without descriptor",     VHOST_USER_SET_INFLIGHT_FD, PREPARED, MUST_REFUSE, NO_FD, P(INFLIGHT_SHMFD), -1, 4096, 0, 1 | 64 << 16, fill_inflight },
	{ "channel-file",            "SET_BACKEND_REQ_FD with a file",            VHOST_USER_SET_BACKEND_REQ_FD, PREPARED, MAY_ACCEPT, A_FILE, P(BACKEND_REQ), -1, 0, 0, 0, NULL },
	{ "channel-no-descriptor",   "SET_BACKEND_REQ_FD without descriptor",     VHOST_USER_SET_BACKEND_REQ_FD, PREPARED, MUST_REFUSE, NO_FD, P(BACKEND_REQ), -1, 0, 0, 0, NULL },
	{ "status-huge",             "SET_STATUS of 2^64 - 1",                    VHOST_USER_SET_STATUS, PREPARED, MAY_ACCEPT, AS_USUAL, P(STATUS), -1, HUGE_VALUE, 0, 0, NULL },
	{ "status-0-running",        "SET_STATUS of 0, a reset, while the ring runs", VHOST_USER_SET_STATUS, RUNNING, MAY_ACCEPT, AS_USUAL, P(STATUS), -1, 0, 0, 0, NULL },
	{ "iotlb-unasked",           "IOTLB_MSG though ACCESS_PLATFORM is not negotiated", VHOST_USER_IOTLB_MSG, PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0x1000, HUGE_VALUE, 2, fill_iotlb },
	{ "postcopy-end-unasked",    "POSTCOPY_END out of nowhere",               VHOST_USER_POSTCOPY_END, PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 0, 0, NULL },
	{ "postcopy-listen-unasked", "POSTCOPY_LISTEN out of nowhere",            VHOST_USER_POSTCOPY_LISTEN, PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 0, 0, NULL },
	{ "crypto-close-unasked",    "CLOSE_CRYPTO_SESSION to a device without",  VHOST_USER_CLOSE_CRYPTO_SESSION, PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, HUGE_VALUE, 0, 0, NULL },
	{ "state-check-unasked",     "CHECK_DEVICE_STATE without a transfer",     VHOST_USER_CHECK_DEVICE_STATE, PREPARED, MAY_ACCEPT, AS_USUAL, -1, -1, 0, 0, 0, NULL },
};
/* clang-format on */
enum { N_BAD = sizeof(bad_messages) / sizeof(bad_messages[0]) };

/* --- sending one --- */

struct fds {
	int fd[LINK_FDS_MAX];
	unsigned n;
};

static void open_fds(const struct probe *p, const struct bad_message *bad, unsigned usual, struct fds *f)
{
	int pair[2] = {-1, -1};

	*f = (struct fds){.n = 1};
	switch (bad->descriptors) {
	case AS_USUAL:
		f->n = usual;
		/* fall through */
	case TWO_FDS:
	case SIXTEEN_FDS:
		f->n = bad->descriptors == TWO_FDS ? 2 : bad->descriptors == SIXTEEN_FDS ? 16 : f->n;
		for (unsigned k = 0; k < f->n; k++)
			f->fd[k] = bad->request == VHOST_USER_SET_LOG_BASE ||
					   bad->request == VHOST_USER_SET_INFLIGHT_FD
				       ? fcntl(p->guest.fd, F_DUPFD_CLOEXEC, 0)
				       : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		break;
	case A_FILE:
		f->fd[0] = memfd_create("probe-file", MFD_CLOEXEC);
		break;
	case A_FOLDER:
		f->fd[0] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		break;
	case DEV_NULL:
		f->fd[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
		break;
	case A_PIPE:
		if (!pipe2(pair, O_CLOEXEC))
			close(pair[bad->request == STATE(CALL) ? 0 : 1]);
		f->fd[0] = pair[bad->request == STATE(CALL) ? 1 : 0];
		break;
	case A_SOCKET:
		if (!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			close(pair[1]);
		f->fd[0] = pair[0];
		break;
	default:
		f->n = 0;
	}
}

static void close_fds(struct fds *f)
{
	for (unsigned k = 0; k < f->n; k++)
		close(f->fd[k]);
}

static int reach_stage(struct probe *p, const struct bad_message *bad)
{
	if (bad->needs >= 0) {
		p->want_protocol |= 1ull << bad->needs;
		if (need_protocol(p, (unsigned)bad->needs))
			return -1;
	}
	if (session_connect(p) || session_negotiate(p))
		return -1;
	if (bad->stage == CONNECTED)
		return 0;
	if (session_features(p) || session_memory(p))
		return -1;
	for (unsigned k = 0; k < session_queues(p); k++)
		if (bad->stage == RUNNING ? session_queue(p, k) : session_lay_out(p, k))
			return -1;
	return bad->stage == RUNNING ? session_ready(p) || work_pair(p, 0) : 0;
}

static void compose(struct probe *p, const struct bad_message *bad, struct vhost_user_message *m)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, bad->request);

	vhost_user_request_init(m, VHOST_USER_FRONT_END, bad->request);
	if (bad->fill)
		bad->fill(p, m, bad);
	else if (rule && rule->request == VHOST_USER_STATE)
		m->state = (struct vhost_vring_state){(uint32_t)bad->a, (uint32_t)bad->b};
	else
		m->u64 = bad->a;
	if (bad->size >= 0)
		m->size = (uint32_t)bad->size;
	if (p->acks && !(rule && rule->has_reply))
		m->flags |= VHOST_USER_NEED_REPLY;
}

/* The message's effect, if it has one, shows when the ring is used: give it the occasion. */
static void stir(struct probe *p)
{
	struct verdict verdict = p->verdict;
	unsigned queue = work_queue(0, p);

	for (unsigned k = 0; k < session_queues(p); k++)
		if (p->queue[k].ready && p->queue[k].kick_fd >= 0)
			eventfd_write(p->queue[k].kick_fd, 1);
	if (p->queue[queue].ready && p->link.fd >= 0) {
		work_submit(p, queue, p->options->device == PROBE_NET ? REQUEST_TX : REQUEST_READ, 0);
		work_kick(p, queue);
		poll(NULL, 0, 10);
	}
	p->verdict = verdict; /* whether that request is served does not matter */
}

static void send_bad(struct probe *p, unsigned index)
{
	const struct bad_message *bad = &bad_messages[index];
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, bad->request);
	bool replies = rule && rule->has_reply;
	struct vhost_user_message m;
	struct fds fds;
	int err;

	if (reach_stage(p, bad))
		return;
	compose(p, bad, &m);
	open_fds(p, bad,
		 rule
		     ? rule->max_fds && (rule->min_fds || !replies || bad->request == VHOST_USER_SET_LOG_BASE)
		     : 0,
		 &fds);
	err = link_send_raw(&p->link, &m, m.size, fds.fd, fds.n);
	close_fds(&fds);
	if (err || (!replies && !p->acks)) {
		stir(p);
		remark(p, err ? "the connection was closed"
			      : "nothing is known of it: REPLY_ACK is not offered");
		return;
	}
	err = link_receive(&p->link, &m, p->options->timeout_ms);
	if (err == -ETIMEDOUT)
		warn(p, "no answer came, neither a refusal nor the end of the connection");
	else if (err)
		remark(p, "it closes the connection");
	else if (replies)
		remark(p, "it replies with %u bytes", m.size);
	else if (m.u64 || m.size != 8)
		remark(p, "it refuses with 0x%llx", (unsigned long long)m.u64);
	else if (bad->answer == MUST_REFUSE)
		fail(p, "it acknowledges as done what cannot be done");
	else
		remark(p, "it accepts");
	if (!err)
		vhost_user_close_fds(&m);
	stir(p);
}

/* --- what no table holds --- */

/* A message that never becomes whole; then the connection ends. */
static void truncated(struct probe *p, unsigned bytes)
{
	struct vhost_user_message m;

	if (session_connect(p) || session_negotiate(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_FEATURES);
	link_send_bytes(&p->link, &m, bytes);
	poll(NULL, 0, 20);
}

static void size_lies(struct probe *p, unsigned size)
{
	struct vhost_user_message m;

	if (session_connect(p) || session_negotiate(p))
		return;
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_FEATURES);
	m.size = size;
	link_send_raw(&p->link, &m, VHOST_USER_MAX_PAYLOAD, NULL, 0);
	for (unsigned k = 0; k < 64 && !link_send_bytes(&p->link, m.bytes, sizeof(m.bytes)); k++)
		;
}

/* Random numbers, sizes and payloads; now and then with descriptors, which fill the target's table if it
 * leaks them. */
static void random_messages(struct probe *p, unsigned count)
{
	struct vhost_user_message m;
	int fd = eventfd(0, EFD_CLOEXEC);

	for (unsigned n = 0; n < count; n++) {
		uint32_t r = p->seed = p->seed * 1664525 + 1013904223;
		const struct vhost_user_rule *rule;
		unsigned n_fds;

		if (p->link.fd < 0 && session_connect(p))
			break;
		vhost_user_request_init(&m, VHOST_USER_FRONT_END, 1 + (r >> 8) % (VHOST_USER_REQUESTS + 2));
		rule = vhost_user_rule(VHOST_USER_FRONT_END, m.request);
		for (unsigned k = 0; k < 64; k++)
			m.bytes[k] = (uint8_t)((p->seed = p->seed * 1664525 + 1013904223) >> 24) &
				     (r >> 28 < 8 ? 1 : 0xff);
		if (r >> 24 & 1)
			m.size = r >> 16 & 0x3f;
		n_fds = rule && rule->max_fds && (r >> 25 & 3) ? 1 : 0;
		if (link_send_raw(&p->link, &m, m.size, (int[]){fd}, n_fds))
			continue;
		while (!link_receive(&p->link, &m, 0))
			vhost_user_close_fds(&m);
	}
	close(fd);
	p->verdict = (struct verdict){0};
	session_close(p);
}

#define H    PROBE_HOSTILE
#define RULE "vhost-user, Communication: a back end may refuse or close; it must not break"

static const struct front_test other_tests[] = {
    {"half-a-header", "6 bytes, then the end", RULE, H, ONCE, 0, truncated, 6},
    {"header-only", "a header, then the end", RULE, H, ONCE, 0, truncated, VHOST_USER_HEADER_SIZE},
    {"half-a-payload", "a header and 3 of 8 bytes, then the end", RULE, H, ONCE, 0, truncated,
     VHOST_USER_HEADER_SIZE + 3},
    {"size-4097", "a message of more bytes than any has", RULE, H, ONCE, 0, size_lies, 4097},
    {"size-2G", "a message of 2^31 bytes", RULE, H, ONCE, 0, size_lies, 0x80000000},
    {"size-4G", "a message of 2^32 - 1 bytes", RULE, H, ONCE, 0, size_lies, 0xffffffff},
    {"random", "two thousand random messages", RULE, H, ONCE, 0, random_messages, 2000},
};

enum { N_OTHER = sizeof(other_tests) / sizeof(other_tests[0]) };

bool front_hostile_message_test(unsigned k, struct front_test *test)
{
	if (k < N_BAD)
		*test = (struct front_test){
		    bad_messages[k].name, bad_messages[k].what, RULE, H, ONCE, 0, send_bad, k};
	else if (k - N_BAD < N_OTHER)
		*test = other_tests[k - N_BAD];
	else
		return false;
	return true;
}
