/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's virtio devices: each made, put on the PCI bus or at an MMIO address, its doorbells served by ioeventfds. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/internal.h"
#include "machine/layout.h"

static int set_doorbell(void *opaque, const struct virtio_doorbell *bell, bool on)
{
	struct machine *m = opaque;
	struct kvm_ioeventfd io = {.addr = bell->gpa, .len = bell->size, .fd = bell->fd, .datamatch = bell->value};

	io.flags = (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN) | (bell->matches ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0);
	return kvm_vm_ioeventfd(m->vm, &io);
}

/* On the bus that the device asks for, or else the machine's. 0/-errno. */
int virtio_put_on_bus(struct machine *m, enum machine_bus bus, struct virtio_device *device, struct machine_transport *t)
{
	struct virtio_doorbells doorbells = {set_doorbell, m};
	struct irq_wire irq;

	if (bus == MACHINE_BUS_DEFAULT)
		bus = m->config.virtio_bus;
	if (bus != MACHINE_BUS_MMIO)
		return virtio_pci_new(m->pci, device, &doorbells, &t->pci);
	if (m->n_virtio_mmio == VIRTIO_MMIO_MAX)
		return -ENOSPC;
	irq = machine_gsi(m, irq_of_virtio_mmio(m->n_virtio_mmio));
	return virtio_mmio_new(m->bus, VIRTIO_MMIO_BASE + m->n_virtio_mmio++ * VIRTIO_MMIO_SIZE, &irq, device, &doorbells, &t->mmio);
}

void virtio_take_off_bus(struct machine_transport *t)
{
	virtio_pci_free(t->pci);
	virtio_mmio_free(t->mmio);
}

static int add_disk(struct machine *m, unsigned index, char *error, size_t size)
{
	const struct machine_disk *config = &m->config.disk[index];
	struct machine_blk *d = &m->blk[index];
	unsigned cpus = m->config.cpu_count < 4 ? m->config.cpu_count : 4;
	struct blk_config blk = {m->config.name, config->serial, config->n_queues ? config->n_queues : cpus};
	char why[256];
	int err;

	if (config->vhost_user)
		return vhost_add_disk(m, index, error, size);
	err = disk_open(config->path, config->read_only ? DISK_READONLY : 0, &d->disk, why, sizeof(why));

	if (err) {
		snprintf(error, size, "disk %s", why);
		return err;
	}
	err = blk_new(d->disk, &m->dma, &blk, &d->blk);
	if (!err)
		err = virtio_put_on_bus(m, config->bus, blk_device(d->blk), &d->transport);
	if (err)
		snprintf(error, size, "disk %s: %s", config->path, strerror(-err));
	return err;
}

/* Locally administered, the same at every start, different by name and position (FNV-1a). */
static void derive_mac(const char *name, unsigned index, uint8_t mac[6])
{
	uint32_t hash = 2166136261u + index;

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 16777619u;
	memcpy(mac, (uint8_t[]){0x52, 0x54, 0x00, (uint8_t)(hash >> 16), (uint8_t)(hash >> 8), (uint8_t)hash}, 6);
}

static int add_net(struct machine *m, unsigned index, char *error, size_t size)
{
	const struct machine_net *config = &m->config.net[index];
	struct machine_nic *n = &m->nic[index];
	struct net_config net = {.owner = m->config.name, .mtu = config->mtu, .n_pairs = config->n_queues};
	char why[256];
	int err;

	if (config->has_mac)
		memcpy(net.mac, config->mac, 6);
	else
		derive_mac(m->config.name, index, net.mac);
	if (config->kind == MACHINE_NET_VHOST || config->kind == MACHINE_NET_VHOST_USER)
		return vhost_add_net(m, index, net.mac, error, size);
	if (config->kind == MACHINE_NET_TAP)
		err = port_tap_open(config->tap, config->n_queues, TAP_AUTO, &n->port, why, sizeof(why));
	else
		err = port_user_open(m->config.name, config->forward, config->n_forwards, &n->port, why, sizeof(why));
	if (err) {
		snprintf(error, size, "network: %s", why);
		return err;
	}
	err = net_new(n->port, &m->dma, &net, &n->net);
	if (!err)
		err = virtio_put_on_bus(m, config->bus, net_device(n->net), &n->transport);
	if (err)
		snprintf(error, size, "network %s: %s%s", n->port->ops->kind, strerror(-err),
			 net.n_pairs > n->port->n_queues ? " (more queues than it has)" : "");
	return err;
}

static int open_port(struct machine *m, struct vconsole_config *config, const char *name, const char *where, char *error, size_t size)
{
	struct console **console = &m->port_console[config->n_ports];
	char why[256] = "";
	int err = console_open(where, m->loop, console, why, sizeof(why));

	if (err) {
		snprintf(error, size, "%s%s: %s", name ? "port " : "--hvc", name ? name : "", *why ? why : strerror(-err));
		return err;
	}
	config->port[config->n_ports++] = (struct vconsole_port_config){name, *console, !name};
	return 0;
}

