/* SPDX-License-Identifier: BSD-2-Clause */
/* vhost-user messages: the table, the wire with whole and broken messages and descriptors, sockets and endpoints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/thread.h"
#include "vhost/features.h"
#include "vhost/message.h"
#include "vhost/socket.h"

static int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void table_is_whole(void **state)
{
	for (uint32_t id = 1; id < VHOST_USER_REQUESTS; id++) {
		const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, id);

		assert_int_equal(rule->id, id);
		assert_true(rule->protocol < VHOST_USER_PROTOCOL_FEATURES);
		assert_true(rule->min_fds <= rule->max_fds && rule->max_fds <= VHOST_USER_MAX_FDS);
		assert_true(vhost_user_payload(rule->request)->max_size <= VHOST_USER_MAX_PAYLOAD);
	}
	for (uint32_t id = 1; id < VHOST_USER_BACKEND_REQUESTS; id++)
		assert_int_equal(vhost_user_rule(VHOST_USER_BACK_END, id)->id, id);
	assert_null(vhost_user_rule(VHOST_USER_FRONT_END, 0));
	assert_null(vhost_user_rule(VHOST_USER_FRONT_END, VHOST_USER_REQUESTS));
	assert_null(vhost_user_rule(VHOST_USER_BACK_END, UINT32_MAX));
	/* Numbers of the specification, far apart enough to notice a shift. */
	assert_string_equal(vhost_user_name(VHOST_USER_FRONT_END, 11), "GET_VRING_BASE");
	assert_string_equal(vhost_user_name(VHOST_USER_FRONT_END, 24), "GET_CONFIG");
	assert_string_equal(vhost_user_name(VHOST_USER_FRONT_END, 34), "RESET_DEVICE");
	assert_string_equal(vhost_user_name(VHOST_USER_FRONT_END, 44), "GET_SHMEM_CONFIG");
	assert_string_equal(vhost_user_name(VHOST_USER_BACK_END, 10), "BACKEND_SHMEM_UNMAP");
	assert_string_equal(vhost_user_protocol_feature_name(16), "STATUS");
	assert_null(vhost_user_protocol_feature_name(23));
}

static void features_have_names(void **state)
{
	char text[64];

	assert_string_equal(vhost_features_format(1, 1ull << 15 | 1ull << 32 | 1ull << 50, text, sizeof(text)),
			    "MRG_RXBUF VERSION_1 bit 50");
	assert_string_equal(vhost_features_format(2, 1ull << 9 | 1ull << 30, text, sizeof(text)), "FLUSH PROTOCOL_FEATURES");
	assert_string_equal(vhost_user_protocol_features_format(0x10009, text, sizeof(text)), "MQ REPLY_ACK STATUS");
	vhost_features_format(1, UINT64_MAX, text, 24);
	assert_string_equal(text, "CSUM GUEST_CSUM...");
}

static void check_names_field_and_value(void **state)
{
	const struct vhost_user_rule *rule = vhost_user_rule(VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_KICK);
	struct vhost_user_message m;
	char why[128] = "";

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_KICK);
	assert_int_equal(vhost_user_check(rule, &m, false, why, sizeof(why)), 0);
	m.size = 9;
	assert_int_equal(vhost_user_check(rule, &m, false, why, sizeof(why)), -EPROTO);
	assert_string_equal(why, "size 9: u64 has 8 to 8 bytes");
	m.size = 8;
	m.n_fds = 2;
	assert_int_equal(vhost_user_check(rule, &m, false, why, sizeof(why)), -EPROTO);
	assert_string_equal(why, "2 file descriptors: 0 to 1 belong to it");
	m.n_fds = 0;
	m.flags = 2;
	assert_int_equal(vhost_user_check(rule, &m, false, why, sizeof(why)), -EPROTO);
	assert_string_equal(why, "flags 0x2: version is not 1");
	m.flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
	assert_int_equal(vhost_user_check(rule, &m, false, why, sizeof(why)), -EPROTO);
	assert_int_equal(vhost_user_check(rule, &m, true, why, sizeof(why)), 0); /* an acknowledgement */
}

