/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of messages and what follows from it alone: names, sizes, checks. Sockets are in wire.c. */
#include "vhost/message.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>

_Static_assert(offsetof(struct vhost_user_message, bytes) == VHOST_USER_HEADER_SIZE, "payload follows the header");
_Static_assert(sizeof(struct vhost_vring_state) == 8 && sizeof(struct vhost_vring_addr) == 40 &&
		       sizeof(struct vhost_iotlb_msg) == 32 && sizeof(struct vhost_user_inflight) == 24,
	       "payloads as they travel");

/* One spelling for each row: its enumerator gives number and name. */
#define FRONT(id) VHOST_USER_##id, #id
#define BACK(id)  VHOST_USER_BACKEND_##id, "BACKEND_" #id
#define ANY	  -1
#define P(bit)	  VHOST_USER_PROTOCOL_F_##bit
#define NONE	  VHOST_USER_NONE
#define U64	  VHOST_USER_U64
#define STATE	  VHOST_USER_STATE
#define REGION	  VHOST_USER_REGION
#define CONFIG	  VHOST_USER_CONFIG
#define INFLIGHT  VHOST_USER_INFLIGHT
#define UUID	  VHOST_USER_UUID
#define NO_REPLY  false, NONE, 0

/* clang-format off */
static const struct vhost_user_rule front_end[] = {
	/* number and name               request  fds   reply              protocol      feature  rule */
	{ FRONT(GET_FEATURES),           NONE,    0, 0, true, U64, 0,      ANY,          ANY, "virtio features, bit 30 for protocol features, 26 for F_LOG_ALL" },
	{ FRONT(SET_FEATURES),           U64,     0, 0, NO_REPLY,          ANY,          ANY, "only bits that were offered" },
	{ FRONT(SET_OWNER),              NONE,    0, 0, NO_REPLY,          ANY,          ANY, "starts a session" },
	{ FRONT(RESET_OWNER),            NONE,    0, 0, NO_REPLY,          ANY,          ANY, "deprecated: ignored, or disables all rings" },
	{ FRONT(SET_MEM_TABLE), VHOST_USER_MEMORY, 0, 8, NO_REPLY,         ANY,          ANY, "one descriptor for each region, in order; replies only in postcopy" },
	{ FRONT(SET_LOG_BASE),  VHOST_USER_LOG,   0, 1, true, U64, 0,      P(LOG_SHMFD), ANY, "size and offset of the log in the descriptor" },
	{ FRONT(SET_LOG_FD),             NONE,    1, 1, NO_REPLY,          ANY,          ANY, "eventfd that tells of changes of the log" },
	{ FRONT(SET_VRING_NUM),          STATE,   0, 0, NO_REPLY,          ANY,          ANY, "size of the queue" },
	{ FRONT(SET_VRING_ADDR), VHOST_USER_ADDR, 0, 0, NO_REPLY,          ANY,          ANY, "user addresses; IOVAs with ACCESS_PLATFORM" },
	{ FRONT(SET_VRING_BASE),         STATE,   0, 0, NO_REPLY,          ANY,          ANY, "next avail index; packed: avail index and wrap, used index and wrap" },
	{ FRONT(GET_VRING_BASE),         STATE,   0, 0, true, STATE, 0,    ANY,          ANY, "stops the ring" },
	{ FRONT(SET_VRING_KICK),         U64,     0, 1, NO_REPLY,          ANY,          ANY, "bits 0-7 ring, bit 8: no descriptor, poll; starts the ring" },
	{ FRONT(SET_VRING_CALL),         U64,     0, 1, NO_REPLY,          ANY,          ANY, "bits 0-7 ring, bit 8: no descriptor, the front end polls" },
	{ FRONT(SET_VRING_ERR),          U64,     0, 1, NO_REPLY,          ANY,          ANY, "bits 0-7 ring, bit 8: no descriptor" },
	{ FRONT(GET_PROTOCOL_FEATURES),  NONE,    0, 0, true, U64, 0,      ANY,          ANY, "if bit 30 was offered; before SET_FEATURES too" },
	{ FRONT(SET_PROTOCOL_FEATURES),  U64,     0, 0, NO_REPLY,          ANY,          ANY, "only bits that were offered; before SET_FEATURES too" },
	{ FRONT(GET_QUEUE_NUM),          NONE,    0, 0, true, U64, 0,      P(MQ),        ANY, "how many queues the back end serves" },
	{ FRONT(SET_VRING_ENABLE),       STATE,   0, 0, NO_REPLY,          ANY,          ANY, "0 or 1; with bit 30; in any order with the other ring messages" },
	{ FRONT(SEND_RARP),              U64,     0, 0, NO_REPLY,          P(RARP),      ANY, "MAC address in the first six bytes" },
	{ FRONT(NET_SET_MTU),            U64,     0, 0, NO_REPLY,          P(MTU),       ANY, "the MTU that the guest sees" },
	{ FRONT(SET_BACKEND_REQ_FD),     NONE,    1, 1, NO_REPLY,          P(BACKEND_REQ), ANY, "socket for the back end's requests" },
	{ FRONT(IOTLB_MSG),   VHOST_USER_IOTLB,   0, 0, true, U64, 0,      ANY, VIRTIO_F_ACCESS_PLATFORM, "update or invalidate; 0: done" },
	{ FRONT(SET_VRING_ENDIAN),       STATE,   0, 0, NO_REPLY,          P(CROSS_ENDIAN), ANY, "0 little, 1 big; before the ring starts" },
	{ FRONT(GET_CONFIG),             CONFIG,  0, 0, true, CONFIG, 0,   P(CONFIG),    ANY, "reply of the request's size; size 0 means an error" },
	{ FRONT(SET_CONFIG),             CONFIG,  0, 0, NO_REPLY,          P(CONFIG),    ANY, "read-only fields only with the migration flag" },
	{ FRONT(CREATE_CRYPTO_SESSION), VHOST_USER_SESSION, 0, 0, true, VHOST_USER_SESSION, 0, P(CRYPTO_SESSION), ANY, "crypto devices" },
	{ FRONT(CLOSE_CRYPTO_SESSION),   U64,     0, 0, NO_REPLY,          P(CRYPTO_SESSION), ANY, "crypto devices" },
	{ FRONT(POSTCOPY_ADVISE),        NONE,    0, 0, true, NONE, 1,     P(PAGEFAULT), ANY, "the reply brings a userfaultfd" },
	{ FRONT(POSTCOPY_LISTEN),        NONE,    0, 0, NO_REPLY,          P(PAGEFAULT), ANY, "after POSTCOPY_ADVISE" },
	{ FRONT(POSTCOPY_END),           NONE,    0, 0, true, U64, 0,      P(PAGEFAULT), ANY, "0: success" },
	{ FRONT(GET_INFLIGHT_FD),        INFLIGHT, 0, 0, true, INFLIGHT, 1, P(INFLIGHT_SHMFD), ANY, "the reply brings the shared buffer" },
	{ FRONT(SET_INFLIGHT_FD),        INFLIGHT, 1, 1, NO_REPLY,         P(INFLIGHT_SHMFD), ANY, "the buffer that GET_INFLIGHT_FD gave" },
	{ FRONT(GPU_SET_SOCKET),         NONE,    1, 1, NO_REPLY,          ANY,          ANY, "GPU devices" },
	{ FRONT(RESET_DEVICE),           NONE,    0, 0, NO_REPLY,          P(RESET_DEVICE), ANY, "disables all rings, back to the initial state" },
	{ FRONT(VRING_KICK),             STATE,   0, 0, NO_REPLY,          P(INBAND_NOTIFICATIONS), ANY, "num is 0" },
	{ FRONT(GET_MAX_MEM_SLOTS),      NONE,    0, 0, true, U64, 0,      P(CONFIGURE_MEM_SLOTS), ANY, "most regions at a time" },
	{ FRONT(ADD_MEM_REG),            REGION,  1, 1, NO_REPLY,          P(CONFIGURE_MEM_SLOTS), ANY, "replies only in postcopy" },
	{ FRONT(REM_MEM_REG),            REGION,  0, 1, NO_REPLY,          P(CONFIGURE_MEM_SLOTS), ANY, "by guest address, user address and size; a descriptor is closed" },
	{ FRONT(SET_STATUS),             U64,     0, 0, NO_REPLY,          P(STATUS),    ANY, "virtio device status" },
	{ FRONT(GET_STATUS),             NONE,    0, 0, true, U64, 0,      P(STATUS),    ANY, "virtio device status" },
	{ FRONT(GET_SHARED_OBJECT),      UUID,    0, 0, true, NONE, 1,     P(SHARED_OBJECT), ANY, "the reply brings a dma-buf" },
	{ FRONT(SET_DEVICE_STATE_FD), VHOST_USER_TRANSFER, 1, 1, true, U64, 1, P(DEVICE_STATE), ANY, "bits 0-7: 0 is success; bit 8: no descriptor" },
	{ FRONT(CHECK_DEVICE_STATE),     NONE,    0, 0, true, U64, 0,      P(DEVICE_STATE), ANY, "0: the transfer succeeded" },
	{ FRONT(GET_SHMEM_CONFIG),       NONE,    0, 0, true, VHOST_USER_SHMEM, 0, P(SHMEM), ANY, "sizes of the shared memory regions" },
};

