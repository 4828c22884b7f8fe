/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel's vhost (Documentation: include/uapi/linux/vhost.h). A session of /dev/vhost-net has two rings,
 * so a network device with several pairs opens it once per pair; /dev/vhost-vsock has two. Memory is named by
 * this process's own addresses; the kernel's thread works in this address space.
 *
 * Enabling a network ring is giving it its TAP queue, disabling it is taking that away: then the kernel
 * leaves the ring alone, and the TAP does not put packets into that queue. vsock's two rings run or do not run together, so they start with the second one.
 *
 * Checksum and segmentation offloads are the TAP's, not vhost's: they are part of what get_features() offers,
 * and set_features() passes the driver's choice on to the TAP.
 *
 * With ACCESS_PLATFORM the kernel looks addresses up in an IOTLB of its own, filled by messages written to the
 * descriptor. There is no IOMMU here: all regions are translations of themselves, and are there before a ring
 * starts. So a miss, which is read from the descriptor, is an address outside the memory (unless it came while
 * the IOTLB was filled anew), and its ring waits for a translation that will never come. The kernel keeps each
 * such question, and every kick asks one more: the device's rings are stopped at the first. A kernel that has
 * had an IOTLB once keeps using it, whatever the features say later (vhost_init_device_iotlb()), and each
 * VHOST_SET_FEATURES with the bit empties it.
 */
#include "vhost/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vhost/regions.h"

enum { RINGS = 2, MAX_FDS = 16, SERVED_AT_ONCE = 64 };

struct kernel_ring {
	bool is_started, is_enabled;
	struct virtq_config config;
};

struct vhost_kernel {
	struct vhost vhost;
	unsigned n_fds;
	int fd[MAX_FDS];
	struct port *tap;	  /* network only */
	uint64_t kernel_features; /* what the kernel itself offers */
	uint64_t features;	  /* set */
	bool has_iotlb;		  /* the kernel translates addresses, rings' too */
	struct vhost_region region[VHOST_MAX_REGIONS];
	unsigned n_regions;
	struct kernel_ring ring[RINGS * MAX_FDS];
	void *log;
	uint64_t log_size;
};

static struct vhost_kernel *kernel_of(struct vhost *v)
{
	return (struct vhost_kernel *)v;
}

