/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-vsock: the device, its queues, and who may send next.
 *
 *	vsock.c		queues; packets from the guest to their stream; the ready list
 *	vsock_stream.c	one connection: states, credit, bytes both ways
 *	vsock_message.c	what is different where these bytes are messages (SEQPACKET)
 *	vsock_host.c	the host's side: the listening socket, CONNECT lines, connections to PATH_N
 *
 * Packets for the guest need receive buffers, which the guest may withhold. So nothing is queued: a stream remembers
 * by bits what it has to send, and its data stays in its socket; streams with something to send are in the ready list,
 * each once, and take turns of one packet. Memory is bounded by the number of streams. Packets from the guest are
 * always taken (a device that waited for receive buffers could wait for ever: 5.10.6.1); a stream's backlog is
 * bounded by the credit that it gave, and a guest that exceeds it has its connection reset.
 *
 * Threads: all on the device's own loop. stop(), on a vCPU's thread, clears `running`, waits until no callback is under
 * way, and then has the streams for itself.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/thread.h"
#include "devices/vsock_internal.h"

enum { VSOCK_F_STREAM = 0 }; /* 5.10.3; newer than the kernel's header */
enum { RX, TX, EVENT, N_QUEUES, QUEUE_SIZE = 256, BURST = 256, SWEEP_NS = 1000000000 };

/* --- the ready list --- */

void vsock_ready(struct vsock_stream *s)
{
	struct vsock *v = s->vsock;

	if (s->is_ready)
		return;
	s->is_ready = true;
	s->ready_next = NULL;
	if (v->ready_tail)
		v->ready_tail->ready_next = s;
	else
		v->ready_head = s;
	v->ready_tail = s;
}

void vsock_unready(struct vsock_stream *s)
{
	struct vsock *v = s->vsock;
	struct vsock_stream *before = NULL;

	if (!s->is_ready)
		return;
	for (struct vsock_stream **link = &v->ready_head; *link; link = &(*link)->ready_next) {
		if (*link == s) {
			*link = s->ready_next;
			break;
		}
		before = *link;
	}
	if (v->ready_tail == s)
		v->ready_tail = before;
	s->is_ready = false;
}

void vsock_refuse(struct vsock *v, const struct virtio_vsock_hdr *header)
{
	if (v->n_resets < VSOCK_MAX_RESETS) /* else it is lost, and the guest times out: it would not take packets */
		v->reset[v->n_resets++] = (struct vsock_ports){ header->dst_port, header->src_port, header->type };
}

/* --- to the guest --- */

static void scatter(const struct virtq_chain *chain, const void *data, size_t bytes)
{
	for (unsigned k = 0; bytes; k++) {
		const struct iovec *iov = &chain->iov[chain->readable + k];
		size_t part = iov->iov_len < bytes ? iov->iov_len : bytes;

		memcpy(iov->iov_base, data, part);
		data = (const uint8_t *)data + part;
		bytes -= part;
	}
}

/* What lies behind `skip` bytes of a vector. */
static unsigned skip_bytes(const struct iovec *iov, unsigned n, size_t skip, struct iovec *out)
{
	unsigned count = 0;

	for (unsigned k = 0; k < n; k++) {
		size_t part = iov[k].iov_len < skip ? iov[k].iov_len : skip;

		skip -= part;
		if (part < iov[k].iov_len)
			out[count++] = (struct iovec){ (uint8_t *)iov[k].iov_base + part, iov[k].iov_len - part };
	}
	return count;
}

static void push_packet(struct vsock *v, const struct virtq_chain *chain, struct virtio_vsock_hdr *header)
{
	header->src_cid = VSOCK_HOST_CID;
	header->dst_cid = v->cid;
	scatter(chain, header, sizeof(*header));
	virtio_push(&v->device.queue[RX], chain, (uint32_t)sizeof(*header) + header->len);
}

static void send_reset(struct vsock *v, const struct virtq_chain *chain)
{
	struct vsock_ports ports = v->reset[--v->n_resets];
	struct virtio_vsock_hdr header = { .src_port = ports.host, .dst_port = ports.guest, .op = VIRTIO_VSOCK_OP_RST,
					   .type = ports.type };

	push_packet(v, chain, &header);
}

/* The first ready stream's turn. false: it had nothing after all, the chain is still free. */
static bool send_next(struct vsock *v, const struct virtq_chain *chain)
{
	struct vsock_stream *s = v->ready_head;
	struct virtio_vsock_hdr header = { 0 };
	struct iovec room[VSOCK_SEGMENTS];
	unsigned n = skip_bytes(chain->iov + chain->readable, chain->writable, VSOCK_HEADER, room);
	bool done = false, made;

	vsock_unready(s);
	made = vsock_stream_make(s, &header, room, n, &done);
	if (made)
		push_packet(v, chain, &header);
	if (done)
		vsock_stream_free(s);
	else if (vsock_stream_has_more(s))
		vsock_ready(s);
	return made;
}

