/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The messages of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst, "the specification" below), for both
 * ends: one table with each message's name, payload, descriptors, gate and reply; sending and receiving over a
 * Unix stream socket with SCM_RIGHTS.
 *
 * A message is a header of three 32-bit words (request, flags, size), a payload in the machine's byte order, and up
 * to eight file descriptors. Requests of the front end travel on the main socket; requests of the back end on a second one
 * that the front end handed over with SET_BACKEND_REQ_FD. The two have numbers of their own.
 *
 * The peer is hostile until checked: vhost_user_receive() bounds sizes and descriptors, vhost_user_check() holds a message
 * against its row. Values inside payloads (indices, addresses) are for the session to check.
 */
#ifndef GUISE_VHOST_MESSAGE_H
#define GUISE_VHOST_MESSAGE_H

#include <linux/vhost_types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Requests of the front end (section "Front-end message types"). */
enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES,
	VHOST_USER_SET_OWNER,
	VHOST_USER_RESET_OWNER,
	VHOST_USER_SET_MEM_TABLE,
	VHOST_USER_SET_LOG_BASE,
	VHOST_USER_SET_LOG_FD,
	VHOST_USER_SET_VRING_NUM,
	VHOST_USER_SET_VRING_ADDR,
	VHOST_USER_SET_VRING_BASE,
	VHOST_USER_GET_VRING_BASE,
	VHOST_USER_SET_VRING_KICK,
	VHOST_USER_SET_VRING_CALL,
	VHOST_USER_SET_VRING_ERR,
	VHOST_USER_GET_PROTOCOL_FEATURES,
	VHOST_USER_SET_PROTOCOL_FEATURES,
	VHOST_USER_GET_QUEUE_NUM,
	VHOST_USER_SET_VRING_ENABLE,
	VHOST_USER_SEND_RARP,
	VHOST_USER_NET_SET_MTU,
	VHOST_USER_SET_BACKEND_REQ_FD,
	VHOST_USER_IOTLB_MSG,
	VHOST_USER_SET_VRING_ENDIAN,
	VHOST_USER_GET_CONFIG,
	VHOST_USER_SET_CONFIG,
	VHOST_USER_CREATE_CRYPTO_SESSION,
	VHOST_USER_CLOSE_CRYPTO_SESSION,
	VHOST_USER_POSTCOPY_ADVISE,
	VHOST_USER_POSTCOPY_LISTEN,
	VHOST_USER_POSTCOPY_END,
	VHOST_USER_GET_INFLIGHT_FD,
	VHOST_USER_SET_INFLIGHT_FD,
	VHOST_USER_GPU_SET_SOCKET,
	VHOST_USER_RESET_DEVICE,
	VHOST_USER_VRING_KICK,
	VHOST_USER_GET_MAX_MEM_SLOTS,
	VHOST_USER_ADD_MEM_REG,
	VHOST_USER_REM_MEM_REG,
	VHOST_USER_SET_STATUS,
	VHOST_USER_GET_STATUS,
	VHOST_USER_GET_SHARED_OBJECT,
	VHOST_USER_SET_DEVICE_STATE_FD,
	VHOST_USER_CHECK_DEVICE_STATE,
	VHOST_USER_GET_SHMEM_CONFIG,
	VHOST_USER_REQUESTS /* one more than the last */
};

/* Requests of the back end (section "Back-end message types"). */
enum vhost_user_backend_request {
	VHOST_USER_BACKEND_IOTLB_MSG = 1,
	VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
	VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG,
	VHOST_USER_BACKEND_VRING_CALL,
	VHOST_USER_BACKEND_VRING_ERR,
	VHOST_USER_BACKEND_SHARED_OBJECT_ADD,
	VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE,
	VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP,
	VHOST_USER_BACKEND_SHMEM_MAP,
	VHOST_USER_BACKEND_SHMEM_UNMAP,
	VHOST_USER_BACKEND_REQUESTS
};