static int call(int fd, unsigned long request, const void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

static int call_all(const struct vhost_kernel *k, unsigned long request, const void *arg)
{
	int err = 0;

	for (unsigned i = 0; i < k->n_fds && !err; i++)
		err = call(k->fd[i], request, arg);
	return err;
}

/* --- features --- */

static const struct {
	unsigned offload, host_bit, guest_bit;
} offload_bits[] = {
	{PORT_CSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM},
	{PORT_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4},
	{PORT_TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6},
	{PORT_ECN, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN},
	{PORT_UFO, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO},
};
enum { N_OFFLOADS = sizeof(offload_bits) / sizeof(offload_bits[0]) };

/* The TAP's bits are on offer beside the kernel's. */
static int get_features(struct vhost *v, uint64_t *features)
{
	struct vhost_kernel *k = kernel_of(v);

	*features = k->kernel_features & ~(1ull << VHOST_NET_F_VIRTIO_NET_HDR);
	if (!k->tap)
		return 0;
	*features |= k->n_fds > 1 ? 1ull << VIRTIO_NET_F_MQ : 0;
	for (unsigned i = 0; i < N_OFFLOADS; i++) {
		*features |= k->tap->send_offloads & offload_bits[i].offload
				     ? 1ull << offload_bits[i].host_bit
				     : 0;
		*features |= k->tap->receive_offloads & offload_bits[i].offload
				     ? 1ull << offload_bits[i].guest_bit
				     : 0;
	}
	return 0;
}

/* --- the kernel's IOTLB --- */

static int tell_iotlb(int fd, const struct vhost_iotlb_msg *what)
{
	struct vhost_msg m = {.type = VHOST_IOTLB_MSG, .iotlb = *what};
	ssize_t written = write(fd, &m, sizeof(m));

	return written == (ssize_t)sizeof(m) ? 0 : written < 0 ? -errno : -EIO;
}

static int translate(int fd, const struct vhost_region *r)
{
	return tell_iotlb(fd, &(struct vhost_iotlb_msg){.iova = r->gpa,
							.size = r->size,
							.uaddr = (uintptr_t)r->hva,
							.perm = VHOST_ACCESS_RW,
							.type = VHOST_IOTLB_UPDATE});
}

/* All regions, each at its own address, in place of what was there. */
static int fill_iotlb(const struct vhost_kernel *k)
{
	struct vhost_iotlb_msg all = {.size = UINT64_MAX, .type = VHOST_IOTLB_INVALIDATE};
	int err = 0;

	for (unsigned i = 0; i < k->n_fds && k->has_iotlb && !err; i++) {
		err = tell_iotlb(k->fd[i], &all);
		for (unsigned r = 0; r < k->n_regions && !err; r++)
			err = translate(k->fd[i], &k->region[r]);
	}
	return err;
}

/* --- the TAP's offloads --- */

static int set_offloads(struct vhost_kernel *k, uint64_t features)
{
	unsigned offloads = 0;

	for (unsigned i = 0; i < N_OFFLOADS; i++)
		offloads |= features >> offload_bits[i].guest_bit & 1 ? offload_bits[i].offload : 0;
	return k->tap->ops->set_receive_offloads(k->tap, offloads);
}

static int set_features(struct vhost *v, uint64_t features)
{
	struct vhost_kernel *k = kernel_of(v);
	uint64_t for_kernel = features & k->kernel_features;
	int err = call_all(k, VHOST_SET_FEATURES, &for_kernel);

	if (err)
		return err;
	k->features = features;
	k->has_iotlb |= features >> VIRTIO_F_ACCESS_PLATFORM & 1;
	err = fill_iotlb(k);
	return err || !k->tap ? err : set_offloads(k, features);
}

/* --- memory and rings --- */

static int set_memory(struct vhost *v, const struct vhost_region *region, unsigned n)
{
	struct vhost_kernel *k = kernel_of(v);
	struct vhost_memory *table;
	int err;

	if (n > VHOST_MAX_REGIONS)
		return -E2BIG;
	table = calloc(1, sizeof(*table) + n * sizeof(table->regions[0]));
	if (!table)
		return -ENOMEM;
	table->nregions = n;
	for (unsigned i = 0; i < n; i++)
		table->regions[i] = (struct vhost_memory_region){region[i].gpa, region[i].size,
								 (uintptr_t)region[i].hva, 0};
	err = call_all(k, VHOST_SET_MEM_TABLE, table);
	free(table);
	if (!err) {
		memcpy(k->region, region, n * sizeof(*region));
		k->n_regions = n;
		err = fill_iotlb(k);
	}
	return err;
}

static int set_addresses(struct vhost_kernel *k, unsigned index)
{
	struct vhost_vring_addr addr;
	int err = vhost_ring_addresses(k->region, k->n_regions, index % RINGS, &k->ring[index].config,
				       k->has_iotlb, k->log != NULL, &addr);

	return err ? err : call(k->fd[index / RINGS], VHOST_SET_VRING_ADDR, &addr);
}

/* -1 takes away what was set. */
static int set_file(struct vhost_kernel *k, unsigned index, unsigned long request, int fd)
{
	struct vhost_vring_file file = {index % RINGS, fd};

	return call(k->fd[index / RINGS], request, &file);
}

static int set_number(struct vhost_kernel *k, unsigned index, unsigned long request, unsigned number)
{
	struct vhost_vring_state state = {index % RINGS, number};

	return call(k->fd[index / RINGS], request, &state);
}

static int start_ring(struct vhost *v, unsigned index, const struct vhost_ring *ring)
{
	struct vhost_kernel *k = kernel_of(v);
	int err;

	if (index >= k->n_fds * RINGS)
		return -EINVAL;
	k->ring[index] = (struct kernel_ring){.config = ring->config};
	if ((err = set_number(k, index, VHOST_SET_VRING_NUM, ring->config.size)) ||
	    (err = set_number(k, index, VHOST_SET_VRING_BASE, ring->base)) ||
	    (err = set_addresses(k, index)) ||
	    (err = set_file(k, index, VHOST_SET_VRING_ERR, ring->err_fd)) ||
	    (err = set_file(k, index, VHOST_SET_VRING_CALL, ring->call_fd)) ||
	    (err = set_file(k, index, VHOST_SET_VRING_KICK, ring->kick_fd)))
		return err;
	k->ring[index].is_started = true;
	return 0;
}

/*
 * The TAP spreads packets over its attached queues, whether vhost takes them from there or not: those up to the
 * last pair that takes any.
 */
static int attach_tap_queues(struct vhost_kernel *k)
{
	unsigned n = 1;

	for (unsigned pair = 1; pair < k->n_fds; pair++)
		n = k->ring[RINGS * pair].is_enabled ? pair + 1 : n;
	return k->tap->ops->set_queues(k->tap, n);
}

static int run_net_ring(struct vhost_kernel *k, unsigned index, bool on)
{
	int fd = on ? k->tap->ops->receive_fd(k->tap, index / RINGS) : -1, err = 0;

	k->ring[index].is_enabled = on;
	if (on)
		err = attach_tap_queues(k);
	if (!err)
		err = set_file(k, index, VHOST_NET_SET_BACKEND, fd);
	if (err)
		k->ring[index].is_enabled = !on;
	if (err || !on)
		return attach_tap_queues(k) && !err ? -EIO : err;
	return 0;
}

/* Both rings run once both are enabled; neither when one no longer is. */
static int run_vsock(struct vhost_kernel *k, unsigned index, bool on)
{
	bool other = k->ring[!index].is_enabled;
	int running = on;

	return other ? call(k->fd[0], VHOST_VSOCK_SET_RUNNING, &running) : 0;
}

static int enable_ring(struct vhost *v, unsigned index, bool on)
{
	struct vhost_kernel *k = kernel_of(v);
	int err;

	if (index >= k->n_fds * RINGS || !k->ring[index].is_started)
		return -EINVAL;
	if (k->ring[index].is_enabled == on)
		return 0;
	err = k->tap ? run_net_ring(k, index, on) : run_vsock(k, index, on);
	if (!err)
		k->ring[index].is_enabled = on;
	return err;
}

static int stop_ring(struct vhost *v, unsigned index, uint32_t *base)
{
	struct vhost_kernel *k = kernel_of(v);
	struct vhost_vring_state state = {.index = index % RINGS};
	int err = enable_ring(v, index, false);

	if (!err)
		err = call(k->fd[index / RINGS], VHOST_GET_VRING_BASE, &state);
	if (err)
		return err;
	/* Its thread keeps polling the kick otherwise. */
	set_file(k, index, VHOST_SET_VRING_KICK, -1);
	set_file(k, index, VHOST_SET_VRING_CALL, -1);
	set_file(k, index, VHOST_SET_VRING_ERR, -1);
	k->ring[index].is_started = false;
	*base = state.num;
	return 0;
}

/* --- what the kernel has to say --- */

static unsigned watched(struct vhost *v, const int **fd)
{
	*fd = kernel_of(v)->fd;
	return kernel_of(v)->n_fds;
}

/* A miss within the memory was asked for while the IOTLB was filled anew: its ring waits to be told again. */
static int answer_miss(const struct vhost_kernel *k, int fd, uint64_t iova)
{
	for (unsigned r = 0; r < k->n_regions; r++)
		if (iova >= k->region[r].gpa && iova - k->region[r].gpa < k->region[r].size)
			return translate(fd, &k->region[r]);
	return -EFAULT;
}

static int serve_one(struct vhost_kernel *k, int fd, uint64_t *address)
{
	struct vhost_msg m;
	int err = 0;

	for (unsigned left = SERVED_AT_ONCE; left && !err && read(fd, &m, sizeof(m)) == (ssize_t)sizeof(m); left--)
		if (m.type == VHOST_IOTLB_MSG && m.iotlb.type == VHOST_IOTLB_MISS) {
			*address = m.iotlb.iova;
			err = answer_miss(k, fd, m.iotlb.iova);
		}
	return err;
}

static int serve(struct vhost *v, uint64_t *address)
{
	struct vhost_kernel *k = kernel_of(v);
	bool was_enabled = false;
	int err = 0;

	for (unsigned i = 0; i < k->n_fds && !err; i++)
		err = serve_one(k, k->fd[i], address);
	if (!err)
		return 0;
	for (unsigned r = 0; r < k->n_fds * RINGS; r++) {
		was_enabled |= k->ring[r].is_enabled;
		if (k->ring[r].is_started)
			enable_ring(v, r, false);
	}
	return was_enabled ? err : 0;
}

/* --- the log of written pages --- */

static int set_logging(struct vhost_kernel *k)
{
	uint64_t features = (k->features & k->kernel_features) | (k->log ? 1ull << VHOST_F_LOG_ALL : 0);
	int err = call_all(k, VHOST_SET_FEATURES, &features);

	if (!err)
		err = fill_iotlb(k);
	for (unsigned i = 0; i < k->n_fds * RINGS && !err; i++)
		err = k->ring[i].is_started ? set_addresses(k, i) : 0;
	return err;
}

static int set_log(struct vhost *v, int fd, uint64_t size)
{
	struct vhost_kernel *k = kernel_of(v);
	void *old = k->log,
	     *map = fd < 0 ? NULL : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t old_size = k->log_size, base = (uintptr_t)map;
	int err = 0;

	if (map == MAP_FAILED)
		return -errno;
	if (map)
		err = call_all(k, VHOST_SET_LOG_BASE, &base);
	if (!err) {
		k->log = map;
		k->log_size = size;
		err = set_logging(k);
	}
	if (err) { /* what was there stays */
		k->log = old;
		k->log_size = old_size;
		old = map;
		old_size = size;
	}
	if (old)
		munmap(old, old_size);
	return err;
}

/* A TAP's file is in error once its interface was deleted. vhost itself says nothing then. */
static int lost_fd(struct vhost *v)
{
	struct vhost_kernel *k = kernel_of(v);

	return k->tap->ops->receive_fd(k->tap, 0);
}

/* --- open and close --- */

static void kernel_close(struct vhost *v)
{
	struct vhost_kernel *k = kernel_of(v);

	for (unsigned i = 0; i < k->n_fds; i++)
		close(k->fd[i]);
	if (k->log)
		munmap(k->log, k->log_size);
	if (k->tap)
		k->tap->ops->close(k->tap);
	free(k);
}

static const struct vhost_ops net_ops = {
	.kind = "vhost-net",
	.get_features = get_features,
	.set_features = set_features,
	.set_memory = set_memory,
	.start_ring = start_ring,
	.stop_ring = stop_ring,
	.enable_ring = enable_ring,
	.set_log = set_log,
	.watched = watched,
	.serve = serve,
	.lost_fd = lost_fd,
	.close = kernel_close,
};

static const struct vhost_ops vsock_ops = {
	.kind = "vhost-vsock",
	.get_features = get_features,
	.set_features = set_features,
	.set_memory = set_memory,
	.start_ring = start_ring,
	.stop_ring = stop_ring,
	.enable_ring = enable_ring,
	.set_log = set_log,
	.watched = watched,
	.serve = serve,
	.close = kernel_close,
};

/* One more session of the device: the caller closes it with the rest. */
static int open_one(struct vhost_kernel *k, const char *path, const char **step)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	*step = "open it (is its module loaded, and may you?)";
	if (fd < 0)
		return -errno;
	k->fd[k->n_fds++] = fd;
	*step = "own it";
	if (ioctl(fd, VHOST_SET_OWNER))
		return -errno;
	*step = "ask for its features";
	return call(fd, VHOST_GET_FEATURES, &k->kernel_features);
}

