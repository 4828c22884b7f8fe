/* SPDX-License-Identifier: BSD-2-Clause */
/* --disk and --net: a first word, then ",key" or ",key=value". */
#include "cmd/attach.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The next part of *rest, cut off at its comma; NULL at the end. *value: what stands behind '=', or NULL. */
static char *next_part(char **rest, char **value)
{
	char *part = *rest, *comma;

	if (!part)
		return NULL;
	comma = strchr(part, ',');
	*rest = comma ? comma + 1 : NULL;
	if (comma)
		*comma = 0;
	*value = strchr(part, '=');
	if (*value)
		*(*value)++ = 0;
	return part;
}

static int number(const char *value, unsigned min, unsigned max, unsigned *out)
{
	uint64_t n;

	if (!value || parse_uint(value, &n) || n < min || n > max)
		return -EINVAL;
	*out = (unsigned)n;
	return 0;
}

static int refuse(char *error, size_t size, const char *option, const char *key, const char *value, const char *want)
{
	snprintf(error, size, "--%s: '%s%s%s': %s", option, key, value ? "=" : "", value ? value : "", want);
	return -EINVAL;
}

static bool parse_bus(const char *key, const char *value, enum machine_bus *bus)
{
	if (strcmp(key, "bus") || !value)
		return false;
	*bus = !strcmp(value, "pci") ? MACHINE_BUS_PCI : !strcmp(value, "mmio") ? MACHINE_BUS_MMIO : MACHINE_BUS_DEFAULT;
	return *bus != MACHINE_BUS_DEFAULT;
}

static int attach_disk(struct machine_config *config, char *text, char *error, size_t size)
{
	struct machine_disk *d = &config->disk[config->n_disks++];
	char *comma = strchr(text, ','), *rest = comma ? comma + 1 : NULL, *key, *value;

	if (comma)
		*comma = 0;
	*d = (struct machine_disk){.path = text}; /* a path may hold '=' */
	d->vhost_user = !strncmp(text, "vhost-user=", 11);
	if (d->vhost_user)
		d->path += 11;
	while ((key = next_part(&rest, &value))) {
		if (d->vhost_user && !strcmp(key, "server") && !value)
			d->server = true;
		else if (d->vhost_user && !strcmp(key, "packed") && !value)
			d->packed = true;
		else if (d->vhost_user && !strcmp(key, "access-platform") && !value)
			d->access_platform = true;
		else if (d->vhost_user && strcmp(key, "queues") && strcmp(key, "bus"))
			return refuse(error, size, "disk", key, value,
				      "not server, packed, access-platform, queues=1..16 or bus=pci|mmio");
		else if (!strcmp(key, "ro") && !value)
			d->read_only = true;
		else if (!strcmp(key, "serial") && value && strlen(value) <= 20)
			d->serial = value;
		else if (!parse_bus(key, value, &d->bus) && (strcmp(key, "queues") || number(value, 1, 16, &d->n_queues)))
			return refuse(error, size, "disk", key, value,
				      "not ro, serial=TEXT (20 characters at most), queues=1..16 or bus=pci|mmio");
	}
	return 0;
}

int attach_disks(struct machine_config *config, const struct option_list *list, char *error, size_t size)
{
	_Static_assert((int)OPTION_LIST_MAX <= (int)MACHINE_MAX_DISKS, "every --disk has a place");

	for (unsigned k = 0; k < list->count; k++) {
		int err = attach_disk(config, (char *)list->item[k], error, size);

		if (err)
			return err;
	}
	return 0;
}

static bool parse_mac(const char *text, uint8_t mac[6])
{
	unsigned b[6];
	char rest;

	if (!text || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &rest) != 6 || b[0] & 1)
		return false;
	for (unsigned k = 0; k < 6; k++)
		mac[k] = (uint8_t)b[k];
	return true;
}

static bool is_served(const struct machine_net *n)
{
	return n->kind == MACHINE_NET_VHOST || n->kind == MACHINE_NET_VHOST_USER;
}

static int set_net_key(struct machine_net *n, const char *key, const char *value, char *error, size_t size)
{
	unsigned mtu;

	if (!strcmp(key, "mac")) {
		n->has_mac = parse_mac(value, n->mac);
		return n->has_mac ? 0 : refuse(error, size, "net", key, value, "not a unicast address such as 52:54:00:12:34:56");
	}
	if (!strcmp(key, "mtu")) {
		if (number(value, 68, 65535, &mtu))
			return refuse(error, size, "net", key, value, "not a number from 68 to 65535");
		n->mtu = (uint16_t)mtu;
		return 0;
	}
	if (!strcmp(key, "queues"))
		return number(value, 1, 16, &n->n_queues) ? refuse(error, size, "net", key, value, "not a number from 1 to 16") : 0;
	if (!strcmp(key, "fwd") && value && n->kind == MACHINE_NET_USER) {
		if (n->n_forwards == MACHINE_MAX_FORWARDS)
			return refuse(error, size, "net", key, value, "too many forwards");
		n->forward[n->n_forwards++] = value;
		return 0;
	}
	if (n->kind == MACHINE_NET_VHOST_USER && !strcmp(key, "server") && !value) {
		n->server = true;
		return 0;
	}
	if (n->kind == MACHINE_NET_VHOST_USER && !strcmp(key, "packed") && !value) {
		n->packed = true;
		return 0;
	}
	if (is_served(n) && !strcmp(key, "access-platform") && !value) {
		n->access_platform = true;
		return 0;
	}
	if (parse_bus(key, value, &n->bus))
		return 0;
	return refuse(error, size, "net", key, value,
		      "not mac=, mtu=, queues=, bus=pci|mmio, (with user) fwd=, (with vhost-user) server, packed or (with "
		      "vhost, vhost-user) access-platform");
}