/* Protocol features: bit numbers (section "Protocol features"). */
enum vhost_user_protocol_feature {
	VHOST_USER_PROTOCOL_F_MQ = 0,
	VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1,
	VHOST_USER_PROTOCOL_F_RARP = 2,
	VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
	VHOST_USER_PROTOCOL_F_MTU = 4,
	VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
	VHOST_USER_PROTOCOL_F_CROSS_ENDIAN = 6,
	VHOST_USER_PROTOCOL_F_CRYPTO_SESSION = 7,
	VHOST_USER_PROTOCOL_F_PAGEFAULT = 8,
	VHOST_USER_PROTOCOL_F_CONFIG = 9,
	VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = 10,
	VHOST_USER_PROTOCOL_F_HOST_NOTIFIER = 11,
	VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
	VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
	VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = 14,
	VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
	VHOST_USER_PROTOCOL_F_STATUS = 16,
	VHOST_USER_PROTOCOL_F_XEN_MMAP = 17,
	VHOST_USER_PROTOCOL_F_SHARED_OBJECT = 18,
	VHOST_USER_PROTOCOL_F_DEVICE_STATE = 19,
	VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT = 20,
	VHOST_USER_PROTOCOL_F_GPA_ADDRESSES = 21,
	VHOST_USER_PROTOCOL_F_SHMEM = 22,
	VHOST_USER_PROTOCOL_FEATURES /* one more than the last */
};

/* Virtio feature bits that vhost gives a meaning of its own. */
enum { VHOST_USER_F_PROTOCOL_FEATURES = 30 };
#define VHOST_USER_F_PROTOCOL_FEATURES_BIT (1ull << VHOST_USER_F_PROTOCOL_FEATURES)

/* Header flags. */
enum {
	VHOST_USER_VERSION = 1,
	VHOST_USER_VERSION_MASK = 3,
	VHOST_USER_REPLY = 1 << 2,
	VHOST_USER_NEED_REPLY = 1 << 3,
};

enum {
	VHOST_USER_HEADER_SIZE = 12,
	VHOST_USER_MAX_PAYLOAD = 4096, /* more than any message needs */
	VHOST_USER_MAX_FDS = 8,
	VHOST_USER_MAX_REGIONS = 8,    /* of one SET_MEM_TABLE */
	VHOST_USER_MAX_CONFIG = 256,   /* bytes of configuration space in one message */
	VHOST_USER_INDEX_MASK = 0xff,  /* SET_VRING_KICK, _CALL, _ERR: the ring ... */
	VHOST_USER_NO_FD = 1 << 8,     /* ... and "no descriptor comes with this" */
};

struct vhost_user_region {
	uint64_t guest_address, size, user_address, mmap_offset;
};

struct vhost_user_memory {
	uint32_t n_regions, padding;
	struct vhost_user_region region[VHOST_USER_MAX_REGIONS];
};

struct vhost_user_single_region {
	uint64_t padding;
	struct vhost_user_region region;
};

struct vhost_user_log {
	uint64_t size, offset;
};

enum { VHOST_USER_CONFIG_WRITABLE = 0, VHOST_USER_CONFIG_MIGRATION = 1 }; /* vhost_user_config.flags */
struct vhost_user_config {
	uint32_t offset, size, flags;
	uint8_t data[VHOST_USER_MAX_CONFIG];
};

struct vhost_user_area {
	uint64_t index_and_flags, size, offset;
};

struct vhost_user_inflight {
	uint64_t mmap_size, mmap_offset;
	uint16_t n_queues, queue_size;
};

struct vhost_user_transfer {
	uint32_t direction, phase;
};

struct vhost_user_shmem_config {
	uint32_t n_regions, padding;
	uint64_t size[256];
};

struct vhost_user_mmap {
	uint8_t shmem_id, padding[7];
	uint64_t fd_offset, shmem_offset, length, flags;
};

struct vhost_user_message {
	uint32_t request; /* these three words are the header as it travels */
	uint32_t flags;
	uint32_t size;	  /* of the payload */
	union {
		uint8_t bytes[VHOST_USER_MAX_PAYLOAD];
		uint64_t u64;
		struct vhost_vring_state state;
		struct vhost_vring_addr addr;
		struct vhost_user_memory memory;
		struct vhost_user_single_region single;
		struct vhost_user_log log;
		struct vhost_iotlb_msg iotlb;
		struct vhost_user_config config;
		struct vhost_user_area area;
		struct vhost_user_inflight inflight;
		struct vhost_user_transfer transfer;
		struct vhost_user_shmem_config shmem;
		struct vhost_user_mmap mmap;
		uint8_t uuid[16];
	} __attribute__((packed, aligned(4))); /* follows the header without a gap */
	unsigned n_fds;
	int fd[VHOST_USER_MAX_FDS]; /* received: the receiver's, to be closed; sent: stay the sender's */
};