static int open_device(const char *path, const struct vhost_ops *ops, unsigned n, struct vhost_kernel **out,
		       char *why, unsigned why_size)
{
	struct vhost_kernel *k = calloc(1, sizeof(*k));
	const char *step = NULL;
	int err = k ? 0 : -ENOMEM;

	if (err) {
		snprintf(why, why_size, "%s: %s", path, strerror(-err));
		return err;
	}
	k->vhost.ops = ops;
	for (unsigned i = 0; i < n && !err; i++)
		err = open_one(k, path, &step);
	if (err) {
		snprintf(why, why_size, "%s: cannot %s: %s", path, step, strerror(-err));
		kernel_close(&k->vhost);
		return err;
	}
	*out = k;
	return 0;
}

int vhost_net_open(struct port *tap, unsigned n_pairs, struct vhost **v, char *why, unsigned why_size)
{
	struct vhost_kernel *k;
	int err;

	if (!n_pairs || n_pairs > MAX_FDS || n_pairs > tap->n_queues) {
		snprintf(why, why_size, "vhost-net: %u queue pairs on a TAP of %u, and %d are possible",
			 n_pairs, tap->n_queues, MAX_FDS);
		return -EINVAL;
	}
	err = open_device("/dev/vhost-net", &net_ops, n_pairs, &k, why, why_size);
	if (err)
		return err;
	k->tap = tap;
	*v = &k->vhost;
	return 0;
}

int vhost_vsock_open(uint64_t cid, struct vhost **v, char *why, unsigned why_size)
{
	struct vhost_kernel *k;
	int err = open_device("/dev/vhost-vsock", &vsock_ops, 1, &k, why, why_size);

	if (err)
		return err;
	err = call(k->fd[0], VHOST_VSOCK_SET_GUEST_CID, &cid);
	if (err) {
		snprintf(why, why_size, "vhost-vsock: CID %llu: %s", (unsigned long long)cid,
			 err == -EADDRINUSE ? "another guest has it" : strerror(-err));
		kernel_close(&k->vhost);
		return err;
	}
	*v = &k->vhost;
	return 0;
}
