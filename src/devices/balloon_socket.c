/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The balloon's control socket: a line in, a line of JSON out, up to MAX_CLIENTS at a time, all on the loop's thread.
 *
 *	info		{"target_mib":128,"actual_mib":64,"inflated_mib":64,"reported_mib":10}
 *	target 128	the same, with the new target; the guest follows in its own time
 *	stats		the same and "stats":{"free":...}, asked of the driver now
 *	anything else	{"error":"..."}
 *
 * A client that does not read its answers, or sends a line longer than the buffer, is cut off.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/options.h"
#include "devices/balloon.h"
#include "vhost/socket.h"

enum { MAX_CLIENTS = 8, LINE = 128, ANSWER = 2048, PATIENCE_NS = 2000000000 };

struct client {
	struct balloon_socket *socket;
	int fd; /* -1: free */
	struct loop_source *source;
	char line[LINE];
	size_t used;
	bool wants_stats;
};

struct balloon_socket {
	struct loop *loop;
	struct balloon *balloon;
	char *path;
	int listen_fd;
	struct loop_source *listener, *patience;
	struct client client[MAX_CLIENTS];
};

static void drop(struct client *c)
{
	loop_del(c->source);
	if (c->fd >= 0)
		close(c->fd);
	c->source = NULL;
	c->fd = -1;
	c->wants_stats = false;
	loop_set_events(c->socket->listener, EPOLLIN);
}

static void answer(struct client *c, const char *text)
{
	size_t size = strlen(text);

	if (send(c->fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size)
		drop(c);
}

static void answer_error(struct client *c, const char *text)
{
	char line[256];

	snprintf(line, sizeof(line), "{\"error\":\"%s\"}\n", text);
	answer(c, line);
}

static void answer_info(struct client *c, bool with_stats)
{
	char line[ANSWER];
	struct balloon_info info;
	int used;
	const char *comma = "";

	balloon_get_info(c->socket->balloon, &info);
	used = snprintf(line, sizeof(line), "{\"target_mib\":%llu,\"actual_mib\":%llu,\"inflated_mib\":%llu,\"reported_mib\":%llu",
			(unsigned long long)info.target >> 20, (unsigned long long)info.actual >> 20,
			(unsigned long long)info.inflated >> 20, (unsigned long long)info.reported >> 20);
	if (with_stats) {
		used += snprintf(line + used, sizeof(line) - (size_t)used, ",\"stats\":{");
		for (unsigned k = 0; k < BALLOON_STATS; k++) {
			if (info.stat[k] == UINT64_MAX)
				continue;
			used += snprintf(line + used, sizeof(line) - (size_t)used, "%s\"%s\":%llu", comma, balloon_stat_name(k),
					 (unsigned long long)info.stat[k]);
			comma = ",";
		}
		used += snprintf(line + used, sizeof(line) - (size_t)used, "}");
	}
	snprintf(line + used, sizeof(line) - (size_t)used, "}\n");
	answer(c, line);
}

static void obey(struct client *c, const char *line)
{
	struct balloon_socket *s = c->socket;
	uint64_t mib;

	if (!strcmp(line, "info")) {
		answer_info(c, false);
	} else if (!strncmp(line, "target ", 7)) {
		if (parse_uint(line + 7, &mib) || mib > UINT64_MAX >> 20)
			answer_error(c, "target: give a number of MiB");
		else if (balloon_set_target(s->balloon, mib << 20))
			answer_error(c, "target: more than the guest has");
		else
			answer_info(c, false);
	} else if (!strcmp(line, "stats")) {
		c->wants_stats = !balloon_ask_stats(s->balloon);
		if (c->wants_stats)
			loop_set_timer(s->patience, now_ns() + PATIENCE_NS, 0);
		else
			answer_error(c, "the guest has no driver with statistics");
	} else {
		answer_error(c, "give info, target MIB or stats");
	}
}

static void stats_came(void *opaque)
{
	struct balloon_socket *s = opaque;

	for (unsigned k = 0; k < MAX_CLIENTS; k++) {
		struct client *c = &s->client[k];

		if (c->fd >= 0 && c->wants_stats) {
			c->wants_stats = false;
			answer_info(c, true);
		}
	}
}

static void patience_over(void *opaque, uint32_t events)
{
	struct balloon_socket *s = opaque;

	for (unsigned k = 0; k < MAX_CLIENTS; k++) {
		struct client *c = &s->client[k];

		if (c->fd >= 0 && c->wants_stats) {
			c->wants_stats = false;
			answer_error(c, "the guest's driver does not answer");
		}
	}
}

static void client_spoke(void *opaque, uint32_t events)
{
	struct client *c = opaque;
	ssize_t n = recv(c->fd, c->line + c->used, sizeof(c->line) - c->used, MSG_DONTWAIT);
	char *end;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(c);
		return;
	}
	c->used += (size_t)n;
	while (c->fd >= 0 && (end = memchr(c->line, '\n', c->used))) {
		size_t taken = (size_t)(end - c->line) + 1;

		*end = 0;
		obey(c, c->line);
		c->used -= taken;
		memmove(c->line, c->line + taken, c->used);
	}
	if (c->used == sizeof(c->line))
		drop(c);
}

static void client_arrived(void *opaque, uint32_t events)
{
	struct balloon_socket *s = opaque;
	struct client *c = NULL;
	int fd;

	for (unsigned k = 0; k < MAX_CLIENTS && !c; k++)
		if (s->client[k].fd < 0)
			c = &s->client[k];
	if (!c) { /* the others wait in the backlog */
		loop_set_events(s->listener, 0);
		return;
	}
	fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	*c = (struct client){ .socket = s, .fd = fd };
	if (loop_add(s->loop, fd, EPOLLIN, client_spoke, c, &c->source))
		drop(c);
}

int balloon_socket_new(struct loop *loop, struct balloon *balloon, const char *path, struct balloon_socket **out, char *why,
		       size_t why_size)
{
	struct balloon_socket *s = calloc(1, sizeof(*s));
	int err;

	snprintf(why, why_size, "%s", strerror(ENOMEM));
	if (!s)
		return -ENOMEM;
	*s = (struct balloon_socket){ .loop = loop, .balloon = balloon, .listen_fd = -1 };
	for (unsigned k = 0; k < MAX_CLIENTS; k++)
		s->client[k] = (struct client){ .socket = s, .fd = -1 };
	err = vhost_socket_listen(path, -1, &s->listen_fd, why, why_size);
	if (err) {
		free(s);
		return err;
	}
	s->path = strdup(path);
	err = s->path ? loop_add(loop, s->listen_fd, EPOLLIN, client_arrived, s, &s->listener) : -ENOMEM;
	if (!err)
		err = loop_add_timer(loop, patience_over, s, &s->patience);
	if (err) {
		snprintf(why, why_size, "%s: %s", path, strerror(-err));
		balloon_socket_free(s);
		return err;
	}
	balloon_on_stats(balloon, stats_came, s);
	*out = s;
	return 0;
}

void balloon_socket_free(struct balloon_socket *s)
{
	if (!s)
		return;
	balloon_on_stats(s->balloon, NULL, NULL);
	for (unsigned k = 0; s->listener && k < MAX_CLIENTS; k++)
		drop(&s->client[k]);
	loop_del(s->listener);
	loop_del(s->patience);
	close(s->listen_fd);
	unlink(s->path ? s->path : "");
	free(s->path);
	free(s);
}