struct pair {
	int fd[2];
	struct vhost_user_receiver receiver;
};

static int make_pair(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));

	*state = p;
	return !p || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->fd);
}

static int free_pair(void **state)
{
	struct pair *p = *state;

	vhost_user_receiver_reset(&p->receiver);
	close(p->fd[0]);
	close(p->fd[1]);
	free(p);
	return 0;
}

static void message_arrives_with_its_descriptors(void **state)
{
	struct pair *p = *state;
	struct vhost_user_message m;
	int before = open_fds(), event = eventfd(7, EFD_CLOEXEC), taken;
	uint64_t count = 0;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_CALL);
	m.u64 = 3;
	m.n_fds = 1;
	m.fd[0] = event;
	assert_int_equal(vhost_user_send(p->fd[0], &m, 1000), 0);
	m.n_fds = 0;
	m.u64 = 4 | VHOST_USER_NO_FD;
	assert_int_equal(vhost_user_send(p->fd[0], &m, 1000), 0);
	close(event);

	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), 1);
	assert_int_equal(p->receiver.message.u64, 3);
	assert_int_equal(p->receiver.message.n_fds, 1);
	taken = vhost_user_take_fd(&p->receiver.message, 0);
	assert_int_equal(vhost_user_take_fd(&p->receiver.message, 0), -1);
	assert_int_equal(read(taken, &count, sizeof(count)), 8);
	assert_int_equal(count, 7);
	assert_true(fcntl(taken, F_GETFD) & FD_CLOEXEC);
	close(taken);
	vhost_user_close_fds(&p->receiver.message);

	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), 1);
	assert_int_equal(p->receiver.message.u64, 0x104);
	assert_int_equal(p->receiver.message.n_fds, 0);
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), 0);
	assert_int_equal(open_fds(), before);
}

static void byte_by_byte(void **state)
{
	struct pair *p = *state;
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_VRING_ADDR);
	m.addr.log_guest_addr = 0x1122334455667788;
	for (unsigned at = 0; at < VHOST_USER_HEADER_SIZE + m.size; at++) {
		assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), 0);
		assert_int_equal(write(p->fd[0], (char *)&m + at, 1), 1);
	}
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), 1);
	assert_true(p->receiver.message.addr.log_guest_addr == 0x1122334455667788);
}

static void short_payload_reads_as_zero_behind(void **state)
{
	struct pair *p = *state;
	struct vhost_user_message m;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_FEATURES);
	m.u64 = UINT64_MAX;
	assert_int_equal(vhost_user_send(p->fd[0], &m, -1), 0);
	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_GET_FEATURES);
	assert_int_equal(vhost_user_send(p->fd[0], &m, -1), 0);
	assert_int_equal(vhost_user_receive_wait(p->fd[1], &p->receiver, 1000), 1);
	assert_int_equal(vhost_user_receive_wait(p->fd[1], &p->receiver, 1000), 1);
	assert_int_equal(p->receiver.message.u64, 0);
	assert_int_equal(vhost_user_receive_wait(p->fd[1], &p->receiver, 1), -ETIMEDOUT);
}

static void send_fds(int socket, const void *data, size_t size, unsigned n)
{
	char control[CMSG_SPACE(64 * sizeof(int))] = { 0 };
	struct iovec iov = { (void *)data, size };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&header);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (unsigned k = 0; k < n; k++)
		memcpy(CMSG_DATA(c) + k * sizeof(int), &socket, sizeof(int));
	assert_int_equal(sendmsg(socket, &header, 0), size);
}

