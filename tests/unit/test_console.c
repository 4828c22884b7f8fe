/* SPDX-License-Identifier: BSD-2-Clause */
/* Consoles and the event loop below them: every back end, escapes, flow control, bursts from another thread. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/console.h"
#include "base/thread.h"

struct guest {
	struct loop *loop;
	struct console *console;
	struct loop_source *timer;
	size_t room, n_got, stop_at;
	uint8_t got[4096];
	unsigned n_quits;
};

static char error[200];

static size_t room(void *opaque)
{
	return ((struct guest *)opaque)->room;
}

static void receive(void *opaque, const uint8_t *bytes, size_t count)
{
	struct guest *g = opaque;

	assert_true(count <= g->room);
	memcpy(g->got + g->n_got, bytes, count);
	g->n_got += count;
	g->room -= count;
	if (g->n_got >= g->stop_at)
		loop_stop(g->loop);
}

static void quit(void *opaque)
{
	struct guest *g = opaque;

	g->n_quits++;
	loop_stop(g->loop);
}

static void time_over(void *opaque, uint32_t events)
{
	loop_stop(((struct guest *)opaque)->loop);
}

static void guest_open(struct guest *g, const char *spec)
{
	struct console_peer peer = {.room = room, .receive = receive, .quit = quit, .opaque = g};

	*g = (struct guest){.room = 100, .stop_at = SIZE_MAX};
	assert_int_equal(loop_new(&g->loop), 0);
	assert_int_equal(loop_add_timer(g->loop, time_over, g, &g->timer), 0);
	if (console_open(spec, g->loop, &g->console, error, sizeof(error)))
		fail_msg("%s", error);
	console_set_peer(g->console, &peer);
}

static void run_for(struct guest *g, unsigned milliseconds)
{
	loop_set_timer(g->timer, now_ns() + milliseconds * 1000000ull, 0);
	loop_run(g->loop);
}

static void guest_close(struct guest *g)
{
	console_close(g->console);
	loop_free(g->loop);
}

static void refuses_unknown_kinds(void **state)
{
	static const char *const wrong[] = {"", "tty", "unix:", "stdiox", "file:", "file:/no/such/dir/file"};
	struct console *console;
	struct loop *loop;

	loop_new(&loop);
	for (unsigned k = 0; k < sizeof(wrong) / sizeof(wrong[0]); k++)
		assert_true(console_open(wrong[k], loop, &console, error, sizeof(error)) < 0);
	loop_free(loop);
}

static void writes_a_file(void **state)
{
	char path[] = "/tmp/guise-console-XXXXXX", spec[64], text[16] = "";
	int fd = mkstemp(path);
	struct guest g;

	snprintf(spec, sizeof(spec), "file:%s", path);
	guest_open(&g, spec);
	for (const char *c = "burst\n"; *c; c++)
		console_write(g.console, c, 1);
	assert_int_equal(read(fd, text, sizeof(text)), 0); /* collected, not yet written */
	run_for(&g, 30);
	assert_int_equal(read(fd, text, sizeof(text)), 6);
	assert_string_equal(text, "burst\n");
	console_write(g.console, "end", 3);
	guest_close(&g);
	assert_int_equal(read(fd, text, sizeof(text)), 3);
	close(fd);
	unlink(path);
}

static void serves_a_socket(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char spec[128], text[16] = "";
	struct guest g;
	int client;

	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/guise-console-%d", getpid());
	snprintf(spec, sizeof(spec), "unix:%s", address.sun_path);
	guest_open(&g, spec);
	console_write(g.console, "lost", 4); /* nobody there */
	run_for(&g, 10);
	for (unsigned round = 0; round < 2; round++) { /* and a second client after the first */
		client = socket(AF_UNIX, SOCK_STREAM, 0);
		assert_int_equal(connect(client, (void *)&address, sizeof(address)), 0);
		assert_int_equal(write(client, "in", 2), 2);
		g.stop_at = g.n_got + 2;
		run_for(&g, 2000);
		console_write(g.console, "out", 3);
		run_for(&g, 30);
		assert_int_equal(read(client, text, sizeof(text)), 3);
		close(client);
		run_for(&g, 10);
	}
	assert_memory_equal(g.got, "inin", 4);
	guest_close(&g);
	assert_int_equal(access(address.sun_path, F_OK), -1);
}

