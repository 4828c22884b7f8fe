/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel's vhost-net with ACCESS_PLATFORM, and a driver that names an address outside the memory: the rings stand
 * still, which is said once, and work again after a restart. Runs as root where there is a /dev/vhost-net; prints
 * "OUTSIDE OK" or what was wrong.
 */
#include <linux/if.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/port.h"
#include "vhost/kernel.h"
#include "vhost/link.h"

enum { RAM = 1 << 20, SIZE = 64, RINGS = 2, TRANSMITQ = 1, BUFFER = 0x80000, FRAME = 12 + 60 };
static const uint64_t features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_ACCESS_PLATFORM;
static const gpa_t outside = 1ull << 40;

static struct memory memory;
static struct virtq_driver queue[RINGS];
static struct vhost_ring ring[RINGS];

static void must(int failed, const char *what)
{
	if (!failed)
		return;
	printf("%s failed\n", what);
	exit(1);
}

static void set_up(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(request.ifr_name, name);
	must(ioctl(fd, SIOCSIFFLAGS, &request), "setting the TAP up");
	close(fd);
}

static void start(struct vhost_link *link, const struct vhost_region *region)
{
	for (unsigned k = 0; k < RINGS; k++) {
		struct virtq_config c = {.size = SIZE, .desc = 0x1000 + k * 0x3000};

		c.driver = c.desc + 0x1000;
		c.device = c.desc + 0x2000;
		ring[k].config = c;
		must(virtq_driver_start(&queue[k], &memory, &c), "starting a driver");
	}
	must(vhost_link_start(link, features, region, 1, ring, RINGS), "starting the rings");
}

/* Is a frame at that address sent within so many ms? */
static bool is_sent(gpa_t at, unsigned ms)
{
	struct virtq_segment seg = {at, FRAME};
	uint32_t written;

	must(virtq_driver_add(&queue[TRANSMITQ], &seg, 1, 0, ring), "adding a frame");
	eventfd_write(ring[TRANSMITQ].kick_fd, 1);
	for (; ms; ms--) {
		if (virtq_driver_take(&queue[TRANSMITQ], &written))
			return true;
		usleep(1000);
	}
	return false;
}

int main(void)
{
	struct vhost_link_config config = {.owner = "outside", .device_id = 1, .features = features, .required = features, .n_rings = RINGS,
					   .ring_size = SIZE};
	struct vhost_region region = {.size = RAM};
	struct mem_slot slot = {.size = RAM};
	struct vhost_link *link;
	struct port *tap;
	char why[256] = "";

	must(ram_alloc("outside", RAM, NULL, false, &slot.hva, &slot.fd), "allocating memory");
	memory_init(&memory);
	must(memory_set_slot(&memory, &slot), "setting memory");
	region.hva = slot.hva;
	region.fd = slot.fd;
	for (unsigned k = 0; k < RINGS; k++)
		ring[k] = (struct vhost_ring){.kick_fd = eventfd(0, EFD_NONBLOCK), .call_fd = eventfd(0, EFD_NONBLOCK), .err_fd = -1};
	must(port_tap_open("tap9", 1, TAP_PLAIN, &tap, why, sizeof(why)), why);
	set_up("tap9");
	must(vhost_net_open(tap, 1, &config.device, why, sizeof(why)), why);
	must(vhost_link_new(&config, &link, why, sizeof(why)), why);
	start(link, &region);
	must(!is_sent(BUFFER, 20000), "sending a frame");
	must(is_sent(outside, 500), "not sending what is outside");
	must(is_sent(BUFFER, 500), "standing still");
	vhost_link_stop(link, NULL);
	for (unsigned k = 0; k < RINGS; k++)
		virtq_driver_stop(&queue[k]);
	start(link, &region);
	must(!is_sent(BUFFER, 20000), "sending a frame after a restart");
	vhost_link_free(link);
	puts("OUTSIDE OK");
	return 0;
}