static void hostile_messages_leak_nothing(void **state)
{
	struct pair *p = *state;
	uint32_t huge[3] = { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, VHOST_USER_MAX_PAYLOAD + 1 };
	uint32_t begin[3] = { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 8 };
	int before = open_fds();

	send_fds(p->fd[0], huge, sizeof(huge), 3);
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), -EMSGSIZE);
	assert_int_equal(open_fds(), before);

	/* More descriptors than a message has, at once and in pieces. */
	send_fds(p->fd[0], begin, sizeof(begin), 30);
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), -EMSGSIZE);
	assert_int_equal(open_fds(), before);
	send_fds(p->fd[0], begin, sizeof(begin), 5);
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), 0);
	send_fds(p->fd[0], begin, 4, 5);
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), -EMSGSIZE);
	assert_int_equal(open_fds(), before);

	/* The peer goes away in the middle. */
	send_fds(p->fd[0], begin, sizeof(begin), 2);
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), 0);
	assert_int_equal(open_fds(), before + 2);
	shutdown(p->fd[0], SHUT_WR);
	assert_int_equal(vhost_user_receive(p->fd[1], &p->receiver), -ECONNRESET);
	assert_int_equal(open_fds(), before);
}

static void sending_is_bounded(void **state)
{
	struct pair *p = *state;
	struct vhost_user_message m;
	int err;

	vhost_user_request_init(&m, VHOST_USER_FRONT_END, VHOST_USER_SET_FEATURES);
	do
		err = vhost_user_send(p->fd[0], &m, 1);
	while (!err);
	assert_int_equal(err, -ETIMEDOUT);
	close(p->fd[1]);
	assert_int_equal(vhost_user_send(p->fd[0], &m, 1), -EPIPE);
	p->fd[1] = dup(p->fd[0]);
}

/* --- sockets --- */

static char folder[32];

static int make_folder(void **state)
{
	strcpy(folder, "/tmp/guise-vhost-XXXXXX");
	return !mkdtemp(folder);
}

