/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Finding each other over Unix sockets. sun_path holds 108 bytes: a longer path goes through a descriptor of its
 * folder, as /proc/self/fd/N/NAME.
 */
#include "vhost/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

enum { BACK_OFF_MIN_MS = 10, BACK_OFF_MAX_MS = 1000 };

/* A path made fit for sockaddr_un. */
struct address {
	struct sockaddr_un sun;
	int dir_fd; /* keeps the folder, or -1 */
};

static int address_of_long(const char *path, struct address *a)
{
	char *dir_part = strdup(path), *base_part = strdup(path);
	int n = 0, err = 0;

	if (!dir_part || !base_part) {
		err = -ENOMEM;
	} else {
		a->dir_fd = open(dirname(dir_part), O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (a->dir_fd < 0)
			err = -errno;
		else
			n = snprintf(a->sun.sun_path, sizeof(a->sun.sun_path), "/proc/self/fd/%d/%s", a->dir_fd,
				     basename(base_part));
	}
	if (!err && n >= (int)sizeof(a->sun.sun_path)) {
		close(a->dir_fd);
		err = -ENAMETOOLONG;
	}
	free(dir_part);
	free(base_part);
	return err;
}

static int address_init(struct address *a, const char *path)
{
	*a = (struct address){ .sun.sun_family = AF_UNIX, .dir_fd = -1 };
	if (!*path)
		return -EINVAL;
	if (strlen(path) < sizeof(a->sun.sun_path)) {
		strcpy(a->sun.sun_path, path);
		return 0;
	}
	return address_of_long(path, a);
}

static void address_deinit(struct address *a)
{
	if (a->dir_fd >= 0)
		close(a->dir_fd);
}

static int new_socket(int type, int *fd)
{
	*fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return *fd < 0 ? -errno : 0;
}

static int connect_address(int type, const struct address *a, int *out)
{
	int fd, err = new_socket(type, &fd);

	if (err)
		return err;
	if (connect(fd, (const struct sockaddr *)&a->sun, sizeof(a->sun))) {
		err = -errno;
		close(fd);
		return err;
	}
	*out = fd;
	return 0;
}

int vhost_socket_connect_as(int type, const char *path, int *fd, char *why, size_t why_size)
{
	struct address a;
	int err = address_init(&a, path);

	if (!err) {
		err = connect_address(type, &a, fd);
		address_deinit(&a);
	}
	if (err)
		snprintf(why, why_size, "cannot connect to %s: %s", path, strerror(-err));
	return err;
}

int vhost_socket_connect(const char *path, int *fd, char *why, size_t why_size)
{
	return vhost_socket_connect_as(SOCK_STREAM, path, fd, why, why_size);
}

/* What stands at the path already: 0 if it may be bound now, else why not. */
static int clear_stale(int type, const struct address *a)
{
	struct stat st;
	int fd = -1, err;

	if (lstat(a->sun.sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	err = connect_address(type, a, &fd);
	if (!err)
		close(fd);
	if (err != -ECONNREFUSED)
		return !err || err == -EAGAIN || err == -EPROTOTYPE ? -EADDRINUSE : err;
	return unlink(a->sun.sun_path) && errno != ENOENT ? -errno : 0;
}

static int bind_and_listen(int type, const struct address *a, int mode, int *out)
{
	int fd, err = new_socket(type, &fd);

	if (err)
		return err;
	/* Before bind: so the file never has wider permissions than asked for. */
	if ((mode >= 0 && fchmod(fd, mode)) || bind(fd, (const struct sockaddr *)&a->sun, sizeof(a->sun)) ||
	    (mode >= 0 && chmod(a->sun.sun_path, mode)) || listen(fd, 8)) {
		err = -errno;
		close(fd);
		return err;
	}
	*out = fd;
	return 0;
}

int vhost_socket_listen_as(int type, const char *path, int mode, int *fd, char *why, size_t why_size)
{
	struct address a;
	int err = address_init(&a, path);

	if (!err) {
		err = clear_stale(type, &a);
		if (!err)
			err = bind_and_listen(type, &a, mode, fd);
		address_deinit(&a);
	}
	if (err)
		snprintf(why, why_size, "cannot listen on %s: %s", path,
			 err == -EEXIST ? "a file that is no socket is in its place" : strerror(-err));
	return err;
}

int vhost_socket_listen(const char *path, int mode, int *fd, char *why, size_t why_size)
{
	return vhost_socket_listen_as(SOCK_STREAM, path, mode, fd, why, why_size);
}

struct vhost_endpoint {
	struct loop *loop;
	const struct vhost_endpoint_ops *ops;
	void *opaque;
	char *path;
	bool server, inherited;
	int fd;			     /* listening, or inherited and not yet handed on; -1 */
	struct loop_source *source;  /* of the listening socket */
	struct loop_source *timer;   /* client: next attempt; inherited: the hand-over */
	unsigned wait_ms;	     /* client: after the next failure */
	bool outage_logged, busy;    /* busy: there is a connection */
};

static void accept_peer(void *opaque, uint32_t events)
{
	struct vhost_endpoint *e = opaque;
	int fd;

	if (e->busy)
		return; /* an event from before loop_set_events */
	fd = accept4(e->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			log_warn("%s: accept: %s", e->path, strerror(errno));
		return;
	}
	e->busy = true;
	loop_set_events(e->source, 0);
	e->ops->connected(e->opaque, fd);
}

static void try_connect(struct vhost_endpoint *e)
{
	char why[256];
	int fd;

	if (vhost_socket_connect(e->path, &fd, why, sizeof(why))) {
		if (!e->outage_logged)
			log_info("%s; trying again until it is there", why);
		e->outage_logged = true;
		loop_set_timer(e->timer, now_ns() + e->wait_ms * 1000000ull, 0);
		e->wait_ms = e->wait_ms * 2 > BACK_OFF_MAX_MS ? BACK_OFF_MAX_MS : e->wait_ms * 2;
		return;
	}
	e->outage_logged = false;
	e->busy = true;
	e->ops->connected(e->opaque, fd);
}

static void timer_fired(void *opaque, uint32_t events)
{
	struct vhost_endpoint *e = opaque;
	int fd = e->fd;

	if (e->busy)
		return;
	if (!e->inherited) {
		try_connect(e);
		return;
	}
	e->fd = -1;
	e->busy = true;
	e->ops->connected(e->opaque, fd);
}

static int open_server(struct vhost_endpoint *e, int mode, char *why, size_t why_size)
{
	int err = vhost_socket_listen(e->path, mode, &e->fd, why, why_size);

	if (!err)
		err = loop_add(e->loop, e->fd, EPOLLIN, accept_peer, e, &e->source);
	return err;
}

static int open_soon(struct vhost_endpoint *e)
{
	int err = loop_add_timer(e->loop, timer_fired, e, &e->timer);

	if (!err)
		loop_set_timer(e->timer, now_ns(), 0);
	return err;
}

int vhost_endpoint_open(struct loop *loop, const struct vhost_socket_config *config, const struct vhost_endpoint_ops *ops,
			void *opaque, struct vhost_endpoint **out, char *why, size_t why_size)
{
	struct vhost_endpoint *e = calloc(1, sizeof(*e));
	int err;

	if (!e) {
		snprintf(why, why_size, "out of memory");
		return -ENOMEM;
	}
	*e = (struct vhost_endpoint){ .loop = loop, .ops = ops, .opaque = opaque, .fd = -1, .wait_ms = BACK_OFF_MIN_MS };
	e->server = config->server && config->path;
	e->inherited = !config->path;
	e->path = strdup(config->path ? config->path : "inherited socket");
	snprintf(why, why_size, "cannot open %s", config->path ? config->path : "the inherited socket");
	err = !e->path ? -ENOMEM : e->server ? open_server(e, config->mode, why, why_size) : open_soon(e);
	if (err) {
		vhost_endpoint_close(e);
		return err;
	}
	if (e->inherited)
		e->fd = config->fd;
	*out = e;
	return 0;
}

void vhost_endpoint_next(struct vhost_endpoint *e)
{
	e->busy = false;
	if (e->inherited) {
		if (e->ops->finished)
			e->ops->finished(e->opaque);
	} else if (e->server) {
		loop_set_events(e->source, EPOLLIN);
	} else {
		/* Not at once: a peer that closes each connection must not make this a busy loop. */
		loop_set_timer(e->timer, now_ns() + e->wait_ms * 1000000ull, 0);
		e->wait_ms = BACK_OFF_MIN_MS;
	}
}

void vhost_endpoint_close(struct vhost_endpoint *e)
{
	struct address a;

	if (!e)
		return;
	loop_del(e->source);
	loop_del(e->timer);
	if (e->fd >= 0)
		close(e->fd);
	if (e->server && e->fd >= 0 && !address_init(&a, e->path)) {
		unlink(a.sun.sun_path);
		address_deinit(&a);
	}
	free(e->path);
	free(e);
}
