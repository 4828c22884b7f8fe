/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The Unix sockets that vhost-user runs over: either end may listen (server) or connect (client), and either may be
 * restarted at any time.
 *
 * struct vhost_endpoint is that rendezvous on an event loop. It keeps one connection at a time: as a server it
 * accepts the next peer only when the present one has gone (others wait in the socket's backlog); as a client it
 * connects, and connects again for ever, waiting longer after each failure, up to a second.
 */
#ifndef GUISE_VHOST_SOCKET_H
#define GUISE_VHOST_SOCKET_H

#include <stdbool.h>
#include <stddef.h>

#include "base/loop.h"

/*
 * A listening socket at path, of any length that the file system takes. A socket file that nobody listens on is removed first; one
 * that somebody does is -EADDRINUSE, and a file that is no socket is left alone (-EEXIST). mode: permission bits
 * of the socket file, or -1 for what the umask gives. The socket is non-blocking and close-on-exec.
 * 0, or -errno with a sentence in why.
 */
int vhost_socket_listen(const char *path, int mode, int *fd, char *why, size_t why_size);
/* The same for another type of Unix socket: SOCK_STREAM or SOCK_SEQPACKET. */
int vhost_socket_listen_as(int type, const char *path, int mode, int *fd, char *why, size_t why_size);

/* Connect to path, without waiting for an accept. 0, or -errno (-ENOENT, -ECONNREFUSED, -EAGAIN: not there yet) with a sentence. */
int vhost_socket_connect(const char *path, int *fd, char *why, size_t why_size);
/* The same for another type: a listener of another one is -EPROTOTYPE. */
int vhost_socket_connect_as(int type, const char *path, int *fd, char *why, size_t why_size);

struct vhost_socket_config {
	const char *path; /* copied; NULL: fd is used */
	int fd;		  /* a connected socket that was inherited: one session, owned from now on */
	bool server;	  /* listen; else connect */
	int mode;	  /* of the socket file; -1: by the umask */
};

struct vhost_endpoint;

struct vhost_endpoint_ops {
	/* There is a connection; fd is the callee's, which closes it before vhost_endpoint_next(). On the loop's thread. */
	void (*connected)(void *opaque, int fd);
	/* fd only, or NULL: the one session is over and there will be no other. On the loop's thread. */
	void (*finished)(void *opaque);
};

/*
 * Start to listen or connect; `connected` follows from the loop, never from in here. A listening socket is made at once, so
 * that its errors are known here; a client's failures are logged once per outage and tried again.
 * 0, or -errno with a sentence in why.
 */
int vhost_endpoint_open(struct loop *loop, const struct vhost_socket_config *config, const struct vhost_endpoint_ops *ops,
			void *opaque, struct vhost_endpoint **endpoint, char *why, size_t why_size);
/* The connection is over: go for the next one. On the loop's thread. */
void vhost_endpoint_next(struct vhost_endpoint *endpoint);
/* On the loop's thread, or while it does not run. Removes the socket file of a server. Does not close a connection. */
void vhost_endpoint_close(struct vhost_endpoint *endpoint);

#endif
