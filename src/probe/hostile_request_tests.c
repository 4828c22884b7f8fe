/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hostile requests: rings as they should be, and nonsense in what they carry. Frames whose header asks for
 * checksums or segmentation outside the frame (the CVE-2024-11614 kind), frames of no or too many bytes; disk
 * requests without a header or a status, beyond the disk's end, of no known type.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "probe/front.h"
#include "probe/work.h"

/* --- frames --- */

struct bad_frame {
	const char *name, *what;
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
	uint32_t bytes; /* header included; 0: one of 1000 bytes that says to be IPv4 and TCP */
};

/* clang-format off */
static const struct bad_frame bad_frames[] = {
	{ "csum-start-beyond", "a checksum that starts behind the frame", 1, 0, 0, 0, 60000, 16, 0, 0 },
	{ "csum-offset-beyond", "a checksum whose place is behind the frame", 1, 0, 0, 0, 34, 60000, 0, 0 },
	{ "csum-max", "checksum start and place of 65535", 1, 0, 0, 0, 65535, 65535, 0, 0 },
	{ "csum-last-byte", "a checksum in the last byte of the frame", 1, 0, 0, 0, 983, 16, 0, 0 },
	{ "gso-size-0", "TCP segmentation into pieces of no bytes", 1, VIRTIO_NET_HDR_GSO_TCPV4, 54, 0, 34, 16, 0, 0 },
	{ "gso-size-1", "TCP segmentation into pieces of one byte", 1, VIRTIO_NET_HDR_GSO_TCPV4, 54, 1, 34, 16, 0, 0 },
	{ "gso-type-unknown", "a segmentation type that does not exist", 1, 0x7f, 54, 1000, 34, 16, 0, 0 },
	{ "gso-hdr-len-huge", "headers that are longer than the frame", 1, VIRTIO_NET_HDR_GSO_TCPV6, 65535, 1000, 34, 16, 0, 0 },
	{ "gso-ecn-only", "only the ECN bit as segmentation type", 1, VIRTIO_NET_HDR_GSO_ECN, 54, 1000, 34, 16, 0, 0 },
	{ "gso-udp-short", "UDP segmentation of a frame of 14 bytes", 1, VIRTIO_NET_HDR_GSO_UDP, 42, 100, 34, 6, 0, 12 + 14 },
	{ "gso-tcp-short", "TCP segmentation of a frame of 34 bytes", 1, VIRTIO_NET_HDR_GSO_TCPV4, 54, 100, 34, 16, 0, 12 + 34 },
	{ "num-buffers-huge", "a sent frame that says to have 65535 buffers", 0, 0, 0, 0, 0, 0, 65535, 0 },
	{ "flags-all", "every header flag", 0xff, 0xff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0 },
	{ "frame-1", "a frame of one byte", 0, 0, 0, 0, 0, 0, 0, 12 + 1 },
	{ "frame-13", "a frame of 13 bytes: no whole Ethernet header", 0, 0, 0, 0, 0, 0, 0, 12 + 13 },
	{ "frame-empty", "a header and no frame", 0, 0, 0, 0, 0, 0, 0, 12 },
	{ "header-short", "five bytes: not even a header", 0, 0, 0, 0, 0, 0, 0, 5 },
	{ "frame-64k", "a frame of 65550 bytes", 0, 0, 0, 0, 0, 0, 0, 12 + 65550 },
	{ "frame-1m", "a frame of a million bytes", 0, 0, 0, 0, 0, 0, 0, 1000000 },
};
/* clang-format on */
enum { N_FRAMES = sizeof(bad_frames) / sizeof(bad_frames[0]), FRAME = 1000, BIG = 1 << 20 };

/* An IPv4 TCP frame, so that whoever looks at headers before trusting offsets gets far. */
static void fill_frame(uint8_t *frame, uint32_t size)
{
	static const uint8_t start[] = {
	    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x67, 0x75, 0x69, 0x73, 0x65, 0x08, 0x00, 0x45, 0, 3,
	    0xda, 0,	1,    0,    0,	  64,	6,    0,    0,	  10,	0,    2,    15,	  10,	0,    2, 2,
	    0x12, 0x34, 0,    80,   0,	  0,	0,    1,    0,	  0,	0,    1,    0x50, 0x10, 1,    0,
	};

	memset(frame, 0x5a, size);
	memcpy(frame, start, size < sizeof(start) ? size : sizeof(start));
}