/* A buffer for one packet. 1, 0: none (a kick follows), -EPROTO. */
static int next_buffer(struct virtio_queue *queue, struct virtq_chain *chain)
{
	int popped;

	for (;;) {
		popped = virtq_pop(&queue->ring, chain);
		if (!popped && virtq_enable_kicks(&queue->ring))
			continue;
		if (popped <= 0 || chain->writable_bytes > VSOCK_HEADER)
			return popped;
		virtio_push(queue, chain, 0); /* too small for data */
	}
}

void vsock_pump(struct vsock *v)
{
	struct virtio_queue *queue = &v->device.queue[RX];
	struct iovec iov[VSOCK_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = VSOCK_SEGMENTS };
	unsigned left = BURST;
	int popped = 1;

	if (!queue->enabled || queue->ring.error)
		return;
	virtq_disable_kicks(&queue->ring);
	for (; left && (v->n_resets || v->ready_head); left--) {
		popped = next_buffer(queue, &chain);
		if (popped <= 0)
			break;
		if (v->n_resets)
			send_reset(v, &chain);
		else if (!send_next(v, &chain))
			virtq_unpop(&queue->ring, &chain);
	}
	if (popped < 0)
		virtio_queue_failed(queue);
	if (!left)
		eventfd_write(queue->kick_fd, 1); /* go on after the loop's other work */
	virtio_call(queue);
}

static void rx_kicked(void *opaque, uint32_t events)
{
	struct vsock *v = opaque;
	eventfd_t count;

	eventfd_read(v->device.queue[RX].kick_fd, &count);
	vsock_pump(v);
}

/* --- from the guest --- */

static bool is_offered(const struct vsock *v, uint16_t type)
{
	return type == VIRTIO_VSOCK_TYPE_STREAM ||
	       (type == VIRTIO_VSOCK_TYPE_SEQPACKET && virtio_has(&v->device, VIRTIO_VSOCK_F_SEQPACKET));
}

static void take_packet(struct vsock *v, const struct virtq_chain *chain)
{
	struct virtio_vsock_hdr header;
	struct iovec payload[VSOCK_SEGMENTS];
	struct vsock_stream *s;
	size_t got = 0;

	if (chain->readable_bytes < sizeof(header))
		return;
	for (unsigned k = 0; got < sizeof(header); k++) {
		size_t part = chain->iov[k].iov_len < sizeof(header) - got ? chain->iov[k].iov_len : sizeof(header) - got;

		memcpy((uint8_t *)&header + got, chain->iov[k].iov_base, part);
		got += part;
	}
	if (header.src_cid != v->cid || header.len > chain->readable_bytes - sizeof(header))
		return; /* in nobody's name, or longer than it is */
	s = vsock_stream_find(v, header.dst_port, header.src_port);
	if (header.dst_cid != VSOCK_HOST_CID || !is_offered(v, header.type) || (s && s->type != header.type)) {
		if (header.op != VIRTIO_VSOCK_OP_RST)
			vsock_refuse(v, &header);
		return;
	}
	if (s)
		vsock_stream_take(s, &header, payload, skip_bytes(chain->iov, chain->readable, sizeof(header), payload));
	else if (header.op == VIRTIO_VSOCK_OP_REQUEST)
		vsock_host_request(v, &header);
	else if (header.op != VIRTIO_VSOCK_OP_RST)
		vsock_refuse(v, &header);
}

static void tx_kicked(void *opaque, uint32_t events)
{
	struct vsock *v = opaque;
	struct virtio_queue *queue = &v->device.queue[TX];
	struct iovec iov[VSOCK_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = VSOCK_SEGMENTS };
	unsigned left = BURST;
	eventfd_t count;
	int popped = 1;

	eventfd_read(queue->kick_fd, &count);
	do {
		virtq_disable_kicks(&queue->ring);
		while (left && (popped = virtq_pop(&queue->ring, &chain)) > 0) {
			take_packet(v, &chain);
			virtio_push(queue, &chain, 0);
			left--;
		}
	} while (left && !popped && virtq_enable_kicks(&queue->ring));
	if (popped < 0)
		virtio_queue_failed(queue);
	if (!left)
		eventfd_write(queue->kick_fd, 1);
	virtio_call(queue);
	vsock_pump(v);
}

/* The event queue has buffers for news that only migration would bring. */
static void event_kicked(void *opaque, uint32_t events)
{
	eventfd_t count;

	eventfd_read(((struct vsock *)opaque)->device.queue[EVENT].kick_fd, &count);
}

