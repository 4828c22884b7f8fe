/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's devices that somebody else serves: another process over vhost-user, or the host kernel. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "machine/internal.h"
#include "vhost/kernel.h"

/* The engine delivers their calls, where the transport has messages. */
static int attach(struct machine *m, enum machine_bus bus, struct served *served, struct machine_transport *t)
{
	struct virtio_calls calls = machine_calls(m);
	int err = virtio_put_on_bus(m, bus, served_device(served), t);

	if (!err && t->pci)
		virtio_pci_direct_calls(t->pci, &calls);
	return err;
}

int vhost_add_disk(struct machine *m, unsigned index, char *error, size_t size)
{
	const struct machine_disk *config = &m->config.disk[index];
	struct machine_blk *d = &m->blk[index];
	struct served_config served = {
		.owner = m->config.name,
		.path = config->path,
		.server = config->server,
		.n_queues = config->n_queues,
		.default_queues = m->config.cpu_count < 4 ? m->config.cpu_count : 4,
		.packed = config->packed,
		.access_platform = config->access_platform,
	};
	char why[256];
	int err = vhost_blk_new(&served, &m->dma, &d->served, why, sizeof(why));

	if (!err && (err = attach(m, config->bus, d->served, &d->transport)))
		snprintf(why, sizeof(why), "%s", strerror(-err));
	if (err)
		snprintf(error, size, "disk vhost-user=%s: %s", config->path, why);
	return err;
}

/* A TAP with the kernel's vhost. */
static int open_kernel(const struct machine_net *config, struct vhost **v, char *why, unsigned why_size)
{
	struct port *tap;
	int err = port_tap_open(config->tap, config->n_queues, TAP_PLAIN, &tap, why, why_size);

	if (err)
		return err;
	err = vhost_net_open(tap, config->n_queues, v, why, why_size);
	if (err)
		tap->ops->close(tap);
	return err;
}

int vhost_add_net(struct machine *m, unsigned index, const uint8_t mac[6], char *error, size_t size)
{
	const struct machine_net *config = &m->config.net[index];
	struct machine_nic *n = &m->nic[index];
	struct served_config served = {
		.owner = m->config.name,
		.path = config->socket,
		.server = config->server,
		.n_queues = config->n_queues,
		.has_mac = true,
		.mtu = config->mtu,
		.packed = config->packed,
		.access_platform = config->access_platform,
	};
	char why[256];
	int err = 0;

	memcpy(served.mac, mac, 6);
	if (config->kind == MACHINE_NET_VHOST)
		err = open_kernel(config, &served.kernel, why, sizeof(why));
	if (!err)
		err = vhost_net_new(&served, &m->dma, &n->served, why, sizeof(why));
	if (!err && (err = attach(m, config->bus, n->served, &n->transport)))
		snprintf(why, sizeof(why), "%s", strerror(-err));
	if (err)
		snprintf(error, size, "network: %s: %s", config->socket ? config->socket : config->tap, why);
	return err;
}

int vhost_add_vsock(struct machine *m, char *error, size_t size)
{
	struct served_config served = {.owner = m->config.name, .cid = m->config.vsock.cid};
	char why[256];
	int err = vhost_vsock_open(served.cid, &served.kernel, why, sizeof(why));

	if (!err)
		err = vhost_vsock_new(&served, &m->dma, &m->served_vsock, why, sizeof(why));
	if (!err && (err = attach(m, m->config.vsock.bus, m->served_vsock, &m->vsock_transport)))
		snprintf(why, sizeof(why), "%s", strerror(-err));
	if (err)
		snprintf(error, size, "vsock: %s", why);
	return err;
}

void vhost_del(struct served *served, struct machine_transport *t)
{
	if (!served)
		return;
	served_stop(served);
	virtio_take_off_bus(t); /* while the eventfds that it had routed are open */
	*t = (struct machine_transport){0};
	served_free(served);
}