static const struct vhost_user_rule back_end[] = {
	{ BACK(IOTLB_MSG),    VHOST_USER_IOTLB,   0, 0, NO_REPLY, P(BACKEND_REQ), VIRTIO_F_ACCESS_PLATFORM, "miss or access failure" },
	{ BACK(CONFIG_CHANGE_MSG),       NONE,    0, 0, NO_REPLY,          P(CONFIG),        ANY, "configuration space changed" },
	{ BACK(VRING_HOST_NOTIFIER_MSG), VHOST_USER_AREA, 0, 1, NO_REPLY,  P(HOST_NOTIFIER), ANY, "without a descriptor: removed" },
	{ BACK(VRING_CALL),              STATE,   0, 0, NO_REPLY,          P(INBAND_NOTIFICATIONS), ANY, "num is 0" },
	{ BACK(VRING_ERR),               STATE,   0, 0, NO_REPLY,          P(INBAND_NOTIFICATIONS), ANY, "num is 0" },
	{ BACK(SHARED_OBJECT_ADD),       UUID,    0, 0, NO_REPLY,          P(SHARED_OBJECT), ANY, "an object that the back end exports" },
	{ BACK(SHARED_OBJECT_REMOVE),    UUID,    0, 0, NO_REPLY,          P(SHARED_OBJECT), ANY, "only its own objects" },
	{ BACK(SHARED_OBJECT_LOOKUP),    UUID,    0, 0, true, NONE, 1,     P(SHARED_OBJECT), ANY, "the reply brings a dma-buf" },
	{ BACK(SHMEM_MAP),    VHOST_USER_MMAP,    1, 1, NO_REPLY,          P(SHMEM),         ANY, "into a shared memory region" },
	{ BACK(SHMEM_UNMAP),  VHOST_USER_MMAP,    0, 0, NO_REPLY,          P(SHMEM),         ANY, "what SHMEM_MAP mapped" },
};

