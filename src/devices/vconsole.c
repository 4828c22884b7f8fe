/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-console: each port is a byte stream between a pair of queues and a struct console. Queues 0 and 1 are port 0's,
 * 2 and 3 the control queues (vconsole_control.c), 4 and 5 port 1's, and so on (virtio 1.3, 5.3.2).
 *
 * Flow control, guest to host: a chain is taken from the transmitq only as far as the console has room; what is left waits
 * in the port (tx_held) until the console is writable again, and the guest's writers wait in turn. Host to guest: the
 * console reads no more than the next receive buffer holds, and for a plain port only while a program in the guest has
 * it open, because the driver throws away what comes earlier.
 *
 * Threads: all on the loop's, but for configuration space (any vCPU's), which has atomics only. The consoles go on calling
 * while the device is stopped; `running` is what they look at, and stop() waits for a call that is under way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "devices/vconsole_internal.h"

enum { QUEUE_SIZE = 128, CONTROL_QUEUES = 2, MAX_QUEUES = 2 * (VCONSOLE_MAX_PORTS + 1) };

static unsigned queue_of(unsigned port, bool transmit)
{
	return (port ? 2 * port + CONTROL_QUEUES : 0) + transmit;
}

static bool is_up(const struct vconsole_port *p)
{
	return atomic_load_explicit(&p->device->running, memory_order_acquire); /* pairs with start()'s store */
}

/* --- host to guest --- */

/* How many bytes the next receive buffer holds; 0: none, and a kick or an open will resume the console's input. */
static size_t rx_room(void *opaque)
{
	struct vconsole_port *p = opaque;
	struct iovec iov[VCONSOLE_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = VCONSOLE_SEGMENTS };
	int popped;

	if (!is_up(p) || !p->rx->enabled || p->rx->ring.error || (p->device->multiport && !p->config.is_terminal && !p->guest_is_open))
		return 0;
	do
		popped = virtq_pop(&p->rx->ring, &chain);
	while (!popped && virtq_enable_kicks(&p->rx->ring));
	if (popped < 0)
		virtio_queue_failed(p->rx);
	if (popped <= 0)
		return 0;
	virtq_unpop(&p->rx->ring, &chain);
	return chain.writable_bytes ? chain.writable_bytes : 1; /* one without room swallows a byte: the driver's mistake */
}

static void rx_receive(void *opaque, const uint8_t *bytes, size_t count)
{
	struct vconsole_port *p = opaque;
	struct iovec iov[VCONSOLE_SEGMENTS];
	struct virtq_chain chain = { .iov = iov, .capacity = VCONSOLE_SEGMENTS };
	uint32_t done = 0;

	if (!is_up(p) || virtq_pop(&p->rx->ring, &chain) <= 0)
		return; /* stopped since it was asked: bytes for a device that is being reset are lost */
	for (unsigned k = 0; k < chain.writable && done < count; k++) {
		const struct iovec *to = &iov[chain.readable + k];
		size_t part = to->iov_len < count - done ? to->iov_len : count - done;

		memcpy(to->iov_base, bytes + done, part);
		done += (uint32_t)part;
	}
	virtio_push(p->rx, &chain, done);
	virtio_call(p->rx);
}

static void rx_kicked(void *opaque, uint32_t events)
{
	struct vconsole_port *p = opaque;
	eventfd_t count;

	eventfd_read(p->rx->kick_fd, &count);
	virtq_disable_kicks(&p->rx->ring);
	console_resume_input(p->config.console);
}

/* --- guest to host --- */

/* Give the held chain's bytes to the console; true: all are gone. */
static bool tx_drain(struct vconsole_port *p)
{
	for (; p->tx_segment < p->tx_chain.readable; p->tx_segment++, p->tx_offset = 0) {
		const struct iovec *iov = &p->tx_iov[p->tx_segment];
		size_t left = iov->iov_len - p->tx_offset;
		size_t taken = console_try_write(p->config.console, (uint8_t *)iov->iov_base + p->tx_offset, left);

		p->tx_offset += taken;
		if (taken < left)
			return false;
	}
	return true;
}