static int attach_net(struct machine_config *config, char *text, char *error, size_t size)
{
	struct machine_net *n = &config->net[config->n_nets];
	char *rest = text, *value = NULL, *kind = next_part(&rest, &value), *key;

	*n = (struct machine_net){.n_queues = 1};
	if (!strcmp(kind, "none") && !value && !rest)
		return 0;
	if (!strcmp(kind, "tap") && value)
		n->kind = MACHINE_NET_TAP;
	else if (!strcmp(kind, "vhost") && value)
		n->kind = MACHINE_NET_VHOST;
	else if (!strcmp(kind, "vhost-user") && value)
		n->kind = MACHINE_NET_VHOST_USER;
	else if (strcmp(kind, "user") || value)
		return refuse(error, size, "net", kind, value, "not user, tap=NAME, vhost=NAME, vhost-user=PATH or none");
	*(n->kind == MACHINE_NET_VHOST_USER ? &n->socket : &n->tap) = value;
	config->n_nets++;
	while ((key = next_part(&rest, &value))) {
		int err = set_net_key(n, key, value, error, size);

		if (err)
			return err;
	}
	return 0;
}

int attach_nets(struct machine_config *config, const struct option_list *list, char *error, size_t size)
{
	static char user[] = "user";

	if (!list->count)
		return attach_net(config, user, error, size);
	for (unsigned k = 0; k < list->count; k++) {
		int err;

		if (config->n_nets == MACHINE_MAX_NETS) {
			snprintf(error, size, "--net: more than %d of them", MACHINE_MAX_NETS);
			return -EINVAL;
		}
		err = attach_net(config, (char *)list->item[k], error, size);
		if (err)
			return err;
	}
	return 0;
}

/* NAME,WHERE: a path in WHERE may hold commas. */
int attach_ports(struct machine_config *config, const struct option_list *list, char *error, size_t size)
{
	for (unsigned k = 0; k < list->count; k++) {
		char *name = (char *)list->item[k], *comma = strchr(name, ',');

		if (!comma || comma == name || comma - name > 64 || config->n_ports == MACHINE_MAX_PORTS) {
			snprintf(error, size, "--port '%s': give NAME,WHERE, %d times at most", name, MACHINE_MAX_PORTS);
			return -EINVAL;
		}
		*comma = 0;
		config->port[config->n_ports++] = (struct machine_port){name, comma + 1};
	}
	return 0;
}

int attach_balloon(struct machine_config *config, char *text, char *error, size_t size)
{
	struct machine_balloon *b = &config->balloon;
	char *rest = text, *value, *mib, *key;
	uint64_t n;

	if (!text)
		return 0;
	mib = next_part(&rest, &value);
	if (value || parse_uint(mib, &n) || n > UINT32_MAX)
		return refuse(error, size, "balloon", mib, value, "not a number of MiB");
	*b = (struct machine_balloon){.present = true, .size = n << 20};
	while ((key = next_part(&rest, &value))) {
		if (!strcmp(key, "socket") && value)
			b->socket = value;
		else if (!parse_bus(key, value, &b->bus))
			return refuse(error, size, "balloon", key, value, "not socket=PATH or bus=pci|mmio");
	}
	return 0;
}

int attach_vsock(struct machine_config *config, char *text, char *error, size_t size)
{
	struct machine_vsock *v = &config->vsock;
	char *rest = text, *value, *cid, *path, *key;
	uint64_t n;

	if (!text)
		return 0;
	cid = next_part(&rest, &value);
	if (value || parse_uint(cid, &n) || n < 3 || n >= UINT32_MAX)
		return refuse(error, size, "vsock", cid, value, "not a context id from 3 to 4294967294");
	path = next_part(&rest, &value);
	if (!path || !*path || value)
		return refuse(error, size, "vsock", cid, NULL, "give CID,vhost or CID,PATH with a path without '=' and ','");
	*v = (struct machine_vsock){.cid = (uint32_t)n, .path = strcmp(path, "vhost") ? path : NULL};
	while ((key = next_part(&rest, &value)))
		if (!parse_bus(key, value, &v->bus))
			return refuse(error, size, "vsock", key, value, "not bus=pci|mmio");
	return 0;
}

int attach_rng(struct machine_config *config, char *text, char *error, size_t size)
{
	char *rest = text, *value, *source, *key;

	if (!text)
		return 0;
	source = next_part(&rest, &value);
	if (value || !*source)
		return refuse(error, size, "rng", source, value, "give random, none or the path of a character device");
	config->rng = strcmp(source, "none") != 0;
	config->rng_source = strcmp(source, "random") && config->rng ? source : NULL;
	while ((key = next_part(&rest, &value)))
		if (strcmp(key, "rate") || !value || parse_uint(value, &config->rng_rate) || !config->rng_rate || config->rng_rate > 1ull << 40)
			return refuse(error, size, "rng", key, value, "not rate=BYTES, per second");
	return 0;
}
