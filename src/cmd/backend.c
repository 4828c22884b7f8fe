/* SPDX-License-Identifier: BSD-2-Clause */
#include "cmd/backend.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/commands.h"

bool backend_wants_capabilities(int argc, char **argv)
{
	for (int k = 1; k < argc; k++)
		if (!strcmp(argv[k], "--print-capabilities"))
			return true;
	return false;
}

static int parse_mode(const char *text)
{
	char *end;
	long mode = strtol(text, &end, 8);

	return *text && !*end && mode >= 0 && mode <= 0777 ? (int)mode : -1;
}

const char *backend_socket(const struct backend_options *o, struct vhost_socket_config *socket)
{
	const char *path = o->socket_path ? o->socket_path : o->socket;
	uint64_t fd;

	*socket = (struct vhost_socket_config){.path = path, .server = !o->client, .mode = -1, .fd = -1};
	if (!path == !o->fd || (o->socket_path && o->socket))
		return "one of --socket-path and --fd is needed";
	if (o->fd && (o->client || o->mode))
		return "--client and --mode go with --socket-path";
	if (o->fd && (parse_uint(o->fd, &fd) || fd > INT32_MAX))
		return "--fd takes the number of a descriptor";
	if (o->fd)
		socket->fd = (int)fd;
	if (o->mode && (socket->mode = parse_mode(o->mode)) < 0)
		return "--mode takes permissions in octal, such as 660";
	return NULL;
}

static struct loop *signalled; /* what SIGTERM stops */

static void on_signal(int number)
{
	loop_stop(signalled);
}

static void catch_signals(struct loop *loop)
{
	struct sigaction action = {.sa_handler = loop ? on_signal : SIG_DFL};

	signalled = loop;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
}

static void session_over(void *opaque)
{
	loop_stop(opaque);
}

int backend_serve(const char *kind, struct virtio_device *device, struct vhost_serve_config *config)
{
	char name[128], why[300];
	struct vhost_serve *served = NULL;
	struct loop *loop = NULL;
	int err = loop_new(&loop);

	snprintf(why, sizeof(why), "%s", strerror(-err));
	snprintf(name, sizeof(name), "%s %s", kind, config->socket.path ? config->socket.path : "");
	config->name = name;
	config->finished = session_over;
	config->finished_opaque = loop;
	if (!err)
		err = vhost_serve_new(loop, device, config, &served, why, sizeof(why));
	if (err) {
		log_error("%s: %s", kind, why);
		loop_free(loop);
		return STATUS_FAILED;
	}
	catch_signals(loop);
	err = loop_run(loop);
	catch_signals(NULL);
	vhost_serve_free(served);
	loop_free(loop);
	return err ? STATUS_FAILED : STATUS_OK;
}
