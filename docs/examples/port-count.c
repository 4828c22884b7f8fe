/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The smallest program on libguise: opens a port and counts the packets that come, for some seconds.
 *
 *	cc port-count.c $(pkg-config --cflags --libs guise) && ./a.out vhost-user:/tmp/socket 10
 */
#include <guise/port.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
	struct port_buffer buffers[64];
	struct port *port;
	char why[200] = "";
	unsigned long packets = 0;
	time_t end = time(NULL) + (argc > 2 ? atoi(argv[2]) : 1);

	if (argc < 2 || port_open("port-count", argv[1], &port, why, sizeof(why))) {
		fprintf(stderr, "port-count PORT [SECONDS]: %s\n", why);
		return 1;
	}
	while (time(NULL) < end) {
		unsigned n = port_collect(port, 0, buffers, 64);

		for (unsigned k = 0; k < n; k++)
			packets += !buffers[k].more;
		port_give_back(port, 0, buffers, n);
		if (!n) {
			struct pollfd wait = { port_receive_fd(port, 0), POLLIN, 0 };

			poll(&wait, 1, 100);
		}
	}
	printf("%lu packets\n", packets);
	port_close(port);
	return 0;
}