static void aftermath(struct probe *p, unsigned queue)
{
	uint32_t base;

	work_kick(p, queue);
	poll(NULL, 0, 20);
	if (link_is_closed(&p->link, 0))
		remark(p, "it closes the connection");
	else if (work_take(p, queue) >= 0 && !session_get_base(p, queue, &base))
		remark(p, "it goes on");
}

static void send_frame(struct probe *p, unsigned index)
{
	const struct bad_frame *bad = &bad_frames[index];
	struct virtio_net_hdr_mrg_rxbuf header = {
	    .hdr = {.flags = bad->flags,
		    .gso_type = bad->gso_type,
		    .hdr_len = bad->hdr_len,
		    .gso_size = bad->gso_size,
		    .csum_start = bad->csum_start,
		    .csum_offset = bad->csum_offset},
	    .num_buffers = bad->num_buffers,
	};
	uint32_t size = bad->bytes ? bad->bytes : sizeof(header) + FRAME;
	static int token;
	uint8_t *at;
	gpa_t gpa;

	/* all that makes the target look at the header */
	p->want |= p->offered & (1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 |
				 1ull << VIRTIO_NET_F_HOST_TSO6 | 1ull << VIRTIO_NET_F_HOST_ECN |
				 1ull << VIRTIO_NET_F_HOST_UFO | 1ull << VIRTIO_NET_F_MRG_RXBUF);
	if (session_open(p) || work_pair(p, 0))
		return;
	gpa = guest_alloc(&p->guest, GUEST_HIGH, BIG, 4096);
	at = guest_at(&p->guest, gpa, BIG);
	fill_frame(at + sizeof(header), BIG - sizeof(header));
	memcpy(at, &header, sizeof(header));
	for (unsigned n = 0; n < 3; n++)
		virtq_driver_add(&p->queue[1].driver, &(struct virtq_segment){gpa, size}, 1, 0, &token);
	eventfd_write(p->queue[1].kick_fd, 1);
	poll(NULL, 0, 20);
	if (link_is_closed(&p->link, 0))
		remark(p, "it closes the connection");
}

/* --- requests to a disk --- */

enum { NO_STATUS = 1, NO_HEADER = 2, SHORT_HEADER = 4, NO_DATA = 8, ODD_DATA = 16, DATA_READABLE = 32 };

static const struct bad_request {
	const char *name, *what;
	uint32_t type;
	uint64_t sector;
	unsigned how;
} bad_requests[] = {
    {"blk-type-unknown", "a request of type 0x7fffffff", 0x7fffffff, 0, 0},
    {"blk-read-beyond", "a read behind the disk's end", VIRTIO_BLK_T_IN, 1ull << 40, 0},
    {"blk-read-wraps", "a read of sector 2^64 - 1", VIRTIO_BLK_T_IN, ~0ull, 0},
    {"blk-read-overflows", "a read whose sector times 512 overflows", VIRTIO_BLK_T_IN, 1ull << 55, 0},
    {"blk-write-beyond", "a write behind the disk's end", VIRTIO_BLK_T_OUT, 1ull << 40, DATA_READABLE},
    {"blk-write-wraps", "a write to sector 2^64 - 1", VIRTIO_BLK_T_OUT, ~0ull, DATA_READABLE},
    {"blk-read-no-status", "a read with no place for its status", VIRTIO_BLK_T_IN, 0, NO_STATUS | NO_DATA},
    {"blk-read-no-data", "a read of no bytes", VIRTIO_BLK_T_IN, 0, NO_DATA},
    {"blk-read-odd", "a read of 100 bytes", VIRTIO_BLK_T_IN, 0, ODD_DATA},
    {"blk-no-header", "a request without a header", VIRTIO_BLK_T_IN, 0, NO_HEADER},
    {"blk-header-short", "a request with 15 bytes of header", VIRTIO_BLK_T_IN, 0, SHORT_HEADER},
    {"blk-discard-empty", "a discard without a range", VIRTIO_BLK_T_DISCARD, 0, NO_DATA},
    {"blk-discard-beyond", "a discard far behind the disk's end", VIRTIO_BLK_T_DISCARD, 0, DATA_READABLE},
    {"blk-zeroes-beyond", "a write of zeroes far behind the disk's end", VIRTIO_BLK_T_WRITE_ZEROES, 0,
     DATA_READABLE},
    {"blk-get-id-short", "the serial number into no bytes", VIRTIO_BLK_T_GET_ID, 0, NO_DATA},
};
enum { N_REQUESTS = sizeof(bad_requests) / sizeof(bad_requests[0]) };

