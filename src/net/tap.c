/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TAP: a network interface of the host kernel. With IFF_VNET_HDR the kernel takes and gives the very header that a
 * virtio driver uses, so packets pass between guest memory and the kernel in one read or write, offloads included. Here is what
 * is done once; tap_burst.c moves the packets.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/tap_internal.h"

static int tap_receive_fd(struct port *port, unsigned queue)
{
	return ((struct tap *)port)->queue[queue].fd;
}

enum { FLAG_USO4 = 0x20, FLAG_USO6 = 0x40 }; /* TUN_F_*, newer than the kernel's headers; one is nothing without the other */

static int set_offloads(int fd, unsigned offloads)
{
	static const struct {
		unsigned offload, flags;
	} map[] = {
		{ PORT_CSUM, TUN_F_CSUM },    { PORT_TSO4, TUN_F_TSO4 }, { PORT_TSO6, TUN_F_TSO6 },
		{ PORT_ECN, TUN_F_TSO_ECN }, { PORT_UFO, TUN_F_UFO },	{ PORT_USO, FLAG_USO4 | FLAG_USO6 },
	};
	unsigned flags = 0;

	for (unsigned k = 0; k < sizeof(map) / sizeof(map[0]); k++)
		flags |= offloads & map[k].offload ? map[k].flags : 0;
	return ioctl(fd, TUNSETOFFLOAD, flags) ? -errno : 0;
}

static int tap_set_receive_offloads(struct port *port, unsigned offloads)
{
	return set_offloads(((struct tap *)port)->queue[0].fd, offloads);
}

/* What this kernel's TAPs can do, both ways: what it lets one hand out, it takes as well. Leaves all of it off. */
static unsigned find_offloads(int fd)
{
	unsigned found = PORT_CSUM | PORT_TSO4 | PORT_TSO6 | PORT_ECN;

	for (unsigned offload = PORT_UFO; offload <= PORT_USO; offload <<= 1)
		found |= set_offloads(fd, PORT_CSUM | offload) ? 0 : offload;
	set_offloads(fd, 0);
	return found;
}

/* A detached queue gets no packets from the kernel's flow steering. */
static int tap_set_queues(struct port *port, unsigned n)
{
	struct tap *tap = (struct tap *)port;

	for (unsigned k = 0; k < port->n_queues && port->n_queues > 1; k++) {
		struct ifreq request = { .ifr_flags = (short)(k < n ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE) };

		if ((k < n) != (k < tap->n_attached) && ioctl(tap->queue[k].fd, TUNSETQUEUE, &request))
			return -errno;
	}
	tap->n_attached = n;
	return 0;
}

static void tap_counters(const struct port *port, struct port_counters *sum)
{
	const struct tap *tap = (const struct tap *)port;

	for (unsigned k = 0; k < port->n_queues; k++)
		port_counters_add(sum, &tap->queue[k].counters);
}

static void tap_close(struct port *port)
{
	struct tap *tap = (struct tap *)port;

	for (unsigned k = 0; k < port->n_queues; k++)
		tap_queue_deinit(&tap->queue[k]);
	free(tap);
}

static const struct port_ops tap_ops = {
	.kind = "tap",
	.send = tap_send,
	.receive = tap_receive,
	.receive_fd = tap_receive_fd,
	.set_receive_offloads = tap_set_receive_offloads,
	.set_queues = tap_set_queues,
	.close = tap_close,
	.counters = tap_counters,
};

static int open_queue(const char *name, bool multi_queue, const char **step)
{
	struct ifreq request = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0)) };
	int header = PORT_HEADER, fd;

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	*step = "open /dev/net/tun";
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*step = "attach to the interface (is it there, a TAP, yours, and free?)";
	if (ioctl(fd, TUNSETIFF, &request))
		goto fail;
	*step = "set the header size";
	if (ioctl(fd, TUNSETVNETHDRSZ, &header))
		goto fail;
	*step = "switch offloads off";
	if (ioctl(fd, TUNSETOFFLOAD, 0))
		goto fail;
	return fd;
fail:
	header = errno;
	close(fd);
	return -header;
}

int port_tap_open(const char *name, unsigned n_queues, enum tap_calls calls, struct port **out, char *why, unsigned why_size)
{
	struct tap *tap;
	const char *step;

	if (!n_queues || n_queues > TAP_MAX_QUEUES || !*name || strlen(name) >= IFNAMSIZ) {
		snprintf(why, why_size, "tap %s: a name of 1 to %d characters and 1 to %d queues, please", name, IFNAMSIZ - 1,
			 TAP_MAX_QUEUES);
		return -EINVAL;
	}
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return -ENOMEM;
	snprintf(tap->name, sizeof(tap->name), "tap %s", name);
	tap->port = (struct port){ .ops = &tap_ops, .name = tap->name, .mtu = 1500 };
	for (unsigned k = 0; k < n_queues; k++) {
		int fd = open_queue(name, n_queues > 1, &step);

		if (fd < 0) {
			snprintf(why, why_size, "tap %s: cannot %s: %s", name, step, strerror(-fd));
			tap_close(&tap->port);
			return fd;
		}
		tap->queue[k].fd = fd;
		tap_queue_init(&tap->queue[k], calls);
		tap->port.n_queues++;
	}
	tap->n_attached = n_queues;
	tap->port.send_offloads = tap->port.receive_offloads = find_offloads(tap->queue[0].fd);
	*out = &tap->port;
	return 0;
}
