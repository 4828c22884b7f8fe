/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Output path: console_write() appends to a buffer and, if it was empty, sets a timer a millisecond ahead; the loop
 * then writes the whole burst with one system call. A guest that prints a line byte by byte costs one write. The loop does
 * not wait for a slow reader: what it does not take stays in the buffer, and the loop tries again a little later.
 *
 * Input path: the loop reads no more than the peer has room for. Without room the source's events are turned off until
 * console_resume_input(). Regular files and /dev/null cannot be watched by epoll; they are read from a timer instead.
 *
 * On standard input Ctrl-A is an escape: X quits, ? helps, Ctrl-A sends itself. Terminal settings: no line editing, no
 * echo, no signals; output processing stays as it is, so that messages of this program keep their line ends.
 */
#include "base/console.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"

enum { OUT_SIZE = 32768, BURST_NS = 1000000, AGAIN_NS = 5000000, CTRL_A = 1, INPUT_STEP = 4096, LAST_WAIT_MS = 1000 };

static int winch_fd = -1; /* eventfd that SIGWINCH's handler writes; of the one console on standard input */

struct console {
	struct loop *loop;
	struct console_peer peer;
	struct loop_source *flush_timer, *listener, *winch;
	pthread_mutex_t in_lock;      /* protects the two below; changed by the loop's thread only; leaf lock */
	struct loop_source *in;
	struct loop_source *in_timer; /* instead of `in` for what epoll refuses */
	int in_fd, out_fd, listen_fd, slave_fd;
	bool own_fds;	   /* close in_fd (== out_fd) */
	bool may_lose;	   /* nobody may be reading: drop rather than wait */
	bool has_escape;   /* Ctrl-A commands */
	bool after_escape; /* loop's thread */
	bool is_raw;
	struct termios saved;
	struct sigaction old_winch;
	char *socket_path;
	pthread_mutex_t lock; /* protects the rest, and out_fd; held while writing */
	uint8_t out[OUT_SIZE];
	size_t out_count;
	bool refused; /* console_try_write() took less than it was given */
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static bool can_write(struct console *c, int timeout_ms)
{
	struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};

	return poll(&p, 1, timeout_ms) != 0;
}

/* A pseudo-terminal that nobody reads must not hold the guest up; a client of a socket is expected to read. */
static bool is_patient(const struct console *c)
{
	return !c->may_lose || (c->peer.writable && c->listener);
}

/* May a writer that was told EAGAIN wait? -1: for ever. */
static int patience_ms(const struct console *c)
{
	return !c->may_lose ? -1 : is_patient(c) ? LAST_WAIT_MS : 0;
}

static void keep_from(struct console *c, size_t done)
{
	memmove(c->out, c->out + done, c->out_count - done);
	c->out_count -= done;
}

/* Write everything; what cannot be written for good is dropped. Called with the lock held. */
static void write_out(struct console *c)
{
	size_t done = 0;

	while (c->out_fd >= 0 && done < c->out_count) {
		ssize_t n = write(c->out_fd, c->out + done, c->out_count - done);

		if (n > 0)
			done += n;
		else if (n < 0 && errno == EAGAIN ? !can_write(c, patience_ms(c)) : n == 0 || errno != EINTR)
			break;
	}
	c->out_count = 0;
}

/* Write what is taken without waiting, the rest stays. A pipe that polls writable takes PIPE_BUF bytes. With the lock held. */
static void write_some(struct console *c)
{
	size_t done = 0;

	while (c->out_fd >= 0 && done < c->out_count && can_write(c, 0)) {
		size_t part = c->out_count - done < PIPE_BUF ? c->out_count - done : PIPE_BUF;
		ssize_t n = write(c->out_fd, c->out + done, part);

		if (n > 0)
			done += n;
		else if (n < 0 && errno == EAGAIN)
			break;
		else if (n == 0 || errno != EINTR)
			done = c->out_count; /* nobody will ever read it */
	}
	keep_from(c, c->out_fd < 0 || !is_patient(c) ? c->out_count : done);
}