static void tx_serve(struct vconsole_port *p)
{
	struct virtq *ring = &p->tx->ring;
	int popped = 1;

	do {
		virtq_disable_kicks(ring);
		for (;;) {
			if (!p->tx_held) {
				p->tx_chain = (struct virtq_chain){ .iov = p->tx_iov, .capacity = VCONSOLE_SEGMENTS };
				popped = virtq_pop(ring, &p->tx_chain);
				if (popped <= 0)
					break;
				p->tx_segment = 0;
				p->tx_offset = 0;
			}
			p->tx_held = !tx_drain(p);
			if (p->tx_held)
				break;
			virtio_push(p->tx, &p->tx_chain, 0);
		}
	} while (!popped && virtq_enable_kicks(ring));
	if (popped < 0)
		virtio_queue_failed(p->tx);
	virtio_call(p->tx);
}

static void tx_kicked(void *opaque, uint32_t events)
{
	struct vconsole_port *p = opaque;
	eventfd_t count;

	eventfd_read(p->tx->kick_fd, &count);
	tx_serve(p);
}

static void tx_writable(void *opaque)
{
	struct vconsole_port *p = opaque;

	if (is_up(p) && p->tx_held)
		tx_serve(p);
}

/* --- the console's other news --- */

static void client_changed(void *opaque, bool is_open)
{
	struct vconsole_port *p = opaque;

	if (!is_up(p))
		return;
	if (p->tx_held)
		tx_serve(p); /* what waited for the client that left is lost */
	vconsole_tell(p, TELL_OPEN);
}

static void size_changed(void *opaque, uint16_t columns, uint16_t rows)
{
	struct vconsole_port *p = opaque;
	struct vconsole *v = p->device;

	atomic_store(&v->columns, columns);
	atomic_store(&v->rows, rows);
	if (!is_up(p))
		return;
	if (v->multiport)
		vconsole_tell(p, TELL_RESIZE);
	else if (virtio_has(&v->device, VIRTIO_CONSOLE_F_SIZE))
		virtio_config_changed(&v->device);
}

static void quit_typed(void *opaque)
{
	struct vconsole *v = ((struct vconsole_port *)opaque)->device;

	if (v->config.quit)
		v->config.quit(v->config.quit_opaque);
}

/* --- control queues' kicks --- */

static void control_rx_kicked(void *opaque, uint32_t events)
{
	struct vconsole *v = opaque;
	eventfd_t count;

	eventfd_read(v->control_rx->kick_fd, &count);
	vconsole_flush_control(v);
}

static void control_tx_kicked(void *opaque, uint32_t events)
{
	struct vconsole *v = opaque;
	eventfd_t count;

	eventfd_read(v->control_tx->kick_fd, &count);
	vconsole_serve_control(v);
}

/* --- start and stop --- */

static void forget_source(struct loop_source **source)
{
	loop_del(*source);
	*source = NULL;
}

static void stop(void *opaque)
{
	struct vconsole *v = opaque;

	atomic_store(&v->running, false);
	forget_source(&v->control_rx_kick);
	forget_source(&v->control_tx_kick);
	for (unsigned k = 0; k < v->n_ports; k++) {
		forget_source(&v->port[k].rx_kick);
		forget_source(&v->port[k].tx_kick);
	}
	loop_sync(v->loop);
}

static int watch(struct vconsole *v, struct virtio_queue *queue, loop_fn *fn, void *opaque, struct loop_source **source)
{
	return queue->enabled ? loop_add(v->loop, queue->kick_fd, EPOLLIN, fn, opaque, source) : 0;
}

static int start_port(struct vconsole_port *p)
{
	int err;

	p->tell = 0;
	p->tx_held = false;
	p->is_known = p->guest_is_open = false;
	err = watch(p->device, p->rx, rx_kicked, p, &p->rx_kick);
	return err ? err : watch(p->device, p->tx, tx_kicked, p, &p->tx_kick);
}

