/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What vhost-user back-end programs have in common: the options and conduct of the specification's section "Backend program
 * conventions".
 */
#ifndef GUISE_CMD_BACKEND_H
#define GUISE_CMD_BACKEND_H

#include "base/loop.h"
#include "base/options.h"
#include "vhost/serve.h"

struct backend_options {
	const char *socket_path, *socket, *fd, *mode;
	bool client, capabilities, verbose, help;
};

/* The rows of an option table; a table ends with {0}. */
#define BACKEND_OPTIONS(o)                                                                                               \
	{.name = "socket-path", .kind = OPTION_STRING, .value = &(o).socket_path, .arg = "PATH",                         \
	 .help = "the vhost-user socket: listen there"},                                                                 \
	{.name = "socket", .kind = OPTION_STRING, .value = &(o).socket, .arg = "PATH", .help = "the same"},              \
	{.name = "client", .kind = OPTION_FLAG, .value = &(o).client,                                                    \
	 .help = "connect to the socket, again and again, instead of listening"},                                        \
	{.name = "mode", .kind = OPTION_STRING, .value = &(o).mode, .arg = "OCTAL",                                      \
	 .help = "permissions of the socket, such as 660"},                                                              \
	{.name = "fd", .kind = OPTION_STRING, .value = &(o).fd, .arg = "FDNUM",                                          \
	 .help = "serve the one connection that is this descriptor"},                                                    \
	{.name = "print-capabilities", .kind = OPTION_FLAG, .value = &(o).capabilities,                                  \
	 .help = "print what this back end can do, as JSON, and exit"},                                                  \
	{.name = "verbose", .kind = OPTION_FLAG, .value = &(o).verbose, .help = "say more on standard error"},           \
	{.name = "help", .kind = OPTION_FLAG, .value = &(o).help, .help = "this text"}

/* Is --print-capabilities among the words? Then everything else is to be ignored. */
bool backend_wants_capabilities(int argc, char **argv);

/* Where to meet front ends. NULL, or what is wrong with the options. */
const char *backend_socket(const struct backend_options *o, struct vhost_socket_config *socket);

/*
 * Serve `device` until SIGTERM or SIGINT, or until the inherited connection ends. Returns the program's exit status. socket of
 * `config` is set, finished and opaque are free. kind begins messages: "vhost-blk".
 */
int backend_serve(const char *kind, struct virtio_device *device, struct vhost_serve_config *config);

#endif