/* Standard input and output replaced by pipes, for one test. */
struct pipes {
	int in[2], out[2], saved_in, saved_out;
};

static void pipes_open(struct pipes *p)
{
	assert_int_equal(pipe(p->in) | pipe(p->out), 0);
	fflush(stdout);
	p->saved_in = dup(0);
	p->saved_out = dup(1);
	dup2(p->in[0], 0);
	dup2(p->out[1], 1);
}

static void pipes_close(struct pipes *p)
{
	dup2(p->saved_in, 0);
	dup2(p->saved_out, 1);
	for (unsigned k = 0; k < 2; k++) {
		close(p->in[k]);
		close(p->out[k]);
	}
	close(p->saved_in);
	close(p->saved_out);
}

static void escapes_on_standard_input(void **state)
{
	static const char typed[] = "a\1\1b\1xc";
	struct pipes p;
	struct guest g;
	ssize_t n;

	pipes_open(&p);
	guest_open(&g, "stdio");
	n = write(p.in[1], typed, sizeof(typed) - 1);
	run_for(&g, 2000);
	guest_close(&g);
	pipes_close(&p);
	assert_int_equal(n, sizeof(typed) - 1);
	assert_int_equal(g.n_quits, 1);
	assert_int_equal(g.n_got, 4);
	assert_memory_equal(g.got, "a\1bc", 4);
}

static void input_waits_for_room(void **state)
{
	struct pipes p;
	struct guest g;
	size_t before;
	ssize_t n;

	pipes_open(&p);
	guest_open(&g, "stdio");
	g.room = 3;
	n = write(p.in[1], "12345678", 8);
	run_for(&g, 30);
	before = g.n_got;
	g.room = 100;
	g.stop_at = 8;
	console_resume_input(g.console);
	run_for(&g, 2000);
	close(p.in[1]); /* end of input: no spinning, no harm */
	p.in[1] = -1;
	run_for(&g, 10);
	guest_close(&g);
	pipes_close(&p);
	assert_int_equal(n, 8);
	assert_int_equal(before, 3);
	assert_memory_equal(g.got, "12345678", 8);
}

static void reads_what_epoll_refuses(void **state)
{
	char path[] = "/tmp/guise-console-XXXXXX";
	int fd = mkstemp(path), saved = dup(0);
	struct guest g;

	assert_int_equal(write(fd, "script", 6), 6);
	lseek(fd, 0, SEEK_SET);
	dup2(fd, 0);
	guest_open(&g, "stdio");
	g.room = 2;
	run_for(&g, 20);
	g.room = 100;
	g.stop_at = 6;
	console_resume_input(g.console);
	run_for(&g, 2000);
	guest_close(&g);
	dup2(saved, 0);
	close(saved);
	close(fd);
	unlink(path);
	assert_memory_equal(g.got, "script", 6);
}

static void *write_lines(void *opaque)
{
	struct guest *g = opaque;

	for (unsigned k = 0; k < 20000; k++)
		console_write(g->console, "0123456789", 10);
	loop_stop(g->loop);
	return NULL;
}

static void another_thread_writes(void **state)
{
	char path[] = "/tmp/guise-console-XXXXXX", spec[64];
	int fd = mkstemp(path);
	pthread_t thread;
	struct guest g;

	snprintf(spec, sizeof(spec), "file:%s", path);
	guest_open(&g, spec);
	assert_int_equal(thread_start(&thread, "a-name-that-is-long", "writer", write_lines, &g), 0);
	run_for(&g, 20000);
	pthread_join(thread, NULL);
	guest_close(&g);
	assert_int_equal(lseek(fd, 0, SEEK_END), 200000);
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_unknown_kinds),     cmocka_unit_test(writes_a_file),
		cmocka_unit_test(serves_a_socket),	     cmocka_unit_test(escapes_on_standard_input),
		cmocka_unit_test(input_waits_for_room),	     cmocka_unit_test(reads_what_epoll_refuses),
		cmocka_unit_test(another_thread_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
