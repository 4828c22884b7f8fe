/* SPDX-License-Identifier: BSD-2-Clause */
#include "tap_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum { ETHERTYPE = 0x88b5, NUMBER_AT = 14, WAIT_MS = 20000, SOON_MS = 100, AHEAD = 400 };

static int control = -1, packets = -1;
static cpu_set_t everywhere; /* that this process may run on */
static pthread_t sender;
static _Atomic uint32_t arrived; /* of what the sender sent */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (write(fd, text, strlen(text)) < 0)
			print_message("%s: %s\n", path, strerror(errno));
		close(fd);
	}
}

const char *peer_prepare(void)
{
	int fd;

	if (unshare(CLONE_NEWNET | CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS))
		return "no right to make a network namespace";
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return "/dev/net/tun cannot be opened";
	close(fd);
	write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"); /* no frames but ours */
	control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return control < 0 ? "no sockets" : NULL;
}

/* --- frames --- */

uint32_t peer_size(uint32_t number)
{
	return PEER_LEAST + number * 101 % (PEER_MOST - PEER_LEAST + 1);
}

void peer_fill(uint8_t *frame, uint32_t number)
{
	static const uint8_t head[NUMBER_AT] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, ETHERTYPE >> 8, ETHERTYPE & 0xff };

	memcpy(frame, head, sizeof(head));
	memset(frame + NUMBER_AT, (int)(number * 7 + 1), peer_size(number) - NUMBER_AT);
	memcpy(frame + NUMBER_AT, &number, sizeof(number));
}

bool peer_check(const uint8_t *frame, uint32_t bytes, uint32_t number)
{
	uint8_t expected[PEER_MOST];

	if (bytes < NUMBER_AT || frame[12] != ETHERTYPE >> 8 || frame[13] != (ETHERTYPE & 0xff))
		return false;
	peer_fill(expected, number);
	assert_int_equal(bytes, peer_size(number));
	assert_memory_equal(frame, expected, bytes);
	return true;
}

/* --- the interface --- */

static struct ifreq request(void)
{
	struct ifreq r = { .ifr_name = PEER_TAP };

	return r;
}

static void meet(void)
{
	struct sockaddr_ll where = { .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE), .sll_ifindex = (int)if_nametoindex(PEER_TAP) };
	int room = 4 << 20;

	if (packets >= 0)
		close(packets);
	packets = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHERTYPE));
	assert_true(packets >= 0);
	setsockopt(packets, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	assert_int_equal(bind(packets, (struct sockaddr *)&where, sizeof(where)), 0);
}

void peer_up(bool up)
{
	struct ifreq r = request();

	assert_int_equal(ioctl(control, SIOCGIFFLAGS, &r), 0);
	r.ifr_flags = (short)(up ? r.ifr_flags | IFF_UP : r.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(control, SIOCSIFFLAGS, &r), 0);
	if (up)
		meet();
}

bool peer_is_there(void)
{
	struct ifreq r = request();

	return !ioctl(control, SIOCGIFFLAGS, &r);
}

void peer_delete(void)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg link;
	} message = { { .nlmsg_len = sizeof(message), .nlmsg_type = RTM_DELLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK }, { 0 } };
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
		char rest[200];
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	message.link.ifi_index = (int)if_nametoindex(PEER_TAP);
	assert_int_equal(send(fd, &message, sizeof(message), 0), sizeof(message));
	assert_true(recv(fd, &answer, sizeof(answer), 0) >= (ssize_t)offsetof(typeof(answer), rest));
	assert_int_equal(answer.error.error, 0);
	close(fd);
}

void peer_persist(int tap_fd)
{
	assert_int_equal(ioctl(tap_fd, TUNSETPERSIST, 1), 0);
}

void peer_anywhere(void)
{
	sched_setaffinity(0, sizeof(everywhere), &everywhere);
}

bool peer_steer_to_processor_1(void)
{
	const char *file = "/sys/class/net/" PEER_TAP "/queues/rx-0/rps_cpus";
	cpu_set_t set;

	sched_getaffinity(0, sizeof(everywhere), &everywhere);
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2 || sched_setaffinity(0, sizeof(set), &set))
		return false;
	if (access(file, W_OK)) { /* this namespace's view of /sys */
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
		if (mount("sysfs", "/sys", "sysfs", 0, NULL) || access(file, W_OK))
			return false;
	}
	write_file(file, "2");
	return true;
}

/* --- traffic --- */

/* 0/-errno. Waits while the interface's queue is full. */
static int try_to_send(uint32_t number)
{
	uint8_t frame[PEER_MOST];

	peer_fill(frame, number);
	while (send(packets, frame, peer_size(number), 0) < 0) {
		if (errno != ENOBUFS && errno != EAGAIN)
			return -errno;
		sched_yield();
	}
	return 0;
}

void peer_send(uint32_t number)
{
	assert_int_equal(try_to_send(number), 0);
}

static void *send_many(void *opaque)
{
	uint32_t n = (uint32_t)(uintptr_t)opaque;

	for (uint32_t k = 0; k < n && !try_to_send(k); k++)
		while (k - arrived > AHEAD && k >= arrived)
			sched_yield();
	return NULL;
}

void peer_arrived(uint32_t n)
{
	arrived = n;
}

void peer_send_many(uint32_t n)
{
	arrived = 0;
	assert_int_equal(pthread_create(&sender, NULL, send_many, (void *)(uintptr_t)n), 0);
}

void peer_wait(void)
{
	pthread_join(sender, NULL);
}

static uint32_t receive(int ms)
{
	struct pollfd p = { packets, POLLIN, 0 };
	struct sockaddr_ll from;
	socklen_t size;
	uint8_t frame[PEER_MOST + 1];
	uint32_t number;
	ssize_t got;

	do {
		if (poll(&p, 1, ms) <= 0)
			return PEER_NONE;
		size = sizeof(from);
		got = recvfrom(packets, frame, sizeof(frame), MSG_DONTWAIT, (struct sockaddr *)&from, &size);
	} while (got < 0 || from.sll_pkttype == PACKET_OUTGOING);
	memcpy(&number, frame + NUMBER_AT, sizeof(number));
	assert_true(peer_check(frame, (uint32_t)got, number));
	return number;
}

uint32_t peer_receive(void)
{
	uint32_t number = receive(WAIT_MS);

	if (number == PEER_NONE)
		fail_msg("no frame came");
	return number;
}

uint32_t peer_receive_now(void)
{
	return receive(0);
}

uint32_t peer_receive_soon(void)
{
	return receive(SOON_MS);
}
