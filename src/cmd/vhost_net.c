/* SPDX-License-Identifier: BSD-2-Clause */
/* guise vhost-net: a network for other VMMs and virtio-user ports, served over vhost-user. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cmd/attach.h"
#include "cmd/backend.h"
#include "cmd/commands.h"
#include "devices/net.h"

static struct {
	struct backend_options backend;
	struct option_list nets;
} options;

static const struct option_def table[] = {
	{.name = "net", .kind = OPTION_LIST, .value = &options.nets, .arg = "KIND[,KEY...]",
	 .help = "what the card is connected to: user or tap=NAME (user)"},
	BACKEND_OPTIONS(options.backend),
	{0},
};

static void print_help(void)
{
	puts("Usage: guise vhost-net --socket-path PATH [--net KIND[,KEY...]] [OPTION...]\n\n"
	     "Serves a virtio network card over vhost-user to a VMM or a virtio-user port, such as\n"
	     "guise run --net vhost-user=PATH, qemu-system-x86_64 -netdev vhost-user or DPDK's\n"
	     "net_virtio_user. One front end at a time; both ends may be restarted at any time.\n");
	options_help(stdout, table);
	puts("\n--net takes:\n"
	     "  user[,fwd=tcp|udp:[ADDRESS:]HOSTPORT:GUESTPORT]...[,mtu=N]\n"
	     "  tap=NAME[,queues=N][,mtu=N]");
}

static int open_port(const struct machine_net *net, struct port **port, char *why, unsigned size)
{
	if (net->kind == MACHINE_NET_TAP)
		return port_tap_open(net->tap, net->n_queues, TAP_AUTO, port, why, size);
	return port_user_open("vhost-net", net->forward, net->n_forwards, port, why, size);
}

/* A vhost-user front end serves its driver's control queue itself, and has the card's address. */
static const uint64_t withheld = 1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_CTRL_RX | 1ull << VIRTIO_NET_F_CTRL_RX_EXTRA |
				 1ull << VIRTIO_NET_F_CTRL_VLAN | 1ull << VIRTIO_NET_F_CTRL_MAC_ADDR |
				 1ull << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS | 1ull << VIRTIO_NET_F_MAC;

static int set_mtu(void *opaque, uint64_t mtu)
{
	return net_set_mtu(opaque, mtu);
}

static int announce(void *opaque, const uint8_t mac[6])
{
	return net_announce(opaque, mac);
}

static int serve(const struct machine_net *description, struct vhost_serve_config *config)
{
	struct net_config net_config = {.owner = "vhost-net", .mtu = description->mtu, .n_pairs = description->n_queues};
	struct memory memory;
	struct dma dma = {.mem = &memory};
	struct port *port;
	struct net *net;
	char why[256];
	int status;

	if (open_port(description, &port, why, sizeof(why))) {
		log_error("vhost-net: %s", why);
		return STATUS_FAILED;
	}
	memory_init(&memory);
	status = net_new(port, &dma, &net_config, &net);
	if (status) {
		log_error("vhost-net: %s: %s", port->ops->kind, strerror(-status));
		port->ops->close(port);
		return STATUS_FAILED;
	}
	config->n_rings = 2 * net_config.n_pairs;
	config->queue_num = net_config.n_pairs;
	config->max_ring_size = VIRTQ_MAX_SIZE;
	config->withheld = withheld;
	config->protocol = 1ull << VHOST_USER_PROTOCOL_F_MTU | 1ull << VHOST_USER_PROTOCOL_F_RARP;
	config->set_mtu = set_mtu;
	config->announce = announce;
	config->opaque = net;
	status = backend_serve("vhost-net", net_device(net), config);
	net_free(net);
	port->ops->close(port);
	memory_deinit(&memory);
	return status;
}

int cmd_vhost_net(int argc, char **argv)
{
	struct machine_config description = {0};
	struct vhost_serve_config config = {0};
	const char *wrong;
	char error[300];
	int n_words;

	if (backend_wants_capabilities(argc, argv)) {
		puts("{\n  \"type\": \"net\",\n  \"features\": [ ]\n}");
		return STATUS_OK;
	}
	n_words = options_parse(table, argc, argv, error, sizeof(error));
	if (n_words < 0)
		return usage_error("vhost-net", error);
	if (options.backend.help) {
		print_help();
		return STATUS_OK;
	}
	if (n_words)
		return usage_error("vhost-net", "there are words that are no options");
	wrong = backend_socket(&options.backend, &config.socket);
	if (wrong)
		return usage_error("vhost-net", wrong);
	if (attach_nets(&description, &options.nets, error, sizeof(error)))
		return usage_error("vhost-net", error);
	if (description.n_nets != 1 || description.net[0].kind > MACHINE_NET_TAP || description.net[0].has_mac || description.net[0].bus)
		return usage_error("vhost-net", "one --net user or --net tap=NAME, without mac= and bus=");
	if (options.backend.verbose)
		log_set_level(LOG_DEBUG);
	return serve(&description.net[0], &config);
}