static const struct vhost_user_payload payloads[] = {
	[VHOST_USER_NONE]     = { "no payload", 0, 0 },
	[VHOST_USER_U64]      = { "u64", 8, 8 },
	[VHOST_USER_STATE]    = { "vring state description", 8, 8 },
	[VHOST_USER_ADDR]     = { "vring address description", 40, 40 },
	[VHOST_USER_MEMORY]   = { "memory regions description", 8, sizeof(struct vhost_user_memory) },
	[VHOST_USER_REGION]   = { "single memory region description", 40, 40 },
	[VHOST_USER_LOG]      = { "log description", 16, 16 },
	[VHOST_USER_IOTLB]    = { "IOTLB message", 32, 32 },
	[VHOST_USER_CONFIG]   = { "virtio device config space", 12, sizeof(struct vhost_user_config) },
	[VHOST_USER_AREA]     = { "vring area description", 24, 24 },
	[VHOST_USER_INFLIGHT] = { "inflight description", 20, 24 }, /* 24 in QEMU, with the compiler's padding */
	[VHOST_USER_UUID]     = { "UUID", 16, 16 },
	[VHOST_USER_TRANSFER] = { "device state transfer parameters", 8, 8 },
	[VHOST_USER_SHMEM]    = { "VIRTIO shared memory region configuration", 8, sizeof(struct vhost_user_shmem_config) },
	[VHOST_USER_MMAP]     = { "mmap message", 40, 40 },
	[VHOST_USER_SESSION]  = { "crypto session description", 8, VHOST_USER_MAX_PAYLOAD },
};
/* clang-format on */

_Static_assert(sizeof(front_end) / sizeof(front_end[0]) == VHOST_USER_REQUESTS - 1, "a row for every request");
_Static_assert(sizeof(back_end) / sizeof(back_end[0]) == VHOST_USER_BACKEND_REQUESTS - 1, "a row for every request");
_Static_assert(sizeof(payloads) / sizeof(payloads[0]) == VHOST_USER_PAYLOADS, "every payload has a name");