void console_flush(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	write_out(c);
	pthread_mutex_unlock(&c->lock);
}

static void burst_over(void *opaque, uint32_t events)
{
	struct console *c = opaque;
	bool tell;

	pthread_mutex_lock(&c->lock);
	write_some(c);
	if (c->out_count)
		loop_set_timer(c->flush_timer, now_ns() + AGAIN_NS, 0);
	tell = c->refused && c->out_count <= OUT_SIZE / 2;
	if (tell)
		c->refused = false;
	pthread_mutex_unlock(&c->lock);
	if (tell)
		c->peer.writable(c->peer.opaque);
}

size_t console_try_write(struct console *c, const void *bytes, size_t count)
{
	size_t taken = count;

	pthread_mutex_lock(&c->lock);
	if (c->out_fd >= 0) {
		bool first = !c->out_count && count;

		taken = count < OUT_SIZE - c->out_count ? count : OUT_SIZE - c->out_count;
		memcpy(c->out + c->out_count, bytes, taken);
		c->out_count += taken;
		if (c->out_count == OUT_SIZE)
			write_some(c);
		c->refused |= taken < count;
		if (first || c->refused)
			loop_set_timer(c->flush_timer, now_ns() + BURST_NS, 0);
	}
	pthread_mutex_unlock(&c->lock);
	return taken;
}

bool console_is_open(struct console *c)
{
	bool open;

	pthread_mutex_lock(&c->lock);
	open = c->listen_fd < 0 || c->out_fd >= 0;
	pthread_mutex_unlock(&c->lock);
	return open;
}

void console_write(struct console *c, const void *bytes, size_t count)
{
	const uint8_t *from = bytes;
	bool first;

	pthread_mutex_lock(&c->lock);
	first = !c->out_count && count;
	while (count) {
		size_t step = count < OUT_SIZE - c->out_count ? count : OUT_SIZE - c->out_count;

		memcpy(c->out + c->out_count, from, step);
		c->out_count += step;
		from += step;
		count -= step;
		if (c->out_count == OUT_SIZE)
			write_out(c);
	}
	if (first)
		loop_set_timer(c->flush_timer, now_ns() + BURST_NS, 0);
	pthread_mutex_unlock(&c->lock);
}

static void say_help(void)
{
	fputs("\nCtrl-A X  end the virtual machine\nCtrl-A ?  this help\nCtrl-A Ctrl-A  send Ctrl-A\n", stderr);
}

/* Take the escapes out of bytes[]; returns how many are left for the guest. */
static size_t filter_escapes(struct console *c, uint8_t *bytes, size_t count)
{
	size_t kept = 0;

	for (size_t k = 0; k < count; k++) {
		uint8_t byte = bytes[k];

		if (!c->after_escape && byte == CTRL_A) {
			c->after_escape = true;
			continue;
		}
		if (!c->after_escape || byte == CTRL_A)
			bytes[kept++] = byte;
		else if (byte == 'x' || byte == 'X')
			c->peer.quit(c->peer.opaque);
		else if (byte == '?' || byte == 'h')
			say_help();
		c->after_escape = false;
	}
	return kept;
}

/* Room that came between the look and the pause must not be missed, so look again after it. */
static void pause_input(struct console *c)
{
	if (!c->in)
		return;
	loop_set_events(c->in, 0);
	if (c->peer.room && c->peer.room(c->peer.opaque))
		loop_set_events(c->in, EPOLLIN);
}

static void end_input(struct console *c)
{
	pthread_mutex_lock(&c->in_lock);
	loop_del(c->in);
	loop_del(c->in_timer);
	c->in = c->in_timer = NULL;
	pthread_mutex_unlock(&c->in_lock);
	if (c->listener) { /* the client left: wait for the next */
		pthread_mutex_lock(&c->lock);
		close_fd(&c->in_fd);
		c->out_fd = -1;
		c->out_count = 0;
		pthread_mutex_unlock(&c->lock);
		loop_set_events(c->listener, EPOLLIN);
		if (c->peer.opened)
			c->peer.opened(c->peer.opaque, false);
	}
}

