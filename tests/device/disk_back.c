/* SPDX-License-Identifier: BSD-2-Clause */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "disk_back.h"

static void *run_loop(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static void make_image(const char *path)
{
	int fd = open(path, O_CREAT | O_RDWR, 0600);

	for (uint32_t sector = 0; sector < DISK / 512; sector++) {
		uint32_t data[128];

		for (unsigned k = 0; k < 128; k++)
			data[k] = sector * 1000003 + k;
		assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	}
	close(fd);
}

int start_back(void **state)
{
	struct back *b = calloc(1, sizeof(*b));
	struct blk_config blk = { "test", "serial-of-the-disk", RINGS };
	struct vhost_serve_config config = { .name = "test", .n_rings = RINGS, .max_ring_size = 1024,
					     .protocol = PROTO(CONFIG) | PROTO(INFLIGHT_SHMFD) };
	char why[256];

	strcpy(b->folder, "/tmp/guise-vhost-XXXXXX");
	assert_non_null(mkdtemp(b->folder));
	snprintf(b->path, sizeof(b->path), "%s/socket", b->folder);
	snprintf(b->image, sizeof(b->image), "%s/image", b->folder);
	make_image(b->image);
	memory_init(&b->mem);
	b->dma.mem = &b->mem;
	assert_int_equal(disk_open(b->image, 0, &b->disk, why, sizeof(why)), 0);
	assert_int_equal(blk_new(b->disk, &b->dma, &blk, &b->blk), 0);
	assert_int_equal(loop_new(&b->loop), 0);
	config.socket = (struct vhost_socket_config){ .path = b->path, .server = true, .mode = -1 };
	assert_int_equal(vhost_serve_new(b->loop, blk_device(b->blk), &config, &b->served, why, sizeof(why)), 0);
	assert_int_equal(pthread_create(&b->thread, NULL, run_loop, b->loop), 0);
	fe_init(&b->front, 1);
	fe_connect(&b->front, b->path);
	*state = b;
	return 0;
}

int stop_back(void **state)
{
	struct back *b = *state;

	fe_deinit(&b->front);
	loop_stop(b->loop);
	pthread_join(b->thread, NULL);
	vhost_serve_free(b->served);
	blk_free(b->blk);
	disk_close(b->disk);
	loop_free(b->loop);
	memory_deinit(&b->mem);
	unlink(b->image);
	rmdir(b->folder);
	free(b);
	return 0;
}

struct front *again(struct back *b, uint64_t features)
{
	fe_disconnect(&b->front);
	fe_connect(&b->front, b->path);
	fe_negotiate(&b->front, features, ALL_PROTOCOL);
	return &b->front;
}

static void put_header(struct front *f, uint32_t at, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };

	memcpy(f->ram + FRONT_DATA + at, &header, sizeof(header));
	f->ram[FRONT_DATA + at + 16 + 512] = 0xff;
}

void add_read(struct front *f, unsigned ring, uint32_t at, uint64_t sector)
{
	struct virtq_segment seg[3] = { { at, 16 }, { at + 16, 512 }, { at + 16 + 512, 1 } };

	put_header(f, at, VIRTIO_BLK_T_IN, sector);
	fe_add(f, ring, seg, 1, 2, (void *)(uintptr_t)(at + 1));
}

void check_read(struct front *f, uint32_t at, uint32_t sector)
{
	const uint8_t *data = f->ram + FRONT_DATA + at + 16;
	uint32_t first;

	assert_int_equal(data[512], VIRTIO_BLK_S_OK);
	memcpy(&first, data, sizeof(first));
	assert_int_equal(first, sector * 1000003);
}

void read_sector(struct front *f, unsigned ring, uint32_t sector)
{
	uint32_t written;

	add_read(f, ring, 0, sector);
	assert_int_equal((uintptr_t)fe_wait(f, ring, &written), 1);
	assert_int_equal(written, 513);
	check_read(f, 0, sector);
}

void next_one_is_served(struct back *b)
{
	struct front *f = again(b, 0);

	fe_start(f, SIZE);
	read_sector(f, 0, 5);
}