static int start(void *opaque)
{
	struct vconsole *v = opaque;
	int err = 0;

	v->multiport = virtio_has(&v->device, VIRTIO_CONSOLE_F_MULTIPORT);
	for (unsigned k = 0; !err && k < (v->multiport ? v->n_ports : 1); k++)
		err = start_port(&v->port[k]);
	if (!err && v->multiport)
		err = watch(v, v->control_rx, control_rx_kicked, v, &v->control_rx_kick);
	if (!err && v->multiport)
		err = watch(v, v->control_tx, control_tx_kicked, v, &v->control_tx_kick);
	if (err) {
		stop(v);
		return err;
	}
	atomic_store_explicit(&v->running, true, memory_order_release); /* pairs with is_up() */
	for (unsigned k = 0; k < v->n_ports; k++)
		console_resume_input(v->port[k].config.console);
	return 0;
}

/* --- configuration space: any vCPU's thread --- */

static void read_config(void *opaque, uint32_t offset, void *data, unsigned size)
{
	struct vconsole *v = opaque;
	struct virtio_console_config config = {
		.cols = atomic_load(&v->columns), .rows = atomic_load(&v->rows), .max_nr_ports = v->n_ports,
	};

	memcpy(data, (uint8_t *)&config + offset, size);
}

static void write_config(void *opaque, uint32_t offset, const void *data, unsigned size)
{
	struct vconsole *v = opaque;

	if (offset == offsetof(struct virtio_console_config, emerg_wr) && size) /* works before any negotiation (5.3.4) */
		console_try_write(v->port[0].config.console, data, 1);
}

static const struct virtio_type vconsole_type = {
	.name = "console",
	.id = 3,
	.config_size = sizeof(struct virtio_console_config),
	.start = start,
	.stop = stop,
	.read_config = read_config,
	.write_config = write_config,
};

static void connect_port(struct vconsole *v, unsigned k)
{
	struct vconsole_port *p = &v->port[k];
	struct console_peer peer = {
		.room = rx_room, .receive = rx_receive, .quit = quit_typed, .opaque = p,
		.writable = tx_writable, .opened = client_changed, .resized = v->config.port[k].is_terminal && !k ? size_changed : NULL,
	};

	p->device = v;
	p->id = k;
	p->config = v->config.port[k];
	p->rx = &v->device.queue[queue_of(k, false)];
	p->tx = &v->device.queue[queue_of(k, true)];
	console_set_peer(p->config.console, &peer);
}

int vconsole_new(struct loop *loop, const struct dma *dma, const struct vconsole_config *config, struct vconsole **out)
{
	uint64_t features = 1ull << VIRTIO_CONSOLE_F_SIZE | 1ull << VIRTIO_CONSOLE_F_MULTIPORT | 1ull << VIRTIO_CONSOLE_F_EMERG_WRITE;
	uint16_t sizes[MAX_QUEUES];
	struct vconsole *v;
	int err;

	if (!config->n_ports || config->n_ports > VCONSOLE_MAX_PORTS)
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->loop = loop;
	v->config = *config;
	v->n_ports = config->n_ports;
	for (unsigned k = 0; k < MAX_QUEUES; k++)
		sizes[k] = QUEUE_SIZE;
	err = virtio_device_init(&v->device, &vconsole_type, v, dma, features, sizes, 2 * (v->n_ports + 1));
	if (err) {
		free(v);
		return err;
	}
	v->control_rx = &v->device.queue[2];
	v->control_tx = &v->device.queue[3];
	for (unsigned k = 0; k < v->n_ports; k++)
		connect_port(v, k);
	*out = v;
	return 0;
}

void vconsole_free(struct vconsole *v)
{
	if (!v)
		return;
	virtio_device_deinit(&v->device);
	free(v);
}

struct virtio_device *vconsole_device(struct vconsole *v)
{
	return &v->device;
}
