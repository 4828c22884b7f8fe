/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk under random reads and writes whose content is known: DISK_STORM DEVICE MEBIBYTES SECONDS. Threads
 * own interleaved blocks of 4 KiB; each block carries its number and how often it was written. Past the page
 * cache, so that every request reaches the device. Prints "STORM OK N requests" or what was wrong.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, THREADS = 6, RUN = 4 /* most blocks in one request */ };

struct thread {
	pthread_t thread;
	unsigned index;
	uint32_t *version; /* by block of this thread's part */
	uint64_t requests, random;
};

static int fd;
static uint64_t blocks; /* of each thread */
static time_t until;
static _Atomic int wrong;

static uint64_t next(struct thread *t)
{
	t->random ^= t->random << 13;
	t->random ^= t->random >> 7;
	t->random ^= t->random << 17;
	return t->random;
}

static void fill(uint8_t *data, uint64_t number, uint32_t version)
{
	uint64_t *word = (uint64_t *)data;

	for (unsigned k = 0; k < BLOCK / 8; k++)
		word[k] = (number * 0x9e3779b97f4a7c15u + k) ^ (uint64_t)version << 40;
}

static void complain(uint64_t number, uint32_t version, const char *what)
{
	if (!atomic_exchange(&wrong, 1))
		printf("STORM FAILED block %llu, version %u: %s\n", (unsigned long long)number, version,
		       what);
}

static void check(struct thread *t, uint8_t *data, uint64_t at)
{
	static __thread uint8_t wanted[BLOCK];
	uint64_t number = t->index * blocks + at;

	fill(wanted, number, t->version[at]);
	if (memcmp(wanted, data, BLOCK))
		complain(number, t->version[at], "other bytes than were written");
}

static void write_run(struct thread *t, uint8_t *buffer, uint64_t at, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		fill(buffer + k * BLOCK, t->index * blocks + at + k, ++t->version[at + k]);
	if (pwrite(fd, buffer, n * BLOCK, (t->index * blocks + at) * BLOCK) != (ssize_t)n * BLOCK)
		complain(at, 0, "write error");
}

static void read_run(struct thread *t, uint8_t *buffer, uint64_t at, unsigned n)
{
	memset(buffer, 0xee, n * BLOCK);
	if (pread(fd, buffer, n * BLOCK, (t->index * blocks + at) * BLOCK) != (ssize_t)n * BLOCK)
		complain(at, 0, "read error");
	else
		for (unsigned k = 0; k < n; k++)
			check(t, buffer + k * BLOCK, at + k);
}

static void *storm(void *opaque)
{
	struct thread *t = opaque;
	uint8_t *buffer = aligned_alloc(BLOCK, RUN * BLOCK);

	for (uint64_t at = 0; at < blocks; at += RUN)
		write_run(t, buffer, at, RUN);
	while (time(NULL) < until && !wrong) {
		uint64_t at = next(t) % (blocks - RUN);
		unsigned n = 1 + next(t) % RUN;

		if (next(t) % 2)
			write_run(t, buffer, at, n);
		else
			read_run(t, buffer, at, n);
		if (!(++t->requests % 64) && fsync(fd))
			complain(at, 0, "flush error");
	}
	for (uint64_t at = 0; at < blocks && !wrong; at++)
		read_run(t, buffer, at, 1);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct thread thread[THREADS];
	uint64_t requests = 0;

	if (argc != 4)
		return 2;
	fd = open(argv[1], O_RDWR | O_DIRECT);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	blocks = strtoull(argv[2], NULL, 0) * 256 / THREADS / RUN * RUN;
	until = time(NULL) + atoi(argv[3]);
	for (unsigned k = 0; k < THREADS; k++) {
		thread[k] = (struct thread){.index = k, .random = k * 7919 + 1};
		thread[k].version = calloc(blocks, sizeof(uint32_t));
		pthread_create(&thread[k].thread, NULL, storm, &thread[k]);
	}
	for (unsigned k = 0; k < THREADS; k++) {
		pthread_join(thread[k].thread, NULL);
		requests += thread[k].requests;
	}
	if (!wrong)
		printf("STORM OK %llu requests\n", (unsigned long long)requests);
	return wrong;
}