static unsigned lay_out(struct probe *p, const struct bad_request *bad, struct virtq_segment segment[3],
			unsigned *readable)
{
	struct virtio_blk_outhdr header = {.type = bad->type, .sector = bad->sector};
	gpa_t gpa = guest_alloc(&p->guest, GUEST_HIGH, 4096, 4096);
	uint8_t *at = guest_at(&p->guest, gpa, 4096);
	unsigned n = 0;

	memset(at, 0xff, 4096); /* as ranges of a discard: the last sectors there are, all flags */
	memcpy(at, &header, sizeof(header));
	if (!(bad->how & NO_HEADER))
		segment[n++] = (struct virtq_segment){gpa, bad->how & SHORT_HEADER ? 15 : 16};
	if (!(bad->how & NO_DATA) && bad->how & DATA_READABLE)
		segment[n++] = (struct virtq_segment){gpa + 1024, 512};
	*readable = n;
	if (!(bad->how & (NO_DATA | DATA_READABLE)))
		segment[n++] = (struct virtq_segment){gpa + 1024, bad->how & ODD_DATA ? 100 : 512};
	if (!(bad->how & NO_STATUS))
		segment[n++] = (struct virtq_segment){gpa + 2048, 1};
	return n;
}

static void send_request(struct probe *p, unsigned index)
{
	const struct bad_request *bad = &bad_requests[index];
	struct virtq_driver *d = &p->queue[0].driver;
	struct virtq_segment segment[3];
	unsigned n, readable;
	static int token;
	uint32_t written;

	p->want |= p->offered & (1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES);
	if (session_open(p) || work_pair(p, 0))
		return;
	n = lay_out(p, bad, segment, &readable);
	virtq_driver_add(d, segment, readable, n - readable, &token);
	eventfd_write(p->queue[0].kick_fd, 1);
	poll(NULL, 0, 20);
	for (unsigned ms = 0;
	     ms < 200 && d->outstanding && !virtq_driver_take(d, &written) && !link_is_closed(&p->link, 10);
	     ms += 10)
		;
	if (d->outstanding) {
		remark(p, link_is_closed(&p->link, 0) ? "it closes the connection"
						      : "it does not return the request");
	} else if (!(bad->how & NO_STATUS)) {
		uint8_t status = *(uint8_t *)guest_at(&p->guest, segment[n - 1].gpa, 1);

		if (status == VIRTIO_BLK_S_OK && !(bad->how & (NO_DATA | ODD_DATA)))
			fail(p, "it ended with status 0, which means success");
		else
			remark(p, "it ended with status %u", status);
	}
	if (p->link.fd >= 0 && !d->outstanding)
		aftermath(p, 0);
}

#define H	 PROBE_HOSTILE
#define NET_RULE "virtio 1.3, 5.1.6.2: the header's fields; the driver is not to be trusted"
#define BLK_RULE "virtio 1.3, 5.2.6: requests and their status; the driver is not to be trusted"

bool front_hostile_request_test(unsigned k, struct front_test *test)
{
	if (k < N_FRAMES)
		*test = (struct front_test){bad_frames[k].name, bad_frames[k].what, NET_RULE, H, EACH,
					    PROBE_NET,		send_frame,	    k};
	else if (k - N_FRAMES < N_REQUESTS)
		*test = (struct front_test){bad_requests[k - N_FRAMES].name,
					    bad_requests[k - N_FRAMES].what,
					    BLK_RULE,
					    H,
					    EACH,
					    PROBE_BLK,
					    send_request,
					    k - N_FRAMES};
	else
		return false;
	return true;
}
