/* SPDX-License-Identifier: BSD-2-Clause */
/* port_open(): a port from its description, whatever its kind. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "vhost/kernel.h"
#include "virtio_user/virtio_user.h"

enum { MAX_FORWARDS = 16 };

/* What a description may say. Strings point into a copy of it. */
struct description {
	char *text, *kind, *what;
	bool server, client, back, packed, no_packed, no_in_order, no_mergeable, no_event_index, no_io_uring, has_mac;
	uint64_t queues, size, mtu;
	const char *iface, *forward[MAX_FORWARDS];
	unsigned n_forwards;
	uint8_t mac[6];
};

static bool parse_mac(const char *text, uint8_t mac[6])
{
	int end = 0;

	return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &end) == 6 &&
	       !text[end];
}

/* A word of its own. false: unknown. */
static bool parse_flag(struct description *d, const char *word)
{
	const struct {
		const char *name;
		bool *value;
	} flags[] = {
		{ "server", &d->server },	{ "client", &d->client },	    { "back", &d->back },
		{ "packed", &d->packed },	{ "no-packed", &d->no_packed },	    { "no-in-order", &d->no_in_order },
		{ "no-mergeable", &d->no_mergeable }, { "no-event-index", &d->no_event_index },
		{ "no-io-uring", &d->no_io_uring },
	};

	for (unsigned k = 0; k < sizeof(flags) / sizeof(flags[0]); k++)
		if (!strcmp(word, flags[k].name)) {
			*flags[k].value = true;
			return true;
		}
	return false;
}

/* A NAME=VALUE. false: unknown, or a bad value. */
static bool parse_value(struct description *d, const char *name, const char *value)
{
	if (!strcmp(name, "queues"))
		return !parse_uint(value, &d->queues) && d->queues && d->queues <= PORT_MAX_QUEUES;
	if (!strcmp(name, "size"))
		return !parse_uint(value, &d->size) && d->size && d->size <= 32768;
	if (!strcmp(name, "mtu"))
		return !parse_uint(value, &d->mtu) && d->mtu >= 68 && d->mtu <= 65535;
	if (!strcmp(name, "mac"))
		d->has_mac = parse_mac(value, d->mac);
	else if (!strcmp(name, "iface"))
		d->iface = value;
	else if (!strcmp(name, "fwd") && d->n_forwards < MAX_FORWARDS)
		d->forward[d->n_forwards++] = value;
	else
		return false;
	return strcmp(name, "mac") || d->has_mac;
}

static int parse(struct description *d, char *why, size_t why_size)
{
	char *rest = d->text, *word = strsep(&rest, ",");

	d->kind = strsep(&word, ":");
	d->what = word;
	while ((word = strsep(&rest, ","))) {
		char *value = word, *name = strsep(&value, "=");

		if (value ? !parse_value(d, name, value) : !parse_flag(d, name)) {
			snprintf(why, why_size, "%s: cannot understand '%s%s%s'", d->kind, name, value ? "=" : "", value ? value : "");
			return -EINVAL;
		}
	}
	return 0;
}

static int open_front(const char *owner, const struct description *d, struct vhost *device, struct port **port, char *why,
		      size_t why_size)
{
	struct virtio_user_config config = {
		.owner = owner,
		.path = device ? NULL : d->what,
		.server = d->server,
		.device = device,
		.n_queues = (unsigned)d->queues,
		.queue_size = (uint16_t)d->size,
		.mtu = (uint16_t)d->mtu,
		.packed = d->packed,
		.no_in_order = d->no_in_order,
		.no_mergeable = d->no_mergeable,
		.no_event_index = d->no_event_index,
		.has_mac = d->has_mac,
	};

	memcpy(config.mac, d->mac, sizeof(config.mac));
	return port_virtio_user_open(&config, port, why, why_size);
}

static int open_back(const char *owner, const struct description *d, struct port **port, char *why, size_t why_size)
{
	struct back_port_config config = {
		.owner = owner,
		.path = d->what,
		.client = d->client,
		.n_queues = (unsigned)d->queues,
		.queue_size = (uint16_t)d->size,
		.mtu = (uint16_t)d->mtu,
		.no_packed = d->no_packed,
		.no_in_order = d->no_in_order,
		.no_mergeable = d->no_mergeable,
		.no_event_index = d->no_event_index,
	};

	return port_back_open(&config, port, why, why_size);
}

static int open_kernel(const char *owner, const struct description *d, struct port **port, char *why, size_t why_size)
{
	struct port *tap;
	struct vhost *device;
	int err;

	if (!d->iface || strcmp(d->what, "/dev/vhost-net")) {
		snprintf(why, why_size, "vhost-kernel:/dev/vhost-net,iface=TAP, please");
		return -EINVAL;
	}
	err = port_tap_open(d->iface, (unsigned)d->queues, TAP_PLAIN, &tap, why, (unsigned)why_size);
	if (err)
		return err;
	err = vhost_net_open(tap, (unsigned)d->queues, &device, why, (unsigned)why_size);
	if (err) {
		port_close(tap);
		return err;
	}
	return open_front(owner, d, device, port, why, why_size);
}

static int open_described(const char *owner, const struct description *d, struct port **port, char *why, size_t why_size)
{
	if (!strcmp(d->kind, "user"))
		return port_user_open(owner, d->forward, d->n_forwards, port, why, (unsigned)why_size);
	if (d->what && *d->what && !strcmp(d->kind, "tap"))
		return port_tap_open(d->what, (unsigned)d->queues, d->no_io_uring ? TAP_PLAIN : TAP_AUTO, port, why, (unsigned)why_size);
	if (d->what && *d->what && !strcmp(d->kind, "vhost-user"))
		return d->back ? open_back(owner, d, port, why, why_size) : open_front(owner, d, NULL, port, why, why_size);
	if (d->what && *d->what && !strcmp(d->kind, "vhost-kernel"))
		return open_kernel(owner, d, port, why, why_size);
	snprintf(why, why_size, "'%s' is not a port: vhost-user:PATH, vhost-kernel:/dev/vhost-net, tap:NAME or user", d->kind);
	return -EINVAL;
}

int port_open(const char *owner, const char *description, struct port **port, char *why, size_t why_size)
{
	struct description d = { .text = strdup(description), .queues = 1 };
	int err;

	if (!d.text)
		return -ENOMEM;
	err = parse(&d, why, why_size);
	if (!err)
		err = open_described(owner, &d, port, why, why_size);
	free(d.text);
	return err;
}