/* Port 0 is always the terminal, because a driver without MULTIPORT takes it for one. */
static int add_console(struct machine *m, char *error, size_t size)
{
	struct vconsole_config config = {.quit = machine_quit_typed, .quit_opaque = m};
	int err;

	if (!m->config.hvc && !m->config.n_ports)
		return 0;
	err = open_port(m, &config, NULL, m->config.hvc ? m->config.hvc : "none", error, size);
	for (unsigned k = 0; !err && k < m->config.n_ports; k++)
		err = open_port(m, &config, m->config.port[k].name, m->config.port[k].where, error, size);
	if (err)
		return err;
	err = vconsole_new(m->loop, &m->dma, &config, &m->vconsole);
	if (!err)
		err = virtio_put_on_bus(m, MACHINE_BUS_DEFAULT, vconsole_device(m->vconsole), &m->vconsole_transport);
	if (err)
		snprintf(error, size, "virtio console: %s", strerror(-err));
	return err;
}

static int open_rng_source(const char *path, int *fd)
{
	struct stat st;

	*fd = path ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	if (!path || (*fd >= 0 && !fstat(*fd, &st) && S_ISCHR(st.st_mode)))
		return 0;
	if (*fd < 0)
		return -errno;
	close(*fd);
	return -ENOTSUP;
}

static int add_rng(struct machine *m, char *error, size_t size)
{
	const char *source = m->config.rng_source;
	struct rng_config config = {.rate = m->config.rng_rate};
	int err;

	if (!m->config.rng)
		return 0;
	err = open_rng_source(source, &config.fd);
	if (err) {
		snprintf(error, size, "rng: %s: %s", source, err == -ENOTSUP ? "no character device" : strerror(-err));
		return err;
	}
	err = rng_new(m->loop, &m->dma, &config, &m->rng);
	if (!err)
		err = virtio_put_on_bus(m, MACHINE_BUS_DEFAULT, rng_device(m->rng), &m->rng_transport);
	if (err)
		snprintf(error, size, "rng: %s", strerror(-err));
	return err;
}

static int add_balloon(struct machine *m, char *error, size_t size)
{
	const struct machine_balloon *config = &m->config.balloon;
	char why[256] = "";
	int err;

	if (!config->present)
		return 0;
	err = balloon_new(m->loop, &m->dma, m->config.mem_size, &m->balloon);
	if (!err)
		err = virtio_put_on_bus(m, config->bus, balloon_device(m->balloon), &m->balloon_transport);
	if (!err && balloon_set_target(m->balloon, config->size)) {
		snprintf(why, sizeof(why), "larger than the guest's memory");
		err = -EINVAL;
	}
	if (!err && config->socket)
		err = balloon_socket_new(m->loop, m->balloon, config->socket, &m->balloon_socket, why, sizeof(why));
	if (err)
		snprintf(error, size, "balloon: %s", *why ? why : strerror(-err));
	return err;
}

static int add_vsock(struct machine *m, char *error, size_t size)
{
	const struct vsock_config config = {.owner = m->config.name, .cid = m->config.vsock.cid, .path = m->config.vsock.path};
	char why[256] = "";
	int err;

	if (!config.cid)
		return 0;
	if (!config.path)
		return vhost_add_vsock(m, error, size);
	err = vsock_new(&m->dma, &config, &m->vsock, why, sizeof(why));
	if (!err)
		err = virtio_put_on_bus(m, m->config.vsock.bus, vsock_device(m->vsock), &m->vsock_transport);
	if (err)
		snprintf(error, size, "vsock: %s", *why ? why : strerror(-err));
	return err;
}

int virtio_devices_new(struct machine *m, char *error, size_t size)
{
	int err = 0;

	for (unsigned k = 0; !err && k < m->config.n_disks; k++)
		err = add_disk(m, k, error, size);
	for (unsigned k = 0; !err && k < m->config.n_nets; k++)
		err = add_net(m, k, error, size);
	if (!err)
		err = add_rng(m, error, size);
	if (!err)
		err = add_console(m, error, size);
	if (!err)
		err = add_balloon(m, error, size);
	if (!err)
		err = add_vsock(m, error, size);
	return err;
}

void virtio_consoles_flush(struct machine *m)
{
	for (unsigned k = 0; k <= m->config.n_ports; k++)
		if (m->port_console[k])
			console_flush(m->port_console[k]);
}

void virtio_devices_free(struct machine *m)
{
	vhost_del(m->served_vsock, &m->vsock_transport);
	vsock_free(m->vsock);
	virtio_take_off_bus(&m->vsock_transport);
	balloon_socket_free(m->balloon_socket);
	balloon_free(m->balloon);
	virtio_take_off_bus(&m->balloon_transport);
	vconsole_free(m->vconsole);
	virtio_take_off_bus(&m->vconsole_transport);
	for (unsigned k = 0; k <= m->config.n_ports; k++)
		console_close(m->port_console[k]);
	rng_free(m->rng);
	virtio_take_off_bus(&m->rng_transport);
	for (unsigned k = 0; k < m->config.n_nets; k++) {
		vhost_del(m->nic[k].served, &m->nic[k].transport);
		net_free(m->nic[k].net);
		virtio_take_off_bus(&m->nic[k].transport);
		if (m->nic[k].port)
			m->nic[k].port->ops->close(m->nic[k].port);
	}
	for (unsigned k = 0; k < m->config.n_disks; k++) {
		vhost_del(m->blk[k].served, &m->blk[k].transport);
		blk_free(m->blk[k].blk);
		virtio_take_off_bus(&m->blk[k].transport);
		disk_close(m->blk[k].disk);
	}
}