/* --- deadlines --- */

void vsock_sweep_later(struct vsock *v)
{
	loop_set_timer(v->sweep, now_ns() + SWEEP_NS, SWEEP_NS);
}

void vsock_expect_by(struct vsock_stream *s, uint64_t patience_ns)
{
	s->deadline_ns = patience_ns ? now_ns() + patience_ns : 0;
	if (patience_ns)
		vsock_sweep_later(s->vsock);
}

static void sweep(void *opaque, uint32_t events)
{
	struct vsock *v = opaque;
	struct vsock_stream *next;
	uint64_t now = now_ns();
	bool any = false;

	if (!atomic_load(&v->running)) {
		loop_set_timer(v->sweep, UINT64_MAX, 0);
		return;
	}
	for (struct vsock_stream *s = v->streams; s; s = next) {
		next = s->next;
		any |= s->deadline_ns != 0;
		if (s->deadline_ns && s->deadline_ns <= now)
			vsock_stream_kill(s);
	}
	vsock_host_accept_again(v);
	if (!any && !v->listener_paused)
		loop_set_timer(v->sweep, UINT64_MAX, 0);
	vsock_pump(v);
}

/* --- start and stop --- */

static void stop(void *opaque)
{
	struct vsock *v = opaque;

	atomic_store(&v->running, false);
	loop_del(v->rx_kick);
	loop_del(v->tx_kick);
	loop_del(v->event_kick);
	v->rx_kick = v->tx_kick = v->event_kick = NULL;
	loop_sync(v->loop); /* from here on callbacks of streams return at once */
	for (struct vsock_stream *s = v->streams; s; s = s->next) {
		loop_del(s->source);
		s->source = NULL;
	}
	loop_sync(v->loop);
	while (v->streams)
		vsock_stream_free(v->streams);
	v->n_resets = 0;
}

static int watch(struct vsock *v, unsigned index, loop_fn *fn, struct loop_source **source)
{
	struct virtio_queue *queue = &v->device.queue[index];

	return queue->enabled ? loop_add(v->loop, queue->kick_fd, EPOLLIN, fn, v, source) : 0;
}

static int start(void *opaque)
{
	struct vsock *v = opaque;
	int err;

	atomic_store(&v->running, true);
	err = watch(v, RX, rx_kicked, &v->rx_kick);
	if (!err)
		err = watch(v, TX, tx_kicked, &v->tx_kick);
	if (!err)
		err = watch(v, EVENT, event_kicked, &v->event_kick);
	if (err)
		stop(v);
	return err;
}

static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	struct virtio_vsock_config config = { .guest_cid = ((struct vsock *)opaque)->cid };

	memcpy(data, (uint8_t *)&config + offset, size);
}

static const struct virtio_type vsock_type = {
	.name = "vsock",
	.id = 19,
	.config_size = sizeof(struct virtio_vsock_config),
	.start = start,
	.stop = stop,
	.read_config = read_config,
};

static void *run(void *opaque)
{
	loop_run(((struct vsock *)opaque)->loop);
	return NULL;
}

int vsock_new(const struct dma *dma, const struct vsock_config *config, struct vsock **out, char *why, size_t why_size)
{
	const uint16_t sizes[N_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE };
	struct vsock *v = calloc(1, sizeof(*v));
	int err = v ? 0 : -ENOMEM;

	why[0] = 0;
	if (err)
		return err;
	v->cid = config->cid;
	for (unsigned k = 0; k < VSOCK_LISTENERS; k++)
		v->listener[k].fd = -1;
	v->next_host_port = 1u << 30;
	err = virtio_device_init(&v->device, &vsock_type, v, dma, 1ull << VSOCK_F_STREAM | 1ull << VIRTIO_VSOCK_F_SEQPACKET, sizes, N_QUEUES);
	if (err) {
		free(v);
		return err;
	}
	v->path = strdup(config->path);
	err = v->path ? loop_new(&v->loop) : -ENOMEM;
	if (!err)
		err = loop_add_timer(v->loop, sweep, v, &v->sweep);
	if (!err)
		err = vsock_host_listen(v, why, why_size);
	if (!err)
		err = thread_start(&v->thread, config->owner, "vsock", run, v);
	v->has_thread = !err;
	if (err) {
		vsock_free(v);
		return err;
	}
	*out = v;
	return 0;
}

void vsock_free(struct vsock *v)
{
	if (!v)
		return;
	virtio_device_deinit(&v->device);
	if (v->has_thread) {
		loop_stop(v->loop);
		pthread_join(v->thread, NULL);
	}
	loop_free(v->loop);
	vsock_host_close(v);
	free(v->path);
	free(v);
}

struct virtio_device *vsock_device(struct vsock *v)
{
	return &v->device;
}