const struct vhost_user_rule *vhost_user_rule(enum vhost_user_channel channel, uint32_t id)
{
	if (channel == VHOST_USER_FRONT_END)
		return id && id < VHOST_USER_REQUESTS ? &front_end[id - 1] : NULL;
	return id && id < VHOST_USER_BACKEND_REQUESTS ? &back_end[id - 1] : NULL;
}

const char *vhost_user_name(enum vhost_user_channel channel, uint32_t id)
{
	const struct vhost_user_rule *rule = vhost_user_rule(channel, id);

	return rule ? rule->name : "unknown message";
}

const struct vhost_user_payload *vhost_user_payload(enum vhost_user_payload_kind kind)
{
	return &payloads[kind];
}

const char *vhost_user_protocol_feature_name(unsigned bit)
{
	static const char *const name[] = {
		"MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "CROSS_ENDIAN", "CRYPTO_SESSION",
		"PAGEFAULT", "CONFIG", "BACKEND_SEND_FD", "HOST_NOTIFIER", "INFLIGHT_SHMFD", "RESET_DEVICE",
		"INBAND_NOTIFICATIONS", "CONFIGURE_MEM_SLOTS", "STATUS", "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE",
		"GET_VRING_BASE_INFLIGHT", "GPA_ADDRESSES", "SHMEM",
	};
	_Static_assert(sizeof(name) / sizeof(name[0]) == VHOST_USER_PROTOCOL_FEATURES, "every feature has a name");

	return bit < VHOST_USER_PROTOCOL_FEATURES ? name[bit] : NULL;
}

/* What a row asks of a message going one way. An acknowledgement is the reply of a row without one. */
static enum vhost_user_payload_kind kind_of(const struct vhost_user_rule *rule, bool reply)
{
	if (!reply)
		return rule->request;
	return rule->has_reply ? rule->reply : VHOST_USER_U64;
}

/* Replies of these may be shorter: an error answer, or a peer that acknowledges without a payload. */
static uint32_t least_size(const struct vhost_user_rule *rule, bool reply)
{
	enum vhost_user_payload_kind kind = kind_of(rule, reply);

	if (reply && (kind == VHOST_USER_CONFIG || !strcmp(rule->name, "SET_LOG_BASE")))
		return 0;
	if (!reply && kind == VHOST_USER_LOG)
		return 8; /* without LOG_SHMFD the payload is a u64 */
	return payloads[kind].min_size;
}

int vhost_user_check(const struct vhost_user_rule *rule, const struct vhost_user_message *m, bool reply, char *why,
		     size_t why_size)
{
	const struct vhost_user_payload *payload = &payloads[kind_of(rule, reply)];
	unsigned min_fds = reply ? 0 : rule->min_fds, max_fds = reply ? rule->max_reply_fds : rule->max_fds;

	if ((m->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		snprintf(why, why_size, "flags 0x%x: version is not %d", m->flags, VHOST_USER_VERSION);
	else if (!(m->flags & VHOST_USER_REPLY) == reply)
		snprintf(why, why_size, "flags 0x%x: %s", m->flags, reply ? "no reply" : "a reply, not a request");
	else if (m->size < least_size(rule, reply) || m->size > payload->max_size)
		snprintf(why, why_size, "size %u: %s has %u to %u bytes", m->size, payload->name,
			 least_size(rule, reply), payload->max_size);
	else if (m->n_fds < min_fds || m->n_fds > max_fds)
		snprintf(why, why_size, "%u file descriptors: %u to %u belong to it", m->n_fds, min_fds, max_fds);
	else
		return 0;
	return -EPROTO;
}

static void init(struct vhost_user_message *m, uint32_t id, uint32_t flags, enum vhost_user_payload_kind kind)
{
	bool whole = kind == VHOST_USER_INFLIGHT; /* with padding, as everybody sends it */

	m->request = id;
	m->flags = flags;
	m->size = whole ? payloads[kind].max_size : payloads[kind].min_size;
	m->n_fds = 0;
	memset(m->bytes, 0, sizeof(m->bytes));
}

void vhost_user_request_init(struct vhost_user_message *m, enum vhost_user_channel channel, uint32_t id)
{
	const struct vhost_user_rule *rule = vhost_user_rule(channel, id);

	init(m, id, VHOST_USER_VERSION, rule ? rule->request : VHOST_USER_NONE);
}

void vhost_user_reply_init(struct vhost_user_message *m, enum vhost_user_channel channel, uint32_t id)
{
	const struct vhost_user_rule *rule = vhost_user_rule(channel, id);

	init(m, id, VHOST_USER_VERSION | VHOST_USER_REPLY, rule ? kind_of(rule, true) : VHOST_USER_U64);
}