static void input_ready(void *opaque, uint32_t events)
{
	struct console *c = opaque;
	uint8_t bytes[INPUT_STEP];
	size_t room = c->peer.room ? c->peer.room(c->peer.opaque) : 0;
	ssize_t n;

	if (!room) {
		if (events & (EPOLLHUP | EPOLLERR))
			end_input(c);
		else
			pause_input(c);
		return;
	}
	n = read(c->in_fd, bytes, room < INPUT_STEP ? room : INPUT_STEP);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end_input(c);
		return;
	}
	if (c->has_escape)
		n = filter_escapes(c, bytes, n);
	if (n)
		c->peer.receive(c->peer.opaque, bytes, n);
	if (c->in_timer && c->peer.room(c->peer.opaque))
		loop_set_timer(c->in_timer, now_ns(), 0);
}

void console_resume_input(struct console *c)
{
	pthread_mutex_lock(&c->in_lock);
	if (c->in)
		loop_set_events(c->in, EPOLLIN);
	else if (c->in_timer)
		loop_set_timer(c->in_timer, now_ns(), 0);
	pthread_mutex_unlock(&c->in_lock);
}

static void tell_size(struct console *c)
{
	struct winsize size;

	if (c->peer.resized && c->has_escape && !ioctl(c->out_fd, TIOCGWINSZ, &size) && size.ws_col && size.ws_row)
		c->peer.resized(c->peer.opaque, size.ws_col, size.ws_row);
}

static void size_changed(void *opaque, uint32_t events)
{
	eventfd_t count;

	eventfd_read(winch_fd, &count);
	tell_size(opaque);
}

static void on_winch(int number)
{
	int saved = errno;

	eventfd_write(winch_fd, 1);
	errno = saved;
}

static int watch_size(struct console *c)
{
	struct sigaction action = {.sa_handler = on_winch, .sa_flags = SA_RESTART};
	int err;

	winch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (winch_fd < 0)
		return -errno;
	err = loop_add(c->loop, winch_fd, EPOLLIN, size_changed, c, &c->winch);
	if (!err)
		sigaction(SIGWINCH, &action, &c->old_winch);
	return err;
}

void console_set_peer(struct console *c, const struct console_peer *peer)
{
	c->peer = *peer;
	tell_size(c);
	console_resume_input(c);
}

static int watch_input(struct console *c)
{
	int err;

	pthread_mutex_lock(&c->in_lock);
	err = loop_add(c->loop, c->in_fd, EPOLLIN, input_ready, c, &c->in);
	if (err == -EPERM)
		err = loop_add_timer(c->loop, input_ready, c, &c->in_timer);
	pthread_mutex_unlock(&c->in_lock);
	return err;
}

static void make_raw(struct console *c)
{
	struct termios raw;

	if (tcgetattr(c->in_fd, &c->saved))
		return; /* no terminal */
	raw = c->saved;
	raw.c_iflag &= ~(ICRNL | INLCR | IGNCR | IXON | ISTRIP | BRKINT);
	raw.c_lflag &= ~(ICANON | ECHO | ISIG | IEXTEN);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	c->is_raw = !tcsetattr(c->in_fd, TCSANOW, &raw);
}

static int open_stdio(struct console *c, const char *path)
{
	int err = 0;

	c->in_fd = STDIN_FILENO;
	c->out_fd = STDOUT_FILENO;
	c->has_escape = true;
	make_raw(c);
	if (c->is_raw)
		err = watch_size(c);
	return err ? err : watch_input(c);
}

