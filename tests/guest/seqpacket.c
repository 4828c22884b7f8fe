/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages through AF_VSOCK in a guest. "seqpacket PORT" waits for one connection and sends every message back;
 * "seqpacket PORT CID" connects and has messages of many lengths sent back. Prints "SEQPACKET OK" or what was wrong.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { LONGEST = 200000 };

static uint8_t sent[LONGEST], got[LONGEST + 1];

static int complain(const char *what)
{
	perror(what);
	return 1;
}

static int echo(int fd)
{
	ssize_t n;

	while ((n = recv(fd, got, sizeof(got), 0)) > 0)
		if (send(fd, got, (size_t)n, 0) != n)
			return complain("send");
	return n ? complain("recv") : 0;
}

static int ask(int fd)
{
	static const size_t length[] = {1, 2, 100, 4096, 4097, 65536, 65537, 100000, LONGEST, 7};

	for (unsigned k = 0; k < sizeof(length) / sizeof(length[0]); k++) {
		for (size_t i = 0; i < length[k]; i++)
			sent[i] = (uint8_t)(i * 7 + k + (i >> 8));
		if (send(fd, sent, length[k], 0) != (ssize_t)length[k])
			return complain("send");
		if (recv(fd, got, sizeof(got), 0) != (ssize_t)length[k])
			return complain("recv, of another length than was sent");
		if (memcmp(sent, got, length[k])) {
			printf("message of %zu bytes: not what was sent\n", length[k]);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
	int fd = socket(AF_VSOCK, SOCK_SEQPACKET, 0), status;

	if (fd < 0 || argc < 2)
		return complain("socket");
	address.svm_port = (unsigned)atoi(argv[1]);
	if (argc > 2) {
		address.svm_cid = (unsigned)atoi(argv[2]);
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
			return complain("connect");
		status = ask(fd);
	} else {
		if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1) || (fd = accept(fd, NULL, NULL)) < 0)
			return complain("listen");
		status = echo(fd);
	}
	if (!status)
		puts("SEQPACKET OK");
	return status;
}