/* What a payload is. Its name and sizes: vhost_user_payload(). */
enum vhost_user_payload_kind {
	VHOST_USER_NONE,
	VHOST_USER_U64,
	VHOST_USER_STATE,
	VHOST_USER_ADDR,
	VHOST_USER_MEMORY,
	VHOST_USER_REGION,
	VHOST_USER_LOG,
	VHOST_USER_IOTLB,
	VHOST_USER_CONFIG,
	VHOST_USER_AREA,
	VHOST_USER_INFLIGHT,
	VHOST_USER_UUID,
	VHOST_USER_TRANSFER,
	VHOST_USER_SHMEM,
	VHOST_USER_MMAP,
	VHOST_USER_SESSION, /* of crypto devices; opaque here */
	VHOST_USER_PAYLOADS
};

struct vhost_user_payload {
	const char *name; /* the specification's */
	uint16_t min_size, max_size;
};

/* Which socket: whose requests it carries. Replies travel the other way on the same one. */
enum vhost_user_channel { VHOST_USER_FRONT_END, VHOST_USER_BACK_END };

/* One row of the table: the rules of one message. */
struct vhost_user_rule {
	uint32_t id;
	const char *name;		       /* without VHOST_USER_ */
	enum vhost_user_payload_kind request;
	uint8_t min_fds, max_fds;	       /* with the request */
	bool has_reply;			       /* one of its own; otherwise REPLY_ACK's if asked for */
	enum vhost_user_payload_kind reply;
	uint8_t max_reply_fds;
	int8_t protocol;		       /* legal only with this protocol feature negotiated; -1: always */
	int8_t feature;			       /* legal only with this virtio feature bit; -1: always */
	const char *rule;		       /* what else the specification says, for people */
};

/* The row of a message, or NULL: unknown. Any thread. */
const struct vhost_user_rule *vhost_user_rule(enum vhost_user_channel channel, uint32_t id);
/* Its name; "unknown message" if there is none. */
const char *vhost_user_name(enum vhost_user_channel channel, uint32_t id);
const struct vhost_user_payload *vhost_user_payload(enum vhost_user_payload_kind kind);

/*
 * Does a request (or, with `reply`, its reply) have the version, flags, size and number of descriptors of its row? Gates are
 * not looked at. 0; -EPROTO with what is wrong (field, value, reason) in why.
 */
int vhost_user_check(const struct vhost_user_rule *rule, const struct vhost_user_message *m, bool reply, char *why,
		     size_t why_size);

/* "MQ" for 0 ...; NULL: no such protocol feature. */
const char *vhost_user_protocol_feature_name(unsigned bit);

/* --- making messages --- */

/* An empty request: payload zeroed, no descriptors, version set; size is that of the row's payload (its least). */
void vhost_user_request_init(struct vhost_user_message *m, enum vhost_user_channel channel, uint32_t id);
/* The reply to a request: same number, REPLY set, payload zeroed; size by the row, a u64 if the row has no reply (REPLY_ACK). */
void vhost_user_reply_init(struct vhost_user_message *m, enum vhost_user_channel channel, uint32_t id);

/* --- sending and receiving --- */

/*
 * Send one message whole, waiting at most timeout_ms (-1: for ever) for room. 0; -ETIMEDOUT, -EPIPE, other -errno:
 * the connection is of no use any more. SIGPIPE is not raised. One thread at a time per socket.
 */
int vhost_user_send(int socket, const struct vhost_user_message *m, int timeout_ms);

/* One message on its way in: zeroed before the first use. One thread at a time. */
struct vhost_user_receiver {
	size_t filled; /* bytes of header and payload so far */
	struct vhost_user_message message;
};

/*
 * Read what is there, without waiting, never past the end of a message. 1: receiver->message is complete, and the caller's
 * with its descriptors; the next call starts a new one. 0: more must come. -ECONNRESET: the peer closed; -EMSGSIZE: payload
 * over VHOST_USER_MAX_PAYLOAD or more than VHOST_USER_MAX_FDS descriptors; other -errno. After an error all
 * descriptors of the message are closed.
 */
int vhost_user_receive(int socket, struct vhost_user_receiver *receiver);
/* The same, waiting up to timeout_ms in all (-1: for ever) for a complete message: 1, -ETIMEDOUT, or an error as above. */
int vhost_user_receive_wait(int socket, struct vhost_user_receiver *receiver, int timeout_ms);

/* Close the descriptors that came with a message and were not taken. */
void vhost_user_close_fds(struct vhost_user_message *m);
/* Take descriptor k out of a message: the caller's from now on; -1 if there is none. */
int vhost_user_take_fd(struct vhost_user_message *m, unsigned k);
/* Give up a message that came in part. */
void vhost_user_receiver_reset(struct vhost_user_receiver *receiver);

#endif