static int open_pty(struct console *c, const char *path)
{
	struct termios raw;
	char name[64];

	c->own_fds = c->may_lose = true;
	c->in_fd = c->out_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (c->in_fd < 0 || grantpt(c->in_fd) || unlockpt(c->in_fd) || ptsname_r(c->in_fd, name, sizeof(name)))
		return -errno;
	c->slave_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC); /* keeps the pair alive between readers */
	if (c->slave_fd < 0 || tcgetattr(c->slave_fd, &raw))
		return -errno;
	cfmakeraw(&raw);
	tcsetattr(c->slave_fd, TCSANOW, &raw);
	log_info("console on %s", name);
	return watch_input(c);
}

static void client_arrived(void *opaque, uint32_t events)
{
	struct console *c = opaque;
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	pthread_mutex_lock(&c->lock);
	c->in_fd = c->out_fd = fd;
	pthread_mutex_unlock(&c->lock);
	loop_set_events(c->listener, 0);
	if (c->peer.opened)
		c->peer.opened(c->peer.opaque, true);
	if (watch_input(c))
		end_input(c);
}

static int open_unix(struct console *c, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	c->own_fds = c->may_lose = true;
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listen_fd < 0 || bind(c->listen_fd, (void *)&addr, sizeof(addr)) || listen(c->listen_fd, 1))
		return -errno;
	c->socket_path = strdup(path);
	return loop_add(c->loop, c->listen_fd, EPOLLIN, client_arrived, c, &c->listener);
}

static int open_file(struct console *c, const char *path)
{
	c->own_fds = true;
	c->out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	return c->out_fd < 0 ? -errno : 0;
}

static int open_none(struct console *c, const char *path)
{
	return 0;
}

static const struct backend {
	const char *prefix;
	int (*open)(struct console *c, const char *path); /* what follows the prefix */
} backends[] = {
	{"stdio", open_stdio}, {"pty", open_pty}, {"unix:", open_unix}, {"file:", open_file}, {"none", open_none},
};

static const struct backend *find_backend(const char *spec)
{
	for (unsigned k = 0; k < sizeof(backends) / sizeof(backends[0]); k++) {
		size_t len = strlen(backends[k].prefix);
		bool takes_path = backends[k].prefix[len - 1] == ':';

		if (!strncmp(spec, backends[k].prefix, len) && (takes_path ? spec[len] != 0 : spec[len] == 0))
			return &backends[k];
	}
	return NULL;
}

int console_open(const char *spec, struct loop *loop, struct console **console, char *error, size_t error_size)
{
	const struct backend *backend = find_backend(spec);
	struct console *c;
	int err;

	if (!backend) {
		snprintf(error, error_size, "'%s' is none of stdio, pty, unix:PATH, file:PATH, none", spec);
		return -EINVAL;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->in_fd = c->out_fd = c->listen_fd = c->slave_fd = -1;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->in_lock, NULL);
	err = loop_add_timer(loop, burst_over, c, &c->flush_timer);
	if (!err)
		err = backend->open(c, spec + strlen(backend->prefix));
	if (err) {
		snprintf(error, error_size, "console %s: %s", spec, strerror(-err));
		console_close(c);
		return err;
	}
	*console = c;
	return 0;
}

void console_close(struct console *c)
{
	if (!c)
		return;
	console_flush(c);
	loop_del(c->in);
	loop_del(c->in_timer);
	loop_del(c->flush_timer);
	loop_del(c->listener);
	loop_del(c->winch);
	if (c->winch) {
		sigaction(SIGWINCH, &c->old_winch, NULL);
		close_fd(&winch_fd);
	}
	if (c->is_raw)
		tcsetattr(c->in_fd, TCSANOW, &c->saved);
	if (c->own_fds) {
		if (c->in_fd != c->out_fd)
			close_fd(&c->in_fd);
		close_fd(&c->out_fd);
	}
	close_fd(&c->listen_fd);
	close_fd(&c->slave_fd);
	if (c->socket_path)
		unlink(c->socket_path);
	free(c->socket_path);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->in_lock);
	free(c);
}