static int remove_folder(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static void listens_where_nobody_does(void **state)
{
	char path[64], why[256];
	struct stat st;
	int fd, second, peer;

	snprintf(path, sizeof(path), "%s/s", folder);
	assert_int_equal(vhost_socket_connect(path, &peer, why, sizeof(why)), -ENOENT);
	assert_int_equal(vhost_socket_listen(path, 0640, &fd, why, sizeof(why)), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(vhost_socket_listen(path, -1, &second, why, sizeof(why)), -EADDRINUSE);
	close(fd);
	assert_int_equal(vhost_socket_connect(path, &peer, why, sizeof(why)), -ECONNREFUSED);
	assert_int_equal(vhost_socket_listen(path, -1, &fd, why, sizeof(why)), 0); /* the stale file is gone */
	assert_int_equal(vhost_socket_connect(path, &peer, why, sizeof(why)), 0);
	close(peer);
	close(fd);

	snprintf(path, sizeof(path), "%s/file", folder);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(vhost_socket_listen(path, -1, &fd, why, sizeof(why)), -EEXIST);
	assert_int_equal(access(path, F_OK), 0);
}

static void long_paths(void **state)
{
	char path[600], why[700];
	int fd, peer, before = open_fds();

	snprintf(path, sizeof(path), "%s/%0100d", folder, 1);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/%0100d/%0100d", folder, 1, 2);
	assert_int_equal(mkdir(path, 0700), 0);
	strcat(path, "/socket");
	assert_int_equal(vhost_socket_listen(path, 0600, &fd, why, sizeof(why)), 0);
	assert_int_equal(vhost_socket_connect(path, &peer, why, sizeof(why)), 0);
	close(peer);
	close(fd);
	assert_int_equal(vhost_socket_listen(path, 0600, &fd, why, sizeof(why)), 0);
	close(fd);
	assert_int_equal(open_fds(), before);
}

/* Both ends on one loop: they meet, part and meet again, whoever begins. */
struct meeting {
	struct loop *loop;
	struct vhost_endpoint *server, *client;
	unsigned met, rounds;
	int server_fd, client_fd;
};

static void part(struct meeting *m)
{
	if (m->server_fd < 0 || m->client_fd < 0)
		return;
	close(m->server_fd);
	close(m->client_fd);
	m->server_fd = m->client_fd = -1;
	if (++m->met == m->rounds) {
		loop_stop(m->loop);
		return;
	}
	vhost_endpoint_next(m->server);
	vhost_endpoint_next(m->client);
}

static void server_connected(void *opaque, int fd)
{
	struct meeting *m = opaque;

	assert_int_equal(m->server_fd, -1);
	m->server_fd = fd;
	part(m);
}

static void client_connected(void *opaque, int fd)
{
	struct meeting *m = opaque;

	assert_int_equal(m->client_fd, -1);
	m->client_fd = fd;
	part(m);
}

static void open_server(void *opaque, uint32_t events)
{
	static const struct vhost_endpoint_ops ops = { .connected = server_connected };
	struct meeting *m = opaque;
	char path[64], why[256];

	snprintf(path, sizeof(path), "%s/meet", folder);
	assert_int_equal(vhost_endpoint_open(m->loop, &(struct vhost_socket_config){ .path = path, .server = true, .mode = -1 },
					     &ops, m, &m->server, why, sizeof(why)), 0);
}

static void endpoints_meet_again(void **state)
{
	static const struct vhost_endpoint_ops ops = { .connected = client_connected };
	struct meeting m = { .rounds = 5, .server_fd = -1, .client_fd = -1 };
	struct loop_source *later;
	char path[64], why[256];

	snprintf(path, sizeof(path), "%s/meet", folder);
	assert_int_equal(loop_new(&m.loop), 0);
	assert_int_equal(vhost_endpoint_open(m.loop, &(struct vhost_socket_config){ .path = path }, &ops, &m, &m.client, why,
					     sizeof(why)), 0);
	/* The server comes late: the client tries until it is there. */
	assert_int_equal(loop_add_timer(m.loop, open_server, &m, &later), 0);
	loop_set_timer(later, now_ns() + 60000000, 0);
	assert_int_equal(loop_run(m.loop), 0);
	assert_int_equal(m.met, 5);
	vhost_endpoint_close(m.server);
	vhost_endpoint_close(m.client);
	assert_int_equal(access(path, F_OK), -1);
	loop_free(m.loop);
}

static void inherited_connected(void *opaque, int fd)
{
	struct meeting *m = opaque;

	m->met++;
	close(fd);
	vhost_endpoint_next(m->client);
}

static void inherited_finished(void *opaque)
{
	loop_stop(((struct meeting *)opaque)->loop);
}

static void inherited_socket_is_one_session(void **state)
{
	static const struct vhost_endpoint_ops ops = { .connected = inherited_connected, .finished = inherited_finished };
	struct meeting m = { 0 };
	int fd[2];
	char why[256];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	assert_int_equal(loop_new(&m.loop), 0);
	assert_int_equal(vhost_endpoint_open(m.loop, &(struct vhost_socket_config){ .fd = fd[0] }, &ops, &m, &m.client, why,
					     sizeof(why)), 0);
	assert_int_equal(loop_run(m.loop), 0);
	assert_int_equal(m.met, 1);
	vhost_endpoint_close(m.client);
	loop_free(m.loop);
	close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_is_whole),
		cmocka_unit_test(features_have_names),
		cmocka_unit_test(check_names_field_and_value),
		cmocka_unit_test_setup_teardown(message_arrives_with_its_descriptors, make_pair, free_pair),
		cmocka_unit_test_setup_teardown(byte_by_byte, make_pair, free_pair),
		cmocka_unit_test_setup_teardown(short_payload_reads_as_zero_behind, make_pair, free_pair),
		cmocka_unit_test_setup_teardown(hostile_messages_leak_nothing, make_pair, free_pair),
		cmocka_unit_test_setup_teardown(sending_is_bounded, make_pair, free_pair),
		cmocka_unit_test_setup_teardown(listens_where_nobody_does, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(long_paths, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(endpoints_meet_again, make_folder, remove_folder),
		cmocka_unit_test(inherited_socket_is_one_session),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
